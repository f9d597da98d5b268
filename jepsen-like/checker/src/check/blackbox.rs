//! The black-box pass: every entry, token, agent and relationship is linearizable by itself, whatever revisions say.

use std::collections::{BTreeMap, BTreeSet};

use super::federation::{RelationshipObject, on_relationships};
use super::linear::{Interval, Linearity, Object, linearizable};
use super::registers::{AgentObject, EntryObject, TokenObject, on_agent, on_entries, on_token};
use super::requests::requests;
use crate::history::{Answer, History, Operation, Reply};
use crate::verdict::{CheckReport, Verdict, Violation};

/// Actions by key, each with the line that shows it best.
type Actions<A> = BTreeMap<String, Vec<(u64, Interval<A>)>>;

/// Lines of evidence that are shown around an action that fits nowhere.
const EVIDENCE_MAX: usize = 6;

/// Checks each object for itself; `steps_max` bounds the search for one.
pub fn blackbox(history: &History, steps_max: u64) -> CheckReport {
    let rows = Unstable::of(history);
    let (mut entries, mut tokens, mut agents) = (Actions::new(), Actions::new(), Actions::new());
    let mut relationships = Actions::new();
    for (op, reply, line, invoked, ended) in operations(history) {
        on_entries(op, reply, |id, action| {
            if !rows.entries.contains(id) {
                let interval = Interval { invoked, ended, action };
                entries.entry(id.to_owned()).or_insert_with(Vec::new).push((line, interval));
            }
        });
        on_relationships(op, reply, |name, action| {
            let interval = Interval { invoked, ended, action };
            relationships.entry(name.to_owned()).or_insert_with(Vec::new).push((line, interval));
        });
        if let Some((token, action)) = on_token(op, reply)
            && !rows.tokens.contains(token)
        {
            let interval = Interval { invoked, ended, action };
            tokens.entry(token.to_owned()).or_insert_with(Vec::new).push((line, interval));
        }
        if let Some((agent, action)) = on_agent(op, reply)
            && !rows.agents
        {
            let interval = Interval { invoked, ended, action };
            agents.entry(agent.to_owned()).or_insert_with(Vec::new).push((line, interval));
        }
    }
    let mut tally = Tally { steps_max, examined: 0, undecided: Vec::new() };
    let found = tally
        .all("entry", &EntryObject, &None, entries)
        .or_else(|| tally.all("token", &TokenObject, &false, tokens))
        .or_else(|| tally.all("agent", &AgentObject, &None, agents))
        .or_else(|| tally.all("relationship", &RelationshipObject, &None, relationships));
    let verdict = match (found, tally.undecided.as_slice()) {
        (Some(violation), _) => Verdict::Violation(violation),
        (None, []) => Verdict::Pass,
        (None, keys) => Verdict::Undecided(format!(
            "{steps_max} steps did not suffice for {}; use fewer clients a key",
            keys.join(", ")
        )),
    };
    let mut report = CheckReport::new("blackbox", tally.examined, verdict);
    let left_out = rows.entries.len() + rows.tokens.len();
    if left_out > 0 {
        report.notes.push(format!("{left_out} rows left out: aliases, or they can expire"));
    }
    report
}

struct Tally {
    steps_max: u64,
    examined: u64,
    undecided: Vec<String>,
}

impl Tally {
    fn all<O: Object>(
        &mut self,
        kind: &str,
        object: &O,
        start: &O::State,
        actions: Actions<O::Action>,
    ) -> Option<Violation>
    where
        O::Action: std::fmt::Debug,
    {
        for (key, rows) in actions {
            self.examined += rows.len() as u64;
            let (lines, intervals): (Vec<u64>, Vec<_>) = rows.into_iter().unzip();
            match linearizable(object, start.clone(), &intervals, self.steps_max) {
                Linearity::Linearizable => {}
                Linearity::Undecided => self.undecided.push(format!("{kind} {key}")),
                Linearity::Not { action } => {
                    let what = format!("{kind} {key} is not linearizable");
                    return Some(evidence(Violation::new(what), action, &lines, &intervals));
                }
            }
        }
        None
    }
}

