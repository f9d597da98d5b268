//! The run's history in the checker's format, and the checker's word on it.
//!
//! Owns translation between the registry's values and the checker's, which knows no code of ours.
//! Authority commands are not in its models: their promises are `promises`' and `reference`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use steeple_checker::history as h;
use steeple_checker::{Requirements, Settings, Verdict, check};
use steeple_raft_store::command::{AdmitAgent, RelationshipMode, WriteRelationships};
use steeple_raft_store::{
    Applied, Change, Command, EntryOutcome, Outcome, Rejection, RelationshipOutcome,
};
use steeple_spiffe_core::agent::{AgentRecord, Serial, Serials};
use steeple_spiffe_core::entry::{EntryUpdate, RegistrationEntry};
use steeple_spiffe_core::federation::{EndpointProfile, FederationRelationship};
use steeple_spiffe_core::selector::SelectorSet;

use crate::client::{Call, End};
use crate::member::{Answer, FeedItem};
use crate::options::Options;
use crate::reference::{Violation, index_of};
use crate::view::Read;
use crate::workload::Operation;

/// What a checked history says.
#[derive(Debug)]
pub(crate) struct Checked {
    /// Operations that the checker looked at.
    pub(crate) examined: u64,
    /// What is no pass: the check and its text.
    pub(crate) broken: Option<Violation>,
    /// What it could not tell.
    pub(crate) undecided: Vec<String>,
}

/// Records a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    lines: Vec<h::Line>,
    /// What each open call asked.
    open: BTreeMap<u64, h::Operation>,
    /// A prune of agents ended unknown: the checker cannot tell its effect from a bug.
    is_ambiguous: bool,
    /// The changes of each revision in the checker's words: all members show the same.
    changes: BTreeMap<u64, Vec<h::Change>>,
}

impl Recorder {
    /// The record of a seed.
    pub(crate) fn new(options: &Options) -> Self {
        let header = h::Header {
            version: h::event::VERSION,
            name: "steeple-sim".to_owned(),
            seed: Some(options.seed),
            feed_is_dense: true,
            // A prune whose answer was lost is not found again among what was applied.
            background_prune: true,
            ..h::Header::default()
        };
        let first = h::Line { at_ns: 0, wall_ms: 0, event: h::Event::Header(header) };
        let (open, changes) = Default::default();
        Self { lines: vec![first], open, is_ambiguous: false, changes }
    }

    /// Writes the history for people and for `steeple-check`.
    ///
    /// # Errors
    ///
    /// If the output fails.
    pub(crate) fn write(&self, output: File) -> anyhow::Result<()> {
        let mut writer = h::Writer::new(BufWriter::new(output));
        for line in &self.lines {
            writer.write(line)?;
        }
        Ok(writer.into_inner().flush()?)
    }

    fn add(&mut self, ms: u64, event: h::Event) {
        self.lines.push(h::Line { at_ns: ms * 1_000_000, wall_ms: 0, event });
    }

    /// A client is about to call.
    pub(crate) fn invoke(&mut self, ms: u64, client: u64, call: &Call) {
        let Some(op) = self.operation(call) else { return };
        self.open.insert(call.number, op.clone());
        let is_command = matches!(call.operation, Operation::Command(_));
        let invoke = h::Invoke {
            client,
            call: call.number,
            member: None,
            request_id: is_command.then(|| call.request.to_string()),
            op,
        };
        self.add(ms, h::Event::Invoke(invoke));
    }

    /// A call has ended.
    pub(crate) fn complete(&mut self, ms: u64, call: &Call, end: &End) {
        let Some(asked) = self.open.remove(&call.number) else { return };
        let outcome = match end {
            End::Failed(text) => h::Outcome::Failed { text: text.clone() },
            End::Unknown(text) => h::Outcome::Unknown { text: text.clone() },
            End::Answered(_, Answer::Applied(applied)) => applied_outcome(applied),
            End::Answered(_, Answer::Rows { revision, rows, .. }) => h::Outcome::Ok {
                revision: index_of(*revision),
                time_ms: None,
                stale: false,
                reply: read_reply(&asked, rows),
            },
            End::Answered(_, Answer::Done | Answer::Failed(_) | Answer::Unknown(_)) => {
                return;
            }
        };
        self.is_ambiguous |= matches!(
            (&asked, &outcome),
            (
                h::Operation::PruneExpired(h::Prune { agents_expired_for_s: Some(_), .. }),
                h::Outcome::Unknown { .. }
            )
        );
        self.add(ms, h::Event::Complete(h::Complete { call: call.number, outcome }));
    }

