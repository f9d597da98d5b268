//! `spire-server cluster …`: the replicas and their leader. SPIRE has no such commands.
//!
//! `table` holds what the others print with. Any member answers; `status` and `members` never wait
//! for a quorum.

mod agents;
mod change;
mod check;
mod federated;
mod keygen;
mod members;
mod rebuild;
mod rekey;
mod rotate;
mod snapshot;
mod status;
mod table;
mod transfer;
mod upgrade;

pub(crate) use agents::{Adopt, Refuse};
pub(crate) use change::{Demote, Promote, Remove};
pub(crate) use check::Check;
pub(crate) use keygen::Keygen;
pub(crate) use members::Members;
pub(crate) use rebuild::{Recover, Restore};
pub(crate) use rekey::Rekey;
pub(crate) use rotate::Rotate;
pub(crate) use snapshot::{Inspect, List, Save};
pub(crate) use status::Status;
pub(crate) use transfer::Transfer;
pub(crate) use upgrade::{UpgradeFinalize, UpgradeStatus};
