//! The longest time without a write while leaders are killed, stopped, or asked to hand over.
//!
//! Writes are due every few milliseconds, whatever became of the ones before, through the two members
//! that stay; nobody calls twice. So what is failed is what a caller without retries sees.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use steeple_api::pb::cluster::v1::TransferLeadershipRequest;
use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_testkit::client::unix_channel;
use steeple_testkit::load;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::door::{Door, Work, next_number};
use super::etcd::{Etcd, Timeouts};
use super::folder;
use super::plan::Plan;
use super::steeple::{self, Steeple};
use crate::report::Report;
use crate::spread::Spread;

/// A write is due so often.
const EVERY: Duration = Duration::from_millis(5);

const MEMBERS: usize = 3;

enum System {
    Steeple(Steeple),
    Etcd(Etcd),
}

/// How a leader goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Going {
    /// SIGKILL.
    Killed,
    /// SIGTERM.
    Stopped,
    /// It stays, and another leads.
    Transferred,
}

impl Going {
    /// How often. What is planned varies less.
    fn trials(self, plan: &Plan) -> usize {
        match self {
            Self::Killed => plan.trials,
            Self::Stopped | Self::Transferred => plan.trials.div_ceil(2),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Killed => "failover_kill: SIGKILL",
            Self::Stopped => "failover_planned: SIGTERM",
            Self::Transferred => "failover_planned: transfer",
        }
    }
}

/// What one leader's going cost.
struct Trial {
    gap_ms: f64,
    failed: u64,
    due: u64,
    first_failure: Option<String>,
}

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.line(&format!(
        "## failover_kill ({} trials) and failover_planned ({} each): a write due every {} ms at the members that stay\n",
        Going::Killed.trials(plan),
        Going::Stopped.trials(plan),
        EVERY.as_millis()
    ));
    let folders = [folder::new()?, folder::new()?, folder::new()?];
    let [ours, etcds, tuned] = &folders;
    let mut systems = vec![("steeple", System::Steeple(Steeple::start(ours.path()).await?))];
    report.line(&format!("- {}", steeple::SETTINGS));
    for (name, folder, timeouts) in [
        ("etcd", etcds, Timeouts::Default),
        ("etcd, timeouts like ours", tuned, Timeouts::LikeOurs),
    ] {
        match Etcd::start(folder.path(), timeouts).await {
            Ok(etcd) => {
                report.line(&format!("- {}", etcd.settings));
                systems.push((name, System::Etcd(etcd)));
            }
            Err(error) => report.absent(name, &error),
        }
    }
    report
        .line("- a write that has no answer 5 s after it was due has failed; nobody tries again\n");
    report.line("| how the leader goes | system | longest gap of writes, ms: median | min | max | ours ÷ its median | failed calls of due | trials with a failed call |");
    report.line("|---|---|--:|--:|--:|--:|--:|--:|");
    let mut failures = Vec::new();
    for going in [Going::Killed, Going::Stopped, Going::Transferred] {
        let mut trials: Vec<Vec<Trial>> = systems.iter().map(|_| Vec::new()).collect();
        for _ in 0..going.trials(plan) {
            for ((_, system), trials) in systems.iter_mut().zip(&mut trials) {
                trials.push(system.trial(going).await?);
            }
        }
        let ours = trials.first().map_or(0.0, |trials| gaps(trials).median);
        for ((name, _), trials) in systems.iter().zip(&trials) {
            row(report, going, name, trials, ours);
            let failure = trials.iter().find_map(|trial| trial.first_failure.as_ref());
            failures.extend(failure.map(|text| (going, *name, text.clone())));
        }
    }
    report.line("");
    for (going, name, failure) in failures {
        report.line(&format!("- a failed call of {name}, {}: {failure}", going.name()));
    }
    report.line("");
    Ok(())
}

fn gaps(trials: &[Trial]) -> Spread {
    Spread::of(trials.iter().map(|trial| trial.gap_ms).collect())
}

