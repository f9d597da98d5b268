//! What is told of an authority's steps: SPIRE's log lines with its fields, and its counters.
//!
//! Owns names and forms alone. A member tells of what it prepared itself, by schedule or for an operator,
//! and of each authority that begins to sign here. SPIRE's `slot` is missing: there are no slots.

use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::{AuthorityId, Timestamp};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::Instant;
use tonic::Code;

use super::planner::kind_name;
use crate::metrics::record_call;

/// The counter of authorities that were prepared.
pub(crate) fn prepare_metric(kind: AuthorityKind) -> &'static str {
    match kind {
        AuthorityKind::X509 => "spire_server_ca_manager_x509_ca_prepare",
        AuthorityKind::Jwt => "spire_server_ca_manager_jwt_key_prepare",
        AuthorityKind::Wit => "spire_server_ca_manager_wit_key_prepare",
    }
}

/// The counter of authorities that were activated.
pub(crate) fn activate_metric(kind: AuthorityKind) -> &'static str {
    match kind {
        AuthorityKind::X509 => "spire_server_ca_manager_x509_ca_activate",
        AuthorityKind::Jwt => "spire_server_manager_jwt_key_activate",
        AuthorityKind::Wit => "spire_server_manager_wit_key_activate",
    }
}

/// This member has prepared an authority, and began with it at a time.
pub(crate) fn prepared(authority: &Authority, begun: Instant) {
    record_call(prepare_metric(authority.kind), Code::Ok, begun);
    let (local_authority_id, expiration) = (&authority.id, go_time(authority.not_after));
    let issued_at = go_time(authority.issued_at);
    match authority.kind {
        AuthorityKind::X509 => {
            let upstream_authority_id = upstream_authority_id(authority);
            let self_signed = upstream_authority_id.is_empty();
            tracing::info!(
                expiration,
                issued_at,
                %local_authority_id,
                self_signed,
                upstream_authority_id,
                "X509 CA prepared"
            );
        }
        AuthorityKind::Jwt | AuthorityKind::Wit => {
            let kind = kind_name(authority.kind);
            tracing::info!(expiration, issued_at, %local_authority_id, "{kind} key prepared");
        }
    }
}

/// An authority begins to sign on this member.
pub(super) fn activated(authority: &Authority) {
    let (local_authority_id, expiration) = (&authority.id, go_time(authority.not_after));
    let issued_at = go_time(authority.issued_at);
    match authority.kind {
        AuthorityKind::X509 => {
            let upstream_authority_id = upstream_authority_id(authority);
            tracing::info!(
                expiration,
                issued_at,
                %local_authority_id,
                upstream_authority_id,
                "X509 CA activated"
            );
        }
        AuthorityKind::Jwt | AuthorityKind::Wit => {
            let kind = kind_name(authority.kind);
            tracing::info!(expiration, issued_at, %local_authority_id, "{kind} key activated");
        }
    }
}

/// The subject key id of the certificate that signed an authority; empty for a self-signed one and for
/// keys.
pub(crate) fn upstream_authority_id(authority: &Authority) -> String {
    match authority.kind {
        AuthorityKind::X509 => {
            let facts = certificate_facts(&authority.public_der);
            let key_id = facts.map(|facts| facts.authority_key_id).unwrap_or_default();
            AuthorityId::from_subject_key_id(&key_id).to_string()
        }
        AuthorityKind::Jwt | AuthorityKind::Wit => String::new(),
    }
}

/// As Go prints a time in UTC, with the milliseconds that there are.
pub(super) fn go_time(at: Timestamp) -> String {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let time = OffsetDateTime::from_unix_timestamp(at.unix_s()).ok();
    let time = time.and_then(|time| time.format(form).ok()).unwrap_or_default();
    let fraction = format!(".{:03}", at.unix_ms().rem_euclid(1000));
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{time}{fraction} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use steeple_raft_store::{ClusterId, ClusterKeys};
    use steeple_spiffe_core::TrustDomain;
    use steeple_spiffe_core::random::{Random, SeededRandom};

    use super::super::mint::Minter;
    use super::super::policy::AuthorityPolicy;
    use super::*;
    use crate::logging::captured;

    #[test]
    fn lines_have_spires_texts_and_fields() {
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(1));
        let keys = Arc::new(ClusterKeys::generate(random.as_ref()).unwrap().0);
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let policy = Arc::new(AuthorityPolicy::default());
        let minter = Minter { trust_domain, policy, keys, random, upstream: None };
        let now = Timestamp::from_unix_ms(1_700_000_000_250);
        let mint = |kind| minter.mint(kind, ClusterId(5), now).unwrap();
        let [x509, jwt, wit] = AuthorityKind::ALL.map(mint);
        let lines = captured(|| {
            for authority in [&x509, &jwt, &wit] {
                prepared(authority, Instant::now());
                activated(authority);
            }
        });
        let times = "expiration=\"2023-11-15 22:13:20 +0000 UTC\" \
                     issued_at=\"2023-11-14 22:13:20.25 +0000 UTC\"";
        let of = |authority: &Authority| format!("local_authority_id={}", authority.id);
        let expected = [
            format!(
                "level=info msg=\"X509 CA prepared\" {times} {} self_signed=true \
                 upstream_authority_id=\"\"",
                of(&x509)
            ),
            format!(
                "level=info msg=\"X509 CA activated\" {times} {} upstream_authority_id=\"\"",
                of(&x509)
            ),
            format!("level=info msg=\"JWT key prepared\" {times} {}", of(&jwt)),
            format!("level=info msg=\"JWT key activated\" {times} {}", of(&jwt)),
            format!("level=info msg=\"WIT key prepared\" {times} {}", of(&wit)),
            format!("level=info msg=\"WIT key activated\" {times} {}", of(&wit)),
        ];
        assert_eq!(lines, expected);
    }
}
