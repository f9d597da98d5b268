//! A Kubernetes API of our own, over TLS: what is asked, and what is made of each answer.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::json;
use steeple_spiffe_core::random::SystemRandom;
use steeple_spiffe_core::svid::x509::{ca_request, certificate_facts};
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::{KeyType, LocalSigner, pem};
use steeple_testkit::Kubernetes;
use steeple_testkit::kubernetes::{Mood, NAMESPACE, TOKEN, status};
use tempfile::TempDir;

use super::*;
use crate::authority::random_serial;

const TTL: Duration = Duration::from_secs(100 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn csr() -> Vec<u8> {
    let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
    ca_request(&td(), None, &signer, random_serial(&SystemRandom)).unwrap()
}

fn settings(kubeconfig: &Path) -> CertManagerSettings {
    CertManagerSettings {
        namespace: NAMESPACE.to_owned(),
        issuer_name: "spire-ca".to_owned(),
        issuer_kind: "Issuer".to_owned(),
        issuer_group: "cert-manager.io".to_owned(),
        kube_config_file: Some(kubeconfig.to_owned()),
    }
}

fn configure(kubeconfig: &Path) -> Result<CertManager, CertManagerError> {
    CertManager::configure(settings(kubeconfig), td(), Arc::new(SystemClock))
}

/// A Kubernetes, and who asks it with little patience.
async fn start() -> (TempDir, Kubernetes, CertManager) {
    let folder = tempfile::tempdir().unwrap();
    let kubernetes = Kubernetes::start(folder.path()).await.unwrap();
    let mut asking = configure(kubernetes.kubeconfig()).unwrap();
    asking.patience = Duration::from_millis(600);
    (folder, kubernetes, asking)
}

fn conditions(all: &[(&str, &str, &str, &str)]) -> Value {
    let all: Vec<_> = all
        .iter()
        .map(|(kind, status, reason, message)| {
            json!({ "type": kind, "status": status, "reason": reason, "message": message })
        })
        .collect();
    json!({ "conditions": all })
}

fn answers(method: Method, (code, body): (u16, Value)) -> Mood {
    Mood::Answers { method, code, body }
}

/// Signing comes to nothing, and this is said of it.
async fn refused(asking: &CertManager) -> String {
    asking.sign(&csr(), TTL).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_request_is_spires_in_every_field_and_its_chain_and_root_are_taken() {
    let (_folder, kubernetes, asking) = start().await;
    let csr = csr();
    let minted = asking.mint(&csr, TTL).await.unwrap();
    let [leaf, intermediate] = <[Vec<u8>; 2]>::try_from(minted.chain).unwrap();
    assert_eq!(intermediate, kubernetes.intermediate());
    assert_eq!(minted.roots, [kubernetes.root()]);
    let left = certificate_facts(&leaf).unwrap().not_after.since(SystemClock.now());
    assert!(left > TTL - Duration::from_secs(60) && left <= TTL, "{left:?}");

    let expected = json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "CertificateRequest",
        "metadata": {
            "generateName": "spiffe-ca-",
            "namespace": "spire",
            "labels": { "cert-manager.spiffe.io/trust-domain": "example.org" },
        },
        "spec": {
            "duration": "100h0m0s",
            "issuerRef": { "name": "spire-ca", "kind": "Issuer", "group": "cert-manager.io" },
            "request": STANDARD.encode(pem::encode_request(&csr)),
            "isCA": true,
            "usages": ["cert sign", "crl sign"],
        },
    });
    assert_eq!(kubernetes.posted(), [expected]);
    let path = "/apis/cert-manager.io/v1/namespaces/spire/certificaterequests";
    let calls: Vec<_> = kubernetes.calls().iter().map(|call| call.replace(path, "")).collect();
    let label = "cert-manager.spiffe.io%2Ftrust-domain%3Dexample.org";
    assert_eq!(
        calls,
        [
            "POST ?".to_owned(),
            "GET /spiffe-ca-00001".to_owned(),
            format!("GET ?&labelSelector={label}&limit=100"),
            "DELETE /spiffe-ca-00001?".to_owned(),
        ]
    );
    assert!(kubernetes.names().is_empty(), "its own request is not needed any more");
}

