//! Valid histories with one lie each: every lie is found, by the check it belongs to.

use std::collections::BTreeMap;
use std::sync::Arc;

use steeple_checker::history::*;
use steeple_checker::*;

use crate::generator::{Rng, Shape, valid};
use crate::valid::settings;

type Mutation = fn(&mut Vec<Line>, &mut Rng) -> Option<()>;

/// A lie, and the check that must say so; "reader" for histories that are none.
const MUTATIONS: &[(&str, Mutation, &str)] = &[
    ("stale read at its revision", stale_value, "witness"),
    ("stale read, black box", stale_value, "blackbox"),
    ("read reflects an older revision", stale_revision, "witness"),
    ("client's revisions go back", stale_revision_of_client, "sessions"),
    ("acknowledged create is lost", lost_create, "witness"),
    ("acknowledged create is lost, black box", lost_create, "blackbox"),
    ("token is spent twice", token_twice, "token_once"),
    ("token is spent twice, black box", token_twice, "blackbox"),
    ("deleted entry returns", resurrected, "witness"),
    ("deleted entry returns, black box", resurrected, "blackbox"),
    ("revisions of two writes are swapped", swapped, "witness"),
    ("two writes share a revision", shared, "witness"),
    ("feed batch is dropped", dropped_batch, "feed"),
    ("feed batch comes twice", doubled_batch, "feed"),
    ("feed batches change places", reordered_batches, "feed"),
    ("subscriber resumes elsewhere", wrong_resume, "feed"),
    ("feed batch has another content", other_batch, "witness"),
    ("feed shows what no one did", phantom_batch, "witness"),
    ("bundle sequence goes back", bundle_back, "bundle"),
    ("two bundles have one sequence", bundle_twice, "bundle"),
    ("state hash differs", other_hash, "state_hash"),
    ("reply comes before its call", reply_first, "reader"),
    ("write ends before a read that lacks it", early_reply, "witness"),
    ("unknown write is called ok", unknown_is_ok, "witness"),
    ("applied write is called failed", ok_is_failed, "witness"),
    ("retry has another outcome", other_outcome, "idempotency"),
    ("request id decides two bodies", two_bodies, "idempotency"),
    ("banned agent is served", banned_is_served, "bans"),
    ("banned agent is served, witness", banned_is_served, "witness"),
    ("banned agent is served, black box", banned_is_served, "blackbox"),
    ("list lacks an entry", short_list, "lists"),
    ("list lacks an entry, witness", short_list, "witness"),
    ("list shows an entry twice", double_list, "lists"),
    ("list shows a phantom", phantom_list, "lists"),
    ("count is wrong", wrong_count, "witness"),
    ("relationship is another", other_relationship, "witness"),
    ("relationship is another, black box", other_relationship, "blackbox"),
    ("created relationship is lost", lost_relationship, "witness"),
    ("created relationship is lost, black box", lost_relationship, "blackbox"),
    ("cluster time goes back", time_back, "witness"),
];

const SEEDS: u64 = 20;