/// The action that fits nowhere, and the last ones before it.
fn evidence<A: std::fmt::Debug>(
    mut violation: Violation,
    action: usize,
    lines: &[u64],
    intervals: &[Interval<A>],
) -> Violation {
    let end = intervals.get(action).map_or(u64::MAX, |interval| interval.ended);
    let mut near: Vec<(u64, String)> = lines
        .iter()
        .zip(intervals)
        .enumerate()
        .filter(|(place, (_, interval))| *place == action || interval.invoked < end)
        .map(|(place, (line, interval))| {
            let fits = if place == action { "fits nowhere: " } else { "" };
            (*line, format!("{fits}{:?}", interval.action))
        })
        .collect();
    near.sort();
    let skipped = near.len().saturating_sub(EVIDENCE_MAX);
    for (line, note) in near.into_iter().skip(skipped) {
        violation = violation.with(line, note);
    }
    violation
}

/// Requests and fresh reads with their intervals.
fn operations(
    history: &History,
) -> impl Iterator<Item = (&Operation, Option<&Reply>, u64, u64, u64)> {
    let writes = requests(history).into_iter().filter_map(|request| {
        let begun = history.calls.binary_search_by_key(&request.invoked, |call| call.invoked);
        let call = history.calls.get(request.known.or(begun.ok())?)?;
        let line = request.known.map_or(request.invoked, |_| call.line());
        Some((call.op.as_ref(), call.reply(), line, request.invoked, request.ended))
    });
    let reads = history.calls.iter().filter(|call| call.is_fresh_read());
    let reads = reads.filter_map(|call| {
        Some((call.op.as_ref(), Some(call.reply()?), call.line(), call.invoked, call.ended()))
    });
    writes.chain(reads)
}

/// Rows that can go without a word about them.
#[derive(Default)]
struct Unstable {
    entries: BTreeSet<String>,
    tokens: BTreeSet<String>,
    agents: bool,
}

impl Unstable {
    fn of(history: &History) -> Self {
        let prunes = |call: &crate::history::Call| matches!(*call.op, Operation::PruneExpired(_));
        let is_pruned = history.header.background_prune || history.calls.iter().any(prunes);
        let times = history.calls.iter().filter_map(|call| match call.answer {
            Answer::Ok { time_ms, .. } => time_ms,
            Answer::Failed | Answer::Unknown => None,
        });
        let end_ms = times.max().unwrap_or(i64::MAX);
        let prunes_agents = |call: &crate::history::Call| matches!(*call.op, Operation::PruneExpired(prune) if prune.agents_expired_for_s.is_some());
        let agents = history.header.background_prune || history.calls.iter().any(prunes_agents);
        let mut found = Self { agents, ..Self::default() };
        for call in &history.calls {
            match call.op.as_ref() {
                Operation::CreateEntries(entries) => {
                    let unstable = entries.iter().filter(|entry| {
                        (is_pruned && entry.expires_at_s != 0)
                            || entry.selectors.iter().any(|s| s.starts_with(ALIAS))
                    });
                    found.entries.extend(unstable.map(|entry| entry.id.clone()));
                }
                Operation::UpdateEntries(updates) => {
                    let unstable = updates.iter().filter(|update| {
                        (is_pruned && update.expires_at_s.is_some_and(|at| at != 0))
                            || update.selectors.iter().flatten().any(|s| s.starts_with(ALIAS))
                    });
                    found.entries.extend(unstable.map(|update| update.id.clone()));
                }
                Operation::CreateToken(token) => {
                    found.entries.extend(token.alias.iter().map(|alias| alias.id.clone()));
                    if is_pruned && token.expires_at_ms <= end_ms {
                        found.tokens.insert(token.token.clone());
                    }
                }
                Operation::InitCluster { .. }
                | Operation::DeleteEntries(_)
                | Operation::GetEntry { .. }
                | Operation::ListEntries { .. }
                | Operation::CountEntries
                | Operation::AdmitAgent(_)
                | Operation::SetPendingSerial { .. }
                | Operation::PromoteSerial { .. }
                | Operation::BanAgent { .. }
                | Operation::DeleteAgent { .. }
                | Operation::SetAgentVersion { .. }
                | Operation::GetAgent { .. }
                | Operation::CountAgents
                | Operation::CreateRelationships(_)
                | Operation::UpdateRelationships(_)
                | Operation::DeleteRelationships(_)
                | Operation::GetRelationship { .. }
                | Operation::PruneExpired(_) => {}
            }
        }
        found
    }
}

/// How the selector of an alias entry begins.
const ALIAS: &str = "spiffe_id:";
