//! What both trust domains published and signed, what workloads on either side held of them, and the
//! judgement over it.
//!
//! Owns the rules: an SVID has to verify with every bundle that any workload held while it lived; what
//! is published arrives within the promised time, counted while nothing was in the way; nothing comes
//! back that had left, nothing is held that nobody published. Beyond a cut that was too long nobody is
//! believed until someone has set the bundle: that time is counted apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_testkit::trust::Given;
use tokio::time::Instant;

use super::side::Which;

/// What of a kind signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    X509,
    Jwt,
}

impl Kind {
    pub(super) const BOTH: [Self; 2] = [Self::X509, Self::Jwt];
}

/// Whose authorities a workload of whom holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct View {
    pub(super) of: Which,
    pub(super) by: Which,
    pub(super) kind: Kind,
}

/// Authorities of a kind: what they are by their names, for an X.509 one its certificate. A JWT key is
/// known by the tokens that it verifies, and nothing is kept of it.
pub(super) type Keys = BTreeMap<String, Vec<u8>>;

/// Everything that a bundle says.
type Content = BTreeMap<(Kind, String), Vec<u8>>;

/// A stretch of time; without an end it goes on.
type Stretch = (Instant, Option<Instant>);

#[derive(Debug)]
struct Holding {
    at: Instant,
    keys: Keys,
}

#[derive(Debug)]
struct Signed {
    from: Instant,
    to: Instant,
    key: (Kind, String),
}

/// What became of one authority.
#[derive(Debug)]
struct Fate {
    published: Instant,
    gone: Option<Instant>,
    value: Vec<u8>,
}

/// What one trust domain did, and what became of its bundle on the other side.
#[derive(Debug, Default)]
struct Domain {
    signed: Vec<Signed>,
    fates: BTreeMap<(Kind, String), Fate>,
    contents: BTreeMap<u64, Content>,
    /// When the last confirmed answer was asked for that held the newest of them.
    confirmed_at: Option<Instant>,
    /// Confirmed answers of the other side's servers: when they were asked for, when they came, the
    /// sequence.
    stored: Vec<(Instant, Instant, u64)>,
    /// What the other side's servers had of each sequence.
    stored_contents: BTreeMap<u64, Content>,
    /// Times in which the other side knew none of its authorities, by a cut that was too long.
    closed: Vec<Stretch>,
}

/// Everything that was seen.
#[derive(Debug)]
pub(super) struct Ledger {
    start: Instant,
    foo: Domain,
    bar: Domain,
    held: BTreeMap<View, Vec<Holding>>,
    faults: Vec<Stretch>,
    wrong: Vec<String>,
}

/// What it comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// SVIDs that were seen.
    pub(super) svids: usize,
    /// An SVID held against authorities that a workload of the other side held while it lived.
    pub(super) across: u64,
    /// The same, of its own side.
    pub(super) within: u64,
    /// SVIDs that the other side did not know, beyond a cut that was too long.
    pub(super) refused: u64,
    /// Authorities that came or left, as workloads of the other side saw it.
    pub(super) changes: usize,
    /// Those of them with nothing in their way.
    pub(super) undisturbed: usize,
    /// The longest that one of these took.
    pub(super) worst_undisturbed: Duration,
    /// The longest time without a fault that any change took.
    pub(super) worst_connected: Duration,
    /// The longest time that any took, with all that was in its way, beside cuts that were too long.
    pub(super) worst: Duration,
    /// Bundles that both sides published: the number of their sequences.
    pub(super) published: BTreeMap<&'static str, usize>,
}

impl Ledger {
    /// Nothing was seen yet.
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            foo: Domain::default(),
            bar: Domain::default(),
            held: BTreeMap::new(),
            faults: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// Something is wrong that needs no judgement.
    pub(super) fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// From now on a fault is in the way.
    pub(super) fn fault_begins(&mut self) {
        self.faults.push((Instant::now(), None));
    }

    /// The fault that has begun is in nobody's way any more from then on.
    pub(super) fn fault_ends(&mut self, at: Instant) {
        end(&mut self.faults, at);
    }

    /// From now on the other side need not know this one's authorities.
    pub(super) fn closes(&mut self, which: Which) {
        self.of_mut(which).closed.push((Instant::now(), None));
    }

