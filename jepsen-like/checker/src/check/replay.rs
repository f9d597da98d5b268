//! Replays a timeline on the model and places requests of unknown outcome where something shows
//! them.
//!
//! A request whose outcome is unknown stays open until a step does not fit. Then the open requests
//! that touch the same rows are tried, few before many. Several ways may explain one step: which one
//! is taken is the caller's, by [`Plan`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::keys::{self, Key, Keys};
use super::timeline::{Step, Timeline, What};
use crate::history::{Change, Entry, Filter, Operation, Reply};
use crate::model::compare::{is_known, same_changes, same_reply};
use crate::model::{Limits, Now, Registry};
use crate::verdict::Violation;

/// Open requests that are tried together for one step: their orders grow like a factorial.
const TOGETHER_MAX: usize = 4;

/// Applications tried for one step before it counts as undecided.
const TRIES_MAX: u32 = 20_000;

/// Explanations of one step that are remembered as alternatives.
const WAYS_MAX: usize = 8;

/// Which alternatives to take.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// By choice, in the order in which they come up; the first alternative where it is silent.
    pub(super) choices: Vec<usize>,
    /// A request to be placed before a step of this number.
    pub(super) early: Option<(usize, usize)>,
}

/// How a replay went.
#[derive(Debug)]
pub(super) struct Played {
    /// How many alternatives each choice had.
    pub(super) ways: Vec<usize>,
    /// Requests that were placed.
    pub(super) placed: usize,
    /// Where it did not fit.
    pub(super) misfit: Option<Misfit>,
}

/// A step that does not fit.
#[derive(Clone, Debug)]
pub(super) struct Misfit {
    /// Its number.
    pub(super) step: usize,
    /// What it touches.
    pub(super) keys: Keys,
    /// Whether not everything could be tried.
    pub(super) is_cut: bool,
    /// What is wrong.
    pub(super) violation: Violation,
}

/// What a step must show.
enum Probe<'a> {
    /// A command with its decision, and its changes if a subscriber saw them.
    Write {
        op: &'a Arc<Operation>,
        request: Option<&'a str>,
        told: &'a Reply,
        seen: Option<&'a [Change]>,
    },
    /// Changes of some open request.
    Seen(&'a [Change]),
    /// A read of one row or a whole list.
    Read { op: &'a Operation, told: &'a Reply },
    /// An entry as a list shows it, or its absence from the list.
    Shown { filter: &'a Filter, id: &'a str, entry: Option<&'a Arc<Entry>> },
}

/// Plays a timeline.
pub(super) fn play(timeline: &Timeline<'_>, limits: Limits, plan: &Plan) -> Played {
    let mut player = Player::new(timeline, limits, plan);
    let mut misfit = None;
    for (number, step) in timeline.steps.iter().enumerate() {
        if let Err(found) = player.step(number, step) {
            misfit = Some(*found);
            break;
        }
    }
    Played { ways: player.ways, placed: player.placed, misfit }
}

struct Player<'a> {
    timeline: &'a Timeline<'a>,
    plan: &'a Plan,
    registry: Registry,
    open: BTreeSet<usize>,
    by_key: BTreeMap<Key, BTreeSet<usize>>,
    ways: Vec<usize>,
    placed: usize,
    tries: u32,
    is_cut: bool,
}

impl<'a> Player<'a> {
    fn new(timeline: &'a Timeline<'a>, limits: Limits, plan: &'a Plan) -> Self {
        let open: BTreeSet<usize> = (0..timeline.requests.len())
            .filter(|place| timeline.requests.get(*place).is_some_and(|r| r.known.is_none()))
            .collect();
        let mut by_key: BTreeMap<Key, BTreeSet<usize>> = BTreeMap::new();
        for place in &open {
            let Some(request) = timeline.requests.get(*place) else { continue };
            for key in keys::of_operation(&request.op, request.id.as_deref()) {
                by_key.entry(key).or_default().insert(*place);
            }
        }
        let registry = Registry::new(&timeline.history.header, limits);
        Self {
            timeline,
            plan,
            registry,
            open,
            by_key,
            ways: Vec::new(),
            placed: 0,
            tries: 0,
            is_cut: false,
        }
    }

