//! `cluster check`: a verdict a line, and an exit code for scripts.
//!
//! Owns the layout. What is looked at, and how bad it is, is the server's affair.

use std::io::Write;

use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::verdict::Outcome;
use steeple_api::pb::cluster::v1::{CheckRequest, CheckResponse, Verdict};

use crate::command::{Command, Running};
use crate::conn::ServerSocket;
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Checks the asked member and what it sees of its cluster. Fails if something does not work.
#[derive(Debug, Default)]
pub(crate) struct Check {
    socket: ServerSocket,
    output: OutputFlag,
}

impl Command for Check {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = ClusterClient::new(self.socket.connect(io).await?);
            let response = client.check(CheckRequest {}).await?.into_inner();
            if !self.output.print_json(io, "steeple.cluster.v1.CheckResponse", &response)? {
                print(&response, io.stdout)?;
            }
            let failed = response.verdicts.iter().filter(|one| one.outcome() == Outcome::Fail);
            match failed.count() {
                0 => Ok(()),
                1 => Err(Error::Batch("1 check failed".to_owned())),
                count => Err(Error::Batch(format!("{count} checks failed"))),
            }
        })
    }
}

fn print(response: &CheckResponse, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    for Verdict { name, text, hint, doc, outcome } in &response.verdicts {
        let outcome = match Outcome::try_from(*outcome).unwrap_or(Outcome::Unspecified) {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
            Outcome::Unspecified => "-",
        };
        writeln!(out, "{outcome:<4}  {name:<12}  {text}")?;
        if !hint.is_empty() {
            writeln!(out, "{:<20}fix: {hint}", "")?;
            writeln!(out, "{:<20}see: {doc}", "")?;
        }
    }
    Ok(())
}
