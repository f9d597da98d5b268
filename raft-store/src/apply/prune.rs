//! Removal of what has expired by cluster time: entries, join tokens, and, if asked, agents.
//!
//! Everything expired is found through tables in order of expiry, so the cost is that of what is
//! removed, not of what is kept.

use std::time::Duration;

use steeple_spiffe_core::SpiffeId;
use steeple_spiffe_core::random::{Random, SystemRandom};
use steeple_spiffe_core::time::Timestamp;

use crate::apply::dispatch::Verdict;
use crate::apply::entries::entry_id;
use crate::apply::step::Step;
use crate::apply::table::{Table, ordered_number, ordered_text};
use crate::apply::txn::{Rows, TableError};
use crate::apply::{agents, entries, tokens};
use crate::codec::CodecError;
use crate::command::PruneExpired;
use crate::mutants::{self, Mutant};
use crate::outcome::Outcome;

pub(super) fn expired(step: &mut Step<'_, '_>, how: &PruneExpired) -> Verdict {
    if mutants::on(Mutant::LocalClockInPruning) {
        step.now = step.now.plus(Duration::from_millis(SystemRandom.u64() % 10_000));
    }
    let mut removed = 0;
    removed += prune_entries(step, how.limit)?;
    removed += prune_tokens(step, how.limit.saturating_sub(removed))?;
    if let Some(for_s) = how.agents_expired_for_s {
        let before = step.now.minus(Duration::from_secs(for_s));
        let classes: &[u8] = if how.include_non_reattestable {
            &[agents::CLASS_REATTESTABLE, agents::CLASS_ONCE]
        } else {
            &[agents::CLASS_REATTESTABLE]
        };
        for class in classes {
            let left = how.limit.saturating_sub(removed);
            removed += prune_agents(step, *class, before, left)?;
        }
    }
    Ok(Ok(Outcome::Pruned(removed)))
}

fn prune_entries(step: &mut Step<'_, '_>, limit: u32) -> Result<u32, TableError> {
    let mut queue = Queue::new(Table::EntriesByExpiry, &[]);
    let mut removed = 0;
    while removed < limit {
        let Some((expires_at, id)) = queue.first(step)? else { break };
        if expires_at >= step.now.unix_s() {
            break;
        }
        if !entries::remove(step, &entry_id(id.as_bytes())?)? {
            return Err(CodecError::missing("entry that the expiry index names").into());
        }
        removed += 1;
    }
    Ok(removed)
}

fn prune_tokens(step: &mut Step<'_, '_>, limit: u32) -> Result<u32, TableError> {
    let mut queue = Queue::new(Table::TokensByExpiry, &[]);
    let mut removed = 0;
    while removed < limit {
        let Some((expires_at, token)) = queue.first(step)? else { break };
        if expires_at >= step.now.unix_ms() {
            break;
        }
        if !tokens::remove(step, &token)? {
            return Err(CodecError::missing("join token that the expiry index names").into());
        }
        removed += 1;
    }
    Ok(removed)
}

fn prune_agents(
    step: &mut Step<'_, '_>,
    class: u8,
    before: Timestamp,
    limit: u32,
) -> Result<u32, TableError> {
    let mut queue = Queue::new(Table::AgentsByExpiry, &[class]);
    let mut removed = 0;
    while removed < limit {
        let Some((not_after, id)) = queue.first(step)? else { break };
        if not_after >= before.unix_ms() {
            break;
        }
        let id = SpiffeId::parse(&id).map_err(|error| CodecError::new("agent id", error))?;
        let rows = agents::remove(step, &id)?
            .ok_or_else(|| CodecError::missing("agent that the expiry index names"))?;
        removed += rows;
    }
    Ok(removed)
}

/// A table by expiry, read from its beginning while its rows are removed.
struct Queue {
    table: Table,
    prefix: Vec<u8>,
    /// No row is left below: what was removed is not stepped over again.
    from: Vec<u8>,
}

impl Queue {
    /// The rows of `table` below `prefix`.
    fn new(table: Table, prefix: &[u8]) -> Self {
        Self { table, prefix: prefix.to_vec(), from: prefix.to_vec() }
    }

    /// The first row that is left: its number and its text.
    fn first(&mut self, step: &Step<'_, '_>) -> Result<Option<(i64, String)>, TableError> {
        let mut rows = step.txn.scan(self.table, &self.from, 1)?;
        let Some((key, _)) = rows.pop() else { return Ok(None) };
        let Some(rest) = key.strip_prefix(self.prefix.as_slice()) else { return Ok(None) };
        let (Some(number), Some(text)) = (ordered_number(rest), ordered_text(rest)) else {
            return Err(CodecError::new("key of an expiry index", "too short").into());
        };
        let first = (number, text.to_owned());
        self.from = key;
        Ok(Some(first))
    }
}