    /// From now on it has to know them again.
    pub(super) fn opens(&mut self, which: Which) {
        end(&mut self.of_mut(which).closed, Instant::now());
    }

    /// Takes the bundle that a member gave of its own trust domain.
    pub(super) fn note_given(&mut self, which: Which, given: &Given) {
        let (sequence, content) = (given.bundle.sequence_number, content(&given.bundle));
        // It was published after the last look that has not seen it: what it takes is never told too
        // short.
        let at = self.of(which).confirmed_at.unwrap_or(given.asked);
        self.published_at(which, sequence, content, at);
        let domain = self.of_mut(which);
        let newest =
            domain.contents.last_key_value().is_some_and(|(newest, _)| *newest == sequence);
        if newest && !given.is_stale {
            domain.confirmed_at = domain.confirmed_at.max(Some(given.asked));
        }
    }

    fn published_at(&mut self, which: Which, sequence: u64, content: Content, at: Instant) {
        let domain = self.of_mut(which);
        let newest = domain.contents.last_key_value().map_or(0, |(newest, _)| *newest);
        if sequence > newest {
            for (key, value) in &content {
                let fate = Fate { published: at, gone: None, value: value.clone() };
                domain.fates.entry(key.clone()).or_insert(fate);
            }
            for (key, fate) in &mut domain.fates {
                if fate.gone.is_none() && !content.contains_key(key) {
                    fate.gone = Some(at);
                }
            }
        }
        let known = domain.contents.entry(sequence).or_insert_with(|| content.clone());
        if *known != content {
            let name = which.name();
            self.wrong.push(format!("{name} has two bundles of sequence {sequence}"));
        }
    }

    /// Takes what a member of the other side has stored of a trust domain.
    pub(super) fn note_stored(&mut self, of: Which, given: &Given) {
        let (sequence, content) = (given.bundle.sequence_number, content(&given.bundle));
        let domain = self.of_mut(of);
        if !given.is_stale {
            domain.stored.push((given.asked, given.at, sequence));
        }
        domain.stored_contents.insert(sequence, content);
    }

    /// Takes an SVID: who signed it, and how long it is presented.
    pub(super) fn note_svid(
        &mut self,
        which: Which,
        key: (Kind, String),
        life: (Instant, Instant),
    ) {
        let (from, to) = life;
        self.of_mut(which).signed.push(Signed { from, to, key });
    }

    /// Takes what a workload holds from now on.
    pub(super) fn note_held(&mut self, view: View, keys: Keys) {
        let held = self.held.entry(view).or_default();
        if held.last().is_none_or(|last| last.keys != keys) {
            held.push(Holding { at: Instant::now(), keys });
        }
    }

    /// What a workload holds now.
    pub(super) fn held(&self, view: View) -> Option<&Keys> {
        Some(&self.held.get(&view)?.last()?.keys)
    }

    /// Names of the authorities that a trust domain publishes now.
    pub(super) fn published(&self, which: Which, kind: Kind) -> BTreeSet<String> {
        let fates = self.of(which).fates.iter();
        let there = fates.filter(|((of, _), fate)| *of == kind && fate.gone.is_none());
        there.map(|((_, name), _)| name.clone()).collect()
    }

    /// Whether the other side need not know a trust domain's authorities now.
    pub(super) fn is_closed(&self, which: Which) -> bool {
        self.of(which).closed.last().is_some_and(|(_, until)| until.is_none())
    }

    /// What was seen, and all that is wrong with it. `longest`: within so long a time without a fault
    /// every change has to be seen on the other side.
    pub(super) fn judge(&self, longest: Duration) -> (Totals, Vec<String>) {
        let (now, mut totals, mut wrong) = (Instant::now(), Totals::default(), self.wrong.clone());
        for of in Which::BOTH {
            let domain = self.of(of);
            totals.svids += domain.signed.len();
            totals.published.insert(of.name(), domain.contents.len());
            wrong.extend(went_back(of, domain));
            wrong.extend(forged(of, domain));
            for by in Which::BOTH {
                for kind in Kind::BOTH {
                    let view = View { of, by, kind };
                    let held = self.held.get(&view).map_or(&[][..], Vec::as_slice);
                    wrong.extend(self.verify(view, held, &mut totals));
                    wrong.extend(came_back(view, held));
                    wrong.extend(unknown(view, held, domain));
                    if of != by {
                        let late = Lateness { longest, now, view, held };
                        wrong.extend(self.arrived(&late, &mut totals));
                    }
                }
            }
        }
        (totals, wrong)
    }