    /// A fault began.
    pub(crate) fn fault(&mut self, ms: u64, fault: String) {
        let state = h::FaultState::Installed;
        let fault = h::Fault { fault, state, members: Vec::new(), hit_leader: false };
        self.add(ms, h::Event::Nemesis(fault));
    }

    /// Something that coverage counts.
    pub(crate) fn mark(&mut self, ms: u64, what: &str) {
        self.add(ms, h::Event::Mark(h::Mark { what: what.to_owned() }));
    }

    /// A member's state.
    pub(crate) fn state(&mut self, ms: u64, member: &str, revision: u64, digest: [u8; 32]) {
        let hash = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let hash = h::StateHash { member: member.to_owned(), revision, level: 1, hash };
        self.add(ms, h::Event::StateHash(hash));
    }

    /// What a member's feed said, once it was found to be what all members say.
    pub(crate) fn feed(&mut self, ms: u64, member: &str, item: &FeedItem) {
        let step = match item {
            FeedItem::Start { revision, .. } => {
                h::FeedStep::Start { revision: index_of(*revision) }
            }
            FeedItem::Batch(batch) => {
                let revision = index_of(batch.revision.as_u64());
                let known = self.changes.entry(revision);
                let changes = known.or_insert_with(|| batch.changes.iter().map(change).collect());
                h::FeedStep::Batch { revision, changes: changes.clone() }
            }
        };
        self.add(ms, h::Event::Feed(h::Feed { subscriber: member.to_owned(), step }));
    }

    /// What a call asks, in the checker's words; `None` if its models do not know it.
    fn operation(&self, call: &Call) -> Option<h::Operation> {
        match &call.operation {
            Operation::Read(what) => Some(read_operation(what, call.number)),
            Operation::Command(command) | Operation::Duty(command) => {
                command_operation(command, call.number)
            }
        }
    }

    /// Has the history checked.
    pub(crate) fn check(&mut self) -> Checked {
        if self.is_ambiguous {
            let why = "a prune of agents is of unknown outcome".to_owned();
            return Checked { examined: 0, broken: None, undecided: vec![why] };
        }
        let lines = std::mem::take(&mut self.lines);
        let history = match h::History::from_lines(lines) {
            Ok(history) => history,
            Err(error) => {
                let broken = Violation::new("history", error.to_string());
                return Checked { examined: 0, broken: Some(broken), undecided: Vec::new() };
            }
        };
        let requirements = Requirements {
            tried_operations: false,
            // What a run must have exercised is asked of many seeds together.
            unknown_percent_max: 101.0,
            ok_before_faults_percent_min: 0.0,
            ..Requirements::default()
        };
        let steps_max = 500_000;
        let settings = Settings { requirements, steps_max, ..Settings::default() };
        let report = check(&history, &settings);
        let mut checked =
            Checked { examined: history.calls.len() as u64, broken: None, undecided: Vec::new() };
        for one in report.checks {
            match one.verdict {
                Verdict::Pass => {}
                Verdict::Undecided(why) => {
                    checked.undecided.push(format!("{}: {why}", one.check));
                }
                Verdict::Uncovered(missing) => {
                    checked.undecided.push(format!("{}: {}", one.check, missing.join("; ")));
                }
                Verdict::Violation(violation) if checked.broken.is_none() => {
                    let text = format!("{}: {:?}", violation.what, violation.evidence);
                    checked.broken = Some(Violation::new(one.check, text));
                }
                Verdict::Violation(_) => {}
            }
        }
        checked
    }
}

