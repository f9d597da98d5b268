//! Snapshot files: what the registry says in facts and frames, as the file that operators keep.
//!
//! Owns the header and the two ways out: piece by piece to a caller of `SaveSnapshot`, and into
//! anything that can be written to; and what `cluster status` warns of about them.

use std::io::{self, Write};

use steeple_api::pb::cluster::v1 as rpc;
use steeple_api::snapshot_file::SnapshotWriter;
use steeple_raft_store::change::UnknownAgents;
use steeple_raft_store::{MemberId, SaveError, SnapshotFacts, SnapshotOut, StoreHandle};
use steeple_spiffe_core::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::context::Context;
use crate::gate::Call;
use crate::status::Failure;

/// The answer to `SaveSnapshot`.
pub(super) type Pieces = ReceiverStream<Result<rpc::SaveSnapshotResponse, Status>>;

/// Bytes of a piece: few messages, and far below any limit of one.
const PIECE_BYTES: usize = 256 * 1024;

/// Pieces that wait for a slow caller.
const PIECES_AHEAD: usize = 4;

/// Streams the registry, confirmed by a quorum if there is one.
pub(super) async fn stream(context: &Context, call: &Call) -> Pieces {
    let unconfirmed = match context.gate.reads.confirm(call.deadline()).await {
        Ok(_) => String::new(),
        Err(unavailable) => unavailable.text,
    };
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let store = context.gate.store.clone();
    let said = Said::now(&store, context.gate.clock.now(), unconfirmed.is_empty());
    let first = rpc::SaveSnapshotResponse { bytes: Vec::new(), unconfirmed };
    tokio::task::spawn_blocking(move || {
        let pieces = PieceWriter { sender: sender.clone(), next: first };
        let failure = match write(&store, said, pieces) {
            Ok(saved) => {
                let (index, entries) = (saved.index, saved.counts.entries);
                tracing::info!(index, entries, "Snapshot saved");
                return;
            }
            Err(SaveError::Empty) => Failure::failed_precondition(SaveError::Empty.to_string()),
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::warn!(error = format!("{error:#}"), "Snapshot was not saved");
                Failure::internal(format!("{error:#}"))
            }
        };
        // A caller that has gone has caused the failure.
        sender.blocking_send(Err(failure.into())).ok();
    });
    ReceiverStream::new(receiver)
}

/// What an operator should see to about snapshots and restored states.
pub(super) fn warnings(context: &Context) -> Vec<rpc::Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code: &str, message: String, fix: &str| {
        warnings.push(rpc::Warning { code: code.into(), message, fix: fix.into() });
    };
    let restored = context.views().cluster().and_then(|cluster| cluster.restored);
    if restored.is_some_and(|restored| restored.unknown_agents == UnknownAgents::Undecided) {
        let text = "agents that the restored state does not know are kept waiting";
        let fix = "decide: \"spire-server cluster agents adopt\", or \"refuse\"";
        warn("agents_undecided", text.into(), fix);
    }
    if let Some(epoch) = context.gate.store.newer_epoch() {
        let text = format!("epoch {epoch} of this cluster has begun elsewhere");
        let fix = "stop that one, or stop these members and let them join it with empty folders";
        warn("newer_epoch", text, fix);
    }
    if context.gate.store.has_twin_epoch() {
        let text = "this epoch of the cluster was begun twice, by two restores or recoveries";
        let fix =
            "both take writes: stop one, move its DATA_DIR/raft away and let it join the other";
        warn("epoch_twice", text.into(), fix);
    }
    for peer in context.gate.store.foreign_peers() {
        let text = format!("{} belongs to another cluster, {}", peer.address, peer.cluster);
        let fix = "if it is to be a member here: stop it, move its DATA_DIR/raft away and start it to \
                   join; else drop it from cluster.peers";
        warn("foreign_peer", text, fix);
    }
    if let Some(failure) = context.schedule.as_ref().and_then(|schedule| schedule.failure()) {
        let text = format!("no snapshot was saved by schedule: {failure}");
        let fix = "free some space or correct cluster.snapshot; it is tried again by itself";
        warn("snapshot_failed", text, fix);
    }
    warnings
}

