//! What the agent knows: entries, SVIDs, bundles, and who waits for them.
//!
//! Owns the caches of `spire-semantics` 9 and every decision about them; knows no network and no
//! file. `upstream` fills it, `serve` reads it. One lock guards the state and is never held across
//! an await; what to sign and what to drop is decided by the pure `plan`.

mod bundles;
mod cache;
mod entries;
mod jwt;
mod plan;
mod subscribe;
mod svids;

pub use bundles::{Bundles, OwnBundle, Taken, has_root};
pub use cache::{CacheCounts, Store, StoreLimits, Synced, WorkOrder};
pub use entries::{Entry, EntryTable};
pub use jwt::{JwtCache, JwtKey};
pub use plan::{Candidate, Plan, SvidState, plan};
pub use subscribe::{ServedIdentity, Subscription, WorkloadView};
pub use svids::WorkloadSvid;
