//! The files of `disk`: what is refused, what is signed, and what a change of files does.

use std::ffi::OsStr;
use std::fs;

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use steeple_spiffe_core::random::SeededRandom;
use steeple_spiffe_core::signer::LocalSigner;
use steeple_spiffe_core::svid::x509::{ca_request, self_signed_ca};
use steeple_spiffe_core::time::FixedClock;
use steeple_spiffe_core::{KeyType, Secret};

use super::*;

const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// A CA with its key.
struct Ca {
    signer: LocalSigner,
    pkcs8: Secret,
    certificate: Vec<u8>,
}

impl Ca {
    fn root(from: Timestamp, to: Timestamp) -> Self {
        Self::of(KeyType::EcP256, from, to)
    }

    fn of(key_type: KeyType, from: Timestamp, to: Timestamp) -> Self {
        let (signer, pkcs8) = LocalSigner::generate(key_type).unwrap();
        let other = TrustDomain::parse("pki.example").unwrap();
        let certificate = self_signed_ca(&other, None, &signer, [7; 16], from, to).unwrap();
        Self { signer, pkcs8, certificate }
    }

    fn good() -> Self {
        Self::root(START.minus(HOUR), START.plus(DAY))
    }

    fn below(parent: &Self) -> Self {
        let (signer, pkcs8) = LocalSigner::generate(KeyType::EcP384).unwrap();
        let template = DownstreamTemplate {
            trust_domain: &TrustDomain::parse("pki.example").unwrap(),
            subject: DownstreamSubject::Depth(1),
            public_key_spki: signer.public_key_spki(),
            serial: [9; 16],
            not_before: START.minus(HOUR),
            not_after: START.plus(HOUR * 12),
        };
        let issuer = IssuerIdentity::from_certificate(&parent.certificate).unwrap();
        let certificate = sign_downstream_ca(&issuer, &parent.signer, &template).unwrap();
        Self { signer, pkcs8, certificate }
    }
}

/// RSA keys that are refused before a certificate is looked at: of 1024 and of 3072 bits.
const WEAK_KEY: &str = include_str!("fixtures/rsa-1024.pem");
const ODD_KEY: &str = include_str!("fixtures/rsa-3072.pem");

/// A folder with the files of the plugin.
struct Files {
    folder: tempfile::TempDir,
    with_bundle: bool,
}

impl Files {
    fn new(key: &Ca, certificates: &[&Ca], bundle: Option<&Ca>) -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap(), with_bundle: bundle.is_some() };
        files.write(key, certificates);
        if let Some(bundle) = bundle {
            let text = pem::encode_certificates(std::slice::from_ref(&bundle.certificate));
            fs::write(files.path("bundle.pem"), text).unwrap();
        }
        files
    }

    fn write(&self, key: &Ca, certificates: &[&Ca]) {
        let ders: Vec<_> = certificates.iter().map(|ca| ca.certificate.clone()).collect();
        fs::write(self.path("cert.pem"), pem::encode_certificates(&ders)).unwrap();
        let key = pem::encode_private_key(key.pkcs8.expose());
        fs::write(self.path("key.pem"), key.as_bytes()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self) -> Result<Disk, DiskError> {
        let settings = DiskSettings {
            cert_file_path: self.path("cert.pem"),
            key_file_path: self.path("key.pem"),
            bundle_file_path: self.with_bundle.then(|| self.path("bundle.pem")),
        };
        let clock = Arc::new(FixedClock::new(START));
        Disk::configure(settings, td(), clock, Arc::new(SeededRandom::new(1)))
    }

    fn refusal(&self) -> String {
        self.configure().unwrap_err().to_string()
    }
}

fn request() -> Vec<u8> {
    let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
    ca_request(&td(), None, &signer, [1; 16]).unwrap()
}

