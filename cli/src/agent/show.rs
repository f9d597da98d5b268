//! `agent show`.
//!
//! Owns one call; selectors follow after the block.

use steeple_api::pb::server::agent::v1::GetAgentRequest;
use steeple_api::pb::server::agent::v1::agent_client::AgentClient;

use super::block::write_agent;
use crate::command::{Command, Running};
use crate::conn::ServerSocket;
use crate::flags::FlagSet;
use crate::ids::required_id;
use crate::io::Io;
use crate::output::{LocalZone, OutputFlag};

/// Shows one agent with its selectors.
#[derive(Debug, Default)]
pub(crate) struct Show {
    socket: ServerSocket,
    output: OutputFlag,
    spiffe_id: String,
}

impl Command for Show {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag(
            "spiffeID",
            &mut self.spiffe_id,
            "The SPIFFE ID of the agent to show (agent identity)",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let id = Some(required_id(&self.spiffe_id)?);
            let mut client = AgentClient::new(self.socket.connect(io).await?);
            let agent =
                client.get_agent(GetAgentRequest { id, output_mask: None }).await?.into_inner();
            if self.output.print_json(io, "spire.api.types.Agent", &agent)? {
                return Ok(());
            }
            write!(io.stdout, "Found an attested agent given its SPIFFE ID\n\n")?;
            write_agent(io.stdout, &LocalZone::from_env(io.env), &agent)?;
            for selector in &agent.selectors {
                writeln!(io.stdout, "Selectors         : {}:{}", selector.r#type, selector.value)?;
            }
            Ok(())
        })
    }
}
