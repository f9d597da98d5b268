//! Tokens: shape, agreement with jsonwebtoken in both directions, and every refusal with its text.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use proptest::prelude::*;
use serde_json::{Value, json};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::jwt::{JwtClaims, JwtError, JwtSvid, sign_jwt_svid};
use steeple_spiffe_core::{KeyType, LocalSigner, Secret, Signer, SpiffeId, Timestamp, TrustDomain};

use crate::fixture::{bundle, id, jwt_authority, key, now, seconds, trust_domain};

fn claims<'a>(subject: &'a SpiffeId, audience: &'a [String]) -> JwtClaims<'a> {
    JwtClaims {
        subject,
        audience,
        issued_at: now(),
        expires_at: now().plus(seconds(300)),
        issuer: None,
        jwt_id: None,
    }
}

fn audience(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("a part");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
}

/// Validates against a bundle of the test's trust domain alone.
fn validate(
    token: &str,
    names: &[&str],
    bundle: &Arc<Bundle>,
    at: Timestamp,
) -> Result<JwtSvid, JwtError> {
    let own = trust_domain();
    let lookup = |td: &TrustDomain| (*td == own).then(|| Arc::clone(bundle));
    JwtSvid::validate(token, &audience(names), &lookup, at)
}

#[test]
fn token_has_spires_shape() {
    let (signer, _) = key(KeyType::EcP256);
    let subject = id("/w");
    let names = audience(&["a", "", "b"]);
    let token = sign_jwt_svid(&signer, "kid1", &claims(&subject, &names)).unwrap();
    assert_eq!(part(&token, 0), json!({"alg": "ES256", "kid": "kid1", "typ": "JWT"}));
    let payload = part(&token, 1);
    let issued = now().unix_s();
    let expected = json!({"aud": ["a", "b"], "exp": issued + 300, "iat": issued, "sub": "spiffe://example.org/w"});
    assert_eq!(payload, expected);
    assert_eq!(payload.to_string(), expected.to_string(), "members are in alphabetical order");

    let one = audience(&["only"]);
    let full = JwtClaims { issuer: Some("https://i"), jwt_id: Some("j"), ..claims(&subject, &one) };
    let payload = part(&sign_jwt_svid(&signer, "k", &full).unwrap(), 1);
    assert_eq!(payload["aud"], json!(["only"]), "a single audience is a list too");
    assert_eq!((&payload["iss"], &payload["jti"]), (&json!("https://i"), &json!("j")));
    let none = sign_jwt_svid(&signer, "k", &claims(&subject, &audience(&["", ""])));
    assert_eq!(none, Err(JwtError::NoAudience));
}

fn tail(bytes: &[u8], start: usize) -> &[u8] {
    bytes.get(start..).expect("enough bytes")
}

/// jsonwebtoken's algorithm and keys for one of ours.
fn oracle(
    kind: KeyType,
    signer: &LocalSigner,
    secret: &Secret,
) -> (Algorithm, EncodingKey, DecodingKey) {
    let spki = signer.public_key_spki();
    assert_ne!(kind, KeyType::EcP521, "jsonwebtoken has no ES512; see profiles.rs for those");
    match kind {
        KeyType::EcP256 | KeyType::EcP384 | KeyType::EcP521 => {
            let (algorithm, point) = if kind == KeyType::EcP256 {
                (Algorithm::ES256, tail(spki, spki.len() - 65))
            } else {
                (Algorithm::ES384, tail(spki, spki.len() - 97))
            };
            let key = EncodingKey::from_ec_der(secret.expose());
            (algorithm, key, DecodingKey::from_ec_der(point))
        }
        KeyType::Rsa2048 | KeyType::Rsa4096 => {
            // A PKCS#1 key is what follows the 24 bytes of AlgorithmIdentifier and lengths.
            let pkcs1 = tail(spki, 24);
            let pkcs8 = secret.expose();
            let key = EncodingKey::from_rsa_der(tail(pkcs8, 26));
            (Algorithm::RS256, key, DecodingKey::from_rsa_der(pkcs1))
        }
    }
}

