//! A held member (`run -hold`): serves nothing but its own rebuilding, on the admin socket.
//!
//! Owns the way from `RestoreSnapshot` and `Recover` to raft-store's rebuild: keys, options, whether
//! others still run. A member that serves refuses both ([`Serving`]).

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use steeple_api::pb::cluster::v1 as rpc;
use steeple_api::pb::cluster::v1::rebuild_server::{Rebuild, RebuildServer};
use steeple_api::snapshot_file::{SnapshotFileError, SnapshotReader};
use steeple_raft_store::backup::{
    self, NewCluster, Origin, Rebuild as Ask, RebuildError, Rebuilt, RestoreOptions,
};
use steeple_raft_store::{ClusterId, ClusterKeys};
use steeple_spiffe_core::authority::{Authority, SealedKey};
use steeple_spiffe_core::bundle::document;
use steeple_spiffe_core::random::Random;
use tokio::sync::{Mutex, MutexGuard, mpsc};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Response, Status, Streaming};
use tower::Service as _;

use crate::cluster_key;
use crate::config::Config;
use crate::gate::Closed;
use crate::keys::{SealContext, open_key, seal_key};
use crate::listen::{Application, Peer};
use crate::status::Failure;
use crate::wiring::{World, seams, store_config};

/// What every other call is answered.
const TEXT: &str = "held: only \"cluster snapshot restore\" and \"cluster recover\" work; start \
                    without -hold, and without the file DATA_DIR/hold, to serve";

/// Pieces of a file that wait for the disk.
const PIECES_AHEAD: usize = 4;

/// The admin socket of a held member. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    routes: Routes,
    closed: Closed,
}

impl Held {
    pub(crate) fn new(config: Arc<Config>, world: World) -> Self {
        let rebuilder = Rebuilder { config, world, busy: Arc::default() };
        let routes = Routes::new(RebuildServer::new(rebuilder)).prepare();
        Self { routes, closed: Closed::new(TEXT) }
    }
}