fn read_operation(what: &Read, number: u64) -> h::Operation {
    match what {
        Read::Entry(id) => h::Operation::GetEntry { id: id.clone() },
        Read::Agent(id) => h::Operation::GetAgent { agent_id: id.clone() },
        Read::Relationship(name) => h::Operation::GetRelationship { trust_domain: name.clone() },
        Read::CountEntries => h::Operation::CountEntries,
        Read::CountAgents => h::Operation::CountAgents,
        Read::Entries | Read::Everything => {
            h::Operation::ListEntries { listing: number, first: true, filter: h::Filter::default() }
        }
    }
}

fn selectors(set: &SelectorSet) -> BTreeSet<String> {
    set.iter().map(ToString::to_string).collect()
}

fn entry(entry: &RegistrationEntry) -> h::Entry {
    h::Entry {
        id: entry.id.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        parent_id: entry.parent_id.to_string(),
        selectors: selectors(&entry.selectors),
        federates_with: entry.federates_with.iter().map(ToString::to_string).collect(),
        expires_at_s: entry.expires_at_unix_s,
        store_svid: entry.store_svid,
        hint: entry.hint.clone(),
        attributes: BTreeMap::new(),
        revision: entry.revision,
    }
}

fn update(update: &EntryUpdate) -> h::EntryUpdate {
    h::EntryUpdate {
        id: update.id.to_string(),
        spiffe_id: update.spiffe_id.as_ref().map(ToString::to_string),
        parent_id: update.parent_id.as_ref().map(ToString::to_string),
        selectors: update.selectors.as_ref().map(selectors),
        federates_with: None,
        expires_at_s: update.expires_at_unix_s,
        store_svid: update.store_svid,
        hint: update.hint.clone(),
        attributes: BTreeMap::new(),
    }
}

fn text(serial: &Serial) -> String {
    serial.to_string()
}

fn agent(agent: &AgentRecord) -> h::Agent {
    h::Agent {
        id: agent.id.to_string(),
        attestation_type: agent.attestation_type.clone(),
        current: agent.serials.current.as_ref().map(text),
        pending: agent.serials.pending.as_ref().map(text),
        not_after_ms: Some(agent.not_after.unix_ms()),
        selectors: selectors(&agent.selectors),
        can_reattest: agent.can_reattest,
        version: agent.agent_version.clone(),
    }
}

fn seen(serials: &Serials) -> h::Seen {
    h::Seen::Serials {
        current: serials.current.as_ref().map(text),
        pending: serials.pending.as_ref().map(text),
    }
}

fn relationship(relationship: &FederationRelationship) -> h::Relationship {
    h::Relationship {
        trust_domain: relationship.trust_domain.to_string(),
        endpoint_url: relationship.endpoint_url.to_string(),
        profile: match &relationship.profile {
            EndpointProfile::HttpsWeb => "https_web".to_owned(),
            EndpointProfile::HttpsSpiffe { endpoint_id } => format!("https_spiffe {endpoint_id}"),
        },
    }
}

fn write_relationships(write: &WriteRelationships) -> h::Operation {
    let items = write.items.iter().map(|item| relationship(&item.relationship));
    match write.mode {
        RelationshipMode::Create => h::Operation::CreateRelationships(items.collect()),
        RelationshipMode::Update(fields) => {
            let update = |item: h::Relationship| h::RelationshipUpdate {
                trust_domain: item.trust_domain,
                endpoint_url: fields.endpoint_url.then_some(item.endpoint_url),
                profile: fields.profile.then_some(item.profile),
            };
            h::Operation::UpdateRelationships(items.map(update).collect())
        }
    }
}

fn admission(admit: &AdmitAgent, number: u64) -> h::Admission {
    h::Admission {
        token: admit.token.clone(),
        agent_id: admit.agent_id.to_string(),
        attestation_type: admit.attestation_type.clone(),
        serial: admit.serial.to_string(),
        not_after_ms: Some(admit.not_after.unix_ms()),
        selectors: selectors(&admit.selectors),
        can_reattest: admit.can_reattest,
        seen: admit.seen.as_ref().map_or(h::Seen::Absent, seen),
        public_key: format!("key{number}"),
    }
}

