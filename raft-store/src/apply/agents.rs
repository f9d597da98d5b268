//! Attested agents: admission, renewal, promotion, ban, delete; rules of `spec/spire-semantics.md` 7.
//!
//! Commands about serials compare the pair that the authorising read saw with the stored one: two
//! members that authorise the same agent at once cannot both win.

use std::sync::Arc;

use steeple_spiffe_core::SpiffeId;
use steeple_spiffe_core::agent::{AgentRecord, Serials};

use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::apply::table::{Table, ordered_key};
use crate::apply::txn::TableError;
use crate::apply::{adoption, entries, tokens};
use crate::change::Change;
use crate::codec::{CodecError, agent_from_pb, agent_to_pb};
use crate::command::{AdmitAgent, PromoteSerial, SetPendingSerial};
use crate::ids::RowNumber;
use crate::limits::AGENTS_MAX;
use crate::mutants::{self, Mutant};
use crate::outcome::{Outcome, Rejection};
use crate::pb;

/// Attestor whose agents have an alias entry that goes with them.
const JOIN_TOKEN: &str = "join_token";

/// Agents that can attest again, in the table by expiry.
pub(super) const CLASS_REATTESTABLE: u8 = 0;
/// Agents that cannot.
pub(super) const CLASS_ONCE: u8 = 1;

pub(super) fn admit(step: &mut Step<'_, '_>, admit: AdmitAgent) -> Verdict {
    if let Some(token) = &admit.token {
        match tokens::expiry(step, token)? {
            None => return Ok(Err(Rejection::TokenUnknown)),
            // SPIRE: expired when its expiry lies before now.
            Some(expires_at) if expires_at < step.now => return Ok(Err(Rejection::TokenExpired)),
            Some(_) => {}
        }
    }
    let found = find(step, &admit.agent_id)?;
    if found.as_ref().is_some_and(|(_, agent)| agent.is_banned()) {
        return Ok(Err(Rejection::AgentBanned));
    }
    if found.as_ref().map(|(_, agent)| &agent.serials) != admit.seen.as_ref() {
        return Ok(Err(Rejection::SerialsChanged));
    }
    if found.is_none() && step.counters.agents >= AGENTS_MAX {
        let rejection = Rejection::LimitReached { what: "agents".into(), limit: AGENTS_MAX };
        return Ok(Err(rejection));
    }
    if let Some(token) = &admit.token
        && !mutants::on(Mutant::TokenNotSpent)
    {
        tokens::remove(step, token)?;
    }
    let serials = Serials { current: Some(admit.serial), pending: None };
    match found {
        Some((row, old)) => {
            // The attestor's name stays that of the first attestation (SPIRE).
            let new = AgentRecord {
                serials,
                not_after: admit.not_after,
                pending_not_after: None,
                selectors: admit.selectors,
                can_reattest: admit.can_reattest,
                ..old.clone()
            };
            replace(step, row, &old, new);
        }
        None => {
            let row = step.mint_row();
            step.counters.agents += 1;
            let new = AgentRecord {
                id: admit.agent_id,
                attestation_type: admit.attestation_type,
                serials,
                not_after: admit.not_after,
                pending_not_after: None,
                selectors: admit.selectors,
                can_reattest: admit.can_reattest,
                agent_version: String::new(),
                attested_at: step.now,
            };
            write(step, row, new);
        }
    }
    Ok(Ok(Outcome::Done))
}

pub(super) fn set_pending_serial(step: &mut Step<'_, '_>, set: SetPendingSerial) -> Verdict {
    change_serials(step, &set.agent_id, &set.seen, |agent| {
        agent.serials.pending = Some(set.pending);
        agent.pending_not_after = Some(set.not_after);
        true
    })
}

pub(super) fn promote_serial(step: &mut Step<'_, '_>, promote: &PromoteSerial) -> Verdict {
    change_serials(step, &promote.agent_id, &promote.seen, |agent| {
        let Some(pending) = agent.serials.pending.take() else { return false };
        agent.serials.current = Some(pending);
        if let Some(not_after) = agent.pending_not_after.take() {
            agent.not_after = not_after;
        }
        true
    })
}

