//! Three replicas with one certificate by ACME, from a real server of certificates.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec, Pebble, PebbleSpec, pebble, ports, skip};

const DOMAIN: &str = "bundle.example.test";

/// A few elections and orders on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Renewed after 15 to 25 s.
const VALIDITY: Duration = Duration::from_secs(30);

struct Scene {
    cluster: Cluster,
    pebble: Pebble,
    port: u16,
    _folder: tempfile::TempDir,
}

fn address(member: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(member + 1).unwrap())
}

impl Scene {
    async fn prepare(programs: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let [port] = ports::lease()?;
        let spec = PebbleSpec { tls_port: port, validity: VALIDITY };
        let pebble = Pebble::start(programs, folder.path(), &spec).await?;
        let spec = ClusterSpec {
            environment: vec![("SSL_CERT_FILE", pebble.server_root_file())],
            ..ClusterSpec::default()
        };
        let cluster = Cluster::prepare(&folder.path().join("cluster"), &spec)?;
        for member in cluster.members() {
            let text = fs::read_to_string(member.config())?;
            let endpoint = format!(
                "server {{\n  federation {{\n    bundle_endpoint {{\n      address = \"{}\"\n      \
                 port = {port}\n      profile \"https_web\" {{\n        acme {{\n          \
                 directory_url = \"{}\"\n          domain_name = \"{DOMAIN}\"\n          \
                 email = \"admin@example.test\"\n          tos_accepted = true\n        }}\n      \
                 }}\n    }}\n  }}\n",
                address(member.index),
                pebble.directory_url(),
            );
            fs::write(member.config(), text.replacen("server {\n", &endpoint, 1))?;
        }
        Ok(Self { cluster, pebble, port, _folder: folder })
    }

    /// The leaf that all running members present, another one than before.
    async fn presented(&self, before: &[Vec<u8>]) -> Vec<u8> {
        let found = wait_for("one new certificate at every replica", SOON, async || {
            let mut leaves = Vec::new();
            for member in self.cluster.members().iter().filter(|member| member.is_started()) {
                let at = address(member.index);
                leaves.push(self.pebble.leaf_at(at, self.port, DOMAIN).await?);
            }
            ensure!(leaves.windows(2).all(|two| two[0] == two[1]), "replicas differ");
            let leaf = leaves.swap_remove(0);
            ensure!(!before.contains(&leaf), "it is still the one of before");
            Ok(leaf)
        });
        found.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.pebble.words()))
    }

    /// How many challenges a member has answered.
    fn answered(&self, member: usize) -> usize {
        let log = fs::read_to_string(self.cluster.members()[member].log()).unwrap();
        log.lines().filter(|line| line.contains("Answered an ACME challenge")).count()
    }

    /// A member that runs and does not lead.
    async fn follower(&self) -> (usize, usize) {
        let leader = self.cluster.leader(SOON).await.unwrap();
        let mut others = self.cluster.members().iter().filter(|one| one.is_started());
        (leader, others.find(|one| one.index != leader).unwrap().index)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_orders_any_answers_all_present_and_the_next_leader_renews() {
    let programs = match pebble::install() {
        Ok(programs) => programs,
        Err(error) => return skip::record("pebble", &format!("{error:#}")),
    };
    let mut scene = Scene::prepare(&programs).await.unwrap();
    for member in 0..3 {
        scene.cluster.start_member(member).unwrap();
    }
    scene.cluster.wait_ready(SOON).await.unwrap();
    let mut leaves = vec![scene.presented(&[]).await];

    // The server looks at a follower: it answers for the leader, which ordered.
    let (leader, follower) = scene.follower().await;
    scene.pebble.resolve_to(address(follower)).await.unwrap();
    let before = (scene.answered(leader), scene.answered(follower));
    leaves.push(scene.presented(&leaves).await);
    assert_eq!(scene.answered(leader), before.0, "nobody asked the leader");
    assert!(scene.answered(follower) > before.1, "the follower answered");
    let orders = |member: &steeple_testkit::cluster::Member| {
        let log = fs::read_to_string(member.log()).unwrap();
        log.lines().filter(|line| line.contains("Certificate ordered by ACME")).count()
    };
    let members = scene.cluster.members();
    let others = members.iter().filter(|member| member.index != leader);
    assert_eq!(others.map(orders).sum::<usize>(), 0, "the leader alone orders");
    let accounts = scene.pebble.log().unwrap().matches("There are now 1 accounts").count();
    assert_eq!(accounts, 1, "one account for all");

    // The leader is killed: the next one renews by the same account.
    scene.cluster.kill_member(leader).unwrap();
    let (_next, follower) = scene.follower().await;
    scene.pebble.resolve_to(address(follower)).await.unwrap();
    let before = scene.answered(follower);
    leaves.push(scene.presented(&leaves).await);
    assert!(scene.answered(follower) > before);
    assert!(!scene.pebble.log().unwrap().contains("There are now 2 accounts"), "the same account");

    // It comes back, and presents what the others got meanwhile.
    scene.cluster.start_member(leader).unwrap();
    scene.cluster.wait_ready(SOON).await.unwrap();
    scene.presented(&leaves[..1]).await;
    for member in 0..3 {
        let status = scene.cluster.members()[member].status().await.unwrap();
        let late = status.warnings.iter().find(|one| one.code == "endpoint_certificate");
        assert!(late.is_none(), "{late:?}");
    }
}
