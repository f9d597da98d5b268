//! What workloads and probes are served.
//!
//! `listen` owns the socket and pins each caller, `workload_api` the SPIFFE Workload API, `answer` the
//! form of its messages, `tokens` JWT-SVIDs, `health` both ways to ask whether the agent works.

mod answer;
mod health;
mod listen;
mod tokens;
mod workload_api;

pub use health::{GrpcHealth, HealthListener, HealthState, ReadyFlag, probe, watch_health};
pub use listen::{Caller, ListenError, WorkloadSocket};
pub use tokens::{Renewing, TokenError, Tokens};
pub use workload_api::{WorkloadApi, WorkloadPolicy};
