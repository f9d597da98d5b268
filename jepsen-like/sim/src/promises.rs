//! What was promised to clients, held against the one order of changes.
//!
//! Owns: nothing acknowledged is lost, revisions order real time (witness), one effect a request, one
//! agent a token, reads see what was acknowledged before them.

use std::collections::BTreeMap;

use steeple_raft_store::command::WriteRelationships;
use steeple_raft_store::{
    Applied, Change, Command, EntryOutcome, Outcome, Rejection, RelationshipOutcome, RequestId,
};

use crate::authorities;
use crate::cluster_keys::{self, Rows};
use crate::kept;
use crate::reference::{Reference, Violation};
use crate::roots::{self, Own};
use crate::rows::Key;
use crate::workload::{Operation, TRUST_DOMAIN};

/// A decision that a client was told.
#[derive(Clone, Debug)]
struct Told {
    applied: Applied,
    operation: Operation,
}

/// All promises of a run.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// The newest revision that any client was told.
    floor: u64,
    /// Decisions whose revision nobody has shown yet.
    waiting: BTreeMap<u64, Told>,
    /// The request of each revision.
    by_revision: BTreeMap<u64, RequestId>,
    /// The decision on each request.
    by_request: BTreeMap<RequestId, Applied>,
    /// The request that spent each token.
    spent: BTreeMap<String, RequestId>,
}

impl Promises {
    /// What a call that begins now must not be older than.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// How many requests were decided.
    pub(crate) fn decided(&self) -> u64 {
        self.by_request.len() as u64
    }

    /// A client was told a decision on a call that began when the floor was `floor`.
    pub(crate) fn decision(
        &mut self,
        request: RequestId,
        operation: &Operation,
        floor: u64,
        applied: &Applied,
    ) -> Result<(), Violation> {
        let revision = applied.revision.as_u64();
        let name = operation.name();
        if let Some(known) = self.by_request.get(&request) {
            // Cluster time may have leapt over the time for which outcomes are remembered.
            let is_forgotten = applied.outcome == Err(Rejection::RequestForgotten);
            if known != applied && !is_forgotten {
                let text = format!("{name}: {known:?}, then {applied:?}");
                return Err(Violation::new("one-effect", text));
            }
            return Ok(());
        }
        if revision <= floor {
            let text = format!("{name} is at {revision}, {floor} was told before it began");
            return Err(Violation::new("real-time", text));
        }
        if let Some(other) = self.by_revision.insert(revision, request)
            && other != request
        {
            let text = format!("{name}: {request} and {other} are both at {revision}");
            return Err(Violation::new("one-effect", text));
        }
        self.by_request.insert(request, applied.clone());
        self.floor = self.floor.max(revision);
        let told = Told { applied: applied.clone(), operation: operation.clone() };
        self.waiting.insert(revision, told);
        self.first_time(request, operation, applied)
    }

    /// What can be said of a decision without knowing the order.
    fn first_time(
        &mut self,
        request: RequestId,
        operation: &Operation,
        applied: &Applied,
    ) -> Result<(), Violation> {
        let (Operation::Command(command) | Operation::Duty(command)) = operation else {
            return Ok(());
        };
        match (command, &applied.outcome) {
            (Command::AdmitAgent(admit), Ok(_)) => {
                let Some(token) = &admit.token else { return Ok(()) };
                match self.spent.insert(token.clone(), request) {
                    None => Ok(()),
                    Some(other) => {
                        let text = format!("token {token} admitted for {other} and {request}");
                        Err(Violation::new("token-once", text))
                    }
                }
            }
            (Command::CreateJoinToken(_), Err(Rejection::TokenExists)) => {
                let text = format!("a fresh token exists: {applied:?}");
                Err(Violation::new("one-effect", text))
            }
            (Command::CreateEntries(entries), Ok(Outcome::Entries(items))) => {
                for (entry, item) in entries.iter().zip(items) {
                    let twice = match item {
                        EntryOutcome::Similar(found) => found.id == entry.id,
                        EntryOutcome::Rejected(Rejection::EntryIdTaken(id)) => *id == entry.id,
                        EntryOutcome::Rejected(_)
                        | EntryOutcome::Created(_)
                        | EntryOutcome::Updated(_)
                        | EntryOutcome::Deleted => false,
                    };
                    if twice {
                        let text = format!("a fresh entry was there before: {item:?}");
                        return Err(Violation::new("one-effect", text));
                    }
                }
                Ok(())
            }
            (_, _) => Ok(()),
        }
    }

    /// A client read everything, by a call that began when the floor was `floor`.
    pub(crate) fn read(
        &mut self,
        member: &str,
        floor: u64,
        (confirmed, revision): (u64, u64),
    ) -> Result<(), Violation> {
        if confirmed < floor || revision < confirmed {
            let text = format!(
                "{member} confirmed {confirmed} and read {revision}, {floor} was told before"
            );
            return Err(Violation::new("stale-read", text));
        }
        self.floor = self.floor.max(revision);
        Ok(())
    }

