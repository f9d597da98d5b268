//! Requests: attempts with one request id and one body are one request, which has one effect and one
//! outcome. Owns the grouping and the check of it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::history::{Answer, CallId, History, Operation, Rejection, Reply};
use crate::verdict::{CheckReport, Violation};

/// A write, however often it was attempted.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Its id.
    pub(super) id: Option<String>,
    /// What was asked.
    pub(super) op: Arc<Operation>,
    /// The line before which it surely had no effect.
    pub(super) invoked: u64,
    /// The line after which its effect, if any, surely was there; `u64::MAX` if unknown.
    pub(super) ended: u64,
    /// The first attempt with a known decision.
    pub(super) known: Option<CallId>,
}

/// Requests of a history in the order of their invocations; those that surely failed are left out.
pub(super) fn requests(history: &History) -> Vec<Request> {
    let mut found: Vec<Request> = Vec::new();
    let mut by_id: HashMap<(&str, &Operation), usize> = HashMap::new();
    for (id, call) in history.calls.iter().enumerate() {
        if !call.op.is_write() || call.answer == Answer::Failed {
            continue;
        }
        let known = call.reply().is_some().then_some(id);
        let earlier = call.request_id.as_deref().and_then(|request| {
            let next = found.len();
            let place = *by_id.entry((request, &call.op)).or_insert(next);
            found.get_mut(place)
        });
        match earlier {
            Some(request) => {
                request.known = request.known.or(known);
                if known.is_some() {
                    request.ended = request.ended.min(call.ended());
                }
            }
            None => found.push(Request {
                id: call.request_id.clone(),
                op: Arc::clone(&call.op),
                invoked: call.invoked,
                ended: if known.is_some() { call.ended() } else { u64::MAX },
                known,
            }),
        }
    }
    found
}

/// Checks that a request id has one outcome, and is refused for another body.
pub fn idempotency(history: &History) -> CheckReport {
    let mut examined = 0;
    let mut by_id: HashMap<&str, Vec<CallId>> = HashMap::new();
    for (id, call) in history.calls.iter().enumerate() {
        if let (Some(request), Some(_)) = (call.request_id.as_deref(), call.reply())
            && call.op.is_write()
        {
            by_id.entry(request).or_default().push(id);
            examined += 1;
        }
    }
    let mut found: Vec<(CallId, Violation)> = Vec::new();
    for (request, attempts) in &by_id {
        found.extend(one_outcome(history, request, attempts));
    }
    // The map has no order; the report has.
    found.sort_by_key(|(id, _)| *id);
    let verdict = found.into_iter().next().map_or(Ok(()), |(_, violation)| Err(violation));
    CheckReport::new("idempotency", examined, verdict)
}

fn one_outcome(
    history: &History,
    request: &str,
    attempts: &[CallId],
) -> Option<(CallId, Violation)> {
    let reused = Reply::Rejected(Rejection::RequestIdReused);
    let mut first: Option<CallId> = None;
    for id in attempts {
        let call = history.calls.get(*id)?;
        if call.reply() == Some(&reused) {
            continue;
        }
        let Some(earlier) = first.and_then(|first| history.calls.get(first)) else {
            first = Some(*id);
            continue;
        };
        let what = if earlier.op != call.op {
            "two bodies under one request id were both decided"
        } else if earlier.revision() != call.revision() || earlier.reply() != call.reply() {
            "one request has two outcomes"
        } else {
            continue;
        };
        let show = |call: &crate::history::Call| {
            format!("revision {:?}: {:?}", call.revision().unwrap_or(0), call.reply())
        };
        let violation = Violation::new(format!("request {request}: {what}"))
            .with(earlier.line(), show(earlier))
            .with(call.line(), show(call));
        return Some((*id, violation));
    }
    None
}