    /// Every SVID against all that a workload held while it lived.
    fn verify(&self, view: View, held: &[Holding], totals: &mut Totals) -> Vec<String> {
        let domain = self.of(view.of);
        let mut wrong = Vec::new();
        for one in domain.signed.iter().filter(|one| one.key.0 == view.kind) {
            let first = held.partition_point(|holding| holding.at <= one.from).saturating_sub(1);
            let last = held.partition_point(|holding| holding.at <= one.to);
            for holding in held.get(first..last).unwrap_or_default() {
                let count =
                    if view.of == view.by { &mut totals.within } else { &mut totals.across };
                *count += 1;
                if holding.keys.contains_key(&one.key.1) {
                    continue;
                }
                let since = holding.at.max(one.from);
                if view.of != view.by && is_in(&domain.closed, since) {
                    totals.refused += 1;
                    continue;
                }
                wrong.push(format!(
                    "{:?} of {} signed at {:?} by {}, unknown to a workload of {} at {:?}",
                    view.kind,
                    view.of.name(),
                    self.since(one.from),
                    one.key.1,
                    view.by.name(),
                    self.since(since)
                ));
            }
        }
        wrong
    }

    /// How long each change took until a workload of the other side saw it.
    fn arrived(&self, late: &Lateness<'_>, totals: &mut Totals) -> Vec<String> {
        let Lateness { longest, now, view, held } = *late;
        let Some(began) = held.first().map(|first| first.at) else {
            return vec![format!("nobody saw {view:?}")];
        };
        let domain = self.of(view.of);
        let mut wrong = Vec::new();
        for ((_, name), fate) in domain.fates.iter().filter(|((kind, _), _)| *kind == view.kind) {
            let has = |holding: &Holding| holding.keys.contains_key(name);
            let came = held.iter().position(has);
            let after = held.get(came.unwrap_or(held.len())..).unwrap_or_default();
            let left = after.iter().find(|holding| !has(holding)).map(|holding| holding.at);
            let came = came.and_then(|at| held.get(at)).map(|holding| holding.at);
            // What has left before it could come need not come.
            if came.is_none() && fate.gone.is_some() {
                continue;
            }
            for (what, from, to) in
                [("comes", Some(fate.published), came), ("leaves", fate.gone, left)]
            {
                let Some(from) = from.filter(|from| *from > began) else { continue };
                let to = to.unwrap_or(now);
                if touches(&domain.closed, from, to) {
                    continue;
                }
                let (took, disturbed) =
                    (to.saturating_duration_since(from), self.disturbed(from, to));
                let connected = took.saturating_sub(disturbed);
                totals.changes += 1;
                totals.worst = totals.worst.max(took);
                totals.worst_connected = totals.worst_connected.max(connected);
                if disturbed.is_zero() {
                    totals.undisturbed += 1;
                    totals.worst_undisturbed = totals.worst_undisturbed.max(took);
                }
                if connected > longest {
                    let at = self.since(from);
                    wrong
                        .push(format!("{view:?}: {name} {what} at {at:?}, and took {connected:?}"));
                }
            }
        }
        wrong
    }

    /// How long faults were in the way.
    fn disturbed(&self, from: Instant, to: Instant) -> Duration {
        let (mut sum, mut counted) = (Duration::ZERO, from);
        for (begin, end) in &self.faults {
            let begin = (*begin).max(counted);
            let end = end.unwrap_or(to).min(to);
            if end > begin {
                sum += end - begin;
                counted = end;
            }
        }
        sum
    }

    fn since(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }

    fn of(&self, which: Which) -> &Domain {
        match which {
            Which::Foo => &self.foo,
            Which::Bar => &self.bar,
        }
    }

