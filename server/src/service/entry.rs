//! `spire.api.server.entry.v1.Entry`: registration entries.
//!
//! Owns the calls of administrators; what agents ask of it is in [`super::sync`]. Requests become
//! checked types at once; what became of each item of a batch is decided by the registry and put
//! into SPIRE's words here.

use std::fmt::Display;
use std::sync::Arc;

use prost::Message as _;
use steeple_api::convert::entry as convert;
use steeple_api::convert::{id, selector};
use steeple_api::pb;
use steeple_api::pb::server::entry::v1 as rpc;
use steeple_raft_store::{Command, EntryOutcome, Outcome, Rejection};
use steeple_spiffe_core::entry::EntryUpdate;
use steeple_spiffe_core::{EntryId, RegistrationEntry};
use tonic::{Request, Response, Status, Streaming};

use super::batch::Batch;
use super::context::Context;
use super::paging::Page;
use super::sync;
use crate::gate::Call;
use crate::status::Failure;
use crate::view::EntryFilter;

/// The service.
#[derive(Clone, Debug)]
pub struct EntryService {
    context: Context,
}

impl EntryService {
    /// The service over a context.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl rpc::entry_server::Entry for EntryService {
    type SyncAuthorizedEntriesStream = sync::ResponseStream;

    async fn count_entries(
        &self,
        request: Request<rpc::CountEntriesRequest>,
    ) -> Result<Response<rpc::CountEntriesResponse>, Status> {
        let call = Call::of(&request)?;
        let filter = request.into_inner().filter.map(FilterFields::from);
        let filter = self.filter(filter)?;
        self.context.confirm(&call).await?;
        let count = call.showing(self.context.views().entries_count(&filter));
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        Ok(Response::new(rpc::CountEntriesResponse { count }))
    }

