//! Callers against a real registry of one member: who gets in, who is told no, and that nobody is
//! told no without a confirmed read.

use std::net::SocketAddr;
use std::sync::LazyLock;

use steeple_api::status::reason_of;
use steeple_raft_store::backup::{self, Origin, Rebuild, RestoreOptions};
use steeple_raft_store::change::UnknownAgents;
use steeple_raft_store::command::{
    AdmitAgent, AppendBundle, BundleDeletion, BundleWrite, DeleteBundles, RootChange,
    SetPendingSerial, WriteBundles,
};
use steeple_raft_store::testing::{self, TestStore};
use steeple_raft_store::{SnapshotFacts, SnapshotOut, Storage};
use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::random::SystemRandom;
use steeple_spiffe_core::svid::x509::{
    IssuerIdentity, LeafSubject, LeafTemplate, self_signed_ca, sign_leaf,
};
use steeple_spiffe_core::time::{FixedClock, SystemClock};
use steeple_spiffe_core::{KeyType, LocalSigner, SelectorSet, Signer as _, Timestamp};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::*;
use crate::gate::policy;
use crate::gate::staleness::Limits;

const SYNC: &str = "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries";
const LIST: &str = "/spire.api.server.entry.v1.Entry/ListEntries";
const BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle/GetBundle";
const LOGGER: &str = "/spire.api.server.logger.v1.Logger/GetLogger";
const STATUS: &str = "/steeple.cluster.v1.Cluster/Status";
const DOWNSTREAM: &str = "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA";
const AGENT: &str = "spiffe://example.org/spire/agent/x509pop/a";
const ADMIN: &str = "spiffe://example.org/admin";

/// The authority of every world.
static OWN: LazyLock<Authority> = LazyLock::new(|| Authority::new("example.org"));

struct World {
    store: TestStore,
    gate: Gate,
    /// Ends the views' task with the test.
    _views: tokio_util::sync::DropGuard,
}

impl World {
    async fn start() -> Self {
        let world = Self::of(TestStore::start().await);
        world.apply(OWN.append()).await;
        world
    }

    /// The same registry, saved and restored: what comes after is lost.
    async fn restored(&self, folder: &std::path::Path) -> Self {
        let mut saved = Saved::default();
        self.store.handle.save_snapshot(&mut saved).unwrap();
        let facts = saved.facts.unwrap();
        let config = testing::config(folder.join("raft"));
        let origin = Origin {
            cluster_id: facts.cluster.cluster_id,
            cluster_name: facts.cluster.name.clone(),
            trust_domain: facts.cluster.trust_domain.to_string(),
            key_id: facts.key_id.clone(),
            salt: facts.salt.to_vec(),
            binding: [0; 32],
        };
        let confirmed = facts.cluster.name.clone();
        let now = facts.time.plus(LOST * 2);
        let ask = Rebuild { config: &config, random: &SystemRandom, now, confirmed };
        let mut frames = saved.frames.into_iter();
        backup::restore(&ask, &origin, &RestoreOptions::default(), &mut || Ok(frames.next()))
            .unwrap();
        let seams = testing::seams(Storage::Rocks);
        Self::of(TestStore::open(config, seams).await.unwrap())
    }

    fn of(store: TestStore) -> Self {
        let (views, task) = Views::start(store.handle.clone());
        let shutdown = CancellationToken::new();
        tokio::spawn(task.run(shutdown.clone()));
        let gate = Self::gate(&store, views);
        Self { store, gate, _views: shutdown.drop_guard() }
    }

    fn gate(store: &TestStore, views: Views) -> Gate {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let limits =
            Limits { renew_only_delay: Duration::ZERO, max_staleness: Duration::from_secs(600) };
        let second = Duration::from_secs(1);
        let reads =
            Reads::new(store.handle.clone(), views.clone(), Arc::clone(&clock), limits, second);
        let listed = [ADMIN, "spiffe://foreign.org/admin"];
        Gate {
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            admin_ids: Arc::new(listed.iter().map(|id| id.parse().unwrap()).collect()),
            store: store.handle.clone(),
            views,
            reads,
            clock,
            random: Arc::new(SystemRandom),
        }
    }

    async fn apply(&self, command: Command) {
        let applied = self.store.apply(command).await.unwrap();
        applied.outcome.unwrap();
    }

    async fn admit_agent(&self, current: &str) {
        self.apply(Command::AdmitAgent(AdmitAgent {
            token: None,
            agent_id: AGENT.parse().unwrap(),
            attestation_type: "x509pop".into(),
            serial: serial(current),
            not_after: later(),
            selectors: SelectorSet::new(),
            can_reattest: true,
            seen: None,
        }))
        .await;
    }

