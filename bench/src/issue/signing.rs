//! sign_x509_batch, sign_x509_single, sign_x509_p384, sign_x509_rsa2048 and sign_jwt: what an SVID
//! costs, one system loaded at a time.

use std::time::Duration;

use anyhow::{Context, Result};
use steeple_spiffe_core::KeyType;

use super::agents::{Agents, again_since, calls_made_again};
use super::bao::Bao;
use super::echo::{Answers, Echo};
use super::go::Go;
use super::limit::Limit;
use super::plan::Plan;
use super::replicas::{self, Replicas};
use super::stock::Stock;
use super::table::{self, BAO, Bound, ECHO, GO, LIMIT, OURS, Promise, SPIRE};
use super::work::Work;
use crate::closed_loop::{self, Pids, Round};
use crate::report::{Report, Row};

/// Some work with authorities of one key type, and what is promised of it.
#[derive(Debug)]
pub(crate) struct Part {
    title: &'static str,
    key_type: KeyType,
    works: &'static [(Work, &'static [Promise])],
}

const fn at_least(
    text: &'static str,
    over: &'static [&'static str],
    under: &'static [&'static str],
    least: f64,
) -> Promise {
    Promise { text, over, under, bound: Bound::AtLeast(least) }
}

const fn at_most(
    text: &'static str,
    over: &'static [&'static str],
    under: &'static [&'static str],
    most: f64,
) -> Promise {
    Promise { text, over, under, bound: Bound::AtMost(most) }
}

/// Batches and single calls on P-256, the default.
pub(crate) const X509: Part = Part {
    title: "sign_x509_batch, sign_x509_single (ec-p256)",
    key_type: KeyType::EcP256,
    works: &[
        (
            Work::Batch,
            &[
                at_least("limit ÷ ours", &[LIMIT], &[OURS], 0.85),
                at_least("Go's cryptography ÷ ours", &[GO], &[OURS], 2.0),
                at_least("SPIRE ÷ ours", &[SPIRE], &[OURS], 3.0),
                at_least("OpenBao ÷ ours", &[BAO], &[OURS], 8.0),
            ],
        ),
        (
            Work::Single,
            &[
                at_most("ours ÷ (limit + echo)", &[OURS], &[LIMIT, ECHO], 1.15),
                at_least("SPIRE ÷ ours", &[SPIRE], &[OURS], 5.0),
            ],
        ),
    ],
};

/// Batches on P-384.
pub(crate) const P384: Part = Part {
    title: "sign_x509_p384",
    key_type: KeyType::EcP384,
    works: &[(Work::Batch, &[at_least("Go's cryptography ÷ ours", &[GO], &[OURS], 5.5)])],
};

/// Batches with RSA keys of 2048 bits.
pub(crate) const RSA2048: Part = Part {
    title: "sign_x509_rsa2048",
    key_type: KeyType::Rsa2048,
    works: &[(Work::Batch, &[at_least("Go's cryptography ÷ ours", &[GO], &[OURS], 3.0)])],
};

/// Tokens signed with P-256.
pub(crate) const JWT: Part = Part {
    title: "sign_jwt (ES256)",
    key_type: KeyType::EcP256,
    works: &[(
        Work::Jwt,
        &[
            at_most("ours ÷ (limit + echo)", &[OURS], &[LIMIT, ECHO], 1.2),
            at_least("SPIRE ÷ ours", &[SPIRE], &[OURS], 8.0),
        ],
    )],
};

/// Connections to one server: the most that any work has.
const CONNECTIONS: usize = 64;

pub(crate) async fn run(part: &Part, plan: &Plan, report: &mut Report) -> Result<()> {
    report.line(&format!("## {}\n", part.title));
    let again = calls_made_again();
    let mut systems = start(part, plan, report).await?;
    report.line(&format!(
        "- limit: on one core the check of a request's signature and one signature by {}, of a token one signature",
        part.key_type
    ));
    report.line(&format!("- {} entries below one agent, with requests for keys on P-256; callers, servers and peers share the machine, one system is loaded at a time", plan.entries));
    let mut tables: Vec<Vec<Row>> = Vec::new();
    for (work, _) in part.works {
        let taking = systems.iter().filter(|system| system.takes(*work));
        tables
            .push(taking.map(|system| Row { system: system.name(), rounds: Vec::new() }).collect());
    }
    for _ in 0..plan.rounds {
        for ((work, _), rows) in part.works.iter().zip(&mut tables) {
            let taking = systems.iter_mut().filter(|system| system.takes(*work));
            for (system, row) in taking.zip(rows) {
                let round = system.round(*work, plan.slice).await;
                row.rounds.push(round.with_context(|| system.name())?);
            }
        }
    }
    report.line(&format!("{}\n", again_since(again)));
    table::head(report);
    let mut verdicts = Vec::new();
    for ((work, promises), rows) in part.works.iter().zip(&tables) {
        table::rows(report, work.name(), rows);
        verdicts.extend(promises.iter().map(|promise| table::judge(work.name(), promise, rows)));
    }
    table::verdicts(report, &verdicts);
    report.line("");
    Ok(())
}