    async fn list_entries(
        &self,
        request: Request<rpc::ListEntriesRequest>,
    ) -> Result<Response<rpc::ListEntriesResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let filter = self.filter(request.filter.map(FilterFields::from))?;
        let page = Page::of(request.page_size, &request.page_token, "failed to list entries")?;
        self.context.confirm(&call).await?;
        let page_of_rows = self.context.views().entries_page(page.after, page.limit, &filter);
        let rows = call.showing(page_of_rows);
        let next_page_token = page.next_token(rows.last().map(|(row, _)| *row));
        let mask = request.output_mask.as_ref();
        let entries = rows.iter().map(|(_, entry)| masked(entry, mask)).collect();
        Ok(Response::new(rpc::ListEntriesResponse { entries, next_page_token }))
    }

    async fn get_entry(
        &self,
        request: Request<rpc::GetEntryRequest>,
    ) -> Result<Response<pb::types::Entry>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(Failure::invalid("missing ID").into());
        }
        self.context.confirm(&call).await?;
        // No entry has an id that does not parse.
        let found = EntryId::parse(&request.id).ok();
        let found = found.and_then(|id| call.showing(self.context.views().entry(&id)));
        let entry = found.ok_or_else(|| Failure::not_found("entry not found"))?;
        Ok(Response::new(masked(&entry, request.output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<rpc::BatchCreateEntryRequest>,
    ) -> Result<Response<rpc::BatchCreateEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let random = self.context.gate.random.as_ref();
        let mut batch = Batch::new(request.entries.len());
        for (number, entry) in request.entries.iter().enumerate() {
            let part = u32::try_from(number).unwrap_or(u32::MAX);
            let mint_id = || call.uuid(part, random);
            match convert::from_pb(entry, self.context.trust_domain(), mint_id) {
                Ok(checked) => batch.push(number, entry.encoded_len(), checked),
                Err(error) => batch.settle(number, Item::failed(error.entry_status("create"))),
            }
        }
        let doing = "failed to create entry";
        let outcomes = |outcome, len| outcomes(outcome, len, doing);
        batch.run(&self.context, &call, Command::CreateEntries, outcomes).await?;
        let mask = request.output_mask.as_ref();
        let results = batch.into_items().map(|item| rpc::batch_create_entry_response::Result {
            status: Some(item.status),
            entry: item.entry.map(|entry| created(&entry, mask)),
        });
        Ok(Response::new(rpc::BatchCreateEntryResponse { results: results.collect() }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<rpc::BatchUpdateEntryRequest>,
    ) -> Result<Response<rpc::BatchUpdateEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mut batch: Batch<EntryUpdate, Item> = Batch::new(request.entries.len());
        let mask = request.input_mask.as_ref();
        for (number, entry) in request.entries.iter().enumerate() {
            match convert::update_from_pb(entry, mask, self.context.trust_domain()) {
                Ok(checked) => batch.push(number, entry.encoded_len(), checked),
                Err(error) => batch.settle(number, Item::failed(error.entry_status("update"))),
            }
        }
        let doing = "failed to update entry";
        let outcomes = |outcome, len| outcomes(outcome, len, doing);
        batch.run(&self.context, &call, Command::UpdateEntries, outcomes).await?;
        let mask = request.output_mask.as_ref();
        let results = batch.into_items().map(|item| rpc::batch_update_entry_response::Result {
            status: Some(item.status),
            entry: item.entry.map(|entry| masked(&entry, mask)),
        });
        Ok(Response::new(rpc::BatchUpdateEntryResponse { results: results.collect() }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<rpc::BatchDeleteEntryRequest>,
    ) -> Result<Response<rpc::BatchDeleteEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let ids = request.into_inner().ids;
        let mut batch = Batch::new(ids.len());
        for (number, id) in ids.iter().enumerate() {
            match EntryId::parse(id) {
                Ok(checked) => batch.push(number, id.len(), checked),
                Err(_) if id.is_empty() => {
                    let failure = Failure::invalid("missing entry ID");
                    batch.settle(number, Item::failed(failure.into_item()));
                }
                // No entry has an id that does not parse.
                Err(_) => {
                    let failure = Failure::not_found("entry not found");
                    batch.settle(number, Item::failed(failure.into_item()));
                }
            }
        }
        let doing = "failed to delete entry";
        let outcomes = |outcome, len| outcomes(outcome, len, doing);
        batch.run(&self.context, &call, Command::DeleteEntries, outcomes).await?;
        let results = ids.into_iter().zip(batch.into_items()).map(|(id, item)| {
            rpc::batch_delete_entry_response::Result { status: Some(item.status), id }
        });
        Ok(Response::new(rpc::BatchDeleteEntryResponse { results: results.collect() }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<rpc::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<rpc::GetAuthorizedEntriesResponse>, Status> {
        let call = Call::of(&request)?;
        let mask = request.into_inner().output_mask;
        let entries = self.context.views().authorized_entries(&call.agent()?.id);
        let entries = entries.iter().map(|entry| masked(entry, mask.as_ref())).collect();
        Ok(Response::new(rpc::GetAuthorizedEntriesResponse { entries }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<rpc::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let call = Call::of(&request)?;
        let agent = call.agent()?.id.clone();
        let views = self.context.views().clone();
        Ok(Response::new(sync::respond(views, agent, request.into_inner())))
    }
}

impl EntryService {
    /// Reads a filter in SPIRE's order; each malformed part has its own text.
    fn filter(&self, fields: Option<FilterFields>) -> Result<EntryFilter, Failure> {
        let Some(fields) = fields else { return Ok(EntryFilter::default()) };
        let trust_domain = self.context.trust_domain();
        let malformed = |what: &str, error: &dyn Display| Failure::invalid_because(what, error);
        let parent_id = fields
            .parent_id
            .map(|parent| id::member_id(Some(&parent), trust_domain))
            .transpose()
            .map_err(|error| malformed("malformed parent ID filter", &error))?;
        let spiffe_id = fields
            .spiffe_id
            .map(|spiffe_id| id::workload_id(Some(&spiffe_id), trust_domain))
            .transpose()
            .map_err(|error| malformed("malformed SPIFFE ID filter", &error))?;
        let selectors = fields
            .selectors
            .map(|given| selector::filter_from_pb(&given))
            .transpose()
            .map_err(|error| malformed("malformed selectors filter", &error))?;
        let federates_with = fields
            .federates_with
            .map(|given| selector::federates_with_filter_from_pb(&given))
            .transpose()
            .map_err(|error| malformed("malformed federates with filter", &error))?;
        Ok(EntryFilter {
            spiffe_id,
            parent_id,
            selectors,
            federates_with,
            hint: fields.hint,
            downstream: fields.downstream.unwrap_or(false),
        })
    }
}

/// The fields that the filters of count and list share.
struct FilterFields {
    spiffe_id: Option<pb::types::Spiffeid>,
    parent_id: Option<pb::types::Spiffeid>,
    selectors: Option<pb::types::SelectorMatch>,
    federates_with: Option<pb::types::FederatesWithMatch>,
    hint: Option<String>,
    downstream: Option<bool>,
}

impl From<rpc::count_entries_request::Filter> for FilterFields {
    fn from(filter: rpc::count_entries_request::Filter) -> Self {
        Self {
            spiffe_id: filter.by_spiffe_id,
            parent_id: filter.by_parent_id,
            selectors: filter.by_selectors,
            federates_with: filter.by_federates_with,
            hint: filter.by_hint,
            downstream: filter.by_downstream,
        }
    }
}

impl From<rpc::list_entries_request::Filter> for FilterFields {
    fn from(filter: rpc::list_entries_request::Filter) -> Self {
        Self {
            spiffe_id: filter.by_spiffe_id,
            parent_id: filter.by_parent_id,
            selectors: filter.by_selectors,
            federates_with: filter.by_federates_with,
            hint: filter.by_hint,
            downstream: filter.by_downstream,
        }
    }
}

/// What became of one item.
#[derive(Clone, Debug)]
struct Item {
    status: pb::types::Status,
    entry: Option<Arc<RegistrationEntry>>,
}

impl Item {
    fn failed(status: pb::types::Status) -> Self {
        Self { status, entry: None }
    }

    fn done(entry: Option<Arc<RegistrationEntry>>) -> Self {
        Self { status: steeple_api::status::ok(), entry }
    }
}

impl From<Failure> for Item {
    fn from(failure: Failure) -> Self {
        Self::failed(failure.into_item())
    }
}

fn outcomes(outcome: Result<Outcome, Rejection>, len: usize, doing: &str) -> Vec<Item> {
    match outcome {
        Ok(Outcome::Entries(outcomes)) => {
            outcomes.into_iter().map(|outcome| settled(outcome, doing)).collect()
        }
        Ok(
            Outcome::Done | Outcome::Bundles(_) | Outcome::Relationships(_) | Outcome::Pruned(_),
        ) => Vec::new(),
        Err(rejection) => {
            vec![Item::failed(Failure::rejected(doing, &rejection).into_item()); len]
        }
    }
}

fn settled(outcome: EntryOutcome, doing: &str) -> Item {
    match outcome {
        EntryOutcome::Created(entry) | EntryOutcome::Updated(entry) => Item::done(Some(entry)),
        EntryOutcome::Deleted => Item::done(None),
        EntryOutcome::Similar(entry) => {
            let failure = Failure::already_exists("similar entry already exists");
            Item { status: failure.into_item(), entry: Some(entry) }
        }
        // SPIRE names the entry when it deletes, the action when it updates.
        EntryOutcome::Rejected(Rejection::EntryNotFound) if doing == "failed to update entry" => {
            Item::failed(Failure::not_found(doing).into_item())
        }
        EntryOutcome::Rejected(rejection) => {
            Item::failed(Failure::rejected(doing, &rejection).into_item())
        }
    }
}

fn masked(entry: &RegistrationEntry, mask: Option<&pb::types::EntryMask>) -> pb::types::Entry {
    let mut message = convert::to_pb(entry);
    convert::apply_mask(&mut message, mask);
    message
}

/// An answer to a creation shows DNS names sorted, as SPIRE's does; stored and signed they keep
/// their order.
fn created(entry: &RegistrationEntry, mask: Option<&pb::types::EntryMask>) -> pb::types::Entry {
    let mut message = masked(entry, mask);
    message.dns_names.sort();
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_get_spires_codes_and_texts() {
        let table = [
            (EntryOutcome::Deleted, "failed to delete entry", 0, "OK"),
            (
                EntryOutcome::Rejected(Rejection::EntryNotFound),
                "failed to delete entry",
                5,
                "entry not found",
            ),
            (
                EntryOutcome::Rejected(Rejection::EntryNotFound),
                "failed to update entry",
                5,
                "failed to update entry",
            ),
            (
                EntryOutcome::Rejected(Rejection::EntryIdTaken(EntryId::parse("e").expect("id"))),
                "failed to create entry",
                6,
                "failed to create entry: entry id e is taken",
            ),
        ];
        for (outcome, doing, code, message) in table {
            let item = settled(outcome, doing);
            assert_eq!((item.status.code, item.status.message.as_str()), (code, message));
        }
    }
}