fn command_operation(command: &Command, number: u64) -> Option<h::Operation> {
    Some(match command {
        Command::CreateEntries(entries) => {
            h::Operation::CreateEntries(entries.iter().map(entry).collect())
        }
        Command::UpdateEntries(updates) => {
            h::Operation::UpdateEntries(updates.iter().map(update).collect())
        }
        Command::DeleteEntries(ids) => {
            h::Operation::DeleteEntries(ids.iter().map(ToString::to_string).collect())
        }
        Command::CreateJoinToken(create) => h::Operation::CreateToken(h::Token {
            token: create.token.clone(),
            expires_at_ms: create.expires_at.unix_ms(),
            alias: create.alias.as_ref().map(|alias| entry(alias)),
        }),
        Command::AdmitAgent(admit) => h::Operation::AdmitAgent(admission(admit, number)),
        Command::SetPendingSerial(set) => h::Operation::SetPendingSerial {
            agent_id: set.agent_id.to_string(),
            seen: seen(&set.seen),
            pending: set.pending.to_string(),
            not_after_ms: Some(set.not_after.unix_ms()),
        },
        Command::PromoteSerial(promote) => h::Operation::PromoteSerial {
            agent_id: promote.agent_id.to_string(),
            seen: seen(&promote.seen),
        },
        Command::BanAgent(id) => h::Operation::BanAgent { agent_id: id.to_string() },
        Command::DeleteAgent(id) => h::Operation::DeleteAgent { agent_id: id.to_string() },
        Command::SetAgentVersion { agent_id, version } => h::Operation::SetAgentVersion {
            agent_id: agent_id.to_string(),
            version: version.clone(),
        },
        Command::PruneExpired(prune) => h::Operation::PruneExpired(h::Prune {
            agents_expired_for_s: prune
                .agents_expired_for_s
                .map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
            include_non_reattestable: prune.include_non_reattestable,
            limit: prune.limit,
        }),
        Command::WriteRelationships(write) => write_relationships(write),
        Command::DeleteRelationships(names) => {
            h::Operation::DeleteRelationships(names.iter().map(ToString::to_string).collect())
        }
        Command::InitCluster(_)
        | Command::PrepareAuthority { .. }
        | Command::PrepareChained { .. }
        | Command::ChangeRoots { .. }
        | Command::PruneBundle { .. }
        | Command::ActivateAuthority { .. }
        | Command::TaintAuthority { .. }
        | Command::RevokeAuthority { .. }
        | Command::PruneAuthorities { .. }
        | Command::MoveClusterKey { .. }
        | Command::WriteSealed(_)
        | Command::ResealAuthority(_)
        | Command::WriteBundles(_)
        | Command::DeleteBundles(_)
        | Command::AppendBundle(_)
        | Command::RecordRefresh { .. }
        | Command::AdoptAgent(_)
        | Command::DecideAgents(_)
        | Command::RaiseFeatureLevel { .. } => return None,
    })
}

fn applied_outcome(applied: &Applied) -> h::Outcome {
    let reply = match &applied.outcome {
        Ok(Outcome::Done) => h::Reply::Done,
        Ok(Outcome::Pruned(count)) => h::Reply::Pruned(*count),
        Ok(Outcome::Entries(items)) => {
            let items: Option<Vec<_>> = items.iter().map(item).collect();
            match items {
                Some(items) => h::Reply::Items(items),
                None => return h::Outcome::Unknown { text: "not in the models".to_owned() },
            }
        }
        Ok(Outcome::Relationships(items)) => {
            let items: Option<Vec<_>> = items.iter().map(relationship_item).collect();
            match items {
                Some(items) => h::Reply::Items(items),
                None => return h::Outcome::Unknown { text: "not in the models".to_owned() },
            }
        }
        Ok(Outcome::Bundles(_)) => {
            return h::Outcome::Unknown { text: "not in the models".to_owned() };
        }
        Err(refused) => match rejection(refused) {
            Some(refused) => h::Reply::Rejected(refused),
            None => return h::Outcome::Unknown { text: refused.to_string() },
        },
    };
    h::Outcome::Ok {
        revision: index_of(applied.revision.as_u64()),
        time_ms: Some(applied.time.unix_ms()),
        stale: false,
        reply,
    }
}

