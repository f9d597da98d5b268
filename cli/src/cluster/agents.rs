//! `cluster agents adopt` and `refuse`: what becomes of agents that a restored state does not know.
//!
//! Owns the call and its line. The decision is replicated; `cluster status` shows it.

use steeple_api::pb::cluster::v1::DecideAgentsRequest;
use steeple_api::pb::cluster::v1::UnknownAgents;
use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;

use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Records unknown agents with valid certificates as they call.
#[derive(Debug, Default)]
pub(crate) struct Adopt {
    decide: Decide,
}

/// Sends unknown agents back to attestation.
#[derive(Debug, Default)]
pub(crate) struct Refuse {
    decide: Decide,
}

#[derive(Debug, Default)]
struct Decide {
    socket: ServerSocket,
    output: OutputFlag,
}

impl Decide {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    async fn run(&self, decision: UnknownAgents, line: &str, io: &mut Io<'_>) -> Result<(), Error> {
        let mut client = ClusterClient::new(self.socket.connect(io).await?);
        let request = write_request(DecideAgentsRequest { decision: decision.into() })?;
        let reply = client.decide_agents(request).await?.into_inner();
        if !self.output.print_json(io, "steeple.cluster.v1.DecideAgentsResponse", &reply)? {
            writeln!(io.stdout, "{line}")?;
        }
        Ok(())
    }
}

impl Command for Adopt {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.decide.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        let line = "Agents that were attested after the restored state are adopted as they call.";
        Box::pin(self.decide.run(UnknownAgents::Adopt, line, io))
    }
}

impl Command for Refuse {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.decide.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        let line = "Agents that the restored state does not know have to attest again.";
        Box::pin(self.decide.run(UnknownAgents::Refuse, line, io))
    }
}
