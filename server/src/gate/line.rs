//! The log lines about one call when it is over: the audit record, and what went wrong.
//!
//! Owns SPIRE's texts and field names. Steps on authorities that are refused are errors here as there:
//! whoever takes them wants to find them again.

use std::fs;
use std::sync::Arc;

use http::HeaderMap;
use steeple_api::status::code_name;
use steeple_spiffe_core::random::Random;
use tonic::Code;

use super::call::Notes;
use super::policy::Rule;
use crate::listen::Peer;
use crate::listen::peer::LocalCredentials;

const LOCAL_AUTHORITY: &str = "localauthority.v1.LocalAuthority";

/// What the lines about a call say of it.
pub(super) struct Line {
    pub(super) rule: &'static Rule,
    pub(super) peer: Arc<Peer>,
    pub(super) notes: Arc<Notes>,
    /// Where the id that ties the lines together comes from.
    pub(super) random: Arc<dyn Random>,
}

/// The part of the server that the lines are of, in SPIRE's word.
const SUBSYSTEM: &str = "api";

impl Line {
    /// The call has ended with a code; `trailers` have its text. `audit` asks for the record.
    pub(super) fn log(&self, code: Code, trailers: &HeaderMap, audit: bool) {
        let message = tonic::Status::from_header_map(trailers)
            .map(|status| status.message().to_owned())
            .unwrap_or_default();
        if self.rule.short_service() == LOCAL_AUTHORITY {
            // Whom the gate refuses is told there.
            if !matches!(code, Code::Ok | Code::PermissionDenied) {
                self.refused(code, &message);
            }
        } else if matches!(code, Code::Internal | Code::Unknown | Code::DataLoss) {
            let (service, method) = (self.rule.short_service(), self.rule.name());
            let (caller_addr, caller_id) = (self.peer.address_text(), self.caller_id());
            let (authorized_as, authorized_via, request_id) = self.request();
            tracing::error!(
                service,
                method,
                caller_addr,
                caller_id,
                authorized_as,
                authorized_via,
                request_id,
                subsystem_name = SUBSYSTEM,
                error = message,
                "Call failed"
            );
        }
        if audit {
            self.audit(code, &message);
        }
    }

    /// A step that was not taken: what was wrong as the line's text, and why as its error.
    fn refused(&self, code: Code, message: &str) {
        let (service, method) = (self.rule.short_service(), self.rule.name());
        let (local_authority_id, subject_key_id) = self.named();
        let (what, error) = match message.split_once(": ") {
            Some((what, error)) => (what, Some(error)),
            None => (message, None),
        };
        let text = if code == Code::InvalidArgument {
            format!("Invalid argument: {what}")
        } else {
            capitalised(what)
        };
        let (caller_addr, caller_id) = (self.peer.address_text(), self.caller_id());
        let (authorized_as, authorized_via, request_id) = self.request();
        tracing::error!(
            service,
            method,
            caller_addr,
            caller_id,
            authorized_as,
            authorized_via,
            request_id,
            subsystem_name = SUBSYSTEM,
            local_authority_id,
            subject_key_id,
            error,
            "{text}"
        );
    }

