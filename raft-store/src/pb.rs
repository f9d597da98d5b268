//! Generated protobuf modules; always named with their prefix, `pb::store::…` and `pb::raft::…`.

#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

/// `steeple.store.v1`: commands, rows, log, snapshots.
pub(crate) mod store {
    tonic::include_proto!("steeple.store.v1");
}
