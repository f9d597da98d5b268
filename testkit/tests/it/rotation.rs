//! Rotation by schedule, with lifetimes of seconds, on a cluster whose members are killed, stopped and
//! started all the time. With cuts between members beside kills it is run by `cargo xtask chaos
//! rotations`.
//!
//! For a longer run, `STEEPLE_ROTATIONS` says how often the authorities are to be replaced, and
//! `STEEPLE_DOWNS` how often a member is to be killed or stopped at least (`docs/TESTING.md`).

use std::time::Duration;

use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::trust::{Ledger, look};
use steeple_testkit::{Cluster, ClusterSpec};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(60);

/// Prepared after half of it, activated a twelfth before its end: so a rotation each twelve seconds.
const CA_TTL: Duration = Duration::from_secs(24);

/// How often both authorities are replaced, unless the environment says otherwise.
const ROTATIONS: usize = 3;

/// How often members go down at least, unless the environment says otherwise.
const DOWNS: usize = 5;

/// A member is back within this time, on a busy machine.
const BACK: Duration = Duration::from_secs(15);

/// A verifier may have fetched its bundle so long ago (the interval of an agent's syncs).
const KEEPS: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_by_schedule_goes_on_while_members_come_and_go() {
    let set = |name, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (rotations, least) = (set("STEEPLE_ROTATIONS", ROTATIONS), set("STEEPLE_DOWNS", DOWNS));
    let folder = tempfile::tempdir().unwrap();
    let ttl = CA_TTL.as_secs();
    let spec = ClusterSpec {
        server_lines: format!(
            "  ca_ttl = \"{ttl}s\"\n  default_x509_svid_ttl = \"8s\"\n  \
             default_jwt_svid_ttl = \"8s\"\n"
        ),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let start = Instant::now();
    let (mut seen, mut failed) = (Ledger::new(KEEPS), 0);
    let mut look_at = async |seen: &mut Ledger, cluster: &Cluster, index: usize| {
        let sight = look(&cluster.member(index).unwrap().socket(), TRUST_DOMAIN).await;
        failed += sight.unanswered();
        seen.note(index, sight);
    };
    let longest = CA_TTL * u32::try_from(rotations + 2).unwrap();
    let longest = longest.max(BACK * u32::try_from(least).unwrap());
    let mut downs = 0;
    while seen.rotations() < rotations || downs < least {
        assert!(start.elapsed() < longest, "{} rotations in {longest:?}", seen.rotations());
        let leader = cluster.leader(SOON).await.unwrap();
        let victim = if downs % 2 == 0 { leader } else { downs % 3 };
        downs += 1;
        if downs % 5 == 0 {
            cluster.stop_member(victim).await.unwrap();
        } else {
            cluster.kill_member(victim).unwrap();
        }
        for other in [(victim + 1) % 3, (victim + 2) % 3] {
            look_at(&mut seen, &cluster, other).await;
        }
        cluster.start_member(victim).unwrap();
        cluster.wait_ready(SOON).await.unwrap();
        for index in 0..3 {
            look_at(&mut seen, &cluster, index).await;
        }
    }
    let (lasted, rotations) = (start.elapsed(), seen.rotations());
    let (totals, wrong) = seen.judge();
    assert!(wrong.is_empty(), "{wrong:#?}");

    // Half of a lifetime lies between two of a kind, whoever leads.
    let most = 2 * (lasted.as_secs() / (ttl / 2) + 3);
    assert!(totals.published as u64 <= most, "{totals:?} in {lasted:?}");
    println!(
        "{rotations} rotations in {lasted:?}, {downs} members taken down: {totals:?}, {failed} calls \
         without an answer"
    );
    assert!(failed <= downs, "{failed} calls had no answer, {downs} members went");
}