#[test]
fn jsonwebtoken_accepts_our_tokens_and_we_accept_its() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let (signer, secret) = key(kind);
        let (algorithm, encoding, decoding) = oracle(kind, &signer, &secret);
        let subject = id("/w");
        let names = audience(&["a"]);
        let ours = sign_jwt_svid(&signer, "k", &claims(&subject, &names)).unwrap();
        let mut rules = Validation::new(algorithm);
        rules.validate_exp = false; // it reads the machine's clock
        rules.set_audience(&["a"]);
        let read = jsonwebtoken::decode::<Value>(&ours, &decoding, &rules).unwrap();
        assert_eq!(read.claims["sub"], "spiffe://example.org/w", "{kind}");

        let trusted = bundle(vec![], vec![jwt_authority("k", &signer)]);
        let mut algorithms = vec![algorithm];
        if algorithm == Algorithm::RS256 {
            algorithms = vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ];
        }
        for algorithm in algorithms {
            let mut header = Header::new(algorithm);
            header.kid = Some("k".to_owned());
            let body =
                json!({"sub": "spiffe://example.org/w", "aud": "a", "exp": now().unix_s() + 5});
            let theirs = jsonwebtoken::encode(&header, &body, &encoding).unwrap();
            let svid = validate(&theirs, &["b", "a"], &trusted, now()).unwrap();
            assert_eq!((svid.id, svid.audience), (id("/w"), audience(&["a"])), "{algorithm:?}");
            assert_eq!(svid.issued_at, None);
            assert_eq!(svid.claims_json.parse::<Value>().unwrap(), body);
        }
    }
}

/// Signs an arbitrary header and payload.
fn signed(signer: &LocalSigner, header: &Value, payload: &Value) -> String {
    signed_text(signer, &header.to_string(), &payload.to_string())
}

