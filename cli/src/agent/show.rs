//! `agent show`.
//!
//! Owns one call; selectors follow after the block.

use steeple_api::pb::server::agent::v1::GetAgentRequest;

use super::block::write_agent;
use super::target::Target;
use crate::command::{Command, Running};
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::LocalZone;

/// Shows one agent with its selectors.
#[derive(Debug, Default)]
pub(crate) struct Show {
    target: Target,
}

impl Command for Show {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.target.declare("The SPIFFE ID of the agent to show (agent identity)", flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let (id, mut client) = self.target.connect(io).await?;
            let request = GetAgentRequest { id: Some(id), output_mask: None };
            let agent = client.get_agent(request).await?.into_inner();
            if self.target.output.print_json(io, "spire.api.types.Agent", &agent)? {
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
