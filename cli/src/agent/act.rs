//! `agent ban` and `agent evict`.
//!
//! Owns the two calls that change an agent, each with a request id of its own.

use steeple_api::pb::server::agent::v1::agent_client::AgentClient;
use steeple_api::pb::server::agent::v1::{BanAgentRequest, DeleteAgentRequest};

use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::flags::FlagSet;
use crate::ids::required_id;
use crate::io::Io;
use crate::output::OutputFlag;

/// Refuses an agent from now on.
#[derive(Debug, Default)]
pub(crate) struct Ban {
    socket: ServerSocket,
    output: OutputFlag,
    spiffe_id: String,
}

/// Forgets an agent: it has to attest anew, and a ban is lifted.
#[derive(Debug, Default)]
pub(crate) struct Evict {
    socket: ServerSocket,
    output: OutputFlag,
    spiffe_id: String,
}

impl Command for Ban {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag(
            "spiffeID",
            &mut self.spiffe_id,
            "The SPIFFE ID of the agent to ban (agent identity)",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let id = Some(required_id(&self.spiffe_id)?);
            let mut client = AgentClient::new(self.socket.connect(io).await?);
            let reply = client.ban_agent(write_request(BanAgentRequest { id })?).await?;
            let () = reply.into_inner();
            if !self.output.print_json(io, "google.protobuf.Empty", &())? {
                writeln!(io.stdout, "Agent banned successfully")?;
            }
            Ok(())
        })
    }
}

impl Command for Evict {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag(
            "spiffeID",
            &mut self.spiffe_id,
            "The SPIFFE ID of the agent to evict (agent identity)",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let id = Some(required_id(&self.spiffe_id)?);
            let mut client = AgentClient::new(self.socket.connect(io).await?);
            let reply = client.delete_agent(write_request(DeleteAgentRequest { id })?).await?;
            let () = reply.into_inner();
            if !self.output.print_json(io, "google.protobuf.Empty", &())? {
                writeln!(io.stdout, "Agent evicted successfully")?;
            }
            Ok(())
        })
    }
}
