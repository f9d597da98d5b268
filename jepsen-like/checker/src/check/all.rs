//! All checks in the order of their cost to understand.

use super::coverage::{Requirements, coverage};
use super::requests::idempotency;
use super::{agents, blackbox, feed, lists, observers, sessions, witness};
use crate::history::History;
use crate::model::Limits;
use crate::verdict::Report;

/// How histories are checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds of the registry under test.
    pub limits: Limits,
    /// Steps of the black-box search for one object. At 200,000 a second this is a minute.
    pub steps_max: u64,
    /// What the run must have exercised.
    pub requirements: Requirements,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            steps_max: 10_000_000,
            requirements: Requirements::default(),
        }
    }
}

/// Checks a history in every way.
pub fn check(history: &History, settings: &Settings) -> Report {
    let mut checks = vec![
        witness::witness(history, settings.limits),
        blackbox::blackbox(history, settings.steps_max),
        lists::lists(history),
        sessions::sessions(history),
        idempotency(history),
        agents::token_once(history),
        agents::bans(history),
        feed::feed(history),
        observers::state_hashes(history),
        observers::bundle_sequences(history),
    ];
    checks.push(coverage(history, &settings.requirements, &checks));
    Report { checks }
}
