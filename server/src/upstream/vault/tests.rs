//! Vault's HTTP API as a script: what is sent, and what is made of each answer. The real thing is in
//! `testkit/tests/it/vault.rs`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Mutex as StdMutex, PoisonError};

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use steeple_spiffe_core::random::SystemRandom;
use steeple_spiffe_core::svid::x509::ca_request;
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::{KeyType, LocalSigner, TrustDomain, pem};
use tokio::net::TcpListener;

use super::*;
use crate::authority::random_serial;
use crate::upstream::fake::{Fake, Mood};

const TTL: Duration = Duration::from_secs(3600);

/// What came in.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    token: Option<String>,
    namespace: Option<String>,
    body: Value,
}

/// Answers what it was told, in turn; beyond that it says so.
#[derive(Debug, Default)]
struct Script {
    answers: StdMutex<VecDeque<(u16, Value)>>,
    asked: StdMutex<Vec<Asked>>,
}

impl Script {
    fn say(&self, status: u16, body: Value) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push_back((status, body));
    }

    /// What was asked since the last look.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.path).collect()
    }

    async fn answer(&self, request: Request<Incoming>) -> http::Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        let asked = Asked {
            path: head.uri.path().to_owned(),
            token: header("X-Vault-Token"),
            namespace: header("X-Vault-Namespace"),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        let next = self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let (status, body) = next.unwrap_or((599, json!({ "errors": ["the script has ended"] })));
        let mut answer = http::Response::builder().status(status);
        if let Some(location) = body.get("location").and_then(Value::as_str) {
            answer = answer.header("Location", location);
        }
        let text = body.as_str().map_or_else(|| body.to_string(), ToOwned::to_owned);
        answer.body(Full::new(Bytes::from(text))).unwrap()
    }
}

