//! What peers may not do, as a table: every refusal is told, counted, and changes nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::AppendEntriesRequest;
use prost::bytes::Bytes;
use steeple_spiffe_core::Timestamp;
use steeple_spiffe_core::time::FixedClock;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::apply::testing::{entry, envelope, init};
use crate::command::Command;
use crate::ids::{ClusterId, MemberId};
use crate::level::FEATURE_LEVEL_MAX;
use crate::limits::COMMAND_BYTES_MAX;
use crate::mem::MemoryDisk;
use crate::net::channels::{MESSAGE_BYTES_MAX, over};
use crate::net::dial::{Expected, dial};
use crate::net::name::PeerName;
use crate::net::network::{EPOCH_HEADER, PeerNetwork, PeerNetworkParts};
use crate::net::pb::raft::v1 as pb;
use crate::net::pb::raft::v1::peer_client::PeerClient;
use crate::net::tls::PeerTls;
use crate::net::transport::{PipeNetwork, Pipes, Transport};
use crate::pb as rows;
use crate::raft::{CommittedLeaderId, LogId, PeerNode, Vote};
use crate::seams::{Seams, Storage};
use crate::testing::{TestStore, config, seams};

const ADDRESS: &str = "m1:1";

/// A cluster of one member that listens for peers.
struct Victim {
    store: TestStore,
    network: PipeNetwork,
    me: MemberId,
    cluster: ClusterId,
}

impl Victim {
    async fn start() -> Self {
        let network = PipeNetwork::default();
        let config = crate::Config {
            bind: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            advertise: ADDRESS.to_owned(),
            peers: vec![ADDRESS.to_owned()],
            ..config(PathBuf::new())
        };
        let transport = Arc::new(network.endpoint(ADDRESS));
        let seams = Seams { transport, ..seams(Storage::Memory(MemoryDisk::new())) };
        let store = TestStore::open(config, seams).await.unwrap();
        let status = store.handle.status();
        Self { store, network, me: status.member_id, cluster: status.cluster_id.unwrap() }
    }

    /// A client with the right cluster key and any name.
    async fn client(&self, name: PeerName) -> PeerClient<Channel> {
        let pipes: Pipes = self.network.endpoint("stranger");
        let tls = PeerTls::new(&config(PathBuf::new()).keys.peer_ca_seeds(), &name).unwrap();
        let (connection, _) = dial(&pipes, &tls, ADDRESS, Expected::Anyone).await.unwrap();
        PeerClient::new(over(connection).await.unwrap())
            .max_encoding_message_size(2 * MESSAGE_BYTES_MAX)
    }

    fn member(&self, id: MemberId) -> PeerName {
        PeerName::Member { cluster: self.cluster, member: id }
    }
}

fn vote(of: MemberId, term: u64, last: Option<u64>) -> pb::VoteRequest {
    let last_log_id = last.map(|index| rows::store::LogId { term, member_id: of.0, index });
    let vote = rows::store::Vote { term, member_id: of.0, committed: false };
    pb::VoteRequest { vote: Some(vote), last_log_id, leadership_transfer: true }
}

fn append(of: MemberId, entries: Vec<rows::store::LogEntry>) -> pb::AppendRequest {
    let vote = rows::store::Vote { term: 99, member_id: of.0, committed: true };
    pb::AppendRequest { vote: Some(vote), entries, ..Default::default() }
}

