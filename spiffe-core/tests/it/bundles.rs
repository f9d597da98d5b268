//! The SPIFFE bundle document, both ways, and what makes one unacceptable.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use steeple_spiffe_core::KeyType;
use steeple_spiffe_core::bundle::document::{DocumentOptions, from_json, to_json};
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority};

use crate::fixture::{Ca, bundle, jwt_authority, key, trust_domain};

const ENDPOINT: DocumentOptions = DocumentOptions { include_sequence: true, jwks_only: false };
const WORKLOAD: DocumentOptions = DocumentOptions { include_sequence: false, jwks_only: true };

/// Authorities of each kind of key, made once: RSA keys are slow.
static SAMPLE: LazyLock<Bundle> = LazyLock::new(|| {
    let cas =
        [Ca::new(KeyType::EcP256, 1), Ca::new(KeyType::EcP384, 2), Ca::new(KeyType::Rsa2048, 3)];
    let jwt = [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048];
    let jwt = jwt.map(|kind| jwt_authority(kind.as_str(), &key(kind).0));
    let mut sample = (*bundle(cas.iter().map(Ca::authority).collect(), jwt.into())).clone();
    sample.sequence_number = 7;
    sample.refresh_hint_s = 300;
    sample
});

#[test]
fn endpoint_document_is_laid_out_as_spire_lays_it_out() {
    let mut bundle = SAMPLE.clone();
    bundle.x509_authorities.truncate(1);
    bundle.jwt_authorities.truncate(1);
    let text = to_json(&bundle, ENDPOINT);
    let members: Vec<&str> =
        text.lines().filter_map(|line| line.split_once("\": ").map(|(name, _)| name)).collect();
    let expected = [
        "    \"keys",
        "            \"use",
        "            \"kty",
        "            \"crv",
        "            \"x",
        "            \"y",
        "            \"x5c",
        "            \"use",
        "            \"kty",
        "            \"kid",
        "            \"crv",
        "            \"x",
        "            \"y",
        "    \"spiffe_sequence",
        "    \"spiffe_refresh_hint",
    ];
    assert_eq!(members, expected, "{text}");
    let document: Value = text.parse().unwrap();
    assert_eq!(document["spiffe_sequence"], 7);
    assert_eq!(document["spiffe_refresh_hint"], 300);
    assert_eq!(document["keys"][0]["use"], "x509-svid");
    assert_eq!(document["keys"][1]["kid"], "ec-p256");
}

#[test]
fn workload_document_has_token_keys_alone_and_no_use() {
    let document: Value = to_json(&SAMPLE, WORKLOAD).parse().unwrap();
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| key.get("use").is_none() && key["kid"].is_string()));
    assert_eq!(document.as_object().unwrap().len(), 1);
    assert_eq!(to_json(&Bundle::empty(trust_domain()), WORKLOAD), "{\n    \"keys\": []\n}");
}

#[test]
fn zero_sequence_and_hint_are_left_out() {
    let mut bundle = SAMPLE.clone();
    bundle.sequence_number = 0;
    bundle.refresh_hint_s = 0;
    let document: Value = to_json(&bundle, ENDPOINT).parse().unwrap();
    assert_eq!(document.as_object().unwrap().len(), 1);
}

/// A document of one X.509 and one JWT key, after a change to it.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut bundle = SAMPLE.clone();
    bundle.x509_authorities.truncate(1);
    bundle.jwt_authorities.truncate(1);
    let mut document: Value = to_json(&bundle, ENDPOINT).parse().expect("JSON");
    change(&mut document);
    document.to_string()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, one case a line")]
