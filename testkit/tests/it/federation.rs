//! The bundle endpoint of three replicas, by a client that no one here wrote.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec, ports};

use crate::bundles::done;

const SOON: Duration = Duration::from_secs(30);

/// Asks by OpenSSL, which believes these roots alone: the head and the body of the answer.
fn ask(port: u16, method: &str, roots: &Path) -> anyhow::Result<(String, String)> {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("-CAfile")
        .arg(roots)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let request = format!("{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.stdin.take().unwrap().write_all(request.as_bytes())?;
    let output = client.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| anyhow::anyhow!("{error}"))?;
    Ok((head.to_owned(), body.to_owned()))
}

/// The document that all of these ports give out, and what it is.
fn document(ports: &[u16], roots: &Path) -> anyhow::Result<(String, Value)> {
    let mut seen = Vec::new();
    for port in ports {
        let (head, body) = ask(*port, "GET", roots)?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        anyhow::ensure!(head.contains("content-type: application/json"), "{head}");
        seen.push(body);
    }
    anyhow::ensure!(seen.windows(2).all(|two| two[0] == two[1]), "replicas differ: {seen:?}");
    let document = seen.swap_remove(0);
    let value = serde_json::from_str(&document)?;
    Ok((document, value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_gives_out_the_same_bundle_with_a_quorum_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec::default();
    let mut cluster = Cluster::prepare(&folder.path().join("cluster"), &spec).unwrap();
    let ports: [u16; 3] = ports::lease().unwrap();
    for (member, port) in cluster.members().iter().zip(ports) {
        let text = fs::read_to_string(member.config()).unwrap();
        let endpoint = format!(
            "server {{\n  federation {{\n    bundle_endpoint {{\n      address = \"127.0.0.1\"\n      \
             port = {port}\n      profile \"https_spiffe\" {{}}\n    }}\n  }}\n"
        );
        fs::write(member.config(), text.replacen("server {\n", &endpoint, 1)).unwrap();
    }
    for member in 0..3 {
        cluster.start_member(member).unwrap();
    }
    cluster.wait_ready(SOON).await.unwrap();
    let roots = folder.path().join("roots.pem");
    fs::write(&roots, done(&cluster, 0, &["bundle", "show"])).unwrap();

    let (first, value) = document(&ports, &roots).unwrap();
    let uses = |value: &Value| {
        let keys = value["keys"].as_array().unwrap().iter();
        keys.map(|key| key["use"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(uses(&value), ["x509-svid", "jwt-svid"]);
    assert_eq!(value["spiffe_refresh_hint"], 300);
    let shown = done(&cluster, 1, &["bundle", "show", "-format", "spiffe"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&value["keys"], &value["spiffe_sequence"]),
        (&shown["keys"], &shown["spiffe_sequence"])
    );
    let (head, body) = ask(ports[2], "POST", &roots).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 405") && body == "405 method not allowed\n",
        "{head} {body}"
    );

    // A prepared authority is published everywhere before it signs.
    done(&cluster, 2, &["localauthority", "x509", "prepare"]);
    let published = wait_for("the new authority at every replica", SOON, async || {
        let (text, value) = document(&ports, &roots)?;
        anyhow::ensure!(text != first, "it is still the first document");
        Ok((text, value))
    });
    let (second, value) = published.await.unwrap();
    assert_eq!(uses(&value), ["x509-svid", "x509-svid", "jwt-svid"]);
    let number = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        value["spiffe_sequence"].as_u64().unwrap()
    };
    assert_eq!(number(&second), number(&first) + 1);
    // Peers fetch without saying who they are: they are given the time that they are told to take.
    let told = done(&cluster, 0, &["cluster", "rotate", "x509"]);
    assert!(told.contains("waiting for peers of other trust domains"), "{told}");

    for member in 0..2 {
        cluster.kill_member(member).unwrap();
    }
    let (alone, _) = document(&ports[2..], &roots).unwrap();
    assert_eq!(alone, second, "the last document, without a quorum");
}
