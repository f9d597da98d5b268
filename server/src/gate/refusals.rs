//! Log lines about callers that the gate refuses, as SPIRE writes them.
//!
//! Owns which refusals are worth a line, its level and fields, and the bound on them: a caller writes
//! as many lines as it likes only on its own machine. What is refused for want of a quorum says
//! nothing about the caller and is not logged here.

use std::sync::atomic::{AtomicU64, Ordering};

use steeple_api::pb::types::permission_denied_details::Reason;
use steeple_api::status::code_name;
use tonic::Code;

use super::policy::Rule;
use super::ratelimit::Limiter;
use crate::listen::Peer;
use crate::status::Failure;

/// Refusals of one address that are written a second. An agent that was evicted calls once in five
/// seconds, and a whole cluster of them may share an address.
const LOGGED_PER_SECOND: u32 = 10;

/// Writes the lines.
#[derive(Debug)]
pub(super) struct Refusals {
    limit: Limiter,
    /// Not written since the last line that was.
    skipped: AtomicU64,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self { limit: Limiter::per_second(LOGGED_PER_SECOND), skipped: AtomicU64::new(0) }
    }

    /// Says that a caller was refused, and why.
    pub(super) fn log(&self, rule: &Rule, peer: &Peer, failure: &Failure, request_id: &str) {
        let (service, method) = (rule.short_service(), rule.name());
        if failure.code() != Code::PermissionDenied {
            let error = failure.message();
            tracing::debug!(service, method, error, "Request refused");
            return;
        }
        if !self.limit.take(peer) {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let caller_addr = peer.address_text();
        let caller_id = peer.certificate().map(|certificate| certificate.id.to_string());
        let subsystem_name = "api";
        if let Some(reason) = failure.reason().and_then(said) {
            tracing::error!(
                caller_addr,
                caller_id,
                service,
                method,
                request_id,
                subsystem_name,
                "{reason}"
            );
        }
        let code = code_name(failure.code());
        let error = format!("rpc error: code = {code} desc = {}", failure.message());
        let skipped = Some(self.skipped.swap(0, Ordering::Relaxed)).filter(|skipped| *skipped > 0);
        tracing::error!(
            caller_addr,
            caller_id,
            service,
            method,
            request_id,
            subsystem_name,
            error,
            skipped,
            "Failed to authenticate caller"
        );
    }
}

/// SPIRE's line for a reason (`spire-suites` 4 waits for one of them).
fn said(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::AgentExpired => Some("Agent SVID is expired"),
        Reason::AgentNotAttested => Some("Agent is not attested"),
        Reason::AgentBanned => Some("Agent is banned"),
        Reason::AgentNotActive => Some("Agent SVID is not active"),
        Reason::Unknown | Reason::AgentMustReattest => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    use super::*;
    use crate::gate::policy;

    const SYNC: &str = "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries";

    /// Keeps lines as `LEVEL field=value …`.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0.push_str(&format!(" {field}={value:?}"));
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
    }

    fn logged(act: impl FnOnce(&Refusals)) -> Vec<String> {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(kept.clone());
        tracing::subscriber::with_default(subscriber, || act(&Refusals::new()));
        let lines = kept.0.lock().unwrap();
        lines.clone()
    }

    fn peer(last: u8) -> Peer {
        Peer::Remote { address: ([10, 0, 0, last], 7).into(), certificate: None }
    }

    #[tokio::test]
    async fn a_refused_agent_is_an_error_that_names_the_reason_as_spire_does() {
        let rule = policy::rule(SYNC).expect("a method");
        let table = [
            (Reason::AgentExpired, "Agent SVID is expired"),
            (Reason::AgentNotAttested, "Agent is not attested"),
            (Reason::AgentBanned, "Agent is banned"),
            (Reason::AgentNotActive, "Agent SVID is not active"),
        ];
        for (reason, text) in table {
            let failure = Failure::denied(rule.method, Some(reason));
            let lines = logged(|refusals| refusals.log(rule, &peer(1), &failure, "r1"));
            let [first, second] = lines.as_slice() else { panic!("{lines:?}") };
            assert!(first.starts_with("ERROR ") && first.contains(text), "{first}");
            let fields = "caller_addr=\"10.0.0.1:7\" service=\"entry.v1.Entry\" \
                          method=\"GetAuthorizedEntries\" request_id=\"r1\" subsystem_name=\"api\"";
            assert!(first.contains(fields), "{first}");
            assert!(second.contains("Failed to authenticate caller"), "{second}");
            let denied = "error=\"rpc error: code = PermissionDenied desc = authorization denied";
            assert!(second.contains(denied), "{second}");
        }
    }

    #[tokio::test]
    async fn what_says_nothing_about_the_caller_is_no_error() {
        let rule = policy::rule(SYNC).expect("a method");
        let failure = Failure::unavailable("no leader", std::time::Duration::ZERO);
        let lines = logged(|refusals| refusals.log(rule, &peer(1), &failure, "r1"));
        assert!(lines.iter().all(|line| line.starts_with("DEBUG ")), "{lines:?}");
    }

    #[tokio::test]
    async fn a_flood_of_one_address_is_a_few_lines_and_hides_no_one_else() {
        let rule = policy::rule(SYNC).expect("a method");
        let failure = Failure::denied(rule.method, Some(Reason::AgentBanned));
        let lines = logged(|refusals| {
            (0..10_000).for_each(|_| refusals.log(rule, &peer(1), &failure, "r1"));
            refusals.log(rule, &peer(2), &failure, "r1");
        });
        let of = |address: &str| lines.iter().filter(|line| line.contains(address)).count();
        assert!(of("10.0.0.1:7") < 200, "{}", of("10.0.0.1:7"));
        assert_eq!(of("10.0.0.2:7"), 2);
        let last = lines.last().expect("a line");
        assert!(last.contains("skipped=99"), "{last}");
    }
}
