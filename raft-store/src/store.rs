//! A member from start to end: open what the disk has, start consensus, run until told to stop.
//!
//! Owns the order of things. Forming, joining and the peer listener are `cluster/`'s; a member without
//! a peer listener forms its cluster of one here (`one_member`).

#[cfg(feature = "rocks")]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use steeple_spiffe_core::random::Random;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::acks::Acks;
use crate::apply::TableError;
use crate::cluster::read_set;
use crate::config::Config;
use crate::core::{Core, CoreParts};
use crate::error::{OpenError, RunError};
use crate::fence::{self, Fence};
use crate::forward::{Forwarder, NoPeers};
use crate::guarded;
use crate::handle::StoreHandle;
use crate::ids::MemberId;
use crate::key_following;
use crate::leaving;
use crate::local::Identity;
use crate::membership::Requested;
use crate::net::{PeerNetwork, PeerNetworkParts};
use crate::offload::offload;
use crate::one_member;
use crate::raft::log_store::LogStore;
use crate::raft::no_network::NoNetwork;
use crate::raft::node;
use crate::raft::state_machine::StateMachine;
use crate::seams::{Seams, Storage};
use crate::storage::Engine;
use crate::upgrade;

/// How long stopping consensus may take; what is written is durable already.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A member of a cluster, opened but not yet running.
#[derive(Debug)]
pub struct Store {
    core: Arc<Core>,
    /// `None`: a cluster of one member, without a peer listener.
    network: Option<Arc<PeerNetwork>>,
    changes: mpsc::Receiver<Requested>,
}

/// Operators' changes of the membership that wait: one at a time is made, more is a mistake.
const CHANGES_WAITING_MAX: usize = 4;

impl Store {
    /// Opens the folder (or makes it) and starts consensus, which stays idle until [`Self::run`] forms
    /// or joins a cluster, or finds that it belongs to one.
    ///
    /// # Errors
    ///
    /// If the folder is foreign, corrupt, in use or another cluster's, if the cluster key does not fit,
    /// or if the disk fails. Nothing is repaired or overwritten.
    pub async fn open(config: Config, seams: Seams) -> Result<Self, OpenError> {
        let config = Arc::new(config);
        let fence = Arc::<Fence>::default();
        let engine = guarded::guard(open_engine(&config, &seams.storage)?, &fence);
        let corrupt = |error: TableError| corrupt(&config, &error);
        let identity = establish_identity(&config, seams.random.as_ref(), &engine)?;
        let (machine, feed) = StateMachine::open(&engine).map_err(corrupt)?;
        check_cluster(&config, &engine)?;
        key_following::start(&config.keys, &engine).map_err(corrupt)?;
        let fenced = fence::recorded(&engine.local).map_err(|error| corrupt(error.into()))?;
        if let Some(reason) = fenced {
            let folder = config.data_dir.clone();
            return Err(OpenError::Corrupt { folder, reason });
        }
        let log = LogStore::open(Arc::clone(&engine.log)).map_err(|e| corrupt(e.into()))?;
        let syncs = log.syncs();

        let acks = Arc::<Acks>::default();
        let network = match config.bind {
            None => None,
            Some(_) => Some(PeerNetwork::open(PeerNetworkParts {
                config: Arc::clone(&config),
                transport: Arc::clone(&seams.transport),
                clock: Arc::clone(&seams.clock),
                random: Arc::clone(&seams.random),
                member_id: identity.member_id,
                cluster_id: identity.cluster_id,
                acks: Arc::clone(&acks),
            })?),
        };
        let member_id = identity.member_id;
        let (raft, forwarder): (_, Arc<dyn Forwarder>) = match &network {
            None => {
                let raft = node::start(&config, member_id, NoNetwork, log, machine).await?;
                (raft, Arc::new(NoPeers))
            }
            Some(network) => {
                let factory = network.factory();
                let raft = node::start(&config, member_id, factory, log, machine).await?;
                (raft, Arc::clone(network) as Arc<dyn Forwarder>)
            }
        };
        let (changes, requests) = mpsc::channel(CHANGES_WAITING_MAX);
        let core = Core::new(CoreParts {
            config,
            clock: seams.clock,
            random: seams.random,
            member_id,
            engine,
            raft,
            feed,
            forwarder,
            acks,
            syncs,
            fence,
            changes,
        });
        Ok(Self { core: Arc::new(core), network, changes: requests })
    }

    /// The way to this store for everyone else. Works from now on; waits for [`Self::run`] to make
    /// progress.
    pub fn handle(&self) -> StoreHandle {
        StoreHandle::new(Arc::clone(&self.core))
    }