fn item(item: &EntryOutcome) -> Option<h::ItemReply> {
    Some(match item {
        EntryOutcome::Created(stored) => h::ItemReply::Created(Arc::new(entry(stored))),
        EntryOutcome::Similar(stored) => h::ItemReply::Similar(Arc::new(entry(stored))),
        EntryOutcome::Updated(stored) => h::ItemReply::Updated(Arc::new(entry(stored))),
        EntryOutcome::Deleted => h::ItemReply::Deleted,
        EntryOutcome::Rejected(refused) => h::ItemReply::Rejected(rejection(refused)?),
    })
}

fn relationship_item(item: &RelationshipOutcome) -> Option<h::ItemReply> {
    Some(match item {
        RelationshipOutcome::Written(stored) => {
            h::ItemReply::Federated(Arc::new(relationship(stored)))
        }
        RelationshipOutcome::Deleted => h::ItemReply::Deleted,
        RelationshipOutcome::Rejected(refused) => h::ItemReply::Rejected(rejection(refused)?),
    })
}

/// `None`: the models do not know it, or it says that nobody knows.
fn rejection(rejection: &Rejection) -> Option<h::Rejection> {
    Some(match rejection {
        Rejection::AlreadyInitialised => h::Rejection::AlreadyInitialised,
        Rejection::NotInitialised => h::Rejection::NotInitialised,
        Rejection::EntryIdTaken(id) => h::Rejection::EntryIdTaken { id: id.to_string() },
        Rejection::EntryNotFound => h::Rejection::EntryNotFound,
        Rejection::EntryWouldBeSimilar(id) => {
            h::Rejection::EntryWouldBeSimilar { id: id.to_string() }
        }
        Rejection::FederatedBundleMissing(domain) => {
            h::Rejection::FederatedBundleMissing { trust_domain: domain.to_string() }
        }
        Rejection::StoreSvidSelectorTypes => h::Rejection::StoreSvidSelectorTypes,
        Rejection::LimitReached { what, .. } => h::Rejection::LimitReached { what: what.clone() },
        Rejection::TokenExists => h::Rejection::TokenExists,
        Rejection::TokenUnknown => h::Rejection::TokenUnknown,
        Rejection::TokenExpired => h::Rejection::TokenExpired,
        Rejection::AgentNotFound => h::Rejection::AgentNotFound,
        Rejection::AgentBanned => h::Rejection::AgentBanned,
        Rejection::SerialsChanged => h::Rejection::SerialsChanged,
        Rejection::RequestIdReused => h::Rejection::RequestIdReused,
        Rejection::RelationshipExists => h::Rejection::RelationshipExists,
        Rejection::RelationshipNotFound => h::Rejection::RelationshipNotFound,
        Rejection::JournalMoved { .. }
        | Rejection::ClusterKeyMoved { .. }
        | Rejection::SealedMoved { .. }
        | Rejection::AuthorityState(_)
        | Rejection::RequestForgotten
        | Rejection::OwnBundle
        | Rejection::BundleExists
        | Rejection::BundleNotFound
        | Rejection::BundleMoved
        | Rejection::BundleInUse(_)
        | Rejection::OwnRelationship
        | Rejection::NothingToAdopt => return None,
    })
}

