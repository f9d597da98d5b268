//! refreshes: what it costs the leader to look after the bundles of a thousand trust domains that
//! change nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steeple_api::convert::bundle;
use steeple_api::pb;
use steeple_api::pb::server::trustdomain::v1::BatchCreateFederationRelationshipRequest;
use steeple_api::pb::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use steeple_spiffe_core::{KeyType, SpiffeId};
use steeple_testkit::client::unix_channel;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec};
use tokio::time::Instant;

use super::neighbours::{self, Neighbour};
use super::plan::Plan;
use super::replicas::{Replicas, spec};
use crate::closed_loop::cpu_of;
use crate::report::Report;

/// Until every bundle was fetched for the first time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Relationships that are created by one call.
const CREATED_AT_ONCE: usize = 50;

/// What was used in a while.
struct Window {
    seconds: f64,
    leader_cpu_s: f64,
    all_cpu_s: f64,
    log_entries: u64,
    fetches: u64,
}

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let count = plan.neighbours;
    report.line(&format!("## refreshes: {count} relationships whose bundles do not change\n"));
    let spec = ClusterSpec { refresh_minute: plan.minute, ..spec(KeyType::EcP256) };
    let folder = tempfile::tempdir()?;
    let mut replicas = Replicas::of(Cluster::start(folder.path(), &spec).await?, folder).await?;
    report.line("- steeple: three replicas, log level warn; the leader fetches by https_spiffe, a connection and a handshake each time, and checks the document");
    report.line(&format!(
        "- every peer is a listener with an authority of its own, states a refresh hint of {} s, and is asked four times within it; the peers share the machine, their CPU is not counted",
        plan.hint.as_secs()
    ));
    let idle = window(&mut replicas, &[], plan.refreshing / 4).await?;
    let neighbours = neighbours::start(count, plan.hint).await?;
    relate(&replicas, &neighbours).await?;
    first_fetches(&replicas, &neighbours).await?;
    let busy = window(&mut replicas, &neighbours, plan.refreshing).await?;
    report.line("");
    report.smoke_note();
    report.line("| relationships | fetches a second | CPU of the leader, s an hour | CPU of all three, s an hour | CPU of the leader for a fetch, ms | entries of the log an hour |");
    report.line("|--:|--:|--:|--:|--:|--:|");
    let base = idle.leader_cpu_s / idle.seconds;
    for (relationships, window) in [(0, &idle), (count, &busy)] {
        let an_hour = 3600.0 / window.seconds;
        let more = window.leader_cpu_s - base * window.seconds;
        let each = (window.fetches > 0).then(|| more * 1000.0 / window.fetches as f64);
        report.line(&format!(
            "| {relationships} | {:.1} | {:.1} | {:.1} | {} | {:.0} ({} in {:.0} s) |",
            window.fetches as f64 / window.seconds,
            window.leader_cpu_s * an_hour,
            window.all_cpu_s * an_hour,
            each.map_or("-".to_owned(), |ms| format!("{ms:.2}")),
            window.log_entries as f64 * an_hour,
            window.log_entries,
            window.seconds,
        ));
    }
    if busy.fetches == 0 {
        report.miss("refreshes".to_owned());
    }
    report.line("");
    Ok(())
}

/// What the replicas use while nobody else asks anything of them.
async fn window(
    replicas: &mut Replicas,
    neighbours: &[Neighbour],
    during: Duration,
) -> Result<Window> {
    let leader = replicas.cluster.leader(PATIENCE).await?;
    let (all, leads) = (replicas.pids()?, [replicas.cluster.process(leader)?.pid()]);
    let fetched = || neighbours.iter().map(Neighbour::asked).sum::<u64>();
    let (log, cpu, leads_cpu) = (committed(replicas).await?, cpu_of(&all)?, cpu_of(&leads)?);
    let (asked, began) = (fetched(), Instant::now());
    tokio::time::sleep(during).await;
    let window = Window {
        seconds: began.elapsed().as_secs_f64(),
        leader_cpu_s: (cpu_of(&leads)? - leads_cpu) / 1e6,
        all_cpu_s: (cpu_of(&all)? - cpu) / 1e6,
        log_entries: committed(replicas).await? - log,
        fetches: fetched() - asked,
    };
    let now = replicas.cluster.leader(PATIENCE).await?;
    ensure!(now == leader, "another replica leads: the figures are of neither");
    Ok(window)
}

/// The last entry of the log that is committed, as the called replica knows.
async fn committed(replicas: &Replicas) -> Result<u64> {
    let status = replicas.cluster.member(replicas.called)?.status().await?;
    Ok(status.this_member.context("this member")?.commit_index)
}

async fn relate(replicas: &Replicas, neighbours: &[Neighbour]) -> Result<()> {
    let channel = unix_channel(&replicas.cluster.member(replicas.called)?.socket());
    let mut client = TrustDomainClient::new(channel);
    for some in neighbours.chunks(CREATED_AT_ONCE) {
        let federation_relationships: Vec<_> = some.iter().map(relationship).collect();
        let wanted = federation_relationships.len();
        let request = BatchCreateFederationRelationshipRequest {
            federation_relationships,
            output_mask: None,
        };
        let reply = client.batch_create_federation_relationship(request).await?.into_inner();
        ensure!(reply.results.len() == wanted, "{} answers", reply.results.len());
        for status in reply.results.into_iter().filter_map(|result| result.status) {
            ensure!(status.code == 0, "{}", status.message);
        }
    }
    Ok(())
}

fn relationship(neighbour: &Neighbour) -> pb::types::FederationRelationship {
    use pb::types::federation_relationship::BundleEndpointProfile;

    let trust_domain = &neighbour.bundle.trust_domain;
    let endpoint_spiffe_id = SpiffeId::server(trust_domain.clone()).to_string();
    let profile = pb::types::HttpsspiffeProfile { endpoint_spiffe_id };
    pb::types::FederationRelationship {
        trust_domain: trust_domain.to_string(),
        bundle_endpoint_url: format!("https://127.0.0.1:{}", neighbour.port),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(profile)),
        trust_domain_bundle: Some(bundle::to_pb(&neighbour.bundle)),
    }
}

/// Waits until every peer was asked, and the registry says of each that its bundle came.
async fn first_fetches(replicas: &Replicas, neighbours: &[Neighbour]) -> Result<()> {
    let member = replicas.cluster.member(replicas.called)?;
    wait_for("the first fetches", PATIENCE, async || {
        let status = member.status().await?;
        let came = status.federated_bundles.iter().filter(|one| one.succeeded_at > 0).count();
        ensure!(came == neighbours.len(), "{came} bundles came");
        Ok(())
    })
    .await
}
