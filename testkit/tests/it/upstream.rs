//! A cluster whose authorities are signed by an upstream one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use steeple_spiffe_core::bundle::X509Authority;
use steeple_spiffe_core::svid::x509::{
    DownstreamSubject, DownstreamTemplate, IssuerIdentity, certificate_facts, self_signed_ca,
    sign_downstream_ca, verify_chain,
};
use steeple_spiffe_core::time::{Clock as _, SystemClock};
use steeple_spiffe_core::{Bundle, KeyType, LocalSigner, Secret, Signer as _, TrustDomain, pem};
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec};

use crate::bundles::{done, refused};

const SOON: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A CA outside of any trust domain of ours.
struct Ca {
    certificate: Vec<u8>,
    signer: LocalSigner,
    pkcs8: Secret,
}

fn pki() -> TrustDomain {
    TrustDomain::parse("pki.example").unwrap()
}

fn root() -> Ca {
    let (signer, pkcs8) = LocalSigner::generate(KeyType::EcP384).unwrap();
    let now = SystemClock.now();
    let (from, to) = (now.minus(HOUR), now.plus(HOUR * 10));
    let certificate = self_signed_ca(&pki(), None, &signer, [3; 16], from, to).unwrap();
    Ca { certificate, signer, pkcs8 }
}

fn below(parent: &Ca) -> Ca {
    let (signer, pkcs8) = LocalSigner::generate(KeyType::EcP256).unwrap();
    let now = SystemClock.now();
    let template = DownstreamTemplate {
        trust_domain: &pki(),
        subject: DownstreamSubject::Depth(1),
        public_key_spki: signer.public_key_spki(),
        serial: [4; 16],
        not_before: now.minus(HOUR),
        not_after: now.plus(HOUR * 5),
    };
    let issuer = IssuerIdentity::from_certificate(&parent.certificate).unwrap();
    let certificate = sign_downstream_ca(&issuer, &parent.signer, &template).unwrap();
    Ca { certificate, signer, pkcs8 }
}

/// Writes the files of `disk`: the intermediate signs, the root is the bundle. A new key is in place
/// before the certificate that goes with it: a pair that does not fit is left out.
fn write_files(folder: &Path, root: &Ca, intermediate: &Ca) {
    let pem_of = |ca: &Ca| pem::encode_certificates(std::slice::from_ref(&ca.certificate));
    let key = pem::encode_private_key(intermediate.pkcs8.expose());
    fs::write(folder.join("upstream-root.pem"), pem_of(root)).unwrap();
    fs::write(folder.join("upstream-key.pem"), key.as_bytes()).unwrap();
    fs::write(folder.join("upstream-cert.pem"), pem_of(intermediate)).unwrap();
}

fn plugin(folder: &Path) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    format!(
        "  UpstreamAuthority \"disk\" {{\n    plugin_data {{\n      cert_file_path = \"{}\"\n      \
         key_file_path = \"{}\"\n      bundle_file_path = \"{}\"\n    }}\n  }}\n",
        path("upstream-cert.pem"),
        path("upstream-key.pem"),
        path("upstream-root.pem"),
    )
}

/// The certificates of a file, leaf first.
pub(crate) fn certificates(path: &Path) -> Vec<Vec<u8>> {
    pem::decode_certificates(&fs::read_to_string(path).unwrap()).unwrap()
}

/// An SVID that a member mints, as its chain.
pub(crate) fn mint(
    cluster: &Cluster,
    member: usize,
    folder: &Path,
) -> anyhow::Result<Vec<Vec<u8>>> {
    let path = folder.to_str().unwrap();
    let words = ["x509", "mint", "-spiffeID", "spiffe://example.org/w", "-write", path];
    let output = cluster.member(member)?.cli(&words)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{text}");
    Ok(certificates(&folder.join("svid.pem")))
}