#[test]
fn every_lie_is_found_by_the_check_it_belongs_to() {
    let mut missed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, mutate, check_name) in MUTATIONS {
        let (mut tried, mut caught) = (0, 0);
        for seed in 0..SEEDS {
            // Rows that expire have excuses, so the black box leaves them out.
            let shape = Shape { lost: 2, expiring: *check_name == "witness", ..Shape::default() };
            let mut lines = valid(seed, shape);
            let mut rng = Rng(seed);
            if mutate(&mut lines, &mut rng).is_none() {
                continue;
            }
            tried += 1;
            (0..).zip(&mut lines).for_each(|(at, line)| line.at_ns = at);
            let report = match History::from_lines(lines) {
                Ok(history) => check(&history, &settings()),
                Err(_) => {
                    assert_eq!(*check_name, "reader", "{name}");
                    caught += 1;
                    continue;
                }
            };
            let verdict = report.verdict_of(check_name);
            if matches!(verdict, Some(Verdict::Violation(v)) if !v.evidence.is_empty()) {
                caught += 1;
            } else {
                let line = format!("seed {seed}: {verdict:?}, overall {}", report.overall().word());
                missed.entry(name).or_default().push(line);
            }
            assert!(!report.overall().is_pass(), "{name}, seed {seed}: passes");
        }
        println!("{name}: {caught} of {tried} by {check_name}");
        assert!(tried >= 10, "{name} applies to {tried} of {SEEDS} seeds only");
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// A call's lines and what they say.
struct Found {
    invoke: usize,
    complete: usize,
    op: Operation,
    client: u64,
    request: Option<String>,
    outcome: Outcome,
}

impl Found {
    fn revision(&self) -> u64 {
        if let Outcome::Ok { revision, .. } = self.outcome { revision } else { 0 }
    }
    fn reply(&self) -> Option<&Reply> {
        if let Outcome::Ok { reply, .. } = &self.outcome { Some(reply) } else { None }
    }
    /// The only item of an ok batch of one.
    fn item(&self) -> Option<&ItemReply> {
        match self.reply() {
            Some(Reply::Items(items)) if items.len() == 1 => items.first(),
            _ => None,
        }
    }
    /// Whether the request was made once.
    fn is_single(&self, all: &[Found]) -> bool {
        self.request.is_none() || all.iter().filter(|f| f.request == self.request).count() == 1
    }
}

fn calls(lines: &[Line]) -> Vec<Found> {
    let mut open = BTreeMap::new();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        match &line.event {
            Event::Invoke(invoke) => {
                open.insert(invoke.call, (at, invoke.clone()));
            }
            Event::Complete(complete) => {
                let (start, invoke) = open.remove(&complete.call).unwrap();
                found.push(Found {
                    invoke: start,
                    complete: at,
                    op: invoke.op,
                    client: invoke.client,
                    request: invoke.request_id,
                    outcome: complete.outcome.clone(),
                });
            }
            _ => {}
        }
    }
    found
}

fn set(lines: &mut [Line], at: usize, change: impl FnOnce(&mut u64, &mut Reply, &mut Option<i64>)) {
    let Event::Complete(Complete { outcome, .. }) = &mut lines[at].event else { unreachable!() };
    let Outcome::Ok { revision, reply, time_ms, .. } = outcome else { unreachable!() };
    change(revision, reply, time_ms);
}

/// Adds a call of a new client at the end.
fn add(lines: &mut Vec<Line>, op: Operation, revision: u64, reply: Reply) {
    let call = 1_000_000 + lines.len() as u64;
    let line = |event| Line { at_ns: 0, wall_ms: 0, event };
    let (client, member, request_id) = (call, None, None);
    lines.push(line(Event::Invoke(Invoke { client, call, member, request_id, op })));
    let outcome = Outcome::Ok { revision, time_ms: None, stale: false, reply };
    lines.push(line(Event::Complete(Complete { call, outcome })));
}

fn top(lines: &[Line]) -> u64 {
    calls(lines).iter().map(Found::revision).max().unwrap_or(0)
}

/// Entries that no request of unknown outcome touches, so that a lie about them can have no excuse.
fn is_quiet(all: &[Found], id: &str) -> bool {
    let text = format!("\"{id}\"");
    let unsure = all.iter().filter(|f| !matches!(f.outcome, Outcome::Ok { .. }));
    !unsure.map(|f| serde_json::to_string(&f.op).unwrap()).any(|op| op.contains(&text))
}

/// (read, entry it shows) of reads that show something.
fn shown(all: &[Found]) -> Vec<(&Found, Arc<Entry>)> {
    let entry = |f: &'_ Found| match f.reply() {
        Some(Reply::Entry(Some(entry))) if is_quiet(all, &entry.id) => Some(Arc::clone(entry)),
        _ => None,
    };
    all.iter().filter_map(|f| Some((f, entry(f)?))).collect()
}

fn stale_value(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let reads: Vec<_> = shown(&all).into_iter().filter(|(_, e)| e.revision > 0).collect();
    let (read, entry) = rng.pick(&reads)?;
    let old = Entry { revision: entry.revision - 1, hint: "old".into(), ..entry.as_ref().clone() };
    set(lines, read.complete, |_, reply, _| *reply = Reply::Entry(Some(Arc::new(old))));
    Some(())
}

fn stale_revision(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let reads: Vec<_> = all.iter().filter(|f| matches!(f.reply(), Some(Reply::Entry(_)))).collect();
    let read = rng.pick(&reads)?;
    let floor = all.iter().filter(|f| f.complete < read.invoke).map(Found::revision).max()?;
    set(lines, read.complete, |revision, _, _| *revision = floor.saturating_sub(1));
    Some(())
}

