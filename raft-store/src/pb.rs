//! Generated protobuf modules; always named with their prefix, `pb::store::…` and `pb::raft::…`.

#![expect(unreachable_pub, reason = "generated code")]

/// `steeple.store.v1`: commands, rows, log, snapshots.
pub(crate) mod store {
    tonic::include_proto!("steeple.store.v1");
}