    fn step(&mut self, number: usize, step: &Step) -> Result<(), Box<Misfit>> {
        if let Some((at, place)) = self.plan.early
            && at == number
            && self.open.remove(&place)
        {
            self.apply_open(place, step.now);
        }
        let timeline = self.timeline;
        match &step.what {
            What::Write(place) => {
                let Some(request) = timeline.requests.get(*place) else { return Ok(()) };
                let known = request.known.and_then(|id| timeline.history.calls.get(id));
                let Some(told) = known.and_then(|call| call.reply()) else { return Ok(()) };
                let seen = timeline.seen.get(&step.revision).map(|(_, changes)| *changes);
                let request_id = request.id.as_deref();
                let probe = Probe::Write { op: &request.op, request: request_id, told, seen };
                self.settle(number, step, &probe)?;
            }
            What::Seen(changes) => self.settle(number, step, &Probe::Seen(changes))?,
            What::Read(id) => {
                let Some(call) = timeline.history.calls.get(*id) else { return Ok(()) };
                let Some(told) = call.reply() else { return Ok(()) };
                if let Reply::Count(count) = told {
                    self.count(number, step, &call.op, *count)?;
                } else {
                    self.settle(number, step, &Probe::Read { op: &call.op, told })?;
                }
            }
            What::List(filter, entries) => self.list(number, step, filter, entries)?,
        }
        self.registry.keep();
        Ok(())
    }

    /// A list fits entry by entry: many open requests may show in one list.
    fn list(
        &mut self,
        number: usize,
        step: &Step,
        filter: &Filter,
        entries: &[Arc<Entry>],
    ) -> Result<(), Box<Misfit>> {
        let op = Operation::ListEntries { listing: 0, first: true, filter: filter.clone() };
        let Some(Reply::Page(expected)) = self.registry.read(&op) else { return Ok(()) };
        let mut told: Vec<Arc<Entry>> = entries.to_vec();
        told.sort_by(|a, b| a.id.cmp(&b.id));
        if told == expected.entries {
            return Ok(());
        }
        let by_id = |entries: &[Arc<Entry>]| -> BTreeMap<String, Arc<Entry>> {
            entries.iter().map(|entry| (entry.id.clone(), Arc::clone(entry))).collect()
        };
        let (told_by_id, expected_by_id) = (by_id(&told), by_id(&expected.entries));
        let ids: BTreeSet<&String> = told_by_id.keys().chain(expected_by_id.keys()).collect();
        for id in ids {
            let entry = told_by_id.get(id);
            if entry != expected_by_id.get(id) {
                self.settle(number, step, &Probe::Shown { filter, id, entry })?;
            }
        }
        let told = Reply::Page(crate::history::Page { entries: told, last: true });
        self.settle(number, step, &Probe::Read { op: &op, told: &told })
    }

    /// A count fits if open requests and unseen prunes can make up the difference.
    fn count(
        &mut self,
        number: usize,
        step: &Step,
        op: &Operation,
        told: u64,
    ) -> Result<(), Box<Misfit>> {
        let Some(Reply::Count(expected)) = self.registry.read(op) else { return Ok(()) };
        let (mut more, mut fewer) = (0_u64, 0_u64);
        if expected != told {
            let usable = self.open.iter().filter(|place| self.may_be_before(**place, step));
            for request in usable.filter_map(|place| self.timeline.requests.get(*place)) {
                let (adds, removes) = row_changes(&request.op, op);
                more = more.saturating_add(adds);
                fewer = fewer.saturating_add(removes);
            }
            if self.timeline.history.header.background_prune {
                fewer = u64::MAX;
            }
        }
        if told >= expected.saturating_sub(fewer) && told <= expected.saturating_add(more) {
            return Ok(());
        }
        Err(self.misfit(number, step, Keys::new(), &format!("{expected}"), &format!("{told}")))
    }

