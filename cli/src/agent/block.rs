//! What an agent looks like in human output: SPIRE's layout, times in the local zone.
//!
//! Owns labels and order. Which agents are shown is the commands' affair.

use std::io::{Result, Write};

use steeple_api::pb;

use crate::ids::shown;
use crate::output::LocalZone;

/// Writes one agent and the blank line after it.
pub(crate) fn write_agent(
    out: &mut (dyn Write + Send),
    zone: &LocalZone,
    agent: &pb::types::Agent,
) -> Result<()> {
    writeln!(out, "SPIFFE ID         : {}", shown(agent.id.as_ref()))?;
    writeln!(out, "Attestation type  : {}", agent.attestation_type)?;
    writeln!(out, "Expiration time   : {}", zone.go_time(agent.x509svid_expires_at))?;
    if agent.banned {
        writeln!(out, "Banned            : true")?;
    } else {
        writeln!(out, "Serial number     : {}", agent.x509svid_serial_number)?;
    }
    writeln!(out, "Can re-attest     : {}", agent.can_reattest)?;
    if !agent.agent_version.is_empty() {
        writeln!(out, "Agent version     : {}", agent.agent_version)?;
    }
    writeln!(out)
}

/// `3 attested agents`.
pub(crate) fn attested(count: usize) -> String {
    format!("{count} attested {}", if count == 1 { "agent" } else { "agents" })
}