impl Application for Held {
    async fn answer(&self, peer: Arc<Peer>, request: Request<Incoming>) -> http::Response<Body> {
        if !request.uri().path().starts_with("/steeple.cluster.v1.Rebuild/") {
            return self.closed.answer(peer, request).await;
        }
        match self.routes.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// What a serving member answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Serving;

fn serves() -> Status {
    let text = "this member serves; stop all members, then start this one with -hold";
    Failure::failed_precondition(text).into()
}

#[tonic::async_trait]
impl Rebuild for Serving {
    async fn restore_snapshot(
        &self,
        _request: tonic::Request<Streaming<rpc::RestoreSnapshotRequest>>,
    ) -> Result<Response<rpc::RestoreSnapshotResponse>, Status> {
        Err(serves())
    }

    async fn recover(
        &self,
        _request: tonic::Request<rpc::RecoverRequest>,
    ) -> Result<Response<rpc::RecoverResponse>, Status> {
        Err(serves())
    }
}

/// Rebuilds the registry of this member.
#[derive(Clone, Debug)]
struct Rebuilder {
    config: Arc<Config>,
    world: World,
    /// Held while the registry is rebuilt.
    busy: Arc<Mutex<()>>,
}

#[tonic::async_trait]
impl Rebuild for Rebuilder {
    async fn restore_snapshot(
        &self,
        request: tonic::Request<Streaming<rpc::RestoreSnapshotRequest>>,
    ) -> Result<Response<rpc::RestoreSnapshotResponse>, Status> {
        let _busy = self.alone()?;
        let mut pieces = request.into_inner();
        let first = pieces.message().await?.unwrap_or_default();
        let options = first.options.unwrap_or_default();
        let (config, keys) = self.prepare().await?;
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        let world = self.world.clone();
        let work = tokio::task::spawn_blocking(move || {
            restore(&config, &keys, &world, &options, Pieces::new(receiver))
        });
        let feed = async move {
            let mut next = Some(first.bytes);
            while let Some(bytes) = next {
                // The work has ended early: its answer says why.
                if sender.send(bytes).await.is_err() {
                    return;
                }
                next = pieces.message().await.ok().flatten().map(|piece| piece.bytes);
            }
        };
        let ((), made) = tokio::join!(feed, work);
        let made = made.map_err(|error| Failure::internal(error.to_string()))??;
        tracing::info!(epoch = made.cluster.epoch, index = made.index, "Snapshot restored");
        Ok(Response::new(rpc::RestoreSnapshotResponse { begun: Some(begun(&made)) }))
    }

    async fn recover(
        &self,
        request: tonic::Request<rpc::RecoverRequest>,
    ) -> Result<Response<rpc::RecoverResponse>, Status> {
        let _busy = self.alone()?;
        let (config, _keys) = self.prepare().await?;
        let confirmed = request.into_inner().confirm;
        let world = self.world.clone();
        let work = tokio::task::spawn_blocking(move || {
            let random = world.random.as_ref();
            let ask = Ask { config: &config, random, now: world.clock.now(), confirmed };
            backup::recover(&ask).map_err(|error| refused(&error))
        });
        let made = work.await.map_err(|error| Failure::internal(error.to_string()))??;
        let epoch = made.rebuilt.cluster.epoch;
        tracing::info!(epoch, last_index = made.last.0, heard = made.heard, "Recovered");
        Ok(Response::new(rpc::RecoverResponse {
            begun: Some(begun(&made.rebuilt)),
            last_index: made.last.0,
            last_term: made.last.1,
            heard_index: made.heard,
        }))
    }
}

impl Rebuilder {
    fn alone(&self) -> Result<MutexGuard<'_, ()>, Failure> {
        let text = "the registry is being rebuilt already";
        self.busy.try_lock().map_err(|_busy| Failure::failed_precondition(text))
    }

    /// The settings and keys; refused while others run.
    async fn prepare(&self) -> Result<(steeple_raft_store::Config, Arc<ClusterKeys>), Failure> {
        let failed = |error: String| Failure::failed_precondition(error);
        let (source, folder) = (&self.config.cluster.key, &self.config.server.data_dir);
        let keys = cluster_key::load(source, folder, self.world.random.as_ref())
            .map_err(|error| failed(format!("{:#}", anyhow::Error::from(error))))?;
        let keys = Arc::new(keys);
        let config = store_config(&self.config, Arc::clone(&keys))
            .await
            .map_err(|error| failed(format!("{error:#}")))?;
        let running = backup::find_running(Arc::new(config.clone()), &seams(&self.world)).await;
        let running = running.map_err(|error| failed(error.to_string()))?;
        if let Some((address, epoch)) = running.first() {
            return Err(failed(format!(
                "the member at {address} still runs (epoch {epoch}); stop all other members first"
            )));
        }
        Ok((config, keys))
    }
}

fn restore(
    config: &steeple_raft_store::Config,
    keys: &ClusterKeys,
    world: &World,
    options: &rpc::RestoreOptions,
    pieces: Pieces,
) -> Result<Rebuilt, Failure> {
    let mut reader = SnapshotReader::open(pieces).map_err(|error| unreadable(&error))?;
    let origin = origin(reader.header(), reader.binding())?;
    let trust = match options.trust.as_str() {
        "" => None,
        text => Some(
            document::from_json(config.trust_domain.clone(), text)
                .map_err(|error| Failure::invalid_because("-trust", error))?,
        ),
    };
    let random = world.random.as_ref();
    let reseal = |authority: &Authority, from: ClusterId, to: ClusterId| {
        reseal(keys, random, authority, from, to)
    };
    let new_cluster = (!options.new_cluster.is_empty()).then(|| NewCluster {
        id: ClusterId((u128::from(random.u64()) << 64) | u128::from(random.u64())),
        name: options.new_cluster.clone(),
        reseal: &reseal,
    });
    let with = RestoreOptions { new_cluster, trust, force: options.force };
    let confirmed = options.confirm.clone();
    let ask = Ask { config, random, now: world.clock.now(), confirmed };
    let mut frames = || {
        reader.frame().map_err(|error| io::Error::other(unreadable(&error).message().to_owned()))
    };
    backup::restore(&ask, &origin, &with, &mut frames).map_err(|error| refused(&error))
}

fn reseal(
    keys: &ClusterKeys,
    random: &dyn Random,
    authority: &Authority,
    from: ClusterId,
    to: ClusterId,
) -> Result<SealedKey, String> {
    let place =
        |cluster_id| SealContext { cluster_id, kind: authority.kind, authority_id: &authority.id };
    let private = open_key(keys, &place(from), &authority.sealed_key);
    let private = private.map_err(|error| error.to_string())?;
    seal_key(keys, random, &place(to), &private).map_err(|error| error.to_string())
}

fn origin(header: &rpc::SnapshotHeader, binding: [u8; 32]) -> Result<Origin, Failure> {
    let cluster_id = u128::from_str_radix(&header.cluster_id, 16)
        .map_err(|error| Failure::invalid_because("the snapshot's cluster id", error))?;
    Ok(Origin {
        cluster_id: ClusterId(cluster_id),
        cluster_name: header.cluster_name.clone(),
        trust_domain: header.trust_domain.clone(),
        key_id: header.key_id.clone(),
        salt: header.salt.clone(),
        binding,
    })
}

fn unreadable(error: &SnapshotFileError) -> Failure {
    Failure::invalid(format!("the snapshot {error}"))
}

/// Everything that keeps a registry from being rebuilt is an operator's to mend.
fn refused(error: &RebuildError) -> Failure {
    Failure::failed_precondition(error.to_string())
}

fn begun(made: &Rebuilt) -> rpc::NewEpoch {
    let revision = steeple_raft_store::Revision::new(made.cluster.epoch, made.index);
    let lost_from =
        made.cluster.restored.as_ref().map_or(0, |restored| restored.lost_from.unix_s());
    rpc::NewEpoch {
        cluster_id: made.cluster.cluster_id.to_string(),
        cluster_name: made.cluster.name.clone(),
        epoch: made.cluster.epoch,
        member_id: made.member_id.to_string(),
        revision: revision.as_u64(),
        lost_from,
        counts: Some(rpc::SnapshotCounts {
            entries: made.counts.entries,
            agents: made.counts.agents,
            join_tokens: made.counts.tokens,
            bundles: made.counts.bundles,
            authorities: made.counts.authorities,
            federation_relationships: made.counts.relationships,
        }),
        replaced: made
            .replaced
            .as_ref()
            .map_or_else(String::new, |path| path.display().to_string()),
        replaced_cluster_id: made
            .replaced_cluster
            .map_or_else(String::new, |cluster| cluster.to_string()),
    }
}

/// The pieces of a file as something to read.
struct Pieces {
    receiver: mpsc::Receiver<Vec<u8>>,
    read: VecDeque<u8>,
}

impl Pieces {
    fn new(receiver: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { receiver, read: VecDeque::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read.is_empty() {
            match self.receiver.blocking_recv() {
                Some(bytes) => self.read = bytes.into(),
                None => return Ok(0),
            }
        }
        self.read.read(buffer)
    }
}