    /// Compares decisions with the changes that were seen since.
    pub(crate) fn settle(&mut self, reference: &Reference) -> Result<(), Violation> {
        while let Some(first) = self.waiting.first_entry() {
            if *first.key() > reference.last() {
                return Ok(());
            }
            let (revision, told) = first.remove_entry();
            let Some(batch) = reference.batch(revision) else { continue };
            if batch.time != told.applied.time || !shows(&batch.changes, &told) {
                let text = format!(
                    "{} was told {:?}, applied is {batch:?}",
                    told.operation.name(),
                    told.applied
                );
                return Err(Violation::new("acknowledged", text));
            }
            judge_rows(reference, revision, &told)?;
        }
        Ok(())
    }

    /// At the end everything that was told must have been seen.
    pub(crate) fn end(&mut self, reference: &Reference) -> Result<(), Violation> {
        self.settle(reference)?;
        match self.waiting.first_key_value() {
            None => Ok(()),
            Some((revision, told)) => {
                let text = format!("{} at {revision} is lost: {told:?}", told.operation.name());
                Err(Violation::new("acknowledged", text))
            }
        }
    }
}

/// Holds a decision about authorities, roots, sealed values and fetches against the rows around it.
fn judge_rows(reference: &Reference, revision: u64, told: &Told) -> Result<(), Violation> {
    let (Operation::Command(command) | Operation::Duty(command)) = &told.operation else {
        return Ok(());
    };
    let Some(before) = revision.checked_sub(1).filter(|before| !reference.is_unseen(*before))
    else {
        return Ok(());
    };
    let at = [before, revision];
    let [before, after] = at.map(|at| {
        let journal = authorities::journal(reference.row_at(&Key::Journal, at));
        Rows::of(reference.row_at(&Key::Cluster, at), journal)
    });
    let own = Key::Bundle(TRUST_DOMAIN.to_owned());
    let bundles = at.map(|at| Own::of(reference.row_at(&own, at)));
    let outcome = &told.applied.outcome;
    let wrong = |check: &'static str| {
        let name = told.operation.name();
        move |text: String| Violation::new(check, format!("{name} at {revision}: {text}"))
    };
    authorities::judge(&before, &after, command, outcome)
        .and_then(|()| cluster_keys::judge(&before, &after, command, outcome))
        .and_then(|()| roots::judge(&before, &bundles, command, outcome))
        .map_err(wrong("authorities"))?;
    let decided = (outcome, told.applied.time);
    kept::judge(reference, at, &before, command, decided).map_err(wrong("kept"))
}

/// Whether changes are those of a decision.
fn shows(changes: &[Change], told: &Told) -> bool {
    match &told.applied.outcome {
        Err(_) => changes.is_empty(),
        Ok(Outcome::Entries(items)) => items.iter().all(|item| shows_item(changes, item)),
        Ok(Outcome::Pruned(count)) => changes.is_empty() || *count > 0,
        Ok(Outcome::Relationships(items)) => {
            let is_shown = items.iter().all(|item| shows_relationship(changes, item));
            is_shown && bundles_fit(changes, &told.operation, items)
        }
        Ok(Outcome::Done | Outcome::Bundles(_)) => true,
    }
}

fn shows_relationship(changes: &[Change], item: &RelationshipOutcome) -> bool {
    match item {
        RelationshipOutcome::Written(stored) => changes.iter().any(|change| {
            matches!(change, Change::RelationshipWritten { relationship, .. } if relationship == stored)
        }),
        RelationshipOutcome::Deleted => {
            changes.iter().any(|change| matches!(change, Change::RelationshipDeleted { .. }))
        }
        RelationshipOutcome::Rejected(_) => true,
    }
}

/// Whether the bundles that changed are those that came with relationships that were written: both
/// are, or neither.
fn bundles_fit(changes: &[Change], operation: &Operation, items: &[RelationshipOutcome]) -> bool {
    let given: &[_] = match operation {
        Operation::Command(Command::WriteRelationships(WriteRelationships { items, .. })) => items,
        Operation::Command(_) | Operation::Duty(_) | Operation::Read(_) => &[],
    };
    let expected = given.iter().zip(items).filter_map(|(given, item)| match item {
        RelationshipOutcome::Written(_) => given.bundle.as_ref(),
        RelationshipOutcome::Deleted | RelationshipOutcome::Rejected(_) => None,
    });
    let found = changes.iter().filter_map(|change| match change {
        Change::BundleWritten { bundle, .. } => Some(bundle.as_ref()),
        Change::EntryWritten { .. }
        | Change::EntryDeleted { .. }
        | Change::AgentWritten { .. }
        | Change::AgentDeleted { .. }
        | Change::BundleDeleted { .. }
        | Change::RelationshipWritten { .. }
        | Change::RelationshipDeleted { .. }
        | Change::RefreshWritten(_)
        | Change::RefreshDeleted { .. }
        | Change::JournalWritten(_)
        | Change::SealedWritten { .. }
        | Change::ClusterWritten(_) => None,
    });
    found.eq(expected)
}

fn shows_item(changes: &[Change], item: &EntryOutcome) -> bool {
    match item {
        EntryOutcome::Created(stored) | EntryOutcome::Updated(stored) => changes.iter().any(
            |change| matches!(change, Change::EntryWritten { entry, .. } if entry.id == stored.id),
        ),
        EntryOutcome::Deleted => {
            changes.iter().any(|change| matches!(change, Change::EntryDeleted { .. }))
        }
        EntryOutcome::Similar(_) | EntryOutcome::Rejected(_) => true,
    }
}
