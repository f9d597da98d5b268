//! A cluster whose authorities are signed through cert-manager, as a Kubernetes API on loopback has it.

use std::time::Duration;

use http::Method;
use serde_json::Value;
use steeple_testkit::kubernetes::{self, Mood, NAMESPACE, TOKEN};
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec, Kubernetes};

use crate::upstream::{is_logged, leads_to, mint, signs_anew, signs_below, wait_logged};

const SOON: Duration = Duration::from_secs(60);

fn plugin(kubernetes: &Kubernetes) -> String {
    format!(
        "  UpstreamAuthority \"cert-manager\" {{\n    plugin_data {{\n      namespace = \
         \"{NAMESPACE}\"\n      issuer_name = \"the-issuer\"\n      issuer_kind = \
         \"ClusterIssuer\"\n      kube_config_file = \"{}\"\n    }}\n  }}\n",
        kubernetes.kubeconfig().display(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cert_manager_signs_the_authorities_of_a_cluster_through_a_kill_and_a_lost_permission() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let kubernetes = Kubernetes::start(place).await.unwrap();
    let day = Duration::from_secs(24 * 3600);
    kubernetes.put("spiffe-ca-old", "example.org", day, &Value::Null).unwrap();
    kubernetes.put("spiffe-ca-foreign", "other.example", day, &Value::Null).unwrap();
    let spec = ClusterSpec {
        server_lines: "  ca_ttl = \"40s\"\n  default_x509_svid_ttl = \"8s\"\n".to_owned(),
        plugin_lines: plugin(&kubernetes),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(&place.join("cluster"), &spec).await.unwrap();
    let (intermediate, root) = (kubernetes.intermediate(), kubernetes.root());
    let signer = signs_below(&cluster, intermediate, root, place);
    let posted = kubernetes.posted();
    assert_eq!(posted[0]["spec"]["duration"], "40s");
    assert_eq!(posted[0]["spec"]["issuerRef"]["kind"], "ClusterIssuer");

    // While Kubernetes refuses, what was signed before goes on signing, and it is said.
    let (code, body) = kubernetes::status(403, "Forbidden", "User \"u\" cannot create resource");
    kubernetes.set(Mood::Answers { method: Method::POST, code, body });
    wait_logged(&cluster, "grant the verbs create, get, list and delete on").await;
    leads_to(&mint(&cluster, 0, place).unwrap(), root, place);
    kubernetes.set(Mood::Signs { at_look: 3 });

    // Another leader has the next authority signed.
    let leader = cluster.leader(SOON).await.unwrap();
    cluster.kill_member(leader).unwrap();
    signs_anew(&cluster, (leader + 1) % 3, &signer, root, place).await;
    let left = wait_for("the clean-up", SOON, async || {
        let names = kubernetes.names();
        // One that is being waited for may be there.
        anyhow::ensure!(names.len() <= 2, "{names:?}");
        Ok(names)
    });
    let left = left.await.unwrap();
    assert!(left.contains(&"spiffe-ca-foreign".to_owned()), "{left:?}");
    assert!(!left.contains(&"spiffe-ca-old".to_owned()), "{left:?}");
    assert!(!is_logged(&cluster, TOKEN), "the token is in a log");
}
