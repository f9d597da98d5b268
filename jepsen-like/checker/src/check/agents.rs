//! Promises about agents: a join token admits one key, a banned agent is refused.

use std::collections::{BTreeMap, HashMap};

use super::requests::requests;
use crate::history::{Answer, Call, History, Operation, Reply};
use crate::verdict::{CheckReport, Violation};

/// What is known of a token's value; it may be stored again once it is spent.
#[derive(Default)]
struct Token<'a> {
    /// Requests that stored it or may have.
    stored: usize,
    /// The latest expiry of these, and its line.
    expires: Option<(i64, u64)>,
    /// Public keys that it admitted, and the first line of each.
    keys: BTreeMap<&'a str, u64>,
}

/// Checks that a token admits one public key each time it is stored, and none after its expiry.
pub fn token_once(history: &History) -> CheckReport {
    let requests = requests(history);
    let mut tokens: HashMap<&str, Token<'_>> = HashMap::new();
    for request in &requests {
        let Operation::CreateToken(token) = request.op.as_ref() else { continue };
        let known = request.known.and_then(|id| history.calls.get(id));
        if known.is_none_or(|call| call.reply() == Some(&Reply::Done)) {
            let found = tokens.entry(&token.token).or_default();
            found.stored += 1;
            let line = known.map_or(request.invoked, Call::line);
            found.expires = found.expires.max(Some((token.expires_at_ms, line)));
        }
    }
    let mut examined = 0;
    for call in &history.calls {
        let Operation::AdmitAgent(admission) = call.op.as_ref() else { continue };
        let Some(token) = admission.token.as_deref() else { continue };
        let Answer::Ok { reply: Reply::Done, time_ms, .. } = &call.answer else { continue };
        examined += 1;
        let found = tokens.entry(token).or_default();
        found.keys.entry(&admission.public_key).or_insert(call.line());
        if let Some(violation) = broken(token, found, *time_ms, call.line()) {
            return CheckReport::new("token_once", examined, Err(violation));
        }
    }
    CheckReport::new("token_once", examined, Ok(()))
}

fn broken(name: &str, token: &Token<'_>, time_ms: Option<i64>, line: u64) -> Option<Violation> {
    if token.keys.len() > token.stored {
        let (keys, stored) = (token.keys.len(), token.stored);
        let what = format!("token {name} admitted {keys} keys, stored {stored} times");
        let shown = token.keys.iter();
        return Some(
            shown.fold(Violation::new(what), |v, (key, line)| v.with(*line, format!("key {key}"))),
        );
    }
    let ((expires, stored), time) = token.expires.zip(time_ms)?;
    (expires < time).then(|| {
        Violation::new(format!("token {name} admitted after its expiry"))
            .with(stored, format!("expires at {expires}"))
            .with(line, format!("admits at {time}"))
    })
}

/// Checks that nothing is granted to an agent by a call that began after its ban was acknowledged, as
/// long as no deletion of it has begun.
pub fn bans(history: &History) -> CheckReport {
    let begun = first_attempts(history);
    let first = |call: &Call| {
        let id = call.request_id.as_deref();
        id.and_then(|id| begun.get(id).copied()).unwrap_or(call.invoked)
    };
    let mut banned: HashMap<&str, &Call> = HashMap::new();
    let mut before: HashMap<u64, &Call> = HashMap::new();
    let mut deleting: HashMap<&str, u64> = HashMap::new();
    let mut examined = 0;
    for (line, call) in by_line(history) {
        let is_start = line == call.invoked;
        match call.op.as_ref() {
            Operation::BanAgent { agent_id } => {
                let is_done = !is_start && call.reply() == Some(&Reply::Done);
                // A deletion in flight or unknown may follow the ban, which a repeated request may have
                // made at its first attempt.
                let can_go =
                    deleting.get(agent_id.as_str()).is_some_and(|until| *until > first(call));
                if is_done && !can_go {
                    banned.insert(agent_id, call);
                }
            }
            Operation::DeleteAgent { agent_id } if is_start => {
                banned.remove(agent_id.as_str());
                let until = deleting.entry(agent_id).or_default();
                *until = (*until).max(call.ended());
            }
            Operation::AdmitAgent(_)
            | Operation::SetPendingSerial { .. }
            | Operation::PromoteSerial { .. } => {
                let Some(agent) = granted_to(&call.op) else { continue };
                if is_start {
                    // A repeated request is told what its first attempt was granted.
                    let ban = banned.get(agent).filter(|_| first(call) == call.invoked);
                    before.extend(ban.map(|ban| (call.invoked, *ban)));
                    continue;
                }
                examined += 1;
                let ban = before.get(&call.invoked);
                if let (Some(ban), Some(Reply::Done)) = (ban, call.reply())
                    && !call.is_stale()
                    && banned.get(agent).is_some_and(|still| still.invoked == ban.invoked)
                {
                    let violation = Violation::new(format!("banned agent {agent} was served"))
                        .with(ban.line(), "acknowledges the ban")
                        .with(call.invoked, "the call begins")
                        .with(call.line(), format!("{:?} is granted", call.op.kind()));
                    return CheckReport::new("bans", examined, Err(violation));
                }
            }
            Operation::DeleteAgent { .. }
            | Operation::InitCluster { .. }
            | Operation::CreateEntries(_)
            | Operation::UpdateEntries(_)
            | Operation::DeleteEntries(_)
            | Operation::GetEntry { .. }
            | Operation::ListEntries { .. }
            | Operation::CountEntries
            | Operation::CreateToken(_)
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
    CheckReport::new("bans", examined, Ok(()))
}

/// Beginnings and ends of calls in their order.
fn by_line(history: &History) -> Vec<(u64, &Call)> {
    let mut lines: Vec<(u64, &Call)> = Vec::new();
    for call in &history.calls {
        lines.push((call.invoked, call));
        lines.extend(call.completed.map(|line| (line, call)));
    }
    lines.sort_by_key(|(line, _)| *line);
    lines
}

/// The line at which each request id was first sent.
fn first_attempts(history: &History) -> HashMap<&str, u64> {
    let mut begun = HashMap::new();
    for call in &history.calls {
        if let Some(id) = &call.request_id {
            begun.entry(id.as_str()).or_insert(call.invoked);
        }
    }
    begun
}

fn granted_to(op: &Operation) -> Option<&str> {
    if let Operation::AdmitAgent(admission) = op {
        return Some(&admission.agent_id);
    }
    if let Operation::SetPendingSerial { agent_id, .. }
    | Operation::PromoteSerial { agent_id, .. } = op
    {
        return Some(agent_id);
    }
    None
}