fn stale_revision_of_client(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let reads: Vec<_> = all.iter().filter(|f| matches!(f.reply(), Some(Reply::Entry(_)))).collect();
    let read = rng.pick(&reads)?;
    let mut before = all.iter().filter(|f| f.client == read.client && f.complete < read.invoke);
    let last = before.rfind(|f| {
        f.revision() > 0 && f.is_single(&all) && !matches!(f.op, Operation::ListEntries { .. })
    })?;
    let floor = last.revision();
    set(lines, read.complete, |revision, _, _| *revision = floor - 1);
    Some(())
}

fn lost_create(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let reads = shown(&all);
    // The create must have ended, and nothing may be at work that could remove the entry.
    let sure: Vec<_> = reads
        .iter()
        .filter(|(read, entry)| {
            let made = all.iter().any(|f| {
                f.complete < read.invoke
                    && matches!(f.item(), Some(ItemReply::Created(e)) if e.id == entry.id)
            });
            let busy = all.iter().any(|f| {
                f.invoke < read.complete
                    && f.complete > read.invoke
                    && f.op.is_write()
                    && serde_json::to_string(&f.op).unwrap().contains(&format!("\"{}\"", entry.id))
            });
            made && !busy
        })
        .collect();
    let (read, _) = rng.pick(&sure)?;
    set(lines, read.complete, |_, reply, _| *reply = Reply::Entry(None));
    Some(())
}

fn relationships(all: &[Found]) -> Vec<(&Found, &Arc<Relationship>)> {
    let shown = |found| match Found::reply(found) {
        Some(Reply::Relationship(Some(relationship))) => Some((found, relationship)),
        _ => None,
    };
    all.iter().filter_map(shown).collect()
}

fn other_relationship(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let reads = relationships(&all);
    let (read, shown) = rng.pick(&reads)?;
    let other = Relationship { endpoint_url: "lie".into(), ..shown.as_ref().clone() };
    set(lines, read.complete, |_, reply, _| {
        *reply = Reply::Relationship(Some(Arc::new(other)));
    });
    Some(())
}

/// What a read shows was written before it, and nothing may be at work meanwhile.
fn lost_relationship(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let sure: Vec<_> = relationships(&all)
        .into_iter()
        .filter(|(read, shown)| {
            let name = format!("\"{}\"", shown.trust_domain);
            let about = |f: &&Found| {
                f.op.is_write() && serde_json::to_string(&f.op).unwrap().contains(&name)
            };
            let unknown = |f: &Found| matches!(f.outcome, Outcome::Unknown { .. });
            let made = all.iter().any(|f| {
                f.complete < read.invoke
                    && matches!(f.item(), Some(ItemReply::Federated(e)) if e == *shown)
            });
            let busy = all
                .iter()
                .filter(about)
                .any(|f| f.invoke < read.complete && (unknown(f) || f.complete > read.invoke));
            made && !busy
        })
        .collect();
    let (read, _) = rng.pick(&sure)?;
    set(lines, read.complete, |_, reply, _| *reply = Reply::Relationship(None));
    Some(())
}

fn token_twice(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let is_admission = |f: &&Found| {
        matches!((&f.op, f.reply()), (Operation::AdmitAgent(Admission { token: Some(t), .. }), Some(Reply::Done)) if {
            let stored = all.iter().filter(|f| matches!(&f.op, Operation::CreateToken(c) if c.token == *t) && matches!(f.outcome, Outcome::Unknown { .. } | Outcome::Ok { reply: Reply::Done, .. }));
            stored.count() == 1
        })
    };
    let spent: Vec<_> = all.iter().filter(is_admission).collect();
    let Operation::AdmitAgent(admission) = &rng.pick(&spent)?.op else { unreachable!() };
    let again = Admission {
        agent_id: "spy".into(),
        public_key: "spy".into(),
        serial: "999".into(),
        seen: Seen::Absent,
        ..admission.clone()
    };
    let revision = top(lines) + 1;
    add(lines, Operation::AdmitAgent(again), revision, Reply::Done);
    Some(())
}

