//! Clusters of ours below servers of ours: one trust domain, one root.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use steeple_api::convert::bundle as convert;
use steeple_api::pb;
use steeple_spiffe_core::Bundle;
use steeple_spiffe_core::svid::x509::{certificate_facts, verify_chain};
use steeple_spiffe_core::time::{Clock as _, SystemClock};
use steeple_testkit::client::unix_channel;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Agent, Cluster, ClusterSpec};

use crate::bundles::done;
use crate::upstream::{certificates, leads_to, mint};

const SOON: Duration = Duration::from_secs(60);

/// An agent of a cluster that asks its members from this one on, and an entry for what runs as this
/// user.
async fn agent_of(
    folder: &Path,
    cluster: &Cluster,
    first: usize,
    id: &str,
    more: &[&str],
) -> Agent {
    let token = cluster.member(0).unwrap().cli_json(&["token", "generate"]).unwrap();
    let token = token["value"].as_str().unwrap().to_owned();
    let parent = format!("spiffe://example.org/spire/agent/join_token/{token}");
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let words = ["entry", "create", "-parentID", &parent, "-spiffeID", id, "-selector", &uid];
    done(cluster, 0, &[&words[..], more].concat());
    let members = cluster.members().len();
    let order: Vec<usize> = (0..members).map(|at| (first + at) % members).collect();
    let agent = Agent::start(folder, cluster, &order, &token, "").await.unwrap();
    let served = wait_for("an SVID", SOON, async || fetched(&agent, folder).map(drop));
    served.await.unwrap();
    agent
}

/// The SVID that an agent gives to this user.
fn fetched(agent: &Agent, folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let place: PathBuf = folder.join("fetched");
    fs::create_dir_all(&place)?;
    let words = ["api", "fetch", "x509", "-write", place.to_str().unwrap_or_default()];
    let output = agent.cli(&words)?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(certificates(&place.join("svid.0.pem")))
}

/// An agent for the servers below a cluster.
async fn agent_above(folder: &Path, above: &Cluster, first: usize) -> Agent {
    agent_of(folder, above, first, "spiffe://example.org/nested", &["-downstream"]).await
}

