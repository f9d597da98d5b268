//! Start, in order, with every failure as a sentence that says what to do.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use steeple_federation::acme::InstantAcme;
use steeple_raft_store::{ClusterKeys, OpenError, RunError, Store};
use steeple_spiffe_core::tls::{BundleSource, WebTrust};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::api::ApiTask;
use super::parts::{self, World};
use super::stop;
use crate::authority::evidence::Survey;
use crate::authority::{Issuer, Minter, Rekeyer, Rotator};
use crate::check::CheckParts;
use crate::config::{Config, EndpointProfile};
use crate::duties::Duties;
use crate::endpoint_certificate::{EndpointCertificate, KeptRecords};
use crate::gate::ratelimit::RateLimits;
use crate::gate::{Closed, Front, Gate};
use crate::health::{Health, HealthListener, Serving};
use crate::held::Held;
use crate::keys::KeyReload;
use crate::listen::tcp::ApiListener;
use crate::listen::uds::AdminListener;
use crate::listen::{Application, ConnectionSignals};
use crate::logging::Logging;
use crate::metrics::{self, MetricsListener};
use crate::service::Context;
use crate::shutdown::{Signals, Stages};
use crate::snapshots::Schedule;
use crate::upstream::watch;
use crate::view::Views;
use crate::{cluster_key, config};

/// Mode of the data folder when it has to be made (SPIRE's, less what the mask takes).
const DATA_FOLDER_MODE: u32 = 0o755;

/// What a task ends with: its name, for the log when it ends by itself, and its result.
pub(super) type Task = (&'static str, anyhow::Result<()>);

/// The tasks of the process.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// Those that hold client connections: the drain waits for them alone.
    pub(super) connections: JoinSet<Task>,
    /// All others.
    pub(super) others: JoinSet<Task>,
}

/// Runs a server until a signal or a failure ends it.
///
/// # Errors
///
/// Whatever kept the server from starting, or ended it.
pub async fn run(config: Config, logging: Logging) -> anyhow::Result<()> {
    let signals = Signals::install().context("install signal handlers")?;
    tracing::info!(
        trust_domain_id = config.server.trust_domain.id_string(),
        data_dir = %config.server.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "Configured"
    );
    let mut start = Start {
        config: Arc::new(config),
        world: World::real(),
        stages: Stages::default(),
        go_away: watch::channel(0).0,
        tasks: Tasks::default(),
        key_reload: None,
    };
    let store = start.open().await?;
    let Start { stages, tasks, key_reload, .. } = start;
    stop::supervise(signals, logging, stages, tasks, store, key_reload).await
}

/// A process on its way up.
struct Start {
    config: Arc<Config>,
    world: World,
    stages: Stages,
    go_away: watch::Sender<u64>,
    tasks: Tasks,
    /// `None`: a process that serves nothing.
    key_reload: Option<KeyReload>,
}

impl Start {
    /// Opens everything that can be opened at once and starts all tasks. The API port follows by
    /// itself when there is something to serve. Returns the registry's handle unless the process
    /// serves nothing.
    async fn open(&mut self) -> anyhow::Result<Option<steeple_raft_store::StoreHandle>> {
        let config = Arc::clone(&self.config);
        prepare_data_folder(&config.server.data_dir)?;
        self.open_metrics().await?;
        let health = match &config.health {
            Some(health) => Some(HealthListener::bind(health).await?),
            None => None,
        };
        // Found out now rather than when the cluster has formed; the port is opened only then.
        ApiListener::bind(&config.server.bind_address, config.server.bind_port).await.map(drop)?;
        let socket = AdminListener::bind(&config.server.socket_path)?;
        if config.hold {
            tracing::warn!("Held: only the admin socket is open");
            self.spawn_health(health, Health::Held);
            self.spawn_socket(socket, Held::new(Arc::clone(&config), self.world.clone()));
            return Ok(None);
        }
        let random = self.world.random.as_ref();
        let keys = cluster_key::load(&config.cluster.key, &config.server.data_dir, random)?;
        let keys = Arc::new(keys);
        let store_config = parts::store_config(&config, Arc::clone(&keys)).await?;
        match Store::open(store_config, parts::seams(&self.world)).await {
            Ok(store) => {
                let handle = store.handle();
                metrics::note_sealed(false);
                self.serve(store, keys, health, socket)?;
                Ok(Some(handle))
            }
            Err(OpenError::WrongClusterKey { key_id }) => {
                let text = sealed(&key_id);
                metrics::note_sealed(true);
                tracing::error!("{text}");
                let health_state = Health::Sealed { text: text.clone() };
                self.serve_closed(&text, health_state, health, socket);
                Ok(None)
            }
            Err(error) => {
                let hint = hint(&error);
                Err(anyhow::Error::from(error).context(hint))
            }
        }
    }

