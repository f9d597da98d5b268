//! What the members of a cluster say of themselves, and what follows from it.
//!
//! Every member asks every other every 2 s (`rounds`) and keeps what it heard, with its age, in one
//! place (`observation`). Decisions from it are pure functions, a file each; whoever acts on them is
//! named there.

mod observation;
mod rounds;
mod syncs;

pub use observation::{DiskHealth, Observation, Observed};
pub(crate) use observation::{Observations, from_pb, to_pb};
pub(crate) use rounds::run;
pub(crate) use syncs::SyncWatch;