    /// Forms, joins or resumes, then serves until `shutdown`, then hands over leadership and stops.
    ///
    /// # Errors
    ///
    /// If consensus stopped (a write or sync failed, apply found corrupt state), if this member was
    /// removed from its cluster, or if the listener failed. The process must end: nothing here may be
    /// used again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let Self { core, network, changes } = self;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_consensus(Arc::clone(&core)));
        tasks.spawn(follow_formation(Arc::clone(&core)));
        tasks.spawn(upgrade::run(Arc::clone(&core)));
        tasks.spawn(key_following::run(Arc::clone(&core), network.clone()));
        tasks.spawn(live(Arc::clone(&core), network, changes, stop.clone()));
        let result = tokio::select! {
            biased;
            reason = core.fence.tripped() => Err(fenced(&core, reason).await),
            // None of these ends before it is told to, unless something failed.
            ended = tasks.join_next() => match core.fence.reason() {
                // What it found may have stopped others first.
                Some(reason) => Err(fenced(&core, reason).await),
                None => outcome_of(ended),
            },
            () = shutdown.cancelled() => {
                core.stand_down();
                go(&core).await
            }
        };
        stop.cancel();
        let stopping = async {
            if let Err(error) = core.raft.shutdown().await {
                tracing::warn!(%error, "consensus did not stop cleanly");
            }
            tasks.shutdown().await;
        };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, stopping).await.is_err() {
            tracing::warn!("store did not stop in time");
        }
        core.barrier.clear();
        result
    }
}

/// Forms or joins a cluster and serves peers, until told to stop.
async fn live(
    core: Arc<Core>,
    network: Option<Arc<PeerNetwork>>,
    changes: mpsc::Receiver<Requested>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    match network {
        Some(network) => crate::cluster::run(core, network, changes, stop).await,
        None => one_member::run(core, changes, stop).await,
    }
}

fn outcome_of(ended: Option<Result<Result<(), RunError>, JoinError>>) -> Result<(), RunError> {
    match ended {
        Some(Ok(result)) => result,
        // A panic in a task of ours is a bug: the process must not go on without it.
        Some(Err(error)) => Err(RunError::Consensus(error.to_string())),
        None => Ok(()),
    }
}

/// The end of a member whose state is wrong. It hands nothing over: who takes its word for anything
/// would go wrong too, and the others choose a leader within an election timeout.
async fn fenced(core: &Arc<Core>, reason: String) -> RunError {
    core.stand_down();
    tracing::error!(member_id = %core.member_id, "Fenced: {reason}");
    let (local, kept) = (core.engine.local.clone(), reason.clone());
    match offload(move || fence::record(&local, &kept)).await {
        Ok(Ok(())) => {}
        // The same is found again at the next start.
        Ok(Err(error)) => tracing::warn!(%error, "failed to record the fence"),
        Err(error) => tracing::warn!(%error, "failed to record the fence"),
    }
    RunError::Fenced { reason }
}

/// Leaves the cluster, if this member is to leave it as it stops; else hands over.
async fn go(core: &Arc<Core>) -> Result<(), RunError> {
    if !core.config.leave_on_terminate || !leaving::leave(core).await? {
        hand_over(core).await;
    }
    Ok(())
}

/// Gives leadership to another voter, if this member leads and there is one.
async fn hand_over(core: &Arc<Core>) {
    if !core.leadership_now().is_self {
        return;
    }
    let voters = core.metrics().membership_config.voter_ids().count();
    if voters < 2 {
        return;
    }
    match core.transfer_leadership(None).await {
        Ok(took) => tracing::info!(took_ms = took.as_millis(), "leadership handed over"),
        Err(error) => tracing::warn!(%error, "failed to hand over leadership"),
    }
}

fn open_engine(config: &Config, storage: &Storage) -> Result<Engine, OpenError> {
    match storage {
        Storage::Memory(disk) => Ok(disk.engine()),
        #[cfg(feature = "rocks")]
        Storage::Rocks => open_folder(&config.data_dir),
        #[cfg(not(feature = "rocks"))]
        Storage::Rocks => {
            tracing::debug!(folder = %config.data_dir.display(), "built without RocksDB");
            Err(OpenError::NoDiskStorage)
        }
    }
}

/// Opens the folder; that of a member which has left its cluster is moved aside first.
#[cfg(feature = "rocks")]
fn open_folder(folder: &Path) -> Result<Engine, OpenError> {
    let engine = crate::rocks::open(folder)?;
    let failed = |source| OpenError::Io { folder: folder.to_owned(), source };
    let Some(left) = leaving::left(&engine.local).map_err(failed)? else { return Ok(engine) };
    drop(engine);
    let ending = format!("left-{}", left.unix_s());
    let aside = crate::rocks::set_aside(folder, &ending).map_err(failed)?;
    tracing::info!(kept = %aside.display(), "Starting as a new member: the last one here has left");
    crate::rocks::open(folder)
}

fn corrupt(config: &Config, error: &TableError) -> OpenError {
    OpenError::Corrupt { folder: config.data_dir.clone(), reason: crate::net::chain(error) }
}

