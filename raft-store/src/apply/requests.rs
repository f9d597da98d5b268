//! Outcomes by request id, so that a retried command has no second effect.
//!
//! Remembered for a bounded time and in bounded bytes; the oldest go first. What is remembered holds
//! no secret: outcomes never carry tokens or keys.

use prost::Message;
use steeple_spiffe_core::time::Timestamp;

use crate::apply::step::Step;
use crate::apply::table::Table;
use crate::apply::txn::{Rows, TableError};
use crate::codec::{CodecError, decision_from_pb, decision_to_pb};
use crate::ids::Revision;
use crate::limits::{OUTCOME_BYTES_MAX, OUTCOMES_FORGOTTEN_PER_COMMAND, OUTCOMES_KEPT_FOR};
use crate::mutants::{self, Mutant};
use crate::outcome::{Applied, Outcome, Rejection};
use crate::pb;

/// What is known of a request id.
pub(super) enum Remembered {
    /// The same command was applied before, and this was answered.
    Same(Applied),
    /// Another command was applied under this id.
    Other,
    /// It may have been applied and forgotten.
    Forgotten,
}

pub(super) fn find(
    step: &Step<'_, '_>,
    envelope: &pb::store::Envelope,
) -> Result<Option<Remembered>, TableError> {
    if envelope.request_id.is_empty() || mutants::on(Mutant::RequestForgotten) {
        return Ok(None);
    }
    let row = step.read::<pb::store::OutcomeRow>(Table::Outcomes, &envelope.request_id)?;
    let Some(row) = row else {
        let forgotten = may_be_forgotten(&envelope.request_id, step.counters.forgotten_revision);
        return Ok(forgotten.then_some(Remembered::Forgotten));
    };
    if row.body_hash != envelope.body_hash {
        return Ok(Some(Remembered::Other));
    }
    let decision = row.decision.ok_or_else(|| CodecError::missing("remembered outcome"))?;
    Ok(Some(Remembered::Same(Applied {
        revision: Revision::from_u64(row.revision),
        time: Timestamp::from_unix_ms(row.time_unix_ms),
        outcome: decision_from_pb(decision)?,
    })))
}

/// Whether an outcome under this id could have been among those that were forgotten: its caller
/// first tried at a revision below the newest forgotten one.
fn may_be_forgotten(request_id: &[u8], forgotten: u64) -> bool {
    let seen = request_id.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    seen != 0 && seen < forgotten
}

pub(super) fn remember(
    step: &mut Step<'_, '_>,
    index: u64,
    envelope: &pb::store::Envelope,
    outcome: &Result<Outcome, Rejection>,
) -> Result<(), TableError> {
    forget_old(step)?;
    if envelope.request_id.is_empty() {
        return Ok(());
    }
    let row = pb::store::OutcomeRow {
        revision: step.revision(index).as_u64(),
        time_unix_ms: step.now.unix_ms(),
        body_hash: envelope.body_hash.clone(),
        decision: Some(decision_to_pb(outcome)),
    };
    let age = pb::store::OutcomeAge {
        request_id: envelope.request_id.clone(),
        time_unix_ms: row.time_unix_ms,
        bytes: row.encoded_len() as u64,
        revision: row.revision,
    };
    step.counters.outcomes += 1;
    step.counters.outcome_bytes += age.bytes;
    step.put(Table::Outcomes, &envelope.request_id, &row);
    step.put(Table::OutcomesByAge, &index.to_be_bytes(), &age);
    Ok(())
}

fn forget_old(step: &mut Step<'_, '_>) -> Result<(), TableError> {
    let kept_from = step.now.minus(OUTCOMES_KEPT_FOR).unix_ms();
    let too_many = step.counters.outcome_bytes > OUTCOME_BYTES_MAX;
    if !too_many {
        // Looked up once in a batch: a scan costs more than all else that most commands do.
        let since = match step.txn.outcomes_since {
            Some(since) => since,
            None => oldest(step)?.unwrap_or(step.now.unix_ms()),
        };
        if since >= kept_from {
            step.txn.outcomes_since = Some(since);
            return Ok(());
        }
    }
    step.txn.outcomes_since = None;
    let from = first_remembered(step);
    let oldest = step.txn.scan(Table::OutcomesByAge, &from, OUTCOMES_FORGOTTEN_PER_COMMAND)?;
    for (key, value) in oldest {
        let age = decode_age(&value)?;
        let too_old = age.time_unix_ms < kept_from;
        if !too_old && step.counters.outcome_bytes <= OUTCOME_BYTES_MAX {
            break;
        }
        let newest = step.counters.forgotten_revision.max(age.revision);
        step.counters.forgotten_revision = newest;
        step.counters.outcomes = step.counters.outcomes.saturating_sub(1);
        step.counters.outcome_bytes = step.counters.outcome_bytes.saturating_sub(age.bytes);
        step.txn.delete(Table::Outcomes, &age.request_id);
        step.txn.delete(Table::OutcomesByAge, &key);
    }
    Ok(())
}

/// No remembered outcome has a key below this: they are forgotten in the order of their keys, and a
/// restore forgets all of the epochs before. A scan from the beginning of the table would step over
/// the marks of all that were deleted and are not compacted yet, with each command.
fn first_remembered(step: &Step<'_, '_>) -> [u8; 8] {
    let newest = Revision::from_u64(step.counters.forgotten_revision);
    newest.index().saturating_add(1).to_be_bytes()
}

/// When the oldest remembered outcome was decided, in Unix milliseconds.
fn oldest(step: &Step<'_, '_>) -> Result<Option<i64>, TableError> {
    let first = step.txn.scan(Table::OutcomesByAge, &first_remembered(step), 1)?;
    Ok(first.first().map(|(_, value)| decode_age(value)).transpose()?.map(|age| age.time_unix_ms))
}

fn decode_age(value: &[u8]) -> Result<pb::store::OutcomeAge, CodecError> {
    pb::store::OutcomeAge::decode(value)
        .map_err(|error| CodecError::new("age of an outcome", error))
}