fn resurrected(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let gone: Vec<Arc<Entry>> = all
        .iter()
        .filter_map(|f| match f.item() {
            Some(ItemReply::Created(entry)) => Some(Arc::clone(entry)),
            _ => None,
        })
        .filter(|entry| is_quiet(&all, &entry.id) && entry.expires_at_s == 0)
        .filter(|entry| {
            let last = all.iter().rev().find(|f| {
                matches!(&f.op, Operation::GetEntry { id } if *id == entry.id) && f.client == 1_000
            });
            last.is_some_and(|f| f.reply() == Some(&Reply::Entry(None)))
        })
        .collect();
    let entry = rng.pick(&gone)?;
    let (revision, op) = (top(lines), Operation::GetEntry { id: entry.id.clone() });
    add(lines, op, revision, Reply::Entry(Some(Arc::clone(entry))));
    Some(())
}

/// Pairs of single writes of which the first ended before the second began.
fn write_pairs(all: &[Found]) -> Vec<(&Found, &Found)> {
    let writes: Vec<_> =
        all.iter().filter(|f| f.op.is_write() && f.revision() > 0 && f.is_single(all)).collect();
    let pairs = writes.windows(2).map(|pair| (pair[0], pair[1]));
    pairs.filter(|(a, b)| a.complete < b.invoke).collect()
}

fn swapped(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let (a, b) = *rng.pick(&write_pairs(&all))?;
    set(lines, a.complete, |revision, _, _| *revision = b.revision());
    set(lines, b.complete, |revision, _, _| *revision = a.revision());
    Some(())
}

fn shared(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let (a, b) = *rng.pick(&write_pairs(&all))?;
    set(lines, b.complete, |revision, _, _| *revision = a.revision());
    Some(())
}

/// Lines of batches with changes, with revision, that are neither a subscriber's first nor last and
/// stand between two batches.
fn batches(lines: &[Line], reader: &str) -> Vec<(usize, u64, bool)> {
    let of = lines.iter().enumerate().filter_map(|(at, line)| match &line.event {
        Event::Feed(Feed { subscriber, step }) if subscriber == reader => Some((at, step)),
        _ => None,
    });
    of.map(|(at, step)| match step {
        FeedStep::Batch { revision, changes } => (at, *revision, !changes.is_empty()),
        FeedStep::Start { .. } | FeedStep::Resume { .. } => (at, 0, false),
    })
    .collect()
}

/// A batch with changes of an ok write between two other batches.
fn inner_batch(lines: &[Line], rng: &mut Rng) -> Option<usize> {
    let ok: Vec<u64> = calls(lines).iter().map(Found::revision).collect();
    let all = batches(lines, "r0");
    let inner =
        all.windows(3).filter(|w| w[1].2 && w[0].1 > 0 && w[2].1 > 0 && ok.contains(&w[1].1));
    let inner: Vec<usize> = inner.map(|w| w[1].0).collect();
    rng.pick(&inner).copied()
}

fn dropped_batch(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let at = inner_batch(lines, rng)?;
    lines.remove(at);
    Some(())
}

fn doubled_batch(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let at = inner_batch(lines, rng)?;
    lines.insert(at + 1, lines[at].clone());
    Some(())
}

fn reordered_batches(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let at = inner_batch(lines, rng)?;
    let next = batches(lines, "r0").into_iter().find(|(other, ..)| *other > at)?;
    lines.swap(at, next.0);
    Some(())
}

fn wrong_resume(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let at = inner_batch(lines, rng)?;
    let Event::Feed(feed) = &mut lines[at].event else { unreachable!() };
    let FeedStep::Batch { revision, .. } = feed.step else { unreachable!() };
    feed.step = FeedStep::Resume { revision };
    Some(())
}

fn other_batch(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let at = inner_batch(lines, rng)?;
    let Event::Feed(Feed { step: FeedStep::Batch { revision, .. }, .. }) = lines[at].event else {
        unreachable!()
    };
    for line in lines {
        if let Event::Feed(Feed { step: FeedStep::Batch { revision: r, changes }, .. }) =
            &mut line.event
            && *r == revision
        {
            *changes = vec![Change::AgentDeleted { id: "nobody".into() }];
        }
    }
    Some(())
}

fn phantom_batch(lines: &mut Vec<Line>, _: &mut Rng) -> Option<()> {
    let revision = top(lines) + 50;
    let entry = Arc::new(Entry { id: "phantom".into(), ..Entry::default() });
    for step in [
        FeedStep::Start { revision: 10 },
        FeedStep::Batch { revision, changes: vec![Change::EntryWritten(entry)] },
    ] {
        let event = Event::Feed(Feed { subscriber: "r9".into(), step });
        lines.push(Line { at_ns: 0, wall_ms: 0, event });
    }
    Some(())
}

