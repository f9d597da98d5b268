//! The exchange of `x509pop`, with certificates made here: what attests, and every way to be refused.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom as AwsRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P521_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PSS_SHA256,
    RsaPssSaltLength, RsaSignatureEncoding,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::random::SeededRandom;
use steeple_spiffe_core::time::FixedClock;
use steeple_spiffe_core::tls::BundleSource;
use steeple_spiffe_core::{Timestamp, TrustDomain, pem};
use tonic::Code;

use super::attestor::{X509Pop, X509PopConfigError, X509PopSettings};
use super::certificate::fingerprint;
use crate::attest::attestor::{AttestError, Attested, ChallengeChannel, NodeAttestor};

/// Within the validity that rcgen gives by default (1975 to 4096).
const NOW: Timestamp = Timestamp::from_unix_s(1_800_000_000);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str, issuer: Option<&Authority>) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    match issuer {
        Some(issuer) => Authority::signed_by(params, key, issuer).unwrap(),
        None => Authority::self_signed(params, key).unwrap(),
    }
}

fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Host One");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params.serial_number = Some(rcgen::SerialNumber::from(vec![0x0a, 0xbc]));
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    params.subject_alt_names = vec![
        uri("spiffe://example.org/spire-exchange/rack/host1"),
        uri("x509pop://example.org/datacenter/us-east-1"),
        uri("x509pop://example.org/rack/a/b"),
        uri("x509pop://other.org/datacenter/no"),
        uri("x509pop://example.org/novalue"),
        SanType::IpAddress(IpAddr::from([10, 0, 0, 1])),
    ];
    params
}

/// A key that answers challenges.
enum AgentKey {
    Ec(EcdsaKeyPair),
    Rsa(rsa::KeyPair, &'static RsaSignatureEncoding),
}

const PSS_LONGEST: RsaSignatureEncoding =
    RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);

/// What an agent has: its chain and its key.
struct Agent {
    chain: Vec<Vec<u8>>,
    key: AgentKey,
}

impl Agent {
    fn with_key(params: CertificateParams, issuer: &Authority, key: KeyPair) -> Self {
        let certificate = params.signed_by(&key, issuer).unwrap();
        let pkcs8 = key.serialized_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .or_else(|_| EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA256_FIXED_SIGNING, pkcs8))
            .map(AgentKey::Ec)
            .unwrap_or_else(|_| {
                AgentKey::Rsa(rsa::KeyPair::from_pkcs8(pkcs8).unwrap(), &PSS_LONGEST)
            });
        Self { chain: vec![certificate.der().to_vec()], key }
    }

    fn new(params: CertificateParams, issuer: &Authority) -> Self {
        Self::with_key(params, issuer, KeyPair::generate().unwrap())
    }

    fn payload(&self) -> Vec<u8> {
        let chain: Vec<String> = self.chain.iter().map(|der| STANDARD.encode(der)).collect();
        json!({ "certificates": chain }).to_string().into_bytes()
    }

    /// Answers as SPIRE's agent does.
    fn answer(&self, challenge: &[u8]) -> Value {
        let challenge: Value = serde_json::from_slice(challenge).unwrap();
        let nonce = [9u8; 32];
        let message = |kind: &str| {
            let theirs = STANDARD.decode(challenge[kind]["nonce"].as_str().unwrap()).unwrap();
            [theirs, nonce.to_vec()].concat()
        };
        let random = AwsRandom::new();
        match &self.key {
            AgentKey::Ec(pair) => {
                assert!(challenge["rsa_signature"].is_null());
                let signature = pair.sign(&random, &message("ecdsa_signature")).unwrap();
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                json!({ "rsa_signature": null, "ecdsa_signature": {
                    "nonce": STANDARD.encode(nonce),
                    "r": STANDARD.encode(r),
                    "s": STANDARD.encode(s),
                }})
            }
            AgentKey::Rsa(pair, encoding) => {
                assert!(challenge["ecdsa_signature"].is_null());
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, &message("rsa_signature"), &mut signature).unwrap();
                json!({ "rsa_signature": {
                    "nonce": STANDARD.encode(nonce),
                    "signature": STANDARD.encode(signature),
                }, "ecdsa_signature": null })
            }
        }
    }
}

