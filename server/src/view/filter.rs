//! Filters of the list and count calls (SPIRE's semantics: all given ones must match).
//!
//! Owns the matching of one row. Parsing of requests into filters is the services' business, and so
//! are the refusals that SPIRE has for malformed ones.

use steeple_spiffe_core::{
    AgentRecord, RegistrationEntry, SelectorMatch, SelectorSet, SortedSet, SpiffeId, Timestamp,
    TrustDomain,
};

/// Which entries are asked for. The default asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// Exactly this SPIFFE id.
    pub spiffe_id: Option<SpiffeId>,
    /// Exactly this parent.
    pub parent_id: Option<SpiffeId>,
    /// Selectors that relate to the given set like this.
    pub selectors: Option<(SelectorMatch, SelectorSet)>,
    /// Foreign trust domains that relate to the given set like this.
    pub federates_with: Option<(SelectorMatch, SortedSet<TrustDomain>)>,
    /// Exactly this hint; an empty one is no filter.
    pub hint: Option<String>,
    /// Only downstream entries; `false` is no filter.
    pub downstream: bool,
}

impl EntryFilter {
    /// Whether the entry passes.
    pub fn matches(&self, entry: &RegistrationEntry) -> bool {
        self.spiffe_id.as_ref().is_none_or(|id| *id == entry.spiffe_id)
            && self.parent_id.as_ref().is_none_or(|id| *id == entry.parent_id)
            && set_matches(self.selectors.as_ref(), &entry.selectors)
            && set_matches(self.federates_with.as_ref(), &entry.federates_with)
            && self.hint.as_ref().is_none_or(|hint| hint.is_empty() || *hint == entry.hint)
            && (!self.downstream || entry.downstream)
    }
}

/// Which agents are asked for. The default asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// Exactly this attestation type; an empty one is no filter.
    pub attestation_type: Option<String>,
    /// Node selectors that relate to the given set like this.
    pub selectors: Option<(SelectorMatch, SelectorSet)>,
    /// Banned, or not banned.
    pub banned: Option<bool>,
    /// Able to attest again, or not.
    pub can_reattest: Option<bool>,
    /// The current certificate ends before this time.
    pub expires_before: Option<Timestamp>,
}

impl AgentFilter {
    /// Whether the agent passes.
    pub fn matches(&self, agent: &AgentRecord) -> bool {
        let kind = self.attestation_type.as_ref();
        kind.is_none_or(|kind| kind.is_empty() || *kind == agent.attestation_type)
            && set_matches(self.selectors.as_ref(), &agent.selectors)
            && self.banned.is_none_or(|banned| banned == agent.is_banned())
            && self.can_reattest.is_none_or(|can| can == agent.can_reattest)
            && self.expires_before.is_none_or(|time| agent.not_after < time)
    }
}

fn set_matches<T: Ord>(
    filter: Option<&(SelectorMatch, SortedSet<T>)>,
    stored: &SortedSet<T>,
) -> bool {
    filter.is_none_or(|(how, given)| how.matches(stored, given))
}
