//! `entry delete`.
//!
//! Owns the list of ids, from a flag or a file, and SPIRE's summary with its missing newline.

use serde_json::Value;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_api::pb::server::entry::v1::{BatchDeleteEntryRequest, BatchDeleteEntryResponse};

use crate::batch::{succeeded, told};
use crate::command::{Command, Running};
use crate::conn::{REPLY_BYTES_MAX, ServerSocket, write_request};
use crate::error::Error;
use crate::files::read_text;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Deletes one entry, or those that a file names.
#[derive(Debug, Default)]
pub(crate) struct Delete {
    socket: ServerSocket,
    output: OutputFlag,
    entry_id: String,
    file: String,
}

impl Command for Delete {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag(
            "entryID",
            &mut self.entry_id,
            "The Registration Entry ID of the record to delete",
        );
        flags.flag(
            "file",
            &mut self.file,
            "Path to a file of JSON with the IDs to delete, {\"ids\":[\"...\"]}. If set to '-', read the JSON from stdin",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let ids = self.ids(io)?;
            let mut client = EntryClient::new(self.socket.connect(io).await?)
                .max_decoding_message_size(REPLY_BYTES_MAX);
            let request = write_request(BatchDeleteEntryRequest { ids })?;
            let response = client.batch_delete_entry(request).await?.into_inner();
            let name = "spire.api.server.entry.v1.BatchDeleteEntryResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            print(&response, io)
        })
    }
}

impl Delete {
    fn ids(&self, io: &mut Io<'_>) -> Result<Vec<String>, Error> {
        if !self.file.is_empty() {
            return parse_ids(&read_text(&self.file, io)?);
        }
        if self.entry_id.is_empty() {
            return Err(Error::invalid("an entry ID is required"));
        }
        Ok(vec![self.entry_id.clone()])
    }
}

fn parse_ids(text: &str) -> Result<Vec<String>, Error> {
    let wrong = |what: String| Error::invalid(format!("failed to parse JSON: {what}"));
    let tree: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let members =
        tree.as_object().ok_or_else(|| wrong("expected an object with \"ids\"".to_owned()))?;
    let ids = members.iter().find(|(key, _)| key.eq_ignore_ascii_case("ids"));
    let Some((_, Value::Array(ids))) = ids else {
        return Err(wrong("\"ids\" must be a list of entry IDs".to_owned()));
    };
    let text = |id: &Value| id.as_str().map(str::to_owned);
    let ids: Option<Vec<String>> = ids.iter().map(text).collect();
    ids.ok_or_else(|| wrong("\"ids\" must hold texts only".to_owned()))
}

/// The final line has no newline and no singular: scripts know it so.
fn print(response: &BatchDeleteEntryResponse, io: &mut Io<'_>) -> Result<(), Error> {
    let (done, failed): (Vec<_>, Vec<_>) =
        response.results.iter().partition(|result| succeeded(result.status.as_ref()));
    for result in &done {
        writeln!(io.stdout, "Deleted entry with ID: {}", result.id)?;
    }
    if !done.is_empty() {
        write!(io.stdout, "\n\n")?;
    }
    for result in &failed {
        let told = told(result.status.as_ref());
        writeln!(io.stderr, "Failed to delete entry with ID {} {told}", result.id)?;
    }
    if failed.is_empty() {
        write!(io.stdout, "Deleted {} entries successfully", done.len())?;
        return Ok(());
    }
    let (done, failed) = (done.len(), failed.len());
    if done == 0 {
        write!(io.stdout, "\n\nFailed to delete {failed} entries")?;
    } else {
        write!(
            io.stdout,
            "\n\nDeleted {done} entries successfully, but failed to delete {failed} entries"
        )?;
    }
    Err(Error::Batch("failed to delete one or more entries".to_owned()))
}
