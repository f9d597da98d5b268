//! The gate: what happens to a request before a service sees it.
//!
//! [`handshake`] says whose certificates a connection may begin with. [`front`] takes a request
//! from a listener (and says in `refusals` whom it let in nowhere, in `line` how a call ended); [`caller`] finds out who calls
//! and [`policy`] whether they may; [`agent_check`] judges an agent's certificate against the
//! registry, [`adoption`] those that a restored registry has forgotten; [`ratelimit`] holds back;
//! [`reads`] confirms reads with the cluster and [`staleness`] decides what may still be served
//! when that is impossible. A stale view may allow; only a confirmed read may refuse.

pub mod adoption;
pub mod agent_check;
pub mod call;
pub mod caller;
pub mod closed;
pub mod front;
pub mod handshake;
mod line;
pub mod policy;
pub mod ratelimit;
pub mod reads;
mod refusals;
pub mod staleness;

pub use call::Call;
pub use caller::{Caller, Gate, Role};
pub use closed::Closed;
pub use front::Front;
pub use handshake::HandshakeTrust;
pub use reads::{Basis, Reads};
