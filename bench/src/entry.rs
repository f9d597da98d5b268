//! Entry creation on three replicas against the disk's fdatasync.

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use steeple_api::pb;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_testkit::client::unix_channel;
use steeple_testkit::{Cluster, ClusterSpec};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::floor;
use crate::machine::cpu_micros;
use crate::spread::{ROUNDS, Spread, micros_each};

/// Callers, and entries that each creates in a round.
const SHAPES: [(usize, usize); 2] = [(1, 200), (64, 50)];

pub(crate) async fn run() -> Result<()> {
    println!("## entry creation on three replicas (all on this disk) against fdatasync\n");
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start(folder.path(), &ClusterSpec::default()).await?;
    let leader = cluster.leader(std::time::Duration::from_secs(10)).await?;
    let channel = unix_channel(&cluster.member(leader)?.socket());
    let replicas =
        (0..3).map(|index| Ok(cluster.process(index)?.pid())).collect::<Result<Vec<u32>>>()?;
    let mut cpu = vec![0.0; SHAPES.len()];
    let mut floors = Vec::new();
    let mut figures = vec![Vec::new(); SHAPES.len()];
    for number in 0..ROUNDS {
        floors.push(floor::fdatasync(folder.path(), 500)?);
        for ((figures, cpu), (callers, each)) in figures.iter_mut().zip(&mut cpu).zip(SHAPES) {
            let before = cpu_of(&replicas)?;
            figures.push(round(&channel, number, callers, each).await?);
            *cpu += cpu_of(&replicas)? - before;
        }
    }
    let floor = Spread::of(floors);
    println!("- fdatasync of 300 bytes: {}", floor.text("µs"));
    for ((figures, cpu), (callers, each)) in figures.into_iter().zip(cpu).zip(SHAPES) {
        let spread = Spread::of(figures);
        println!(
            "- {callers} callers: {}; {:.2} x the floor; {:.0} entries/s; {:.0} µs of CPU an entry, \
             all three replicas together",
            spread.text("µs an entry"),
            spread.median / floor.median,
            1e6 / spread.median,
            cpu / (ROUNDS * callers * each) as f64
        );
    }
    println!();
    Ok(())
}

fn cpu_of(replicas: &[u32]) -> Result<f64> {
    replicas.iter().map(|pid| cpu_micros(*pid)).sum()
}

async fn round(channel: &Channel, number: usize, callers: usize, each: usize) -> Result<f64> {
    let started = Instant::now();
    let tasks = (0..callers)
        .map(|caller| create(channel.clone(), format!("{number}-{callers}-{caller}"), each));
    try_join_all(tasks).await?;
    Ok(micros_each(started.elapsed(), callers * each))
}

async fn create(channel: Channel, name: String, each: usize) -> Result<()> {
    let mut entries = EntryClient::new(channel);
    let id = |path: String| pb::types::Spiffeid { trust_domain: "example.org".to_owned(), path };
    for number in 0..each {
        let entry = pb::types::Entry {
            spiffe_id: Some(id(format!("/bench/{name}/{number}"))),
            parent_id: Some(id("/parent".to_owned())),
            selectors: vec![pb::types::Selector {
                r#type: "unix".to_owned(),
                value: "uid:1".to_owned(),
            }],
            ..pb::types::Entry::default()
        };
        let request = pb::server::entry::v1::BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let reply = entries.batch_create_entry(request).await?.into_inner();
        let status = reply
            .results
            .into_iter()
            .next()
            .and_then(|result| result.status)
            .context("a status")?;
        ensure!(status.code == 0, "{}", status.message);
    }
    Ok(())
}
