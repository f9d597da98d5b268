//! Federation relationships by the commands an operator types, on three members.

use std::fs;
use std::time::Duration;

use steeple_testkit::{Cluster, ClusterSpec};

use crate::bundles::{done, refused};

const SOON: Duration = Duration::from_secs(30);

/// The lines of a relationship.
fn block(trust_domain: &str, url: &str, profile: &str) -> String {
    format!(
        "Trust domain              : {trust_domain}\n\
         Bundle endpoint URL       : {url}\n\
         Bundle endpoint profile   : {profile}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relationships_are_the_clusters_and_outlive_a_leader() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster =
        Cluster::start(&folder.path().join("cluster"), &ClusterSpec::default()).await.unwrap();

    // Any authority will do for another trust domain's.
    let bundle = folder.path().join("bundle.pem");
    let pem = done(&cluster, 0, &["bundle", "show"]);
    fs::write(&bundle, &pem).unwrap();
    let web = |name: &str| {
        serde_json::json!({
            "trustDomain": name, "bundleEndpointURL": format!("https://{name}/bundle"),
            "bundleEndpointProfile": "https_web",
        })
    };
    let data = folder.path().join("relationships.json");
    let items = [web("one.test"), web("example.org"), web("two.test")];
    fs::write(&data, serde_json::json!({ "federationRelationships": items }).to_string()).unwrap();
    let mixed = ["federation", "create", "-data", data.to_str().unwrap()];
    let text = refused(&cluster, 0, &mixed);
    assert!(text.contains("unable to create federation relationship for server trust"), "{text}");

    let create = "federation create -trustDomain three.test -bundleEndpointURL \
                  https://three.test/bundle -bundleEndpointProfile https_spiffe -endpointSpiffeID \
                  spiffe://three.test/endpoint -trustDomainBundlePath";
    let create: Vec<&str> = create.split(' ').chain([bundle.to_str().unwrap()]).collect();
    let spiffe = format!(
        "{}Endpoint SPIFFE ID        : spiffe://three.test/endpoint\n",
        block("three.test", "https://three.test/bundle", "https_spiffe")
    );
    assert_eq!(done(&cluster, 1, &create), format!("\n{spiffe}"));
    let text = refused(&cluster, 2, &create);
    assert!(text.contains("UNIQUE constraint failed"), "{text}");

    // Every member has all three, and the bundle that came with one.
    let one = block("one.test", "https://one.test/bundle", "https_web");
    let two = block("two.test", "https://two.test/bundle", "https_web");
    let all = format!("Found 3 federation relationships\n\n{one}\n{two}\n{spiffe}");
    for member in 0..3 {
        assert_eq!(done(&cluster, member, &["federation", "list"]), all);
        assert_eq!(done(&cluster, member, &["bundle", "list", "-id", "three.test"]), pem);
    }

    // Without the leader.
    let leader = cluster.leader(SOON).await.unwrap();
    cluster.kill_member(leader).unwrap();
    let (other, last) = ((leader + 1) % 3, (leader + 2) % 3);
    let update = "federation update -trustDomain one.test -bundleEndpointURL https://new.test \
                  -bundleEndpointProfile https_web";
    let update: Vec<&str> = update.split(' ').collect();
    let moved = block("one.test", "https://new.test", "https_web");
    assert_eq!(done(&cluster, other, &update), format!("\n{moved}"));
    let show = ["federation", "show", "-trustDomain", "one.test"];
    let found = "Found a federation relationship with trust domain one.test:\n\n";
    assert_eq!(done(&cluster, last, &show), format!("{found}{moved}"));
    let delete = ["federation", "delete", "-id", "one.test"];
    assert_eq!(done(&cluster, last, &delete), "federation relationship deleted.\n");

    cluster.start_member(leader).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    let text = refused(&cluster, leader, &show);
    let gone = "code = NotFound desc = federation relationship does not exist";
    assert!(text.contains(gone), "{text}");
    let text = refused(&cluster, leader, &delete);
    assert!(text.contains("\"one.test\": federation relationship not found"), "{text}");
    let text = refused(&cluster, leader, &["federation", "refresh", "-id", "one.test"]);
    assert_eq!(text, "Error: there is no federation relationship with trust domain \"one.test\"\n");
}