    async fn open_metrics(&mut self) -> anyhow::Result<()> {
        let telemetry = &self.config.telemetry;
        let Some(prometheus) = &telemetry.prometheus else { return Ok(()) };
        let mut labels = Vec::new();
        if telemetry.hostname_label {
            labels.push(("host", config::hostname()));
        }
        if telemetry.trust_domain_label {
            labels.push(("trust_domain", self.config.server.trust_domain.as_str().to_owned()));
        }
        let listener = MetricsListener::bind(&prometheus.host, prometheus.port, &labels).await?;
        metrics::note_start(&self.config.server.trust_domain);
        let close = self.stages.close.clone();
        self.spawn("metrics", async move {
            listener.run(close).await;
            Ok(())
        });
        Ok(())
    }

    /// Everything of a process that takes part in a cluster.
    fn serve(
        &mut self,
        store: Store,
        keys: Arc<ClusterKeys>,
        health: Option<HealthListener>,
        socket: AdminListener,
    ) -> anyhow::Result<()> {
        let handle = store.handle();
        let (views, view_task) = Views::start(handle.clone());
        let policy = Arc::new(self.config.server.authority.clone());
        let (issuer, issuer_task) = Issuer::start(
            Arc::clone(&keys),
            views.clone(),
            self.config.server.trust_domain.clone(),
            Arc::clone(&policy),
            Arc::clone(&self.world.clock),
            handle.cluster_clock(),
            Arc::clone(&self.world.random),
        );
        let reads = parts::reads(&self.config, handle.clone(), views.clone(), &self.world);
        let bundles: Arc<dyn BundleSource> = Arc::new(views.clone());
        let attestors = parts::attestors(&self.config, &bundles, &self.world)?;
        let survey = Survey::start(
            handle.clone(),
            views.clone(),
            Arc::clone(&keys),
            Arc::clone(&self.world.clock),
            self.config.cluster.max_staleness,
            parts::peers_known_within(&policy)?,
        );
        let context = Context {
            gate: self.gate(handle.clone(), views.clone(), reads.clone()),
            issuer: issuer.clone(),
            minter: Minter {
                trust_domain: self.config.server.trust_domain.clone(),
                policy,
                keys: Arc::clone(&keys),
                random: Arc::clone(&self.world.random),
                upstream: parts::upstream(&self.config, &self.world)?,
            },
            survey,
            attestors: Arc::new(attestors),
            limits: Arc::new(RateLimits::new(
                self.config.server.limit_attestation,
                self.config.server.limit_signing,
            )),
            settings: self.config.server.settings,
            schedule: self.schedule(&handle, &reads),
            endpoint_certificate: self.endpoint_certificate(&handle, &views, &keys)?,
            refresher: parts::refresher(&self.config, handle.clone(), views.clone(), &self.world)?,
            stop: self.stages.stop.clone(),
        };
        let duties = self.duties(&context, &keys);
        let open = Arc::new(AtomicBool::new(false));
        let serving = Serving {
            store: handle.clone(),
            reads: reads.clone(),
            issuer,
            open: Arc::clone(&open),
            stop: self.stages.stop.clone(),
        };
        self.key_reload = Some(KeyReload {
            source: self.config.cluster.key.clone(),
            data_dir: self.config.server.data_dir.clone(),
            keys: Arc::clone(&keys),
            views,
            random: Arc::clone(&self.world.random),
        });
        self.spawn_health(health, Health::Serving(Box::new(serving)));
        self.spawn_core(store, view_task, issuer_task, duties, reads);
        let check = CheckParts {
            data_dir: self.config.server.data_dir.clone(),
            peers: self.config.cluster.peers.clone(),
            keys,
        };
        self.spawn_listeners(context, open, socket, check);
        Ok(())
    }