/// Finds who this member is, or makes it someone; checks that the configuration fits.
fn establish_identity(
    config: &Config,
    random: &dyn Random,
    engine: &Engine,
) -> Result<Identity, OpenError> {
    let corrupt = |error: TableError| corrupt(config, &error);
    let Some(mut identity) = engine.local.find_identity().map_err(corrupt)? else {
        let identity = Identity {
            // Zero stands for "no member" in messages.
            member_id: MemberId(random.u64().max(1)),
            cluster_id: None,
            cluster_name: config.cluster_name.clone(),
            trust_domain: config.trust_domain.to_string(),
            key_checks: config.keys.checks(),
        };
        engine.local.found(&identity).map_err(corrupt)?;
        return Ok(identity);
    };
    if !belongs_to_a_cluster(&identity, engine).map_err(corrupt)? {
        // What was configured when the folder was made has bound no one: whoever was told to mend a
        // key or a name has done so.
        let mended = Identity {
            cluster_name: config.cluster_name.clone(),
            trust_domain: config.trust_domain.to_string(),
            key_checks: config.keys.checks(),
            ..identity.clone()
        };
        if mended != identity {
            engine.local.set_identity(&mended).map_err(corrupt)?;
        }
        return Ok(mended);
    }
    differs("cluster name", &identity.cluster_name, &config.cluster_name)?;
    differs("trust domain", &identity.trust_domain, config.trust_domain.as_str())?;
    if let (Some(found), Some(configured)) = (identity.cluster_id, config.cluster_id) {
        differs("cluster", &found.to_string(), &configured.to_string())?;
    }
    let held = config.keys.checks();
    if !identity.key_checks.iter().any(|stored| held.contains(stored)) {
        let key_id = identity.key_checks.first().map_or_else(String::new, |(id, _)| id.clone());
        return Err(OpenError::WrongClusterKey { key_id });
    }
    // What is neither held nor needed any more is forgotten once the state is known (`key_following`).
    let known = identity.key_checks.len();
    let new = held.into_iter().filter(|check| !identity.key_checks.contains(check));
    let new: Vec<_> = new.collect();
    identity.key_checks.extend(new);
    if identity.key_checks.len() != known {
        engine.local.set_identity(&identity).map_err(corrupt)?;
    }
    Ok(identity)
}

/// Whether a cluster was formed, joined or agreed on with this folder, even if that was not finished.
fn belongs_to_a_cluster(identity: &Identity, engine: &Engine) -> Result<bool, TableError> {
    Ok(identity.cluster_id.is_some()
        || read_set(&engine.local)?.is_some()
        || crate::apply::read_cluster(engine.tables.as_ref())?.is_some())
}

/// Checks the replicated state against the configuration.
fn check_cluster(config: &Config, engine: &Engine) -> Result<(), OpenError> {
    let cluster = crate::apply::read_cluster(engine.tables.as_ref())
        .map_err(|error| corrupt(config, &error))?;
    let Some(cluster) = cluster else { return Ok(()) };
    let (level, known) = (cluster.feature_level, config.tuning.feature_level_max);
    if level > known {
        return Err(OpenError::NewerLevel { level, known });
    }
    differs("cluster name", &cluster.name, &config.cluster_name)?;
    differs("trust domain", cluster.trust_domain.as_str(), config.trust_domain.as_str())?;
    match config.cluster_id {
        Some(id) => differs("cluster", &cluster.cluster_id.to_string(), &id.to_string()),
        None => Ok(()),
    }
}

fn differs(what: &'static str, found: &str, configured: &str) -> Result<(), OpenError> {
    if found == configured {
        return Ok(());
    }
    Err(OpenError::OtherCluster {
        what,
        found: found.to_owned(),
        configured: configured.to_owned(),
    })
}

/// Keeps the leadership watch current; ends when consensus does.
async fn follow_consensus(core: Arc<Core>) -> Result<(), RunError> {
    let mut metrics = core.raft.metrics();
    loop {
        let fatal = {
            let now = metrics.borrow_watched();
            now.running_state.as_ref().err().map(ToString::to_string)
        };
        if let Some(fatal) = fatal {
            return Err(RunError::Consensus(fatal));
        }
        let leadership = core.leadership_now();
        core.leadership.send_if_modified(|known| {
            let changed = *known != leadership;
            *known = leadership;
            changed
        });
        if metrics.changed().await.is_err() {
            return Err(RunError::Consensus("it ended".to_owned()));
        }
    }
}

/// Notes that the cluster exists, once its first command is applied.
async fn follow_formation(core: Arc<Core>) -> Result<(), RunError> {
    let mut reached = core.feed.reached();
    let formed = reached.wait_for(|reached| reached.formed).await.is_ok();
    if formed {
        core.formed.send_replace(true);
    }
    std::future::pending().await
}
