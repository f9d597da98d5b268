//! The steps of a history in the order of their revisions, with what real time says about them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::requests::{Request, requests};
use crate::history::{Answer, CallId, Change, Entry, FeedStep, Filter, History, Operation, Reply};
use crate::model::Now;
use crate::verdict::Violation;

/// Something that must fit the state at its revision.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) revision: u64,
    /// The line that shows it.
    pub(super) line: u64,
    pub(super) now: Now,
    pub(super) what: What,
}

/// What a step is. Writes come before reads of the same revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A request whose decision is known; its place in [`Timeline::requests`].
    Write(usize),
    /// Changes that a subscriber saw, of no known request.
    Seen(Vec<Change>),
    /// A read.
    Read(CallId),
    /// A whole list.
    List(Filter, Vec<Arc<Entry>>),
}

/// All steps.
#[derive(Debug)]
pub(super) struct Timeline<'a> {
    pub(super) history: &'a History,
    pub(super) requests: Vec<Request>,
    /// By request: the highest revision acknowledged before it was first invoked.
    pub(super) floors: Vec<u64>,
    pub(super) steps: Vec<Step>,
    /// What subscribers saw at the revisions of known writes.
    pub(super) seen: HashMap<u64, (u64, &'a [Change])>,
}

/// An acknowledged revision and its line.
type Acknowledged = (u64, u64);

impl<'a> Timeline<'a> {
    /// Sorts a history; real time and uniqueness are checked on the way.
    pub(super) fn of(history: &'a History) -> Result<Self, Violation> {
        let requests = requests(history);
        let acknowledged = acknowledged(history);
        let floor = |line: u64| {
            let before = acknowledged.partition_point(|(ended, _)| *ended < line);
            before.checked_sub(1).and_then(|last| acknowledged.get(last)).map(|(_, best)| *best)
        };
        real_time(history, &requests, floor)?;
        let floors = requests.iter().map(|r| floor(r.invoked).map_or(0, |best| best.0)).collect();
        let mut timeline =
            Self { history, requests, floors, steps: Vec::new(), seen: HashMap::new() };
        timeline.add_writes()?;
        timeline.add_reads();
        timeline.add_seen();
        let class = |what: &What| match what {
            What::Write(_) | What::Seen(_) => 0,
            What::Read(_) | What::List(..) => 1,
        };
        timeline.steps.sort_by_key(|step| (step.revision, class(&step.what), step.line));
        timeline.add_times()?;
        Ok(timeline)
    }

    fn add(&mut self, revision: u64, line: u64, what: What) {
        let now = Now { low: i64::MIN, high: i64::MAX };
        self.steps.push(Step { revision, line, now, what });
    }

    fn add_writes(&mut self) -> Result<(), Violation> {
        let mut owner: HashMap<u64, CallId> = HashMap::new();
        for place in 0..self.requests.len() {
            let known = self.requests.get(place).and_then(|request| request.known);
            let Some((id, call)) = known.and_then(|id| Some((id, self.history.calls.get(id)?)))
            else {
                continue;
            };
            let revision = call.revision().unwrap_or(0);
            if let Some(other) =
                owner.insert(revision, id).and_then(|id| self.history.calls.get(id))
            {
                return Err(Violation::new(format!("two writes have revision {revision}"))
                    .with(other.line(), format!("{:?}", other.op.kind()))
                    .with(call.line(), format!("{:?}", call.op.kind())));
            }
            self.add(revision, call.line(), What::Write(place));
        }
        Ok(())
    }

    fn add_reads(&mut self) {
        let mut listings: BTreeMap<u64, Vec<CallId>> = BTreeMap::new();
        for (id, call) in self.history.calls.iter().enumerate() {
            if call.op.is_write() {
                continue;
            }
            if let Operation::ListEntries { listing, .. } = call.op.as_ref() {
                listings.entry(*listing).or_default().push(id);
            } else if let Some(revision) = call.revision() {
                self.add(revision, call.line(), What::Read(id));
            }
        }
        for pages in listings.values() {
            if let Some((revision, line, what)) = whole_list(self.history, pages) {
                self.add(revision, line, what);
            }
        }
    }

