//! From an envelope to a decision: time, remembered outcomes, the right file for each command.

use prost::Message;
use steeple_spiffe_core::time::Timestamp;

use crate::apply::reading::{read_cluster, read_time};
use crate::apply::requests::Remembered;
use crate::apply::step::Step;
use crate::apply::txn::{TableError, Transaction};
use crate::apply::{
    adoption, agents, authorities, bundles, cluster, entries, prune, refreshes, relationships,
    requests, roots, sealed, state_hash, tokens,
};
use crate::change::ChangeBatch;
use crate::codec::{CodecError, command_from_pb};
use crate::command::Command;
use crate::ids::Revision;
use crate::outcome::{Applied, Outcome, Rejection};
use crate::pb;

/// What a command decided, or the fact that the tables cannot be used.
pub(super) type Verdict = Result<Result<Outcome, Rejection>, TableError>;

/// One applied log entry.
#[derive(Debug)]
pub(crate) struct Done {
    /// What the proposer is told; `None` if the entry held no command.
    pub(crate) applied: Option<Applied>,
    /// What everyone else is told.
    pub(crate) batch: ChangeBatch,
}

/// Applies the command in `envelope`, which stands at `index` of the log.
///
/// # Errors
///
/// If the envelope or a row does not decode or the tables fail. The member must stop.
pub(crate) fn apply(
    txn: &mut Transaction<'_>,
    index: u64,
    envelope: &[u8],
) -> Result<Done, TableError> {
    let mut envelope = pb::store::Envelope::decode(envelope)
        .map_err(|error| CodecError::new("envelope", error))?;
    let stamped = Timestamp::from_unix_ms(envelope.time_unix_ms);
    let mut step = Step::begin(txn, stamped)?;
    let now = step.now;

    let applied = match requests::find(&step, &envelope)? {
        Some(Remembered::Same(applied)) => applied,
        Some(Remembered::Other) => {
            let outcome = Err(Rejection::RequestIdReused);
            Applied { revision: step.revision(index), time: now, outcome }
        }
        Some(Remembered::Forgotten) => {
            let outcome = Err(Rejection::RequestForgotten);
            Applied { revision: step.revision(index), time: now, outcome }
        }
        None => {
            let command = command_from_pb(envelope.command.take().unwrap_or_default())?;
            let outcome = decide(&mut step, command)?;
            requests::remember(&mut step, index, &envelope, &outcome)?;
            Applied { revision: step.revision(index), time: now, outcome }
        }
    };
    let revision = step.revision(index);
    let changes = step.end(index)?;
    Ok(Done { applied: Some(applied), batch: ChangeBatch { revision, time: now, changes } })
}

/// Applies a log entry without a command: only the revision and the state hash move.
pub(crate) fn apply_nothing(txn: &mut Transaction<'_>, index: u64) -> Result<Done, TableError> {
    let time = read_time(txn)?;
    let (epoch, level) =
        read_cluster(txn)?.map_or((0, 0), |cluster| (cluster.epoch, cluster.feature_level));
    state_hash::advance(txn, index, level)?;
    txn.keep();
    let revision = Revision::new(epoch, index);
    Ok(Done { applied: None, batch: ChangeBatch { revision, time, changes: Vec::new() } })
}

/// Runs the command; what a rejected one wrote is taken back.
fn decide(step: &mut Step<'_, '_>, command: Command) -> Verdict {
    let token = if let Command::AdmitAgent(admit) = &command { admit.token.clone() } else { None };
    let outcome = run(step, command)?;
    if let Err(rejection) = &outcome {
        step.roll_back();
        if let (Rejection::TokenExpired, Some(token)) = (rejection, token) {
            // SPIRE removes a token before it looks at its expiry: an expired one admits no one ever.
            tokens::remove(step, &token)?;
        }
    }
    Ok(outcome)
}

fn run(step: &mut Step<'_, '_>, command: Command) -> Verdict {
    if let Command::InitCluster(init) = command {
        return cluster::init(step, init);
    }
    if step.cluster.is_none() {
        return Ok(Err(Rejection::NotInitialised));
    }
    match command {
        Command::InitCluster(init) => cluster::init(step, init),
        Command::CreateEntries(items) => entries::create(step, items),
        Command::UpdateEntries(items) => entries::update(step, items),
        Command::DeleteEntries(ids) => entries::delete(step, &ids),
        Command::CreateJoinToken(create) => tokens::create(step, create),
        Command::AdmitAgent(admit) => agents::admit(step, admit),
        Command::SetPendingSerial(set) => agents::set_pending_serial(step, set),
        Command::PromoteSerial(promote) => agents::promote_serial(step, &promote),
        Command::BanAgent(id) => agents::ban(step, &id),
        Command::DeleteAgent(id) => agents::delete(step, &id),
        Command::SetAgentVersion { agent_id, version } => {
            agents::set_version(step, &agent_id, version)
        }
        Command::PruneExpired(how) => prune::expired(step, &how),
        Command::PrepareAuthority { expected_journal, authority } => {
            authorities::prepare(step, expected_journal, *authority)
        }
        Command::PrepareChained { expected_journal, authority, roots } => {
            roots::prepare(step, expected_journal, *authority, roots)
        }
        Command::ChangeRoots { expected_journal, change, roots } => {
            roots::change(step, expected_journal, change, roots)
        }
        Command::PruneBundle { expected_journal, roots, key_ids } => {
            roots::prune(step, expected_journal, &roots, &key_ids)
        }
        Command::ActivateAuthority { expected_journal, kind, id } => {
            authorities::activate(step, expected_journal, kind, &id)
        }
        Command::TaintAuthority { expected_journal, kind, id } => {
            authorities::taint(step, expected_journal, kind, &id)
        }
        Command::RevokeAuthority { expected_journal, kind, id } => {
            authorities::revoke(step, expected_journal, kind, &id)
        }
        Command::PruneAuthorities { expected_journal, ids } => {
            authorities::prune(step, expected_journal, &ids)
        }
        Command::MoveClusterKey { expected, to } => cluster::move_key(step, expected, to),
        Command::ResealAuthority(reseal) => authorities::reseal(step, *reseal),
        Command::WriteSealed(write) => sealed::write(step, *write),
        Command::WriteBundles(write) => bundles::write_foreign(step, write),
        Command::DeleteBundles(delete) => bundles::delete_foreign(step, &delete),
        Command::AppendBundle(append) => bundles::append_own(step, append),
        Command::WriteRelationships(write) => relationships::write(step, write),
        Command::DeleteRelationships(names) => relationships::delete(step, &names),
        Command::RecordRefresh { trust_domain, refreshed } => {
            refreshes::record(step, trust_domain, refreshed)
        }
        Command::AdoptAgent(adopt) => adoption::adopt(step, adopt),
        Command::DecideAgents(decision) => adoption::decide(step, decision),
        Command::RaiseFeatureLevel { to } => Ok(Ok(cluster::raise_level(step, to))),
    }
}
