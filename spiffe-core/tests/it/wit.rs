//! WIT-SVIDs: shape field by field, which algorithm goes with which key, and the holder's private key.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use steeple_spiffe_core::svid::jwt::JwtError;
use steeple_spiffe_core::svid::wit::{
    HolderKey, HolderKeyError, WitClaims, WitSvid, sign_wit_svid,
};
use steeple_spiffe_core::{KeyType, Signer, private_jwk};

use crate::fixture::{id, key, now, seconds};

fn text(token: &str, index: usize) -> String {
    let part = token.split('.').nth(index).expect("a part");
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("text")
}

fn number(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn token_has_spires_shape_field_by_field() {
    let (signer, _) = key(KeyType::EcP256);
    let (holder, _) = key(KeyType::EcP384);
    let (subject, end) = (id("/w"), now().plus(seconds(3600)));
    let holder_key = HolderKey::new(holder.public_key_spki(), "ES384").unwrap();
    let mut claims = WitClaims {
        subject: &subject,
        key: &holder_key,
        issued_at: now(),
        expires_at: end,
        issuer: None,
    };
    let token = sign_wit_svid(&signer, "kid1", &claims).unwrap();
    assert_eq!(text(&token, 0), r#"{"alg":"ES256","kid":"kid1","typ":"wit+jwt"}"#);
    let point = &holder.public_key_spki()[holder.public_key_spki().len() - 96..];
    let (x, y) = (number(&point[..48]), number(&point[48..]));
    let cnf = format!(
        r#""cnf":{{"jwk":{{"kty":"EC","crv":"P-384","alg":"ES384","x":"{x}","y":"{y}"}}}}"#
    );
    let (iat, exp) = (now().unix_s(), end.unix_s());
    let sub = r#""sub":"spiffe://example.org/w""#;
    assert_eq!(text(&token, 1), format!(r#"{{{cnf},"exp":{exp},"iat":{iat},{sub}}}"#));

    let (signed, signature) = token.rsplit_once('.').unwrap();
    let point = &signer.public_key_spki()[signer.public_key_spki().len() - 65..];
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    verifier.verify(signed.as_bytes(), &signature).unwrap();

    claims.issuer = Some("https://issuer");
    let token = sign_wit_svid(&signer, "kid1", &claims).unwrap();
    let iss = r#""iss":"https://issuer""#;
    assert_eq!(text(&token, 1), format!(r#"{{{cnf},"exp":{exp},"iat":{iat},{iss},{sub}}}"#));

    let read = WitSvid::parse_insecure(&token).unwrap();
    assert_eq!((read.id, read.expires_at, read.key_id.as_str()), (subject, end, "kid1"));
    assert!(read.audience.is_empty() && read.not_before.is_none());
}

#[test]
fn a_confirmed_rsa_key_has_its_algorithm_before_its_numbers() {
    let (signer, _) = key(KeyType::Rsa2048);
    let subject = id("/w");
    let holder_key = HolderKey::new(signer.public_key_spki(), "PS512").unwrap();
    let claims = WitClaims {
        subject: &subject,
        key: &holder_key,
        issued_at: now(),
        expires_at: now(),
        issuer: None,
    };
    let token = sign_wit_svid(&signer, "kid1", &claims).unwrap();
    assert_eq!(text(&token, 0), r#"{"alg":"RS256","kid":"kid1","typ":"wit+jwt"}"#);
    let payload: Value = text(&token, 1).parse().unwrap();
    let jwk = payload["cnf"]["jwk"].as_object().unwrap();
    assert_eq!(jwk.keys().collect::<Vec<_>>(), ["kty", "alg", "n", "e"]);
    assert_eq!((&jwk["alg"], &jwk["e"]), (&json!("PS512"), &json!("AQAB")));
}

#[test]
fn a_key_is_confirmed_with_an_algorithm_that_it_signs_with() {
    type Case = (KeyType, &'static str, &'static [&'static str]);
    const RSA: &[&str] = &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    let cases: [Case; 3] = [
        (KeyType::EcP256, "ec-p256", &["ES256"]),
        (KeyType::EcP384, "ec-p384", &["ES384"]),
        (KeyType::Rsa2048, "RSA", RSA),
    ];
    for (key_type, name, fitting) in cases {
        let (signer, _) = key(key_type);
        for algorithm in RSA.iter().chain(&["ES256", "ES384", "ES512", "HS256", "none", ""]) {
            let found = HolderKey::new(signer.public_key_spki(), algorithm);
            match found {
                Ok(_) => assert!(fitting.contains(algorithm), "{name} {algorithm}"),
                Err(error) => {
                    assert!(!fitting.contains(algorithm), "{name} {algorithm}");
                    let text = format!("unsupported signing algorithm for {name} key: {algorithm}");
                    assert_eq!(error.to_string(), text);
                }
            }
        }
    }
}

#[test]
fn what_is_no_public_key_is_not_confirmed() {
    let (signer, _) = key(KeyType::EcP256);
    let mut off_curve = signer.public_key_spki().to_vec();
    let last = off_curve.len() - 1;
    off_curve[last] ^= 1;
    for (what, spki) in [
        ("nothing", &[][..]),
        ("no key", b"key"),
        ("a point beside its curve", &off_curve),
        ("more than a key", &[signer.public_key_spki(), &[0]].concat()),
    ] {
        assert_eq!(HolderKey::new(spki, "ES256"), Err(HolderKeyError::Malformed), "{what}");
    }
}

#[test]
fn a_jwt_svid_is_no_wit_svid() {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({"alg": "ES256", "kid": "k", "typ": "JWT"}));
    let payload = part(&json!({"sub": "spiffe://example.org/w", "exp": 1}));
    let error = WitSvid::parse_insecure(&format!("{header}.{payload}.AA")).unwrap_err();
    assert_eq!(error, JwtError::WrongType("JWT".to_owned()));
}

#[test]
fn a_private_key_has_spires_members_in_spires_order() {
    for (key_type, members) in [
        (KeyType::EcP256, &["kty", "crv", "x", "y", "d"][..]),
        (KeyType::EcP384, &["kty", "crv", "x", "y", "d"]),
        (KeyType::Rsa2048, &["kty", "n", "e", "d", "p", "q", "dp", "dq", "qi"]),
    ] {
        let (_, pkcs8) = key(key_type);
        let jwk = private_jwk(&pkcs8).unwrap();
        let jwk: Map<String, Value> = serde_json::from_slice(jwk.expose()).unwrap();
        assert_eq!(jwk.keys().collect::<Vec<_>>(), members, "{key_type}");
        let d = URL_SAFE_NO_PAD.decode(jwk["d"].as_str().unwrap()).unwrap();
        let found = pkcs8.expose().windows(d.len()).any(|part| part == d);
        assert!(found, "{key_type}: the private number is the key's");
        let whole = match key_type {
            KeyType::EcP256 => d.len() == 32,
            KeyType::EcP384 => d.len() == 48,
            KeyType::EcP521 => d.len() == 66,
            // Without leading zeros.
            KeyType::Rsa2048 | KeyType::Rsa4096 => d.len() > 128,
        };
        assert!(whole, "{key_type}: {}", d.len());
    }
}
