//! ca_rotation: an authority is replaced, and everything that the old one signed is signed anew at
//! once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use steeple_spiffe_core::KeyType;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_testkit::process::wait_for;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::agents::{Agents, again_since, calls_made_again};
use super::limit::Limit;
use super::plan::Plan;
use super::probe::{self, Waits};
use super::replicas::{self, Replicas};
use super::table::{self, Bound, Verdict};
use super::work::{BATCH, Work};
use crate::closed_loop::cpu_of;
use crate::report::Report;
use crate::spread::Spread;

/// Until all members know a new authority.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that renew; two more make the other calls.
const RENEWERS: usize = 8;

/// What one rotation came to.
struct Trial {
    limit_us: f64,
    wall_s: f64,
    /// CPU of all replicas for an SVID, and of the one that signs.
    cpu_us: f64,
    called_cpu_us: f64,
    /// At the replica that signs, and at another.
    waits: [Waits; 2],
}

impl Trial {
    /// Time, and CPU time, of so many SVIDs against the cryptography alone on one core.
    fn ratios(&self, count: usize) -> [f64; 2] {
        let each_us = self.wall_s * 1e6 / count.max(1) as f64;
        [each_us / self.limit_us, self.cpu_us / self.limit_us]
    }
}

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.line(&format!("## ca_rotation: {} SVIDs signed anew (ec-p256)\n", plan.renewed));
    let mut replicas = Replicas::start(KeyType::EcP256).await?;
    let other = replicas.cluster.member(replicas.other())?.api_port;
    let member = replicas.cluster.member(replicas.called)?;
    let ports = [&[member.api_port; RENEWERS + 1][..], &[other]].concat();
    let agents = Agents::register(&member.socket(), &ports, plan.renewed).await?;
    let limit = Limit::new(KeyType::EcP256).await?;
    report.line(&format!("- {}", replicas::SETTINGS));
    report.line(&format!(
        "- {} entries, one SVID each; a new authority is prepared and activated, then {RENEWERS} connections ask for all SVIDs in batches of {BATCH}, all at the same replica, as fast as they are answered; callers share the machine",
        plan.renewed
    ));
    report.line(&format!(
        "- meanwhile a NewJWTSVID is due every {} ms, by turns at that replica and at another; each wait counts from when the call was due",
        probe::EVERY.as_millis()
    ));
    let again = calls_made_again();
    let mut trials = Vec::new();
    for _ in 0..plan.rotations {
        trials.push(trial(&mut replicas, &agents, &limit, plan).await?);
    }
    report.line(&format!("{}\n", again_since(again)));
    show(report, plan.renewed, &trials);
    Ok(())
}

fn show(report: &mut Report, count: usize, trials: &[Trial]) {
    report.smoke_note();
    report.line("| rotation | limit, µs | all signed after, s | CPU µs an SVID | of the replica that signs | time ÷ (SVIDs x limit) | CPU ÷ (SVIDs x limit) | other calls at that replica, ms: p50 / p99 / longest | at another | of calls failed |");
    report.line("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (number, trial) in trials.iter().enumerate() {
        let [time, cpu] = trial.ratios(count);
        let [same, other] = &trial.waits;
        let failed = same.failed + other.failed;
        let calls = same.answered() + other.answered() + failed;
        report.line(&format!(
            "| {} | {:.1} | {:.2} | {:.0} | {:.0} | {time:.2} x | {cpu:.2} x | {} | {} | {failed} of {calls} |",
            number + 1, trial.limit_us, trial.wall_s, trial.cpu_us, trial.called_cpu_us, same.text(), other.text(),
        ));
    }
    if trials.iter().any(|trial| trial.waits.iter().any(|waits| waits.answered() == 0)) {
        report.miss("ca_rotation, other calls".to_owned());
    }
    let of = |figure: &dyn Fn(&Trial) -> f64| Spread::of(trials.iter().map(figure).collect());
    let verdict = |text: &str, most: f64, unit: &'static str, measured: Spread| Verdict {
        work: "ca_rotation".to_owned(),
        text: text.to_owned(),
        bound: Bound::AtMost(most),
        measured: Some(measured),
        unit,
    };
    let [same, other] = [0, 1].map(|place: usize| {
        of(&|trial: &Trial| trial.waits.get(place).map_or(0.0, |waits| waits.ms(0.99)))
    });
    table::verdicts(
        report,
        &[
            verdict("time ÷ (SVIDs x limit)", 1.3, "x", of(&|trial| trial.ratios(count)[0])),
            verdict("p99 of other calls at that replica", 100.0, "ms", same),
            verdict("p99 of other calls at another", 100.0, "ms", other),
        ],
    );
    report.line("");
}

async fn trial(
    replicas: &mut Replicas,
    agents: &Agents,
    limit: &Limit,
    plan: &Plan,
) -> Result<Trial> {
    let limit_us = limit.round(Work::Batch, plan.slice).await?.cpu_us;
    let authority = replace_authority(replicas, agents).await?;
    let (pids, called) = (replicas.pids()?, replicas.called_pid()?);
    let (all_before, called_before) = (cpu_of(&pids)?, cpu_of(&[called])?);
    let probers = [agents.caller(RENEWERS, Work::Jwt)?, agents.caller(RENEWERS + 1, Work::Jwt)?];
    let renewing = async {
        let began = Instant::now();
        renew(agents, plan.renewed).await?;
        Ok(began.elapsed())
    };
    let (took, waits) = probe::during(probers, renewing).await?;
    let count = plan.renewed.max(1) as f64;
    let trial = Trial {
        limit_us,
        wall_s: took.as_secs_f64(),
        cpu_us: (cpu_of(&pids)? - all_before) / count,
        called_cpu_us: (cpu_of(&[called])? - called_before) / count,
        waits,
    };
    let certificate = agents.certificate(plan.renewed - 1).await?;
    let signer = hex(&certificate_facts(&certificate)?.authority_key_id);
    ensure!(signer == authority, "signed by {signer} after {authority} was activated");
    Ok(trial)
}

/// Prepares a new authority and activates it when all members and the agent know it; returns its id.
async fn replace_authority(replicas: &Replicas, agents: &Agents) -> Result<String> {
    let member = replicas.cluster.member(replicas.called)?;
    let prepared = member.cli_json(&["localauthority", "x509", "prepare"])?;
    let id = prepared.pointer("/prepared_authority/authority_id").and_then(Value::as_str);
    let id = id.with_context(|| format!("no authority in {prepared}"))?.to_owned();
    wait_for("the activation", PATIENCE, async || {
        agents.fetch_bundle().await?;
        member.cli_json(&["localauthority", "x509", "activate", "-authorityID", &id]).map(drop)
    })
    .await?;
    Ok(id)
}

/// Asks for every entry's SVID once.
async fn renew(agents: &Agents, count: usize) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut renewers = JoinSet::new();
    for connection in 0..RENEWERS {
        let mut agent = agents.caller(connection, Work::Batch)?;
        let next = Arc::clone(&next);
        renewers.spawn(async move {
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= count {
                    return anyhow::Ok(());
                }
                agent.batch_from(first).await?;
            }
        });
    }
    while let Some(ended) = renewers.join_next().await {
        ended.context("a connection that renews")??;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