fn bundle_back(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let seen: Vec<Line> =
        lines.iter().filter(|l| matches!(&l.event, Event::Bundle(_))).cloned().collect();
    let mut line = rng.pick(&seen)?.clone();
    if let Event::Bundle(bundle) = &mut line.event {
        bundle.sequence = 0;
        bundle.digest = "d0".into();
    }
    lines.push(line);
    Some(())
}

fn bundle_twice(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let seen: Vec<Line> =
        lines.iter().filter(|l| matches!(&l.event, Event::Bundle(_))).cloned().collect();
    let mut line = rng.pick(&seen)?.clone();
    if let Event::Bundle(bundle) = &mut line.event {
        bundle.observer = "another".into();
        bundle.digest = "forged".into();
    }
    lines.push(line);
    Some(())
}

fn other_hash(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let seen: Vec<Line> =
        lines.iter().filter(|l| matches!(&l.event, Event::StateHash(_))).cloned().collect();
    let mut line = rng.pick(&seen)?.clone();
    if let Event::StateHash(hash) = &mut line.event {
        hash.member = "m9".into();
        hash.hash = "other".into();
    }
    lines.push(line);
    Some(())
}

fn reply_first(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let call = rng.pick(&all)?;
    let line = lines.remove(call.complete);
    lines.insert(call.invoke, line);
    Some(())
}

fn early_reply(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let mut pairs = Vec::new();
    for write in all.iter().filter(|f| f.op.is_write() && f.revision() > 0 && f.is_single(&all)) {
        for read in all.iter().filter(|f| matches!(f.reply(), Some(Reply::Entry(_)))) {
            if write.invoke < read.invoke
                && read.invoke < write.complete
                && read.revision() < write.revision()
            {
                pairs.push((write.complete, read.invoke));
            }
        }
    }
    let (complete, before) = *rng.pick(&pairs)?;
    let line = lines.remove(complete);
    lines.insert(before, line);
    Some(())
}

fn unknown_is_ok(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let lost: Vec<_> = all
        .iter()
        .filter(|f| matches!(f.outcome, Outcome::Unknown { .. }) && f.is_single(&all))
        .filter(|f| f.op.is_write() && !matches!(f.op, Operation::PruneExpired(_)))
        .collect();
    let call = rng.pick(&lost)?;
    let reply = match &call.op {
        Operation::CreateEntries(e) => {
            Reply::Items(e.iter().map(|e| ItemReply::Created(Arc::new(e.clone()))).collect())
        }
        Operation::UpdateEntries(u) => Reply::Items(u.iter().map(|_| ItemReply::Deleted).collect()),
        Operation::DeleteEntries(i) => Reply::Items(i.iter().map(|_| ItemReply::Deleted).collect()),
        // Each is about one.
        Operation::CreateRelationships(_)
        | Operation::UpdateRelationships(_)
        | Operation::DeleteRelationships(_) => Reply::Items(vec![ItemReply::Deleted]),
        _ => Reply::Done,
    };
    let revision = top(lines) + 1;
    let Event::Complete(complete) = &mut lines[call.complete].event else { unreachable!() };
    complete.outcome = Outcome::Ok { revision, time_ms: None, stale: false, reply };
    Some(())
}

fn ok_is_failed(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    // An update whose result a later read shows.
    let reads = shown(&all);
    let seen: Vec<_> = all
        .iter()
        .filter(|f| f.is_single(&all))
        .filter(|f| match f.item() {
            Some(ItemReply::Updated(entry)) => reads.iter().any(|(_, e)| e == entry),
            _ => false,
        })
        .collect();
    let call = rng.pick(&seen)?;
    let Event::Complete(complete) = &mut lines[call.complete].event else { unreachable!() };
    complete.outcome = Outcome::Failed { text: String::new() };
    Some(())
}

fn other_outcome(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let single: Vec<_> =
        all.iter().filter(|f| f.op.is_write() && f.revision() > 0 && f.request.is_some()).collect();
    let call = rng.pick(&single)?;
    let revision = top(lines) + 1;
    add(lines, call.op.clone(), revision, call.reply()?.clone());
    let at = lines.len() - 2;
    if let Event::Invoke(invoke) = &mut lines[at].event {
        invoke.request_id = call.request.clone();
    }
    Some(())
}