/// Changes an answer before it is sent.
type Tamper = Box<dyn Fn(Value) -> Value + Send>;

/// The agent's end of the stream; `tamper` may change the answer.
struct Channel<'a> {
    agent: &'a Agent,
    tamper: Tamper,
    ip: Option<IpAddr>,
}

#[tonic::async_trait]
impl ChallengeChannel for Channel<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        Ok((self.tamper)(self.agent.answer(&challenge)).to_string().into_bytes())
    }

    fn peer_ip(&self) -> Option<IpAddr> {
        self.ip
    }
}

#[derive(Debug)]
struct OwnBundle(Option<Arc<Bundle>>);

impl BundleSource for OwnBundle {
    fn bundle(&self, _trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.0.clone()
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn configure(settings: X509PopSettings, own: &[&Authority]) -> Result<X509Pop, X509PopConfigError> {
    let mut bundle = Bundle::empty(trust_domain());
    bundle.x509_authorities = own
        .iter()
        .map(|one| X509Authority { certificate_der: one.der().to_vec(), tainted: false })
        .collect();
    let bundles = Arc::new(OwnBundle(Some(Arc::new(bundle))));
    let clock = Arc::new(FixedClock::new(NOW));
    X509Pop::configure(settings, trust_domain(), bundles, clock, Arc::new(SeededRandom::new(1)))
}

/// An attestor that trusts the roots, through a file.
fn external(roots: &[&Authority], settings: X509PopSettings) -> X509Pop {
    let ders: Vec<Vec<u8>> = roots.iter().map(|one| one.der().to_vec()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem::encode_certificates(&ders)).unwrap();
    let ca_bundle_path = Some(file.path().to_owned());
    configure(X509PopSettings { ca_bundle_path, ..settings }, &[]).unwrap()
}

async fn attest(attestor: &X509Pop, agent: &Agent) -> Result<Attested, AttestError> {
    let mut channel = Channel { agent, tamper: Box::new(|answer| answer), ip: None };
    attestor.attest(&agent.payload(), &mut channel).await
}

fn values(attested: &Attested) -> Vec<&str> {
    assert!(attested.selectors.iter().all(|one| one.kind() == "x509pop"));
    attested.selectors.iter().map(|one| one.value()).collect()
}

#[tokio::test]
async fn every_supported_key_attests_with_all_selectors_of_all_chains() {
    let (root, other_root) = (ca("root", None), ca("other root", None));
    let intermediate = ca("intermediate", Some(&root));
    let attestor = external(&[&root, &other_root], X509PopSettings::default());
    let rsa = || {
        let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> =
            aws_lc_rs::encoding::AsDer::as_der(&pair).unwrap();
        KeyPair::try_from(der.as_ref()).unwrap()
    };
    let keys = [
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA256).unwrap(),
        rsa(),
    ];
    for key in keys {
        let mut agent = Agent::with_key(leaf_params(), &intermediate, key);
        agent.chain.push(intermediate.der().to_vec());
        let attested = attest(&attestor, &agent).await.unwrap();
        let mut expected = vec![
            format!("ca:fingerprint:{}", fingerprint(intermediate.der())),
            format!("ca:fingerprint:{}", fingerprint(root.der())),
            "san:datacenter:us-east-1".to_owned(),
            "san:rack:a/b".to_owned(),
            "serialnumber:0abc".to_owned(),
            "subject:cn:Host One".to_owned(),
        ];
        expected.sort();
        assert_eq!(values(&attested), expected);
        assert!(attested.can_reattest && attested.token.is_none());
        let fingerprint = fingerprint(&agent.chain[0]);
        assert_eq!(
            attested.agent_id.to_string(),
            format!("spiffe://example.org/spire/agent/x509pop/{fingerprint}")
        );
    }
}

#[tokio::test]
async fn rsa_answers_may_be_salted_with_the_digests_length_too() {
    let root = ca("root", None);
    let attestor = external(&[&root], X509PopSettings::default());
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> =
        aws_lc_rs::encoding::AsDer::as_der(&pair).unwrap();
    let key = KeyPair::try_from(der.as_ref()).unwrap();
    let mut agent = Agent::with_key(leaf_params(), &root, key);
    agent.key = AgentKey::Rsa(pair, &RSA_PSS_SHA256);
    attest(&attestor, &agent).await.unwrap();
}

#[tokio::test]
async fn two_ways_to_two_roots_give_the_selectors_of_both() {
    let (root, other_root) = (ca("root", None), ca("other root", None));
    let intermediate = ca("intermediate", Some(&root));
    // The same intermediate, name and key, signed by the other root as well.
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let cross = params.signed_by(intermediate.key(), &other_root).unwrap();

    let attestor = external(&[&root, &other_root], X509PopSettings::default());
    let mut agent = Agent::new(leaf_params(), &intermediate);
    agent.chain.extend([intermediate.der().to_vec(), cross.der().to_vec()]);
    let attested = attest(&attestor, &agent).await.unwrap();
    let above = [intermediate.der(), cross.der(), root.der(), other_root.der()];
    for der in above {
        let wanted = format!("ca:fingerprint:{}", fingerprint(der));
        assert!(values(&attested).contains(&wanted.as_str()), "{wanted}");
    }
}

#[tokio::test]
async fn mode_spiffe_takes_svids_of_the_own_bundle_below_the_prefix() {
    let root = ca("own", None);
    let settings = || X509PopSettings { mode: Some("spiffe".to_owned()), ..Default::default() };
    let agent = Agent::new(leaf_params(), &root);

    let attestor = configure(settings(), &[&root]).unwrap();
    let attested = attest(&attestor, &agent).await.unwrap();
    let id = attested.agent_id.to_string();
    assert_eq!(id, "spiffe://example.org/spire/agent/x509pop/rack/host1");

    let any_prefix = X509PopSettings { spiffe_prefix: Some(String::new()), ..settings() };
    let attestor = configure(any_prefix, &[&root]).unwrap();
    let id = attest(&attestor, &agent).await.unwrap().agent_id.to_string();
    assert_eq!(id, "spiffe://example.org/spire/agent/x509pop/spire-exchange/rack/host1");

    let other = X509PopSettings { spiffe_prefix: Some("/other".to_owned()), ..settings() };
    let error = attest(&configure(other, &[&root]).unwrap(), &agent).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied);
    assert_eq!(error.message, "nodeattestor(x509pop): x509 cert doesnt match SVID prefix");

