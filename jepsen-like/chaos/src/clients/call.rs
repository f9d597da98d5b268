//! One attempt at one call: what was answered, that surely nothing was done, or that nobody knows.

use std::error::Error as _;
use std::io::ErrorKind;
use std::time::Duration;

use steeple_api::pb;
use steeple_api::pb::server::agent::v1 as agents;
use steeple_api::pb::server::entry::v1 as entries;
use steeple_checker::history as h;
use tokio_stream::StreamExt as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::ask::{self, Ask, TOKEN_TTL_S};

/// A list of everything that a long run has made.
const REPLY_BYTES_MAX: usize = 64 << 20;

type EntryClient = entries::entry_client::EntryClient<Channel>;

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Said {
    /// A decision or a read.
    Answer { revision: u64, is_stale: bool, reply: h::Reply },
    /// It surely had no effect and will have none.
    NotDone(String),
    /// It may have had an effect, or may yet have one.
    Maybe(String),
    /// Nobody will ever know: the outcome, if there was one, is forgotten, and the request will
    /// never be applied from now on.
    Forgotten { revision: u64, text: String },
    /// Something that no client should be told.
    Strange(String),
}

/// Which attempt this is, and how long it may take.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The request id, if the call may be repeated.
    pub(crate) request_id: Option<String>,
    /// The client's patience.
    pub(crate) timeout: Duration,
    /// The request for a certificate of the client's key.
    pub(crate) csr: Vec<u8>,
}

/// Asks a member.
pub(crate) async fn attempt(channel: Channel, ask: &Ask, attempt: &Attempt) -> Said {
    // The server ends the call by itself; the margin is for its answer to arrive.
    let limit = attempt.timeout + Duration::from_millis(250);
    match tokio::time::timeout(limit, make(channel, ask, attempt)).await {
        Ok(Ok(said)) => said,
        Ok(Err(status)) => refused(&status),
        Err(_elapsed) => Said::Maybe("no answer in time".to_owned()),
    }
}

async fn make(channel: Channel, ask: &Ask, attempt: &Attempt) -> Result<Said, Status> {
    let entries = || {
        entries::entry_client::EntryClient::new(channel.clone())
            .max_decoding_message_size(REPLY_BYTES_MAX)
    };
    let mut agents = agents::agent_client::AgentClient::new(channel.clone());
    let id = |token: &str| Some(ask::spiffe_id(&ask::agent_path(token)));
    match ask {
        Ask::Create(new) => create(entries(), new, attempt).await,
        Ask::Update { id, hint } => update(entries(), id, hint, attempt).await,
        Ask::Delete(ids) => {
            let body = entries::BatchDeleteEntryRequest { ids: ids.clone() };
            let reply = entries().batch_delete_entry(attempt.request(body)?).await?;
            let (told, reply) = open(reply);
            Ok(batch(&told, reply.results.into_iter().map(|item| deleted(item.status))))
        }
        Ask::Get(id) => {
            let body = entries::GetEntryRequest { id: id.clone(), output_mask: None };
            let found = entries().get_entry(attempt.request(body)?).await;
            looked_up(found, |entry| h::Reply::Entry(entry.map(ask::entry)))
        }
        Ask::List { parent, .. } => list(entries(), parent.as_deref(), attempt).await,
        Ask::Count => {
            let body = entries::CountEntriesRequest { filter: None };
            let (told, reply) = open(entries().count_entries(attempt.request(body)?).await?);
            Ok(counted(&told, reply.count))
        }
        Ask::Token(token) => {
            let (ttl, token) = (TOKEN_TTL_S, token.clone());
            let body = agents::CreateJoinTokenRequest { ttl, token, agent_id: None };
            let (told, _token) = open(agents.create_join_token(attempt.request(body)?).await?);
            Ok(answer(&told, h::Reply::Done))
        }
        Ask::Attest { token, .. } => attest(agents, token, attempt).await,
        Ask::Ban(token) => {
            let body = agents::BanAgentRequest { id: id(token) };
            changed(agents.ban_agent(attempt.request(body)?).await)
        }
        Ask::Forget(token) => {
            let body = agents::DeleteAgentRequest { id: id(token) };
            changed(agents.delete_agent(attempt.request(body)?).await)
        }
        Ask::Agent(token) => {
            let body = agents::GetAgentRequest { id: id(token), output_mask: None };
            let found = agents.get_agent(attempt.request(body)?).await;
            looked_up(found, |agent| h::Reply::Agent(agent.map(ask::agent)))
        }
        Ask::CountAgents => {
            // Those that came by token: the others are no part of the history.
            let by_attestation_type = "join_token".to_owned();
            let filter =
                agents::count_agents_request::Filter { by_attestation_type, ..Default::default() };
            let body = agents::CountAgentsRequest { filter: Some(filter) };
            let (told, reply) = open(agents.count_agents(attempt.request(body)?).await?);
            Ok(counted(&told, reply.count))
        }
    }
}

