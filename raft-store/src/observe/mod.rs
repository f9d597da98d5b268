//! What the members of a cluster say of themselves, and what follows from it.
//!
//! Every member asks every other every 2 s (`rounds`) and keeps what it heard, with its age, in one
//! place (`observation`). Decisions from it are pure functions, a file each; whoever acts on them is
//! named there.

mod clocks;
mod hashes;
mod observation;
mod rounds;
mod stall;
mod syncs;

pub use clocks::ClusterClock;
pub(crate) use clocks::{
    better_leader, deviations, doubt, offset, offset_text, stamp, would_make_way,
};
pub use hashes::{Checkpoint, Mismatch};
pub(crate) use hashes::{Kept, compare};
pub use observation::{DiskHealth, Observation, Observed};
pub(crate) use observation::{Observations, from_pb, to_pb};
pub(crate) use rounds::run;
pub(crate) use stall::run as watch_stalls;
pub(crate) use syncs::SyncWatch;