fn documents_that_break_a_rule_are_refused_with_its_text() {
    let other = to_json(&SAMPLE, ENDPOINT).parse::<Value>().unwrap();
    let leaf = Ca::new(KeyType::EcP256, 9).leaf("/x").0;
    let leaf = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(leaf)
    };
    let x509 = |cause: &str| format!("x509-svid entry 0: {cause}");
    let jwt = |cause: &str| format!("jwt-svid entry 1: {cause}");
    let cases: Vec<(&str, String, String)> = vec![
        (
            "no keys",
            changed(|d| drop(d.as_object_mut().unwrap().remove("keys"))),
            "no authorities found".into(),
        ),
        ("null keys", changed(|d| d["keys"] = Value::Null), "no authorities found".into()),
        (
            "keys not a list",
            changed(|d| d["keys"] = json!({})),
            "malformed bundle document: keys is not a list".into(),
        ),
        (
            "a key not an object",
            changed(|d| d["keys"][0] = json!(1)),
            "malformed bundle document: a key is not an object".into(),
        ),
        ("an array", "[]".into(), "malformed bundle document: not an object".into()),
        (
            "negative hint",
            changed(|d| d["spiffe_refresh_hint"] = json!(-1)),
            "malformed bundle document: spiffe_refresh_hint".into(),
        ),
        (
            "textual sequence",
            changed(|d| d["spiffe_sequence"] = json!("1")),
            "malformed bundle document: spiffe_sequence".into(),
        ),
        (
            "no certificate",
            changed(|d| drop(d["keys"][0].as_object_mut().unwrap().remove("x5c"))),
            "expected a single certificate in x509-svid entry 0; got 0".into(),
        ),
        (
            "two certificates",
            changed(|d| d["keys"][0]["x5c"].as_array_mut().unwrap().push(json!("AA=="))),
            "expected a single certificate in x509-svid entry 0; got 2".into(),
        ),
        (
            "certificate not base64",
            changed(|d| d["keys"][0]["x5c"][0] = json!("!")),
            x509("malformed certificate"),
        ),
        (
            "certificate not DER",
            changed(|d| d["keys"][0]["x5c"][0] = json!("AAAA")),
            x509("malformed certificate"),
        ),
        (
            "certificate a leaf",
            changed(|d| d["keys"][0]["x5c"][0] = json!(leaf)),
            x509("certificate is not a CA"),
        ),
        (
            "another key's certificate",
            changed(|d| d["keys"][0]["x5c"] = other["keys"][1]["x5c"].clone()),
            x509("key and certificate do not match"),
        ),
        (
            "unknown kty",
            changed(|d| d["keys"][0]["kty"] = json!("OKP")),
            x509("unsupported key type"),
        ),
        (
            "no kty",
            changed(|d| drop(d["keys"][1].as_object_mut().unwrap().remove("kty"))),
            jwt("unsupported key type"),
        ),
        (
            "symmetric key",
            changed(|d| d["keys"][1]["kty"] = json!("oct")),
            jwt("unsupported key type"),
        ),
        (
            "RSA members missing",
            changed(|d| d["keys"][1]["kty"] = json!("RSA")),
            jwt("malformed key"),
        ),
        ("wrong curve", changed(|d| d["keys"][1]["crv"] = json!("P-384")), jwt("malformed key")),
        (
            "unknown curve",
            changed(|d| d["keys"][1]["crv"] = json!("secp256k1")),
            jwt("unsupported key type"),
        ),
        (
            "point off the curve",
            changed(|d| d["keys"][1]["x"] = d["keys"][1]["y"].clone()),
            jwt("malformed key"),
        ),
        ("padded coordinate", changed(|d| d["keys"][1]["x"] = json!("AA==")), jwt("malformed key")),
        (
            "empty kid",
            changed(|d| d["keys"][1]["kid"] = json!("")),
            "missing key ID in jwt-svid entry 1".into(),
        ),
        (
            "no kid",
            changed(|d| drop(d["keys"][1].as_object_mut().unwrap().remove("kid"))),
            "missing key ID in jwt-svid entry 1".into(),
        ),
        (
            "small RSA key",
            changed(|d| {
                d["keys"][1] =
                    json!({"use": "jwt-svid", "kid": "k", "kty": "RSA", "n": "sXch", "e": "AQAB"})
            }),
            jwt("malformed key"),
        ),
        (
            "kid twice",
            changed(|d| {
                let mut again = other["keys"][4].clone();
                again["kid"] = json!("ec-p256");
                d["keys"].as_array_mut().unwrap().push(again);
            }),
            "jwt-svid entry 2: key ID is used twice".into(),
        ),
    ];
    for (what, text, message) in cases {
        let error = from_json(trust_domain(), &text).expect_err(what);
        assert_eq!(error.to_string(), message, "{what}");
    }
    for text in [r#"{"keys":[],"keys":[]}"#, r#"{"keys":[{"use":"a","use":"b"}]}"#] {
        let error = from_json(trust_domain(), text).unwrap_err().to_string();
        assert!(error.contains("duplicate member"), "{error}");
    }
    let long = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(4 * 1024 * 1024));
    assert!(from_json(trust_domain(), &long).unwrap_err().to_string().contains("longer than"));
}

#[test]
fn keys_without_a_known_use_are_ignored_and_repeated_keys_count_once() {
    let text = changed(|document| {
        let keys = document["keys"].as_array_mut().unwrap();
        keys.extend(keys.clone());
        for name in ["wit-svid", "sig", ""] {
            keys.push(json!({"use": name, "kty": "nonsense"}));
        }
        keys.push(json!({"kty": "EC"}));
        keys.push(json!({"use": null}));
    });
    let bundle = from_json(trust_domain(), &text).unwrap();
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));
}

#[test]
fn tainted_marks_and_expiries_are_not_part_of_the_document() {
    let mut bundle = SAMPLE.clone();
    bundle.x509_authorities[0].tainted = true;
    bundle.jwt_authorities[0].tainted = true;
    assert_eq!(to_json(&bundle, ENDPOINT), to_json(&SAMPLE, ENDPOINT));
}

proptest! {
    #[test]
    fn a_bundle_survives_its_document(
        x509 in prop::sample::subsequence(vec![0_usize, 1, 2], 0..=3),
        jwt in prop::sample::subsequence(vec![0_usize, 1, 2], 0..=3),
        kids in prop::collection::btree_set("[a-zA-Z0-9\"\\\\ é]{1,20}", 3),
        sequence_number: u64,
        hint in 0..i64::MAX,
    ) {
        let mut bundle = Bundle::empty(trust_domain());
        bundle.x509_authorities =
            x509.iter().map(|index| SAMPLE.x509_authorities[*index].clone()).collect();
        bundle.jwt_authorities = jwt
            .iter()
            .zip(kids)
            .map(|(index, key_id)| {
                JwtAuthority { key_id, ..SAMPLE.jwt_authorities[*index].clone() }
            })
            .collect();
        bundle.sequence_number = sequence_number;
        bundle.refresh_hint_s = hint;
        prop_assert_eq!(from_json(trust_domain(), &to_json(&bundle, ENDPOINT)), Ok(bundle));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]{}:,\"a-z0-9 ]{0,80}") {
        drop(from_json(trust_domain(), &text));
    }
}

#[test]
fn every_signer_key_can_be_published() {
    for (authority, kind) in SAMPLE.jwt_authorities.iter().zip(["EC", "EC", "RSA"]) {
        let alone = bundle(Vec::new(), vec![authority.clone()]);
        let document: Value = to_json(&alone, WORKLOAD).parse().unwrap();
        assert_eq!(document["keys"][0]["kty"], kind);
    }
}
