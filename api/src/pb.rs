//! The generated code, one module a protobuf package.
//!
//! Owns nothing but the tree: generated code refers to other packages by relative paths, so the
//! private modules mirror the packages and the public names are re-exports. Everything in here is
//! written in `proto/`.

#![expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]

/// `spire.api.server.*.v1`: the services of a server, a module each with its messages and the
/// tonic client and server.
pub use packages::spire::api::server;
/// `spire.api.types`: what all services of SPIRE share.
pub use packages::spire::api::types;
/// `steeple.agent`: the push stream from server to agent, our own.
pub use packages::steeple::agent as agent_ext;
/// `steeple.cluster`: what operators ask about a cluster, our own.
pub use packages::steeple::cluster;
/// `steeple.member`: what the servers of a cluster's members ask each other, our own.
pub use packages::steeple::member;

/// The SPIFFE Workload API, which has no protobuf package.
pub mod workload {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

/// `grpc.health.v1`.
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

mod packages {
    pub mod spire {
        pub mod api {
            pub mod types {
                include!(concat!(env!("OUT_DIR"), "/spire.api.types.rs"));
            }
            pub mod server {
                pub mod agent {
                    pub mod v1 {
                        include!(concat!(env!("OUT_DIR"), "/spire.api.server.agent.v1.rs"));
                    }
                }
                pub mod bundle {
                    pub mod v1 {
                        include!(concat!(env!("OUT_DIR"), "/spire.api.server.bundle.v1.rs"));
                    }
                }
                pub mod entry {
                    pub mod v1 {
                        include!(concat!(env!("OUT_DIR"), "/spire.api.server.entry.v1.rs"));
                    }
                }
                pub mod localauthority {
                    pub mod v1 {
                        include!(concat!(
                            env!("OUT_DIR"),
                            "/spire.api.server.localauthority.v1.rs"
                        ));
                    }
                }
                pub mod svid {
                    pub mod v1 {
                        include!(concat!(env!("OUT_DIR"), "/spire.api.server.svid.v1.rs"));
                    }
                }
                pub mod trustdomain {
                    pub mod v1 {
                        include!(concat!(env!("OUT_DIR"), "/spire.api.server.trustdomain.v1.rs"));
                    }
                }
            }
        }
    }
    pub mod steeple {
        pub mod agent {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/steeple.agent.v1.rs"));
            }
        }
        pub mod cluster {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/steeple.cluster.v1.rs"));
            }
        }
        pub mod member {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/steeple.member.v1.rs"));
            }
        }
    }
}
