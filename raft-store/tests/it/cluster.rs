//! Clusters of several members in one process: forming, replicating, losing members, joining.
//!
//! Members talk through pipes that can be cut, with real TLS, gRPC and consensus on top; one test uses
//! TCP and RocksDB instead. Waits for conditions, never for time.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use steeple_raft_store::command::{Command, CreateJoinToken};
use steeple_raft_store::testing::{config, seams};
use steeple_raft_store::{
    ClusterKeys, Config, Connection, Contact, Incoming, MemberChange, MemberChangeError, MemberId,
    MemberState, MemoryDisk, OpenError, PipeNetwork, Pipes, ProposeError, RequestId, Role,
    RunError, Seams, Storage, Store, StoreHandle, Transport, Way,
};
use steeple_spiffe_core::random::{Random, SystemRandom};
use steeple_spiffe_core::time::{Clock, SystemClock};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// For what takes an election or two, on a machine that does other things too.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Pipes that count how often they are dialled, and can be made to hang when they are.
#[derive(Debug)]
struct Counting {
    pipes: Pipes,
    dials: AtomicU32,
    hangs: AtomicBool,
}

impl Transport for Counting {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Connection>> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            return Box::pin(std::future::pending());
        }
        self.pipes.dial(address)
    }

    fn listen(&self, bind: SocketAddr) -> BoxFuture<'_, io::Result<(SocketAddr, Incoming)>> {
        self.pipes.listen(bind)
    }
}

pub(crate) struct Member {
    pub(crate) name: String,
    transport: Arc<Counting>,
    pub(crate) handle: StoreHandle,
    pub(crate) disk: Arc<MemoryDisk>,
    config: Config,
    shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), RunError>>,
}

pub(crate) struct Cluster {
    pub(crate) network: PipeNetwork,
    pub(crate) members: Vec<Member>,
}

/// What members log is shown with a test that fails; RUST_LOG chooses.
fn log_to_test_output() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer();
    // All tests of this binary share one.
    subscriber.try_init().ok();
}

fn address(number: u16) -> String {
    format!("m{number}:{number}")
}

pub(crate) fn member_config(number: u16, peers: &[u16]) -> Config {
    Config {
        bind: Some(SocketAddr::from(([127, 0, 0, 1], number))),
        advertise: address(number),
        peers: peers.iter().map(|peer| address(*peer)).collect(),
        voters_max: 5,
        ..config(PathBuf::new())
    }
}

impl Member {
    pub(crate) async fn start(
        network: &PipeNetwork,
        config: Config,
        disk: Arc<MemoryDisk>,
    ) -> Self {
        Self::start_at(network, config, disk, Arc::new(SystemClock)).await
    }

    /// With a clock of its own.
    pub(crate) async fn start_at(
        network: &PipeNetwork,
        config: Config,
        disk: Arc<MemoryDisk>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        log_to_test_output();
        let name = config.advertise.clone();
        let pipes = network.endpoint(&name);
        let (dials, hangs) = Default::default();
        let transport = Arc::new(Counting { pipes, dials, hangs });
        let seams = seams(Storage::Memory(disk.clone()));
        let seams = Seams { transport: transport.clone(), clock, ..seams };
        let store = Store::open(config.clone(), seams).await.unwrap();
        let handle = store.handle();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(store.run(shutdown.clone()));
        Self { name, transport, handle, disk, config, shutdown, task }
    }

    pub(crate) fn id(&self) -> MemberId {
        self.handle.status().member_id
    }

    /// Ends as a killed process does: nothing is said to anyone.
    pub(crate) async fn kill(self, network: &PipeNetwork) -> (Config, Arc<MemoryDisk>) {
        network.cut(&self.name);
        self.task.abort();
        self.task.await.ok();
        network.heal(&self.name);
        // Its tasks end a moment later; until then the address is taken.
        let probe = network.endpoint("probe");
        while probe.dial(&self.name).await.is_ok() {
            tokio::task::yield_now().await;
        }
        (self.config, self.disk)
    }

    async fn stop(self) -> (Config, Arc<MemoryDisk>) {
        self.shutdown.cancel();
        timeout(SOON, self.task).await.unwrap().unwrap().unwrap();
        (self.config, self.disk)
    }

