//! A snapshot on its way from a leader to a member that lags too far behind its log.
//!
//! Owns the chunks and their checksum. Memory is bounded on both sides: a few chunks at a time. What
//! a snapshot contains is `snapshot.rs`' of the crate.

use std::io::Write;
use std::time::Duration;

use aws_lc_rs::digest;
use futures::StreamExt;
use openraft::alias::SnapshotOf;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::net::network::PeerClient;
use crate::net::pb;
use crate::offload::offload;
use crate::raft::convert::{snapshot_meta_from_pb, snapshot_meta_to_pb, vote_from_pb, vote_to_pb};
use crate::raft::{SnapshotMeta, TypeConfig, Vote};
use crate::snapshot::{SnapshotBody, SnapshotSink};

/// Large enough that round trips do not matter, small enough that eight of them are no memory.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// Installing rewrites the whole registry: at a million entries some tens of seconds.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

/// A sender that lets so much time pass between two chunks has gone.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(20);

/// A snapshot as openraft hands it over.
pub(crate) type Snapshot = SnapshotOf<TypeConfig, SnapshotBody>;

/// Sends a snapshot and waits until it is installed. No chunk may take longer than `stall`.
///
/// # Errors
///
/// The peer's refusal, or `DeadlineExceeded`.
pub(crate) async fn send(
    peer: &mut PeerClient,
    vote: Vote,
    snapshot: Snapshot,
    stall: Duration,
) -> Result<pb::raft::v1::SnapshotReply, Status> {
    let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let header = pb::raft::v1::SnapshotHeader {
        vote: Some(vote_to_pb(&vote)),
        meta: Some(snapshot_meta_to_pb(&snapshot.meta)),
    };
    let feeding = feed(header, snapshot.snapshot, chunks, stall);
    let call = peer.install_snapshot(Request::new(ReceiverStream::new(receiver)));
    let installing = tokio::time::timeout(INSTALL_TIMEOUT, call);
    let (fed, installed) = tokio::join!(feeding, installing);
    match installed {
        // The peer's answer says more than that it stopped reading.
        Ok(Err(status)) => Err(status),
        Ok(Ok(reply)) => fed.map(|()| reply.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("snapshot was not installed in time")),
    }
}

async fn feed(
    header: pb::raft::v1::SnapshotHeader,
    body: SnapshotBody,
    chunks: mpsc::Sender<pb::raft::v1::SnapshotChunk>,
    stall: Duration,
) -> Result<(), Status> {
    let mut next = pb::raft::v1::SnapshotChunk { header: Some(header), ..Default::default() };
    let mut digest = digest::Context::new(&digest::SHA256);
    let size = body.len();
    loop {
        let (from, source) = (next.offset, body.clone());
        let reading = offload(move || source.read_at(from, CHUNK_BYTES));
        let read = reading.await.map_err(std::io::Error::other).and_then(|read| read);
        next.bytes = read.map_err(|error| Status::internal(format!("read snapshot: {error}")))?;
        digest.update(&next.bytes);
        let after = from.saturating_add(next.bytes.len() as u64);
        let last = after >= size || next.bytes.is_empty();
        if last {
            let sha256 = digest.clone().finish().as_ref().to_vec().into();
            next.trailer = Some(pb::raft::v1::SnapshotTrailer { size, sha256 });
        }
        match chunks.send_timeout(std::mem::take(&mut next), stall).await {
            Ok(()) if last => return Ok(()),
            Ok(()) => next.offset = after,
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(Status::deadline_exceeded("peer takes no snapshot chunks"));
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => {
                return Err(Status::unavailable("peer stopped taking snapshot chunks"));
            }
        }
    }
}

/// Reads the header of a snapshot that a peer sends, and the chunk that carries it.
///
/// # Errors
///
/// If the stream breaks or does not begin with a header.
pub(crate) async fn receive_header(
    chunks: &mut Streaming<pb::raft::v1::SnapshotChunk>,
) -> Result<(Vote, SnapshotMeta, pb::raft::v1::SnapshotChunk), Status> {
    let garbled = |text: String| Status::invalid_argument(text);
    let mut first =
        chunks.message().await?.ok_or_else(|| garbled("snapshot is empty".to_owned()))?;
    let header = first.header.take().ok_or_else(|| garbled("snapshot has no header".to_owned()))?;
    let vote = header.vote.as_ref().map(vote_from_pb);
    let meta = header.meta.as_ref().map(snapshot_meta_from_pb).transpose();
    let meta = meta.map_err(|error| garbled(error.to_string()))?;
    match (vote, meta) {
        (Some(vote), Some(meta)) => Ok((vote, meta, first)),
        (_, _) => Err(garbled("snapshot header is incomplete".to_owned())),
    }
}

/// Reads the rest into a sink and checks it.
///
/// # Errors
///
/// If the stream breaks, a chunk is out of place, the checksum differs or the disk fails.
pub(crate) async fn receive_body(
    first: pb::raft::v1::SnapshotChunk,
    chunks: &mut Streaming<pb::raft::v1::SnapshotChunk>,
    sink: SnapshotSink,
) -> Result<SnapshotBody, Status> {
    let mut digest = digest::Context::new(&digest::SHA256);
    let mut sink = sink;
    let mut next = Some(first);
    while let Some(chunk) = next {
        if chunk.offset != sink.len() {
            return Err(Status::invalid_argument("snapshot chunk is out of place"));
        }
        digest.update(&chunk.bytes);
        let trailer = chunk.trailer;
        sink = blocking(move || sink.write_all(&chunk.bytes).map(|()| sink)).await?;
        if let Some(trailer) = trailer {
            if trailer.size != sink.len() || trailer.sha256 != digest.finish().as_ref() {
                return Err(Status::data_loss("snapshot checksum differs"));
            }
            return blocking(move || sink.finish()).await;
        }
        let more = tokio::time::timeout(CHUNK_TIMEOUT, chunks.next()).await;
        let stalled = |_elapsed| Status::deadline_exceeded("no snapshot chunk came in time");
        next = more.map_err(stalled)?.transpose()?;
    }
    Err(Status::invalid_argument("snapshot ends early"))
}

/// Runs disk work off the reactor.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let done = offload(work).await;
    done.map_err(std::io::Error::other)
        .and_then(|done| done)
        .map_err(|error| Status::internal(format!("write snapshot: {error}")))
}
