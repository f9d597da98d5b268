//! `agent ban` and `agent evict`.
//!
//! Owns the two calls that change an agent, each with a request id of its own.

use steeple_api::pb::server::agent::v1::{BanAgentRequest, DeleteAgentRequest};

use super::target::Target;
use crate::command::{Command, Running};
use crate::conn::write_request;
use crate::flags::FlagSet;
use crate::io::Io;

/// Refuses an agent from now on.
#[derive(Debug, Default)]
pub(crate) struct Ban {
    target: Target,
}

/// Forgets an agent: it has to attest anew, and a ban is lifted.
#[derive(Debug, Default)]
pub(crate) struct Evict {
    target: Target,
}

impl Command for Ban {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.target.declare("The SPIFFE ID of the agent to ban (agent identity)", flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let (id, mut client) = self.target.connect(io).await?;
            let reply = client.ban_agent(write_request(BanAgentRequest { id: Some(id) })?).await?;
            let () = reply.into_inner();
            if !self.target.output.print_json(io, "google.protobuf.Empty", &())? {
                writeln!(io.stdout, "Agent banned successfully")?;
            }
            Ok(())
        })
    }
}

impl Command for Evict {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.target.declare("The SPIFFE ID of the agent to evict (agent identity)", flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let (id, mut client) = self.target.connect(io).await?;
            let reply =
                client.delete_agent(write_request(DeleteAgentRequest { id: Some(id) })?).await?;
            let () = reply.into_inner();
            if !self.target.output.print_json(io, "google.protobuf.Empty", &())? {
                writeln!(io.stdout, "Agent evicted successfully")?;
            }
            Ok(())
        })
    }
}
