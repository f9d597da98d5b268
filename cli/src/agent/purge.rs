//! `agent purge`: deletes agents that can come back by themselves and have been gone for long.
//!
//! Owns the choice of agents (by this machine's clock, as SPIRE does it) and the account of what
//! was deleted. A failed deletion is told and does not fail the command.

use std::io::Write as _;

use serde_json::{Value, json};
use steeple_api::pb;
use steeple_api::pb::server::agent::v1::agent_client::AgentClient;
use steeple_api::pb::server::agent::v1::{DeleteAgentRequest, list_agents_request};

use super::list::list_all;
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::{FlagSet, GoDuration};
use crate::ids::shown;
use crate::io::Io;
use crate::output::{Format, OutputFlag, print_value};

/// Deletes agents whose SVID expired long ago.
#[derive(Debug)]
pub(crate) struct Purge {
    socket: ServerSocket,
    output: OutputFlag,
    expired_for: GoDuration,
    dry_run: bool,
}

impl Default for Purge {
    fn default() -> Self {
        Self {
            socket: ServerSocket::default(),
            output: OutputFlag::default(),
            expired_for: GoDuration::from_secs(720 * 3600),
            dry_run: false,
        }
    }
}

/// An agent that was found, and what became of it.
struct Expired {
    id: String,
    deleted: bool,
    error: String,
}

impl Command for Purge {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag(
            "expiredFor",
            &mut self.expired_for,
            "How long an agent's SVID must have been expired for the agent to be purged",
        );
        flags.flag("dryRun", &mut self.dry_run, "If set, agents are listed and nothing is deleted");
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let expired = self.purge(io).await?;
            match self.output.format() {
                Format::Json => print_value(io, to_json(&expired)),
                Format::Pretty => self.print(&expired, io),
            }
        })
    }
}

impl Purge {
    async fn purge(&self, io: &mut Io<'_>) -> Result<Vec<Expired>, Error> {
        let channel = self.socket.connect_for(io, "failed to list agents").await?;
        let filter =
            list_agents_request::Filter { by_can_reattest: Some(true), ..Default::default() };
        let mask = pb::types::AgentMask { x509svid_expires_at: true, ..Default::default() };
        let agents = list_all(channel.clone(), filter, Some(mask)).await;
        let agents = agents.map_err(|error| error.during("failed to list agents"))?;
        let now_ns = i128::from(io.clock.now().unix_ms()) * 1_000_000;
        let mut client = AgentClient::new(channel);
        let mut expired = Vec::new();
        for agent in agents {
            let since_ns = now_ns - i128::from(agent.x509svid_expires_at) * 1_000_000_000;
            if since_ns <= i128::from(self.expired_for.nanoseconds()) {
                continue;
            }
            let id = shown(agent.id.as_ref());
            let mut found = Expired { id, deleted: false, error: String::new() };
            if !self.dry_run {
                let request = write_request(DeleteAgentRequest { id: agent.id })?;
                match client.delete_agent(request).await {
                    Ok(_) => found.deleted = true,
                    Err(status) => found.error = Error::from(status).chain(),
                }
            }
            expired.push(found);
        }
        Ok(expired)
    }

    fn print(&self, expired: &[Expired], io: &mut Io<'_>) -> Result<(), Error> {
        let out = &mut io.stdout;
        if expired.is_empty() {
            writeln!(out, "No agents to purge.")?;
            return Ok(());
        }
        let noun = if expired.len() == 1 { "agent" } else { "agents" };
        write!(out, "Found {} expired {noun}\n\n", expired.len())?;
        if self.dry_run {
            writeln!(out, "\nAgents that can be purged:")?;
            for agent in expired {
                writeln!(out, "SPIFFE ID         : {}", agent.id)?;
            }
            return Ok(());
        }
        let (purged, kept): (Vec<_>, Vec<_>) = expired.iter().partition(|agent| agent.deleted);
        if !purged.is_empty() {
            writeln!(out, "Agents purged:")?;
        }
        for agent in purged {
            writeln!(out, "SPIFFE ID         : {}", agent.id)?;
        }
        if !kept.is_empty() {
            writeln!(out, "Agents not purged:")?;
        }
        for agent in kept {
            writeln!(out, "SPIFFE ID         : {}", agent.id)?;
            writeln!(out, "Error             : {}", agent.error)?;
        }
        Ok(())
    }
}

/// An absent error is null here, and nulls are removed.
fn to_json(expired: &[Expired]) -> Value {
    let agents: Vec<Value> = expired
        .iter()
        .map(|agent| {
            let error = (!agent.error.is_empty()).then_some(&agent.error);
            json!({ "agent_id": agent.id, "deleted": agent.deleted, "error": error })
        })
        .collect();
    json!({ "expired_agents": agents })
}
