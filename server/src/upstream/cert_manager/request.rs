//! `CertificateRequest` objects: how one is written, and what is read in it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use steeple_spiffe_core::{Timestamp, pem};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{CertManagerError, CertManagerSettings};
use crate::upstream::MintedCa;

pub(super) const GROUP: &str = "cert-manager.io";
pub(super) const VERSION: &str = "v1";
pub(super) const KIND: &str = "CertificateRequest";
pub(super) const PLURAL: &str = "certificaterequests";

/// What the requests of a trust domain have in common, as in SPIRE.
const LABEL: &str = "cert-manager.spiffe.io/trust-domain";

/// How much of what others say is told.
const EXCERPT_CHARS: usize = 500;

/// The longest value of a label.
const LABEL_CHARS_MAX: usize = 63;

/// How far a request has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has a certificate.
    Signed,
    /// It cannot be signed, for this reason.
    Failed(String),
    /// It must not be signed, for this reason.
    Denied(String),
    /// It waits for what this says.
    Pending(String),
}

/// Whether requests of this trust domain can be labelled.
pub(super) fn check_label(trust_domain: &str) -> Result<(), CertManagerError> {
    let ends = [trust_domain.chars().next(), trust_domain.chars().next_back()];
    let plain = |end: Option<char>| end.is_some_and(|end| end.is_ascii_alphanumeric());
    if trust_domain.len() <= LABEL_CHARS_MAX && ends.into_iter().all(plain) {
        return Ok(());
    }
    Err(CertManagerError::Label { trust_domain: trust_domain.to_owned() })
}

/// By what the requests of a trust domain are found.
pub(super) fn selector(trust_domain: &str) -> String {
    format!("{LABEL}={trust_domain}")
}

/// SPIRE's object, for a request in DER.
pub(super) fn object(
    settings: &CertManagerSettings,
    trust_domain: &str,
    csr: &[u8],
    ttl: Duration,
) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {
            "generateName": "spiffe-ca-",
            "namespace": settings.namespace,
            "labels": { LABEL: trust_domain },
        },
        "spec": {
            "duration": go_duration(ttl),
            "issuerRef": {
                "name": settings.issuer_name,
                "kind": settings.issuer_kind,
                "group": settings.issuer_group,
            },
            "request": STANDARD.encode(pem::encode_request(csr)),
            "isCA": true,
            "usages": ["cert sign", "crl sign"],
        },
    })
}

/// A duration as Go writes it, in whole seconds.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// The name that Kubernetes gave it.
pub(super) fn name(object: &Value) -> Option<&str> {
    object.pointer("/metadata/name")?.as_str().filter(|name| !name.is_empty())
}

/// When it was made, by the clock of Kubernetes.
pub(super) fn created(object: &Value) -> Option<Timestamp> {
    let text = object.pointer("/metadata/creationTimestamp")?.as_str()?;
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(Timestamp::from_unix_s(time.unix_timestamp()))
}

/// How far it has come. As in SPIRE, a certificate counts and not the condition that there is one.
pub(super) fn state(object: &Value, settings: &CertManagerSettings) -> State {
    if let Some(denied) = condition(object, "Denied", "True") {
        return State::Denied(told(denied));
    }
    let waiting = condition(object, "Ready", "False");
    if let Some(failed) = waiting.filter(|found| text(found, "reason") == "Failed") {
        return State::Failed(told(failed));
    }
    if !status(object, "certificate").is_empty() {
        return State::Signed;
    }
    let mut waits_for = Vec::new();
    if condition(object, "Approved", "True").is_none() {
        waits_for.push(unapproved(settings));
    }
    waits_for.extend(waiting.map(told));
    if waits_for.is_empty() {
        waits_for.push("the issuer has not answered; is cert-manager running".to_owned());
    }
    State::Pending(waits_for.join("; "))
}

fn unapproved(settings: &CertManagerSettings) -> String {
    let kinds = format!("{}s", settings.issuer_kind.to_ascii_lowercase());
    format!(
        "nobody has approved it: is cert-manager running, may its approver \"approve\" signers \
         {kinds}.{}/*, or does a CertificateRequestPolicy let it pass",
        settings.issuer_group
    )
}

/// What was signed: the chain without its root, and the roots.
pub(super) fn signed(object: &Value) -> Result<MintedCa, String> {
    let chain = certificates(object, "certificate")?;
    if status(object, "ca").is_empty() {
        return Err(
            "no upstream CA root returned from request: choose an issuer that fills status.ca"
                .to_owned(),
        );
    }
    let roots = certificates(object, "ca")?;
    let mut chain = chain.into_iter();
    let leaf = chain.next().into_iter();
    // An issuer that does not know its root names the topmost certificate that it has, twice.
    let chain = leaf.chain(chain.filter(|one| !roots.contains(one))).collect();
    Ok(MintedCa { chain, roots })
}

fn certificates(object: &Value, field: &str) -> Result<Vec<Vec<u8>>, String> {
    let bad = |reason: &dyn std::fmt::Display| format!("status.{field}: {reason}");
    let bytes = STANDARD.decode(status(object, field)).map_err(|error| bad(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| bad(&error))?;
    pem::decode_certificates(&text).map_err(|error| bad(&error))
}

fn status<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("status").map_or("", |status| text(status, field))
}

fn condition<'a>(object: &'a Value, kind: &str, status: &str) -> Option<&'a Value> {
    let all = object.pointer("/status/conditions")?.as_array()?;
    all.iter().find(|one| text(one, "type") == kind && text(one, "status") == status)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A condition in cert-manager's own words.
fn told(condition: &Value) -> String {
    let (reason, message) = (text(condition, "reason"), text(condition, "message"));
    match (reason, message) {
        ("", "") => "cert-manager gives no reason".to_owned(),
        ("", words) | (words, "") => excerpt(words),
        _ => excerpt(&format!("{reason}: {message}")),
    }
}

/// The beginning of what somebody else says, in one line.
pub(super) fn excerpt(text: &str) -> String {
    let line = |char: char| if char.is_control() { ' ' } else { char };
    text.trim().chars().take(EXCERPT_CHARS).map(line).collect()
}
