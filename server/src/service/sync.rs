//! SyncAuthorizedEntries: how a stock agent learns of its entries (`spire-api` 2.3).
//!
//! Owns the protocol: few entries are sent whole at once; of many first the revisions go out, in
//! pages, and then the entries that the agent asks for. The list is that of the stream's beginning.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use steeple_api::convert::entry as convert;
use steeple_api::pb;
use steeple_api::pb::server::entry::v1 as rpc;
use steeple_spiffe_core::{RegistrationEntry, SpiffeId};
use tonic::{Status, Streaming};

use crate::status::Failure;
use crate::view::Views;

/// Entries or revisions of one message. Stock agents take the size from the first answer.
const PAGE: usize = 500;

/// The answers of one stream.
pub(super) type ResponseStream =
    Pin<Box<dyn Stream<Item = Result<rpc::SyncAuthorizedEntriesResponse, Status>> + Send>>;

/// Answers a stream of requests of an agent.
pub(super) fn respond(
    views: Views,
    agent: SpiffeId,
    requests: Streaming<rpc::SyncAuthorizedEntriesRequest>,
) -> ResponseStream {
    let session = Session { views, agent, phase: Phase::First, ready: VecDeque::new() };
    Box::pin(futures::stream::try_unfold(
        (session, requests),
        |(mut session, mut requests)| async {
            loop {
                if let Some(response) = session.ready.pop_front() {
                    return Ok(Some((response, (session, requests))));
                }
                if matches!(session.phase, Phase::Over) {
                    return Ok(None);
                }
                let Some(request) = requests.message().await? else { return Ok(None) };
                session.take(request)?;
            }
        },
    ))
}

/// One agent's conversation. Pure: requests go in, answers queue up.
struct Session {
    views: Views,
    agent: SpiffeId,
    phase: Phase,
    ready: VecDeque<rpc::SyncAuthorizedEntriesResponse>,
}

enum Phase {
    /// The first request has not come.
    First,
    /// Revisions are out; the agent asks for entries.
    Asking(Box<Offer>),
    /// Everything has been said.
    Over,
}

struct Offer {
    mask: Option<pb::types::EntryMask>,
    entries: BTreeMap<String, Arc<RegistrationEntry>>,
}

impl Session {
    fn take(&mut self, request: rpc::SyncAuthorizedEntriesRequest) -> Result<(), Failure> {
        match &self.phase {
            Phase::First => {
                let entries = self.views.authorized_entries(&self.agent);
                (self.phase, self.ready) = open(request, entries)?;
            }
            Phase::Asking(offer) => self.ready = offer.answer(request.ids),
            Phase::Over => {}
        }
        Ok(())
    }
}

fn open(
    request: rpc::SyncAuthorizedEntriesRequest,
    entries: Vec<Arc<RegistrationEntry>>,
) -> Result<(Phase, VecDeque<rpc::SyncAuthorizedEntriesResponse>), Failure> {
    if !request.ids.is_empty() {
        return Err(Failure::invalid("specifying IDs on initial request is not supported"));
    }
    let mask = request.output_mask;
    if mask.as_ref().is_some_and(|mask| !mask.revision_number) {
        return Err(Failure::invalid("revision number cannot be masked"));
    }
    if entries.len() <= PAGE {
        let entries = entries.iter().map(|entry| masked(entry, mask.as_ref())).collect();
        let whole = rpc::SyncAuthorizedEntriesResponse { entries, ..Default::default() };
        return Ok((Phase::Over, VecDeque::from([whole])));
    }
    let pages = entries.chunks(PAGE).map(|page| rpc::SyncAuthorizedEntriesResponse {
        entry_revisions: page.iter().map(|entry| convert::revision_to_pb(entry)).collect(),
        more: true,
        ..Default::default()
    });
    let mut pages: VecDeque<_> = pages.collect();
    if let Some(last) = pages.back_mut() {
        last.more = false;
    }
    let entries = entries.into_iter().map(|entry| (entry.id.as_str().to_owned(), entry)).collect();
    Ok((Phase::Asking(Box::new(Offer { mask, entries })), pages))
}