    // A neighbour below the same root.
    let mut foreign = leaf_params();
    let uri = "spiffe://other.org/spire-exchange/rack/host1";
    foreign.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let neighbour = Agent::new(foreign, &root);
    let attestor = configure(settings(), &[&root]).unwrap();
    let error = attest(&attestor, &neighbour).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied);
    let text = "nodeattestor(x509pop): x509 cert is an SVID of another trust domain";
    assert_eq!(error.message, text);

    let mut no_svid = leaf_params();
    no_svid.subject_alt_names.clear();
    let agent = Agent::new(no_svid, &root);
    let attestor = configure(settings(), &[&root]).unwrap();
    let error = attest(&attestor, &agent).await.unwrap_err();
    assert_eq!(error.message, "nodeattestor(x509pop): valid SVID x509 cert not found");
}

#[tokio::test]
async fn the_agent_path_follows_the_template() {
    let root = ca("root", None);
    let agent = Agent::new(leaf_params(), &root);
    let template = |text: &str| X509PopSettings {
        agent_path_template: Some(text.to_owned()),
        ..Default::default()
    };
    let text = "/x509pop/{{ .Subject.CommonName | lower | nospace }}/{{ .SerialNumberHex }}\
                /{{ .URISanSelectors.datacenter }}";
    let attestor = external(&[&root], template(text));
    let id = attest(&attestor, &agent).await.unwrap().agent_id.to_string();
    assert_eq!(id, "spiffe://example.org/spire/agent/x509pop/hostone/0abc/us-east-1");

    for text in ["x509pop/a", "/{{ .Nope }}", "/{{ .Subject.CommonName }}"] {
        let error = attest(&external(&[&root], template(text)), &agent).await.unwrap_err();
        assert_eq!(error.code, Code::Internal, "{text}");
        let start = "nodeattestor(x509pop): failed to make spiffe id: ";
        assert!(error.message.starts_with(start), "{text}: {}", error.message);
    }
}