    /// Makes the state fit, or says why it cannot.
    fn settle(&mut self, number: usize, step: &Step, probe: &Probe<'_>) -> Result<(), Box<Misfit>> {
        let mark = self.registry.mark();
        let Err(expected) = self.fits(probe, step.now) else { return Ok(()) };
        self.registry.roll_back(mark);
        let mut touched = touched(probe);
        if let Some(reply) = &expected {
            keys::of_reply(reply, &mut touched);
        }
        if self.timeline.history.header.background_prune {
            let mark = self.registry.mark();
            if self.expire(&touched, step.now) {
                if self.fits(probe, step.now).is_ok() {
                    return Ok(());
                }
                self.registry.roll_back(mark);
            }
        }
        let mut ways = self.explain(step, probe, &mut touched);
        if ways.is_empty() {
            let expected = expected.map_or("nothing".to_owned(), |reply| format!("{reply:?}"));
            return Err(self.misfit(number, step, touched, &expected, &told(probe)));
        }
        let mut choice = 0;
        if ways.len() > 1 {
            choice = self.plan.choices.get(self.ways.len()).copied().unwrap_or(0);
            self.ways.push(ways.len());
        }
        let way = ways.swap_remove(choice.min(ways.len() - 1));
        let is_seen = matches!(probe, Probe::Seen(_));
        for place in &way {
            self.open.remove(place);
            self.apply_open(*place, step.now);
        }
        self.placed += way.len();
        if !is_seen {
            // It fitted when it was tried.
            let _fitted = self.fits(probe, step.now);
        }
        Ok(())
    }

    /// Whether the state fits; a write is applied on the way. Otherwise what the model says.
    fn fits(&mut self, probe: &Probe<'_>, now: Now) -> Result<(), Option<Reply>> {
        match probe {
            Probe::Write { op, request, told, seen } => {
                let applied = self.registry.apply(op, *request, now, Some(told));
                let fits = same_reply(&applied.reply, told)
                    && seen.is_none_or(|seen| same_changes(&applied.changes, seen));
                if fits { Ok(()) } else { Err(Some(applied.reply)) }
            }
            Probe::Seen(changes) => {
                let is_prune = self.timeline.history.header.background_prune
                    && changes.iter().filter(|change| is_known(change)).all(
                        |change| match change {
                            Change::EntryDeleted { id } => {
                                self.registry.entry(id).is_some_and(|entry| {
                                    entry.expires_at_s != 0
                                        && now.is_after(entry.expires_at_s.saturating_mul(1000))
                                            != Some(false)
                                })
                            }
                            Change::EntryWritten(_)
                            | Change::AgentWritten(_)
                            | Change::AgentDeleted { .. }
                            | Change::RelationshipWritten(_)
                            | Change::RelationshipDeleted { .. }
                            | Change::BundleWritten { .. }
                            | Change::Other { .. } => false,
                        },
                    );
                if !is_prune {
                    return Err(None);
                }
                let touched = keys::of_changes(changes);
                self.expire(&touched, now);
                Ok(())
            }
            Probe::Read { op, told } => match self.registry.read(op) {
                Some(expected) if !same_reply(&expected, told) => Err(Some(expected)),
                Some(_) | None => Ok(()),
            },
            Probe::Shown { filter, id, entry } => {
                let found = self.registry.entry(id).filter(|entry| filter.shows(entry));
                if found == *entry { Ok(()) } else { Err(Some(Reply::Entry(found.cloned()))) }
            }
        }
    }

    /// Removes what may have expired unseen among the rows; false if there is nothing.
    fn expire(&mut self, touched: &Keys, now: Now) -> bool {
        let mark = self.registry.mark();
        for key in touched {
            match key {
                Key::Entry(id) => {
                    let expires = self.registry.entry(id).map_or(0, |entry| entry.expires_at_s);
                    if expires != 0 && now.is_after(expires.saturating_mul(1000)) != Some(false) {
                        self.registry.expire_entry(id);
                    }
                }
                Key::Token(token) => {
                    if self.registry.token(token).is_some_and(|at| now.is_after(at) != Some(false))
                    {
                        self.registry.expire_token(token);
                    }
                }
                Key::Identity(_)
                | Key::Parent(_)
                | Key::Agent(_)
                | Key::Relationship(_)
                | Key::Request(_)
                | Key::Expired
                | Key::Cluster => {}
            }
        }
        self.registry.mark() != mark
    }

