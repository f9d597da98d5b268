//! BatchNewX509SVID against the crypto limit.

use anyhow::{Context, Result, ensure};
use steeple_api::pb;
use steeple_api::pb::server::svid::v1::svid_client::SvidClient;
use steeple_testkit::client::{AttestedClient, request_key, unix_channel};
use steeple_testkit::{Cluster, ClusterSpec};
use tokio::time::Instant;

use crate::floor;
use crate::machine::cpu_micros;
use crate::spread::{ROUNDS, Spread, micros_each};

/// Requests a call, and calls a round.
const SHAPES: [(usize, usize); 2] = [(1, 300), (100, 20)];

pub(crate) async fn run() -> Result<()> {
    println!(
        "## issuance: BatchNewX509SVID on one replica of three against verify + sign (P-256)\n"
    );
    let folder = tempfile::tempdir()?;
    let lines = "  ratelimit {\n    attestation = false\n    signing = false\n  }\n".to_owned();
    let mut cluster = Cluster::start(
        folder.path(),
        &ClusterSpec { server_lines: lines, ..ClusterSpec::default() },
    )
    .await?;
    let (client, entry_id) = attest(&cluster).await?;
    let (_, csr) = request_key()?;
    let replica = cluster.process(0)?.pid();
    let mut cpu = vec![0.0; SHAPES.len()];
    let mut limits = Vec::new();
    let mut figures = vec![Vec::new(); SHAPES.len()];
    for _ in 0..ROUNDS {
        limits.push(floor::crypto(1000)?);
        for ((figures, cpu), (batch, calls)) in figures.iter_mut().zip(&mut cpu).zip(SHAPES) {
            let before = cpu_micros(replica)?;
            figures.push(round(&client, &entry_id, &csr, batch, calls).await?);
            *cpu += cpu_micros(replica)? - before;
        }
    }
    let limit = Spread::of(limits);
    println!("- crypto limit: {}", limit.text("µs an SVID"));
    for ((figures, cpu), (batch, calls)) in figures.into_iter().zip(cpu).zip(SHAPES) {
        let spread = Spread::of(figures);
        let cpu = cpu / (ROUNDS * batch * calls) as f64;
        println!(
            "- batches of {batch}, one caller: {}; {:.1} x the limit; {cpu:.0} µs of the replica's \
             CPU an SVID, {:.1} x the limit",
            spread.text("µs an SVID"),
            spread.median / limit.median,
            cpu / limit.median
        );
    }
    println!("- caller, replica and the other two share this machine's cores\n");
    Ok(())
}

async fn attest(cluster: &Cluster) -> Result<(AttestedClient, String)> {
    let member = cluster.member(0)?;
    let token = member.cli_json(&["token", "generate"])?;
    let token = token.get("value").and_then(|value| value.as_str()).context("a token")?.to_owned();
    let client = AttestedClient::attest(&[member.api_port], &token).await?;
    let mut entries =
        pb::server::entry::v1::entry_client::EntryClient::new(unix_channel(&member.socket()));
    let id = |id: &steeple_spiffe_core::SpiffeId| pb::types::Spiffeid {
        trust_domain: id.trust_domain().to_string(),
        path: id.path().to_owned(),
    };
    let entry = pb::types::Entry {
        id: "bench".to_owned(),
        spiffe_id: Some(id(&floor::workload()?)),
        parent_id: Some(id(&client.id)),
        selectors: vec![pb::types::Selector {
            r#type: "unix".to_owned(),
            value: "uid:1".to_owned(),
        }],
        ..pb::types::Entry::default()
    };
    let request =
        pb::server::entry::v1::BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    entries.batch_create_entry(request).await?;
    Ok((client, "bench".to_owned()))
}

async fn round(
    client: &AttestedClient,
    entry_id: &str,
    csr: &[u8],
    batch: usize,
    calls: usize,
) -> Result<f64> {
    let channel = client.channels().first().context("a channel")?.clone();
    let mut svids = SvidClient::new(channel);
    let one = pb::server::svid::v1::NewX509svidParams {
        entry_id: entry_id.to_owned(),
        csr: csr.to_vec(),
    };
    let request = pb::server::svid::v1::BatchNewX509svidRequest { params: vec![one; batch] };
    let started = Instant::now();
    for _ in 0..calls {
        let reply = svids.batch_new_x509svid(request.clone()).await?.into_inner();
        ensure!(reply.results.iter().all(|result| result.svid.is_some()), "an SVID is missing");
    }
    Ok(micros_each(started.elapsed(), batch * calls))
}