    /// The admin socket and the probes, and nothing else.
    fn serve_closed(
        &mut self,
        text: &str,
        state: Health,
        health: Option<HealthListener>,
        socket: AdminListener,
    ) {
        self.spawn_health(health, state);
        self.spawn_socket(socket, Closed::new(text));
    }

    fn gate(
        &self,
        store: steeple_raft_store::StoreHandle,
        views: Views,
        reads: crate::gate::Reads,
    ) -> Gate {
        Gate {
            trust_domain: self.config.server.trust_domain.clone(),
            admin_ids: Arc::new(self.config.server.admin_ids.clone()),
            store,
            views,
            reads,
            clock: Arc::clone(&self.world.clock),
            random: Arc::clone(&self.world.random),
        }
    }

    fn schedule(
        &self,
        store: &steeple_raft_store::StoreHandle,
        reads: &crate::gate::Reads,
    ) -> Option<Schedule> {
        let cluster = &self.config.cluster;
        let (store, reads) = (store.clone(), reads.clone());
        let clock = Arc::clone(&self.world.clock);
        let config = cluster.snapshot.clone()?;
        let skew_limit = self.config.server.authority.skew_limit();
        Some(Schedule::new(config, cluster.name.clone(), skew_limit, store, reads, clock))
    }

    fn duties(&self, context: &Context, keys: &Arc<ClusterKeys>) -> Duties {
        let (handle, views) = (&context.gate.store, context.views());
        Duties {
            handle: handle.clone(),
            views: views.clone(),
            rotator: self.rotator(context),
            rekeyer: Rekeyer {
                handle: handle.clone(),
                views: views.clone(),
                keys: Arc::clone(keys),
                random: Arc::clone(&self.world.random),
            },
            agent_pruning: self.config.server.agent_pruning,
            schedule: context.schedule.clone(),
            endpoint_certificate: context.endpoint_certificate.clone(),
            refresher: context.refresher.clone(),
        }
    }

    fn endpoint_certificate(
        &self,
        store: &steeple_raft_store::StoreHandle,
        views: &Views,
        keys: &Arc<ClusterKeys>,
    ) -> anyhow::Result<Option<EndpointCertificate>> {
        let endpoint = self.config.server.bundle_endpoint.as_ref();
        let Some(EndpointProfile::HttpsWebAcme(settings)) = endpoint.map(|found| &found.profile)
        else {
            return Ok(None);
        };
        let clock = Arc::clone(&self.world.clock);
        let acme = InstantAcme::new(&WebTrust::System, Arc::clone(&clock));
        let acme = acme.context("could not use ACME for the bundle endpoint")?;
        Ok(Some(EndpointCertificate {
            settings: settings.clone(),
            acme: Arc::new(acme),
            records: KeptRecords {
                store: store.clone(),
                views: views.clone(),
                keys: Arc::clone(keys),
                random: Arc::clone(&self.world.random),
                term: None,
            },
            clock,
        }))
    }

