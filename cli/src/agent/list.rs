//! `agent list` and `agent count`.
//!
//! Owns the paging; filters are `filter`'s, the text is `block`'s.

use steeple_api::pb;
use steeple_api::pb::server::agent::v1::agent_client::AgentClient;
use steeple_api::pb::server::agent::v1::{
    CountAgentsRequest, ListAgentsRequest, ListAgentsResponse, list_agents_request,
};
use tonic::transport::Channel;

use super::block::{attested, write_agent};
use super::filter::Filter;
use crate::command::{Command, Running};
use crate::conn::{REPLY_BYTES_MAX, ServerSocket};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{LocalZone, OutputFlag};

/// Agents a page: SPIRE's number, well below a reply's limit.
const PAGE_SIZE: i32 = 1000;

/// Lists attested agents.
#[derive(Debug, Default)]
pub(crate) struct List {
    socket: ServerSocket,
    output: OutputFlag,
    filter: Filter,
}

/// Counts attested agents.
#[derive(Debug, Default)]
pub(crate) struct Count {
    socket: ServerSocket,
    output: OutputFlag,
    filter: Filter,
}

impl Command for List {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        self.filter.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let filter = self.filter.to_list()?;
            let channel = self.socket.connect(io).await?;
            let agents = list_all(channel, filter, None).await?;
            let response = ListAgentsResponse { agents, next_page_token: String::new() };
            let name = "spire.api.server.agent.v1.ListAgentsResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            if response.agents.is_empty() {
                writeln!(io.stdout, "No attested agents found")?;
                return Ok(());
            }
            write!(io.stdout, "Found {}:\n\n", attested(response.agents.len()))?;
            let zone = LocalZone::from_env(io.env);
            for agent in &response.agents {
                write_agent(io.stdout, &zone, agent)?;
            }
            Ok(())
        })
    }
}

impl Command for Count {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        self.filter.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let filter = self.filter.to_count()?;
            let mut client = AgentClient::new(self.socket.connect(io).await?);
            let request = CountAgentsRequest { filter: Some(filter) };
            let response = client.count_agents(request).await?.into_inner();
            let name = "spire.api.server.agent.v1.CountAgentsResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let count = usize::try_from(response.count).unwrap_or_default();
            writeln!(io.stdout, "{}", attested(count))?;
            Ok(())
        })
    }
}

/// All agents that match, page by page.
pub(super) async fn list_all(
    channel: Channel,
    filter: list_agents_request::Filter,
    output_mask: Option<pb::types::AgentMask>,
) -> Result<Vec<pb::types::Agent>, Error> {
    let mut client = AgentClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAgentsRequest {
            filter: Some(filter.clone()),
            output_mask,
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = client.list_agents(request).await?.into_inner();
        agents.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(agents);
        }
    }
}
