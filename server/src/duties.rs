//! Duties of the leader: tasks that run on one replica at a time and move with leadership.
//!
//! Owns when they start and stop; what they do is `authority`'s (rotation, the first authorities
//! included), `refresher`'s (bundles of foreign trust domains) and raft-store's (what a prune
//! removes, decided in apply by cluster time). Each command carries the term in which this replica
//! leads, so a replica that has not yet noticed its loss of leadership changes nothing.

use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_raft_store::command::PruneExpired;
use steeple_raft_store::{Applied, Command, Leadership, Outcome, ProposeError, StoreHandle};
use steeple_spiffe_core::AuthorityStatus;
use steeple_spiffe_core::authority::AuthorityKind;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::authority::{MintError, Rekeyer, RotateError, Rotator};
use crate::endpoint_certificate::EndpointCertificate;
use crate::mutants::{self, Mutant};
use crate::refresher::Refresher;
use crate::snapshots::Schedule;
use crate::upstream::UpstreamError;
use crate::view::Views;

/// How often rotation is considered (SPIRE: 10 s). A change of the journal is looked at once.
const ROTATE_EVERY: Duration = Duration::from_secs(10);

/// Pause before the next attempt while nothing signs yet: a new cluster is not to wait for a tick.
const ROTATE_RETRY: Duration = Duration::from_millis(500);

/// Pause before the next attempt to seal what could not be sealed anew.
const REKEY_RETRY: Duration = Duration::from_secs(5);

/// How often expired entries, tokens and agents are removed (SPIRE's entry task: 5 min).
const PRUNE_EVERY: Duration = Duration::from_secs(5 * 60);

/// Rows that one prune command removes at most, so that apply is never held up for long.
const PRUNE_ROWS_MAX: u32 = 1_000;

/// Commands of one prune at most: more rows than this wait for the next one.
const PRUNE_COMMANDS_MAX: usize = 1_000;

/// Which agents are removed some time after their certificate ended. Off unless configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentPruning {
    /// How long after the end; `None`: agents are kept.
    pub expired_for: Option<Duration>,
    /// Whether agents that cannot attest again go too (`prune_tofu_nodes`).
    pub include_non_reattestable: bool,
}

/// The leader's duties.
#[derive(Clone, Debug)]
pub struct Duties {
    /// The registry.
    pub handle: StoreHandle,
    /// What this replica has applied.
    pub views: Views,
    /// Rotation.
    pub rotator: Rotator,
    /// Another cluster key.
    pub rekeyer: Rekeyer,
    /// Removal of agents.
    pub agent_pruning: AgentPruning,
    /// Snapshots by schedule, if there is one.
    pub schedule: Option<Schedule>,
    /// The bundle endpoint's certificate, if it is ordered by ACME.
    pub endpoint_certificate: Option<EndpointCertificate>,
    /// Bundles of foreign trust domains.
    pub refresher: Refresher,
}

