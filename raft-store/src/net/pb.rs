//! The generated messages and services of `steeple.raft.v1`, nested as the generator expects them.

#![expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]

pub(crate) mod store {
    /// `steeple.store.v1`, generated once for the whole crate.
    pub(crate) mod v1 {
        pub(crate) use crate::pb::store::*;
    }
}

pub(crate) mod raft {
    /// `steeple.raft.v1`.
    pub(crate) mod v1 {
        tonic::include_proto!("steeple.raft.v1");
    }
}
