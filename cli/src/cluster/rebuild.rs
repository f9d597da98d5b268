//! `cluster snapshot restore` and `cluster recover`: a held member begins a new epoch.
//!
//! Owns the two calls and what is printed to do next. What may be rebuilt is the server's decision.

use std::io::{Read as _, Write};
use std::path::Path;

use steeple_api::pb::cluster::v1::rebuild_client::RebuildClient;
use steeple_api::pb::cluster::v1::{
    NewEpoch, RecoverRequest, RestoreOptions, RestoreSnapshotRequest,
};

use super::snapshot::{checked, open, required};
use super::table::line;
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::files::read_text;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{OutputFlag, go_time_utc};

/// Bytes sent at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Rebuilds a held member's registry from a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Restore {
    socket: ServerSocket,
    output: OutputFlag,
    file: String,
    confirm: String,
    new_cluster: String,
    trust: String,
    force: bool,
}

/// Rebuilds a held member's registry from what it has.
#[derive(Debug, Default)]
pub(crate) struct Recover {
    socket: ServerSocket,
    output: OutputFlag,
    confirm: String,
}

impl Command for Restore {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.word("FILE", &mut self.file);
        flags.flag("confirm", &mut self.confirm, "The name of the cluster that the snapshot is of");
        flags.flag(
            "new-cluster",
            &mut self.new_cluster,
            "Make a cluster of its own with this name, for drills",
        );
        flags.flag(
            "trust",
            &mut self.trust,
            "SPIFFE bundle (JSON) of authorities that were published after the snapshot",
        );
        flags.flag(
            "force",
            &mut self.force,
            "Restore even if the authorities of the snapshot have ended or are about to",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let path = required(&self.file, "a file", "restore FILE -confirm NAME")?;
            // A damaged file is not even sent.
            checked(path, open(path)?)?;
            let trust = match self.trust.as_str() {
                "" => String::new(),
                trust => read_text(trust, io)?,
            };
            let options = RestoreOptions {
                confirm: self.confirm.clone(),
                new_cluster: self.new_cluster.clone(),
                trust,
                force: self.force,
            };
            let mut client = RebuildClient::new(self.socket.connect_for_long(io).await?);
            let request = tokio_stream::iter(pieces(path, options)?);
            let reply = client.restore_snapshot(request).await;
            let reply =
                reply.map_err(|status| unanswered(status, "the restore", "Snapshot restored"))?;
            let reply = reply.into_inner();
            let name = "steeple.cluster.v1.RestoreSnapshotResponse";
            if !self.output.print_json(io, name, &reply)? {
                let begun = reply.begun.unwrap_or_default();
                let out = &mut *io.stdout;
                writeln!(out, "Restored cluster {} from {}.", begun.cluster_name, self.file)?;
                print_epoch(&begun, out)?;
                print_next(&begun, out)?;
            }
            Ok(())
        })
    }
}

impl Command for Recover {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("confirm", &mut self.confirm, "The name of the cluster");
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = RebuildClient::new(self.socket.connect_for_long(io).await?);
            let request = write_request(RecoverRequest { confirm: self.confirm.clone() })?;
            let reply = client.recover(request).await;
            let reply = reply.map_err(|status| unanswered(status, "the recovery", "Recovered"))?;
            let reply = reply.into_inner();
            if self.output.print_json(io, "steeple.cluster.v1.RecoverResponse", &reply)? {
                return Ok(());
            }
            let begun = reply.begun.unwrap_or_default();
            let out = &mut *io.stdout;
            writeln!(out, "Recovered cluster {} from what this member has.", begun.cluster_name)?;
            line(
                out,
                "Log kept to index",
                &format!("{} (term {})", reply.last_index, reply.last_term),
            )?;
            line(out, "Known committed", &reply.heard_index.to_string())?;
            let unsure = reply.last_index.saturating_sub(reply.heard_index);
            line(out, "Not known to be", &format!("{unsure} entries, kept all the same"))?;
            line(
                out,
                "May be lost",
                &format!("what other members acknowledged after index {}", reply.last_index),
            )?;
            print_epoch(&begun, out)?;
            print_next(&begun, out)?;
            Ok(())
        })
    }
}

