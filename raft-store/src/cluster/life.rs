//! One member's life: the parts that its tasks share, and the order in which they start.
//!
//! Owns the listener and what peers are answered; decides nothing itself.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::cluster::formation::{Formation, Settings, Standing};
use crate::cluster::records;
use crate::cluster::{admission, autopilot, by_hand, epochs, founding, joining, watching};
use crate::core::Core;
use crate::error::RunError;
use crate::ids::{ClusterId, MemberId};
use crate::local::LocalRecords;
use crate::membership::Requested;
use crate::net::messages as pb;
use crate::net::{Greeter, PeerNetwork, Transport};
use crate::offload::offload;
use crate::raft::Metrics;
use crate::raft::convert::log_id_to_pb;
use crate::status::MemberState;

/// How often a line says what a member waits for.
pub(crate) const REMIND_EVERY: Duration = Duration::from_secs(10);

/// What the tasks of a member share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) core: Arc<Core>,
    pub(crate) network: Arc<PeerNetwork>,
    /// `None` once the member belongs to a cluster, or may only join one.
    pub(crate) formation: Mutex<Option<Formation>>,
    /// Held during a change of membership: one at a time.
    pub(crate) changing: Mutex<()>,
    /// Milliseconds of boot time when this member began to lead, or started.
    leading_since_ms: AtomicU64,
}

/// Listens, then forms, joins or resumes, then serves until told to stop.
///
/// # Errors
///
/// If the listener cannot be opened, the disk fails, or the member was removed.
pub(crate) async fn run(
    core: Arc<Core>,
    network: Arc<PeerNetwork>,
    requests: mpsc::Receiver<Requested>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let Some(bind) = core.config.bind else {
        return Err(RunError::Network("no peer listener is configured".to_owned()));
    };
    let formation = resume(&core, &network).await?;
    let life = Arc::new(Life {
        core,
        network,
        formation: Mutex::new(formation),
        changing: Mutex::default(),
        leading_since_ms: AtomicU64::default(),
    });
    life.note_leading();
    let transport = life.network.dialler.transport.clone();
    let incoming = listen(transport.as_ref(), bind).await?;

    let mut tasks = JoinSet::new();
    let (core, network) = (life.core.clone(), life.network.clone());
    let greeter: Arc<dyn Greeter> = life.clone();
    tasks.spawn(crate::net::serve(core, network, greeter, incoming, stop.clone()));
    tasks.spawn(begin(life.clone()));
    tasks.spawn(autopilot::run(life.clone()));
    tasks.spawn(by_hand::run(life.clone(), requests));
    tasks.spawn(watching::run(life.clone()));
    tasks.spawn(watching::ping(life.clone()));
    tasks.spawn(watching::keep_address(life.clone()));
    tasks.spawn(crate::observe::run(life.clone()));
    tasks.spawn(crate::observe::watch_stalls(life.clone()));
    tasks.spawn(epochs::run(life.clone()));
    tokio::select! {
        biased;
        ended = tasks.join_next() => match ended {
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(RunError::Formation(error.to_string())),
            None => Ok(()),
        },
        () = stop.cancelled() => Ok(()),
    }
}

/// Forms or joins, if this member does not belong to a cluster yet; then waits for ever.
async fn begin(life: Arc<Life>) -> Result<(), RunError> {
    let is_founder = life.formation.lock().await.is_some();
    // A founder that stopped just after its cluster was formed still has to note that.
    if is_founder {
        founding::run(&life).await?;
    } else if !life.is_formed() {
        joining::run(&life).await?;
    }
    life.core.state.send_replace(MemberState::Member);
    std::future::pending().await
}

/// Finds out where this member stood when it was stopped.
async fn resume(core: &Core, network: &PeerNetwork) -> Result<Option<Formation>, RunError> {
    let failed = |error: &dyn std::fmt::Display| RunError::Formation(error.to_string());
    let identity = core.identity().map_err(|error| failed(&error))?;
    if let Ok(Some(cluster)) = crate::apply::read_cluster(core.engine.tables.as_ref()) {
        network.set_epoch(cluster.epoch, Some(cluster.began_ms()));
    }
    if let Some(cluster) = identity.cluster_id {
        network.enter(cluster).map_err(|error| failed(&error))?;
        return Ok(None);
    }
    if core.config.cluster_id.is_some() {
        return Ok(None);
    }
    let settings = settings_of(core);
    let standing = match records::read_set(&core.engine.local).map_err(|error| failed(&error))? {
        Some(set) => {
            network.enter(set.cluster_id(&settings)).map_err(|error| failed(&error))?;
            Standing::Adopted(set)
        }
        None => Standing::Empty,
    };
    if !settings.peers.contains(&core.config.advertise) {
        // Not one of the founders: it can only be taken in.
        return Ok(None);
    }
    let mut formation =
        Formation::new(core.member_id, &core.config.advertise, Arc::new(settings), standing);
    if has_started(core).await? {
        formation.started();
    }
    Ok(Some(formation))
}

fn settings_of(core: &Core) -> Settings {
    let mut peers: BTreeSet<String> = core.config.peers.iter().cloned().collect();
    if peers.is_empty() {
        peers.insert(core.config.advertise.clone());
    }
    Settings {
        cluster_name: core.config.cluster_name.clone(),
        trust_domain: core.config.trust_domain.to_string(),
        peers,
    }
}