#[test]
fn files_that_cannot_be_used_are_refused_in_spires_words() {
    let (root, other) = (Ca::good(), Ca::good());
    let below = Ca::below(&root);
    let expired = Ca::root(START.minus(DAY), START.minus(HOUR));
    let early = Ca::root(START.plus(HOUR), START.plus(DAY));
    let cases = [
        (Files::new(&other, &[&root], None), "certificate and private key do not match"),
        (
            Files::new(&below, &[&below, &root], None),
            "with no bundle_file_path configured only self-signed CAs are supported",
        ),
        (
            Files::new(&below, &[&below], Some(&other)),
            "certificate cannot be validated with the provided bundle or is not self-signed",
        ),
        (Files::new(&expired, &[&expired], None), "certificate has expired"),
        (Files::new(&early, &[&early], None), "certificate is not valid yet"),
        (Files::new(&root, &[], None), "unable to load upstream CA cert: "),
    ];
    for (files, text) in cases {
        let refusal = files.refusal();
        assert!(refusal.contains(text), "{refusal:?} is not about {text:?}");
        let names_the_fix = refusal.contains("_file_path") || refusal.contains("cert.pem");
        assert!(names_the_fix, "{refusal:?} says nothing of what to do");
    }
    for (key, text) in [
        (WEAK_KEY, "an RSA key of less than 2048 bits is too weak; use ec-p256,"),
        (ODD_KEY, "an RSA key of 3072 bits is not supported; use rsa-2048,"),
    ] {
        let files = Files::new(&root, &[&root], None);
        fs::write(files.path("key.pem"), key).unwrap();
        let refusal = files.refusal();
        assert!(refusal.starts_with("unable to load upstream CA key: "), "{refusal}");
        assert!(refusal.contains(text) && refusal.contains("key.pem"), "{refusal}");
    }
    // As OpenSSL writes them with -traditional: what PKCS#8 has around it is left out.
    let der = PrivatePkcs8KeyDer::from_pem_slice(WEAK_KEY.as_bytes()).unwrap();
    let bare = pem::encode_private_key(&der.secret_pkcs8_der()[26..]);
    let files = Files::new(&root, &[&root], None);
    fs::write(files.path("key.pem"), bare.replace("PRIVATE", "RSA PRIVATE")).unwrap();
    let refusal = files.refusal();
    assert!(refusal.contains("an RSA key of less than 2048 bits is too weak"), "{refusal}");
}

#[test]
fn what_nobody_else_would_verify_below_an_intermediate_is_refused() {
    let time = |s: i64| time::OffsetDateTime::from_unix_timestamp(START.unix_s() + s).unwrap();
    let ca = |name: &str, path_len: BasicConstraints, usage: KeyUsagePurpose| {
        let mut params = rcgen::CertificateParams::default();
        (params.not_before, params.not_after) = (time(-3600), time(3600));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params.is_ca, params.key_usages) = (IsCa::Ca(path_len), vec![usage]);
        params.use_authority_key_identifier_extension = true;
        (params, rcgen::KeyPair::generate().unwrap())
    };
    use BasicConstraints::{Constrained, Unconstrained};
    use KeyUsagePurpose::{DigitalSignature, KeyCertSign};
    for (what, root, between, expected) in [
        ("sound", (Constrained(3), KeyCertSign), (Constrained(2), KeyCertSign), None),
        (
            "no place below the root",
            (Constrained(2), KeyCertSign),
            (Unconstrained, KeyCertSign),
            Some("PathLen"),
        ),
        (
            "no place between",
            (Unconstrained, KeyCertSign),
            (Constrained(1), KeyCertSign),
            Some("PathLen"),
        ),
        (
            "not for certificates",
            (Unconstrained, KeyCertSign),
            (Unconstrained, DigitalSignature),
            Some("EndEntityUsedAsCa"),
        ),
    ] {
        let (root_params, root_key) = ca("root", root.0, root.1);
        let (between_params, between_key) = ca("between", between.0, between.1);
        let (below_params, below_key) = ca("below", Unconstrained, KeyCertSign);
        let root_pem = root_params.self_signed(&root_key).unwrap().pem();
        let by_root = rcgen::Issuer::new(root_params, &root_key);
        let between_pem = between_params.signed_by(&between_key, &by_root).unwrap().pem();
        let by_between = rcgen::Issuer::new(between_params, &between_key);
        let below_pem = below_params.signed_by(&below_key, &by_between).unwrap().pem();
        let sound = Ca::good();
        let files = Files::new(&sound, &[&sound], Some(&sound));
        fs::write(files.path("bundle.pem"), root_pem).unwrap();
        fs::write(files.path("cert.pem"), format!("{below_pem}{between_pem}")).unwrap();
        fs::write(files.path("key.pem"), below_key.serialize_pem()).unwrap();
        let refused = files.configure().err().map(|error| error.to_string());
        match expected {
            None => assert_eq!(refused, None, "{what}"),
            Some(text) => {
                let refused = refused.unwrap_or_else(|| panic!("{what} is taken"));
                assert!(
                    refused.contains(text) && refused.contains("bundle_file_path"),
                    "{refused}"
                );
            }
        }
    }
}