/// Why a call failed. What the server answered is its own to word. If it was cut off (only then the status
/// has a source, for it was made here) the server has ended, and nobody knows whether before or after the
/// exchange; each attempt begins an epoch of its own, so another one does no harm.
fn unanswered(status: tonic::Status, what: &str, said: &str) -> Error {
    if std::error::Error::source(&status).is_none() {
        return status.into();
    }
    Error::Unhealthy {
        text: format!(
            "the server ended before it answered: {}; whether {what} took effect is not known",
            status.message()
        ),
        hint: Some(format!(
            "look at the end of the server's log: it says why, and \"{said}\" if {what} took effect; \
             without that line start the server with -hold and run the command again, which is safe in \
             either case"
        )),
    }
}

/// The options, then the file.
fn pieces(
    path: &Path,
    options: RestoreOptions,
) -> Result<impl Iterator<Item = RestoreSnapshotRequest> + Send + use<>, Error> {
    let mut file = open(path)?;
    let first = RestoreSnapshotRequest { options: Some(options), bytes: Vec::new() };
    let rest = std::iter::from_fn(move || {
        let mut bytes = Vec::with_capacity(PIECE_BYTES);
        let limit = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
        // A file that cannot be read to its end arrives truncated, and is refused.
        let count = (&mut file).take(limit).read_to_end(&mut bytes).unwrap_or(0);
        (count > 0).then_some(RestoreSnapshotRequest { options: None, bytes })
    });
    Ok(std::iter::once(first).chain(rest))
}

fn print_epoch(begun: &NewEpoch, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let counts = begun.counts.unwrap_or_default();
    let replaced = match begun.replaced.as_str() {
        "" => "none was there",
        path => path,
    };
    line(out, "Cluster ID", &begun.cluster_id)?;
    line(out, "Epoch", &begun.epoch.to_string())?;
    line(out, "Revision", &begun.revision.to_string())?;
    line(out, "Only member", &begun.member_id)?;
    line(out, "Lost from", &go_time_utc(begun.lost_from))?;
    line(out, "Entries", &counts.entries.to_string())?;
    line(out, "Agents", &counts.agents.to_string())?;
    line(out, "Join tokens", &format!("{} void", counts.join_tokens))?;
    line(out, "Old registry", replaced)?;
    if begun.replaced_cluster_id.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\nThe old registry is another cluster's of this name, {}: if this is the wrong snapshot, restore \
         the right one.",
        begun.replaced_cluster_id
    )
}

fn print_next(begun: &NewEpoch, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let lost_from = go_time_utc(begun.lost_from);
    writeln!(
        out,
        "\nNext:\n  \
         1. Start this member without -hold; remove the file DATA_DIR/hold if it is there.\n  \
         2. On every other member, move DATA_DIR/raft away and start it: it joins by itself.\n  \
         3. Agents attested after {lost_from} wait until you decide:\n     \
            spire-server cluster agents adopt, or spire-server cluster agents refuse."
    )
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[test]
    fn a_server_that_ended_is_told_from_one_that_refused() {
        let said = Status::unknown("transport error");
        let refused = unanswered(said, "the restore", "Snapshot restored");
        assert_eq!(refused.chain(), "rpc error: code = Unknown desc = transport error");
        assert_eq!((refused.code(), refused.hint()), (Some(Code::Unknown), None));
        let gone = Status::from_error(Box::new(std::io::Error::other("connection closed")));
        let gone = unanswered(gone, "the restore", "Snapshot restored");
        assert_eq!(
            gone.chain(),
            "the server ended before it answered: connection closed; whether the restore took effect \
             is not known"
        );
        let hint = gone.hint().expect("a way on");
        assert!(hint.contains("\"Snapshot restored\" if the restore took effect"), "{hint}");
        assert!(hint.contains("start the server with -hold and run the command again"), "{hint}");
    }
}
