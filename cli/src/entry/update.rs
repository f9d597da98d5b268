//! `entry update`: replaces entries whole.
//!
//! Owns the order of SPIRE's checks and the merge of additional attributes. No mask is sent: what
//! is not given is cleared.

use steeple_api::pb;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_api::pb::server::entry::v1::{BatchUpdateEntryRequest, GetEntryRequest};
use tonic::transport::Channel;

use super::attributes::Attributes;
use super::data;
use super::results::write_results;
use crate::batch::succeeded;
use crate::command::{Command, Running};
use crate::conn::{REPLY_BYTES_MAX, ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::ids::parse_id;
use crate::io::Io;
use crate::output::OutputFlag;

/// Replaces entries by what flags or a file say: what is not given is cleared.
#[derive(Debug, Default)]
pub(crate) struct Update {
    socket: ServerSocket,
    output: OutputFlag,
    attributes: Attributes,
    data: String,
}

impl Command for Update {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        self.attributes.declare(flags);
        flags.flag("data", &mut self.data, data::USAGE);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut entries = self.entries(io)?;
            let mut client = EntryClient::new(self.socket.connect(io).await?)
                .max_decoding_message_size(REPLY_BYTES_MAX);
            if let (true, Some(entry)) = (self.data.is_empty(), entries.first_mut()) {
                self.merge_additional(entry, &mut client).await?;
            }
            let request = BatchUpdateEntryRequest {
                entries: entries.clone(),
                input_mask: None,
                output_mask: None,
            };
            let mut response =
                client.batch_update_entry(write_request(request)?).await?.into_inner();
            for (result, entry) in response.results.iter_mut().zip(entries) {
                if !succeeded(result.status.as_ref()) {
                    result.entry = Some(entry);
                }
            }
            let name = "spire.api.server.entry.v1.BatchUpdateEntryResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let results = response.results.iter();
            let results = results.map(|result| (result.status.as_ref(), result.entry.as_ref()));
            write_results("update", results, io)
        })
    }
}

impl Update {
    fn entries(&self, io: &mut Io<'_>) -> Result<Vec<pb::types::Entry>, Error> {
        if !self.data.is_empty() {
            return data::read_entries(&self.data, io);
        }
        let given = &self.attributes;
        for (missing, text) in [
            (given.entry_id.is_empty(), "entry ID is required"),
            (given.selectors.is_empty(), "at least one selector is required"),
            (given.parent_id.is_empty(), "a parent ID is required"),
            (given.spiffe_id.is_empty(), "a SPIFFE ID is required"),
        ] {
            if missing {
                return Err(Error::invalid(text));
            }
        }
        given.check_ttls()?;
        given.warn_of_old(io)?;
        let parent_id = parse_id(&given.parent_id)?;
        let spiffe_id = given.parsed_spiffe_id()?;
        Ok(vec![given.entry(spiffe_id, parent_id)?])
    }

    /// The additional attributes have no mask of their own: giving one would clear the other, so
    /// the other is fetched first.
    async fn merge_additional(
        &self,
        entry: &mut pb::types::Entry,
        client: &mut EntryClient<Channel>,
    ) -> Result<(), Error> {
        let Some(wanted) = &mut entry.additional_attributes else { return Ok(()) };
        let request = GetEntryRequest { id: self.attributes.entry_id.clone(), output_mask: None };
        let existing = client.get_entry(request).await.map_err(|status| {
            Error::from(status)
                .during("failed to fetch existing entry to merge additional attributes")
        })?;
        if let Some(existing) = existing.into_inner().additional_attributes {
            if self.attributes.disable_x509_svid_prefetch.is_none() {
                wanted.disable_x509_svid_prefetch = existing.disable_x509_svid_prefetch;
            }
            if self.attributes.jwt_svid_include_jti.is_none() {
                wanted.jwt_svid_include_jti = existing.jwt_svid_include_jti;
            }
        }
        Ok(())
    }
}
