//! The refresher over a registry in memory, with peers that answer as they are told.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steeple_federation::{Fetch, FetchError, Fetching, Source, Timing};
use steeple_raft_store::command::{
    BundleWrite, RelationshipFields, RelationshipMode, RelationshipWrite, WriteBundles,
    WriteRelationships,
};
use steeple_raft_store::testing::{self, DEADLINE, TestStore};
use steeple_raft_store::{Applied, Command, FEATURE_LEVEL_MAX, MemoryDisk, Rejection, Storage};
use steeple_spiffe_core::bundle::JwtAuthority;
use steeple_spiffe_core::random::SystemRandom;
use steeple_spiffe_core::time::{FixedClock, SystemClock};
use steeple_spiffe_core::{
    Bundle, Clock as _, EndpointProfile, EndpointUrl, FederationRelationship, SpiffeId, TrustDomain,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::attempt::{Refresher, Tried};
use super::looks::News;
use super::round::Round;
use super::watch::Live;
use crate::view::Views;

const NAME: &str = "b.test";

/// A peer that answers as it was told.
#[derive(Debug)]
struct Peer {
    says: Mutex<Says>,
    asked: AtomicUsize,
    /// A permit for each answer, where answers are held back.
    answers: Option<Semaphore>,
}

#[derive(Clone, Debug)]
enum Says {
    Bundle(Bundle),
    /// One, then the other, and so on.
    InTurn([Bundle; 2]),
    Status(u16),
}

/// Whoever is asked at a URL with this end never answers.
const SILENT: &str = "silent";

#[derive(Clone, Debug)]
struct Peers(Arc<Peer>);

impl Fetch for Peers {
    fn fetch(&self, source: Source) -> Fetching {
        let peer = Arc::clone(&self.0);
        Box::pin(async move {
            let number = peer.asked.fetch_add(1, Ordering::SeqCst);
            if source.relationship.endpoint_url.as_str().ends_with(SILENT) {
                std::future::pending::<()>().await;
            }
            if let Some(answers) = &peer.answers {
                answers.acquire().await.unwrap().forget();
            }
            let by_id = source.relationship.profile != EndpointProfile::HttpsWeb;
            if by_id && source.endpoint_bundle.is_none() {
                return Err(FetchError::NoEndpointBundle);
            }
            match peer.says.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                Says::Bundle(bundle) => Ok(bundle),
                Says::InTurn(bundles) => Ok(bundles[number % 2].clone()),
                Says::Status(status) => Err(FetchError::Status { status, body: String::new() }),
            }
        })
    }
}

struct Bench {
    store: TestStore,
    refresher: Refresher,
    peer: Arc<Peer>,
    _stop: DropGuard,
}

impl Bench {
    async fn start(minute: Duration, says: Says) -> Self {
        Self::with(FEATURE_LEVEL_MAX, minute, says, None).await
    }

    async fn with(
        feature_level_max: u32,
        minute: Duration,
        says: Says,
        answers: Option<Semaphore>,
    ) -> Self {
        let mut config = testing::config(PathBuf::new());
        config.tuning.feature_level_max = feature_level_max;
        let clock = Arc::new(SystemClock);
        let storage = Storage::Memory(MemoryDisk::new());
        let seams = testing::seams_with(storage, clock.clone(), Arc::new(SystemRandom));
        let store = TestStore::open(config, seams).await.unwrap();
        let stop = CancellationToken::new();
        let (views, view_task) = Views::start(store.handle.clone());
        tokio::spawn(view_task.run(stop.clone()));
        let peer = Arc::new(Peer { says: Mutex::new(says), asked: AtomicUsize::new(0), answers });
        let refresher = Refresher {
            handle: store.handle.clone(),
            views,
            of_file: Arc::default(),
            fetch: Arc::new(Peers(Arc::clone(&peer))),
            clock,
            timing: Timing::with_minute(minute),
            live: Live::default(),
        };
        Self { store, refresher, peer, _stop: stop.drop_guard() }
    }

    /// Fetches as the leader until it is dropped.
    fn lead(&self) -> Leader {
        let term = self.store.handle.leadership().borrow().term;
        let refresher = self.refresher.clone();
        Leader(tokio::spawn(async move { refresher.lead(term).await }))
    }