/// What is measured side by side.
enum System {
    Ours { replicas: Replicas, agents: Agents },
    Limit(Limit),
    Echo { echo: Echo, agents: Agents },
    Go(Go),
    Bao(Bao),
    Spire { stock: Stock, agents: Agents },
}

/// Starts everything that is there, in the order of the rows.
async fn start(part: &Part, plan: &Plan, report: &mut Report) -> Result<Vec<System>> {
    let mut systems = Vec::new();
    let replicas = Replicas::start(part.key_type).await?;
    let member = replicas.cluster.member(replicas.called)?;
    let ports = [member.api_port; CONNECTIONS];
    let agents = Agents::register(&member.socket(), &ports, plan.entries).await?;
    report.line(&format!("- {}", replicas::SETTINGS));
    let takes = |work: Work| part.works.iter().any(|(taken, _)| *taken == work);
    let echo = if takes(Work::Single) || takes(Work::Jwt) {
        let echo = Echo::start(Answers::Svids(&agents.samples().await?)).await?;
        report.line("- echo: a process of ours that answers the same calls with the same bytes, by tonic over the same TLS, and signs nothing");
        Some(System::Echo { agents: agents.over(echo.channels(CONNECTIONS)?), echo })
    } else {
        None
    };
    systems.push(System::Ours { replicas, agents });
    systems.push(System::Limit(Limit::new(part.key_type).await?));
    systems.extend(echo);
    match Go::find(part.key_type).await {
        Ok(go) => {
            report.line(&format!("- {}", go.settings));
            systems.push(System::Go(go));
        }
        Err(error) => report.absent(GO, &error),
    }
    if takes(Work::Batch) && part.key_type == KeyType::EcP256 {
        match Bao::start().await {
            Ok(bao) => {
                report.line(&format!("- {}", bao.settings));
                systems.push(System::Bao(bao));
            }
            Err(error) => report.absent(BAO, &error),
        }
    }
    match stock(part.key_type, plan).await {
        Ok((stock, agents)) => {
            report.line(&format!("- {}", stock.settings));
            systems.push(System::Spire { stock, agents });
        }
        Err(error) => report.absent(SPIRE, &error),
    }
    Ok(systems)
}

async fn stock(key_type: KeyType, plan: &Plan) -> Result<(Stock, Agents)> {
    let stock = Stock::start(key_type).await?;
    let ports = [stock.port(); CONNECTIONS];
    let agents = Agents::register(&stock.socket(), &ports, plan.entries).await?;
    Ok((stock, agents))
}

impl System {
    fn name(&self) -> &'static str {
        match self {
            Self::Ours { .. } => OURS,
            Self::Limit(_) => LIMIT,
            Self::Echo { .. } => ECHO,
            Self::Go(_) => GO,
            Self::Bao(_) => BAO,
            Self::Spire { .. } => SPIRE,
        }
    }

    /// Whether it has a row for this work.
    fn takes(&self, work: Work) -> bool {
        match self {
            Self::Ours { .. } | Self::Limit(_) | Self::Go(_) | Self::Spire { .. } => true,
            Self::Echo { .. } => work != Work::Batch,
            Self::Bao(_) => work == Work::Batch,
        }
    }

    async fn round(&mut self, work: Work, slice: Duration) -> Result<Round> {
        match self {
            Self::Ours { replicas, agents } => {
                let (all, called) = (replicas.pids()?, [replicas.called_pid()?]);
                let pids = Pids { all: &all, called: &called };
                closed_loop::run(agents.callers(work), work.items(), slice, pids).await
            }
            Self::Limit(limit) => limit.round(work, slice).await,
            Self::Echo { echo, agents } => {
                let pids = [echo.pid()];
                let callers = agents.callers(work);
                closed_loop::run(callers, work.items(), slice, Pids::whole(&pids)).await
            }
            Self::Go(go) => go.round(work, slice).await,
            Self::Bao(bao) => bao.round(slice).await,
            Self::Spire { stock, agents } => {
                let pids = [stock.pid()];
                let callers = agents.callers(work);
                closed_loop::run(callers, work.items(), slice, Pids::whole(&pids)).await
            }
        }
    }
}