#[test]
fn a_certificate_that_is_no_ca_and_files_that_are_missing_are_refused() {
    let root = Ca::good();
    let files = Files::new(&root, &[&root], None);
    let mut params = rcgen::CertificateParams::default();
    params.not_before = time::OffsetDateTime::from_unix_timestamp(START.unix_s() - 60).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(START.unix_s() + 60).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = params.self_signed(&key).unwrap();
    fs::write(files.path("cert.pem"), leaf.pem()).unwrap();
    fs::write(files.path("key.pem"), key.serialize_pem()).unwrap();
    assert!(files.refusal().contains("certificate is no CA"), "{}", files.refusal());
    // Go and OpenSSL refuse what is signed below these.
    for (is_ca, usage, expected) in [
        (BasicConstraints::Constrained(0), KeyUsagePurpose::KeyCertSign, "path length"),
        (BasicConstraints::Unconstrained, KeyUsagePurpose::DigitalSignature, "keyCertSign"),
    ] {
        params.is_ca = IsCa::Ca(is_ca);
        params.key_usages = vec![usage];
        fs::write(files.path("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(files.path("key.pem"), key.serialize_pem()).unwrap();
        assert!(files.refusal().contains(expected), "{}", files.refusal());
    }

    fs::write(files.path("key.pem"), "no key").unwrap();
    assert!(files.refusal().starts_with("unable to load upstream CA key: "));
    fs::remove_file(files.path("key.pem")).unwrap();
    assert!(files.refusal().contains("No such file"), "{}", files.refusal());
    let mut missing = Files::new(&root, &[&root], None);
    missing.with_bundle = true;
    assert!(missing.refusal().starts_with("unable to load upstream CA bundle: "));
}

#[tokio::test]
async fn what_it_signs_has_the_lifetime_that_was_asked_for_cut_to_its_own() {
    let root = Ca::good();
    let files = Files::new(&root, &[&root], None);
    let disk = files.configure().unwrap();
    for (asked, given) in [(Duration::ZERO, HOUR), (HOUR * 2, HOUR * 2), (DAY * 2, DAY)] {
        let minted = disk.mint(&request(), asked).await.unwrap();
        assert_eq!(minted.roots, std::slice::from_ref(&root.certificate));
        let [certificate] = minted.chain.as_slice() else { panic!("the root is in the chain") };
        let facts = certificate_facts(certificate).unwrap();
        assert_eq!(facts.not_after, START.plus(given), "{asked:?}");
        assert_eq!(facts.not_before, START.minus(BACKDATE));
        assert!(facts.is_ca);
        assert_eq!(facts.uris, ["spiffe://example.org"]);
    }
}

#[tokio::test]
async fn below_an_intermediate_the_chain_has_it_and_the_roots_are_those_of_the_bundle() {
    let root = Ca::good();
    let below = Ca::below(&root);
    let files = Files::new(&below, &[&below], Some(&root));
    let minted = files.configure().unwrap().mint(&request(), HOUR).await.unwrap();
    assert_eq!(minted.chain.len(), 2);
    assert_eq!(minted.chain[1], below.certificate);
    assert_eq!(minted.roots, [root.certificate]);
}

#[tokio::test]
async fn keys_of_each_type_that_spire_takes_sign() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::EcP521, KeyType::Rsa2048] {
        let root = Ca::of(key_type, START.minus(HOUR), START.plus(DAY));
        let files = Files::new(&root, &[&root], None);
        let minted = files.configure().unwrap().mint(&request(), HOUR).await.unwrap();
        // OpenSSL says whether the signature is the root's.
        let (ca, leaf) = (files.path("cert.pem"), files.path("minted.pem"));
        fs::write(&leaf, pem::encode_certificates(&minted.chain)).unwrap();
        let openssl = |words: &[&OsStr]| {
            let said = std::process::Command::new("openssl").args(words).output().unwrap();
            assert!(said.status.success(), "{key_type}: {said:?}");
        };
        let word = OsStr::new;
        let at = [word("verify"), word("-attime"), word("1800000000"), word("-CAfile")];
        openssl(&[&at[..], &[ca.as_os_str(), leaf.as_os_str()]].concat());
        // The same key as it was written before PKCS#8: SEC1 or PKCS#1.
        let (key, old) = (files.path("key.pem"), files.path("old.pem"));
        let read = [word("pkey"), word("-traditional"), word("-in"), key.as_os_str()];
        openssl(&[&read[..], &[word("-out"), old.as_os_str()]].concat());
        let text = fs::read_to_string(&old).unwrap();
        assert!(text.contains("EC PRIVATE") || text.contains("RSA PRIVATE"), "{key_type}");
        fs::rename(&old, &key).unwrap();
        files.configure().unwrap();
    }
}