    fn rotator(&self, context: &Context) -> Rotator {
        Rotator {
            handle: context.gate.store.clone(),
            views: context.gate.views.clone(),
            minter: context.minter.clone(),
            survey: context.survey.clone(),
            clock: Arc::clone(&self.world.clock),
        }
    }

    fn spawn_core(
        &mut self,
        store: Store,
        view_task: crate::view::ViewTask,
        issuer_task: crate::authority::IssuerTask,
        duties: Duties,
        reads: crate::gate::Reads,
    ) {
        let handle = store.handle();
        let (views, clock) = (duties.views.clone(), Arc::clone(&self.world.clock));
        let refresher = duties.refresher.clone();
        if let Some(upstream) = duties.rotator.minter.upstream.clone() {
            let (clock, stop) = (Arc::clone(&self.world.clock), self.stages.stop.clone());
            let ca_ttl = duties.rotator.minter.policy.ca_ttl;
            self.spawn_until_close("upstream", watch(upstream, ca_ttl, clock, stop));
        }
        let close = self.stages.close.clone();
        self.spawn("registry", async move { store.run(close).await.map_err(with_fix) });
        let close = self.stages.close.clone();
        self.spawn_until_close("views", view_task.run(close));
        let close = self.stages.close.clone();
        self.spawn_until_close("issuer", issuer_task.run(close));
        // Duties end with the stop: a member that is leaving starts nothing new.
        let stop = self.stages.stop.clone();
        self.spawn_until_close("duties", duties.run(stop));
        let close = self.stages.close.clone();
        self.spawn_until_close("reads", reads.run(self.go_away.clone(), close));
        let close = self.stages.close.clone();
        let ttl = self.config.server.authority.default_x509_svid_ttl;
        self.spawn_until_close(
            "gauges",
            metrics::follow(handle, views, clock, ttl, refresher, close),
        );
    }

    fn spawn_listeners(
        &mut self,
        context: Context,
        open: Arc<AtomicBool>,
        socket: AdminListener,
        check: CheckParts,
    ) {
        let (api_routes, socket_routes) = parts::routes(&context, &self.config.cluster.name, check);
        let member = context.gate.store.status().member_id;
        let audit = self.config.server.audit_log_enabled;
        let gate = context.gate.clone();
        self.spawn_socket(socket, Front::new(gate.clone(), member, socket_routes, true, audit));
        let task = ApiTask {
            config: Arc::clone(&self.config),
            front: Front::new(gate, member, api_routes, false, audit),
            issuer: context.issuer.clone(),
            views: context.gate.views.clone(),
            survey: context.survey.clone(),
            endpoint_certificate: context.endpoint_certificate.clone(),
            world: self.world.clone(),
            signals: self.signals(),
            close: self.stages.close.clone(),
            open,
        };
        self.tasks.connections.spawn(async move { ("api", task.run().await) });
    }

    fn spawn_socket<A: Application>(&mut self, socket: AdminListener, application: A) {
        tracing::info!(
            address = %socket.path().display(),
            network = "unix",
            subsystem_name = "endpoints",
            "Starting Server APIs"
        );
        let signals = self.signals();
        self.tasks.connections.spawn(async move {
            socket.run(application, signals).await;
            ("admin socket", Ok(()))
        });
    }

    fn spawn_health(&mut self, listener: Option<HealthListener>, state: Health) {
        let Some(listener) = listener else { return };
        let close = self.stages.close.clone();
        self.spawn_until_close("health", listener.run(state, close));
    }

    fn signals(&self) -> ConnectionSignals {
        ConnectionSignals {
            shutdown: self.stages.stop.clone(),
            abort: self.stages.abort.clone(),
            go_away: self.go_away.subscribe(),
        }
    }

    fn spawn_until_close(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn(name, async move {
            task.await;
            Ok(())
        });
    }

    fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.others.spawn(async move { (name, task.await) });
    }
}