/// What a member says of a snapshot that it saves.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    member: MemberId,
    saved_at: Timestamp,
    confirmed: bool,
}

impl Said {
    /// Of one that is saved now.
    pub(crate) fn now(store: &StoreHandle, now: Timestamp, confirmed: bool) -> Self {
        Self { member: store.status().member_id, saved_at: now, confirmed }
    }
}

/// Writes the registry as a snapshot file. The caller makes it durable. Blocks.
///
/// # Errors
///
/// [`SaveError`].
pub(crate) fn write<W: Write>(
    store: &StoreHandle,
    said: Said,
    to: W,
) -> Result<SnapshotFacts, SaveError> {
    let mut file = File { said, state: FileState::New(to) };
    let facts = store.save_snapshot(&mut file)?;
    if let FileState::Begun(writer) = file.state {
        writer.end().map_err(steeple_raft_store::TableError::from)?;
    }
    Ok(facts)
}

struct File<W> {
    said: Said,
    state: FileState<W>,
}

enum FileState<W> {
    New(W),
    Begun(SnapshotWriter<W>),
    Broken,
}

impl<W: Write> SnapshotOut for File<W> {
    fn begin(&mut self, facts: &SnapshotFacts) -> io::Result<[u8; 32]> {
        let FileState::New(to) = std::mem::replace(&mut self.state, FileState::Broken) else {
            return Err(io::Error::other("snapshot file was begun twice"));
        };
        let writer = SnapshotWriter::begin(to, &header(facts, &self.said))?;
        let binding = writer.binding();
        self.state = FileState::Begun(writer);
        Ok(binding)
    }

    fn frame(&mut self, frame: &[u8]) -> io::Result<()> {
        match &mut self.state {
            FileState::Begun(writer) => writer.frame(frame),
            FileState::New(_) | FileState::Broken => {
                Err(io::Error::other("snapshot file was not begun"))
            }
        }
    }
}

fn header(facts: &SnapshotFacts, said: &Said) -> rpc::SnapshotHeader {
    let member = |member: &steeple_raft_store::SnapshotMember| rpc::SnapshotMember {
        id: member.id.to_string(),
        address: member.address.clone(),
        voter: member.voter,
    };
    rpc::SnapshotHeader {
        cluster_id: facts.cluster.cluster_id.to_string(),
        cluster_name: facts.cluster.name.clone(),
        trust_domain: facts.cluster.trust_domain.as_str().to_owned(),
        epoch: facts.cluster.epoch,
        feature_level: facts.cluster.feature_level,
        index: facts.index,
        term: facts.term,
        revision: facts.revision().as_u64(),
        cluster_time: facts.time.unix_s(),
        saved_at: said.saved_at.unix_s(),
        confirmed: said.confirmed,
        members: facts.members.iter().map(member).collect(),
        counts: Some(rpc::SnapshotCounts {
            entries: facts.counts.entries,
            agents: facts.counts.agents,
            join_tokens: facts.counts.tokens,
            bundles: facts.counts.bundles,
            authorities: facts.counts.authorities,
            federation_relationships: facts.counts.relationships,
        }),
        key_id: facts.key_id.clone(),
        member_id: said.member.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        salt: facts.salt.to_vec(),
    }
}

/// Sends what is written to it in pieces.
struct PieceWriter {
    sender: mpsc::Sender<Result<rpc::SaveSnapshotResponse, Status>>,
    next: rpc::SaveSnapshotResponse,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.next.bytes.extend_from_slice(bytes);
        if self.next.bytes.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.next);
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the caller has gone");
        self.sender.blocking_send(Ok(piece)).map_err(gone)
    }
}