/// Whether a chain leads to this root and to no other trust: by our verifier and by OpenSSL's.
pub(crate) fn leads_to(chain: &[Vec<u8>], root: &[u8], folder: &Path) {
    let authority = X509Authority { certificate_der: root.to_vec(), tainted: false };
    let example = TrustDomain::parse("example.org").unwrap();
    let bundle = Bundle { x509_authorities: vec![authority], ..Bundle::empty(example) };
    verify_chain(chain, &bundle, SystemClock.now()).unwrap();

    let file = |name: &str, ders: &[Vec<u8>]| {
        let path = folder.join(name);
        fs::write(&path, pem::encode_certificates(ders)).unwrap();
        path
    };
    let root = file("root.pem", &[root.to_vec()]);
    let mut openssl = Command::new("openssl");
    openssl.args(["verify", "-x509_strict", "-CAfile"]).arg(root);
    if chain.len() > 1 {
        openssl.arg("-untrusted").arg(file("above.pem", &chain[1..]));
    }
    let verified = openssl.arg(file("leaf.pem", &chain[..1])).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

/// What the members publish: the same roots everywhere.
pub(crate) fn published(cluster: &Cluster, folder: &Path) -> Vec<Vec<u8>> {
    let mut seen: Vec<Vec<Vec<u8>>> = Vec::new();
    for member in cluster.members().iter().filter(|member| member.is_started()) {
        let shown = done(cluster, member.index, &["bundle", "show"]);
        let path: PathBuf = folder.join("bundle.pem");
        fs::write(&path, shown).unwrap();
        seen.push(certificates(&path));
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "members publish different roots");
    seen.swap_remove(0)
}

/// Whether any member has logged this.
pub(crate) fn is_logged(cluster: &Cluster, text: &str) -> bool {
    let mut logs = cluster.members().iter().map(|member| fs::read_to_string(member.log()));
    logs.any(|log| log.unwrap().contains(text))
}

/// Waits until some member has logged this.
pub(crate) async fn wait_logged(cluster: &Cluster, text: &str) {
    let logged = wait_for(text, SOON, async || {
        anyhow::ensure!(is_logged(cluster, text), "no member has logged it");
        Ok(())
    });
    logged.await.unwrap();
}

/// All of three members sign with one authority below the intermediate, and publish the root alone: that
/// authority.
pub(crate) fn signs_below(
    cluster: &Cluster,
    intermediate: &[u8],
    root: &[u8],
    folder: &Path,
) -> Vec<u8> {
    let mut signers = Vec::new();
    for member in 0..3 {
        let chain = mint(cluster, member, folder).unwrap();
        assert_eq!(chain.len(), 3, "leaf, our authority, the intermediate");
        assert_eq!(chain[2], intermediate);
        leads_to(&chain, root, folder);
        signers.push(chain[1].clone());
    }
    assert!(signers.windows(2).all(|two| two[0] == two[1]), "one authority for all members");
    assert_eq!(published(cluster, folder), [root]);
    signers.swap_remove(0)
}

/// Waits until a member signs with another authority than this one, below the same root.
pub(crate) async fn signs_anew(
    cluster: &Cluster,
    member: usize,
    signer: &[u8],
    root: &[u8],
    folder: &Path,
) {
    let rotated = wait_for("another authority", SOON, async || {
        let chain = mint(cluster, member, folder)?;
        anyhow::ensure!(chain[1] != signer, "it is still the first");
        leads_to(&chain, root, folder);
        Ok(())
    });
    rotated.await.unwrap();
    assert_eq!(published(cluster, folder), [root]);
}

fn show(cluster: &Cluster, member: usize) -> serde_json::Value {
    cluster.member(member).unwrap().cli_json(&["localauthority", "x509", "show"]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn svids_lead_to_the_upstream_root_through_kills_and_rotations_and_the_root_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let (first, second) = (root(), root());
    let intermediate = below(&first);
    write_files(place, &first, &intermediate);
    let spec = ClusterSpec {
        server_lines: "  ca_ttl = \"24s\"\n  default_x509_svid_ttl = \"8s\"\n".to_owned(),
        plugin_lines: plugin(place),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(&place.join("cluster"), &spec).await.unwrap();
    let signer = signs_below(&cluster, &intermediate.certificate, &first.certificate, place);
    let facts = certificate_facts(&intermediate.certificate).unwrap();
    let key_id: String = facts.subject_key_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(show(&cluster, 0)["active"]["upstream_authority_subject_key_id"], key_id.as_str());

    // Rotation goes on under another leader, below the same root.
    let leader = cluster.leader(SOON).await.unwrap();
    cluster.kill_member(leader).unwrap();
    let other = (leader + 1) % 3;
    signs_anew(&cluster, other, &signer, &first.certificate, place).await;
    cluster.start_member(leader).unwrap();
    cluster.wait_ready(SOON).await.unwrap();

    // New files are taken for the next authority, and both roots are published until then.
    let replacement = below(&second);
    write_files(place, &second, &replacement);
    let replaced = wait_for("the new root", SOON, async || {
        let chain = mint(&cluster, other, place)?;
        anyhow::ensure!(chain[2] == replacement.certificate, "it is still the old one");
        leads_to(&chain, &second.certificate, place);
        Ok(())
    });
    replaced.await.unwrap();
    assert_eq!(published(&cluster, place), [first.certificate.clone(), second.certificate.clone()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_root_is_replaced_tainted_and_revoked_through_any_member() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let (first, second) = (root(), root());
    write_files(place, &first, &below(&first));
    let spec = ClusterSpec { plugin_lines: plugin(place), ..ClusterSpec::default() };
    let cluster = Cluster::start(&place.join("cluster"), &spec).await.unwrap();
    let id = |ca: &Ca| {
        let facts = certificate_facts(&ca.certificate).unwrap();
        facts.subject_key_id.iter().map(|byte| format!("{byte:02X}")).collect::<String>()
    };
    let step = |member: usize, verb: &str, ca: &Ca| {
        done(&cluster, member, &["upstreamauthority", verb, "-subjectKeyID", &id(ca)])
    };
    let refuses = |member: usize, verb: &str, ca: &Ca, why: &str| {
        let words = ["upstreamauthority", verb, "-subjectKeyID", &id(ca)];
        let text = refused(&cluster, member, &words);
        assert!(text.contains(why), "{text:?} is not about {why:?}");
    };
    refuses(0, "taint", &first, "unable to use upstream authority singing current authority");
    refuses(0, "taint", &second, "upstream authority didn't sign the old local authority");
    let local = show(&cluster, 1)["active"]["authority_id"].as_str().unwrap().to_owned();
    let text = refused(&cluster, 1, &["localauthority", "x509", "taint", "-authorityID", &local]);
    assert!(text.contains("can't be tainted if there is an upstream authority"), "{text}");

    write_files(place, &second, &below(&second));
    let prepared = done(&cluster, 1, &["localauthority", "x509", "prepare", "-output", "json"]);
    let prepared: serde_json::Value = serde_json::from_str(&prepared).unwrap();
    let prepared = prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    assert_eq!(published(&cluster, place).len(), 2);
    done(&cluster, 2, &["localauthority", "x509", "activate", "-authorityID", &prepared]);
    leads_to(&mint(&cluster, 0, place).unwrap(), &second.certificate, place);

    refuses(0, "revoke", &first, "it is not possible to revoke an untainted root CA");
    let text = step(0, "taint", &first);
    assert!(text.starts_with("Tainted X.509 upstream authority:\n"), "{text}");
    refuses(1, "taint", &first, "root CA is already tainted");
    let bundle = cluster.member(2).unwrap().cli_json(&["bundle", "show"]).unwrap();
    let taints: Vec<_> =
        bundle["x509_authorities"].as_array().unwrap().iter().map(|one| &one["tainted"]).collect();
    assert_eq!(taints, [true, false]);
    step(2, "revoke", &first);
    assert_eq!(published(&cluster, place), std::slice::from_ref(&second.certificate));
    refuses(1, "revoke", &first, "no root CA found with provided subject key ID");
    leads_to(&mint(&cluster, 1, place).unwrap(), &second.certificate, place);

    // Files that broke are told of before an authority is due, until they are mended.
    let warned = async || {
        let status = cluster.member(0).unwrap().status().await.unwrap();
        let of_files = |code: &String| code.starts_with("upstream_");
        status.warnings.into_iter().map(|one| one.code).filter(of_files).collect::<Vec<_>>()
    };
    // Five hours are less than the day for which an authority is to live.
    assert_eq!(warned().await, ["upstream_ends"]);
    fs::write(place.join("upstream-key.pem"), "no key").unwrap();
    assert_eq!(warned().await, ["upstream_files"]);
    let checked = cluster.member(2).unwrap().cli(&["cluster", "check"]).unwrap();
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(text.contains("unable to load upstream CA key"), "{text}");
    write_files(place, &second, &below(&second));
    assert_eq!(warned().await, ["upstream_ends"]);
}