fn two_bodies(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    other_outcome(lines, rng)?;
    let at = lines.len() - 2;
    if let Event::Invoke(invoke) = &mut lines[at].event {
        invoke.op = Operation::BanAgent { agent_id: "another".into() };
    }
    set(lines, at + 1, |_, reply, _| *reply = Reply::Done);
    Some(())
}

fn banned_is_served(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let bans: Vec<_> = all
        .iter()
        .filter_map(|f| match (&f.op, f.reply()) {
            (Operation::BanAgent { agent_id }, Some(Reply::Done)) => Some((f, agent_id)),
            _ => None,
        })
        .filter(|(ban, id)| {
            is_quiet(&all, id)
                && !all.iter().any(|f| {
                    matches!(&f.op, Operation::DeleteAgent { agent_id } if agent_id == *id)
                        && f.complete > ban.invoke
                })
        })
        .collect();
    let (_, id) = rng.pick(&bans)?;
    let revision = top(lines) + 1;
    let op = Operation::SetPendingSerial {
        agent_id: (*id).clone(),
        seen: Seen::Any,
        pending: "77".into(),
        not_after_ms: None,
    };
    add(lines, op, revision, Reply::Done);
    Some(())
}

/// The entries at the end.
fn last_entries(all: &[Found]) -> Option<Vec<Arc<Entry>>> {
    match all.last()?.reply()? {
        Reply::Page(page) => Some(page.entries.clone()),
        _ => None,
    }
}

fn end_list(lines: &mut Vec<Line>, entries: Vec<Arc<Entry>>) {
    let op = Operation::ListEntries { listing: u64::MAX, first: true, filter: Filter::default() };
    let revision = top(lines);
    add(lines, op, revision, Reply::Page(Page { entries, last: true }));
}

fn short_list(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let mut entries = last_entries(&all)?;
    // Only what one clean create made and nothing else ever touched is sure for every check.
    let sure: Vec<usize> = (0..entries.len())
        .filter(|at| {
            let id = &entries[*at].id;
            let text = format!("\"{id}\"");
            let writes = all.iter().filter(|f| {
                f.op.is_write() && serde_json::to_string(&f.op).unwrap().contains(&text)
            });
            let kinds: Vec<_> = writes.collect();
            is_quiet(&all, id)
                && entries[*at].expires_at_s == 0
                && kinds.iter().all(|f| {
                    !matches!(f.op, Operation::DeleteEntries(_))
                        || kinds.iter().any(|c| {
                            matches!(c.item(), Some(ItemReply::Created(_))) && c.invoke > f.complete
                        })
                })
                && kinds.iter().any(|c| {
                    matches!(c.item(), Some(ItemReply::Created(_)))
                        && kinds.iter().all(|f| {
                            let is_delete = matches!(f.op, Operation::DeleteEntries(_));
                            f.complete <= c.invoke
                                || f.invoke == c.invoke
                                || (f.invoke > c.complete && !is_delete)
                        })
                })
        })
        .collect();
    entries.remove(*rng.pick(&sure)?);
    end_list(lines, entries);
    Some(())
}

fn double_list(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let mut entries = last_entries(&calls(lines))?;
    entries.push(Arc::clone(rng.pick(&entries)?));
    end_list(lines, entries);
    Some(())
}

fn phantom_list(lines: &mut Vec<Line>, _: &mut Rng) -> Option<()> {
    let mut entries = last_entries(&calls(lines))?;
    entries.push(Arc::new(Entry { id: "phantom".into(), ..Entry::default() }));
    end_list(lines, entries);
    Some(())
}

fn wrong_count(lines: &mut Vec<Line>, _: &mut Rng) -> Option<()> {
    let revision = top(lines);
    add(lines, Operation::CountEntries, revision, Reply::Count(1_000_000));
    Some(())
}

fn time_back(lines: &mut Vec<Line>, rng: &mut Rng) -> Option<()> {
    let all = calls(lines);
    let (a, b) = *rng.pick(&write_pairs(&all))?;
    let _ = a;
    set(lines, b.complete, |_, _, time| *time = Some(1));
    Some(())
}