    /// From now on this clock says when fetching is due, and what a danger is.
    fn by_hand(&mut self) -> Arc<FixedClock> {
        let clock = Arc::new(FixedClock::new(SystemClock.now()));
        self.refresher.clock = Arc::<FixedClock>::clone(&clock);
        clock
    }

    /// Whatever is due is tried, and what came of it is applied.
    async fn turn(&self, round: &mut Round) {
        for due in round.start(9) {
            let tried = self.refresher.attempt(&due.relationship).await;
            let (command, ended) = self.refresher.known().ended(due, tried);
            let ended = match command {
                Some(command) => ended.decided(Ok(self.apply(command).await.outcome)),
                None => ended,
            };
            assert_eq!(round.end(ended), None);
        }
    }

    fn say(&self, says: Says) {
        *self.peer.says.lock().unwrap_or_else(PoisonError::into_inner) = says;
    }

    async fn apply(&self, command: Command) -> Applied {
        let applied = self.store.apply(command).await.unwrap();
        let deadline = Instant::now() + DEADLINE;
        assert!(self.refresher.views.wait_for(applied.revision, deadline).await);
        applied
    }

    async fn relate(&self, mode: RelationshipMode, relationship: &FederationRelationship) {
        let item = RelationshipWrite { relationship: relationship.clone(), bundle: None };
        let write = WriteRelationships { mode, items: vec![item] };
        self.apply(Command::WriteRelationships(write)).await.outcome.unwrap();
    }

    async fn set(&self, bundle: Bundle) {
        let write = WriteBundles { mode: BundleWrite::Set, bundles: vec![bundle] };
        self.apply(Command::WriteBundles(write)).await.outcome.unwrap();
    }

    fn stored(&self) -> Option<Bundle> {
        self.refresher.views.bundle(&td()).map(|bundle| bundle.as_ref().clone())
    }

    fn failure(&self) -> Option<String> {
        let status = self.refresher.views.refresh(&td())?;
        status.failure.as_ref().map(|failure| failure.class.clone())
    }