#[tokio::test]
async fn a_request_for_anything_but_the_own_ca_is_refused() {
    let root = Ca::good();
    let files = Files::new(&root, &[&root], None);
    let disk = files.configure().unwrap();
    let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
    let elsewhere = TrustDomain::parse("other.org").unwrap();
    let foreign = ca_request(&elsewhere, None, &signer, [1; 16]).unwrap();
    let mut forged = request();
    *forged.last_mut().unwrap() ^= 1;
    for (csr, text) in [
        (foreign, "must use the trust domain ID for trust domain \"example.org\""),
        (forged, "CSR signature check failed"),
        (vec![0x30], "unable to parse CSR"),
    ] {
        let error = disk.mint(&csr, HOUR).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error:?} is not about {text:?}");
    }
}

#[test]
fn a_look_says_what_ends_first_and_why_files_are_refused_until_they_are_mended() {
    let root = Ca::good();
    let below = Ca::below(&root);
    let files = Files::new(&below, &[&below], Some(&root));
    let disk = files.configure().unwrap();
    let sound = Standing { not_after: START.plus(HOUR * 12), lifetime: HOUR * 13, refused: None };
    assert_eq!(disk.look(), Some(sound.clone()));
    files.write(&root, &[&below]);
    let refused = disk.look().unwrap();
    assert!(refused.refused.as_ref().unwrap().contains("do not match"), "{refused:?}");
    assert_eq!(Standing { refused: None, ..refused }, sound, "those before sign");
    files.write(&below, &[&below]);
    assert_eq!(disk.look(), Some(sound));

    // A root that ends before what is below it.
    let short = Ca::root(START.minus(HOUR), START.plus(HOUR));
    let below = Ca::below(&short);
    let disk = Files::new(&below, &[&below], Some(&short));
    let disk = disk.configure().unwrap();
    let ends = disk.look().map(|standing| (standing.not_after, standing.lifetime));
    assert_eq!(ends, Some((START.plus(HOUR), HOUR * 2)));
    // Another root beside it, which lives longer and is not the one, hides nothing.
    let files = Files::new(&below, &[&below], Some(&short));
    let both = pem::encode_certificates(&[short.certificate.clone(), root.certificate]);
    fs::write(files.path("bundle.pem"), both).unwrap();
    let ends = files.configure().unwrap().look().map(|standing| standing.not_after);
    assert_eq!(ends, Some(START.plus(HOUR)));
}

#[tokio::test]
async fn new_files_are_used_at_once_and_broken_ones_never() {
    let (first, second) = (Ca::good(), Ca::good());
    let files = Files::new(&first, &[&first], None);
    let disk = files.configure().unwrap();
    let roots = async || disk.mint(&request(), HOUR).await.unwrap().roots;
    assert_eq!(roots().await, std::slice::from_ref(&first.certificate));
    // Half of a new pair, as a copy in progress leaves it.
    files.write(&second, &[&first]);
    assert_eq!(roots().await, std::slice::from_ref(&first.certificate));
    files.write(&second, &[&second]);
    assert_eq!(roots().await, std::slice::from_ref(&second.certificate));
}