impl Duties {
    /// Runs the duties whenever and as long as this replica leads, until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let duties = Arc::new(self);
        let mut leadership = duties.handle.leadership();
        while !shutdown.is_cancelled() {
            let now = *leadership.borrow_and_update();
            let next = next_leadership(&mut leadership, now);
            let ended = if now.is_self || mutants::on(Mutant::EveryReplicaFetches) {
                tracing::info!(term = now.term, "Duties of the leader begin");
                let lead = duties.lead(now.term);
                // Dropping `lead` between two of its steps leaves nothing half done: each is one
                // command, and what was proposed is decided by the log.
                shutdown
                    .run_until_cancelled(async {
                        tokio::select! { ended = next => ended, () = lead => true }
                    })
                    .await
            } else {
                shutdown.run_until_cancelled(next).await
            };
            if ended != Some(true) {
                return;
            }
        }
    }

    /// The duties of one term; ends only by being dropped.
    async fn lead(&self, term: u64) {
        let snapshots = async {
            if let Some(schedule) = &self.schedule {
                schedule.lead().await;
            }
        };
        let certificate = async {
            if let Some(certificate) = &self.endpoint_certificate {
                certificate.lead(term).await;
            }
        };
        let upstream = self.rotator.follow_upstream(term);
        let refresh = self.refresher.lead(term);
        let keys = async { tokio::join!(self.rotate(term), self.rekey(term), upstream) };
        tokio::join!(keys, self.prune(term), snapshots, certificate, refresh);
    }

    async fn rotate(&self, term: u64) {
        let mut revision = self.views.subscribe_revision();
        loop {
            if let Err(error) = self.rotator.round(term).await {
                report(&error);
            }
            let journal = self.views.journal();
            let pause = rotation_pause(&journal, self.rotator.policy().kinds());
            // Forced rotations move the journal too, and may make a step due.
            let moved = revision.wait_for(|_| self.views.journal().revision != journal.revision);
            // An error would say that the views are gone; the pause then paces the loop.
            tokio::time::timeout(pause, moved).await.ok();
        }
    }

    /// Goes on with a change of the cluster key wherever the last leader stopped.
    async fn rekey(&self, term: u64) {
        let mut revision = self.views.subscribe_revision();
        let mut keys = self.rekeyer.keys.changes();
        loop {
            if let Err(error) = self.rekeyer.round(term).await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error,
                    "Could not seal all authority keys under the new cluster key"
                );
            }
            if self.rekeyer.is_due() {
                // A key that was missing may come at any time.
                tokio::time::timeout(REKEY_RETRY, keys.changed()).await.ok();
            } else if revision.wait_for(|_| self.rekeyer.is_due()).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn prune(&self, term: u64) {
        let mut tick = tokio::time::interval(PRUNE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.prune_once(term).await {
                Ok(0) => {}
                Ok(rows) => tracing::info!(rows, "Expired rows pruned"),
                Err(error) => tracing::debug!(%error, "Could not prune expired rows"),
            }
            match self.rotator.prune_bundle(term).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "Expired roots and keys of others pruned"),
                Err(error) => tracing::debug!(%error, "Could not prune the bundle"),
            }
        }
    }

    /// Removes what has expired, command by command, and returns how many rows that were.
    async fn prune_once(&self, term: u64) -> Result<u64, ProposeError> {
        let pruning = self.agent_pruning;
        let command = PruneExpired {
            agents_expired_for_s: pruning.expired_for.map(|time| time.as_secs()),
            include_non_reattestable: pruning.include_non_reattestable,
            limit: PRUNE_ROWS_MAX,
        };
        let mut removed = 0;
        for _ in 0..PRUNE_COMMANDS_MAX {
            let command = Command::PruneExpired(command.clone());
            let rows = pruned_rows(&self.handle.propose_duty(command, term).await?);
            removed += u64::from(rows);
            if rows < PRUNE_ROWS_MAX {
                break;
            }
        }
        Ok(removed)
    }
}

/// Waits until leadership is no longer what it was; false when the store has ended.
async fn next_leadership(leadership: &mut watch::Receiver<Leadership>, was: Leadership) -> bool {
    let differs = |now: &Leadership| (now.is_self, now.term) != (was.is_self, was.term);
    leadership.wait_for(differs).await.is_ok()
}

/// Every cause is tried again; only those that do not mend themselves deserve a person's eye.
fn report(error: &RotateError) {
    let is_defect = match error {
        RotateError::Unavailable(_)
        | RotateError::ViewsBehind(_)
        | RotateError::NotFormed
        | RotateError::StillTainted
        | RotateError::Mint(
            MintError::ShuttingDown | MintError::Upstream { source: UpstreamError::Paused(_), .. },
        )
        | RotateError::Propose(_)
        | RotateError::Rejected(_) => false,
        RotateError::Mint(_) => true,
    };
    let error: &dyn std::error::Error = error;
    if is_defect {
        tracing::error!(error, "Could not make authority");
    } else {
        tracing::debug!(error, "Rotation round ended early");
    }
}

/// How long the rotator may rest: at most a quarter of the last span in which a hand-over is due
/// anyway (a twelfth of the lifetime), so that authorities of a minute hand over in time too.
fn rotation_pause(journal: &Journal, kinds: &[AuthorityKind]) -> Duration {
    if !signs_everything(journal, kinds) {
        return ROTATE_RETRY;
    }
    let active = journal.authorities.iter().filter(|one| one.status == AuthorityStatus::Active);
    let shortest = active.map(|one| one.not_after.since(one.issued_at)).min();
    let pause = shortest.map_or(ROTATE_EVERY, |lifetime| lifetime / 48);
    pause.clamp(ROTATE_RETRY, ROTATE_EVERY)
}

/// Whether every kind of SVID has an authority that signs it.
fn signs_everything(journal: &Journal, kinds: &[AuthorityKind]) -> bool {
    kinds.iter().all(|kind| {
        let mut authorities = journal.authorities.iter();
        authorities.any(|one| one.kind == *kind && one.status == AuthorityStatus::Active)
    })
}