    fn audit(&self, code: Code, message: &str) {
        let (service, method) = (self.rule.short_service(), self.rule.name());
        let (caller_addr, caller_id) = (self.peer.address_text(), self.caller_id());
        let credentials = self.peer.credentials();
        let caller_uid = credentials.map(|one| one.uid);
        let caller_gid = credentials.map(|one| one.gid);
        let caller_path = credentials.and_then(path);
        let (local_authority_id, subject_key_id) = self.named();
        let failed = code != Code::Ok;
        let (r#type, status) = ("audit", if failed { "error" } else { "success" });
        let status_code = failed.then(|| code_name(code));
        let status_message = failed.then_some(message);
        let (authorized_as, authorized_via, request_id) = self.request();
        tracing::info!(
            r#type,
            status,
            status_code,
            status_message,
            service,
            method,
            authorized_as,
            authorized_via,
            request_id,
            subsystem_name = SUBSYSTEM,
            caller_addr,
            caller_id,
            caller_uid,
            caller_gid,
            caller_path,
            local_authority_id,
            subject_key_id,
            "API accessed"
        );
    }

    fn caller_id(&self) -> String {
        self.peer.certificate().map(|certificate| certificate.id.to_string()).unwrap_or_default()
    }

    /// As what the caller was let in, by what, and the id of the call's lines.
    fn request(&self) -> (Option<&'static str>, Option<&'static str>, &str) {
        let authorized = self.notes.authorization();
        let request_id = self.notes.log_id(self.random.as_ref());
        (authorized.map(|one| one.r#as), authorized.map(|one| one.via), request_id)
    }

    /// The authority and the root that the call is about.
    fn named(&self) -> (Option<&str>, Option<&str>) {
        (self.notes.local_authority_id(), self.notes.subject_key_id())
    }
}

/// The program at the other end of a local socket, if the kernel tells.
fn path(credentials: LocalCredentials) -> Option<String> {
    let path = fs::read_link(format!("/proc/{}/exe", credentials.pid?)).ok()?;
    Some(path.to_string_lossy().into_owned())
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}", first.unwrap_or_default(), letters.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use steeple_raft_store::Revision;
    use tonic::Status;

    use super::*;
    use crate::gate::caller::Caller;
    use crate::gate::policy;
    use crate::logging::captured;

    const ACTIVATE: &str =
        "/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority";
    const TAINT: &str =
        "/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority";
    const LIST: &str = "/spire.api.server.entry.v1.Entry/ListEntries";

    fn lines(method: &str, status: &Status, note: impl FnOnce(&Notes), audit: bool) -> Vec<String> {
        let credentials = Some(LocalCredentials { pid: None, uid: 1000, gid: 100 });
        let notes = Arc::new(Notes::new(Revision::default()));
        note(&notes);
        let rule = policy::rule(method).unwrap();
        notes.authorized(Caller::Local.authorized(&BTreeSet::new()));
        let random = Arc::new(FixedId);
        let line = Line { rule, peer: Arc::new(Peer::Local { credentials }), notes, random };
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).unwrap();
        captured(|| line.log(status.code(), &trailers, audit))
    }

    /// Draws nothing but zeros.
    #[derive(Debug)]
    struct FixedId;

    impl Random for FixedId {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    const AS: &str = "authorized_as=local authorized_via=transport caller_addr=@";
    const OF: &str = "method=ActivateX509Authority request_id=00000000-0000-4000-8000-000000000000 \
                      service=localauthority.v1.LocalAuthority";

    #[test]
    fn an_audit_record_names_the_authority_and_the_local_caller() {
        let note = |notes: &Notes| notes.names_authority("a1");
        let who =
            format!("{AS} caller_gid=100 caller_id=\"\" caller_uid=1000 local_authority_id=a1");
        assert_eq!(
            lines(ACTIVATE, &Status::ok(""), note, true),
            [format!(
                "level=info msg=\"API accessed\" {who} {OF} status=success subsystem_name=api type=audit"
            )]
        );
        let refused =
            lines(ACTIVATE, &Status::invalid_argument("unexpected authority ID"), note, true);
        assert_eq!(
            refused,
            [
                format!(
                    "level=error msg=\"Invalid argument: unexpected authority ID\" {AS} \
                     caller_id=\"\" local_authority_id=a1 {OF} subsystem_name=api"
                ),
                format!(
                    "level=info msg=\"API accessed\" {who} {OF} status=error \
                     status_code=InvalidArgument status_message=\"unexpected authority ID\" \
                     subsystem_name=api type=audit"
                ),
            ]
        );
        let none = lines(ACTIVATE, &Status::ok(""), |notes| notes.names_authority(""), true);
        assert!(!none.concat().contains("local_authority_id"), "{none:?}");
    }

    #[test]
    fn a_refused_step_is_an_error_that_says_what_and_why() {
        let because =
            Status::internal("failed to taint X.509 authority: root CA is already tainted");
        let told = lines(ACTIVATE, &because, |notes| notes.names_authority("a1"), false);
        assert_eq!(
            told,
            [format!(
                "level=error msg=\"Failed to taint X.509 authority\" {AS} caller_id=\"\" \
                 error=\"root CA is already tainted\" local_authority_id=a1 {OF} subsystem_name=api"
            )]
        );
        let missing = Status::failed_precondition("upstream authority is not configured");
        let told = lines(TAINT, &missing, |notes| notes.names_root("abc"), false);
        assert_eq!(
            told,
            ["level=error msg=\"Upstream authority is not configured\" authorized_as=local \
                 authorized_via=transport caller_addr=@ caller_id=\"\" method=TaintX509UpstreamAuthority \
                 request_id=00000000-0000-4000-8000-000000000000 \
                 service=localauthority.v1.LocalAuthority subject_key_id=abc subsystem_name=api"]
        );
        assert_eq!(lines(ACTIVATE, &Status::permission_denied("no"), |_| (), false), [""; 0]);
        // Of other services only what went wrong here is told.
        assert_eq!(lines(LIST, &Status::invalid_argument("x"), |_| (), false), [""; 0]);
        let failed = lines(LIST, &Status::internal("x"), |_| (), false);
        assert!(failed.concat().starts_with("level=error msg=\"Call failed\""), "{failed:?}");
    }
}