fn row(report: &mut Report, going: Going, name: &str, trials: &[Trial], ours: f64) {
    let gaps = gaps(trials);
    let (failed, due) = trials.iter().fold((0, 0), |(f, d), t| (f + t.failed, d + t.due));
    let with_failures = trials.iter().filter(|trial| trial.failed > 0).count();
    let ratio =
        if name == "steeple" { "-".to_owned() } else { format!("{:.2} x", ours / gaps.median) };
    report.line(&format!(
        "| {} | {name} | {:.0} | {:.0} | {:.0} | {ratio} | {failed} of {due} | {with_failures} of {} |",
        going.name(),
        gaps.median,
        gaps.min,
        gaps.max,
        trials.len()
    ));
}

impl System {
    /// One trial, and everything as before afterwards.
    async fn trial(&mut self, going: Going) -> Result<Trial> {
        let leader = self.leader().await?;
        let others: Vec<usize> = (0..MEMBERS).filter(|member| *member != leader).collect();
        let mut doors = Vec::new();
        for member in &others {
            doors.extend(self.doors(*member)?);
        }
        for door in &doors {
            door.clone().call(Work::Create, next_number()).await.context("before the trial")?;
        }
        let to = *others.first().context("another member")?;
        let local = LocalSet::new();
        let trial = local.run_until(self.under_load(going, leader, to, doors)).await?;
        if going != Going::Transferred {
            self.start(leader).await?;
        }
        Ok(trial)
    }

    async fn under_load(
        &mut self,
        going: Going,
        leader: usize,
        to: usize,
        doors: Vec<Door>,
    ) -> Result<Trial> {
        let (stop, stopped) = watch::channel(false);
        let doors = Arc::new(doors);
        let writes = load::run("writes", EVERY, stopped, move |number, _deadline, _attempts| {
            let doors = Arc::clone(&doors);
            async move {
                let index = usize::try_from(number).unwrap_or(0) % doors.len().max(1);
                let mut door = doors.get(index).context("a door")?.clone();
                door.call(Work::Create, next_number()).await
            }
        });
        let writes = tokio::task::spawn_local(writes);
        // Long enough that the load has found its rhythm.
        sleep(Duration::from_millis(500)).await;
        match going {
            Going::Killed => self.kill(leader)?,
            Going::Stopped => self.stop(leader).await?,
            Going::Transferred => self.transfer(leader, to).await?,
        }
        // The gap ends with the first success after it: wait for a leader, and some writes more.
        self.leader().await?;
        sleep(Duration::from_millis(1000)).await;
        stop.send_replace(true);
        let report = writes.await.context("the load")?;
        if report.ok == 0 {
            bail!("no write succeeded: {}", report.first_failure.unwrap_or_default());
        }
        let gap_ms = report.longest_gap.as_secs_f64() * 1000.0;
        let (failed, due) = (report.failed, report.scheduled);
        Ok(Trial { gap_ms, failed, due, first_failure: report.first_failure })
    }

    async fn leader(&self) -> Result<usize> {
        match self {
            Self::Steeple(steeple) => steeple.leader().await,
            Self::Etcd(etcd) => etcd.leader().await,
        }
    }

    fn doors(&self, member: usize) -> Result<Vec<Door>> {
        match self {
            Self::Steeple(steeple) => steeple.doors(member, 1, 1),
            Self::Etcd(etcd) => etcd.doors(member, 1, 1),
        }
    }

    fn kill(&mut self, member: usize) -> Result<()> {
        match self {
            Self::Steeple(steeple) => steeple.cluster.kill_member(member),
            Self::Etcd(etcd) => etcd.kill(member),
        }
    }

    async fn stop(&mut self, member: usize) -> Result<()> {
        match self {
            Self::Steeple(steeple) => steeple.cluster.stop_member(member).await,
            Self::Etcd(etcd) => etcd.stop(member).await,
        }
    }

    async fn start(&mut self, member: usize) -> Result<()> {
        match self {
            Self::Steeple(steeple) => steeple.start_member(member).await,
            Self::Etcd(etcd) => etcd.start_member(member).await,
        }
    }

    async fn transfer(&self, from: usize, to: usize) -> Result<()> {
        match self {
            Self::Steeple(steeple) => {
                let socket = steeple.cluster.member(from)?.socket();
                let mut cluster = ClusterClient::new(unix_channel(&socket));
                cluster.transfer_leadership(TransferLeadershipRequest::default()).await?;
                Ok(())
            }
            Self::Etcd(etcd) => etcd.transfer(from, to).await,
        }
    }
}
