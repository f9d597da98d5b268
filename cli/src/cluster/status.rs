//! `cluster status`: one screen, and an exit code for scripts.
//!
//! Owns the layout and the verdict: whatever the server warns of fails the command, in both
//! formats. What is worth a warning is the server's affair.

use std::io::Write;

use steeple_api::pb::cluster::v1::authority::{Kind, Status as AuthorityStatus};
use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::this_member::State;
use steeple_api::pb::cluster::v1::{
    Authority, Quorum, Restored, SnapshotSchedule, StatusRequest, StatusResponse, ThisMember,
    UnknownAgents,
};

use super::federated::write_federated_bundles;
use super::table::{line, members, observations, or_dash, write_cluster_keys, write_table};
use crate::command::{Command, Running};
use crate::conn::ServerSocket;
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{OutputFlag, go_time_utc};

/// Shows the cluster as the asked member sees it. Fails when there is something to see to.
#[derive(Debug, Default)]
pub(crate) struct Status {
    socket: ServerSocket,
    output: OutputFlag,
}

impl Command for Status {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = ClusterClient::new(self.socket.connect(io).await?);
            let response = client.status(StatusRequest {}).await?.into_inner();
            if !self.output.print_json(io, "steeple.cluster.v1.StatusResponse", &response)? {
                print(&response, io.stdout)?;
            }
            match response.warnings.len() {
                0 => Ok(()),
                1 => Err(Error::Batch("cluster is not healthy: 1 warning".to_owned())),
                count => Err(Error::Batch(format!("cluster is not healthy: {count} warnings"))),
            }
        })
    }
}

fn print(response: &StatusResponse, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    line(out, "Cluster name", &or_dash(&response.cluster_name))?;
    line(out, "Cluster ID", &or_dash(&response.cluster_id))?;
    line(out, "Trust domain", &or_dash(&response.trust_domain))?;
    line(out, "Epoch", &response.epoch.to_string())?;
    line(out, "Feature level", &response.feature_level.to_string())?;
    if let Some(restored) = &response.restored {
        print_restored(restored, out)?;
    }
    print_this_member(&response.this_member.clone().unwrap_or_default(), out)?;
    print_quorum(&response.quorum.clone().unwrap_or_default(), out)?;
    if let Some(schedule) = &response.snapshots {
        print_schedule(schedule, out)?;
    }
    if !response.members.is_empty() {
        writeln!(out)?;
        write_table(out, &members(&response.members))?;
        writeln!(out)?;
        write_table(out, &observations(&response.members))?;
    }
    if !response.authorities.is_empty() {
        writeln!(out)?;
        write_table(out, &authorities(&response.authorities))?;
    }
    if !response.cluster_keys.is_empty() {
        writeln!(out)?;
        write_cluster_keys(out, &response.cluster_keys)?;
    }
    if !response.federated_bundles.is_empty() {
        writeln!(out)?;
        write_federated_bundles(out, &response.federated_bundles)?;
    }
    if !response.warnings.is_empty() {
        writeln!(out, "\nWarnings:")?;
    }
    for warning in &response.warnings {
        writeln!(out, "  {}: {}", warning.code, warning.message)?;
        if !warning.fix.is_empty() {
            writeln!(out, "    fix: {}", warning.fix)?;
        }
    }
    Ok(())
}

fn print_restored(restored: &Restored, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let (lost_from, at) = (go_time_utc(restored.lost_from), go_time_utc(restored.at));
    let unknown = match restored.unknown_agents() {
        UnknownAgents::Undecided => "wait: adopt or refuse them",
        UnknownAgents::Adopt => "adopted as they call",
        UnknownAgents::Refuse => "have to attest again",
    };
    line(out, "Epoch began", &format!("{at}, without what came after {lost_from}"))?;
    line(out, "Unknown agents", unknown)
}

fn print_schedule(
    schedule: &SnapshotSchedule,
    out: &mut (dyn Write + Send),
) -> std::io::Result<()> {
    let last = match schedule.saved_at {
        0 => format!("none by this member yet, in {}", schedule.directory),
        saved_at => format!("{} {}", go_time_utc(saved_at), schedule.file),
    };
    line(out, "Last snapshot", &last)
}

fn print_this_member(member: &ThisMember, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let state = match State::try_from(member.state).unwrap_or(State::Unspecified) {
        State::Unspecified => "unknown",
        State::Forming => "forming",
        State::Joining => "joining",
        State::Member => "member",
        State::Sealed => "sealed",
        State::Held => "held",
    };
    let state = match member.state_text.as_str() {
        "" => state.to_owned(),
        text => format!("{state}: {text}"),
    };
    line(out, "This member", &or_dash(&member.id))?;
    line(out, "Version", &or_dash(&member.version))?;
    line(out, "State", &state)?;
    line(out, "Applied", &format!("{} of {}", member.applied_index, member.commit_index))?;
    line(out, "Revision", &member.revision.to_string())?;
    let confirmed =
        member.staleness_s.map_or_else(|| "never".to_owned(), |age| format!("{age:.1}s ago"));
    line(out, "Last confirmed", &confirmed)
}

fn print_quorum(quorum: &Quorum, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let leader = match quorum.leader_id.as_str() {
        "" => "none".to_owned(),
        id => format!("{id} (term {})", quorum.term),
    };
    line(out, "Leader", &leader)?;
    let Quorum { voters, voters_reachable, needed, .. } = quorum;
    line(
        out,
        "Quorum",
        &format!("{voters_reachable} of {voters} voters reachable, {needed} needed"),
    )?;
    let contact = match (quorum.in_contact, quorum.text.as_str()) {
        (true, _) => "yes".to_owned(),
        (false, "") => format!("lost for {:.1}s", quorum.lost_for_s),
        (false, text) => format!("lost for {:.1}s: {text}", quorum.lost_for_s),
    };
    line(out, "In contact", &contact)
}

fn authorities(authorities: &[Authority]) -> Vec<Vec<String>> {
    let heading = ["AUTHORITY", "STATUS", "ISSUED", "EXPIRES", "ID"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(authorities.iter().map(|authority| {
        let kind = match Kind::try_from(authority.kind).unwrap_or(Kind::Unspecified) {
            Kind::X509 => "x509",
            Kind::Jwt => "jwt",
            Kind::Wit => "wit",
            Kind::Unspecified => "-",
        };
        let status = AuthorityStatus::try_from(authority.status);
        let status = match status.unwrap_or(AuthorityStatus::Unspecified) {
            AuthorityStatus::Prepared => "prepared",
            AuthorityStatus::Active => "active",
            AuthorityStatus::Old => "old",
            AuthorityStatus::Revoked => "revoked",
            AuthorityStatus::Unspecified => "-",
        };
        let status = match (status, authority.tainted) {
            ("revoked", _) | (_, false) => status.to_owned(),
            (_, true) => format!("{status}, tainted"),
        };
        vec![
            kind.to_owned(),
            status,
            go_time_utc(authority.issued_at),
            go_time_utc(authority.not_after),
            authority.id.clone(),
        ]
    }));
    rows
}
