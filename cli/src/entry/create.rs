//! `entry create`.
//!
//! Owns the order of SPIRE's checks and the account of what was created. Entries come from flags
//! (`attributes`) or from a file (`data`), never from both.

use steeple_api::pb;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_api::pb::server::entry::v1::{BatchCreateEntryRequest, BatchCreateEntryResponse};

use super::attributes::Attributes;
use super::data;
use super::results::write_results;
use crate::batch::succeeded;
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
            let results = response.results.iter();
            let results = results.map(|result| (result.status.as_ref(), result.entry.as_ref()));
            write_results("create", results, io)
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
