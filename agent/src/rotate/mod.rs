//! Renewal: when something is due, and the agent's own certificate.
//!
//! `condition` is pure and serves workload SVIDs and tokens too; `verdict`, pure as well, says what an
//! answer of a server means for this agent's life; `own` keeps and renews the certificate.

mod condition;
mod own;
mod verdict;

pub use condition::{Condition, is_token_due};
pub use own::{Files, NewKey, OwnSvid, OwnSvidError, Rotator};
pub use verdict::{Verdict, is_shut_out, verdict};
