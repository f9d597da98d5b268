//! The one agent that `show`, `ban` and `evict` are about.
//!
//! Owns their common flags and the order of checks: the id before the socket.

use steeple_api::pb;
use steeple_api::pb::server::agent::v1::agent_client::AgentClient;
use tonic::transport::Channel;

use crate::conn::ServerSocket;
use crate::error::Error;
use crate::flags::FlagSet;
use crate::ids::required_id;
use crate::io::Io;
use crate::output::OutputFlag;

/// Where to ask, about whom, and how to print.
#[derive(Debug, Default)]
pub(crate) struct Target {
    pub(crate) output: OutputFlag,
    socket: ServerSocket,
    spiffe_id: String,
}

impl Target {
    /// Declares the flags; the usage of `-spiffeID` says what happens to the agent.
    pub(crate) fn declare<'a>(&'a mut self, usage: &'static str, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("spiffeID", &mut self.spiffe_id, usage);
    }

    /// The agent's id and a client of the server.
    pub(crate) async fn connect(
        &self,
        io: &mut Io<'_>,
    ) -> Result<(pb::types::Spiffeid, AgentClient<Channel>), Error> {
        let id = required_id(&self.spiffe_id)?;
        Ok((id, AgentClient::new(self.socket.connect(io).await?)))
    }
}
