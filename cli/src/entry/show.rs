//! `entry show`: all entries, those that match, or one.
//!
//! Owns the paging and the order. Filters are `filter`'s, the text is `block`'s.

use steeple_api::pb;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_api::pb::server::entry::v1::{
    GetEntryRequest, ListEntriesRequest, ListEntriesResponse,
};
use tonic::transport::Channel;

use super::block::write_entry;
use super::filter::Filter;
use crate::command::{Command, Running};
use crate::conn::{REPLY_BYTES_MAX, ServerSocket};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Entries a page: SPIRE's number, well below a reply's limit.
const PAGE_SIZE: i32 = 500;

/// Shows entries, sorted.
#[derive(Debug, Default)]
pub(crate) struct Show {
    socket: ServerSocket,
    output: OutputFlag,
    entry_id: String,
    filter: Filter,
}

impl Command for Show {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("entryID", &mut self.entry_id, "The Entry ID of the record to show");
        self.filter.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            self.check()?;
            let filter = self.filter.to_list()?;
            let doing = if self.entry_id.is_empty() {
                "error fetching entries".to_owned()
            } else {
                format!("error fetching entry ID {}", self.entry_id)
            };
            let channel = self.socket.connect_for(io, &doing).await?;
            let mut client = EntryClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
            let mut entries = if self.entry_id.is_empty() {
                list(&mut client, filter).await?
            } else {
                let request = GetEntryRequest { id: self.entry_id.clone(), output_mask: None };
                let entry = client.get_entry(request).await;
                vec![entry.map_err(|status| Error::from(status).during(doing))?.into_inner()]
            };
            sort(&mut entries);
            let response = ListEntriesResponse { entries, next_page_token: String::new() };
            let name = "spire.api.server.entry.v1.ListEntriesResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let count = response.entries.len();
            writeln!(io.stdout, "Found {count} {}", if count == 1 { "entry" } else { "entries" })?;
            for entry in &response.entries {
                write_entry(io.stdout, entry)?;
            }
            Ok(())
        })
    }
}

impl Show {
    fn check(&self) -> Result<(), Error> {
        let filter = &self.filter;
        let combined = !filter.parent_id.is_empty()
            || !filter.spiffe_id.is_empty()
            || !filter.selectors.is_empty();
        if !self.entry_id.is_empty() && combined {
            return Err(Error::invalid("the -entryID flag can't be combined with others"));
        }
        Ok(())
    }
}

async fn list(
    client: &mut EntryClient<Channel>,
    filter: pb::server::entry::v1::list_entries_request::Filter,
) -> Result<Vec<pb::types::Entry>, Error> {
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListEntriesRequest {
            filter: Some(filter.clone()),
            output_mask: None,
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = client.list_entries(request).await;
        let page = page
            .map_err(|status| Error::from(status).during("error fetching entries"))?
            .into_inner();
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(entries);
        }
    }
}

/// By SPIFFE id, parent, lifetimes, selectors, as SPIRE sorts them; then by entry id, so that the
/// order is the same each time.
fn sort(entries: &mut [pb::types::Entry]) {
    for entry in entries.iter_mut() {
        entry.selectors.sort_by(|a, b| (&a.r#type, &a.value).cmp(&(&b.r#type, &b.value)));
    }
    entries.sort_by(|a, b| key(a).cmp(&key(b)));
}

type SortKey<'a> = (
    Option<(&'a str, &'a str)>,
    Option<(&'a str, &'a str)>,
    i32,
    i32,
    Vec<(&'a str, &'a str)>,
    &'a str,
);

fn key(entry: &pb::types::Entry) -> SortKey<'_> {
    let selectors = entry.selectors.iter().map(|s| (s.r#type.as_str(), s.value.as_str())).collect();
    (
        id_key(entry.spiffe_id.as_ref()),
        id_key(entry.parent_id.as_ref()),
        entry.x509_svid_ttl,
        entry.jwt_svid_ttl,
        selectors,
        &entry.id,
    )
}

fn id_key(id: Option<&pb::types::Spiffeid>) -> Option<(&str, &str)> {
    id.map(|id| (id.trust_domain.as_str(), id.path.as_str()))
}
