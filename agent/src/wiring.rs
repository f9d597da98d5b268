//! Joins the parts into a running agent.
//!
//! Owns the order of start and stop and nothing else: certificate, first sync, tasks, socket; then
//! whichever ends first ends the rest. Open streams get a moment to end.

use std::io;
use std::path::Path;
use std::sync::Arc;

use steeple_api::pb;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attest::workload::WorkloadAttestors;
use crate::backoff::Backoff;
use crate::config::{Config, HealthSettings};
use crate::life::{Ending, Life};
use crate::limits::{
    DRAIN_TIMEOUT, START_BACKOFF, START_BACKOFF_MAX, START_GIVE_UP, WORKLOAD_MESSAGE_BYTES_MAX,
    WORKLOAD_STREAMS_MAX,
};
use crate::rotate::{Condition, Rotator};
use crate::serve::{
    GrpcHealth, HealthListener, ListenError, ReadyFlag, Renewing, Tokens, WorkloadApi,
    WorkloadSocket, watch_health,
};
use crate::signing::SigningTask;
use crate::start::{Seams, StartError, Started, start};
use crate::store::Store;
use crate::syncer::{SyncError, Syncer, follow_updates};
use crate::upstream::{chain, post_status};

/// The agent ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It never got a certificate.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The first sync failed for too long.
    #[error("failed to sync with SPIRE server")]
    FirstSync(#[source] SyncError),
    /// A server's answer.
    #[error(transparent)]
    Ending(#[from] Ending),
    /// The workload socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The health listener.
    #[error("bind health listener {address}")]
    Health {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The workload socket's server.
    #[error("serve workload API")]
    Serve(#[from] tonic::transport::Error),
    /// A bug of ours.
    #[error("task of the agent failed")]
    Task(#[from] JoinError),
}

/// Runs until the shutdown or until the agent's life ends.
pub async fn run(
    config: Config,
    seams: Seams,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    for notice in &config.notices {
        warn!("{notice}");
    }
    let mut tasks = JoinSet::new();
    let ready = ReadyFlag::default();
    if let (Some(health), Some(socket)) = (&config.health, &config.socket_path) {
        let (listener, results) = bind_health(health).await?;
        let stop = shutdown.clone();
        tasks.spawn(async move {
            listener.run(stop).await;
            Ok(())
        });
        let (socket, ready, stop) = (socket.clone(), ready.clone(), shutdown.clone());
        tasks.spawn(async move {
            watch_health(socket, ready, results, stop).await;
            Ok(())
        });
    }
    let started = tokio::select! {
        started = start(&config, &seams) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let result = tokio::select! {
        result = serve(&config, &seams, started, &mut tasks, &ready, &shutdown) => result,
        () = shutdown.cancelled() => Ok(()),
    };
    let result = match result {
        Ok(()) => first_end(&mut tasks).await,
        Err(error) => Err(error),
    };
    shutdown.cancel();
    // Streams see the signal and end; what still hangs after the deadline is cut off.
    let drained = timeout(DRAIN_TIMEOUT, async { while tasks.join_next().await.is_some() {} });
    if drained.await.is_err() {
        warn!("Some tasks did not end in time");
    }
    info!("Agent stopped");
    result
}

/// The first task that ends decides: each runs until the shutdown or until something is over.
async fn first_end(tasks: &mut JoinSet<Result<(), RunError>>) -> Result<(), RunError> {
    match tasks.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}

/// First sync, then all tasks.
async fn serve(
    config: &Config,
    seams: &Seams,
    started: Started,
    tasks: &mut JoinSet<Result<(), RunError>>,
    ready: &ReadyFlag,
    shutdown: &CancellationToken,
) -> Result<(), RunError> {
    let condition = Condition { availability_target: config.availability_target };
    let Started { own, bundle, upstream, servers_only, attestor } = started;
    let store = Store::new(Arc::clone(&bundle), config.limits);
    let rotator = Arc::new(Rotator {
        own: Arc::clone(&own),
        upstream: Arc::clone(&upstream),
        servers_only,
        bundle,
        attestor,
        condition,
        clock: Arc::clone(&seams.clock),
        random: Arc::clone(&seams.random),
    });
    let life = Arc::new(Life::new(own, Arc::clone(&upstream), Arc::clone(&rotator)));
    if let Err(failure) = upstream.call(post_status).await {
        warn!(error = %failure, "Failed to post status");
        life.judge_at_start(&failure).await?;
    }
    let (syncer, sync) = Syncer::new(
        Arc::clone(&store),
        Arc::clone(&upstream),
        Arc::clone(&life),
        Arc::clone(&seams.random),
        config.sync_interval,
    );
    first_sync(&syncer, &life, seams).await?;

    let signing = SigningTask {
        store: Arc::clone(&store),
        upstream: Arc::clone(&upstream),
        life: Arc::clone(&life),
        condition,
        key_type: config.workload_key_type,
        clock: Arc::clone(&seams.clock),
        random: Arc::clone(&seams.random),
    };
    let tokens = Tokens {
        store: Arc::clone(&store),
        upstream: Arc::clone(&upstream),
        clock: Arc::clone(&seams.clock),
        random: Arc::clone(&seams.random),
        renewing: Renewing::default(),
    };
    if let Some(socket) = &config.socket_path {
        let api = WorkloadApi {
            store,
            attestors: WorkloadAttestors::new(Some(config.unix.clone())),
            tokens: Arc::new(tokens),
            sync: sync.clone(),
            policy: Arc::new(config.policy.clone()),
            clock: Arc::clone(&seams.clock),
            shutdown: shutdown.clone(),
        };
        open_socket(api, socket, tasks)?;
    }
    info!("Starting agent APIs");
    ready.set();
    let stop = shutdown.clone();
    tasks.spawn(async move { Ok(syncer.run(stop).await?) });
    let stop = shutdown.clone();
    tasks.spawn(async move { Ok(signing.run(stop).await?) });
    let (life, stop) = (Arc::clone(&life), shutdown.clone());
    tasks.spawn(async move { rotate(rotator, life, stop).await });
    let (random, stop) = (Arc::clone(&seams.random), shutdown.clone());
    tasks.spawn(async move {
        follow_updates(upstream, sync, random, stop).await;
        Ok(())
    });
    Ok(())
}

async fn first_sync(syncer: &Syncer, life: &Life, seams: &Seams) -> Result<(), RunError> {
    let mut backoff = Backoff::new(START_BACKOFF, START_BACKOFF_MAX);
    let give_up = Instant::now() + START_GIVE_UP;
    loop {
        let Err(failure) = syncer.sync().await else { return Ok(()) };
        life.judge_at_start(&failure.source).await?;
        let pause = backoff.pause(seams.random.unit_f64());
        if Instant::now() + pause > give_up {
            return Err(RunError::FirstSync(failure));
        }
        let error = chain(&failure);
        warn!(error, retry_interval = ?pause, "Failed to initialize manager");
        tokio::time::sleep(pause).await;
    }
}

/// The rotator's calls can end the agent's life too; it goes on where they don't.
async fn rotate(
    rotator: Arc<Rotator>,
    life: Arc<Life>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    loop {
        match rotator.run(shutdown.clone()).await {
            Ok(()) => return Ok(()),
            Err(failure) => life.judge(&failure).await?,
        }
    }
}

/// Binds the socket and serves on it.
fn open_socket(
    api: WorkloadApi,
    path: &Path,
    tasks: &mut JoinSet<Result<(), RunError>>,
) -> Result<(), RunError> {
    let socket = WorkloadSocket::bind(path)?;
    let (address, subsystem_name) = (path.display(), "endpoints");
    info!(%address, network = "unix", subsystem_name, "Starting Workload API");
    let (health, shutdown) = (GrpcHealth { socket: path.to_owned() }, api.shutdown.clone());
    tasks.spawn(async move { serve_workloads(api, health, socket, shutdown).await });
    Ok(())
}

async fn serve_workloads(
    api: WorkloadApi,
    health: GrpcHealth,
    socket: WorkloadSocket,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    use pb::health::health_server::HealthServer;
    use pb::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
    let workloads =
        SpiffeWorkloadApiServer::new(api).max_decoding_message_size(WORKLOAD_MESSAGE_BYTES_MAX);
    tonic::transport::Server::builder()
        .max_concurrent_streams(WORKLOAD_STREAMS_MAX)
        .add_service(workloads)
        .add_service(HealthServer::new(health))
        .serve_with_incoming_shutdown(socket.connections(), shutdown.cancelled_owned())
        .await?;
    Ok(())
}

async fn bind_health(
    settings: &HealthSettings,
) -> Result<(HealthListener, tokio::sync::watch::Sender<crate::serve::HealthState>), RunError> {
    let bound =
        HealthListener::bind(&settings.address, &settings.live_path, &settings.ready_path).await;
    bound.map_err(|source| RunError::Health { address: settings.address.clone(), source })
}
