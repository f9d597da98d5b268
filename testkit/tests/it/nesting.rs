//! A cluster of ours below a server of ours: one trust domain, one root.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use steeple_api::convert::bundle as convert;
use steeple_api::pb;
use steeple_spiffe_core::Bundle;
use steeple_spiffe_core::svid::x509::verify_chain;
use steeple_spiffe_core::time::{Clock as _, SystemClock};
use steeple_testkit::client::unix_channel;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Agent, Cluster, ClusterSpec};

use crate::bundles::done;
use crate::upstream::mint;

const SOON: Duration = Duration::from_secs(60);

/// An agent of a cluster, and an entry for the servers below it, which run as this user.
async fn agent_above(folder: &Path, above: &Cluster) -> Agent {
    let token = above.member(0).unwrap().cli_json(&["token", "generate"]).unwrap();
    let token = token["value"].as_str().unwrap().to_owned();
    let parent = format!("spiffe://example.org/spire/agent/join_token/{token}");
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let below = "spiffe://example.org/nested";
    let words = ["entry", "create", "-parentID", &parent, "-spiffeID", below, "-selector", &uid];
    done(above, 0, &[&words[..], &["-downstream"]].concat());
    let agent = Agent::start(folder, above, &[0], &token, "").await.unwrap();
    let served = wait_for("the SVID of the servers below", SOON, async || {
        let output = agent.cli(&["api", "fetch", "x509"])?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    });
    served.await.unwrap();
    agent
}

fn plugin(above: &Cluster, agent: &Agent) -> String {
    format!(
        "  UpstreamAuthority \"spire\" {{\n    plugin_data {{\n      server_address = \"127.0.0.1\"\n      \
         server_port = \"{}\"\n      workload_api_socket = \"{}\"\n    }}\n  }}\n",
        above.member(0).unwrap().api_port,
        agent.socket().display(),
    )
}

/// The bundle that a member answers with.
async fn bundle(cluster: &Cluster, member: usize) -> anyhow::Result<Bundle> {
    let channel = unix_channel(&cluster.member(member)?.socket());
    let mut bundles = pb::server::bundle::v1::bundle_client::BundleClient::new(channel);
    let request = pb::server::bundle::v1::GetBundleRequest { output_mask: None };
    let message = bundles.get_bundle(request).await?.into_inner();
    Ok(convert::with_taints_from_pb(&message)?)
}

fn step(cluster: &Cluster, kind: &str, words: &[&str]) -> Value {
    let args = [&["localauthority", kind], words].concat();
    cluster.member(0).unwrap().cli_json(&args).unwrap()
}

fn id(shown: &Value, place: &str) -> String {
    shown[place]["authority_id"]
        .as_str()
        .unwrap_or_else(|| panic!("no {place}: {shown}"))
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_below_a_server_shares_its_trust_and_follows_its_taints() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let alone = ClusterSpec { members: 1, ..ClusterSpec::default() };
    let above = Cluster::start(&place.join("above"), &alone).await.unwrap();
    let agent = agent_above(&place.join("agent"), &above).await;
    let spec = ClusterSpec { plugin_lines: plugin(&above, &agent), ..ClusterSpec::default() };
    let mut below = Cluster::start(&place.join("below"), &spec).await.unwrap();

    // SVIDs of every member verify with nothing but what the server above publishes.
    let first = bundle(&above, 0).await.unwrap();
    for member in 0..3 {
        let chain = mint(&below, member, place).unwrap();
        assert_eq!(chain.len(), 2, "the root is not in it");
        verify_chain(&chain, &first, SystemClock.now()).unwrap();
        assert_eq!(bundle(&below, member).await.unwrap().x509_authorities, first.x509_authorities);
    }
    // Both sides know the keys of both.
    let key_above = id(&step(&above, "jwt", &["show"]), "active");
    let key_below = id(&step(&below, "jwt", &["show"]), "active");
    let shared = wait_for("the keys of both sides", SOON, async || {
        for cluster in [&above, &below] {
            let known = bundle(cluster, 0).await?.jwt_authorities;
            let has = |id: &str| known.iter().any(|key| key.key_id == id);
            anyhow::ensure!(has(&key_above) && has(&key_below), "{known:?}");
        }
        Ok(())
    });
    shared.await.unwrap();

    // Another leader goes on under the same root.
    let leader = below.leader(SOON).await.unwrap();
    below.kill_member(leader).unwrap();
    let other = (leader + 1) % 3;
    let prepared = wait_for("an authority through another leader", SOON, async || {
        let member = below.member(other)?;
        member.cli_json(&["localauthority", "x509", "prepare"]).map(drop)
    });
    prepared.await.unwrap();
    below.start_member(leader).unwrap();
    below.wait_ready(SOON).await.unwrap();

    // The root above is replaced: the cluster replaces its authority before it passes the taint on.
    let old = first.x509_authorities[0].certificate_der.clone();
    let old_id = id(&step(&above, "x509", &["show"]), "active");
    let before = id(&step(&below, "x509", &["show"]), "active");
    let new_id = id(&step(&above, "x509", &["prepare"]), "prepared_authority");
    step(&above, "x509", &["activate", "-authorityID", &new_id, "-force"]);
    step(&above, "x509", &["taint", "-authorityID", &old_id]);
    let followed = wait_for("the taint", SOON, async || {
        let known = bundle(&below, other).await?.x509_authorities;
        let taint = known.iter().find(|root| root.certificate_der == old).map(|root| root.tainted);
        anyhow::ensure!(taint == Some(true), "{taint:?}");
        Ok(())
    });
    followed.await.unwrap();
    assert_ne!(id(&step(&below, "x509", &["show"]), "active"), before);
    step(&above, "x509", &["revoke", "-authorityID", &old_id]);
    let gone = wait_for("the end of the old root", SOON, async || {
        let known = bundle(&below, other).await?.x509_authorities;
        anyhow::ensure!(known.len() == 1 && known[0].certificate_der != old, "{}", known.len());
        Ok(())
    });
    gone.await.unwrap();
    let last = bundle(&above, 0).await.unwrap();
    for member in 0..3 {
        verify_chain(&mint(&below, member, place).unwrap(), &last, SystemClock.now()).unwrap();
    }
}