#[tokio::test]
async fn wrong_answers_to_the_challenge_are_refused() {
    let root = ca("root", None);
    let attestor = external(&[&root], X509PopSettings::default());
    let agent = Agent::new(leaf_params(), &root);
    let with = |key: &'static str, value: Vec<u8>| {
        move |mut answer: Value| {
            answer["ecdsa_signature"][key] = json!(STANDARD.encode(&value));
            answer
        }
    };
    let mismatch = "ECDSA signature verify failed";
    let cases: [(Tamper, &str); 5] = [
        (Box::new(with("r", vec![1; 32])), mismatch),
        (Box::new(with("s", vec![1; 200])), mismatch),
        (Box::new(with("nonce", vec![8; 32])), mismatch),
        (Box::new(with("nonce", vec![9; 31])), "invalid response nonce"),
        (Box::new(|_| json!({ "rsa_signature": null })), "expecting ECDSA response"),
    ];
    for (tamper, text) in cases {
        let mut channel = Channel { agent: &agent, tamper, ip: None };
        let error = attestor.attest(&agent.payload(), &mut channel).await.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{text}");
        let text = format!("nodeattestor(x509pop): challenge response verification failed: {text}");
        assert_eq!(error.message, text);
    }
    // Go matches keys without regard to case, so old agents may send them in any.
    let shout = |answer: Value| {
        let inner = answer["ecdsa_signature"].clone();
        json!({ "ECDSA_Signature": { "Nonce": inner["nonce"], "R": inner["r"], "S": inner["s"] } })
    };
    let mut channel = Channel { agent: &agent, tamper: Box::new(shout), ip: None };
    attestor.attest(&agent.payload(), &mut channel).await.unwrap();
}

#[tokio::test]
async fn certificates_that_do_not_qualify_are_refused() {
    let (root, stranger) = (ca("root", None), ca("root", None));
    let intermediate = ca("intermediate", Some(&root));
    let attestor = external(&[&root], X509PopSettings::default());
    let small = X509PopSettings { max_rsa_key_size: Some(1024), ..Default::default() };
    let small = external(&[&root], small);

    let mut expired = leaf_params();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut no_signatures = leaf_params();
    no_signatures.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> =
        aws_lc_rs::encoding::AsDer::as_der(&pair).unwrap();
    let rsa_key = || KeyPair::try_from(der.as_ref()).unwrap();
    let mut long = Agent::new(leaf_params(), &root);
    long.chain.extend((0..5).map(|_| intermediate.der().to_vec()));
    let mut broken = Agent::new(leaf_params(), &root);
    broken.chain.push(b"no certificate".to_vec());
    let mut none = Agent::new(leaf_params(), &root);
    none.chain.clear();

    let unknown = "certificate verification failed: x509: certificate signed by unknown authority";
    let ended =
        "certificate verification failed: x509: certificate has expired or is not yet valid";
    let cases = [
        (&attestor, Agent::new(leaf_params(), &stranger), Code::PermissionDenied, unknown),
        (&attestor, Agent::new(leaf_params(), &intermediate), Code::PermissionDenied, unknown),
        (&attestor, Agent::new(expired, &root), Code::PermissionDenied, ended),
        (
            &attestor,
            Agent::new(no_signatures, &root),
            Code::Internal,
            "unable to generate challenge: certificate not intended for digital signature use",
        ),
        (
            &small,
            Agent::with_key(leaf_params(), &root, rsa_key()),
            Code::InvalidArgument,
            "leaf certificate key size too large",
        ),
        (&attestor, long, Code::InvalidArgument, "too many intermediate certificates"),
        (&attestor, none, Code::InvalidArgument, "no certificate to attest"),
        (&attestor, broken, Code::InvalidArgument, "unable to parse intermediate certificate 0: "),
    ];
    for (attestor, agent, code, text) in cases {
        let error = attest(attestor, &agent).await.unwrap_err();
        assert_eq!(error.code, code, "{text}: {}", error.message);
        let start = format!("nodeattestor(x509pop): {text}");
        assert!(error.message.starts_with(&start), "{text}: {}", error.message);
    }
    let agent = Agent::new(leaf_params(), &root);
    for payload in [&b"not json"[..], b"[]", b"{\"certificates\": [1]}", b"{\"certificates\": 1}"] {
        let mut channel = Channel { agent: &agent, tamper: Box::new(|answer| answer), ip: None };
        let error = attestor.attest(payload, &mut channel).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        let start = "nodeattestor(x509pop): failed to unmarshal data: ";
        assert!(error.message.starts_with(start), "{}", error.message);
    }
}

