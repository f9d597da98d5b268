//! `spire-server token generate`: join tokens.
//!
//! Owns one call. That the warning about a missing SPIFFE id goes to stdout is SPIRE's doing, and
//! kept.

use steeple_api::pb::server::agent::v1::CreateJoinTokenRequest;
use steeple_api::pb::server::agent::v1::agent_client::AgentClient;

use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::flags::FlagSet;
use crate::ids::{parse_id, to_i32};
use crate::io::Io;
use crate::output::OutputFlag;

/// Makes a token that admits one agent.
#[derive(Debug)]
pub(crate) struct Generate {
    socket: ServerSocket,
    output: OutputFlag,
    spiffe_id: String,
    ttl: i64,
}

impl Default for Generate {
    fn default() -> Self {
        Self {
            socket: ServerSocket::default(),
            output: OutputFlag::default(),
            spiffe_id: String::new(),
            ttl: 600,
        }
    }
}

impl Command for Generate {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("ttl", &mut self.ttl, "Token TTL in seconds");
        flags.flag(
            "spiffeID",
            &mut self.spiffe_id,
            "Additional SPIFFE ID to assign the token owner (optional)",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let agent_id =
                (!self.spiffe_id.is_empty()).then(|| parse_id(&self.spiffe_id)).transpose()?;
            let ttl = to_i32(self.ttl, "TTL")?;
            let mut client = AgentClient::new(self.socket.connect(io).await?);
            let request = CreateJoinTokenRequest { ttl, token: String::new(), agent_id };
            let token = client.create_join_token(write_request(request)?).await?.into_inner();
            if self.output.print_json(io, "spire.api.types.JoinToken", &token)? {
                return Ok(());
            }
            writeln!(io.stdout, "Token: {}", token.value)?;
            if self.spiffe_id.is_empty() {
                // SPIRE prints this to stdout; scripts that skip the second line exist.
                writeln!(io.stdout, "Warning: Missing SPIFFE ID.")?;
            }
            Ok(())
        })
    }
}