async fn create(
    mut client: EntryClient,
    new: &[ask::NewEntry],
    attempt: &Attempt,
) -> Result<Said, Status> {
    let entries = new.iter().map(ask::NewEntry::message).collect();
    let body = entries::BatchCreateEntryRequest { entries, output_mask: None };
    let (told, reply) = open(client.batch_create_entry(attempt.request(body)?).await?);
    let items = reply.results.into_iter().map(|item| created(item.status, item.entry));
    Ok(batch(&told, items))
}

async fn update(
    mut client: EntryClient,
    id: &str,
    hint: &str,
    attempt: &Attempt,
) -> Result<Said, Status> {
    let (id, hint) = (id.to_owned(), hint.to_owned());
    let entry = pb::types::Entry { id, hint, ..pb::types::Entry::default() };
    let body = entries::BatchUpdateEntryRequest {
        entries: vec![entry],
        input_mask: Some(pb::types::EntryMask { hint: true, ..pb::types::EntryMask::default() }),
        output_mask: None,
    };
    let (told, reply) = open(client.batch_update_entry(attempt.request(body)?).await?);
    let items = reply.results.into_iter().map(|item| updated(item.status, item.entry));
    Ok(batch(&told, items))
}

async fn list(
    mut client: EntryClient,
    parent: Option<&str>,
    attempt: &Attempt,
) -> Result<Said, Status> {
    let filter = parent.map(|parent| entries::list_entries_request::Filter {
        by_parent_id: Some(ask::spiffe_id(parent)),
        ..Default::default()
    });
    let body = entries::ListEntriesRequest { filter, ..Default::default() };
    let (told, reply) = open(client.list_entries(attempt.request(body)?).await?);
    let entries = reply.entries.into_iter().map(ask::entry).collect();
    Ok(answer(&told, h::Reply::Page(h::Page { entries, last: true })))
}

async fn attest(
    mut client: agents::agent_client::AgentClient<Channel>,
    token: &str,
    attempt: &Attempt,
) -> Result<Said, Status> {
    let params = agents::attest_agent_request::Params {
        data: Some(pb::types::AttestationData {
            r#type: "join_token".to_owned(),
            payload: token.as_bytes().to_vec(),
        }),
        params: Some(agents::AgentX509svidParams { csr: attempt.csr.clone() }),
    };
    let step = Some(agents::attest_agent_request::Step::Params(params));
    let body = tokio_stream::once(agents::AttestAgentRequest { step });
    let asked = async {
        let mut replies = client.attest_agent(attempt.request(body)?).await?.into_inner();
        let reply = replies.next().await.unwrap_or_else(|| Err(Status::unknown("no result")))?;
        let told = replies.trailers().await?.unwrap_or_default();
        Ok::<_, Status>((told, reply))
    };
    match asked.await {
        Ok((told, _svid)) => Ok(answer(&told, h::Reply::Done)),
        Err(status) if status.message().contains("does not exist or has already been used") => {
            Ok(rejected(&status, h::Rejection::TokenUnknown))
        }
        Err(status) if status.message() == "failed to attest: agent is banned" => {
            Ok(rejected(&status, h::Rejection::AgentBanned))
        }
        Err(status) => Err(status),
    }
}

fn changed(outcome: Result<Response<()>, Status>) -> Result<Said, Status> {
    match outcome {
        Ok(response) => Ok(answer(&open(response).0, h::Reply::Done)),
        Err(status) if status.code() == Code::NotFound => {
            Ok(rejected(&status, h::Rejection::AgentNotFound))
        }
        Err(status) => Err(status),
    }
}

/// A row, or that there is none.
fn looked_up<T>(
    found: Result<Response<T>, Status>,
    reply: impl FnOnce(Option<T>) -> h::Reply,
) -> Result<Said, Status> {
    match found {
        Ok(response) => {
            let (told, row) = open(response);
            Ok(answer(&told, reply(Some(row))))
        }
        Err(status) if status.code() == Code::NotFound => {
            Ok(answer(status.metadata(), reply(None)))
        }
        Err(status) => Err(status),
    }
}

fn counted(told: &MetadataMap, count: i32) -> Said {
    answer(told, h::Reply::Count(u64::try_from(count).unwrap_or(0)))
}

fn rejected(status: &Status, rejection: h::Rejection) -> Said {
    answer(status.metadata(), h::Reply::Rejected(rejection))
}

/// What an item of a batch says, if it is a decision.
type Item = Result<h::ItemReply, NoDecision>;

/// An item of a batch that decides nothing.
#[derive(Debug)]
enum NoDecision {
    /// As [`Said::Forgotten`].
    Forgotten(String),
    /// As [`Said::Strange`].
    Strange(String),
}

impl NoDecision {
    fn of(what: &str, status: &pb::types::Status) -> Self {
        let code = Code::from_i32(status.code);
        let text = format!("{what}: {code:?}: {}", status.message);
        if code == Code::Aborted { Self::Forgotten(text) } else { Self::Strange(text) }
    }
}