/// Serves a script on loopback for as long as the test's runtime lives.
async fn serve() -> (Arc<Script>, String) {
    let script = Arc::new(Script::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = Arc::clone(&script);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = Arc::clone(&served);
            let service = service_fn(move |request| {
                let script = Arc::clone(&script);
                async move { Ok::<_, Infallible>(script.answer(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    (script, address)
}

fn app_role() -> VaultAuth {
    VaultAuth::AppRole {
        mount_point: "approle".to_owned(),
        role_id: Credential::new("the-role".to_owned()),
        secret_id: Credential::new("the-secret".to_owned()),
    }
}

fn settings(address: &str, auth: VaultAuth) -> VaultSettings {
    VaultSettings {
        vault_addr: Some(address.to_owned()),
        namespace: Some("team".to_owned()),
        ca_cert_path: None,
        insecure_skip_verify: true,
        pki_mount_point: "pki/int".to_owned(),
        auth,
    }
}

fn vault_of(settings: VaultSettings) -> Result<Vault, VaultError> {
    Vault::configure(settings, &|_| None, Arc::new(SystemClock))
}

fn vault(address: &str, auth: VaultAuth) -> Vault {
    vault_of(settings(address, auth)).unwrap()
}

fn csr() -> Vec<u8> {
    let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    ca_request(&trust_domain, None, &signer, random_serial(&SystemRandom)).unwrap()
}

fn login(token: &str, lease: u64, renewable: bool) -> Value {
    json!({ "auth": { "client_token": token, "lease_duration": lease, "renewable": renewable } })
}

/// What Vault says of a certificate that the fake authority signed.
async fn signed(csr: &[u8]) -> (Fake, MintedCa, Value) {
    let fake = Fake::new(SystemClock.now(), Mood::Signs(TTL));
    let minted = fake.mint(csr, TTL).await.unwrap();
    let text = |der: &Vec<u8>| pem::encode_certificates(std::slice::from_ref(der));
    let answer = json!({ "data": {
        "certificate": text(&minted.chain[0]),
        "issuing_ca": text(&fake.intermediate),
        // Vault since 1.11 names the certificate itself, too.
        "ca_chain": [text(&minted.chain[0]), text(&fake.intermediate), text(&fake.root)],
    }});
    (fake, minted, answer)
}

fn why(error: &VaultError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn a_certificate_is_asked_for_as_spire_does_and_its_chain_taken_apart() {
    let (script, address) = serve().await;
    let vault = vault(&format!("{address}/"), app_role());
    let csr = csr();
    let (_fake, minted, answer) = signed(&csr).await;
    script.say(200, login("t1", 0, false));
    script.say(200, answer);
    assert_eq!(vault.mint(&csr, TTL).await.unwrap(), minted);

    let [login, signing] = <[Asked; 2]>::try_from(script.asked()).unwrap();
    assert_eq!(login.path, "/v1/auth/approle/login");
    assert_eq!(login.body, json!({ "role_id": "the-role", "secret_id": "the-secret" }));
    assert_eq!((login.token, login.namespace.as_deref()), (None, Some("team")));
    assert_eq!(signing.path, "/v1/pki/int/root/sign-intermediate");
    assert_eq!(
        (signing.token.as_deref(), signing.namespace.as_deref()),
        (Some("t1"), Some("team"))
    );
    let field = |name: &str| signing.body[name].as_str().unwrap().to_owned();
    assert_eq!(field("uri_sans"), "spiffe://example.org");
    assert_eq!(
        [field("common_name"), field("organization"), field("country")],
        ["", "SPIFFE", "US"]
    );
    assert_eq!(field("ttl"), "3600");
    assert!(!field("serial_number").is_empty(), "two authorities would share a name");
    assert!(field("csr").starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{}", field("csr"));
}

#[tokio::test]
async fn without_a_chain_the_one_who_signed_is_the_root() {
    let (script, address) = serve().await;
    let vault = vault(&address, app_role());
    let csr = csr();
    let (fake, minted, mut answer) = signed(&csr).await;
    answer["data"].as_object_mut().unwrap().remove("ca_chain");
    script.say(200, login("t1", 0, false));
    script.say(200, answer);
    let got = vault.mint(&csr, TTL).await.unwrap();
    assert_eq!((got.chain, got.roots), (minted.chain[..1].to_vec(), vec![fake.intermediate]));
}

#[tokio::test]
async fn a_token_is_kept_and_replaced_when_vault_no_longer_takes_it() {
    let (script, address) = serve().await;
    let vault = vault(&address, app_role());
    let csr = csr();
    let (_fake, _, answer) = signed(&csr).await;
    let denied = || json!({ "errors": ["permission denied"] });
    script.say(200, login("t1", 3600, true));
    vault.look_after().await.unwrap();
    vault.look_after().await.unwrap();
    assert_eq!(script.paths(), ["/v1/auth/approle/login"], "the second look has nothing to do");

    script.say(403, denied());
    script.say(200, login("t2", 3600, true));
    script.say(200, answer);
    vault.mint(&csr, TTL).await.unwrap();
    let tokens: Vec<_> = script.asked().into_iter().map(|asked| asked.token).collect();
    assert_eq!(tokens, [Some("t1".to_owned()), None, Some("t2".to_owned())]);

    // With a token that is fresh, "denied" is about the policy: asking again would not help.
    for newcomer in [false, true] {
        let fresh = vault_of(settings(&address, app_role())).unwrap();
        let vault = if newcomer { &fresh } else { &vault };
        if !newcomer {
            script.say(403, denied());
        }
        script.say(200, login("t3", 3600, true));
        script.say(403, denied());
        let error = vault.sign(&csr, TTL).await.unwrap_err();
        let begins = format!("failed to sign intermediate at {address}");
        assert_eq!(why(&error), format!("{begins}: 403 Forbidden: permission denied"));
        assert_eq!(script.asked().len(), if newcomer { 2 } else { 3 });
    }
}

#[tokio::test]
async fn a_token_is_renewed_at_half_its_life_and_got_anew_when_that_is_refused() {
    let (script, address) = serve().await;
    let vault = vault(&address, app_role());
    let age = |by: u64| async move {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(by)).await;
        tokio::time::resume();
    };
    script.say(200, login("t1", 100, true));
    vault.look_after().await.unwrap();
    age(49).await;
    vault.look_after().await.unwrap();
    assert_eq!(script.asked().len(), 1, "it is not due yet");
    age(2).await;
    script.say(500, json!({ "errors": ["internal error"] }));
    let error = vault.look_after().await.unwrap_err();
    assert!(why(&error).contains("failed to renew auth token"), "{error}");
    script.say(200, login("t1", 90, true));
    vault.look_after().await.unwrap();
    let path = "/v1/auth/token/renew-self";
    assert_eq!(script.paths(), [path, path], "it is tried again");

    age(46).await;
    script.say(403, json!({ "errors": ["permission denied"] }));
    vault.look_after().await.unwrap();
    script.say(200, login("t2", 100, false));
    vault.look_after().await.unwrap();
    assert_eq!(script.paths(), [path, "/v1/auth/approle/login"]);

    // One that cannot be renewed is used until shortly before its end.
    age(86).await;
    vault.look_after().await.unwrap();
    age(2).await;
    script.say(200, login("t3", 0, false));
    vault.look_after().await.unwrap();
    assert_eq!(script.paths(), ["/v1/auth/approle/login"]);
    age(1_000_000).await;
    vault.look_after().await.unwrap();
    assert!(script.asked().is_empty(), "a token without an end is used without an end");
}

#[tokio::test]
async fn every_way_to_log_in_asks_its_own_path() {
    let (script, address) = serve().await;
    let folder = tempfile::tempdir().unwrap();
    let token_path = folder.path().join("token");
    std::fs::write(&token_path, "the-jwt\n").unwrap();

    let token = VaultAuth::Token { token: Credential::new("given".to_owned()) };
    script.say(200, json!({ "data": { "id": "given", "ttl": 50, "renewable": true } }));
    vault(&address, token).look_after().await.unwrap();
    let [asked] = <[Asked; 1]>::try_from(script.asked()).unwrap();
    assert_eq!(
        (asked.path.as_str(), asked.token.as_deref()),
        ("/v1/auth/token/lookup-self", Some("given"))
    );

    let k8s = VaultAuth::K8s {
        mount_point: "cluster-a".to_owned(),
        role_name: "spire".to_owned(),
        token_path,
    };
    script.say(200, login("t", 0, false));
    vault(&address, k8s).look_after().await.unwrap();
    let [asked] = <[Asked; 1]>::try_from(script.asked()).unwrap();
    assert_eq!(asked.path, "/v1/auth/cluster-a/login");
    assert_eq!(asked.body, json!({ "role": "spire", "jwt": "the-jwt" }));

    let (signer_chain, key) = client_pair(folder.path());
    let cert = VaultAuth::Cert {
        mount_point: "cert".to_owned(),
        role_name: None,
        client_cert_path: Some(signer_chain),
        client_key_path: Some(key),
    };
    script.say(200, login("t", 0, false));
    vault(&address, cert).look_after().await.unwrap();
    let [asked] = <[Asked; 1]>::try_from(script.asked()).unwrap();
    assert_eq!((asked.path.as_str(), &asked.body["name"]), ("/v1/auth/cert/login", &Value::Null));
}

/// A certificate and its key in files.
fn client_pair(folder: &std::path::Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
    let (cert, key) = (folder.join("client.pem"), folder.join("client.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

#[tokio::test]
async fn answers_that_make_no_sense_are_told() {
    let (script, address) = serve().await;
    let vault = vault(&address, app_role());
    let csr = csr();
    let (_fake, _, good) = signed(&csr).await;
    script.say(200, login("t", 0, false));
    vault.look_after().await.unwrap();
    let without = |name: &str| {
        let mut answer = good.clone();
        answer["data"].as_object_mut().unwrap().remove(name);
        answer
    };
    let with = |name: &str, value: Value| {
        let mut answer = good.clone();
        answer["data"][name] = value;
        answer
    };
    for (status, answer, told) in [
        (200, without("certificate"), "it holds no certificate"),
        (200, without("issuing_ca"), "it holds no issuing_ca"),
        (200, with("certificate", json!(7)), "its certificate is no text"),
        (200, with("certificate", json!("x")), "its certificate: no PEM blocks"),
        (200, with("ca_chain", json!(["x"])), "its ca_chain: no PEM blocks"),
        (200, json!({}), "it holds no data"),
        (200, json!("<html>a proxy</html>"), "it answers \"<html>a proxy</html>\""),
        (200, json!("x".repeat(steeple_federation::ANSWER_BYTES_MAX + 1)), "answer has more than"),
        (503, json!({ "errors": ["Vault is sealed"] }), "503 Service Unavailable: Vault is sealed"),
        (404, json!({ "errors": [] }), "404 Not Found: it answers"),
        (302, json!({ "location": "ftp://elsewhere" }), ""),
    ] {
        script.say(status, answer);
        let error = vault.sign(&csr, TTL).await.unwrap_err();
        assert!(why(&error).contains(told), "{} is not {told:?}", why(&error));
        let begins = format!("failed to sign intermediate at {address}");
        assert!(why(&error).starts_with(&begins), "{error}");
    }
}

#[tokio::test]
async fn a_standby_that_points_to_the_active_node_is_followed_once() {
    let (standby, from) = serve().await;
    let (active, to) = serve().await;
    let vault = vault(&from, app_role());
    standby.say(307, json!({ "location": format!("{to}/v1/auth/approle/login") }));
    active.say(200, login("t", 0, false));
    vault.look_after().await.unwrap();
    let [asked] = <[Asked; 1]>::try_from(active.asked()).unwrap();
    assert_eq!(asked.body["secret_id"], "the-secret");
    assert_eq!(asked.namespace.as_deref(), Some("team"));

    let csr = csr();
    standby.say(307, json!({ "location": format!("{to}/again") }));
    active.say(307, json!({ "location": format!("{to}/for-ever") }));
    let error = vault.sign(&csr, TTL).await.unwrap_err();
    assert!(why(&error).contains("307"), "{error}");
}

#[test]
fn nothing_goes_in_the_clear_that_was_to_be_encrypted() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    for (from, to, followed) in [
        ("https://a:1", "https://b:1/v1/x", true),
        ("https://a:1", "http://b:1/v1/x", false),
        ("http://a:1", "https://b:1/v1/x", true),
        ("http://a:1", "http://b:1/v1/x", true),
        ("https://a:1", "/v1/x", false),
    ] {
        let access = Access::new(settings(from, app_role()), Arc::clone(&clock)).unwrap();
        let checked = access.vault().unwrap().check_redirect("x", to);
        assert_eq!(checked.is_ok(), followed, "{from} to {to}");
    }
}

#[test]
fn what_the_environment_says_wins() {
    let environment = |name: &str| {
        let value = match name {
            "VAULT_ADDR" => "https://env:8200",
            "VAULT_NAMESPACE" => "env",
            "VAULT_CACERT" => "/env/ca.pem",
            "VAULT_TOKEN" => "env-token",
            "VAULT_APPROLE_ID" => "env-role",
            "VAULT_APPROLE_SECRET_ID" => "env-secret",
            "VAULT_CLIENT_CERT" => "/env/cert.pem",
            "VAULT_CLIENT_KEY" => "/env/key.pem",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let token = |text: &str| VaultAuth::Token { token: Credential::new(text.to_owned()) };
    let resolved = settings("https://file:1", token("")).resolve(&environment).unwrap();
    assert_eq!(resolved.vault_addr.as_deref(), Some("https://env:8200"));
    assert_eq!(resolved.namespace.as_deref(), Some("env"));
    assert_eq!(resolved.ca_cert_path, Some("/env/ca.pem".into()));
    assert_eq!(resolved.auth, token("env-token"));
    let resolved = settings("https://file:1", app_role()).resolve(&environment).unwrap();
    let VaultAuth::AppRole { role_id, secret_id, .. } = resolved.auth else {
        panic!("another way")
    };
    assert_eq!((role_id.expose(), secret_id.expose()), ("env-role", "env-secret"));
    let cert = VaultAuth::Cert {
        mount_point: "cert".to_owned(),
        role_name: None,
        client_cert_path: None,
        client_key_path: Some("/file/key.pem".into()),
    };
    let resolved = settings("https://file:1", cert.clone()).resolve(&environment).unwrap();
    let VaultAuth::Cert { client_cert_path, client_key_path, .. } = resolved.auth else {
        panic!("another way")
    };
    let expected = (Some("/env/cert.pem".into()), Some("/env/key.pem".into()));
    assert_eq!((client_cert_path, client_key_path), expected);

    let refused = |settings: VaultSettings| vault_of(settings).unwrap_err().to_string();
    let text = refused(settings("https://file:1", token("")));
    assert_eq!(text, "token_auth.token is empty: set it, or VAULT_TOKEN in the environment");
    assert_eq!(
        refused(settings("https://file:1", cert)),
        "both client cert and client key are required"
    );
    for address in ["vault:8200", "unix:///run/vault", "https://", "https://a b"] {
        let text = refused(settings(address, token("t")));
        assert!(text.starts_with("vault_addr "), "{text}");
    }
    let ca = VaultSettings {
        ca_cert_path: Some("/no/such".into()),
        insecure_skip_verify: false,
        ..settings("https://a:1", token("t"))
    };
    assert!(refused(ca).starts_with("failed to load CA certificate: /no/such: "));
    let k8s = VaultAuth::K8s {
        mount_point: "kubernetes".to_owned(),
        role_name: "r".to_owned(),
        token_path: "/no/such".into(),
    };
    let text = refused(settings("https://a:1", k8s));
    assert!(text.starts_with("failed to read k8s service account token: /no/such: "), "{text}");
}

#[test]
fn no_credential_is_ever_printed() {
    let printed = format!("{:?}", settings("https://a:1", app_role()));
    assert!(printed.contains("***") && !printed.contains("the-secret"), "{printed}");
    assert!(!printed.contains("the-role"), "{printed}");
}
