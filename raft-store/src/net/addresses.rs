//! Where members are thought to be, and whether they answer.
//!
//! Owns what this member knows of each other one: the committed address, the one at which it was last
//! met (all members may move at once, so a committed address is a hint), and its last sign of life.
//! Holds no connection and decides nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ids::MemberId;

/// What is known of the other members.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    entries: Mutex<BTreeMap<MemberId, Known>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    committed: Option<String>,
    met_at: Option<String>,
    /// Boot times.
    last_answer: Option<Duration>,
    last_failure: Option<Duration>,
    /// The version it runs, and when it said so.
    version: Option<(String, Duration)>,
}

impl AddressBook {
    /// Notes the address that the membership names.
    pub(crate) fn commit(&self, member: MemberId, address: &str) {
        let mut entries = self.lock();
        let known = entries.entry(member).or_default();
        if known.committed.as_deref() != Some(address) {
            known.committed = Some(address.to_owned());
            // Newer than what was seen before it.
            known.met_at = None;
        }
    }

    /// Notes that a member was met at an address, proven by its certificate.
    pub(crate) fn met(&self, member: MemberId, address: &str) {
        self.lock().entry(member).or_default().met_at = Some(address.to_owned());
    }

    /// Where to dial a member, best guess first.
    pub(crate) fn candidates(&self, member: MemberId) -> Vec<String> {
        let Some(known) = self.lock().get(&member).cloned() else { return Vec::new() };
        let mut candidates: Vec<String> = known.met_at.into_iter().collect();
        candidates.extend(known.committed.filter(|committed| !candidates.contains(committed)));
        candidates
    }

    /// Notes a sign of life: an answer, or a call of its own.
    pub(crate) fn heard(&self, member: MemberId, now: Duration) {
        self.lock().entry(member).or_default().last_answer = Some(now);
    }

    /// Notes that it could not be reached.
    pub(crate) fn failed(&self, member: MemberId, now: Duration) {
        self.lock().entry(member).or_default().last_failure = Some(now);
    }

    /// Whether the last thing known is that it lives; `None`: it has not been called yet.
    pub(crate) fn answers(&self, member: MemberId) -> Option<bool> {
        let entries = self.lock();
        let known = entries.get(&member)?;
        known.last_answer.or(known.last_failure)?;
        Some(known.last_answer > known.last_failure)
    }

    /// Notes what a member said of its program.
    pub(crate) fn introduced(&self, member: MemberId, version: &str, now: Duration) {
        self.lock().entry(member).or_default().version = Some((version.to_owned(), now));
    }

    /// The version it runs, as it last said.
    pub(crate) fn version(&self, member: MemberId) -> Option<String> {
        let entries = self.lock();
        let (version, _) = entries.get(&member)?.version.as_ref()?;
        Some(version.clone()).filter(|version| !version.is_empty())
    }

    /// Whether it should say who it is (again): it never did, or was away meanwhile and may run
    /// another program now.
    pub(crate) fn needs_introduction(&self, member: MemberId) -> bool {
        let entries = self.lock();
        let Some(known) = entries.get(&member) else { return true };
        known.version.as_ref().is_none_or(|(_, at)| Some(*at) < known.last_failure)
    }

    /// Boot time of its last sign of life.
    pub(crate) fn last_heard(&self, member: MemberId) -> Option<Duration> {
        self.lock().get(&member).and_then(|known| known.last_answer)
    }

    /// Forgets all but the given members.
    pub(crate) fn retain(&self, keep: impl Fn(MemberId) -> bool) {
        self.lock().retain(|member, _| keep(*member));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MemberId, Known>> {
        // Every change is one assignment: nothing is half done when a holder panics.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_met_elsewhere_is_dialled_there_first_until_a_newer_address_is_committed() {
        let book = AddressBook::default();
        let id = MemberId(1);
        assert!(book.candidates(id).is_empty());
        book.commit(id, "old:1");
        book.met(id, "new:1");
        book.commit(id, "old:1");
        assert_eq!(book.candidates(id), ["new:1", "old:1"]);
        book.commit(id, "newest:1");
        assert_eq!(book.candidates(id), ["newest:1"]);
    }

    #[test]
    fn a_member_answers_until_it_fails() {
        let book = AddressBook::default();
        let id = MemberId(1);
        let at = Duration::from_secs;
        assert_eq!(book.answers(id), None);
        book.failed(id, at(1));
        assert_eq!(book.answers(id), Some(false));
        book.heard(id, at(2));
        assert_eq!(book.answers(id), Some(true));
        book.failed(id, at(3));
        assert_eq!(book.answers(id), Some(false));
        assert_eq!(book.last_heard(id), Some(at(2)));
    }
}