    fn asked(&self) -> usize {
        self.peer.asked.load(Ordering::SeqCst)
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so() {
            assert!(Instant::now() < deadline, "no {what}: {:?}", self.stored());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Leader(tokio::task::JoinHandle<()>);

impl Drop for Leader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn td() -> TrustDomain {
    TrustDomain::parse(NAME).unwrap()
}

fn bundle(sequence_number: u64) -> Bundle {
    let key = JwtAuthority {
        key_id: format!("k{sequence_number}"),
        public_key_der: vec![1],
        expires_at: None,
        tainted: false,
    };
    Bundle { jwt_authorities: vec![key], sequence_number, ..Bundle::empty(td()) }
}

fn web(path: &str) -> FederationRelationship {
    let endpoint_url = EndpointUrl::parse(&format!("https://{NAME}/{path}")).unwrap();
    FederationRelationship { trust_domain: td(), endpoint_url, profile: EndpointProfile::HttpsWeb }
}

fn by_id() -> FederationRelationship {
    let endpoint_id = SpiffeId::server(td());
    FederationRelationship { profile: EndpointProfile::HttpsSpiffe { endpoint_id }, ..web("") }
}

const CREATE: RelationshipMode = RelationshipMode::Create;
const UPDATE: RelationshipMode =
    RelationshipMode::Update(RelationshipFields { endpoint_url: true, profile: true });
const SHORT: Duration = Duration::from_millis(40);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_is_stored_and_nothing_is_written_while_nothing_does() {
    let bench = Bench::start(SHORT, Says::Bundle(bundle(1))).await;
    let _leader = bench.lead();
    bench.relate(CREATE, &web("")).await;
    bench.until("bundle", || bench.stored() == Some(bundle(1))).await;
    assert_eq!(bench.failure(), None);

    let (before, asked) = (bench.store.handle.revision(), bench.asked());
    bench.until("tries", || bench.asked() > asked + 5).await;
    assert_eq!(bench.store.handle.revision(), before, "an entry without a change");

    bench.say(Says::Bundle(bundle(2)));
    bench.until("newer bundle", || bench.stored() == Some(bundle(2))).await;
    assert_eq!(bench.store.handle.revision().index(), before.index() + 1, "one entry a change");

    // Whatever else comes, the last good one stays: a server that lags is no reason to go back.
    let asked = bench.asked();
    bench.say(Says::Bundle(bundle(1)));
    bench.until("note", || bench.failure().as_deref() == Some("older")).await;
    assert_eq!(bench.stored(), Some(bundle(2)));
    assert!(bench.asked() >= asked + 2, "noted at the first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_contradicts_itself_is_not_written_at_each_try() {
    let bench = Bench::start(SHORT, Says::Bundle(bundle(4))).await;
    let _leader = bench.lead();
    bench.relate(CREATE, &web("")).await;
    bench.until("bundle", || bench.stored() == Some(bundle(4))).await;
    let other = Bundle { jwt_authorities: bundle(9).jwt_authorities, ..bundle(4) };
    bench.say(Says::Bundle(other.clone()));
    bench.until("what is new", || bench.stored().as_ref() == Some(&other)).await;
    let (before, asked) = (bench.store.handle.revision(), bench.asked());
    bench.say(Says::InTurn([bundle(4), other.clone()]));
    bench.until("tries", || bench.asked() > asked + 10).await;
    assert_eq!(bench.store.handle.revision(), before, "an entry a try");
    assert_eq!((bench.stored(), bench.failure()), (Some(other), None));

    // What comes again and again is what the peer means.
    bench.say(Says::Bundle(bundle(4)));
    bench.until("return", || bench.stored() == Some(bundle(4))).await;

    // What nobody has seen is no return, and a number that has risen ends the dispute.
    for next in [Bundle { jwt_authorities: bundle(8).jwt_authorities, ..bundle(4) }, bundle(5)] {
        bench.say(Says::Bundle(next.clone()));
        bench.until("what is new", || bench.stored().as_ref() == Some(&next)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_flips_between_two_documents_stays_at_the_newer_and_writes_nothing() {
    let bench = Bench::start(SHORT, Says::Bundle(bundle(2))).await;
    let _leader = bench.lead();
    bench.relate(CREATE, &web("")).await;
    bench.until("bundle", || bench.stored() == Some(bundle(2))).await;
    // Two servers behind one name, one of which lags.
    let (before, asked) = (bench.store.handle.revision(), bench.asked());
    bench.say(Says::InTurn([bundle(1), bundle(2)]));
    bench.until("tries", || bench.asked() > asked + 6).await;
    assert_eq!(bench.stored(), Some(bundle(2)));
    assert_eq!(bench.store.handle.revision(), before, "each flip is an entry");
    assert_eq!(bench.failure(), None, "every other try is good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_answers_holds_up_nobody_else() {
    let bench = Bench::start(SHORT, Says::Bundle(bundle(1))).await;
    let _leader = bench.lead();
    let other = TrustDomain::parse("c.test").unwrap();
    let silent = FederationRelationship { trust_domain: other, ..web(SILENT) };
    bench.relate(CREATE, &silent).await;
    bench.until("try", || bench.asked() > 0).await;
    bench.relate(CREATE, &web("")).await;
    bench.until("bundle", || bench.stored() == Some(bundle(1))).await;
    bench.say(Says::Bundle(bundle(2)));
    bench.until("newer bundle", || bench.stored() == Some(bundle(2))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_noted_once_and_so_is_its_end() {
    let bench = Bench::start(SHORT, Says::Status(503)).await;
    let _leader = bench.lead();
    bench.relate(CREATE, &web("")).await;
    bench.until("note", || bench.failure().as_deref() == Some("status")).await;
    let noted = bench.store.handle.revision();
    let asked = bench.asked();
    bench.until("tries", || bench.asked() > asked + 3).await;
    assert_eq!(bench.store.handle.revision(), noted, "each failure is an entry");
    bench.until("live state", || bench.refresher.live.of(&td()).is_some()).await;

    bench.say(Says::Bundle(bundle(1)));
    bench.until("end", || bench.failure().is_none()).await;
    assert_eq!(bench.stored(), Some(bundle(1)));
    assert_eq!(bench.store.handle.revision().index(), noted.index() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bundle_that_an_operator_sets_is_tried_at_once() {
    let bench = Bench::start(HOUR, Says::Bundle(bundle(2))).await;
    let _leader = bench.lead();
    bench.relate(CREATE, &by_id()).await;
    bench.until("note", || bench.failure().as_deref() == Some("no_endpoint_bundle")).await;
    // The next try by itself is an hour away.
    bench.set(bundle(1)).await;
    bench.until("bundle", || bench.stored() == Some(bundle(2))).await;
    bench.until("end of the failure", || bench.failure().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ended_is_asked_no_more_and_what_was_noted_goes() {
    let bench = Bench::start(SHORT, Says::Bundle(bundle(1))).await;
    let leader = bench.lead();
    bench.relate(CREATE, &web("")).await;
    bench.until("note", || bench.refresher.views.refresh(&td()).is_some()).await;
    bench.apply(Command::DeleteRelationships(vec![td()])).await.outcome.unwrap();
    assert_eq!(bench.refresher.views.refreshes(), []);
    bench.until("end", || bench.refresher.live.of(&td()).is_none()).await;
    assert_eq!(bench.stored(), Some(bundle(1)), "the bundle stays");
    drop(leader);

    // One of a file that has changed: the next leader, who has it no more, forgets it.
    let mut of_file = bench.refresher.clone();
    of_file.of_file = Arc::new([(td(), Arc::new(web("")))].into());
    let term = bench.store.handle.leadership().borrow().term;
    let leader = Leader(tokio::spawn(async move { of_file.lead(term).await }));
    bench.until("note", || bench.refresher.views.refresh(&td()).is_some()).await;
    drop(leader);
    let _leader = bench.lead();
    bench.until("forgetting", || bench.refresher.views.refresh(&td()).is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relationships_of_the_file_win() {
    let mut bench = Bench::start(HOUR, Says::Status(503)).await;
    let other = TrustDomain::parse("c.test").unwrap();
    let of_c = FederationRelationship { trust_domain: other.clone(), ..web("c") };
    bench.relate(CREATE, &web("api")).await;
    bench.relate(CREATE, &of_c).await;
    bench.refresher.of_file = Arc::new([(td(), Arc::new(web("file")))].into());
    let all = bench.refresher.relationships();
    assert_eq!(all.len(), 2);
    assert_eq!((*all[&td()]).clone(), web("file"));
    assert_eq!((*all[&other]).clone(), of_c);
    assert_eq!(bench.refresher.relationship(&td()).as_deref(), Some(&web("file")));
    assert_eq!(bench.refresher.relationship(&other).as_deref(), Some(&of_c));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_believed_under_settings_that_have_changed_is_thrown_away() {
    let held = Some(Semaphore::new(0));
    let bench = Bench::with(FEATURE_LEVEL_MAX, HOUR, Says::Bundle(bundle(9)), held).await;
    bench.relate(CREATE, &by_id()).await;
    bench.set(bundle(1)).await;
    let change_url = async |bench: &Bench| {
        let moved = FederationRelationship { endpoint_url: web("moved").endpoint_url, ..by_id() };
        bench.relate(UPDATE, &moved).await;
    };
    let change_bundle = async |bench: &Bench| bench.set(bundle(2)).await;
    for changes_url in [true, false] {
        let relationship = bench.refresher.relationship(&td()).unwrap();
        let (refresher, asked) = (bench.refresher.clone(), bench.asked());
        let trying = tokio::spawn(async move { refresher.attempt(&relationship).await });
        bench.until("try", || bench.asked() > asked).await;
        if changes_url {
            change_url(&bench).await;
        } else {
            change_bundle(&bench).await;
        }
        bench.peer.answers.as_ref().unwrap().add_permits(1);
        let tried = trying.await.unwrap();
        assert!(matches!(tried, Tried::Overtaken), "{tried:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_was_set_meanwhile_is_not_overwritten() {
    let bench = Bench::start(HOUR, Says::Bundle(bundle(3))).await;
    bench.relate(CREATE, &web("")).await;
    bench.set(bundle(1)).await;
    let relationship = bench.refresher.relationship(&td()).unwrap();
    let tried = bench.refresher.attempt(&relationship).await;
    let command = bench.refresher.command(&td(), &tried, 1).unwrap();
    bench.set(bundle(2)).await;
    assert_eq!(bench.apply(command).await.outcome, Err(Rejection::BundleMoved));
    assert_eq!(bench.stored(), Some(bundle(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_its_level_bundles_are_stored_and_nothing_is_noted() {
    let bench = Bench::with(5, SHORT, Says::Bundle(bundle(1)), None).await;
    let _leader = bench.lead();
    bench.relate(CREATE, &web("")).await;
    bench.until("bundle", || bench.stored() == Some(bundle(1))).await;
    let (before, asked) = (bench.store.handle.revision(), bench.asked());
    bench.say(Says::Status(503));
    bench.until("tries", || bench.asked() > asked + 4).await;
    assert_eq!(bench.store.handle.revision(), before);
    assert_eq!(bench.refresher.views.refreshes(), []);
    bench.say(Says::Bundle(bundle(2)));
    bench.until("newer bundle", || bench.stored() == Some(bundle(2))).await;
}

/// What is told, by its code.
fn told(round: &mut Round) -> Vec<&'static str> {
    let code = |news: News| match news {
        News::Danger(danger) => danger.code(),
        News::Over(_) => "over",
    };
    round.look().into_iter().map(code).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_danger_is_told_by_the_clock_and_lost_by_no_change_of_leaders() {
    let mut bench = Bench::start(HOUR, Says::Bundle(bundle(1))).await;
    let clock = bench.by_hand();
    bench.relate(CREATE, &web("")).await;
    let mut round = Round::new(bench.refresher.known());
    assert!(round.take().is_empty());
    bench.turn(&mut round).await;
    assert_eq!(told(&mut round), [""; 0]);
    assert!(bench.refresher.progress(&td()).is_exact, "the leader knows");

    bench.say(Says::Status(503));
    clock.advance(HOUR / 4);
    bench.turn(&mut round).await;
    let noted = bench.store.handle.revision();
    assert_eq!(told(&mut round), [""; 0], "once is nothing");
    assert!(round.pause().is_some_and(|pause| pause <= HOUR));
    // It is not tried again for however long: its hint is over.
    clock.advance(HOUR);
    assert_eq!(told(&mut round), ["federation_stale"]);
    assert_eq!(told(&mut round), [""; 0], "it was told");
    drop(round);

    // Leaders that end after one failure each note nothing, and lose nothing.
    assert_eq!(bench.store.handle.revision(), noted, "an entry without a change");
    let nothing: &[&str] = &[];
    for expected in [nothing, &["federation_stale"]] {
        let mut round = Round::new(bench.refresher.known());
        assert!(round.take().is_empty());
        assert!(!bench.refresher.progress(&td()).is_exact, "it was another leader's");
        bench.turn(&mut round).await;
        assert_eq!(told(&mut round), expected);
        clock.advance(HOUR);
    }
    assert_eq!(bench.store.handle.revision(), noted, "an entry without a change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relationship_that_never_worked_is_told_of_at_its_first_failure() {
    let mut bench = Bench::start(HOUR, Says::Status(503)).await;
    let clock = bench.by_hand();
    bench.relate(CREATE, &web("")).await;
    let mut round = Round::new(bench.refresher.known());
    assert!(round.take().is_empty());
    assert_eq!(told(&mut round), [""; 0], "nobody has tried");
    bench.turn(&mut round).await;
    assert_eq!(told(&mut round), ["federation_stale"]);
    drop(round);
    // It was noted (by the registry's own clock), so everybody says so.
    clock.advance(Duration::from_secs(60));
    let dangers = bench.refresher.dangers(clock.now());
    let text = "the bundle of b.test was never fetched";
    assert_eq!(dangers.iter().map(ToString::to_string).collect::<Vec<_>>(), [text]);

    let mut next = Round::new(bench.refresher.known());
    next.take();
    assert_eq!(told(&mut next), ["federation_stale"], "the next leader knows");
    bench.say(Says::Bundle(bundle(1)));
    bench.turn(&mut next).await;
    assert_eq!(told(&mut next), ["over"]);
}
