//! Reads of one entry or key: confirmed and from what a member has, on the leader and on a follower.

use anyhow::Result;
use prost::Message as _;
use steeple_testkit::client::unix_channel;

use super::door::{READABLE, Work, load, own_bundle};
use super::etcd::{Etcd, Timeouts};
use super::folder;
use super::plan::Plan;
use super::steeple::{self, Steeple};
use crate::report::{Report, Row};

const CALLERS: usize = 64;
const CONNECTIONS: usize = 16;

const SHAPES: [(&str, Work, bool); 4] = [
    ("linearizable, leader", Work::Read, true),
    ("linearizable, follower", Work::Read, false),
    ("local, leader", Work::ReadLocal, true),
    ("local, follower", Work::ReadLocal, false),
];

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.line(&format!("## read_local: {CALLERS} callers, one entry or key a call\n"));
    let (ours, etcds) = (folder::new()?, folder::new()?);
    let mut steeple = Steeple::start(ours.path()).await?;
    report.line(&format!("- {}", steeple::SETTINGS));
    fill(&steeple).await?;
    let etcd = match Etcd::start(etcds.path(), Timeouts::Default).await {
        Ok(etcd) => {
            report.line(&format!("- {}", etcd.settings));
            fill_etcd(&etcd, &steeple).await?;
            Some(etcd)
        }
        Err(error) => {
            report.absent("etcd", &error);
            None
        }
    };
    report.line("- linearizable: GetEntry, which every replica confirms with a quorum, against a linearizable range; local: GetBundle, which a replica answers from what it has, against a serializable range of a value as large");
    report.line("");
    let names = [Some("steeple"), etcd.as_ref().map(|_| "etcd")];
    let row = |system| Row { system, rounds: Vec::new() };
    let mut tables: Vec<Vec<Row>> =
        SHAPES.iter().map(|_| names.into_iter().flatten().map(row).collect()).collect();
    for _ in 0..plan.rounds {
        for ((_, work, at_leader), rows) in SHAPES.iter().zip(&mut tables) {
            let member =
                if *at_leader { steeple.leader().await? } else { steeple.follower().await? };
            let doors = steeple.doors(member, CALLERS, CONNECTIONS)?;
            let mut rounds = vec![load(doors, *work, plan.slice, &steeple.pids()?).await?];
            if let Some(etcd) = &etcd {
                let member =
                    if *at_leader { etcd.leader().await? } else { etcd.follower().await? };
                let doors = etcd.doors(member, CALLERS, CONNECTIONS)?;
                rounds.push(load(doors, *work, plan.slice, &etcd.pids()).await?);
            }
            for (row, round) in rows.iter_mut().zip(rounds) {
                row.rounds.push(round);
            }
        }
    }
    report.rates_head("read");
    for ((name, _, _), rows) in SHAPES.iter().zip(&tables) {
        report.rates(name, rows);
    }
    report.line("");
    Ok(())
}

async fn fill(steeple: &Steeple) -> Result<()> {
    let doors = steeple.doors(steeple.leader().await?, 1, 1)?;
    for mut door in doors {
        for number in 0..READABLE {
            door.call(Work::CreateReadable, number).await?;
        }
    }
    Ok(())
}

async fn fill_etcd(etcd: &Etcd, steeple: &Steeple) -> Result<()> {
    let bundle = own_bundle(unix_channel(&steeple.cluster.member(0)?.socket())).await?;
    let member = etcd.leader().await?;
    etcd.put_bundle(member, bundle.encode_to_vec()).await?;
    for mut door in etcd.doors(member, 1, 1)? {
        for number in 0..READABLE {
            door.call(Work::CreateReadable, number).await?;
        }
    }
    Ok(())
}