#[tokio::test]
async fn a_request_is_waited_for_through_an_api_server_that_is_away_for_a_moment() {
    let (_folder, kubernetes, mut asking) = start().await;
    asking.patience = Duration::from_secs(20);
    kubernetes.set(Mood::Signs { at_look: 3 });
    let asking = Arc::new(asking);
    asking.mint(&csr(), TTL).await.unwrap();
    let looks = |calls: &[String]| calls.iter().filter(|call| call.contains("/spiffe-ca-")).count();
    assert_eq!(looks(&kubernetes.calls()), 4, "three looks and the removal");

    kubernetes.set(answers(Method::GET, status(503, "ServiceUnavailable", "not now")));
    let minting = Arc::clone(&asking);
    let minting = tokio::spawn(async move { minting.mint(&csr(), TTL).await });
    let mut asked = 0;
    while asked < 3 {
        assert!(!minting.is_finished(), "it gave up after {asked} looks");
        tokio::time::sleep(Duration::from_millis(20)).await;
        asked += looks(&kubernetes.calls());
    }
    kubernetes.set(Mood::Signs { at_look: 1 });
    minting.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_cert_manager_does_not_sign_is_told_in_its_words_and_removed() {
    let (_folder, kubernetes, asking) = start().await;
    let approved = ("Approved", "True", "cert-manager.io", "");
    for (conditions, told) in [
        (
            conditions(&[approved, ("Ready", "False", "Failed", "the CA's key is gone")]),
            "has failed: Failed: the CA's key is gone",
        ),
        (
            conditions(&[
                ("Denied", "True", "policy.cert-manager.io", "isCA is not allowed"),
                ("Ready", "False", "Denied", "The CertificateRequest was denied"),
            ]),
            "has been denied: policy.cert-manager.io: isCA is not allowed",
        ),
        (
            conditions(&[("Denied", "True", "", "")]),
            "has been denied: cert-manager gives no reason",
        ),
    ] {
        kubernetes.set(Mood::Says(conditions));
        let text = refused(&asking).await;
        assert!(text.starts_with("CertificateRequest spire/spiffe-ca-"), "{text}");
        assert!(text.ends_with(told), "{text} is not {told}");
        assert!(kubernetes.names().is_empty());
    }
}

#[tokio::test]
async fn a_request_that_nobody_signs_is_named_with_what_it_waits_for() {
    let (_folder, kubernetes, asking) = start().await;
    let approved = ("Approved", "True", "cert-manager.io", "");
    let no_issuer =
        "Referenced \"Issuer\" not found: issuer.cert-manager.io \"spire-ca\" not found";
    for (number, (status, told)) in [
        (
            Value::Null,
            "nobody has approved it: is cert-manager running, may its approver \"approve\"",
        ),
        (
            conditions(&[approved, ("Ready", "False", "Pending", no_issuer)]),
            "600ms: Pending: Referenced \"Issuer\" not found",
        ),
        (conditions(&[approved]), "600ms: the issuer has not answered"),
        (conditions(&[("Approved", "False", "", "")]), "signers issuers.cert-manager.io/*"),
    ]
    .into_iter()
    .enumerate()
    {
        kubernetes.set(Mood::Says(status));
        let text = refused(&asking).await;
        let name = format!("spiffe-ca-0000{}", number + 1);
        let (begins, ends) = (
            format!("CertificateRequest spire/{name} did not become ready in "),
            format!("; see kubectl -n spire describe certificaterequest {name}"),
        );
        assert!(text.starts_with(&begins) && text.ends_with(&ends), "{text}");
        assert!(text.contains(told), "{text} is not {told}");
        assert_eq!(kubernetes.names().len(), number + 1, "it is there to be looked at");
    }
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told_with_the_fix() {
    let (_folder, kubernetes, asking) = start().await;
    let who = "certificaterequests is forbidden: User \"u\" cannot create resource";
    let webhook = "admission webhook \"webhook.cert-manager.io\" denied the request: no";
    for (method, answer, told) in [
        (
            Method::POST,
            status(403, "Forbidden", who),
            "cannot create resource; grant the verbs create, get, list and delete on \
             certificaterequests.cert-manager.io in namespace spire",
        ),
        (Method::GET, status(403, "Forbidden", "no"), ": 403: no; grant the verbs create, get,"),
        (Method::POST, status(403, "Forbidden", webhook), "denied the request: no"),
        (
            Method::POST,
            (404, json!("404 page not found\n")),
            "404: 404 page not found; is cert-man",
        ),
        (
            Method::POST,
            status(404, "NotFound", "namespaces \"spire\" not found"),
            "not found; is cert-manager installed (kubectl get crd \
             certificaterequests.cert-manager.io), and is there a namespace spire",
        ),
        (Method::POST, status(401, "Unauthorized", "Unauthorized"), "are not taken"),
        (Method::POST, status(500, "InternalError", "failed calling webhook"), "calling webhook"),
        (Method::POST, (200, json!("<html>a proxy</html>")), "it answers \"<html>a proxy</html>\""),
        (Method::POST, (201, json!({})), "it has no name"),
        (Method::POST, (201, json!("x".repeat((4 << 20) + 1))), "length limit exceeded"),
        (Method::POST, (503, json!("x".repeat((4 << 20) + 1))), "length limit exceeded"),
    ] {
        kubernetes.set(answers(method, answer));
        let text = refused(&asking).await;
        assert!(text.contains("CertificateRequest at https://127.0.0.1:"), "{text}");
        assert!(text.contains(told), "{text} is not {told}");
        assert!(!text.contains("webhook") || !text.contains("grant"), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_that_makes_no_sense_is_refused() {
    let (_folder, kubernetes, asking) = start().await;
    /// What is changed in the status, and what is said of it.
    type Case = (fn(&mut Value), &'static str);
    let changes: [Case; 4] = [
        (
            |status| drop(status.as_object_mut().unwrap().remove("ca")),
            "choose an issuer that fills",
        ),
        (|status| status["ca"] = json!("%"), "status.ca: Invalid symbol"),
        (|status| status["certificate"] = json!("AAAA"), "status.certificate: no PEM blocks"),
        (|status| status["certificate"] = json!("gICA"), "status.certificate: invalid utf-8"),
    ];
    for (change, told) in changes {
        kubernetes.set(Mood::Changes(change));
        let text = refused(&asking).await;
        assert!(text.contains("request spiffe-ca-") && text.contains(told), "{text} is not {told}");
    }
    // An issuer that does not know its root names who signed as such.
    kubernetes.set(Mood::Changes(|status| {
        let text = |field: &str| status[field].as_str().unwrap().to_owned();
        let chain = STANDARD.decode(text("certificate")).unwrap();
        let chain = pem::decode_certificates(&String::from_utf8(chain).unwrap()).unwrap();
        status["ca"] = json!(STANDARD.encode(pem::encode_certificates(&chain[1..])));
    }));
    let minted = asking.mint(&csr(), TTL).await.unwrap();
    assert_eq!(minted.chain.len(), 1, "no certificate is in the chain and in the bundle");
    assert_eq!(minted.roots, [kubernetes.intermediate()]);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_removed_and_the_rest_is_left() {
    let (_folder, kubernetes, asking) = start().await;
    let minutes = |count: u64| Duration::from_secs(count * 60);
    let issued = conditions(&[("Ready", "True", "Issued", "")]);
    let signed = json!({ "certificate": "AAAA" });
    let failed = conditions(&[("Ready", "False", "Failed", "")]);
    let denied = conditions(&[("Denied", "True", "", "")]);
    let seed = |name: &str, trust_domain: &str, age: Duration, status: &Value| {
        kubernetes.put(name, trust_domain, age, status).unwrap();
    };
    let seed_all = || {
        seed("a-signed", "example.org", minutes(3), &signed);
        seed("b-failed", "example.org", minutes(3), &failed);
        seed("c-denied", "example.org", minutes(3), &denied);
        seed("d-abandoned", "example.org", minutes(11), &Value::Null);
        seed("e-issued-without", "example.org", minutes(11), &issued);
        seed("x-of-another", "other.org", DAY, &signed);
        seed("y-waited-for", "example.org", minutes(5), &Value::Null);
        seed("z-read-in-a-moment", "example.org", minutes(1), &signed);
    };
    let left = ["x-of-another", "y-waited-for", "z-read-in-a-moment"];
    seed_all();
    asking.mint(&csr(), TTL).await.unwrap();
    assert_eq!(kubernetes.names(), left);

    // The first look that succeeds does so too, and those after it do nothing.
    seed_all();
    kubernetes.set(answers(Method::GET, status(403, "Forbidden", "no")));
    let error = asking.trust().await.unwrap_err().to_string();
    assert!(error.starts_with("list CertificateRequests at https://127.0.0.1:"), "{error}");
    kubernetes.set(Mood::Signs { at_look: 1 });
    assert_eq!(asking.trust().await.unwrap(), None);
    assert_eq!(kubernetes.names(), left);
    kubernetes.calls();
    assert_eq!(asking.trust().await.unwrap(), None);
    assert!(kubernetes.calls().is_empty());
}

#[tokio::test]
async fn a_clean_up_that_fails_spoils_no_certificate() {
    let (_folder, kubernetes, asking) = start().await;
    for answer in [status(403, "Forbidden", "no"), status(404, "NotFound", "gone already")] {
        kubernetes.set(answers(Method::DELETE, answer));
        asking.mint(&csr(), TTL).await.unwrap();
    }
}

#[tokio::test]
async fn another_server_than_the_kubeconfigs_gets_no_token_and_no_secret_is_told() {
    let (folder, kubernetes, _) = start().await;
    let good = std::fs::read_to_string(kubernetes.kubeconfig()).unwrap();
    let path = folder.path().join("changed");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    let foreign = tempfile::tempdir().unwrap();
    let foreign = (Kubernetes::start(foreign.path()).await.unwrap(), foreign);
    let line =
        |text: &str, key: &str| text.lines().find(|line| line.contains(key)).unwrap().to_owned();
    let theirs = std::fs::read_to_string(foreign.0.kubeconfig()).unwrap();
    let server = "    server: ";
    write(&good.replace(&line(&good, server), &line(&theirs, server)));
    let text = refused(&configure(&path).unwrap()).await;
    assert!(text.contains("create CertificateRequest at https://127.0.0.1:"), "{text}");
    assert!(text.contains("invalid peer certificate"), "{text}");
    assert!(foreign.0.calls().is_empty());

    write(&good.replace(TOKEN, "another"));
    let text = refused(&configure(&path).unwrap()).await;
    assert!(text.contains(": 401: Unauthorized; the kubeconfig's credentials"), "{text}");
    write(&good.replace(&line(&good, server), "    server: https://127.0.0.1:1"));
    let text = refused(&configure(&path).unwrap()).await;
    assert!(text.contains("https://127.0.0.1:1: ") && text.contains("refused"), "{text}");
}

#[test]
fn what_cannot_be_used_is_refused_at_the_start_without_quoting_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let user = format!("users:\n- name: u\n  user:\n    token: {TOKEN}\n");
    for (text, told) in [
        (format!("{user}    token: {TOKEN}\n"), "no kubeconfig: line 5, column"),
        (format!("users: {TOKEN}\n"), "no kubeconfig: line 1, column"),
        (format!("{user}current-context: c\n"), "failed to load current context: c"),
        (
            format!(
                "{user}current-context: c\ncontexts: [{{ name: c, context: {{ cluster: k, user: u }} }}]\n\
                 clusters: [{{ name: k, cluster: {{ server: https://k, proxy-url: http://p }} }}]\n"
            ),
            "proxy-url is not supported",
        ),
        (user.clone(), "failed to determine current context"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let error = configure(&path).unwrap_err().to_string();
        let begins = format!("kube_config_file {}: ", path.display());
        assert!(error.starts_with(&begins) && error.contains(told), "{error} is not {told}");
        assert!(!error.contains(TOKEN), "{error}");
    }
    let missing = folder.path().join("none");
    let error = configure(&missing).unwrap_err().to_string();
    assert!(error.starts_with(&format!("kube_config_file {}: No such", missing.display())));

    let no_file = CertManagerSettings { kube_config_file: None, ..settings(&path) };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let error = CertManager::configure(no_file, td(), Arc::clone(&clock)).unwrap_err().to_string();
    assert!(error.starts_with("this is no pod with a service account ("), "{error}");
    assert!(error.ends_with("): set kube_config_file"), "{error}");
    for name in ["a".repeat(64), "a-".to_owned(), "_a".to_owned()] {
        let trust_domain = TrustDomain::parse(&name).unwrap();
        let refused = CertManager::configure(settings(&path), trust_domain, Arc::clone(&clock));
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("cannot be a label in Kubernetes"), "{error}");
    }
}

#[test]
fn durations_are_written_as_go_does() {
    let object = |seconds: u64| {
        let settings = settings(Path::new("/k"));
        request::object(&settings, "example.org", &[], Duration::from_secs(seconds))
    };
    for (seconds, text) in [
        (0, "0s"),
        (59, "59s"),
        (60, "1m0s"),
        (3599, "59m59s"),
        (3600, "1h0m0s"),
        (90_061, "25h1m1s"),
    ] {
        assert_eq!(object(seconds)["spec"]["duration"], text);
    }
}
