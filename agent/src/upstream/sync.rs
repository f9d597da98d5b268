//! Which entries this agent is entitled to: the revision diff of `SyncAuthorizedEntries`.
//!
//! Owns the conversation of `spire-api` 2.3. Small lists come whole; of long ones the server sends
//! ids and revisions, and only what differs is asked for. What cannot be parsed is skipped with a
//! warning: a newer server must not stop an agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use steeple_api::convert;
use steeple_api::pb;
use steeple_spiffe_core::{EntryId, SpiffeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tracing::warn;

use crate::limits::SERVER_MESSAGE_BYTES_MAX;
use crate::store::Entry;

type Client = pb::server::entry::v1::entry_client::EntryClient<Channel>;
type Request = pb::server::entry::v1::SyncAuthorizedEntriesRequest;
type Response = pb::server::entry::v1::SyncAuthorizedEntriesResponse;

/// Entries by id.
type Entries = BTreeMap<EntryId, Arc<Entry>>;

/// The fields an agent needs (SPIRE's own choice).
const MASK: pb::types::EntryMask = pb::types::EntryMask {
    spiffe_id: true,
    parent_id: false,
    selectors: true,
    x509_svid_ttl: false,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: false,
    dns_names: false,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: false,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// The complete list, given what is `known` already. A server that doesn't know the diff is asked
/// for the whole list.
pub async fn fetch_entries(
    channel: Channel,
    agent_id: &SpiffeId,
    known: &Entries,
) -> Result<Entries, Status> {
    let mut client = Client::new(channel).max_decoding_message_size(SERVER_MESSAGE_BYTES_MAX);
    // One page of ids may wait to be sent; the conversation is strictly request and answer.
    let (requests, outgoing) = mpsc::channel(1);
    let first = Request { output_mask: Some(MASK), ids: Vec::new() };
    send(&requests, first).await?;
    match client.sync_authorized_entries(ReceiverStream::new(outgoing)).await {
        Ok(response) => sync(requests, response.into_inner(), agent_id, known).await,
        Err(status) if status.code() == Code::Unimplemented => whole_list(client, agent_id).await,
        Err(status) => Err(status),
    }
}

async fn whole_list(mut client: Client, agent_id: &SpiffeId) -> Result<Entries, Status> {
    let request = pb::server::entry::v1::GetAuthorizedEntriesRequest { output_mask: Some(MASK) };
    let response = client.get_authorized_entries(request).await?.into_inner();
    Ok(parse(&response.entries, agent_id))
}

async fn sync(
    requests: mpsc::Sender<Request>,
    mut responses: Streaming<Response>,
    agent_id: &SpiffeId,
    known: &Entries,
) -> Result<Entries, Status> {
    let first = next(&mut responses).await?;
    if first.entry_revisions.is_empty() {
        return Ok(parse(&first.entries, agent_id));
    }
    // The stock agent takes the server's page size from the first page; so do we.
    let page_size = first.entry_revisions.len();
    let mut revisions = Vec::new();
    let mut page = first;
    loop {
        if !page.entries.is_empty() {
            return Err(Status::internal("unexpected entry in response receiving revisions"));
        }
        revisions.append(&mut page.entry_revisions);
        if !page.more {
            break;
        }
        page = next(&mut responses).await?;
    }
    let (mut entries, wanted) = split(&revisions, known);
    for ids in wanted.chunks(page_size) {
        send(&requests, Request { output_mask: None, ids: ids.to_vec() }).await?;
        loop {
            let page = next(&mut responses).await?;
            if !page.entry_revisions.is_empty() {
                return Err(Status::internal("unexpected revision in response receiving entries"));
            }
            entries.extend(parse(&page.entries, agent_id));
            if !page.more {
                break;
            }
        }
    }
    Ok(entries)
}

/// Parts the server's list into what is known in the same version and the ids to ask for.
fn split(
    revisions: &[pb::server::entry::v1::EntryRevision],
    known: &Entries,
) -> (Entries, Vec<String>) {
    let mut unchanged = Entries::new();
    let mut wanted = Vec::new();
    for theirs in revisions {
        let ours = EntryId::parse(&theirs.id).ok().and_then(|id| known.get(&id));
        match ours {
            Some(entry) if entry.is_version(theirs.revision_number, theirs.created_at) => {
                unchanged.insert(entry.id.clone(), Arc::clone(entry));
            }
            Some(_) | None => wanted.push(theirs.id.clone()),
        }
    }
    (unchanged, wanted)
}

async fn send(requests: &mpsc::Sender<Request>, request: Request) -> Result<(), Status> {
    let closed = |_: mpsc::error::SendError<Request>| Status::unavailable("entry sync was cut off");
    requests.send(request).await.map_err(closed)
}

async fn next(responses: &mut Streaming<Response>) -> Result<Response, Status> {
    let missing = || Status::unavailable("entry sync ended early");
    responses.message().await?.ok_or_else(missing)
}

fn parse(messages: &[pb::types::Entry], agent_id: &SpiffeId) -> Entries {
    let parsed = messages.iter().filter_map(|message| match parse_one(message, agent_id) {
        Ok(entry) => Some((entry.id.clone(), Arc::new(entry))),
        Err(error) => {
            warn!(
                entry = message.id,
                error = %error,
                "Received malformed entry from SPIRE server; are the server and agent versions compatible?",
            );
            None
        }
    });
    parsed.collect()
}

fn parse_one(
    message: &pb::types::Entry,
    agent_id: &SpiffeId,
) -> Result<Entry, convert::ConvertError> {
    let entry = convert::entry::authorized_from_pb(message, agent_id)?;
    let attributes = entry.additional_attributes.unwrap_or_default();
    Ok(Entry {
        id: entry.id,
        spiffe_id: entry.spiffe_id,
        selectors: entry.selectors,
        federates_with: entry.federates_with,
        revision: entry.revision,
        created_at_unix_s: entry.created_at.unix_s(),
        hint: entry.hint,
        store_svid: entry.store_svid,
        prefetch: !attributes.disable_x509_svid_prefetch,
        jwt_has_id: attributes.jwt_svid_include_jti,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, revision: i64) -> pb::types::Entry {
        pb::types::Entry {
            id: id.to_owned(),
            spiffe_id: Some(pb::types::Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: format!("/{id}"),
            }),
            selectors: vec![pb::types::Selector {
                r#type: "unix".to_owned(),
                value: "uid:1".to_owned(),
            }],
            revision_number: revision,
            created_at: 7,
            ..Default::default()
        }
    }

    fn agent() -> SpiffeId {
        SpiffeId::parse("spiffe://example.org/spire/agent/x").expect("test id")
    }

    #[test]
    fn only_new_and_changed_entries_are_asked_for() {
        let known =
            parse(&[message("same", 1), message("changed", 1), message("gone", 1)], &agent());
        let revision = |id: &str, revision_number, created_at| {
            pb::server::entry::v1::EntryRevision { id: id.to_owned(), revision_number, created_at }
        };
        let theirs = [revision("same", 1, 7), revision("changed", 2, 7), revision("new", 0, 9)];
        let (unchanged, wanted) = split(&theirs, &known);
        assert_eq!(unchanged.keys().map(EntryId::as_str).collect::<Vec<_>>(), ["same"]);
        assert_eq!(wanted, ["changed", "new"]);
    }

    #[test]
    fn a_recreated_entry_with_the_same_revision_is_asked_for() {
        let known = parse(&[message("a", 0)], &agent());
        let recreated = pb::server::entry::v1::EntryRevision {
            id: "a".to_owned(),
            revision_number: 0,
            created_at: 8,
        };
        assert_eq!(split(&[recreated], &known).1, ["a"]);
    }

    #[test]
    fn entries_that_do_not_parse_are_left_out() {
        let mut bad = message("bad", 0);
        bad.spiffe_id = None;
        let entries = parse(&[bad, message("good", 0)], &agent());
        assert_eq!(entries.keys().map(EntryId::as_str).collect::<Vec<_>>(), ["good"]);
    }
}
