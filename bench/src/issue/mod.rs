//! Issuance beside its limits and peers: what an SVID costs, what a rotation takes, and the bundle
//! endpoint.
//!
//! CPU time of the servers for an operation is the figure, since rates on a shared machine say
//! less. Every figure of ours is taken in turns with its peers' in one run; what is quoted is the
//! ratio of neighbouring rounds, with its spread. A peer that cannot be had is said to be absent,
//! with the reason.

mod agents;
mod bao;
mod echo;
mod endpoint;
mod go;
mod limit;
mod neighbours;
mod plan;
mod probe;
mod refreshes;
mod replicas;
mod rotation;
mod signing;
mod stock;
mod table;
mod tls_client;
mod work;

pub(crate) use echo::serve as serve_echo;
pub(crate) use plan::run;