/// The servers below ask this member.
fn plugin(above: &Cluster, member: usize, agent: &Agent) -> String {
    format!(
        "  UpstreamAuthority \"spire\" {{\n    plugin_data {{\n      server_address = \"127.0.0.1\"\n      \
         server_port = \"{}\"\n      workload_api_socket = \"{}\"\n    }}\n  }}\n",
        above.member(member).unwrap().api_port,
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
    let agent = agent_above(&place.join("agent"), &above, 0).await;
    let spec = ClusterSpec { plugin_lines: plugin(&above, 0, &agent), ..ClusterSpec::default() };
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

/// A server, a cluster of three below it, a server below that, and an agent of the last.
struct Layers {
    top: Cluster,
    middle: Cluster,
    bottom: Cluster,
    agent: Agent,
    /// Of the servers below the other two.
    _between: [Agent; 2],
}

impl Layers {
    async fn start(place: &Path) -> Self {
        let alone = ClusterSpec { members: 1, ..ClusterSpec::default() };
        let top = Cluster::start(&place.join("top"), &alone).await.unwrap();
        let upper = agent_above(&place.join("upper"), &top, 0).await;
        let spec = ClusterSpec { plugin_lines: plugin(&top, 0, &upper), ..ClusterSpec::default() };
        let middle = Cluster::start(&place.join("middle"), &spec).await.unwrap();
        // Whoever leads now is killed later, and one server is all that the layer below knows.
        let asked = (middle.leader(SOON).await.unwrap() + 1) % 3;
        let lower = agent_above(&place.join("lower"), &middle, asked).await;
        let spec = ClusterSpec { plugin_lines: plugin(&middle, asked, &lower), ..alone };
        let bottom = Cluster::start(&place.join("bottom"), &spec).await.unwrap();
        let web = "spiffe://example.org/web";
        let agent = agent_of(&place.join("agent"), &bottom, 0, web, &[]).await;
        Self { top, middle, bottom, agent, _between: [upper, lower] }
    }

    /// The serials of the agents' own SVIDs, of every layer; the middle one is asked by a member.
    fn agents_serials(&self, asked: usize) -> anyhow::Result<Vec<String>> {
        let mut serials = Vec::new();
        for (cluster, member) in [(&self.top, 0), (&self.middle, asked), (&self.bottom, 0)] {
            let listed = cluster.member(member)?.cli_json(&["agent", "list"])?;
            let agents = listed["agents"].as_array().cloned().unwrap_or_default();
            let serial = |agent: &Value| agent["x509svid_serial_number"].to_string();
            serials.extend(agents.iter().map(serial));
        }
        anyhow::ensure!(serials.len() == 3, "{serials:?}");
        Ok(serials)
    }

    /// Waits until all members of all layers that run publish this root alone.
    async fn publish(&self, root: &[u8]) {
        for cluster in [&self.top, &self.middle, &self.bottom] {
            for member in cluster.members().iter().filter(|member| member.is_started()) {
                let published = wait_for("the root in every layer", SOON, async || {
                    let known = bundle(cluster, member.index).await?.x509_authorities;
                    let is_alone = known.len() == 1 && known[0].certificate_der == root;
                    anyhow::ensure!(is_alone, "{} roots", known.len());
                    Ok(())
                });
                published.await.unwrap();
            }
        }
    }
}

fn root_of(published: &Bundle, id: &str) -> Vec<u8> {
    let is_it = |der: &[u8]| {
        let key_id = certificate_facts(der).unwrap().subject_key_id;
        key_id.iter().map(|byte| format!("{byte:02x}")).collect::<String>() == id
    };
    let mut roots = published.x509_authorities.iter().map(|root| root.certificate_der.clone());
    roots.find(|root| is_it(root)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_layers_have_one_root_and_follow_its_replacement_without_the_leader_between() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let mut layers = Layers::start(place).await;
    let old_id = id(&step(&layers.top, "x509", &["show"]), "active");
    let old = root_of(&bundle(&layers.top, 0).await.unwrap(), &old_id);
    layers.publish(&old).await;
    let chain = fetched(&layers.agent, place).unwrap();
    assert_eq!(chain.len(), 3, "leaf, the authorities of the bottom and of the middle");
    leads_to(&chain, &old, place);

    let leader = layers.middle.leader(SOON).await.unwrap();
    layers.middle.kill_member(leader).unwrap();
    let asked = (leader + 1) % 3;
    let before = layers.agents_serials(asked).unwrap();
    let new_id = id(&step(&layers.top, "x509", &["prepare"]), "prepared_authority");
    let new = root_of(&bundle(&layers.top, 0).await.unwrap(), &new_id);
    step(&layers.top, "x509", &["activate", "-authorityID", &new_id, "-force"]);
    step(&layers.top, "x509", &["taint", "-authorityID", &old_id]);
    // Each layer gets a new authority from the one above, and the workload an SVID of it.
    let followed = wait_for("an SVID below the new root", SOON, async || {
        let chain = fetched(&layers.agent, place)?;
        let signer = certificate_facts(chain.last().unwrap())?.authority_key_id;
        let signer: String = signer.iter().map(|byte| format!("{byte:02x}")).collect();
        anyhow::ensure!(signer == new_id, "it is below {signer}");
        Ok(chain)
    });
    leads_to(&followed.await.unwrap(), &new, place);
    // An agent whose own SVID is below a revoked root is let in no more, and with it the layer below.
    let replaced = wait_for("new SVIDs of all agents", SOON, async || {
        let now = layers.agents_serials(asked)?;
        anyhow::ensure!(now.iter().all(|serial| !before.contains(serial)), "{before:?} {now:?}");
        Ok(())
    });
    replaced.await.unwrap();
    layers.middle.start_member(leader).unwrap();
    layers.middle.wait_ready(SOON).await.unwrap();

    step(&layers.top, "x509", &["revoke", "-authorityID", &old_id]);
    layers.publish(&new).await;
    for (cluster, length) in [(&layers.top, 1), (&layers.middle, 2), (&layers.bottom, 3)] {
        for member in 0..cluster.members().len() {
            let chain = mint(cluster, member, place).unwrap();
            assert_eq!(chain.len(), length);
            leads_to(&chain, &new, place);
        }
    }
    leads_to(&fetched(&layers.agent, place).unwrap(), &new, place);
}