/// Every unary call that a member may make, with content that would do harm.
async fn calls(client: &mut PeerClient<Channel>, of: MemberId) -> Vec<(&'static str, Status)> {
    let create = Command::CreateEntries(vec![entry("e", "/w", "unix:uid:1")]);
    let forged = envelope(&create, [1; 16], Default::default());
    let forward = pb::ForwardProposalRequest { envelope: Bytes::from(forged) };
    let remove = pb::Remove { force: true };
    let change = pb::change_members_request::Change::Remove(remove);
    let change = pb::ChangeMembersRequest { member_id: of.0, change: Some(change) };
    let moved = pb::UpdateAddressRequest { address: "elsewhere:1".to_owned() };
    let vote = vote(of, 99, None);
    macro_rules! failed {
        ($($call:ident($request:expr)),* $(,)?) => {
            vec![$((stringify!($call), client.$call($request).await.map(drop).unwrap_err())),*]
        };
    }
    failed![
        vote(vote),
        pre_vote(vote),
        forward_proposal(forward),
        read_index(pb::ReadIndexRequest {}),
        update_address(moved),
        change_members(change),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_of_the_key_that_are_no_members_may_call_nothing_that_members_may() {
    let victim = Victim::start().await;
    let before = (victim.store.handle.revision(), victim.store.handle.status().term);
    let stranger = MemberId(7);
    let other = PeerName::Member { cluster: ClusterId(1), member: victim.me };
    let newcomer = PeerName::Newcomer { cluster_name: "test".to_owned(), member: stranger };
    let cluster = format!("this member belongs to cluster {}", victim.cluster);
    let member = format!("member {stranger} does not belong to this cluster (any more)");
    let table = [
        ("of another cluster", other, victim.me, &cluster),
        ("a newcomer", newcomer, stranger, &cluster),
        ("a removed member", victim.member(stranger), stranger, &member),
    ];
    for (who, name, speaks_as, text) in table {
        let mut client = victim.client(name).await;
        for (call, status) in calls(&mut client, speaks_as).await {
            assert_eq!(status.code(), Code::PermissionDenied, "{who}: {call}: {status}");
            assert_eq!(status.message(), text, "{who}: {call}");
        }
    }
    let after = (victim.store.handle.revision(), victim.store.handle.status().term);
    assert_eq!(before, after);
    assert_eq!(victim.store.handle.status().members.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_speaks_for_itself_and_its_own_epoch() {
    let victim = Victim::start().await;
    let term = victim.store.handle.status().term;
    let mut client = victim.client(victim.member(victim.me)).await;
    let forged = vote(MemberId(7), 99, Some(99));
    let appended = append(MemberId(7), Vec::new());
    let of_old = || {
        let mut request = Request::new(pb::ReadIndexRequest {});
        request.metadata_mut().insert(EPOCH_HEADER, 9_u32.into());
        request
    };
    // The epoch is known a moment after the cluster has formed.
    let known = async { while client.read_index(of_old()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), known).await.unwrap();
    let table = [
        ("vote", client.vote(forged).await.map(drop)),
        ("pre-vote", client.pre_vote(forged).await.map(drop)),
        ("append", client.append(appended).await.map(drop)),
        ("another epoch", client.read_index(of_old()).await.map(drop)),
    ];
    for (what, reply) in table {
        let Err(status) = reply else { panic!("{what} was let in") };
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
    }
    assert_eq!(victim.store.handle.status().term, term, "no vote was counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_applied_does_not_get_into_the_log() {
    use pb::forward_proposal_reply::Result::Refused;

    let victim = Victim::start().await;
    let before = victim.store.handle.revision();
    let mut client = victim.client(victim.member(victim.me)).await;
    let large = vec![0; COMMAND_BYTES_MAX + 1];
    // Field 99 of a command: one that this version does not know.
    let unknown = [0x22_u8, 3, 0x9a, 0x06, 0].to_vec();
    let duty = envelope(&init(), [2; 16], Default::default());
    for (what, bytes, text) in [
        ("garbage", vec![0xff; 64], "proposal does not decode"),
        ("an unknown command", unknown, "proposal does not decode"),
        ("nothing", Vec::new(), "proposal does not decode"),
        ("a duty", duty, "duties are not forwarded"),
        ("too large", large, "proposal of 1048577 bytes is too large"),
    ] {
        let request = pb::ForwardProposalRequest { envelope: Bytes::from(bytes) };
        let reply = client.forward_proposal(request).await.unwrap().into_inner();
        match reply.result {
            Some(Refused(refused)) => assert!(refused.starts_with(text), "{what}: {refused}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let envelope = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    let status = client.forward_proposal(pb::ForwardProposalRequest { envelope }).await;
    assert_eq!(status.unwrap_err().code(), Code::OutOfRange, "more than a message may have");

    let mut garbled = append(victim.me, vec![rows::store::LogEntry::default()]);
    garbled.vote = None;
    let status = client.append(garbled).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let status = client.vote(pb::VoteRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(victim.store.handle.revision(), before);

    // It works on: what it refused did it no harm.
    let create = Command::CreateEntries(vec![entry("e", "/w", "unix:uid:1")]);
    victim.store.apply(create).await.unwrap().outcome.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_is_sent_again_takes_one_member_in() {
    let victim = Victim::start().await;
    let newcomer = MemberId(7);
    let name = PeerName::Newcomer { cluster_name: "test".to_owned(), member: newcomer };
    let mut client = victim.client(name).await;
    let join = |cluster_name: &str, trust_domain: &str, address: &str| pb::JoinRequest {
        cluster_name: cluster_name.to_owned(),
        trust_domain: trust_domain.to_owned(),
        address: address.to_owned(),
        feature_level_max: FEATURE_LEVEL_MAX,
        cluster_id: Bytes::new(),
        key_ids: Vec::new(),
    };
    for (what, request) in [
        ("another name", join("other", "example.org", "m7:7")),
        ("another trust domain", join("test", "other.org", "m7:7")),
        ("the address of a member", join("test", "example.org", ADDRESS)),
    ] {
        let refused = tokio::time::timeout(Duration::from_secs(20), client.join(request)).await;
        let status = refused.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{what}: {status}");
    }
    assert_eq!(victim.store.handle.status().members.len(), 1);

    // One that answers where it says it is.
    let joining = crate::Config {
        bind: Some(SocketAddr::from(([127, 0, 0, 1], 7))),
        advertise: "m7:7".to_owned(),
        peers: vec![ADDRESS.to_owned()],
        ..config(PathBuf::new())
    };
    let transport = Arc::new(victim.network.endpoint("m7:7"));
    let seams = Seams { transport, ..seams(Storage::Memory(MemoryDisk::new())) };
    let newcomer = TestStore::join(joining, seams).await.unwrap();
    let id = newcomer.handle.status().member_id;
    let name = PeerName::Newcomer { cluster_name: "test".to_owned(), member: id };
    let mut client = victim.client(name).await;
    for _ in 0..3 {
        client.join(join("test", "example.org", "m7:7")).await.unwrap();
        let members = victim.store.handle.status().members;
        let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
        assert_eq!((ids.len(), ids.contains(&id)), (2, true), "{ids:?}");
    }
}

/// The peer network of a member of the victim's cluster.
fn network_of(victim: &Victim, member: MemberId) -> Arc<PeerNetwork> {
    let transport = Arc::new(victim.network.endpoint("leader"));
    let parts = PeerNetworkParts { cluster_id: Some(victim.cluster), ..parts(transport, member) };
    PeerNetwork::open(parts).unwrap()
}

/// Of a member that belongs to no cluster yet.
fn parts(transport: Arc<dyn Transport>, member_id: MemberId) -> PeerNetworkParts {
    let seams = seams(Storage::Memory(MemoryDisk::new()));
    PeerNetworkParts {
        config: Arc::new(config(PathBuf::new())),
        transport,
        clock: seams.clock,
        random: seams.random,
        member_id,
        cluster_id: None,
        acks: Arc::default(),
    }
}

#[test]
fn an_epoch_that_was_begun_twice_is_told_of_while_the_other_one_is_met() {
    let clock = Arc::new(FixedClock::new(Timestamp::from_unix_s(1_000)));
    let transport = Arc::new(PipeNetwork::default().endpoint(ADDRESS));
    let parts = PeerNetworkParts { clock: clock.clone(), ..parts(transport, MemberId(1)) };
    let network = PeerNetwork::open(parts).unwrap();
    network.note_epoch(2, Some(7));
    assert!(!network.has_twin(), "nothing is known of our own epoch yet");
    network.set_epoch(2, Some(5));
    for (epoch, began_ms) in [(1, Some(7)), (2, Some(5)), (2, None), (3, Some(7)), (0, Some(7))] {
        network.note_epoch(epoch, began_ms);
        assert!(!network.has_twin(), "{epoch} {began_ms:?}");
    }
    for _ in 0..2 {
        network.note_epoch(2, Some(7));
        assert!(network.has_twin());
        clock.advance(Duration::from_secs(59));
        assert!(network.has_twin());
        clock.advance(Duration::from_secs(2));
        assert!(!network.has_twin(), "it is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_do_not_follow_what_is_there_are_refused() {
    let victim = Victim::start().await;
    let leader = MemberId(7);
    let mut client = victim.client(victim.member(leader)).await;
    let last = victim.store.handle.status().last_log_index;
    for (term, prev, entries) in [
        (1000, Some(1), vec![3]),
        (1001, Some(last), vec![last + 2]),
        (1002, Some(last), vec![last + 1, last + 3]),
        (1003, Some(last), vec![last + 2, last + 1]),
        (1004, None, vec![last + 1]),
    ] {
        let log_id = |index| rows::store::LogId { term, member_id: leader.0, index };
        let blank = |index: &u64| rows::store::LogEntry {
            log_id: Some(log_id(*index)),
            payload: Some(rows::store::log_entry::Payload::Blank(rows::store::Blank {})),
        };
        let vote = rows::store::Vote { term, member_id: leader.0, committed: true };
        let append = pb::AppendRequest {
            vote: Some(vote),
            prev_log_id: prev.map(log_id),
            entries: entries.iter().map(blank).collect(),
            ..Default::default()
        };
        let refused = client.append(append).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{entries:?}: {refused}");
        assert!(refused.message().contains(" comes where "), "{entries:?}: {refused}");
    }
    assert!(victim.store.handle.status().term < 1000, "nobody was listened to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_its_leader_tells_of_more_than_it_holds_takes_nothing_and_ends() {
    let victim = Victim::start().await;
    let leader = MemberId(7);
    let mut client = victim.client(victim.member(leader)).await;
    let last = victim.store.handle.status().last_log_index;
    let heartbeat = |term, confirmed| {
        let vote = rows::store::Vote { term, member_id: leader.0, committed: true };
        let log_id = rows::store::LogId { term, member_id: leader.0, index: last + 9 };
        let prev_log_id = Some(log_id);
        pb::AppendRequest { vote: Some(vote), prev_log_id, confirmed, ..Default::default() }
    };
    // Not there yet, and what it holds: answers of consensus.
    for (term, confirmed) in [(1000, 0), (2000, last)] {
        client.append(heartbeat(term, confirmed)).await.unwrap();
    }
    let refused = client.append(heartbeat(3000, last + 1_000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let said = "this member's disk holds less than it acknowledged: its log ends at entry ";
    assert!(refused.message().starts_with(said), "{refused}");
    // Nothing reaches consensus in the moment until it ends: it would log each.
    let again = client.append(heartbeat(4000, 0)).await;
    assert!(again.is_err(), "{again:?}");
    let ended = victim.store.stop().await.unwrap_err();
    assert!(ended.to_string().contains(said), "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_says_that_lacks_what_it_confirmed_is_kept_from_consensus() {
    let victim = Victim::start().await;
    let leader = MemberId(7);
    let network = network_of(&victim, leader);
    let node = PeerNode { address: ADDRESS.to_owned(), ..PeerNode::default() };
    let mut client = network.factory().new_client(victim.me.0, &node).await;
    let option = || RPCOption::new(Duration::from_secs(20));
    // Each time as another leader: alone, the victim is one again within a moment.
    for (term, streams, confirmed) in
        [(1000, false, None), (2000, true, None), (3000, false, Some(50)), (4000, true, Some(50))]
    {
        let log_id = |index| LogId::new(CommittedLeaderId { term, node_id: leader.0 }, index);
        let vote = Vote::new_committed(term, leader.0);
        if let Some(confirmed) = confirmed {
            let answer = Ok(Some(log_id(confirmed)));
            network.confirmations.check(victim.me, &vote, &answer, Duration::ZERO).unwrap();
        }
        let prev_log_id = Some(log_id(40));
        let request =
            AppendEntriesRequest { vote, prev_log_id, leader_commit: None, entries: Vec::new() };
        let said = if streams {
            let input = futures::stream::iter([request]);
            let mut replies = client.stream_append(input, option()).await.unwrap();
            replies.next().await.unwrap().map(|answer| answer.unwrap_err().to_string())
        } else {
            client.append_entries(request, option()).await.map(|answer| answer.to_string())
        };
        match (said, confirmed) {
            (Ok(said), None) => assert!(said.contains("Conflict"), "{said}"),
            (Err(error), Some(_)) => {
                let error = format!("{error:?}");
                assert!(error.contains("holds less than it acknowledged"), "{error}");
            }
            (said, confirmed) => panic!("{term}: {said:?}, {confirmed:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_open_connections_and_say_nothing_keep_no_member_out() {
    let victim = Victim::start().await;
    let strangers = victim.network.endpoint("stranger");
    let mut idle = Vec::new();
    for _ in 0..600 {
        idle.push(strangers.dial(ADDRESS).await.unwrap());
    }
    let member = victim.client(victim.member(MemberId(7)));
    // Well before the first of them has used up its time.
    let served = tokio::time::timeout(Duration::from_secs(3), member).await;
    assert!(served.is_ok(), "a member waits behind {} strangers", idle.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_appends_that_stands_still_is_ended_with_an_error() {
    let victim = Victim::start().await;
    let leader = MemberId(7);
    let network = network_of(&victim, leader);
    let node = PeerNode { address: ADDRESS.to_owned(), ..PeerNode::default() };
    let mut client = network.factory().new_client(victim.me.0, &node).await;
    let vote = Vote::new_committed(1000, leader.0);
    let log_id = LogId::new(CommittedLeaderId { term: 1000, node_id: leader.0 }, 9);
    let empty = || AppendEntriesRequest {
        vote,
        prev_log_id: None,
        leader_commit: Some(log_id),
        entries: Vec::new(),
    };
    // Consensus would go on asking for ever.
    let input = futures::stream::iter([empty(), empty()]).chain(futures::stream::pending());
    let option = RPCOption::new(Duration::from_secs(20));
    let mut replies = client.stream_append(input, option).await.unwrap();
    let first = replies.next().await.unwrap();
    assert!(matches!(first, Ok(Ok(_))), "{first:?}");
    let error = replies.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("is purged"), "{error}");
    assert!(replies.next().await.is_none());
}
