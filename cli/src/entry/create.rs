//! `entry create`.
//!
//! Owns the order of SPIRE's checks and the account of what was created. Entries come from flags
//! (`attributes`) or from a file (`data`), never from both.

use steeple_api::pb;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_api::pb::server::entry::v1::{BatchCreateEntryRequest, BatchCreateEntryResponse};

use super::attributes::{Attributes, succeeded, told};
use super::block::write_entry;
use super::data;
use crate::command::{Command, Running};
use crate::conn::{REPLY_BYTES_MAX, ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::ids::{parse_id, server_of};
use crate::io::Io;
use crate::output::OutputFlag;

/// Creates entries from flags or from a file.
#[derive(Debug, Default)]
pub(crate) struct Create {
    socket: ServerSocket,
    output: OutputFlag,
    attributes: Attributes,
    node: bool,
    data: String,
}

impl Command for Create {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        self.attributes.declare(flags);
        flags.flag(
            "node",
            &mut self.node,
            "If set, the entry is for matching agents rather than workloads",
        );
        flags.flag("data", &mut self.data, data::USAGE);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let entries = self.entries(io)?;
            let mut client = EntryClient::new(self.socket.connect(io).await?)
                .max_decoding_message_size(REPLY_BYTES_MAX);
            let request = BatchCreateEntryRequest { entries: entries.clone(), output_mask: None };
            let mut response =
                client.batch_create_entry(write_request(request)?).await?.into_inner();
            fill_in_failed(&mut response, entries);
            let name = "spire.api.server.entry.v1.BatchCreateEntryResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            print(&response, io)
        })
    }
}

impl Create {
    fn entries(&self, io: &mut Io<'_>) -> Result<Vec<pb::types::Entry>, Error> {
        if !self.data.is_empty() {
            return data::read_entries(&self.data, io);
        }
        self.check()?;
        self.attributes.warn_of_old(io)?;
        let spiffe_id = self.attributes.parsed_spiffe_id()?;
        let parent_id =
            if self.node { server_of(&spiffe_id)? } else { parse_id(&self.attributes.parent_id)? };
        Ok(vec![self.attributes.entry(spiffe_id, parent_id)?])
    }

    fn check(&self) -> Result<(), Error> {
        let given = &self.attributes;
        if given.selectors.is_empty() {
            return Err(Error::invalid("at least one selector is required"));
        }
        if self.node && !given.federates_with.is_empty() {
            return Err(Error::invalid("node entries can not federate"));
        }
        if given.parent_id.is_empty() && !self.node {
            return Err(Error::invalid("a parent ID is required if the node flag is not set"));
        }
        if given.spiffe_id.is_empty() {
            return Err(Error::invalid("a SPIFFE ID is required"));
        }
        given.check_ttls()
    }
}

/// The server leaves the entry out of a failed result, or puts the existing one there; people want
/// to see the one they asked for.
fn fill_in_failed(response: &mut BatchCreateEntryResponse, requested: Vec<pb::types::Entry>) {
    for (result, entry) in response.results.iter_mut().zip(requested) {
        if !succeeded(result.status.as_ref()) {
            result.entry = Some(entry);
        }
    }
}

fn print(response: &BatchCreateEntryResponse, io: &mut Io<'_>) -> Result<(), Error> {
    let (done, failed): (Vec<_>, Vec<_>) =
        response.results.iter().partition(|result| succeeded(result.status.as_ref()));
    for entry in done.iter().filter_map(|result| result.entry.as_ref()) {
        write_entry(io.stdout, entry)?;
    }
    for result in &failed {
        let told = told(result.status.as_ref());
        writeln!(io.stderr, "Failed to create the following entry {told}:")?;
        write_entry(io.stderr, &result.entry.clone().unwrap_or_default())?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Batch("failed to create one or more entries".to_owned()))
}