/// Whether consensus has a vote or an entry here.
pub(crate) async fn has_started(core: &Core) -> Result<bool, RunError> {
    let started = core.raft.is_initialized().await;
    started.map_err(|error| RunError::Consensus(error.to_string()))
}

async fn listen(
    transport: &dyn Transport,
    bind: SocketAddr,
) -> Result<crate::net::Incoming, RunError> {
    match transport.listen(bind).await {
        Ok((bound, incoming)) => {
            tracing::info!(address = %bound, "Listening for peers");
            Ok(incoming)
        }
        Err(error) => Err(RunError::Network(why_not_listening(bind, &error))),
    }
}

fn why_not_listening(bind: SocketAddr, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        return format!(
            "address {bind} is taken by another process; stop it or set cluster.bind_port"
        );
    }
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        return format!(
            "address {bind} is not of this machine; set cluster.bind_address to one that is"
        );
    }
    format!("listen on {bind}: {error}")
}

impl Life {
    pub(crate) fn me(&self) -> MemberId {
        self.core.member_id
    }

    /// Whether the cluster's first command has been applied here.
    pub(crate) fn is_formed(&self) -> bool {
        self.core.feed.reached_now().formed
    }

    /// Reads or writes this member's own records, off the reactor: a write waits for the disk.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub(crate) async fn records<E: std::fmt::Display + Send + 'static>(
        &self,
        work: impl FnOnce(&LocalRecords) -> Result<(), E> + Send + 'static,
    ) -> Result<(), RunError> {
        let local = self.core.engine.local.clone();
        let done = offload(move || work(&local)).await;
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(RunError::Formation(format!("keep own records: {error}"))),
            Err(error) => Err(RunError::Formation(error.to_string())),
        }
    }

    /// Notes that this member leads from now on.
    pub(crate) fn note_leading(&self) {
        let ms = u64::try_from(self.core.clock.boot_time().as_millis()).unwrap_or(u64::MAX);
        self.leading_since_ms.store(ms, Ordering::Relaxed);
    }

    /// Boot time when this member began to lead, or started.
    pub(crate) fn leading_since(&self) -> Duration {
        Duration::from_millis(self.leading_since_ms.load(Ordering::Relaxed))
    }

    /// How long nothing was heard of a member; a new leader counts from when it began to lead.
    pub(crate) fn silent_for(&self, member: MemberId) -> Duration {
        if member == self.me() {
            return Duration::ZERO;
        }
        let heard = self.network.addresses.last_heard(member).unwrap_or_default();
        self.core.clock.boot_time().saturating_sub(heard.max(self.leading_since()))
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.core.raft.metrics().borrow_watched().clone()
    }

    /// What to say of ourselves, to whom it concerns.
    pub(crate) async fn introduction(&self, to: Option<MemberId>) -> pb::Introduction {
        let settings = settings_of(&self.core);
        let standing = match (&*self.formation.lock().await, self.network.cluster_id()) {
            (Some(formation), _) => records::standing_to_pb(formation.standing()),
            (None, Some(cluster)) => {
                pb::introduction::Standing::Formed(self.formed_to_pb(cluster, to))
            }
            (None, None) => records::standing_to_pb(&Standing::Empty),
        };
        let config = &self.core.config;
        pb::Introduction {
            member_id: self.me().0,
            cluster_name: settings.cluster_name,
            trust_domain: settings.trust_domain,
            address: config.advertise.clone(),
            peers: settings.peers.into_iter().collect(),
            version: config.version.clone(),
            key_ids: config.keys.ids(),
            joins_only: config.cluster_id.is_some(),
            feature_level_max: config.tuning.feature_level_max,
            standing: Some(standing),
        }
    }

    fn formed_to_pb(&self, cluster: ClusterId, to: Option<MemberId>) -> pb::Formed {
        let leader = self.core.leadership_now().leader;
        let metrics = self.metrics();
        let membership = &metrics.committed_membership_config;
        pb::Formed {
            cluster_id: records::cluster_id_to_bytes(cluster).into(),
            epoch: self.network.epoch(),
            leader: leader.map(|leader| admission::hint(&metrics, leader)),
            counts_caller: to.is_some_and(|to| membership.get_node(&to.0).is_some()),
            membership_log_id: membership.log_id().as_ref().map(log_id_to_pb),
            epoch_began_unix_ms: self.network.began_ms(),
        }
    }
}

impl Greeter for Life {
    fn hello(&self, caller: MemberId) -> BoxFuture<'_, pb::Introduction> {
        Box::pin(self.introduction(Some(caller)))
    }

    fn adopt(&self, caller: MemberId, set: pb::FoundingSet) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(founding::consider(self, caller, records::set_from_pb(set)))
    }

    fn join(
        &self,
        caller: MemberId,
        request: pb::JoinRequest,
    ) -> BoxFuture<'_, Result<pb::JoinReply, Status>> {
        Box::pin(admission::join(self, caller, request))
    }

    fn update_address(
        &self,
        caller: MemberId,
        address: String,
    ) -> BoxFuture<'_, Result<pb::UpdateAddressReply, Status>> {
        Box::pin(admission::update_address(self, caller, address))
    }

    fn change_members(
        &self,
        request: pb::ChangeMembersRequest,
    ) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move { by_hand::serve(self, &request).await })
    }
}