    async fn call(&self, method: &str, peer: &Peer) -> Result<Caller, Failure> {
        let deadline = Instant::now() + Duration::from_secs(2);
        self.gate.admit(policy::rule(method).unwrap(), peer, deadline).await
    }
}

/// How long after the last time that a restored state knew the certificates of a test were issued.
const LOST: Duration = Duration::from_secs(600);

/// A snapshot in memory.
#[derive(Default)]
struct Saved {
    facts: Option<SnapshotFacts>,
    frames: Vec<Vec<u8>>,
}

impl SnapshotOut for Saved {
    fn begin(&mut self, facts: &SnapshotFacts) -> std::io::Result<[u8; 32]> {
        self.facts = Some(facts.clone());
        Ok([0; 32])
    }

    fn frame(&mut self, frame: &[u8]) -> std::io::Result<()> {
        self.frames.push(frame.to_vec());
        Ok(())
    }
}

fn serial(digits: &str) -> Serial {
    Serial::from_decimal(digits).unwrap()
}

fn later() -> Timestamp {
    SystemClock.now().plus(Duration::from_secs(3600))
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

fn bearer(id: &str, presented: &str) -> Peer {
    OWN.bearer(id, presented)
}

fn bearer_since(id: &str, presented: &str, not_before: Timestamp) -> Peer {
    OWN.bearer_since(id, presented, not_before)
}

/// An authority of a trust domain.
struct Authority {
    trust_domain: TrustDomain,
    signer: LocalSigner,
    root: Vec<u8>,
}

impl Authority {
    fn new(trust_domain: &str) -> Self {
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let (begins, ends) = (SystemClock.now().minus(LOST), later().plus(LOST));
        let root = self_signed_ca(&trust_domain, None, &signer, [1; 16], begins, ends).unwrap();
        Self { trust_domain, signer, root }
    }

    fn foreign() -> Self {
        Self::new("foreign.org")
    }

    fn known(&self) -> Vec<X509Authority> {
        vec![X509Authority { certificate_der: self.root.clone(), tainted: false }]
    }

    /// Makes it the only one of another trust domain.
    fn set(&self) -> Command {
        let x509_authorities = self.known();
        let bundle = Bundle { x509_authorities, ..Bundle::empty(self.trust_domain.clone()) };
        let (mode, bundles) = (BundleWrite::Set, vec![bundle]);
        Command::WriteBundles(WriteBundles { mode, bundles })
    }

    /// Makes it one of the own trust domain.
    fn append(&self) -> Command {
        let x509_authorities = self.known();
        Command::AppendBundle(AppendBundle { x509_authorities, ..AppendBundle::default() })
    }

    /// Changes it where it was appended.
    fn change(&self, change: RootChange) -> Command {
        let roots = vec![self.root.clone()];
        Command::ChangeRoots { expected_journal: 0, change, roots }
    }

    /// The bearer of an SVID that it has signed.
    fn bearer(&self, id: &str, presented: &str) -> Peer {
        self.bearer_since(id, presented, Timestamp::UNIX_EPOCH)
    }

    fn bearer_since(&self, id: &str, presented: &str, not_before: Timestamp) -> Peer {
        let (key, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let template = LeafTemplate {
            spiffe_id: &id.parse().unwrap(),
            dns_names: &[],
            subject: LeafSubject::Default,
            unique_id: false,
            public_key_spki: key.public_key_spki(),
            serial: presented.parse::<u128>().unwrap().to_be_bytes(),
            not_before,
            not_after: later(),
        };
        let issuer = IssuerIdentity::from_certificate(&self.root).unwrap();
        let leaf = sign_leaf(&issuer, &self.signer, &template).unwrap();
        let certificate = PeerCertificate::from_chain(vec![leaf]).unwrap();
        Peer::Remote { address: address(), certificate: Some(Arc::new(certificate)) }
    }
}

/// What a refusal says that no agent takes for one of its own.
fn is_plain_refusal(result: Result<Caller, Failure>, method: &str) {
    let failure = result.expect_err(method);
    assert_eq!((failure.code(), failure.reason()), (Code::PermissionDenied, None), "{method}");
    assert_eq!(failure.message(), format!("authorization denied for method {method}"));
}

#[tokio::test]
async fn callers_get_what_the_policy_grants_and_nothing_else() {
    let world = World::start().await;
    let neighbour = Authority::foreign();
    world.apply(neighbour.set()).await;
    let anonymous = Peer::Remote { address: address(), certificate: None };
    let local = Peer::Local { credentials: None };
    let admin = bearer(ADMIN, "1");
    let foreign = neighbour.bearer("spiffe://foreign.org/admin", "2");
    let workload = bearer("spiffe://example.org/web", "1");
    let table = [
        (&anonymous, BUNDLE, Some(Role::Nobody)),
        (&anonymous, LIST, None),
        (&anonymous, SYNC, None),
        (&local, BUNDLE, Some(Role::Nobody)),
        (&local, LIST, Some(Role::Local)),
        (&local, LOGGER, Some(Role::Local)),
        // The socket is never an agent.
        (&local, SYNC, None),
        (&admin, LIST, Some(Role::Admin)),
        (&admin, STATUS, Some(Role::Admin)),
        (&admin, LOGGER, None),
        (&foreign, LIST, Some(Role::Admin)),
        (&foreign, STATUS, None),
        (&workload, BUNDLE, Some(Role::Nobody)),
        (&workload, LIST, None),
    ];
    for (peer, method, expected) in table {
        let result = world.call(method, peer).await;
        match expected {
            Some(role) => {
                assert_eq!(result.map(|caller| caller.role()), Ok(role), "{method} {peer:?}")
            }
            None => {
                let failure = result.expect_err(method);
                assert_eq!(failure.code(), Code::PermissionDenied, "{method} {peer:?}");
                assert_eq!(failure.message(), format!("authorization denied for method {method}"));
            }
        }
    }
}

#[tokio::test]
async fn a_foreign_administrator_is_one_while_the_bundle_of_its_trust_domain_says_so() {
    let mut world = World::start().await;
    let (neighbour, other) = (Authority::foreign(), Authority::foreign());
    let admin = neighbour.bearer("spiffe://foreign.org/admin", "2");
    let forget = || {
        let (mode, trust_domains) =
            (BundleDeletion::Restrict, vec![neighbour.trust_domain.clone()]);
        Command::DeleteBundles(DeleteBundles { mode, trust_domains })
    };
    is_plain_refusal(world.call(LIST, &admin).await, LIST);
    for (step, is_admin) in [
        (neighbour.set(), true),
        (other.set(), false),
        (neighbour.set(), true),
        (forget(), false),
        (neighbour.set(), true),
    ] {
        world.apply(step).await;
        let result = world.call(LIST, &admin).await;
        if is_admin {
            assert_eq!(result.map(|caller| caller.role()), Ok(Role::Admin));
        } else {
            is_plain_refusal(result, LIST);
        }
    }
    // Its certificate ends on an open connection, too.
    world.gate.clock = Arc::new(FixedClock::new(later().plus(LOST)));
    is_plain_refusal(world.call(LIST, &admin).await, LIST);
}

#[tokio::test]
async fn foreign_svids_are_nothing_but_listed_administrators() {
    let world = World::start().await;
    let neighbour = Authority::foreign();
    world.apply(neighbour.set()).await;
    world.admit_agent("2").await;
    let bearer = |path: &str| neighbour.bearer(&format!("spiffe://foreign.org{path}"), "2");
    // The paths of an agent, a server and an administrator of ours, and one of no one.
    for path in ["/spire/agent/x509pop/a", "/spire/server", "/admin/more", "/web"] {
        for method in [SYNC, LIST, DOWNSTREAM, STATUS, LOGGER] {
            is_plain_refusal(world.call(method, &bearer(path)).await, method);
        }
        let open = world.call(BUNDLE, &bearer(path)).await;
        assert_eq!(open, Ok(Caller::Nobody), "{path}");
    }
    for method in [SYNC, DOWNSTREAM, STATUS, LOGGER] {
        is_plain_refusal(world.call(method, &bearer("/admin")).await, method);
    }
}

#[tokio::test]
async fn a_renewed_certificate_replaces_the_old_one_at_its_first_use() {
    let world = World::start().await;
    world.admit_agent("1").await;
    let (old, new) = (bearer(AGENT, "1"), bearer(AGENT, "2"));
    assert_eq!(world.call(SYNC, &old).await.map(|caller| caller.role()), Ok(Role::Agent));
    world
        .apply(Command::SetPendingSerial(SetPendingSerial {
            agent_id: AGENT.parse().unwrap(),
            seen: Serials { current: Some(serial("1")), pending: None },
            pending: serial("2"),
            not_after: later(),
        }))
        .await;
    // Both are good until the new one is used.
    world.call(SYNC, &old).await.unwrap();
    let Caller::Agent(agent) = world.call(SYNC, &new).await.unwrap() else { panic!("an agent") };
    assert_eq!(agent.seen, Serials { current: Some(serial("2")), pending: None });
    let status = world.call(SYNC, &old).await.unwrap_err().into_status();
    assert_eq!(reason_of(&status), Some(Detail::AgentNotActive));
    world.call(SYNC, &new).await.unwrap();
}

#[tokio::test]
async fn agents_are_told_why_they_are_refused() {
    let world = World::start().await;
    let agent = bearer(AGENT, "1");
    let reason = async || {
        let status = world.call(SYNC, &agent).await.unwrap_err().into_status();
        assert_eq!(status.code(), Code::PermissionDenied);
        reason_of(&status)
    };
    assert_eq!(reason().await, Some(Detail::AgentNotAttested));
    world.admit_agent("1").await;
    world.call(SYNC, &agent).await.unwrap();
    world.apply(Command::BanAgent(AGENT.parse().unwrap())).await;
    assert_eq!(reason().await, Some(Detail::AgentBanned));
    world.apply(Command::DeleteAgent(AGENT.parse().unwrap())).await;
    assert_eq!(reason().await, Some(Detail::AgentNotAttested));
}

#[tokio::test]
async fn whose_authority_was_revoked_is_refused_on_an_open_connection() {
    let world = World::start().await;
    let compromised = Authority::new("example.org");
    world.apply(compromised.append()).await;
    world.admit_agent("1").await;
    let callers_of = |authority: &Authority| {
        [(SYNC, authority.bearer(AGENT, "1")), (LIST, authority.bearer(ADMIN, "1"))]
    };
    let (lapsing, others) = (callers_of(&compromised), callers_of(&OWN));
    let all_pass = async |callers: &[(&str, Peer)]| {
        // What was acknowledged is seen here.
        world.gate.reads.confirm(Instant::now() + LOST).await.unwrap();
        for (method, peer) in callers {
            world.call(method, peer).await.unwrap();
            assert!(!peer.lapsed().is_cancelled(), "{method}");
        }
    };
    all_pass(&lapsing).await;
    all_pass(&others).await;
    // A taint asks agents to replace what it signed, and takes nothing from them.
    world.apply(compromised.change(RootChange::Taint)).await;
    all_pass(&lapsing).await;
    world.apply(compromised.change(RootChange::Revoke)).await;
    all_pass(&others).await;
    for (method, peer) in &lapsing {
        is_plain_refusal(world.call(method, peer).await, method);
        assert!(peer.lapsed().is_cancelled(), "it may have another certificate by now");
        assert_eq!(world.call(BUNDLE, peer).await, Ok(Caller::Nobody), "as anybody may");
    }
    world.apply(compromised.append()).await;
    all_pass(&callers_of(&compromised)).await;
}

#[tokio::test]
async fn a_replica_that_trails_looks_again_before_it_calls_an_authority_revoked() {
    let world = World::start().await;
    let newer = Authority::new("example.org");
    world.apply(newer.append()).await;
    let (views, task) = Views::start(world.store.handle.clone());
    let gate = World::gate(&world.store, views);
    let (rule, admin) = (policy::rule(LIST).unwrap(), newer.bearer(ADMIN, "1"));
    let admitted = tokio::select! {
        // In this order: nothing is known here yet when it is asked.
        biased;
        admitted = gate.admit(rule, &admin, Instant::now() + LOST) => admitted,
        () = task.run(CancellationToken::new()) => unreachable!("nobody stops it"),
    };
    assert_eq!(admitted.map(|caller| caller.role()), Ok(Role::Admin));
}

#[tokio::test]
async fn nobody_is_refused_for_lack_of_a_confirmed_read() {
    let World { store, gate, _views } = World::start().await;
    gate.reads.confirm(Instant::now() + LOST).await.unwrap();
    store.stop().await.unwrap();
    let deadline = || Instant::now() + Duration::from_millis(300);
    let unknown = Authority::new("example.org");
    for (method, peer) in [
        (SYNC, bearer(AGENT, "1")),
        (LIST, bearer("spiffe://example.org/web", "1")),
        (LIST, bearer(AGENT, "1")),
        (LIST, Authority::foreign().bearer("spiffe://foreign.org/admin", "1")),
        // Their authority is not in the bundle, as far as is known here.
        (SYNC, unknown.bearer(AGENT, "1")),
        (LIST, unknown.bearer(ADMIN, "1")),
    ] {
        let failure =
            gate.admit(policy::rule(method).unwrap(), &peer, deadline()).await.unwrap_err();
        assert_eq!(failure.code(), Code::Unavailable, "{method} {failure:?}");
        assert_eq!(reason_of(&failure.into_status()), None);
        assert!(!peer.lapsed().is_cancelled(), "{method}");
    }
    // Whom a known authority vouches for goes on.
    let admin = gate.admit(policy::rule(LIST).unwrap(), &bearer(ADMIN, "1"), deadline()).await;
    assert_eq!(admin.map(|caller| caller.role()), Ok(Role::Admin));
}

#[tokio::test]
async fn a_certificate_that_ended_by_one_clock_only_is_no_refusal_and_names_the_clock() {
    let mut world = World::start().await;
    world.admit_agent("1").await;
    let ahead = later().plus(Duration::from_secs(10));
    world.gate.clock = Arc::new(FixedClock::new(ahead));
    let failure = world.call(SYNC, &bearer(AGENT, "1")).await.unwrap_err();
    assert_eq!(failure.code(), Code::Unavailable);
    let text = failure.message();
    assert!(text.contains("expired by this server's clock but not by cluster time"), "{text}");
    assert!(text.contains("correct this server's clock if it is ahead"), "{text}");
    let behind = text.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    assert!(behind.is_some_and(|s| (3600..3700).contains(&s)), "{text}");
}

#[test]
fn what_lets_a_caller_in_is_named_in_spires_words() {
    let id = |text: &str| SpiffeId::parse(text).unwrap();
    let (listed, entry) = (id("spiffe://example.org/listed"), id("spiffe://example.org/entry"));
    let admin_ids = BTreeSet::from([listed.clone()]);
    for (caller, expected) in [
        (Caller::Nobody, None),
        (Caller::Local, Some(("local", "transport"))),
        (Caller::Admin(listed.clone()), Some(("admin", "config"))),
        (Caller::Admin(entry.clone()), Some(("admin", "entries"))),
        (Caller::Downstream(entry), Some(("downstream", "entries"))),
    ] {
        let authorized = caller.authorized(&admin_ids).map(|one| (one.r#as, one.via));
        assert_eq!(authorized, expected, "{caller:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_a_restored_state_has_forgotten_is_adopted_once_or_waits() {
    const UNKNOWN: &str = "spiffe://example.org/spire/agent/join_token/b";
    let (original, folder) = (World::start().await, tempfile::tempdir().unwrap());
    original.admit_agent("1").await;
    let world = original.restored(folder.path()).await;
    let restored =
        world.store.handle.subscribe().unwrap().snapshot.into_iter().find_map(|change| {
            let steeple_raft_store::Change::ClusterWritten(cluster) = change else { return None };
            cluster.restored
        });
    let issued = restored.unwrap().lost_from.plus(LOST);
    let reason = async |peer: &Peer| {
        let failure = world.call(SYNC, peer).await.unwrap_err();
        (failure.code(), failure.reason())
    };

    // Renewed in the lost time: what it presents is its serial from now on, and its last word.
    world.call(SYNC, &bearer_since(AGENT, "7", issued)).await.unwrap();
    let record = world.gate.views.agent(&AGENT.parse().unwrap()).unwrap();
    assert_eq!(record.serials, Serials { current: Some(serial("7")), pending: None });
    world.call(SYNC, &bearer(AGENT, "7")).await.unwrap();
    let denied = |detail| (Code::PermissionDenied, Some(detail));
    let again = reason(&bearer_since(AGENT, "8", issued)).await;
    assert_eq!(again, denied(Detail::AgentNotActive));
    assert_eq!(reason(&bearer(AGENT, "1")).await, denied(Detail::AgentNotActive));

    let unknown = bearer_since(UNKNOWN, "9", issued);
    assert_eq!(reason(&unknown).await, (Code::Unavailable, None));
    let of_before = reason(&bearer(UNKNOWN, "9")).await;
    assert_eq!(of_before, denied(Detail::AgentNotAttested), "it was unknown then, too");
    world.apply(Command::DecideAgents(UnknownAgents::Refuse)).await;
    assert_eq!(reason(&unknown).await, denied(Detail::AgentNotAttested));
    world.apply(Command::DecideAgents(UnknownAgents::Adopt)).await;
    world.call(SYNC, &unknown).await.unwrap();
    let record = world.gate.views.agent(&UNKNOWN.parse().unwrap()).unwrap();
    assert_eq!((record.attestation_type.as_str(), record.can_reattest), ("join_token", false));
}
