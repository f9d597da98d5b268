//! Two clusters that federate: bundles are fetched, followed through rotations and leaders, and
//! kept through every mistake.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use steeple_api::pb::cluster::v1::FederatedBundle;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec, ports};

use crate::bundles::{done, refused};

pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The refresher's minute in these clusters.
pub(crate) const MINUTE: Duration = Duration::from_millis(400);

/// The lines of `server { }` that serve the bundle at a port, and those of relationships.
fn federation(port: u16, relationships: &str) -> String {
    format!(
        "  federation {{\n    bundle_endpoint {{\n      address = \"127.0.0.1\"\n      port = {port}\n      \
         refresh_hint = \"1s\"\n      profile \"https_spiffe\" {{}}\n    }}\n{relationships}  }}\n"
    )
}

fn federates_with(name: &str, port: u16) -> String {
    format!(
        "    federates_with \"{name}\" {{\n      bundle_endpoint_url = \"https://127.0.0.1:{port}\"\n      \
         bundle_endpoint_profile \"https_spiffe\" {{\n        endpoint_spiffe_id = \
         \"spiffe://{name}/spire/server\"\n      }}\n    }}\n"
    )
}

/// A cluster whose members serve their bundle at these ports, one each.
async fn cluster(
    folder: &Path,
    trust_domain: &'static str,
    ports: &[u16],
    relationships: &str,
) -> Cluster {
    let spec = ClusterSpec {
        members: ports.len(),
        trust_domain,
        refresh_minute: Some(MINUTE),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::prepare(folder, &spec).unwrap();
    for (member, port) in cluster.members().iter().zip(ports) {
        let text = fs::read_to_string(member.config()).unwrap();
        let lines = format!("server {{\n{}", federation(*port, relationships));
        fs::write(member.config(), text.replacen("server {\n", &lines, 1)).unwrap();
    }
    for member in 0..ports.len() {
        cluster.start_member(member).unwrap();
    }
    cluster.wait_ready(SOON).await.unwrap();
    cluster
}

/// The own roots of a cluster, in a file.
fn roots(cluster: &Cluster, file: PathBuf) -> PathBuf {
    fs::write(&file, done(cluster, 0, &["bundle", "show"])).unwrap();
    file
}

/// How many keys of a kind a member has of a foreign trust domain.
pub(crate) fn keys(cluster: &Cluster, member: usize, name: &str, kind: &str) -> usize {
    let list = ["bundle", "list", "-id", name, "-format", "spiffe"];
    let output = cluster.member(member).unwrap().cli(&list).unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let keys = document["keys"].as_array().cloned().unwrap_or_default();
    keys.iter().filter(|key| key["use"] == kind).count()
}

pub(crate) async fn until_keys(
    cluster: &Cluster,
    members: &[usize],
    name: &str,
    kind: &str,
    count: usize,
) {
    let what = format!("{count} {kind} of {name}");
    let waited = wait_for(&what, SOON, async || {
        for member in members {
            let found = keys(cluster, *member, name, kind);
            anyhow::ensure!(found == count, "member {member} has {found}");
        }
        Ok(())
    });
    waited.await.unwrap();
}

/// What a member shows of a foreign trust domain.
async fn shown(cluster: &Cluster, member: usize, name: &str) -> FederatedBundle {
    let status = cluster.member(member).unwrap().status().await.unwrap();
    let mut bundles = status.federated_bundles.into_iter();
    bundles.find(|bundle| bundle.trust_domain == name).unwrap()
}

async fn until_shown(
    cluster: &Cluster,
    member: usize,
    name: &str,
    what: &str,
    is_so: impl Fn(&FederatedBundle) -> bool,
) -> FederatedBundle {
    let waited = wait_for(what, SOON, async || {
        let bundle = shown(cluster, member, name).await;
        anyhow::ensure!(is_so(&bundle), "{bundle:?}");
        Ok(bundle)
    });
    waited.await.unwrap()
}

fn count_in_log(cluster: &Cluster, member: usize, text: &str) -> usize {
    let log = fs::read_to_string(cluster.member(member).unwrap().log()).unwrap();
    log.matches(text).count()
}

async fn commit_index(cluster: &Cluster, member: usize) -> u64 {
    let status = cluster.member(member).unwrap().status().await.unwrap();
    status.this_member.unwrap().commit_index
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_is_fetched_by_the_leader_and_followed_through_rotations_and_leaders() {
    let folder = tempfile::tempdir().unwrap();
    let ports: [u16; 4] = ports::lease().unwrap();
    let with_bar = federates_with("bar.test", ports[3]);
    let mut foo = cluster(&folder.path().join("foo"), "foo.test", &ports[..3], &with_bar).await;
    let bar = cluster(&folder.path().join("bar"), "bar.test", &ports[3..], "").await;

    // Nothing is believed before somebody has said what bar's roots are; one command says it.
    let text = "can't perform SPIFFE Authentication: local copy of bundle not found";
    for member in 0..3 {
        let waits = |bundle: &FederatedBundle| bundle.failing_since != 0 && !bundle.stored;
        let bundle = until_shown(&foo, member, "bar.test", "a failure", waits).await;
        assert_eq!((bundle.failure.as_str(), bundle.from_file), (text, true));
    }
    let file = roots(&bar, folder.path().join("bar.pem"));
    let set = ["bundle", "set", "-id", "spiffe://bar.test", "-path", file.to_str().unwrap()];
    done(&foo, 1, &set);
    until_keys(&foo, &[0, 1, 2], "bar.test", "jwt-svid", 1).await;
    let ok = |bundle: &FederatedBundle| bundle.failing_since == 0 && bundle.sequence_number > 0;
    for member in 0..3 {
        until_shown(&foo, member, "bar.test", "a success", ok).await;
    }

    // Polls without a change write nothing, and one member makes them.
    let leader = foo.leader(SOON).await.unwrap();
    let polls = |member| count_in_log(&foo, member, "Polling for bundle update");
    let (before, asked) = (commit_index(&foo, leader).await, polls(leader));
    let idle: Vec<usize> = (0..3).map(polls).collect();
    wait_for("five polls", SOON, async || {
        anyhow::ensure!(polls(leader) >= asked + 5, "{}", polls(leader));
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(commit_index(&foo, leader).await, before, "an entry without a change");
    for member in (0..3).filter(|member| *member != leader) {
        assert_eq!(polls(member), idle[member], "server-{member} does not lead");
    }

    // A rotation is followed; each change is told once.
    done(&bar, 0, &["localauthority", "x509", "prepare"]);
    until_keys(&foo, &[0, 1, 2], "bar.test", "x509-svid", 2).await;
    let told = count_in_log(&foo, leader, "Bundle refreshed");
    assert!((2..=3).contains(&told), "set, fetched, rotated: {told}");

    // Whoever leads next goes on.
    foo.kill_member(leader).unwrap();
    let others: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    done(&bar, 0, &["localauthority", "jwt", "prepare"]);
    until_keys(&foo, &others, "bar.test", "jwt-svid", 2).await;
    // A follower fetches when it is told to.
    let next = foo.leader(SOON).await.unwrap();
    let follower = others.into_iter().find(|member| *member != next).unwrap();
    let refresh = ["federation", "refresh", "-id", "bar.test"];
    assert_eq!(done(&foo, follower, &refresh), "Bundle refreshed\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relationship_of_the_api_keeps_its_last_good_bundle_through_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let [foo_port, bar_port]: [u16; 2] = ports::lease().unwrap();
    let foo = cluster(&folder.path().join("foo"), "foo.test", &[foo_port], "").await;
    let mut bar = cluster(&folder.path().join("bar"), "bar.test", &[bar_port], "").await;
    let file = roots(&foo, folder.path().join("foo.pem"));
    let url = format!("https://127.0.0.1:{foo_port}");
    let relationship = |verb: &'static str, url: &str, id: &str| {
        let text = format!(
            "federation {verb} -trustDomain foo.test -bundleEndpointURL {url} -bundleEndpointProfile \
             https_spiffe -endpointSpiffeID {id}"
        );
        text.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |bar: &Cluster, words: &[String]| {
        done(bar, 0, &words.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let id = "spiffe://foo.test/spire/server";
    let mut create = relationship("create", &url, id);
    create.extend(["-trustDomainBundlePath".to_owned(), file.to_str().unwrap().to_owned()]);
    run(&bar, &create);
    until_keys(&bar, &[0], "foo.test", "jwt-svid", 1).await;

    let refresh = ["federation", "refresh", "-id", "foo.test"];
    assert_eq!(done(&bar, 0, &refresh), "Bundle refreshed\n");
    let unexpected = "code = Internal desc = failed to refresh bundle: failed to fetch federated \
                      bundle from endpoint: failed to fetch bundle: Get";
    // Another id, another server, nobody: each is told, and the bundle stays.
    let closed = format!("https://127.0.0.1:{bar_port}");
    for (url, id, expected) in [
        (&url, "spiffe://foo.test/other", format!("unexpected ID \"{id}\"")),
        (&closed, id, "no bundle for trust domain \"bar.test\"".to_owned()),
    ] {
        run(&bar, &relationship("update", url, id));
        let text = refused(&bar, 0, &refresh);
        assert!(text.contains(unexpected) && text.contains(&expected), "{text}");
        let fails = |bundle: &FederatedBundle| bundle.failure.contains(&expected);
        until_shown(&bar, 0, "foo.test", "the failure", fails).await;
        assert_eq!(keys(&bar, 0, "foo.test", "jwt-svid"), 1);
    }
    let status = bar.member(0).unwrap().cli(&["cluster", "status"]).unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("foo.test cannot be fetched: "), "{text}");
    let waited = wait_for("the warning", SOON, async || {
        let status = bar.member(0)?.status().await?;
        let mut warnings = status.warnings.iter();
        let warning = warnings.find(|warning| warning.code == "federation_stale");
        let warning = warning.ok_or_else(|| anyhow::anyhow!("{:?}", status.warnings))?;
        let message = "the bundle of foo.test has not been refreshed for ";
        anyhow::ensure!(warning.message.starts_with(message), "{warning:?}");
        anyhow::ensure!(warning.message.contains("stops verifying in"), "{warning:?}");
        Ok(())
    });
    waited.await.unwrap();

    // Mended, and gone on with after a restart.
    run(&bar, &relationship("update", &url, id));
    let ok = |bundle: &FederatedBundle| bundle.failing_since == 0;
    until_shown(&bar, 0, "foo.test", "its end", ok).await;
    bar.kill_member(0).unwrap();
    done(&foo, 0, &["localauthority", "jwt", "prepare"]);
    bar.start_member(0).unwrap();
    bar.wait_ready(SOON).await.unwrap();
    until_keys(&bar, &[0], "foo.test", "jwt-svid", 2).await;
    // The bundle outlives its relationship.
    done(&bar, 0, &["federation", "delete", "-id", "foo.test"]);
    assert_eq!(keys(&bar, 0, "foo.test", "jwt-svid"), 2);
    let status = bar.member(0).unwrap().status().await.unwrap();
    assert_eq!(status.federated_bundles, []);
}