    async fn forming_text(&self, wanted: &str) -> String {
        eventually(wanted, || match self.handle.status().state {
            MemberState::Forming { text } if text.contains(wanted) => Some(text),
            MemberState::Forming { .. } | MemberState::Joining { .. } | MemberState::Member => None,
        })
        .await
    }
}

impl Cluster {
    pub(crate) async fn form(numbers: &[u16]) -> Self {
        let network = PipeNetwork::default();
        let mut members = Vec::new();
        for number in numbers {
            let config = member_config(*number, numbers);
            members.push(Member::start(&network, config, MemoryDisk::new()).await);
        }
        let cluster = Self { network, members };
        for member in &cluster.members {
            formed(&member.handle).await;
        }
        cluster
    }

    pub(crate) async fn add(&mut self, config: Config, disk: Arc<MemoryDisk>) {
        self.members.push(Member::start(&self.network, config, disk).await);
    }

    pub(crate) async fn leader(&self) -> usize {
        eventually("a leader", || {
            self.members.iter().position(|m| m.handle.leadership().borrow().is_self)
        })
        .await
    }

    async fn voters(&self, count: usize) {
        eventually("voters", || {
            self.members.iter().all(|m| voters(&m.handle).len() == count).then_some(())
        })
        .await;
    }
}

fn voters(handle: &StoreHandle) -> Vec<MemberId> {
    let members = handle.status().members;
    members.into_iter().filter(|m| m.role == Role::Voter).map(|m| m.id).collect()
}

pub(crate) async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    within(SOON, what, &mut condition).await
}

async fn within<T>(limit: Duration, what: &str, condition: &mut impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(met) = condition() {
            return met;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        let look_again = tokio::time::interval(Duration::from_millis(5));
        tokio::pin!(look_again);
        look_again.tick().await;
        look_again.tick().await;
    }
}

pub(crate) async fn formed(handle: &StoreHandle) {
    let mut formed = handle.formed();
    let waiting = formed.wait_for(|formed| *formed);
    if timeout(SOON, waiting).await.is_err() {
        panic!("not formed: {:?}", handle.status());
    }
}

pub(crate) fn token(text: String) -> Command {
    Command::CreateJoinToken(CreateJoinToken {
        token: text,
        expires_at: SystemClock.now().plus(Duration::from_secs(3600)),
        alias: None,
    })
}

pub(crate) async fn propose(handle: &StoreHandle, text: &str) -> Result<(), ProposeError> {
    let mut id = [0; 16];
    SystemRandom.fill(&mut id);
    let deadline = Instant::now() + SOON;
    let applied = handle.propose(token(text.to_owned()), RequestId(id), deadline).await?;
    applied.outcome.unwrap();
    Ok(())
}

/// Waits until a leader knows that a member has all of its log.
pub(crate) async fn confirmed(leader: &StoreHandle, member: MemberId) {
    eventually("a whole log", || {
        let members = leader.status().members;
        let lag = members.iter().find(|one| one.id == member).and_then(|one| one.lag);
        (lag == Some(0)).then_some(())
    })
    .await;
}