fn created(status: Option<pb::types::Status>, entry: Option<pb::types::Entry>) -> Item {
    let status = status.unwrap_or_default();
    match (Code::from_i32(status.code), entry) {
        (Code::Ok, Some(entry)) => Ok(h::ItemReply::Created(ask::entry(entry))),
        (Code::AlreadyExists, Some(entry)) => Ok(h::ItemReply::Similar(ask::entry(entry))),
        (Code::AlreadyExists, None) => {
            let id = status.message.strip_prefix("failed to create entry: entry id ");
            let id = id.and_then(|rest| rest.strip_suffix(" is taken"));
            let id = id.ok_or_else(|| NoDecision::of("create", &status))?.to_owned();
            Ok(h::ItemReply::Rejected(h::Rejection::EntryIdTaken { id }))
        }
        _ => Err(NoDecision::of("create", &status)),
    }
}

fn updated(status: Option<pb::types::Status>, entry: Option<pb::types::Entry>) -> Item {
    let status = status.unwrap_or_default();
    match (Code::from_i32(status.code), entry) {
        (Code::Ok, Some(entry)) => Ok(h::ItemReply::Updated(ask::entry(entry))),
        (Code::NotFound, _) => Ok(h::ItemReply::Rejected(h::Rejection::EntryNotFound)),
        _ => Err(NoDecision::of("update", &status)),
    }
}

fn deleted(status: Option<pb::types::Status>) -> Item {
    let status = status.unwrap_or_default();
    let code = Code::from_i32(status.code);
    if code == Code::Ok {
        return Ok(h::ItemReply::Deleted);
    }
    if code == Code::NotFound {
        return Ok(h::ItemReply::Rejected(h::Rejection::EntryNotFound));
    }
    Err(NoDecision::of("delete", &status))
}

fn batch(told: &MetadataMap, items: impl Iterator<Item = Item>) -> Said {
    match items.collect::<Result<Vec<_>, _>>() {
        Ok(items) => answer(told, h::Reply::Items(items)),
        Err(NoDecision::Forgotten(text)) => match revision(told) {
            Some(revision) => Said::Forgotten { revision, text },
            None => Said::Strange(text),
        },
        Err(NoDecision::Strange(text)) => Said::Strange(text),
    }
}

fn open<T>(response: Response<T>) -> (MetadataMap, T) {
    let (told, body, _extensions) = response.into_parts();
    (told, body)
}

fn answer(told: &MetadataMap, reply: h::Reply) -> Said {
    match revision(told) {
        Some(revision) => {
            let is_stale = told.get("steeple-staleness").is_some();
            Said::Answer { revision, is_stale, reply }
        }
        None => Said::Strange("an answer without a revision".to_owned()),
    }
}

pub(crate) fn revision(told: &MetadataMap) -> Option<u64> {
    told.get("steeple-revision")?.to_str().ok()?.parse().ok()
}

/// What a call that failed as a whole means for its effect.
fn refused(status: &Status) -> Said {
    let text = format!("{:?}: {}", status.code(), status.message());
    let Some(revision) = revision(status.metadata()) else {
        // Not a server's answer: the connection broke, or there was none.
        return if was_never_sent(status) { Said::NotDone(text) } else { Said::Maybe(text) };
    };
    match status.code() {
        Code::Unavailable if status.message().starts_with("outcome unknown") => Said::Maybe(text),
        Code::Unavailable | Code::ResourceExhausted => Said::NotDone(text),
        Code::DeadlineExceeded | Code::Cancelled => Said::Maybe(text),
        Code::Aborted => Said::Forgotten { revision, text },
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Said::Strange(text),
    }
}

/// Whether there was no connection to send anything on.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound);
        }
        cause = error.source();
    }
    false
}

impl Attempt {
    fn request<T>(&self, body: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(body);
        request.set_timeout(self.timeout);
        if let Some(id) = &self.request_id {
            let id = MetadataValue::try_from(id.as_str());
            let id = id.map_err(|_not_ascii| Status::internal("a request id that is no text"))?;
            request.metadata_mut().insert("steeple-request-id", id);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_request_is_not_tried_again_and_says_what_the_next_id_must_know() {
        let mut status = Status::aborted("request forgotten");
        assert!(matches!(refused(&status), Said::Maybe(_)), "no server's answer");
        status.metadata_mut().insert("steeple-revision", MetadataValue::from_static("71"));
        assert!(matches!(refused(&status), Said::Forgotten { revision: 71, .. }));
        // Of a batch, each item says so.
        let status_told = status.metadata();
        let item = |code: Code| {
            let status = pb::types::Status { code: code as i32, message: String::new() };
            batch(status_told, [deleted(Some(status))].into_iter())
        };
        assert!(matches!(item(Code::Aborted), Said::Forgotten { revision: 71, .. }));
        assert!(matches!(item(Code::Internal), Said::Strange(_)));
        assert!(matches!(item(Code::NotFound), Said::Answer { revision: 71, .. }));
    }
}