fn change(change: &Change) -> h::Change {
    match change {
        Change::EntryWritten { entry: stored, .. } => {
            h::Change::EntryWritten(Arc::new(entry(stored)))
        }
        Change::EntryDeleted { id, .. } => h::Change::EntryDeleted { id: id.to_string() },
        Change::AgentWritten { agent: stored, .. } => {
            h::Change::AgentWritten(Arc::new(agent(stored)))
        }
        Change::AgentDeleted { id, .. } => h::Change::AgentDeleted { id: id.to_string() },
        Change::BundleWritten { bundle, .. } => h::Change::BundleWritten {
            trust_domain: bundle.trust_domain.to_string(),
            sequence: bundle.sequence_number,
        },
        Change::BundleDeleted { .. } => h::Change::Other { what: "bundle deleted".to_owned() },
        Change::RelationshipWritten { relationship: stored, .. } => {
            h::Change::RelationshipWritten(Arc::new(relationship(stored)))
        }
        Change::RelationshipDeleted { trust_domain, .. } => {
            h::Change::RelationshipDeleted { trust_domain: trust_domain.to_string() }
        }
        Change::RefreshWritten(_) | Change::RefreshDeleted { .. } => {
            h::Change::Other { what: "refresh".to_owned() }
        }
        Change::JournalWritten(_) => h::Change::Other { what: "journal".to_owned() },
        Change::ClusterWritten(_) => h::Change::Other { what: "cluster".to_owned() },
        Change::SealedWritten { .. } => h::Change::Other { what: "sealed value".to_owned() },
    }
}

/// What the rows say to a read.
fn read_reply(asked: &h::Operation, rows: &[Change]) -> h::Reply {
    let mut entries = Vec::new();
    let mut agents = Vec::new();
    let mut relationships = Vec::new();
    for row in rows {
        match row {
            Change::EntryWritten { row, entry } => entries.push((*row, entry)),
            Change::AgentWritten { agent, .. } => agents.push(agent),
            Change::RelationshipWritten { relationship, .. } => relationships.push(relationship),
            Change::EntryDeleted { .. }
            | Change::AgentDeleted { .. }
            | Change::BundleWritten { .. }
            | Change::BundleDeleted { .. }
            | Change::RelationshipDeleted { .. }
            | Change::RefreshWritten(_)
            | Change::RefreshDeleted { .. }
            | Change::JournalWritten(_)
            | Change::SealedWritten { .. }
            | Change::ClusterWritten(_) => {}
        }
    }
    match asked {
        h::Operation::GetEntry { id } => {
            let found = entries.iter().find(|(_, entry)| entry.id.as_str() == id);
            h::Reply::Entry(found.map(|(_, found)| Arc::new(entry(found))))
        }
        h::Operation::GetAgent { agent_id } => {
            let found = agents.iter().find(|agent| agent.id.to_string() == *agent_id);
            h::Reply::Agent(found.map(|found| Arc::new(agent(found))))
        }
        h::Operation::GetRelationship { trust_domain } => {
            let found = relationships.iter().find(|one| one.trust_domain.as_str() == trust_domain);
            h::Reply::Relationship(found.map(|found| Arc::new(relationship(found))))
        }
        h::Operation::CountEntries => h::Reply::Count(entries.len() as u64),
        h::Operation::CountAgents => h::Reply::Count(agents.len() as u64),
        h::Operation::ListEntries { .. }
        | h::Operation::InitCluster { .. }
        | h::Operation::CreateEntries(_)
        | h::Operation::UpdateEntries(_)
        | h::Operation::DeleteEntries(_)
        | h::Operation::CreateToken(_)
        | h::Operation::AdmitAgent(_)
        | h::Operation::SetPendingSerial { .. }
        | h::Operation::PromoteSerial { .. }
        | h::Operation::BanAgent { .. }
        | h::Operation::DeleteAgent { .. }
        | h::Operation::SetAgentVersion { .. }
        | h::Operation::CreateRelationships(_)
        | h::Operation::UpdateRelationships(_)
        | h::Operation::DeleteRelationships(_)
        | h::Operation::PruneExpired(_) => {
            entries.sort_by_key(|(row, _)| *row);
            let entries = entries.iter().map(|(_, found)| Arc::new(entry(found))).collect();
            h::Reply::Page(h::Page { entries, last: true })
        }
    }
}
