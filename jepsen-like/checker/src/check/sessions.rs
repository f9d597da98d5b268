//! Sessions: what one client is told never goes back, and its reads show its own writes.

use std::collections::HashMap;

use crate::history::{Call, CallId, History};
use crate::verdict::{CheckReport, Violation};

/// Checks revisions per client. Stale answers are exempt, and later attempts of a request, which are
/// told the revision of its one effect.
pub fn sessions(history: &History) -> CheckReport {
    let mut ended: Vec<(u64, CallId)> = history
        .calls
        .iter()
        .enumerate()
        .filter(|(_, call)| call.revision().is_some())
        .filter(|(_, call)| call.op.is_write() || call.is_fresh_read())
        .filter_map(|(id, call)| Some((call.completed?, id)))
        .collect();
    ended.sort_unstable();
    let mut attempts: HashMap<&str, u32> = HashMap::new();
    for call in &history.calls {
        if let Some(request) = &call.request_id {
            *attempts.entry(request).or_default() += 1;
        }
    }
    let mut last: HashMap<u64, &Call> = HashMap::new();
    let mut examined = 0;
    let mut verdict = Ok(());
    for (_, id) in &ended {
        let Some(call) = history.calls.get(*id) else { continue };
        let is_retried = call.request_id.as_deref().is_some_and(|id| attempts.get(id) > Some(&1));
        if is_retried {
            continue;
        }
        examined += 1;
        if let Some(before) = last.get(&call.client)
            && before.revision() > call.revision()
        {
            let what = if before.op.is_write() && !call.op.is_write() {
                "a client does not read its own write"
            } else {
                "a client's revisions go back"
            };
            let show = |call: &Call| {
                format!("{:?} at revision {}", call.op.kind(), call.revision().unwrap_or(0))
            };
            verdict = Err(Violation::new(format!("{what}: client {}", call.client))
                .with(before.line(), show(before))
                .with(call.line(), show(call)));
            break;
        }
        last.insert(call.client, call);
    }
    CheckReport::new("sessions", examined, verdict)
}