#[tokio::test]
async fn the_callers_address_must_be_in_the_certificate_when_that_is_asked_for() {
    let root = ca("root", None);
    let settings = X509PopSettings { verify_client_ip: true, ..Default::default() };
    let attestor = external(&[&root], settings);
    let agent = Agent::new(leaf_params(), &root);
    let cases = [
        (Some("10.0.0.1"), None),
        (Some("::ffff:10.0.0.1"), None),
        (
            Some("10.0.0.2"),
            Some((
                Code::PermissionDenied,
                "client IP 10.0.0.2 does not match any certificate IP SAN",
            )),
        ),
        (None, Some((Code::Internal, "client IP not available for verification"))),
    ];
    for (ip, refusal) in cases {
        let ip = ip.map(|text| text.parse().unwrap());
        let mut channel = Channel { agent: &agent, tamper: Box::new(|answer| answer), ip };
        let result = attestor.attest(&agent.payload(), &mut channel).await;
        match refusal {
            None => assert!(result.is_ok(), "{ip:?}: {result:?}"),
            Some((code, text)) => {
                let error = result.unwrap_err();
                assert_eq!(
                    (error.code, error.message),
                    (code, format!("nodeattestor(x509pop): {text}"))
                );
            }
        }
    }
}

#[test]
fn settings_that_contradict_themselves_are_refused_with_spires_texts() {
    let path = || Some("/nowhere/ca.pem".into());
    let spiffe = || Some("spiffe".to_owned());
    let base = X509PopSettings::default;
    let cases = [
        (base(), "one of ca_bundle_path or ca_bundle_paths must be configured"),
        (
            X509PopSettings {
                ca_bundle_path: path(),
                ca_bundle_paths: vec!["/nowhere/b.pem".into()],
                ..base()
            },
            "only one of ca_bundle_path or ca_bundle_paths can be configured, not both",
        ),
        (
            X509PopSettings { ca_bundle_path: path(), ..base() },
            "unable to load trust bundle \"/nowhere/ca.pem\": ",
        ),
        (
            X509PopSettings { mode: spiffe(), ca_bundle_path: path(), ..base() },
            "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode",
        ),
        (
            X509PopSettings { mode: Some("x".to_owned()), ..base() },
            "mode can only be either spiffe or external_pki",
        ),
        (
            X509PopSettings { mode: spiffe(), max_intermediates: Some(0), ..base() },
            "max_intermediates must be greater than 0",
        ),
        (
            X509PopSettings { mode: spiffe(), max_rsa_key_size: Some(-1), ..base() },
            "max_rsa_key_size must be greater than 0",
        ),
        (
            X509PopSettings {
                mode: spiffe(),
                agent_path_template: Some("/{{ env }}".to_owned()),
                ..base()
            },
            "failed to parse agent svid template: \"/{{ env }}\"",
        ),
    ];
    for (settings, expected) in cases {
        let error = configure(settings, &[]).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
