//! The generated messages and services of `steeple.raft.v1`, nested as the generator expects them.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
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
