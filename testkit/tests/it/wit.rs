//! WIT-SVIDs where all members have the feature flag, and where only some have it.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use steeple_testkit::process::{log_tail, wait_for};
use steeple_testkit::{Cluster, ClusterSpec};

const SOON: Duration = Duration::from_secs(30);

const FLAG: &str = "  experimental {\n    feature_flags = [\"wit-svid\"]\n    \
                    wit_issuer = \"https://issuer.test\"\n  }\n";

const WEB: &str = "spiffe://example.org/web";

/// The WIT keys of the bundle as a member shows it: id and public key.
fn published(cluster: &Cluster, member: usize) -> Vec<(String, Vec<u8>)> {
    let bundle = cluster.member(member).unwrap().cli_json(&["bundle", "show"]).unwrap();
    let keys = bundle["wit_authorities"].as_array().unwrap().iter();
    let key = |key: &Value| {
        let public = STANDARD.decode(key["public_key"].as_str().unwrap()).unwrap();
        (key["key_id"].as_str().unwrap().to_owned(), public)
    };
    keys.map(key).collect()
}

/// A token that a member minted, and the private key that came with it.
fn mint(cluster: &Cluster, member: usize, words: &[&str]) -> anyhow::Result<(String, Value)> {
    let member = cluster.member(member)?;
    let output = std::process::Command::new(steeple_testkit::process::binary("spire-server")?)
        .args(["wit", "mint", "-spiffeID", WEB, "-socketPath"])
        .arg(member.socket())
        .args(words)
        .env("SPIRE_SERVER_FFLAGS", "other wit-svid")
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text.lines();
    let token = lines.next().unwrap_or_default().to_owned();
    Ok((token, lines.next().unwrap_or_default().parse()?))
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Checks a token as a verifier would that has the bundle from any member; returns the key's id.
fn verify(cluster: &Cluster, token: &str) -> String {
    let kid = part(token, 0)["kid"].as_str().unwrap().to_owned();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for member in cluster.members().iter().filter(|member| member.is_started()) {
        let keys = published(cluster, member.index);
        let (_, public) = keys.iter().find(|(id, _)| *id == kid).unwrap();
        let point = &public[public.len() - 65..];
        let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        verifier.verify(signed.as_bytes(), &signature).unwrap();
    }
    kid
}

/// Mints on a member as soon as it can, and checks what comes.
async fn minted(cluster: &Cluster, member: usize) -> String {
    let what = format!("a token of member {member}");
    let (token, key) = wait_for(&what, SOON, async || mint(cluster, member, &[])).await.unwrap();
    let claims = part(&token, 1);
    assert_eq!(part(&token, 0)["typ"], "wit+jwt");
    assert_eq!(
        (claims["sub"].as_str(), claims["iss"].as_str()),
        (Some(WEB), Some("https://issuer.test"))
    );
    let confirmed = &claims["cnf"]["jwk"];
    assert_eq!((&confirmed["x"], &confirmed["y"]), (&key["x"], &key["y"]));
    assert_eq!(confirmed["alg"], "ES256");
    verify(cluster, &token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_by_schedule_and_any_member_mints_what_every_bundle_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let server_lines = format!("  ca_ttl = \"24s\"\n  default_x509_svid_ttl = \"8s\"\n{FLAG}");
    let spec = ClusterSpec { server_lines, ..ClusterSpec::default() };
    let mut cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let mut signed = BTreeSet::new();
    for member in 0..3 {
        signed.insert(minted(&cluster, member).await);
    }
    let leader = cluster.leader(SOON).await.unwrap();
    cluster.kill_member(leader).unwrap();
    let next = (leader + 1) % 3;
    // The others hand over to a key that both have shown before.
    let rotated = wait_for("a token by another key", SOON, async || {
        let (token, _) = mint(&cluster, next, &[])?;
        let kid = verify(&cluster, &token);
        anyhow::ensure!(!signed.contains(&kid), "{kid}");
        Ok(kid)
    });
    let second = rotated.await.unwrap();
    cluster.start_member(leader).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    for member in 0..3 {
        minted(&cluster, member).await;
        let keys = published(&cluster, member);
        assert!(keys.len() <= 3, "{keys:?}");
    }
    let said = std::fs::read_to_string(cluster.member(next).unwrap().log()).unwrap();
    assert!(said.contains("WIT key activated") && said.contains(&second), "{second}");
    let shown = cluster.member(next).unwrap().cli(&["bundle", "show", "-format", "spiffe"]);
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(!shown.contains("wit") && !shown.contains(&second), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_the_flag_signs_none_and_is_ready_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec::default();
    let mut cluster = Cluster::prepare(folder.path(), &spec).unwrap();
    for member in [0, 1] {
        cluster.member(member).unwrap().add_server_lines(FLAG).unwrap();
    }
    for member in 0..3 {
        cluster.start_member(member).unwrap();
    }
    cluster.wait_ready(SOON).await.unwrap();
    // Who leads decides whether there are keys: here it has to be one with the flag.
    if cluster.leader(SOON).await.unwrap() == 2 {
        cluster.stop_member(2).await.unwrap();
        wait_for("another leader", SOON, async || {
            let leader = cluster.leader(SOON).await?;
            anyhow::ensure!(leader != 2, "{}", log_tail(&cluster.member(0)?.log(), 5));
            Ok(())
        })
        .await
        .unwrap();
        minted(&cluster, 0).await;
        cluster.start_member(2).unwrap();
        cluster.wait_ready(SOON).await.unwrap();
    }
    minted(&cluster, 0).await;
    minted(&cluster, 1).await;
    let error = mint(&cluster, 2, &[]).unwrap_err().to_string();
    let disabled = "rpc error: code = Unimplemented desc = WIT functionality is disabled";
    assert_eq!(error, format!("Error: unable to mint SVID: {disabled}\n"));
    assert_eq!(published(&cluster, 2), published(&cluster, 0), "it serves the same bundle");
    let output = cluster.member(0).unwrap().cli(&["wit", "mint"]).unwrap();
    assert_eq!(output.status.code(), Some(127), "without the variable there is no such command");
}