fn signed_text(signer: &LocalSigner, header: &str, payload: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = signer.sign_jws(text.as_bytes()).expect("a signature");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, one case a line")]
fn tokens_that_break_a_rule_are_refused_with_its_text() {
    let (signer, _) = key(KeyType::EcP256);
    let (stranger, _) = key(KeyType::EcP256);
    let (p384, _) = key(KeyType::EcP384);
    let trusted = bundle(vec![], vec![jwt_authority("k", &signer), jwt_authority("p384", &p384)]);
    let at = now().unix_s();
    let header = |change: &dyn Fn(&mut Value)| {
        let mut header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
        change(&mut header);
        signed(
            &signer,
            &header,
            &json!({"sub": "spiffe://example.org/w", "aud": ["a"], "exp": at + 300}),
        )
    };
    let payload = |change: &dyn Fn(&mut Value)| {
        let mut payload =
            json!({"sub": "spiffe://example.org/w", "aud": ["a"], "exp": at + 300, "iat": at});
        change(&mut payload);
        signed(&signer, &json!({"alg": "ES256", "kid": "k"}), &payload)
    };
    let remove = |name: &'static str| {
        move |value: &mut Value| drop(value.as_object_mut().expect("an object").remove(name))
    };
    let ok = payload(&|_| {});
    let malformed = "unable to parse JWT token";
    let cases: Vec<(&str, String, &str)> = vec![
        ("empty", String::new(), malformed),
        ("two parts", "a.b".into(), malformed),
        ("four parts", format!("{ok}.x"), malformed),
        ("padded base64", format!("{ok}="), malformed),
        ("alg none", header(&|h| h["alg"] = json!("none")), malformed),
        ("shared secret", header(&|h| h["alg"] = json!("HS256")), malformed),
        ("EdDSA", header(&|h| h["alg"] = json!("EdDSA")), malformed),
        ("no alg", header(&remove("alg")), malformed),
        ("critical extension", header(&|h| h["crit"] = json!(["b64"])), malformed),
        (
            "header twice",
            signed_text(&signer, r#"{"alg":"ES256","kid":"k","kid":"k"}"#, "{}"),
            malformed,
        ),
        (
            "WIT-SVID",
            header(&|h| h["typ"] = json!("wit+jwt")),
            "token header type not supported: \"wit+jwt\"",
        ),
        ("no kid", header(&remove("kid")), "token header missing key id"),
        ("empty kid", header(&|h| h["kid"] = json!("")), "token header missing key id"),
        (
            "other kid",
            header(&|h| h["kid"] = json!("z")),
            "public key \"z\" not found in trust domain \"example.org\"",
        ),
        (
            "kid of another curve",
            header(&|h| h["kid"] = json!("p384")),
            "token signature is invalid",
        ),
        (
            "alg of another kind",
            header(&|h| h["alg"] = json!("RS256")),
            "token signature is invalid",
        ),
        (
            "stranger's key",
            signed(
                &stranger,
                &json!({"alg": "ES256", "kid": "k"}),
                &json!({"sub": "spiffe://example.org/w", "exp": at}),
            ),
            "token signature is invalid",
        ),
        (
            "no signature",
            format!("{}.", ok.rsplit_once('.').expect("dots").0),
            "token signature is invalid",
        ),
        ("no sub", payload(&remove("sub")), "token missing subject claim"),
        ("empty sub", payload(&|p| p["sub"] = json!("")), "token missing subject claim"),
        ("sub a number", payload(&|p| p["sub"] = json!(1)), malformed),
        (
            "sub no id",
            payload(&|p| p["sub"] = json!("x")),
            "token has in invalid subject claim: scheme is missing or invalid",
        ),
        (
            "foreign sub",
            payload(&|p| p["sub"] = json!("spiffe://other.org/w")),
            "no keys found for trust domain \"other.org\"",
        ),
        ("no exp", payload(&remove("exp")), "token missing exp claim"),
        ("exp a text", payload(&|p| p["exp"] = json!("1")), malformed),
        ("expired", payload(&|p| p["exp"] = json!(at - 61)), "token has expired"),
        ("not yet", payload(&|p| p["nbf"] = json!(at + 61)), "token not valid yet (nbf)"),
        (
            "from the future",
            payload(&|p| p["iat"] = json!(at + 61)),
            "token issued in the future (iat)",
        ),
        (
            "other audience",
            payload(&|p| p["aud"] = json!(["b", "c"])),
            "expected audience in [\"a\" \"x\"] (audience=[\"b\" \"c\"])",
        ),
        (
            "no audience",
            payload(&remove("aud")),
            "expected audience in [\"a\" \"x\"] (audience=[])",
        ),
        ("audience a number", payload(&|p| p["aud"] = json!([1])), malformed),
        (
            "payload twice",
            signed_text(&signer, r#"{"alg":"ES256","kid":"k"}"#, r#"{"sub":"a","sub":"b"}"#),
            malformed,
        ),
        ("payload a list", signed_text(&signer, r#"{"alg":"ES256","kid":"k"}"#, "[]"), malformed),
    ];
    for (what, token, message) in cases {
        let error = validate(&token, &["a", "x"], &trusted, now()).expect_err(what);
        assert_eq!(error.to_string(), message, "{what}");
    }
    let long = format!("{ok}{}", "A".repeat(70_000));
    assert_eq!(validate(&long, &["a"], &trusted, now()), Err(JwtError::Malformed));
}

#[test]
fn a_minute_of_leeway_is_given_each_way() {
    let (signer, _) = key(KeyType::EcP256);
    let trusted = bundle(vec![], vec![jwt_authority("k", &signer)]);
    let (subject, names) = (id("/w"), audience(&["a"]));
    let token = sign_jwt_svid(&signer, "k", &claims(&subject, &names)).unwrap();
    assert!(validate(&token, &["a"], &trusted, now().plus(seconds(360))).is_ok());
    assert_eq!(
        validate(&token, &["a"], &trusted, now().plus(seconds(361))),
        Err(JwtError::Expired)
    );
    assert!(validate(&token, &["a"], &trusted, now().minus(seconds(60))).is_ok());
    let early = validate(&token, &["a"], &trusted, now().minus(seconds(61)));
    assert_eq!(early, Err(JwtError::IssuedInTheFuture));
}

#[test]
fn tainted_keys_still_verify_and_odd_numbers_are_taken() {
    let (signer, _) = key(KeyType::EcP256);
    let mut authority = jwt_authority("k", &signer);
    authority.tainted = true;
    let trusted = bundle(vec![], vec![authority]);
    let exp = now().unix_s() as f64 + 10.75;
    let body = json!({"sub": "spiffe://example.org/w", "exp": exp, "nbf": null, "iat": 1e300});
    let token = signed(&signer, &json!({"alg": "ES256", "kid": "k", "typ": "JOSE"}), &body);
    assert_eq!(validate(&token, &[], &trusted, now()), Err(JwtError::IssuedInTheFuture));
    let insecure = JwtSvid::parse_insecure(&token).unwrap();
    assert_eq!(insecure.expires_at, Timestamp::from_unix_s(now().unix_s() + 10));
    assert_eq!((insecure.key_id.as_str(), insecure.token.as_str()), ("k", token.as_str()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn changed_tokens_never_validate_and_never_panic(position: prop::sample::Index, letter in "[A-Za-z0-9_.=-]") {
        let (signer, _) = key(KeyType::EcP256);
        let trusted = bundle(vec![], vec![jwt_authority("k", &signer)]);
        let (subject, names) = (id("/w"), audience(&["a"]));
        let token = sign_jwt_svid(&signer, "k", &claims(&subject, &names)).unwrap();
        let index = position.index(token.len());
        let mut changed = token.clone();
        changed.replace_range(index..=index, &letter);
        prop_assume!(changed != token);
        prop_assert!(validate(&changed, &["a"], &trusted, now()).is_err());
    }
}
