//! The refresher: fetches the bundles of foreign trust domains.
//!
//! Owns when a peer is asked (`plan`), how (`fetch`), what a document must be to
//! be taken (`verdict`), what becomes of a peer whose servers contradict each other (`flips`), and
//! what it means when no document comes for long (`danger`). Knows no store: which relationships
//! there are, and what becomes of a document, is its caller's. Facts: SPIFFE Federation 5 and 6,
//! and SPIRE's bundle client (`spec/spire-semantics.md` 12.3).

mod danger;
mod fetch;
mod flips;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod peer;
mod plan;
mod verdict;

pub use danger::{Danger, Followed, NOTE_EVERY, Outlook, Progress, Stage, outlook};
pub use fetch::{Fetch, FetchError, Fetching, HttpsFetcher, Source};
pub use flips::{Flips, Turn};
pub use plan::{Managed, Patience, Plan, Timing};
pub use verdict::{Refusal, Verdict, judge};
