//! Join tokens: stored until they are spent or expire. Spending is part of admission (`agents`): the
//! row goes in the same step in which the agent's comes, so a token admits at most one agent.

use steeple_spiffe_core::time::Timestamp;

use crate::apply::dispatch::Verdict;
use crate::apply::entries;
use crate::apply::step::Step;
use crate::apply::table::{Table, ordered_key};
use crate::apply::txn::TableError;
use crate::command::CreateJoinToken;
use crate::limits::TOKENS_MAX;
use crate::outcome::{EntryOutcome, Outcome, Rejection};
use crate::pb;

pub(super) fn create(step: &mut Step<'_, '_>, create: CreateJoinToken) -> Verdict {
    if expiry(step, &create.token)?.is_some() {
        return Ok(Err(Rejection::TokenExists));
    }
    if step.counters.tokens >= TOKENS_MAX {
        let rejection = Rejection::LimitReached { what: "join tokens".into(), limit: TOKENS_MAX };
        return Ok(Err(rejection));
    }
    if let Some(alias) = create.alias
        && let EntryOutcome::Rejected(rejection) = entries::create_one(step, *alias)?
    {
        return Ok(Err(rejection));
    }
    let expires_at = create.expires_at.unix_ms();
    let row = pb::store::TokenRow { expires_at_unix_ms: expires_at };
    step.put(Table::Tokens, create.token.as_bytes(), &row);
    step.txn.put(Table::TokensByExpiry, &ordered_key(expires_at, &create.token), Vec::new());
    step.counters.tokens += 1;
    Ok(Ok(Outcome::Done))
}

/// When the token ends; `None` if there is no such token.
pub(super) fn expiry(step: &Step<'_, '_>, token: &str) -> Result<Option<Timestamp>, TableError> {
    let row = step.read::<pb::store::TokenRow>(Table::Tokens, token.as_bytes())?;
    Ok(row.map(|row| Timestamp::from_unix_ms(row.expires_at_unix_ms)))
}

/// Removes a token; false if there is none.
pub(super) fn remove(step: &mut Step<'_, '_>, token: &str) -> Result<bool, TableError> {
    let Some(expires_at) = expiry(step, token)? else { return Ok(false) };
    step.txn.delete(Table::Tokens, token.as_bytes());
    step.txn.delete(Table::TokensByExpiry, &ordered_key(expires_at.unix_ms(), token));
    step.counters.tokens = step.counters.tokens.saturating_sub(1);
    Ok(true)
}