/// Changes the serials of an unbanned agent whose pair is still the one that was seen. `change`
/// returns whether it could.
fn change_serials(
    step: &mut Step<'_, '_>,
    id: &SpiffeId,
    seen: &Serials,
    change: impl FnOnce(&mut AgentRecord) -> bool,
) -> Verdict {
    let Some((row, old)) = find(step, id)? else { return Ok(Err(Rejection::AgentNotFound)) };
    if old.is_banned() {
        return Ok(Err(Rejection::AgentBanned));
    }
    let mut new = old.clone();
    let changed = if mutants::on(Mutant::PendingOverwritten) {
        old.serials.current != seen.current
    } else {
        old.serials != *seen && !mutants::on(Mutant::SerialsNotCompared)
    };
    if changed || !change(&mut new) {
        return Ok(Err(Rejection::SerialsChanged));
    }
    replace(step, row, &old, new);
    Ok(Ok(Outcome::Done))
}

pub(super) fn ban(step: &mut Step<'_, '_>, id: &SpiffeId) -> Verdict {
    let Some((row, old)) = find(step, id)? else { return Ok(Err(Rejection::AgentNotFound)) };
    let mut new = old.clone();
    new.serials = Serials::default();
    new.pending_not_after = None;
    replace(step, row, &old, new);
    Ok(Ok(Outcome::Done))
}

pub(super) fn delete(step: &mut Step<'_, '_>, id: &SpiffeId) -> Verdict {
    let removed = remove(step, id)?;
    Ok(removed.map(|_| Outcome::Done).ok_or(Rejection::AgentNotFound))
}

pub(super) fn set_version(step: &mut Step<'_, '_>, id: &SpiffeId, version: String) -> Verdict {
    let Some((row, old)) = find(step, id)? else { return Ok(Err(Rejection::AgentNotFound)) };
    let mut new = old.clone();
    new.agent_version = version;
    replace(step, row, &old, new);
    Ok(Ok(Outcome::Done))
}

/// Removes an agent and what goes with it. Returns how many rows that were, `None` if there is no such
/// agent.
pub(super) fn remove(step: &mut Step<'_, '_>, id: &SpiffeId) -> Result<Option<u32>, TableError> {
    let Some((row, agent)) = find(step, id)? else { return Ok(None) };
    unindex(step, &agent);
    step.txn.delete(Table::Agents, id.to_string().as_bytes());
    step.counters.agents = step.counters.agents.saturating_sub(1);
    step.changes.push(Change::AgentDeleted { row, id: id.clone() });
    adoption::forget(step, id);
    let aliases = match agent.attestation_type.as_str() {
        JOIN_TOKEN => entries::remove_alias(step, id)?,
        _ => 0,
    };
    Ok(Some(aliases + 1))
}

pub(super) fn find(
    step: &Step<'_, '_>,
    id: &SpiffeId,
) -> Result<Option<(RowNumber, AgentRecord)>, TableError> {
    let key = id.to_string();
    let Some(row) = step.read::<pb::store::AgentRow>(Table::Agents, key.as_bytes())? else {
        return Ok(None);
    };
    let agent = row.agent.ok_or_else(|| CodecError::missing("agent of a row"))?;
    Ok(Some((RowNumber(row.row), agent_from_pb(agent)?)))
}

pub(super) fn replace(
    step: &mut Step<'_, '_>,
    row: RowNumber,
    old: &AgentRecord,
    new: AgentRecord,
) {
    unindex(step, old);
    write(step, row, new);
}

pub(super) fn write(step: &mut Step<'_, '_>, row: RowNumber, agent: AgentRecord) {
    let value = pb::store::AgentRow { row: row.0, agent: Some(agent_to_pb(&agent)) };
    step.put(Table::Agents, agent.id.to_string().as_bytes(), &value);
    if !agent.is_banned() {
        step.txn.put(Table::AgentsByExpiry, &expiry_key(&agent), Vec::new());
    }
    step.changes.push(Change::AgentWritten { row, agent: Arc::new(agent) });
}

fn unindex(step: &mut Step<'_, '_>, agent: &AgentRecord) {
    if !agent.is_banned() {
        step.txn.delete(Table::AgentsByExpiry, &expiry_key(agent));
    }
}

fn expiry_key(agent: &AgentRecord) -> Vec<u8> {
    let class = if agent.can_reattest { CLASS_REATTESTABLE } else { CLASS_ONCE };
    let mut key = vec![class];
    key.extend(ordered_key(agent.not_after.unix_ms(), &agent.id.to_string()));
    key
}
