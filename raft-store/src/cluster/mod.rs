//! The life of a member: forming a cluster, joining one, membership changes, stopping.
//!
//! Owns every decision about who belongs to the cluster, as pure planners with a thin shell that does
//! what they say. Consensus itself is openraft's, the wire is `net/`'s, replicated state is `apply`'s.
//!
//! ```text
//!   run(core, network, stop)
//!     ├─ listens, answers peers                                    life
//!     ├─ founding: formation (pure) ─► adopt ─► initialise ─► InitCluster    or   joining
//!     ├─ leader only: plan (pure) ─► learner ─► voter ─► replaced  autopilot, admission
//!     ├─ log lines of leadership, contact, membership; moving      watching
//!     └─ members of other epochs                                   epochs
//! ```

mod admission;
mod autopilot;
mod by_hand;
mod epochs;
mod formation;
#[cfg(test)]
mod formation_model;
mod founding;
mod joining;
mod life;
mod plan;
mod records;
mod watching;

pub(crate) use life::{Life, run};
pub(crate) use records::read_set;