impl Offer {
    /// The entries with the given ids, sorted; ids that the agent is not authorised for are left
    /// out. There always is an answer, if an empty one.
    fn answer(&self, mut ids: Vec<String>) -> VecDeque<rpc::SyncAuthorizedEntriesResponse> {
        ids.sort();
        let found: Vec<_> = ids
            .iter()
            .filter_map(|id| self.entries.get(id))
            .map(|entry| masked(entry, self.mask.as_ref()))
            .collect();
        let mut pages: VecDeque<_> = found
            .chunks(PAGE)
            .map(|page| rpc::SyncAuthorizedEntriesResponse {
                entries: page.to_vec(),
                more: true,
                ..Default::default()
            })
            .collect();
        match pages.back_mut() {
            Some(last) => last.more = false,
            None => pages.push_back(rpc::SyncAuthorizedEntriesResponse::default()),
        }
        pages
    }
}

fn masked(entry: &RegistrationEntry, mask: Option<&pb::types::EntryMask>) -> pb::types::Entry {
    let mut message = convert::to_pb(entry);
    convert::apply_mask(&mut message, mask);
    message
}

#[cfg(test)]
mod tests {

    use steeple_spiffe_core::{EntryId, Selector, SelectorSet, Timestamp};

    use super::*;

    fn entry(number: usize) -> Arc<RegistrationEntry> {
        Arc::new(RegistrationEntry {
            revision: i64::try_from(number).expect("small"),
            created_at: Timestamp::from_unix_s(5),
            ..RegistrationEntry::new(
                EntryId::parse(&format!("e{number:04}")).expect("an id"),
                SpiffeId::parse("spiffe://example.org/web").expect("an id"),
                SpiffeId::parse("spiffe://example.org/spire/agent/a").expect("an id"),
                SelectorSet::from([Selector::new("unix", "uid:1").expect("a selector")]),
            )
        })
    }

    fn entries(count: usize) -> Vec<Arc<RegistrationEntry>> {
        (0..count).map(entry).collect()
    }

    #[test]
    fn up_to_a_page_of_entries_is_sent_whole_and_ends_the_stream() {
        let (phase, ready) = open(Default::default(), entries(PAGE)).expect("accepted");
        assert!(matches!(phase, Phase::Over));
        let [only] = ready.make_contiguous_for_test();
        assert_eq!((only.entries.len(), only.entry_revisions.len(), only.more), (PAGE, 0, false));
    }

    #[test]
    fn more_are_announced_by_revision_and_sent_when_asked_for() {
        let (phase, ready) = open(Default::default(), entries(PAGE + 1)).expect("accepted");
        let shape: Vec<_> = ready.iter().map(|r| (r.entry_revisions.len(), r.more)).collect();
        assert_eq!(shape, [(PAGE, true), (1, false)]);
        let Phase::Asking(offer) = phase else { panic!("the agent may ask") };

        let answer = offer.answer(vec!["e0500".into(), "nope".into(), "e0000".into()]);
        let [only] = answer.make_contiguous_for_test();
        let ids: Vec<_> = only.entries.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!((ids.as_slice(), only.more), (["e0000", "e0500"].as_slice(), false));

        let all = offer.answer((0..=PAGE).map(|n| format!("e{n:04}")).collect());
        let shape: Vec<_> = all.iter().map(|r| (r.entries.len(), r.more)).collect();
        assert_eq!(shape, [(PAGE, true), (1, false)]);

        let none = offer.answer(vec!["nope".into()]);
        let [only] = none.make_contiguous_for_test();
        assert!(only.entries.is_empty() && !only.more);
    }

    #[test]
    fn a_first_request_with_ids_or_without_revisions_is_refused() {
        let with_ids =
            rpc::SyncAuthorizedEntriesRequest { ids: vec!["e".into()], ..Default::default() };
        let without = rpc::SyncAuthorizedEntriesRequest {
            output_mask: Some(pb::types::EntryMask { spiffe_id: true, ..Default::default() }),
            ..Default::default()
        };
        let table = [
            (with_ids, "specifying IDs on initial request is not supported"),
            (without, "revision number cannot be masked"),
        ];
        for (request, text) in table {
            let failure = open(request, entries(1)).err().expect("refused");
            assert_eq!(failure.message(), text);
        }
    }

    trait Contiguous {
        fn make_contiguous_for_test(self) -> [rpc::SyncAuthorizedEntriesResponse; 1];
    }

    impl Contiguous for VecDeque<rpc::SyncAuthorizedEntriesResponse> {
        fn make_contiguous_for_test(self) -> [rpc::SyncAuthorizedEntriesResponse; 1] {
            Vec::from(self).try_into().expect("one answer")
        }
    }
}
