//! Checks recorded histories of a cluster against small models of its own.
//!
//! Owns the history format ([`history`]), executable models of the registry ([`model`]) and the
//! checks ([`mod@check`]) that compare the two, and the files in which many runs are kept
//! ([`results`]). It shares no code with what it judges: neither store,
//! server nor agent is a dependency. Recording histories and installing faults is its callers' part.
//!
//! ```text
//! history lines → History → witness, black box, lists, sessions, tokens, … → Report
//! ```

#![forbid(unsafe_code)]

pub mod check;
pub mod history;
pub mod model;
pub mod results;
pub mod verdict;

pub use check::{Requirements, Settings, check};
pub use history::{History, HistoryError};
pub use verdict::{CheckReport, Evidence, Report, Verdict, Violation};
