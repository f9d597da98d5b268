//! Entry creation: callers one by one and in batches, beside etcd's put and PostgreSQL's transaction.

use anyhow::Result;
use tempfile::TempDir;

use super::door::{Work, load};
use super::etcd::{Etcd, Timeouts};
use super::folder;
use super::plan::Plan;
use super::postgres::Postgres;
use super::steeple::{self, Steeple};
use crate::floor;
use crate::report::{Report, Row};

/// Entries of a batch, and callers that send batches.
const BATCH: usize = 100;
const BATCH_CALLERS: usize = 4;

/// Connections that callers share: a caller alone has its own, hundreds have sixteen.
const CONNECTIONS: usize = 16;

/// Syncs of the floor in each round.
const SYNCS: usize = 200;

struct Systems {
    steeple: Steeple,
    etcd: Option<Etcd>,
    postgres: Option<Postgres>,
    _folders: Vec<TempDir>,
}

#[derive(Clone, Copy)]
struct Shape {
    callers: usize,
    work: Work,
}

impl Shape {
    fn name(self) -> String {
        let batched = matches!(self.work, Work::CreateBatch(_));
        let callers = self.callers;
        match (batched, callers) {
            (true, _) => format!("{callers} callers, batches of {BATCH}"),
            (false, 1) => "1 caller".to_owned(),
            (false, _) => format!("{callers} callers"),
        }
    }
}

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.line("## entry_create: entries of one size on three synced members\n");
    let mut systems = start(report).await?;
    let mut shapes: Vec<Shape> = plan
        .callers
        .iter()
        .map(|callers| Shape { callers: *callers, work: Work::Create })
        .collect();
    shapes.push(Shape { callers: BATCH_CALLERS, work: Work::CreateBatch(BATCH) });
    let mut tables: Vec<Vec<Row>> = shapes.iter().map(|_| systems.rows()).collect();
    let mut syncs = Vec::new();
    for number in 1..=plan.rounds {
        for (shape, rows) in shapes.iter().zip(&mut tables) {
            syncs.extend(floor::each_fdatasync(SYNCS)?);
            systems.round(*shape, plan, rows).await?;
            report.round(number, &shape.name(), rows);
        }
    }
    if let Some(postgres) = systems.postgres.take() {
        postgres.stop().await?;
    }
    report.floor(syncs);
    report.line("");
    report.rates_head("work");
    for (shape, rows) in shapes.iter().zip(&tables) {
        report.rates(&shape.name(), rows);
    }
    report.line("");
    Ok(())
}

async fn start(report: &mut Report) -> Result<Systems> {
    let folders = vec![folder::new()?, folder::new()?, folder::new()?];
    let [ours, etcds, postgres] = folders.as_slice() else { anyhow::bail!("three folders") };
    let steeple = Steeple::start(ours.path()).await?;
    report.line(&format!("- {}", steeple::SETTINGS));
    let etcd = match Etcd::start(etcds.path(), Timeouts::Default).await {
        Ok(etcd) => {
            report.line(&format!("- {}; put, and a transaction of {BATCH} puts for the batch; the value is the entry as our request has it", etcd.settings));
            Some(etcd)
        }
        Err(error) => {
            report.absent("etcd", &error);
            None
        }
    };
    let postgres = match Postgres::start(postgres.path()).await {
        Ok(postgres) => {
            report.line(&format!("- {}", postgres.settings));
            Some(postgres)
        }
        Err(error) => {
            report.absent("PostgreSQL", &error);
            None
        }
    };
    report.line(&format!("- callers are closed loops on the leader over at most {CONNECTIONS} connections a system; callers, members and peers share the machine, one system is loaded at a time"));
    Ok(Systems { steeple, etcd, postgres, _folders: folders })
}

impl Systems {
    fn rows(&self) -> Vec<Row> {
        let names = [
            Some("steeple"),
            self.etcd.as_ref().map(|_| "etcd"),
            self.postgres.as_ref().map(|_| "PostgreSQL + standby"),
        ];
        names.into_iter().flatten().map(|system| Row { system, rounds: Vec::new() }).collect()
    }

    /// One round of every system, in the order of the rows.
    async fn round(&mut self, shape: Shape, plan: &Plan, rows: &mut [Row]) -> Result<()> {
        let connections = shape.callers.min(CONNECTIONS);
        let leader = self.steeple.leader().await?;
        let doors = self.steeple.doors(leader, shape.callers, connections)?;
        let pids = self.steeple.pids()?;
        let mut rounds = vec![load(doors, shape.work, plan.slice, &pids).await?];
        if let Some(etcd) = &self.etcd {
            let doors = etcd.doors(etcd.leader().await?, shape.callers, connections)?;
            rounds.push(load(doors, shape.work, plan.slice, &etcd.pids()).await?);
        }
        if let Some(postgres) = &mut self.postgres {
            rounds.push(postgres.round(shape.callers, plan.slice)?);
        }
        for (row, round) in rows.iter_mut().zip(rounds) {
            row.rounds.push(round);
        }
        Ok(())
    }
}