fn pruned_rows(applied: &Applied) -> u32 {
    match &applied.outcome {
        Ok(Outcome::Pruned(rows)) => *rows,
        Ok(
            Outcome::Done | Outcome::Entries(_) | Outcome::Bundles(_) | Outcome::Relationships(_),
        )
        | Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {

    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use steeple_federation::{Fetch, FetchError, Fetching, HttpsFetcher, Source, Timing};
    use steeple_raft_store::command::AdmitAgent;
    use steeple_raft_store::testing::{self, DEADLINE, TestStore};
    use steeple_raft_store::{
        Change, ClusterId, ClusterKeys, FEATURE_LEVEL_MAX, KeysInUse, MemoryDisk, Rejection,
        RequestId, Storage, Store, WIT_LEVEL,
    };
    use steeple_spiffe_core::authority::Authority;
    use steeple_spiffe_core::random::SystemRandom;
    use steeple_spiffe_core::time::FixedClock;
    use steeple_spiffe_core::{
        Clock, EndpointProfile, EndpointUrl, EntryId, FederationRelationship, RegistrationEntry,
        Secret, Selector, Serial, SortedSet, SpiffeId, Timestamp, TrustDomain,
    };
    use tokio::time::Instant;

    use super::*;
    use crate::authority::evidence::Survey;
    use crate::authority::{AuthorityPolicy, Issuer, Minter, RekeyError, X509Params};
    use crate::endpoint_certificate::KeptRecords;
    use crate::keys::KeyRing;
    use crate::refresher::Live;
    use crate::upstream::Upstream;
    use crate::upstream::fake::{Fake, Mood};
    use crate::view::EntryFilter;

    const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);

    /// One member in memory with everything that signs, on a clock that stands still.
    struct Bench {
        clock: Arc<FixedClock>,
        store: TestStore,
        views: Views,
        issuer: Issuer,
        rotator: Rotator,
        stop: CancellationToken,
    }

    impl Bench {
        async fn start() -> Self {
            Self::at_level(FEATURE_LEVEL_MAX).await
        }

        async fn at_level(feature_level_max: u32) -> Self {
            let clock = Arc::new(FixedClock::new(START));
            let mut config = testing::config(PathBuf::new());
            config.tuning.feature_level_max = feature_level_max;
            let (keys, trust_domain) = (Arc::clone(&config.keys), config.trust_domain.clone());
            let random = Arc::new(SystemRandom);
            let storage = Storage::Memory(MemoryDisk::new());
            let seams =
                testing::seams_with(storage, Arc::<FixedClock>::clone(&clock), random.clone());
            let store = TestStore::open(config, seams).await.unwrap();
            let stop = CancellationToken::new();
            let (views, view_task) = Views::start(store.handle.clone());
            tokio::spawn(view_task.run(stop.clone()));
            let policy = Arc::new(AuthorityPolicy::default());
            let (issuer, issuer_task) = Issuer::start(
                Arc::clone(&keys),
                views.clone(),
                trust_domain.clone(),
                Arc::clone(&policy),
                Arc::<FixedClock>::clone(&clock),
                store.handle.cluster_clock(),
                random.clone(),
            );
            tokio::spawn(issuer_task.run(stop.clone()));
            let survey = Survey::start(
                store.handle.clone(),
                views.clone(),
                Arc::clone(&keys),
                Arc::<FixedClock>::clone(&clock),
                Duration::from_secs(600),
                None,
            );
            let rotator = Rotator {
                survey,
                handle: store.handle.clone(),
                views: views.clone(),
                minter: Minter { trust_domain, policy, keys, random, upstream: None },
                clock: Arc::<FixedClock>::clone(&clock),
            };
            Self { clock, store, views, issuer, rotator, stop }
        }

        fn duties(&self) -> Duties {
            Duties {
                handle: self.store.handle.clone(),
                views: self.views.clone(),
                rotator: self.rotator.clone(),
                rekeyer: Rekeyer {
                    handle: self.store.handle.clone(),
                    views: self.views.clone(),
                    keys: Arc::clone(&self.rotator.minter.keys),
                    random: Arc::new(SystemRandom),
                },
                agent_pruning: AgentPruning::default(),
                schedule: None,
                endpoint_certificate: None,
                refresher: Refresher {
                    handle: self.store.handle.clone(),
                    views: self.views.clone(),
                    of_file: Arc::default(),
                    fetch: Arc::new(HttpsFetcher::new(Arc::<FixedClock>::clone(&self.clock))),
                    clock: Arc::<FixedClock>::clone(&self.clock),
                    timing: Timing::default(),
                    live: Live::default(),
                },
            }
        }

        async fn decided(&self, command: Command) -> Result<Outcome, Rejection> {
            let applied = if matches!(command, Command::MoveClusterKey { .. }) {
                let id = RequestId([9; 16]);
                self.store.handle.propose(command, id, Instant::now() + DEADLINE).await
            } else {
                self.store.handle.propose_duty(command, self.term()).await
            };
            let applied = applied.unwrap();
            assert!(self.views.wait_for(applied.revision, Instant::now() + DEADLINE).await);
            applied.outcome
        }

        fn cluster_id(&self) -> ClusterId {
            self.views.cluster().unwrap().cluster_id
        }

        fn term(&self) -> u64 {
            self.store.handle.leadership().borrow().term
        }

        fn names(&self, kind: AuthorityKind) -> Vec<(String, AuthorityStatus)> {
            let journal = self.views.journal();
            let of_kind = journal.authorities.iter().filter(|one| one.kind == kind);
            of_kind.map(|one| (one.id.to_string(), one.status)).collect()
        }

        fn statuses(&self) -> Vec<AuthorityStatus> {
            self.names(AuthorityKind::X509).into_iter().map(|(_, status)| status).collect()
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_new_cluster_gets_its_first_authorities_and_signs() {
        let bench = Bench::start().await;
        assert!(!bench.issuer.ready());
        tokio::spawn(bench.duties().run(bench.stop.clone()));
        tokio::time::timeout(DEADLINE, bench.issuer.wait_ready()).await.unwrap();
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
            let statuses: Vec<_> =
                bench.names(kind).into_iter().map(|(_, status)| status).collect();
            assert_eq!(statuses, [AuthorityStatus::Active], "{kind:?}");
        }
        let trust_domain = bench.rotator.minter.trust_domain.clone();
        let bundle = bench.views.bundle(&trust_domain).unwrap();
        assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));

        let clock: Arc<dyn Clock> = Arc::<FixedClock>::clone(&bench.clock);
        let svid = crate::authority::ServerSvid::start(
            bench.issuer.clone(),
            bench.views.clone(),
            trust_domain,
            clock,
            bench.rotator.survey.clone(),
        );
        svid.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_jwt_svids_disabled_the_first_round_makes_an_x509_authority_alone() {
        let mut bench = Bench::start().await;
        let policy = AuthorityPolicy { jwt_svids: false, ..AuthorityPolicy::default() };
        bench.rotator.minter.policy = Arc::new(policy);
        bench.rotator.round(bench.term()).await.unwrap();
        assert_eq!(bench.statuses(), [AuthorityStatus::Active]);
        assert!(bench.names(AuthorityKind::Jwt).is_empty());
        let journal = bench.views.journal();
        let pauses = [AuthorityKind::X509, AuthorityKind::Jwt].map(|last| {
            let kinds = [AuthorityKind::X509, last];
            rotation_pause(&journal, &kinds)
        });
        assert_eq!(pauses, [ROTATE_EVERY, ROTATE_RETRY], "nothing else is waited for");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_the_flag_a_wit_key_is_made_as_soon_as_the_cluster_can_hold_one() {
        use AuthorityStatus::{Active, Old, Prepared};
        for (level, made) in [(WIT_LEVEL - 1, &[][..]), (WIT_LEVEL, &[Active])] {
            let mut bench = Bench::at_level(level).await;
            let policy = AuthorityPolicy { wit_svids: true, ..AuthorityPolicy::default() };
            bench.rotator.minter.policy = Arc::new(policy);
            bench.rotator.round(bench.term()).await.unwrap();
            assert_eq!(bench.statuses(), [Active]);
            let keys = bench.names(AuthorityKind::Wit);
            assert_eq!(keys.into_iter().map(|(_, status)| status).collect::<Vec<_>>(), made);
            let kinds = bench.rotator.policy();
            let pause = rotation_pause(&bench.views.journal(), kinds.kinds());
            assert_eq!(pause, ROTATE_EVERY, "nothing is waited for");
        }
        let mut bench = Bench::start().await;
        let policy = AuthorityPolicy { wit_svids: true, ..AuthorityPolicy::default() };
        bench.rotator.minter.policy = Arc::new(policy);
        let hours = |count: u64| Duration::from_secs(count * 3600 + 1);
        let steps = [(0, &[Active][..]), (12, &[Active, Prepared]), (8, &[Old, Active])];
        for (later, expected) in steps {
            bench.clock.advance(hours(later));
            bench.rotator.round(bench.term()).await.unwrap();
            let keys = bench.names(AuthorityKind::Wit);
            assert_eq!(keys.into_iter().map(|(_, status)| status).collect::<Vec<_>>(), expected);
        }
        let bundle = bench.views.bundle(&bench.rotator.minter.trust_domain).unwrap();
        assert_eq!((bundle.wit_authorities.len(), bundle.jwt_authorities.len()), (2, 2));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_upstream_authority_that_fails_holds_up_no_jwt_key_and_the_present_one_signs_on() {
        use AuthorityStatus::{Active, Prepared};
        let mut bench = Bench::start().await;
        let day = Duration::from_secs(24 * 3600);
        let fake = Arc::new(Fake::new(START, Mood::Signs(day)));
        bench.rotator.minter.upstream = Some(Upstream::new(Arc::<Fake>::clone(&fake)));
        bench.rotator.round(bench.term()).await.unwrap();
        assert_eq!(bench.statuses(), [Active]);
        let trust_domain = bench.rotator.minter.trust_domain.clone();
        let bundle = bench.views.bundle(&trust_domain).unwrap();
        assert_eq!(bundle.x509_authorities[0].certificate_der, fake.root);
        assert_eq!(bundle.x509_authorities.len(), 1, "not the authority's own certificate");

        fake.set(Mood::Lies(|minted| minted.roots.clear()));
        bench.clock.advance(day / 2 + Duration::from_secs(1));
        let error = bench.rotator.round(bench.term()).await.unwrap_err();
        assert!(matches!(error, RotateError::Mint(MintError::Unchained(_))), "{error:?}");
        assert_eq!(bench.statuses(), [Active], "nothing that does not chain is published");
        let keys = bench.names(AuthorityKind::Jwt);
        assert_eq!(keys.iter().map(|(_, status)| *status).collect::<Vec<_>>(), [Active, Prepared]);
        assert!(bench.issuer.ready());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn below_the_feature_level_for_it_an_upstream_authority_is_not_even_asked() {
        let mut bench = Bench::at_level(4).await;
        let fake = Arc::new(Fake::new(START, Mood::Fails));
        bench.rotator.minter.upstream = Some(Upstream::new(fake));
        let error = bench.rotator.round(bench.term()).await.unwrap_err();
        let needs = RotateError::Mint(MintError::NeedsLevel { needs: 5, level: 4 });
        assert_eq!(format!("{error:?}"), format!("{needs:?}"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rotation_goes_through_the_log_step_by_step() {
        use AuthorityStatus::{Active, Old, Prepared};
        let bench = Bench::start().await;
        let hours = |count: u64| Duration::from_secs(count * 3600);
        let second = Duration::from_secs(1);
        bench.rotator.round(bench.term()).await.unwrap();
        assert_eq!(bench.statuses(), [Active]);

        bench.clock.advance(hours(12) + second);
        bench.rotator.round(bench.term()).await.unwrap();
        assert_eq!(bench.statuses(), [Active, Prepared]);

        bench.clock.advance(hours(8));
        bench.rotator.round(bench.term()).await.unwrap();
        assert_eq!(bench.statuses(), [Old, Active]);
        let active = bench.names(AuthorityKind::X509)[1].0.clone();
        let signed = bench.issuer.sign_x509(X509Params {
            spiffe_id: SpiffeId::parse("spiffe://example.org/w").unwrap(),
            dns_names: Vec::new(),
            subject: None,
            public_key_spki: steeple_spiffe_core::Signer::public_key_spki(
                &steeple_spiffe_core::LocalSigner::generate(Default::default()).unwrap().0,
            )
            .to_vec(),
            ttl: Duration::ZERO,
        });
        // The issuer follows the views by itself; whichever it has by now is published.
        assert!(signed.is_ok(), "{signed:?}");
        assert_eq!(active.len(), 40);

        bench.clock.advance(hours(5));
        bench.rotator.round(bench.term()).await.unwrap();
        let bundle = bench.views.bundle(&bench.rotator.minter.trust_domain).unwrap();
        assert_eq!(bench.statuses(), [Active, Prepared], "the old one has left");
        assert_eq!(bundle.x509_authorities.len(), 2);
    }

    /// An agent that has attested and has the bundle of now.
    async fn attest(bench: &Bench) -> SpiffeId {
        let id = SpiffeId::parse("spiffe://example.org/spire/agent/a").unwrap();
        let command = Command::AdmitAgent(AdmitAgent {
            token: None,
            agent_id: id.clone(),
            attestation_type: "x509pop".to_owned(),
            serial: Serial::from_decimal("1").unwrap(),
            not_after: START.plus(Duration::from_secs(30 * 24 * 3600)),
            selectors: SortedSet::new(),
            can_reattest: true,
            seen: None,
        });
        let deadline = Instant::now() + DEADLINE;
        let admitted = bench.store.handle.propose(command, RequestId([2; 16]), deadline).await;
        admitted.unwrap().outcome.unwrap();
        let bundle = bench.views.bundle(&bench.rotator.minter.trust_domain).unwrap();
        bench.rotator.survey.given(&id, &bundle, bench.clock.boot_time(), None);
        id
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_an_agent_does_not_know_signs_last_of_all_for_the_server_itself() {
        use AuthorityStatus::{Active, Old, Prepared};
        let bench = Bench::start().await;
        let minutes = |count: u64| Duration::from_secs(count * 60);
        bench.rotator.round(bench.term()).await.unwrap();
        tokio::time::timeout(DEADLINE, bench.issuer.wait_ready()).await.unwrap();
        let agent = attest(&bench).await;
        bench.clock.advance(minutes(20 * 60 - 7 - 15));
        let clock: Arc<dyn Clock> = Arc::<FixedClock>::clone(&bench.clock);
        let trust_domain = bench.rotator.minter.trust_domain.clone();
        let (issuer, views) = (bench.issuer.clone(), bench.views.clone());
        let survey = bench.rotator.survey.clone();
        let svid =
            crate::authority::ServerSvid::start(issuer, views, trust_domain.clone(), clock, survey);
        let (_, svid) = svid.await.unwrap();
        // Prepared seven minutes before it is due: less than the time that agents are given.
        bench.clock.advance(minutes(15));
        bench.rotator.round(bench.term()).await.unwrap();
        assert_eq!(bench.statuses(), [Active, Prepared]);
        bench.clock.advance(minutes(8));
        bench.rotator.round(bench.term()).await.unwrap();
        assert_eq!(bench.statuses(), [Active, Prepared], "the agent has the bundle of before");

        // An operator insists.
        let journal = bench.views.journal();
        let id = journal.authorities.iter().rfind(|one| one.kind == AuthorityKind::X509);
        let (kind, id) = (AuthorityKind::X509, id.unwrap().id.clone());
        let expected_journal = journal.revision;
        let activate = Command::ActivateAuthority { expected_journal, kind, id: id.clone() };
        let applied = bench.store.handle.propose_duty(activate, bench.term()).await.unwrap();
        assert!(bench.views.wait_for(applied.revision, Instant::now() + DEADLINE).await);
        while bench.issuer.active_x509_authority() != Some(id.clone()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.statuses(), [Old, Active]);
        assert!(!svid.is_due().await, "young");
        bench.clock.advance(minutes(8));
        assert!(
            !svid.is_due().await,
            "past half of its hour, but the agent could not come any more"
        );
        let bundle = bench.views.bundle(&trust_domain).unwrap();
        bench.rotator.survey.given(&agent, &bundle, bench.clock.boot_time(), None);
        assert!(svid.is_due().await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_of_the_cluster_key_goes_on_wherever_a_leader_was_killed() {
        const SECOND: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
        let bench = Bench::start().await;
        bench.rotator.round(bench.term()).await.unwrap();
        let rekeyer = bench.duties().rekeyer;
        let keys = Arc::clone(&rekeyer.keys);
        let (old, before) = (keys.current_id(), bench.views.journal());
        let second = ClusterKeys::parse(SECOND).unwrap();
        let new = second.current_id();
        let under = |key_id: &str| {
            let journal = bench.views.journal();
            let all = journal.authorities.iter();
            all.filter(|one| one.sealed_key.kek_id == key_id).cloned().collect::<Vec<_>>()
        };
        let round = || rekeyer.round(bench.term());
        assert!(!rekeyer.is_due(), "no key was named yet");
        round().await.unwrap();
        assert_eq!(*bench.views.journal(), *before);

        // Killed after the key has moved. This leader does not hold the new one: it changes nothing.
        let to_new = Command::MoveClusterKey { expected: old.clone(), to: new.clone() };
        bench.decided(to_new).await.unwrap();
        let error = round().await.unwrap_err();
        assert!(matches!(error, RekeyError::Seal(_)), "{error:?}");
        assert_eq!(under(&old).len(), 2);
        keys.take_over(&second, &BTreeSet::from([old.clone()]));

        // Killed after the first of two authorities.
        let first = under(&old)[0].clone();
        let reseal = |one: &Authority| rekeyer.command(bench.cluster_id(), one, &new).unwrap();
        let stale = reseal(&first);
        bench.decided(reseal(&first)).await.unwrap();
        assert_eq!((under(&old).len(), under(&new).len()), (1, 1));
        let refused = bench.decided(stale).await.unwrap_err();
        assert_eq!(
            refused,
            Rejection::AuthorityState(first.id.to_string()),
            "opened once, sealed once"
        );

        // The next leader goes on, and once done does no more.
        round().await.unwrap();
        let after = bench.views.journal();
        assert_eq!(under(&new).len(), 2);
        round().await.unwrap();
        assert_eq!(*bench.views.journal(), *after);
        let public = |journal: &Journal| {
            let all = journal.authorities.iter();
            all.map(|one| (one.id.clone(), one.public_der.clone(), one.status)).collect::<Vec<_>>()
        };
        assert_eq!(public(&after), public(&before), "the same authorities");

        // What comes next is sealed under the new key, and nothing needs the old one.
        bench.clock.advance(Duration::from_secs(12 * 3600 + 1));
        bench.rotator.round(bench.term()).await.unwrap();
        assert_eq!((under(&old).len(), under(&new).len()), (0, 4));
        let mut ring = KeyRing::new(Arc::new(ClusterKeys::parse(SECOND).unwrap()));
        ring.follow(bench.cluster_id(), &bench.views.journal()).unwrap();
        assert!(bench.issuer.ready());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_records_of_acme_are_kept_sealed_and_go_on_under_another_cluster_key() {
        use steeple_federation::acme::{Account, AcmeState as _, Record, StateError};
        const SECOND: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
        let bench = Bench::start().await;
        bench.rotator.round(bench.term()).await.unwrap();
        let rekeyer = bench.duties().rekeyer;
        let keys = Arc::clone(&rekeyer.keys);
        let records = KeptRecords {
            store: bench.store.handle.clone(),
            views: bench.views.clone(),
            keys: Arc::clone(&keys),
            random: Arc::new(SystemRandom),
            term: Some(bench.term()),
        };
        let account = || {
            let credentials = Secret::new(b"private".to_vec());
            Record::Account(Account { directory_url: "https://a".to_owned(), credentials })
        };
        let shown = || {
            let held = records.load().unwrap().account;
            (held.version, held.value.map(|one| one.credentials.expose().to_vec()))
        };
        assert_eq!(shown(), (0, None));
        records.save(account(), 0).await.unwrap();
        assert_eq!(shown(), (1, Some(b"private".to_vec())));
        let again = records.save(account(), 0).await;
        assert!(matches!(again, Err(StateError::Moved)), "{again:?}");
        let reader = KeptRecords { term: None, ..records.clone() };
        assert!(reader.save(account(), 1).await.is_err(), "it does not lead");
        for value in bench.views.sealed().values() {
            let bytes = &value.sealed.ciphertext;
            assert!(!bytes.windows(9).any(|part| part == b"directory"), "it is not sealed");
        }

        // The key moves, and what is kept moves with it: the old line may go.
        let (old, second) = (keys.current_id(), ClusterKeys::parse(SECOND).unwrap());
        let new = second.current_id();
        keys.take_over(&second, &BTreeSet::from([old.clone()]));
        let to_new = Command::MoveClusterKey { expected: old.clone(), to: new.clone() };
        bench.decided(to_new).await.unwrap();
        assert!(rekeyer.is_due());
        rekeyer.round(bench.term()).await.unwrap();
        assert!(!rekeyer.is_due());
        assert_eq!(shown(), (2, Some(b"private".to_vec())));
        let in_use = KeysInUse::of(
            &bench.views.cluster().unwrap(),
            &bench.views.journal(),
            &bench.views.sealed(),
        );
        assert_eq!(in_use.needed(), BTreeSet::from([new]));
        let alone = KeptRecords { keys: Arc::new(second), ..records.clone() };
        assert!(alone.load().unwrap().account.value.is_some(), "the new line alone opens it");
        records.save(account(), 2).await.unwrap();
        assert_eq!(shown().0, 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn records_of_acme_wait_for_the_level_that_has_them() {
        use steeple_federation::acme::AcmeState as _;
        let bench = Bench::at_level(5).await;
        bench.rotator.round(bench.term()).await.unwrap();
        let records = KeptRecords {
            store: bench.store.handle.clone(),
            views: bench.views.clone(),
            keys: Arc::clone(&bench.rotator.minter.keys),
            random: Arc::new(SystemRandom),
            term: Some(bench.term()),
        };
        let said = records.load().unwrap_err().to_string();
        assert!(said.starts_with("the cluster is at feature level 5, certificates by ACME need 6"));
        assert!(said.ends_with("then run \"spire-server cluster upgrade finalize\""), "{said}");
    }

    /// Peers that do not answer, and how often they were asked.
    #[derive(Clone, Debug, Default)]
    struct Silent(Arc<AtomicUsize>);

    impl Fetch for Silent {
        fn fetch(&self, _source: Source) -> Fetching {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Err(FetchError::NoEndpointBundle) })
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_does_not_lead_asks_no_peer_for_its_bundle() {
        let bench = Bench::start().await;
        let silent = Silent::default();
        let peer = FederationRelationship {
            trust_domain: TrustDomain::parse("b.test").unwrap(),
            endpoint_url: EndpointUrl::parse("https://b.test/").unwrap(),
            profile: EndpointProfile::HttpsWeb,
        };
        let of_file = Arc::new([(peer.trust_domain.clone(), Arc::new(peer))].into());
        let duties = |handle: StoreHandle| {
            let mut duties = Duties { handle, ..bench.duties() };
            duties.refresher.fetch = Arc::new(silent.clone());
            duties.refresher.of_file = Arc::clone(&of_file);
            duties
        };
        // Nobody has let it form a cluster: it leads none.
        let storage = Storage::Memory(MemoryDisk::new());
        let alone = Store::open(testing::config(PathBuf::new()), testing::seams(storage));
        let alone = alone.await.unwrap();
        let asked = async || {
            while silent.0.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        let idle = CancellationToken::new();
        let running = tokio::spawn(Box::pin(duties(alone.handle()).run(idle.clone())));
        let within = tokio::time::timeout(Duration::from_millis(200), asked());
        assert!(within.await.is_err(), "it asks though it does not lead");
        idle.cancel();
        running.await.unwrap();
        tokio::spawn(Box::pin(duties(bench.store.handle.clone()).run(bench.stop.clone())));
        let within = tokio::time::timeout(DEADLINE, asked());
        assert!(within.await.is_ok(), "the leader asks nobody");
        bench.stop.cancel();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_leader_of_an_older_term_changes_nothing() {
        let bench = Bench::start().await;
        let error = bench.rotator.round(bench.term() + 1).await.unwrap_err();
        assert!(matches!(error, RotateError::Propose(ProposeError::NotLeader)), "{error:?}");
        assert!(bench.views.journal().authorities.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn expired_entries_are_pruned_by_cluster_time() {
        let bench = Bench::start().await;
        let entry = |name: &str, expires_at_unix_s| RegistrationEntry {
            expires_at_unix_s,
            created_at: START,
            ..RegistrationEntry::new(
                EntryId::parse(name).unwrap(),
                SpiffeId::parse("spiffe://example.org/w").unwrap(),
                SpiffeId::parse("spiffe://example.org/p").unwrap(),
                SortedSet::from([Selector::new("unix", name).unwrap()]),
            )
        };
        let entries = vec![entry("kept", 0), entry("expired", START.unix_s() - 60)];
        let created = bench.store.handle.propose(
            Command::CreateEntries(entries),
            RequestId([1; 16]),
            Instant::now() + DEADLINE,
        );
        created.await.unwrap().outcome.unwrap();
        let duties = bench.duties();
        assert_eq!(duties.prune_once(bench.term()).await.unwrap(), 1);
        assert_eq!(duties.prune_once(bench.term()).await.unwrap(), 0);
        let reached = bench.store.handle.revision();
        assert!(bench.views.wait_for(reached, Instant::now() + DEADLINE).await);
        let left = bench.views.entries_page(None, None, &EntryFilter::default()).shown;
        let names: Vec<&str> = left.iter().map(|(_, entry)| entry.id.as_str()).collect();
        assert_eq!(names, ["kept"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn views_follow_the_store_and_start_from_its_rows() {
        let bench = Bench::start().await;
        bench.rotator.round(bench.term()).await.unwrap();
        // A second set of views subscribes to what is there already.
        let (late, task) = Views::start(bench.store.handle.clone());
        tokio::spawn(task.run(bench.stop.clone()));
        let reached = bench.store.handle.revision();
        assert!(late.wait_for(reached, Instant::now() + DEADLINE).await);
        assert_eq!(*late.journal(), *bench.views.journal());
        assert_eq!(late.cluster(), bench.views.cluster());
        let snapshot = bench.store.handle.subscribe().unwrap().snapshot;
        assert!(snapshot.iter().any(|change| matches!(change, Change::ClusterWritten(_))));
    }
}