pub(crate) async fn caught_up(handle: &StoreHandle, with: &StoreHandle) {
    let goal = with.revision();
    eventually("catching up", || (handle.revision() >= goal).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_form_replicate_forward_and_read_on_every_member() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let ids: Vec<_> = cluster.members.iter().map(|m| m.handle.status().cluster_id).collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    cluster.voters(3).await;
    for (number, member) in cluster.members.iter().enumerate() {
        propose(&member.handle, &format!("from {number}")).await.unwrap();
        let mut last = member.handle.revision();
        for other in &cluster.members {
            let read = other.handle.read_barrier(Instant::now() + SOON).await.unwrap();
            assert!(read.revision >= last, "a read misses what was acknowledged before it");
            last = last.max(read.revision);
            assert_eq!(other.handle.contact(), Contact::InContact);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_rejoins_with_all_that_was_acknowledged() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    propose(&cluster.members[0].handle, "before").await.unwrap();
    let leader = cluster.leader().await;
    let killed = cluster.members.remove(leader);
    let started = Instant::now();
    let (config, disk) = killed.kill(&cluster.network).await;
    cluster.leader().await;
    let elected = started.elapsed();
    propose(&cluster.members[0].handle, "after").await.unwrap();
    println!("new leader after {elected:?}, first write after {:?}", started.elapsed());
    assert!(elected < Duration::from_secs(3), "{elected:?}");

    cluster.add(config, disk).await;
    caught_up(&cluster.members[2].handle, &cluster.members[0].handle).await;
    cluster.members[2].handle.read_barrier(Instant::now() + SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_when_a_leader_stops() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let stopping = cluster.members.remove(leader);
    stopping.stop().await;
    cluster.leader().await;
    propose(&cluster.members[0].handle, "after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_never_left_is_unavailable_and_not_unknown() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let left = cluster.members.remove((leader + 1) % 3);
    // The others answer nothing at all, as machines that are switched off.
    left.transport.hangs.store(true, Ordering::Relaxed);
    for member in cluster.members {
        member.kill(&cluster.network).await;
    }
    eventually("the survivor notices", || match left.handle.contact() {
        Contact::Lost { text, .. } if text == "no leader: 1 of 3 voters reachable" => Some(()),
        Contact::Lost { .. } | Contact::InContact => None,
    })
    .await;
    let deadline = Instant::now() + Duration::from_secs(2);
    let proposed = left.handle.propose(token("t".to_owned()), RequestId([7; 16]), deadline).await;
    match proposed {
        Err(ProposeError::Unavailable(error)) => {
            assert_eq!(error.text, "no leader: 1 of 3 voters reachable");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_with_an_old_disk_ends_and_not_the_leader() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let old = cluster.members.remove((leader + 1) % 3);
    propose(&old.handle, "before").await.unwrap();
    let copy = old.disk.crash();
    propose(&old.handle, "after the copy").await.unwrap();
    let leading = cluster.leader().await;
    confirmed(&cluster.members[leading].handle, old.id()).await;
    let term = cluster.members[leading].handle.status().term;
    let (config, _) = old.kill(&cluster.network).await;
    let back = Member::start(&cluster.network, config.clone(), copy.clone()).await;
    // The leader is told what it lacks and keeps that from consensus; it is told what it had.
    let ended = timeout(SOON, back.task).await.unwrap().unwrap();
    let Err(RunError::Fenced { reason }) = ended else { panic!("{ended:?}") };
    assert!(reason.starts_with("this member's disk holds less than it acknowledged"), "{reason}");
    propose(&cluster.members[leading].handle, "without it").await.unwrap();
    let status = cluster.members[leading].handle.status();
    assert_eq!((status.leader, status.term), (Some(cluster.members[leading].id()), term));

    let again = Store::open(config, seams(Storage::Memory(copy))).await;
    let refused = again.map(|_| ()).unwrap_err();
    assert!(matches!(&refused, OpenError::Corrupt { reason: r, .. } if *r == reason), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_removed_while_it_is_dead_learns_it_when_it_returns() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let dead = cluster.members.remove((leader + 1) % 3);
    let id = dead.id();
    let (config, disk) = dead.kill(&cluster.network).await;
    let change = MemberChange::Remove { member: id, force: false };
    cluster.members[0].handle.change_members(change).await.unwrap();
    let back = Member::start(&cluster.network, config, disk).await;
    let ended = timeout(SOON, back.task).await.unwrap().unwrap();
    assert!(matches!(ended, Err(RunError::Removed { member, .. }) if member == id), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_confirms_no_read_and_comes_back_without_an_election() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let cut = &cluster.members[leader];
    cluster.network.cut(&cut.name);
    let others: Vec<_> =
        cluster.members.iter().filter(|m| m.id() != cut.id()).map(|m| &m.handle).collect();
    let new = eventually("another leader", || {
        others.iter().find(|handle| handle.leadership().borrow().is_self).copied()
    })
    .await;
    propose(new, "on the other side").await.unwrap();
    let read = cut.handle.read_barrier(Instant::now() + Duration::from_millis(500)).await;
    assert!(read.is_err(), "{read:?}");
    eventually("lost contact", || {
        matches!(cut.handle.contact(), Contact::Lost { .. }).then_some(())
    })
    .await;
    // Consensus may take itself for the leader for ever: nothing tells it otherwise.
    assert_ne!(cut.handle.status().leader, Some(cut.id()), "a leader without a quorum is none");
    let term = new.leadership().borrow().term;
    cluster.network.heal(&cut.name);
    caught_up(&cut.handle, new).await;
    eventually("contact", || (cut.handle.contact() == Contact::InContact).then_some(())).await;
    assert_eq!(new.leadership().borrow().term, term, "pre-vote keeps the term");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_restarts_with_what_it_had() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    propose(&cluster.members[0].handle, "kept").await.unwrap();
    let revision = cluster.members[0].handle.revision();
    let mut kept = Vec::new();
    for member in cluster.members.drain(..) {
        kept.push(member.kill(&cluster.network).await);
    }
    for (config, disk) in kept {
        cluster.add(config, disk).await;
    }
    for member in &cluster.members {
        let read = member.handle.read_barrier(Instant::now() + SOON).await.unwrap();
        assert!(read.revision >= revision);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_behind_the_log_is_fed_a_snapshot() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    let (config, disk) = cluster.members.remove(behind).kill(&cluster.network).await;
    let writer = cluster.members[0].handle.clone();
    // More than is kept behind a snapshot, and enough for one.
    let writes = (0..32_u32).map(|lane| {
        let writer = writer.clone();
        async move {
            for number in 0..1_000_u32 {
                propose(&writer, &format!("{lane}/{number}")).await.unwrap();
            }
        }
    });
    futures::future::join_all(writes).await;
    cluster.add(config, disk).await;
    let late = cluster.members[2].handle.clone();
    caught_up(&late, &writer).await;
    let (ours, theirs) = (late.subscribe().unwrap(), writer.subscribe().unwrap());
    assert_eq!(ours.snapshot.len(), theirs.snapshot.len());
    propose(&late, "afterwards").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_as_learners_and_become_voters_two_at_a_time() {
    let mut cluster = Cluster::form(&[1]).await;
    propose(&cluster.members[0].handle, "early").await.unwrap();
    cluster.add(member_config(2, &[1]), MemoryDisk::new()).await;
    formed(&cluster.members[1].handle).await;
    propose(&cluster.members[1].handle, "through a learner").await.unwrap();
    assert_eq!(voters(&cluster.members[0].handle).len(), 1, "two voters are worse than one");
    cluster.add(member_config(3, &[2, 3]), MemoryDisk::new()).await;
    cluster.voters(3).await;
    propose(&cluster.members[2].handle, "late").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_folder_takes_its_old_seat() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let lost = cluster.members.remove(2);
    let old = lost.id();
    let (config, _) = lost.kill(&cluster.network).await;
    cluster.add(config, MemoryDisk::new()).await;
    let new = cluster.members[2].id();
    assert_ne!(old, new);
    let handle = &cluster.members[0].handle;
    within(Duration::from_secs(60), "seat", &mut || {
        let voters = voters(handle);
        (voters.contains(&new) && !voters.contains(&old) && voters.len() == 3).then_some(())
    })
    .await;
    propose(&cluster.members[2].handle, "from the new one").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_not_dialled_without_a_pause() {
    const WATCHED: Duration = Duration::from_secs(2);
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let dead = cluster.members.remove((leader + 1) % 3);
    dead.kill(&cluster.network).await;
    let leader = &cluster.members[cluster.leader().await];
    propose(&leader.handle, "something to replicate").await.unwrap();
    let dials = || leader.transport.dials.load(Ordering::Relaxed);
    let (before, begun) = (dials(), Instant::now());
    eventually("look", || (begun.elapsed() >= WATCHED).then_some(())).await;
    // Each heartbeat dials once; what replication, pings and searches add is little.
    let heartbeats = begun.elapsed().as_millis() / leader.config.heartbeat_interval.as_millis();
    let dialled = u128::from(dials() - before);
    assert!(dialled <= heartbeats * 2 + 40, "{dialled} dials in {heartbeats} heartbeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_remove_any_member_through_any_member() {
    let mut cluster = Cluster::form(&[1, 2, 3, 4, 5]).await;
    let leader = cluster.leader().await;
    // A follower removes another follower; then the leader removes itself.
    for (asked, gone) in [((leader + 1) % 5, (leader + 2) % 5), (leader, leader)] {
        let member = cluster.members[gone].id();
        let change = MemberChange::Remove { member, force: false };
        cluster.members[asked].handle.change_members(change).await.unwrap();
        let ended = timeout(SOON, &mut cluster.members[gone].task).await.unwrap().unwrap();
        assert!(matches!(ended, Err(RunError::Removed { member: m, .. }) if m == member));
    }
    let rest = &cluster.members[(leader + 3) % 5].handle;
    eventually("three voters", || (voters(rest).len() == 3).then_some(())).await;
    propose(rest, "afterwards").await.unwrap();
    let nobody = MemberChange::Promote(MemberId(7));
    let refused = rest.change_members(nobody).await.unwrap_err();
    assert!(matches!(refused, MemberChangeError::Refused(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_member_follows_until_it_is_promoted_by_hand() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let demoted = cluster.members[(leader + 1) % 3].id();
    // Through itself, which leads no one.
    let itself = &cluster.members[(leader + 1) % 3].handle;
    itself.change_members(MemberChange::Demote(demoted)).await.unwrap();
    cluster.voters(2).await;
    propose(itself, "through a learner").await.unwrap();
    itself.change_members(MemberChange::Promote(demoted)).await.unwrap();
    cluster.voters(3).await;
    // The leader hands over before it loses its vote.
    let leader = cluster.leader().await;
    let led = cluster.members[leader].id();
    let handle = &cluster.members[leader].handle;
    handle.change_members(MemberChange::Demote(led)).await.unwrap();
    cluster.voters(2).await;
    let next = cluster.leader().await;
    assert_ne!(cluster.members[next].id(), led);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_stop_the_cluster_is_refused() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let dead = cluster.members.remove((leader + 1) % 3);
    dead.kill(&cluster.network).await;
    let leader = cluster.leader().await;
    let (handle, other) = (&cluster.members[leader].handle, &cluster.members[1 - leader]);
    // Until the dead one is noticed a removal of the other would be taken.
    eventually("silence", || {
        let silent = handle.status().members.iter().filter(|m| m.reachable == Some(false)).count();
        (silent == 1).then_some(())
    })
    .await;
    let change = |force| MemberChange::Remove { member: other.id(), force };
    let refused = handle.change_members(change(false)).await.unwrap_err().to_string();
    assert!(refused.contains("only 1 of the 2 voters that would stay are healthy"), "{refused}");
    propose(handle, "still there").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_may_move_at_once() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let mut kept = Vec::new();
    for member in cluster.members.drain(..) {
        kept.push(member.kill(&cluster.network).await);
    }
    for ((_, disk), number) in kept.into_iter().zip([11, 12, 13]) {
        cluster.add(member_config(number, &[11, 12, 13]), disk).await;
    }
    propose(&cluster.members[0].handle, "moved").await.unwrap();
    let handle = &cluster.members[0].handle;
    eventually("committed addresses", || {
        let members = handle.status().members;
        let addresses: Vec<_> = members.iter().map(|m| m.address.as_str()).collect();
        [11, 12, 13].iter().all(|n| addresses.contains(&address(*n).as_str())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moved_comes_back_though_the_others_know_only_where_it_was() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    // The leader moves: it does not know who leads after it, and that one only knows where it was.
    let leader = cluster.leader().await;
    let moving = cluster.members.remove(leader);
    let (_, disk) = moving.kill(&cluster.network).await;
    let leader = cluster.leader().await;
    let led = cluster.members[leader].id();
    cluster.add(member_config(11, &[1, 2, 3]), disk).await;
    let moved = &cluster.members[2].handle;
    eventually("its new address", || {
        let own = moved.status().members.into_iter().find(|m| m.address == address(11))?;
        (own.id == moved.status().member_id).then_some(())
    })
    .await;
    propose(moved, "back").await.unwrap();
    assert_eq!(moved.status().leader, Some(led), "nobody had to be elected for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_cluster_from_forming_is_said_with_the_fix() {
    let network = PipeNetwork::default();
    let start = async |config: Config| Member::start(&network, config, MemoryDisk::new()).await;
    let one = start(member_config(1, &[1, 2, 3])).await;
    let text = one.forming_text("missing").await;
    assert_eq!(
        text,
        "waiting for founders: 1 of 3, missing m2:2 (connection refused), m3:3 (connection refused)"
    );

    let other_key = ClusterKeys::parse("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=").unwrap();
    let keys = Arc::new(other_key);
    let two = start(Config { keys, ..member_config(2, &[1, 2, 3]) }).await;
    let text = one.forming_text("cluster key").await;
    assert!(text.contains("m2:2 (cluster key differs; give both members the same"), "{text}");
    two.kill(&network).await;

    let two = start(member_config(2, &[1, 2, 3])).await;
    let name = Config { cluster_name: "other".to_owned(), ..member_config(3, &[1, 2, 3]) };
    let three = start(name).await;
    let text = one.forming_text("cluster.name").await;
    assert_eq!(text, "m3:3 has cluster.name \"other\", ours is \"test\"; make them the same");
    three.kill(&network).await;

    let three = start(member_config(3, &[1, 2, 3])).await;
    for member in [&one, &two, &three] {
        formed(&member.handle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_with_another_key_says_why_it_is_not_in() {
    let mut cluster = Cluster::form(&[1]).await;
    let other_key = ClusterKeys::parse("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=").unwrap();
    let config = Config { keys: Arc::new(other_key), ..member_config(2, &[1]) };
    cluster.add(config, MemoryDisk::new()).await;
    let joiner = &cluster.members[1].handle;
    let text = eventually("a reason", || match joiner.status().state {
        MemberState::Joining { text } if !text.is_empty() => Some(text),
        MemberState::Forming { .. } | MemberState::Joining { .. } | MemberState::Member => None,
    })
    .await;
    assert_eq!(text, "m1:1: cluster key differs; give both members the same cluster key file");

    // The fix is enough, also for a folder that was made with two mistakes.
    let (_, disk) = cluster.members.remove(1).stop().await;
    let other_name = Config { cluster_name: "other".to_owned(), ..member_config(2, &[1]) };
    cluster.add(other_name, disk.clone()).await;
    cluster.members.remove(1).stop().await;
    cluster.add(member_config(2, &[1]), disk).await;
    formed(&cluster.members[1].handle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_know_the_versions_of_each_other() {
    let numbers = [1, 2, 3];
    let network = PipeNetwork::default();
    let mut members = Vec::new();
    for number in numbers {
        let version = format!("1.{number}");
        let config = Config { version, ..member_config(number, &numbers) };
        members.push(Member::start(&network, config, MemoryDisk::new()).await);
    }
    for member in &members {
        let versions = eventually("all versions", || {
            let status = member.handle.status();
            let known: Option<Vec<(String, String)>> =
                status.members.into_iter().map(|m| Some((m.address, m.version?))).collect();
            known.filter(|known| known.len() == numbers.len())
        })
        .await;
        for number in numbers {
            let expected = (address(number), format!("1.{number}"));
            assert!(versions.contains(&expected), "{versions:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stands_down_takes_over_from_no_leader() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let leading = cluster.members.remove(leader);
    let standing_down = &cluster.members[0];
    standing_down.handle.stand_down();
    let refused = leading.handle.transfer_leadership(Some(standing_down.id())).await;
    assert!(refused.is_err(), "{refused:?}");
    leading.kill(&cluster.network).await;
    assert_eq!(cluster.leader().await, 1);
    propose(&cluster.members[0].handle, "after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_hand_leadership_over_through_any_member() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    for asked in 0..3 {
        let leader = cluster.leader().await;
        let next = (leader + 1) % 3;
        let (handle, to) = (&cluster.members[asked].handle, cluster.members[next].id());
        handle.hand_over(Some(to)).await.unwrap();
        assert_eq!(cluster.leader().await, next, "asked through member {asked}");
        assert_eq!(handle.status().leader, Some(to), "and member {asked} knows");
        let refused = handle.hand_over(Some(to)).await.unwrap_err().to_string();
        assert_eq!(refused, format!("member {to} leads already"));
        let refused = handle.hand_over(Some(MemberId(7))).await.unwrap_err().to_string();
        assert_eq!(refused, "no voter has the id 0000000000000007; \"cluster members\" lists them");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_leaves_and_cannot_keep_that_ends_with_what_to_do() {
    let network = PipeNetwork::default();
    let mut members = Vec::new();
    for number in 1..=3 {
        let config = Config { leave_on_terminate: true, ..member_config(number, &[1, 2, 3]) };
        members.push(Member::start(&network, config, MemoryDisk::new()).await);
    }
    let mut cluster = Cluster { network, members };
    for member in &cluster.members {
        formed(&member.handle).await;
        eventually("the end of forming", || {
            (member.handle.status().state == MemberState::Member).then_some(())
        })
        .await;
    }
    let leader = cluster.leader().await;
    let leaving = cluster.members.remove((leader + 1) % 3);
    leaving.disk.refuse_records();
    leaving.shutdown.cancel();
    let ended = timeout(SOON, leaving.task).await.unwrap().unwrap();
    let Err(error @ RunError::Removed { .. }) = ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains("move DATA_DIR/raft away"), "{error}");
    cluster.voters(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_ends_the_store_with_the_fix() {
    let network = PipeNetwork::default();
    let first = Member::start(&network, member_config(1, &[1]), MemoryDisk::new()).await;
    formed(&first.handle).await;
    let second = Member::start(&network, member_config(1, &[1]), MemoryDisk::new()).await;
    let error = timeout(SOON, second.task).await.unwrap().unwrap().unwrap_err();
    let text = "peer network: address 127.0.0.1:1 is taken by another process; \
                stop it or set cluster.bind_port";
    assert_eq!(error.to_string(), text);
}

#[cfg(feature = "rocks")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_form_over_tcp_on_disks() {
    let ports: [u16; 3] = steeple_testkit::ports::lease().unwrap();
    let binds = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let peers: Vec<String> = binds.iter().map(ToString::to_string).collect();
    let mut handles = Vec::new();
    let mut tasks = Vec::new();
    let shutdown = CancellationToken::new();
    for (bind, folder) in binds.iter().zip(&folders) {
        let config = Config {
            bind: Some(*bind),
            advertise: bind.to_string(),
            peers: peers.clone(),
            voters_max: 3,
            ..config(folder.path().join("raft"))
        };
        let store = Store::open(config, seams(Storage::Rocks)).await.unwrap();
        handles.push(store.handle());
        tasks.push(tokio::spawn(store.run(shutdown.clone())));
    }
    for handle in &handles {
        formed(handle).await;
        propose(handle, &handle.status().member_id.to_string()).await.unwrap();
    }
    for handle in &handles {
        handle.read_barrier(Instant::now() + SOON).await.unwrap();
    }
    shutdown.cancel();
    for task in tasks {
        timeout(SOON, task).await.unwrap().unwrap().unwrap();
    }
}

#[cfg(feature = "rocks")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_say_their_epoch_to_everyone_who_asks() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let asks = Arc::new(member_config(9, &[1, 2, 3, 9]));
    let transport = Arc::new(cluster.network.endpoint("m9"));
    let seams = Seams { transport, ..seams(Storage::Memory(MemoryDisk::new())) };
    let deadline = Instant::now() + SOON;
    loop {
        let asked = steeple_raft_store::backup::find_running(Arc::clone(&asks), &seams);
        let running = asked.await.unwrap();
        if running == [1, 2, 3].map(|number| (address(number), 1)) {
            return;
        }
        // A member notes it a moment after it has formed.
        assert!(Instant::now() < deadline, "{running:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_cut_off_from_the_leader_alone_knows_that_others_hear_it() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let (led, cut) = (&cluster.members[leader], &cluster.members[(leader + 1) % 3]);
    let between = |act: fn(&PipeNetwork, &str, &str, Way)| {
        for (from, to) in [(&led.name, &cut.name), (&cut.name, &led.name)] {
            act(&cluster.network, from, to, Way::There);
            act(&cluster.network, from, to, Way::Back);
        }
    };
    between(PipeNetwork::hold);
    let text = eventually("what the third member hears", || match cut.handle.contact() {
        Contact::Lost { elsewhere: true, text, .. } => Some(text),
        Contact::Lost { .. } | Contact::InContact => None,
    })
    .await;
    let third = &cluster.members[(leader + 2) % 3];
    let hears = format!("member {} hears leader {}", third.id(), led.id());
    assert!(text.contains(&hears), "{text:?} is not about {hears:?}");
    assert_eq!(third.handle.contact(), Contact::InContact);
    between(PipeNetwork::release);
    eventually("contact", || (cut.handle.contact() == Contact::InContact).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_died_a_moment_ago_is_not_promoted() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let demoted = (cluster.leader().await + 1) % 3;
    let id = cluster.members[demoted].id();
    let operator = cluster.members[(demoted + 1) % 3].handle.clone();
    operator.change_members(MemberChange::Demote(id)).await.unwrap();
    cluster.voters(2).await;
    let learner = cluster.members.remove(demoted);
    learner.kill(&cluster.network).await;
    // It still counts as healthy from memory.
    let refused = operator.change_members(MemberChange::Promote(id)).await.unwrap_err();
    assert!(refused.to_string().contains("does not answer"), "{refused}");
    propose(&operator, "writes go on").await.unwrap();
}
