//! The Workload API's messages, built from a view.
//!
//! Owns the encoding facts of `spire-api` 4: concatenated DER, trust domain ids as map keys, plain
//! key sets, and which claims of a token are shown. Pure.

use std::collections::BTreeMap;

use steeple_api::pb;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::bundle::document::{DocumentOptions, to_json};
use steeple_spiffe_core::svid::jwt::JwtSvid;

use crate::store::WorkloadView;

/// All SVIDs of a view that are there, by entry id, with the bundles they need.
pub(super) fn x509_svids(view: &WorkloadView) -> pb::workload::X509svidResponse {
    let bundle = roots(&view.bundle);
    let svids = view.identities.iter().filter_map(|identity| {
        let svid = identity.svid.as_ref()?;
        Some(pb::workload::X509svid {
            spiffe_id: svid.spiffe_id.to_string(),
            x509_svid: svid.chain_der.concat(),
            x509_svid_key: svid.key_pkcs8.expose().to_vec(),
            bundle: bundle.clone(),
            hint: identity.entry.hint.clone(),
        })
    });
    let federated = view.federated.values().map(|bundle| (key(bundle), roots(bundle)));
    pb::workload::X509svidResponse {
        svids: svids.collect(),
        crl: Vec::new(),
        federated_bundles: federated.collect(),
    }
}

/// The roots a caller may use: the own ones, and with an identity those it federates with.
pub(super) fn x509_bundles(view: &WorkloadView) -> pb::workload::X509BundlesResponse {
    pb::workload::X509BundlesResponse { crl: Vec::new(), bundles: each_bundle(view, roots) }
}

/// The token keys a caller may use.
pub(super) fn jwt_bundles(view: &WorkloadView) -> pb::workload::JwtBundlesResponse {
    pb::workload::JwtBundlesResponse { bundles: each_bundle(view, key_set) }
}

/// The claims of a validated token. Of a foreign one only those that mean the same everywhere, and
/// what the configuration allows. The audience is always a list.
pub(super) fn claims(
    svid: &JwtSvid,
    is_foreign: bool,
    allowed_foreign: &[String],
) -> Result<prost_types::Struct, serde_json::Error> {
    const UNIVERSAL: [&str; 3] = ["sub", "exp", "aud"];
    let claims: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&svid.claims_json)?;
    let is_shown = |name: &String| {
        !is_foreign || UNIVERSAL.contains(&name.as_str()) || allowed_foreign.contains(name)
    };
    let mut fields: BTreeMap<String, prost_types::Value> = claims
        .into_iter()
        .filter(|(name, _)| is_shown(name))
        .map(|(name, claim)| (name, value(claim)))
        .collect();
    let audience = svid.audience.iter().cloned().map(serde_json::Value::String).collect();
    fields.insert("aud".to_owned(), value(serde_json::Value::Array(audience)));
    Ok(prost_types::Struct { fields })
}

fn each_bundle(view: &WorkloadView, encode: fn(&Bundle) -> Vec<u8>) -> BTreeMap<String, Vec<u8>> {
    let all = std::iter::once(&view.bundle).chain(view.federated.values());
    all.map(|bundle| (key(bundle), encode(bundle))).collect()
}

fn key(bundle: &Bundle) -> String {
    bundle.trust_domain.id_string()
}

fn roots(bundle: &Bundle) -> Vec<u8> {
    bundle.x509_authorities.iter().flat_map(|root| root.certificate_der.iter().copied()).collect()
}

fn key_set(bundle: &Bundle) -> Vec<u8> {
    let options = DocumentOptions { include_sequence: false, jwks_only: true };
    to_json(bundle, options).into_bytes()
}

fn value(json: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(truth) => Kind::BoolValue(truth),
        // Protobuf's only number is a double; a claim beyond its range becomes the largest.
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::MAX)),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            let values = items.into_iter().map(value).collect();
            Kind::ListValue(prost_types::ListValue { values })
        }
        serde_json::Value::Object(members) => {
            let fields = members.into_iter().map(|(name, member)| (name, value(member))).collect();
            Kind::StructValue(prost_types::Struct { fields })
        }
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::{SpiffeId, Timestamp};

    use super::*;

    fn token(claims_json: &str) -> JwtSvid {
        JwtSvid {
            id: SpiffeId::parse("spiffe://example.org/x").expect("id"),
            audience: vec!["a".to_owned()],
            issued_at: None,
            expires_at: Timestamp::from_unix_s(9),
            key_id: "k".to_owned(),
            claims_json: claims_json.to_owned(),
            token: String::new(),
        }
    }

    #[test]
    fn foreign_tokens_show_only_universal_and_allowed_claims() {
        let token = token(
            r#"{"aud":"a","exp":9,"sub":"spiffe://example.org/x","iat":1,"role":{"x":[1,null]}}"#,
        );
        let names = |is_foreign, allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
            let claims = claims(&token, is_foreign, &allowed).expect("claims");
            claims.fields.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(false, &[]), ["aud", "exp", "iat", "role", "sub"]);
        assert_eq!(names(true, &[]), ["aud", "exp", "sub"]);
        assert_eq!(names(true, &["role", "none"]), ["aud", "exp", "role", "sub"]);
    }

    #[test]
    fn the_audience_is_a_list_even_if_the_token_has_one_string() {
        let claims = claims(&token(r#"{"aud":"a","exp":9}"#), false, &[]).expect("claims");
        let audience = claims.fields.get("aud").and_then(|value| value.kind.clone());
        assert!(
            matches!(audience, Some(prost_types::value::Kind::ListValue(list)) if list.values.len() == 1)
        );
    }
}