    /// The ways in which open requests explain the step, shortest first.
    fn explain(&mut self, step: &Step, probe: &Probe<'_>, touched: &mut Keys) -> Vec<Vec<usize>> {
        let candidates = self.candidates(step, touched);
        self.tries = 0;
        self.is_cut = candidates.len() > TOGETHER_MAX;
        let mut ways = Vec::new();
        for depth in 1..=TOGETHER_MAX.min(candidates.len()) {
            let mut way = Vec::new();
            self.search(step, probe, &candidates, depth, &mut way, &mut ways);
            if !ways.is_empty() {
                break;
            }
        }
        ways
    }

    fn search(
        &mut self,
        step: &Step,
        probe: &Probe<'_>,
        candidates: &[usize],
        depth: usize,
        way: &mut Vec<usize>,
        ways: &mut Vec<Vec<usize>>,
    ) {
        for place in candidates {
            if way.contains(place) || ways.len() >= WAYS_MAX {
                continue;
            }
            self.tries += 1;
            if self.tries > TRIES_MAX {
                self.is_cut = true;
                return;
            }
            let mark = self.registry.mark();
            let changes = self.apply_open(*place, step.now);
            // A request that does nothing here explains nothing, unless by its id.
            if self.registry.mark() != mark {
                way.push(*place);
                if depth > 1 {
                    self.search(step, probe, candidates, depth - 1, way, ways);
                } else if match probe {
                    Probe::Seen(seen) => !changes.is_empty() && same_changes(&changes, seen),
                    Probe::Write { .. } | Probe::Read { .. } | Probe::Shown { .. } => {
                        self.fits(probe, step.now).is_ok()
                    }
                } {
                    ways.push(way.clone());
                }
                way.pop();
            }
            self.registry.roll_back(mark);
        }
    }

    /// Open requests that touch the same rows, directly or through each other.
    fn candidates(&self, step: &Step, touched: &mut Keys) -> Vec<usize> {
        let mut found: BTreeSet<usize> = BTreeSet::new();
        let mut fresh: Vec<Key> = touched.iter().cloned().collect();
        while let Some(key) = fresh.pop() {
            for place in self.by_key.get(&key).into_iter().flatten() {
                let may = self.open.contains(place) && self.may_be_before(*place, step);
                if !may || !found.insert(*place) {
                    continue;
                }
                let Some(request) = self.timeline.requests.get(*place) else { continue };
                for key in keys::of_operation(&request.op, None) {
                    // Neighbours below one parent, or rows that expire, have nothing else in common.
                    if !matches!(key, Key::Parent(_) | Key::Expired) && touched.insert(key.clone())
                    {
                        fresh.push(key);
                    }
                }
            }
        }
        found.into_iter().collect()
    }

    /// Whether an open request can have taken effect by this step.
    fn may_be_before(&self, place: usize, step: &Step) -> bool {
        let floor = self.timeline.floors.get(place).copied().unwrap_or(0);
        let begun = self.timeline.requests.get(place).is_some_and(|r| r.invoked < step.line);
        begun && floor < step.revision
    }

    fn apply_open(&mut self, place: usize, now: Now) -> Vec<Change> {
        let Some(request) = self.timeline.requests.get(place) else { return Vec::new() };
        self.registry.apply(&request.op, request.id.as_deref(), now, None).changes
    }