    fn add_seen(&mut self) {
        let writes: std::collections::HashSet<u64> = self
            .steps
            .iter()
            .filter(|s| matches!(s.what, What::Write(_)))
            .map(|s| s.revision)
            .collect();
        for (line, feed) in &self.history.feeds {
            let FeedStep::Batch { revision, changes } = &feed.step else { continue };
            let is_new = self.seen.insert(*revision, (*line, changes)).is_none();
            let is_known = changes.iter().any(crate::model::compare::is_known);
            if is_new && is_known && !writes.contains(revision) {
                self.add(*revision, *line, What::Seen(changes.clone()));
            }
        }
    }

    /// Tells each step what is known of cluster time there.
    fn add_times(&mut self) -> Result<(), Violation> {
        let known = |step: &Step| {
            let What::Write(place) = step.what else { return None };
            let call = self.history.calls.get(self.requests.get(place)?.known?)?;
            let Answer::Ok { time_ms, .. } = call.answer else { return None };
            time_ms
        };
        let times: Vec<Option<i64>> = self.steps.iter().map(known).collect();
        let mut last: Option<(i64, u64)> = None;
        for (step, time) in self.steps.iter_mut().zip(&times) {
            if let (Some((before, line)), Some(time)) = (last, time)
                && *time < before
            {
                return Err(Violation::new("cluster time went back")
                    .with(line, format!("time {before}"))
                    .with(step.line, format!("revision {}: time {time}", step.revision)));
            }
            last = time.map(|time| (time, step.line)).or(last);
            step.now.low = last.map_or(i64::MIN / 2, |(time, _)| time);
        }
        let mut next = i64::MAX;
        for (step, time) in self.steps.iter_mut().zip(&times).rev() {
            next = time.unwrap_or(next);
            step.now.high = next;
        }
        Ok(())
    }
}

/// By line: the highest revision acknowledged up to it, and the line that did so.
fn acknowledged(history: &History) -> Vec<(u64, Acknowledged)> {
    let ended = |call: &crate::history::Call| Some((call.completed?, call.revision()?));
    let mut all: Vec<(u64, u64)> =
        history.calls.iter().filter(|call| !call.is_stale()).filter_map(ended).collect();
    all.sort_unstable();
    let mut best = (0, 0);
    all.into_iter()
        .map(|(line, revision)| {
            best = best.max((revision, line));
            (line, best)
        })
        .collect()
}

/// No reply reflects a state from before what was acknowledged when its call began; a write is
/// strictly behind it.
fn real_time(
    history: &History,
    requests: &[Request],
    floor: impl Fn(u64) -> Option<Acknowledged>,
) -> Result<(), Violation> {
    let reads = history.calls.iter().filter(|call| call.is_fresh_read());
    let reads = reads.filter_map(|call| Some((call, call.invoked, call.revision()?, false)));
    let writes = requests.iter().filter_map(|request| {
        let call = history.calls.get(request.known?)?;
        Some((call, request.invoked, call.revision()?, true))
    });
    for (call, invoked, revision, is_write) in reads.chain(writes) {
        let Some((best, line)) = floor(invoked) else { continue };
        if revision < best || (is_write && revision == best) {
            return Err(Violation::new(format!(
                "revision {revision} of a reply is not after {best}, acknowledged before its call began"
            ))
            .with(line, format!("acknowledges revision {best}"))
            .with(invoked, "the call begins")
            .with(call.line(), format!("its reply reflects revision {revision}")));
        }
    }
    Ok(())
}

/// A listing whose pages all show one state, as one step.
fn whole_list(history: &History, pages: &[CallId]) -> Option<(u64, u64, What)> {
    let mut entries = Vec::new();
    let mut state: Option<(u64, u64, &Filter)> = None;
    let mut is_whole = false;
    for id in pages {
        let call = history.calls.get(*id)?;
        let (Operation::ListEntries { first, filter, .. }, Some(Reply::Page(page))) =
            (call.op.as_ref(), call.reply())
        else {
            return None;
        };
        let revision = call.revision()?;
        if state.is_none() != *first || is_whole || state.is_some_and(|s| s.0 != revision) {
            return None;
        }
        state = Some((revision, call.line(), filter));
        entries.extend(page.entries.iter().cloned());
        is_whole = page.last;
    }
    let (revision, line, filter) = state.filter(|_| is_whole)?;
    Some((revision, line, What::List(filter.clone(), entries)))
}