    fn of_mut(&mut self, which: Which) -> &mut Domain {
        match which {
            Which::Foo => &mut self.foo,
            Which::Bar => &mut self.bar,
        }
    }
}

/// What the time that changes take is judged by.
struct Lateness<'a> {
    longest: Duration,
    now: Instant,
    view: View,
    held: &'a [Holding],
}

fn end(stretches: &mut [Stretch], at: Instant) {
    if let Some((_, until @ None)) = stretches.last_mut() {
        *until = Some(at);
    }
}

fn is_in(stretches: &[Stretch], at: Instant) -> bool {
    stretches.iter().any(|(from, until)| *from <= at && until.is_none_or(|until| at <= until))
}

fn touches(stretches: &[Stretch], from: Instant, to: Instant) -> bool {
    stretches.iter().any(|(begin, end)| *begin <= to && end.is_none_or(|end| from <= end))
}

/// What a bundle says, by the names of its authorities.
fn content(bundle: &Bundle) -> Content {
    let x509 = keys_of(bundle.x509_authorities.iter().map(|one| one.certificate_der.as_slice()));
    let mut content: Content = BTreeMap::new();
    // What is no certificate has no name, and is held against nobody's.
    for (name, der) in x509.unwrap_or_default() {
        content.insert((Kind::X509, name), der);
    }
    for key in &bundle.jwt_authorities {
        content.insert((Kind::Jwt, key.key_id.clone()), key.public_key_der.clone());
    }
    content
}

/// X.509 authorities by the names of their keys.
pub(super) fn keys_of<'a>(ders: impl Iterator<Item = &'a [u8]>) -> Result<Keys> {
    let named = ders.map(|der| Ok((hex(&certificate_facts(der)?.subject_key_id), der.to_vec())));
    named.collect()
}

/// Lower-case hex, as authorities are named.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Confirmed answers of the other side's servers with a lower sequence than one before.
fn went_back(of: Which, domain: &Domain) -> Vec<String> {
    let mut by_time = domain.stored.clone();
    by_time.sort_by_key(|(_, at, _)| *at);
    let mut highest = 0;
    let mut known: Vec<(Instant, u64)> = Vec::new();
    let mut wrong = Vec::new();
    for (asked, at, sequence) in by_time {
        let before = known.partition_point(|(came, _)| *came < asked);
        let before = before.checked_sub(1).and_then(|last| known.get(last));
        if let Some((_, before)) = before.filter(|(_, before)| *before > sequence) {
            wrong.push(format!("{} was stored as {sequence} after {before}", of.name()));
        }
        highest = sequence.max(highest);
        known.push((at, highest));
    }
    wrong
}

/// Bundles that were stored under a sequence of which something else was published.
fn forged(of: Which, domain: &Domain) -> Vec<String> {
    let stored = domain.stored_contents.iter().filter(|(sequence, content)| {
        domain.contents.get(sequence).is_some_and(|published| published != *content)
    });
    let name = of.name();
    stored
        .map(|(sequence, _)| format!("{name} never published what is stored as {sequence}"))
        .collect()
}

/// Authorities that a workload held, held no more, and held again.
fn came_back(view: View, held: &[Holding]) -> Vec<String> {
    let (mut gone, mut wrong) = (BTreeSet::new(), Vec::new());
    let mut before: Option<&Holding> = None;
    for holding in held {
        for name in holding.keys.keys().filter(|name| gone.contains(*name)) {
            wrong.push(format!("{view:?}: {name} had left"));
        }
        let left = before.iter().flat_map(|before| before.keys.keys());
        gone.extend(left.filter(|name| !holding.keys.contains_key(*name)).cloned());
        before = Some(holding);
    }
    wrong
}

/// Authorities that a workload held and nobody published.
fn unknown(view: View, held: &[Holding], domain: &Domain) -> Vec<String> {
    let mut wrong = BTreeSet::new();
    for (name, value) in held.iter().flat_map(|holding| &holding.keys) {
        let known = domain.fates.get(&(view.kind, name.clone()));
        if known.is_none_or(|known| view.kind == Kind::X509 && known.value != *value) {
            wrong.insert(format!("{view:?}: {name} was published by nobody"));
        }
    }
    wrong.into_iter().collect()
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