    fn misfit(
        &self,
        number: usize,
        step: &Step,
        keys: Keys,
        expected: &str,
        told: &str,
    ) -> Box<Misfit> {
        let what = format!("revision {} does not fit the state before it", step.revision);
        let mut violation = Violation::new(what);
        if let Some((line, note)) = self.origin(number, &keys) {
            violation = violation.with(line, note);
        }
        let violation = violation.with(step.line, format!("expected {expected}, was told {told}"));
        Box::new(Misfit { step: number, keys, is_cut: self.is_cut, violation })
    }

    /// The last known write before a step that touches the same rows.
    fn origin(&self, number: usize, touched: &Keys) -> Option<(u64, String)> {
        let before = self.timeline.steps.get(..number)?;
        before.iter().rev().find_map(|step| {
            let What::Write(place) = step.what else { return None };
            let request = self.timeline.requests.get(place)?;
            let keys = keys::of_operation(&request.op, None);
            let is_row = |key: &&Key| {
                matches!(key, Key::Entry(_) | Key::Token(_) | Key::Agent(_) | Key::Relationship(_))
            };
            let meets = keys.iter().filter(is_row).any(|key| touched.contains(key));
            meets.then(|| {
                (step.line, format!("revision {}: {:?}", step.revision, request.op.kind()))
            })
        })
    }
}

fn touched(probe: &Probe<'_>) -> Keys {
    match probe {
        Probe::Write { op, request, told, seen } => {
            let mut touched = keys::of_operation(op, *request);
            keys::of_reply(told, &mut touched);
            touched.extend(seen.map(keys::of_changes).unwrap_or_default());
            touched
        }
        Probe::Seen(changes) => keys::of_changes(changes),
        Probe::Read { op, told } => {
            let mut touched = keys::of_operation(op, None);
            keys::of_reply(told, &mut touched);
            touched
        }
        Probe::Shown { id, entry, .. } => {
            let mut touched = Keys::from([Key::Entry((*id).to_owned())]);
            keys::of_reply(&Reply::Entry(entry.cloned()), &mut touched);
            touched
        }
    }
}

fn told(probe: &Probe<'_>) -> String {
    match probe {
        Probe::Write { told, seen: None, .. } | Probe::Read { told, .. } => format!("{told:?}"),
        Probe::Write { told, seen: Some(seen), .. } => {
            format!("{told:?}, and subscribers saw {seen:?}")
        }
        Probe::Shown { id, entry: None, .. } => format!("no entry {id} in the list"),
        Probe::Shown { entry: Some(entry), .. } => format!("{entry:?} in the list"),
        Probe::Seen(changes) => format!("changes {changes:?} of no known request"),
    }
}

/// How many rows of what `count` counts an operation may add and remove.
fn row_changes(op: &Operation, count: &Operation) -> (u64, u64) {
    let of_entries = matches!(count, Operation::CountEntries);
    match op {
        Operation::CreateEntries(entries) if of_entries => (entries.len() as u64, 0),
        Operation::DeleteEntries(ids) if of_entries => (0, ids.len() as u64),
        Operation::CreateToken(token) if of_entries => (u64::from(token.alias.is_some()), 0),
        // As many aliases as there are.
        Operation::DeleteAgent { .. } if of_entries => (0, u64::MAX),
        Operation::AdmitAgent(_) if !of_entries => (1, 0),
        Operation::DeleteAgent { .. } => (0, 1),
        Operation::PruneExpired(_) => (0, u64::MAX),
        Operation::InitCluster { .. }
        | Operation::CreateEntries(_)
        | Operation::UpdateEntries(_)
        | Operation::DeleteEntries(_)
        | Operation::GetEntry { .. }
        | Operation::ListEntries { .. }
        | Operation::CountEntries
        | Operation::CreateToken(_)
        | Operation::AdmitAgent(_)
        | Operation::SetPendingSerial { .. }
        | Operation::PromoteSerial { .. }
        | Operation::BanAgent { .. }
        | Operation::SetAgentVersion { .. }
        | Operation::GetAgent { .. }
        | Operation::CountAgents
        | Operation::CreateRelationships(_)
        | Operation::UpdateRelationships(_)
        | Operation::DeleteRelationships(_)
        | Operation::GetRelationship { .. } => (0, 0),
    }
}