/// What a sealed member says in its log, to probes and to every call. It reads its key only as it starts.
fn sealed(key_id: &str) -> String {
    format!(
        "Sealed: cluster key does not open {key_id}; put the line of key {key_id} back into the cluster \
         key file and restart this member (docs/runbooks/lost-cluster-key.md)"
    )
}

/// Makes the data folder if it is missing and finds out now whether it can be written.
fn prepare_data_folder(folder: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(DATA_FOLDER_MODE).create(folder);
    made.map_err(|error| {
        let text = not_made(folder, &error);
        anyhow::Error::from(error).context(text)
    })?;
    let probe = folder.join(".write-check");
    fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).with_context(|| {
        format!(
            "data_dir {} is not writable; make it so for this user or change data_dir",
            folder.display()
        )
    })
}

/// Why there is no data folder, with the fix.
fn not_made(folder: &Path, error: &std::io::Error) -> String {
    use std::io::ErrorKind::{AlreadyExists, NotADirectory};

    let fix = match matches!(error.kind(), AlreadyExists | NotADirectory) {
        true => "move away the file that is in its place, or change data_dir",
        false => "make its parent writable or change data_dir",
    };
    format!("could not create data_dir {}; {fix}", folder.display())
}

/// Whether the disk had no room. RocksDB says so in words alone.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::StorageFull || error.to_string().contains(NO_SPACE)
}

/// The kernel's words for a full disk, as libraries repeat them.
const NO_SPACE: &str = "No space left on device";

/// What to do about a registry that ended, where its own words do not say it.
fn with_fix(error: RunError) -> anyhow::Error {
    let is_full = error.to_string().contains(NO_SPACE);
    let error = anyhow::Error::from(error);
    if is_full {
        return error
            .context("the disk is full; free some space or move data_dir to a larger disk");
    }
    error
}

/// What to do about a registry that does not open.
fn hint(error: &OpenError) -> &'static str {
    match error {
        OpenError::Foreign { .. } => {
            "could not open the registry: move what lies in DATA_DIR/raft elsewhere, or change data_dir"
        }
        OpenError::NewerFormat { .. } => {
            "could not open the registry: start the newer version that wrote it"
        }
        OpenError::NewerLevel { .. } => {
            "could not open the registry: start the version that the other members run"
        }
        OpenError::Locked { .. } => {
            "could not open the registry: stop the other process, or change data_dir"
        }
        OpenError::Corrupt { .. } => {
            "could not open the registry: move DATA_DIR/raft away and let this member join anew; if no other member has a sound one, hold this one and restore a snapshot (spire-server cluster snapshot restore)"
        }
        OpenError::OtherCluster { .. } => {
            "could not open the registry: correct the configuration, or change data_dir"
        }
        OpenError::Network(_) => {
            "could not open the peer listener: correct cluster.bind_address, bind_port or the cluster key"
        }
        OpenError::Io { source, .. } if is_full(source) => {
            "could not open the registry: the disk is full; free some space or move data_dir to a larger disk"
        }
        OpenError::WrongClusterKey { .. } => {
            "could not open the registry: give this member the cluster key file that the others have"
        }
        OpenError::NoDiskStorage | OpenError::Io { .. } | OpenError::Consensus(_) => {
            "could not open the registry"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_where_the_data_folder_should_be_is_to_be_moved_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data");
        fs::write(&file, "a file").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = prepare_data_folder(&path).unwrap_err().to_string();
            assert!(error.contains("move away the file that is in its place"), "{error}");
            assert!(!error.contains("writable"), "{error}");
        }
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert!(not_made(&file, &denied).contains("make its parent writable"));
    }

    #[test]
    fn a_sealed_member_says_which_line_its_key_file_lacks() {
        let text = sealed("0011223344556677");
        assert!(text.starts_with("Sealed: cluster key does not open 0011223344556677; "), "{text}");
        assert!(text.contains("put the line of key 0011223344556677 back"), "{text}");
        assert!(text.contains("restart"), "{text}");
    }
}
