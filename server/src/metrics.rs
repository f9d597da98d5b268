//! Metrics in SPIRE's names: the Prometheus listener and the call counters of the API.
//!
//! Owns the names that are made from methods (`spec/spire-semantics` 17) and the recorder. What a
//! component measures it records itself, under a name with the prefix `spire_server_`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics::Label;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use steeple_federation::Danger;
use steeple_raft_store::{MemberStatus, Revision, Role, StoreHandle};
use steeple_spiffe_core::authority::AuthorityKind;
use steeple_spiffe_core::{Clock, Timestamp, TrustDomain};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::authority::{AuthorityPolicy, Slots};
use crate::gate::policy::Rule;
use crate::refresher::Refresher;
use crate::view::Views;

/// Scrapes at a time; a monitoring system opens one or two.
const SCRAPES_MAX: usize = 16;

/// How often buffered histograms are folded in, so that memory stays bounded without scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(10);

/// How often the gauges about the cluster are set; scrapes come every 10 s or less often.
const GAUGES_INTERVAL: Duration = Duration::from_secs(1);

/// Of so many rounds of gauges one is about foreign bundles too: there may be ten thousand, and
/// they change by the minute.
const FEDERATION_EVERY: u64 = 10;

/// Counters of events that should not happen. They are there from the start, so that the first event is
/// a change from zero, which alerts on an increase see.
const RARE: [&str; 3] = [
    "spire_server_cluster_state_hash_mismatch",
    "spire_server_cluster_leader_stalls",
    "spire_server_cluster_feed_resyncs",
];

/// Counts refused peers, by reason.
const PEER_REFUSED: &str = "spire_server_cluster_peer_refused";

/// The reasons, as the peer listener names them.
const REFUSALS: [&str; 6] =
    ["handshake", "handshake_timeout", "cluster", "epoch", "member", "impersonation"];

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Another recorder is installed: two servers in one process.
    #[error("install metrics recorder")]
    Recorder(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The listener's address is taken or not ours.
    #[error("could not listen on {address} for metrics; change telemetry.Prometheus host or port")]
    Bind {
        /// Host and port.
        address: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The bound metrics listener.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
    recorder: PrometheusHandle,
}

impl MetricsListener {
    /// Binds the listener and installs the recorder. Every metric carries `labels`.
    ///
    /// # Errors
    ///
    /// [`MetricsError`].
    pub async fn bind(
        host: &str,
        port: u16,
        labels: &[(&str, String)],
    ) -> Result<Self, MetricsError> {
        let address = format!("{host}:{port}");
        let listener = TcpListener::bind(address.as_str())
            .await
            .map_err(|source| MetricsError::Bind { address, source })?;
        let builder = labels.iter().fold(PrometheusBuilder::new(), |builder, (name, value)| {
            builder.add_global_label(*name, value.clone())
        });
        let recorder =
            builder.install_recorder().map_err(|error| MetricsError::Recorder(Box::new(error)))?;
        Ok(Self { listener, recorder })
    }

    /// Serves the metrics under every path, as SPIRE does, until the shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(SCRAPES_MAX));
        let mut connections = JoinSet::new();
        let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = upkeep.tick() => self.recorder.run_upkeep(),
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => {
                    let (Ok((stream, _)), Ok(slot)) = (accepted, Arc::clone(&slots).try_acquire_owned())
                    else { continue };
                    let recorder = self.recorder.clone();
                    connections.spawn(async move {
                        let scrape = service_fn(move |_request: http::Request<Incoming>| {
                            let body = Full::new(Bytes::from(recorder.render()));
                            async move { Ok::<_, std::convert::Infallible>(Response::new(body)) }
                        });
                        let served = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), scrape)
                            .await;
                        if let Err(error) = served {
                            tracing::debug!(%error, "Metrics connection ended");
                        }
                        drop(slot);
                    });
                }
            }
        }
    }
}

/// Records that this process has started, and that nothing bad has happened yet.
pub fn note_start(trust_domain: &TrustDomain) {
    let labels = [
        Label::new("version", env!("CARGO_PKG_VERSION")),
        Label::new("trust_domain_id", trust_domain.as_str().to_owned()),
    ];
    metrics::gauge!("spire_server_started", labels.iter()).set(1.0);
    for name in RARE {
        metrics::counter!(name).absolute(0);
    }
    for reason in REFUSALS {
        metrics::counter!(PEER_REFUSED, "reason" => reason).absolute(0);
    }
}

/// Records whether the cluster key opens the data.
pub fn note_sealed(is_sealed: bool) {
    metrics::gauge!("spire_server_cluster_sealed").set(f64::from(u8::from(is_sealed)));
}

/// Keeps the gauges about the cluster current until the shutdown.
pub async fn follow(
    store: StoreHandle,
    views: Views,
    clock: Arc<dyn Clock>,
    default_x509_svid_ttl: Duration,
    refresher: Refresher,
    shutdown: CancellationToken,
) {
    let started = Instant::now();
    let mut followed = BTreeSet::new();
    let mut tick = tokio::time::interval(GAUGES_INTERVAL);
    let mut rounds = 0_u64;
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        let uptime_ms = started.elapsed().as_secs_f64() * 1000.0;
        metrics::gauge!("spire_server_uptime_in_ms").set(uptime_ms);
        let status = store.status();
        metrics::counter!("spire_server_cluster_elections").absolute(store.elections());
        record(&status);
        record_lag(store.revision(), views.revision());
        record_state(&views, default_x509_svid_ttl, clock.now());
        if rounds.is_multiple_of(FEDERATION_EVERY) {
            followed = record_federation(&refresher, followed, clock.now());
        }
        rounds += 1;
    }
}

/// How old the bundles of foreign trust domains are, and how long they verify anything. Of those
/// that are followed no more nothing is said: there is no number. Returns those that are.
fn record_federation(
    refresher: &Refresher,
    mut before: BTreeSet<TrustDomain>,
    now: Timestamp,
) -> BTreeSet<TrustDomain> {
    let followed: BTreeSet<TrustDomain> = refresher.relationships().into_keys().collect();
    for name in &followed {
        let status = refresher.views.refresh(name);
        let bundle = refresher.views.bundle(name);
        let ends = bundle.as_deref().and_then(Danger::last_authority_ends);
        let failing = status.map(|status| status.failure.is_some());
        let succeeded_at = refresher.progress(name).succeeded_at;
        record_bundle(
            name,
            FederationGauges {
                age: succeeded_at.map_or(f64::NAN, |at| now.since(at).as_secs_f64()),
                ends_in: ends.map_or(f64::NAN, |at| at.since(now).as_secs_f64()),
                failing: failing.map_or(f64::NAN, |failing| f64::from(u8::from(failing))),
            },
        );
        before.remove(name);
    }
    for name in &before {
        record_bundle(
            name,
            FederationGauges { age: f64::NAN, ends_in: f64::NAN, failing: f64::NAN },
        );
    }
    followed
}

/// The gauges of one foreign trust domain; not a number: not known.
struct FederationGauges {
    age: f64,
    ends_in: f64,
    failing: f64,
}

fn record_bundle(name: &TrustDomain, gauges: FederationGauges) {
    let labels = vec![Label::new("trust_domain_id", name.to_string())];
    metrics::gauge!("spire_server_federation_bundle_age", labels.clone()).set(gauges.age);
    metrics::gauge!("spire_server_federation_bundle_ends_in", labels.clone()).set(gauges.ends_in);
    metrics::gauge!("spire_server_federation_failing", labels).set(gauges.failing);
}

/// How far the views, from which everything is answered, are behind what is applied. The views are asked
/// last, so that what was applied in between does not count.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64; indexes stay below 2^53")]
fn record_lag(applied: Revision, shown: Revision) {
    let lag = applied.index().saturating_sub(shown.index());
    metrics::gauge!("spire_server_cluster_feed_lag").set(lag as f64);
}

/// What the replicated state says; nothing before the cluster is formed.
fn record_state(views: &Views, default_x509_svid_ttl: Duration, now: Timestamp) {
    let Some(cluster) = views.cluster() else { return };
    metrics::gauge!("spire_server_cluster_feature_level").set(f64::from(cluster.feature_level));
    metrics::gauge!("spire_server_cluster_epoch").set(f64::from(cluster.epoch));
    let journal = views.journal();
    let active = |kind| Slots::of(&journal, kind).current;
    for kind in AuthorityKind::ALL {
        let label = match kind {
            AuthorityKind::X509 => "x509",
            AuthorityKind::Jwt => "jwt",
            AuthorityKind::Wit => "wit",
        };
        let Some(active) = active(kind) else { continue };
        let left = active.not_after.since(now).as_secs_f64();
        metrics::gauge!("spire_server_cluster_authority_ends_in", "type" => label).set(left);
    }
    if let Some(active) = active(AuthorityKind::X509) {
        let shortest = views.shortest_x509_svid_ttl(default_x509_svid_ttl);
        let shortest = shortest.unwrap_or(default_x509_svid_ttl);
        let margin = AuthorityPolicy::outage_margin(shortest, active, now).as_secs_f64();
        metrics::gauge!("spire_server_cluster_outage_margin").set(margin);
        let trust_domain = cluster.trust_domain.to_string();
        let expiration = active.not_after.unix_s();
        let ttl = active.not_after.since(now).as_secs_f64();
        record_expiry(trust_domain, expiration, ttl);
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are f64; seconds stay below 2^53")]
fn record_expiry(trust_domain: String, expiration: i64, ttl: f64) {
    let labels = vec![Label::new("trust_domain_id", trust_domain)];
    metrics::gauge!("spire_server_manager_x509_ca_rotate_expiration", labels.clone())
        .set(expiration as f64);
    metrics::gauge!("spire_server_manager_x509_ca_rotate_ttl", labels).set(ttl);
}

#[expect(clippy::cast_precision_loss, reason = "gauges are f64; indexes stay below 2^53")]
fn record(status: &MemberStatus) {
    let leads = status.leader == Some(status.member_id);
    metrics::gauge!("spire_server_cluster_is_leader").set(f64::from(u8::from(leads)));
    metrics::gauge!("spire_server_cluster_term").set(status.term as f64);
    metrics::gauge!("spire_server_cluster_commit_index").set(status.commit_index as f64);
    metrics::gauge!("spire_server_cluster_applied_index").set(status.applied_index as f64);
    let lag = status.commit_index.saturating_sub(status.applied_index);
    metrics::gauge!("spire_server_cluster_apply_lag").set(lag as f64);
    if let Some(ahead_ms) = status.clock_ahead_ms {
        metrics::gauge!("spire_server_cluster_clock_ahead").set(ahead_ms as f64 / 1000.0);
    }
    for member in status.members.iter().filter(|member| member.id != status.member_id) {
        let Some(observed) = &member.observed else { continue };
        metrics::gauge!("spire_server_cluster_clock_offset", "member" => member.id.to_string())
            .set(observed.clock_offset_ms as f64 / 1000.0);
    }
    for (role, label) in [(Role::Voter, "voter"), (Role::Learner, "learner")] {
        let count = status.members.iter().filter(|member| member.role == role).count();
        metrics::gauge!("spire_server_cluster_members", "role" => label).set(count as f64);
    }
}

/// Counts one call and its time when it ends.
#[derive(Debug)]
pub struct RpcTimer {
    rule: &'static Rule,
    started: Instant,
}

impl RpcTimer {
    /// Starts the clock of a call.
    pub fn start(rule: &'static Rule) -> Self {
        Self { rule, started: Instant::now() }
    }

    /// The call has ended with a code.
    pub fn finish(self, code: tonic::Code) {
        record_call(rpc_metric(self.rule.service(), self.rule.name()), code, self.started);
    }
}

/// Counts a call of something and its time, as SPIRE's call counters do: `<name>` and
/// `<name>_elapsed_time` in milliseconds, with the code as label `status`.
pub fn record_call(name: impl Into<String>, code: tonic::Code, started: Instant) {
    let name = name.into();
    let labels = vec![Label::new("status", steeple_api::status::code_name(code))];
    let elapsed_ms = started.elapsed().as_secs_f64() * 1000.0;
    metrics::histogram!(format!("{name}_elapsed_time"), labels.clone()).record(elapsed_ms);
    metrics::counter!(name, labels).increment(1);
}

/// SPIRE's name of a method's counter, with the prefix.
fn rpc_metric(service: &str, method: &str) -> String {
    let service = service.strip_prefix("spire.api.server.").unwrap_or(service);
    let service = if service == "grpc.health.v1.Health" { "health" } else { service };
    let service: Vec<String> = service.split('.').map(snake_case).collect();
    format!("spire_server_rpc_{}_{}", service.join("_"), snake_case(method))
}

/// `AttestAgent` → `attest_agent`, `BatchNewX509SVID` → `batch_new_x509svid`: an underscore goes
/// before an upper-case letter that is neither first nor last and has a lower-case letter beside it.
fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let lower = |index: Option<usize>| {
        index.and_then(|index| letters.get(index)).is_some_and(char::is_ascii_lowercase)
    };
    let mut snake = String::with_capacity(name.len() + 8);
    for (index, letter) in letters.iter().enumerate() {
        let inside = index > 0 && index + 1 < letters.len();
        let beside_lower = lower(index.checked_sub(1)) || lower(Some(index + 1));
        if letter.is_ascii_uppercase() && inside && beside_lower {
            snake.push('_');
        }
        if letter.is_ascii_alphanumeric() {
            snake.push(letter.to_ascii_lowercase());
        } else {
            snake.push('_');
        }
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is served after something was recorded.
    fn scrape(record: impl FnOnce()) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, record);
        recorder.handle().render()
    }

    #[test]
    fn what_should_not_happen_is_counted_from_zero() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let served = scrape(|| note_start(&trust_domain));
        for name in RARE {
            assert!(served.lines().any(|line| line == format!("{name} 0")), "{name}: {served}");
        }
        for reason in REFUSALS {
            let expected = format!("{PEER_REFUSED}{{reason=\"{reason}\"}} 0");
            assert!(served.lines().any(|line| line == expected), "{expected}: {served}");
        }
    }

    #[test]
    fn every_reason_to_refuse_a_peer_is_known_here() {
        let source = include_str!("../../raft-store/src/net/refusals.rs");
        let labels = source.lines().filter_map(|line| {
            let (_, label) = line.trim().strip_prefix("Self::")?.split_once(" => \"")?;
            label.strip_suffix("\",")
        });
        assert_eq!(labels.collect::<BTreeSet<_>>(), BTreeSet::from(REFUSALS));
    }

    #[test]
    fn a_sealed_member_and_views_that_trail_show() {
        let served = scrape(|| {
            note_sealed(true);
            record_lag(Revision::new(2, 12), Revision::new(2, 9));
        });
        assert!(served.contains("spire_server_cluster_sealed 1\n"), "{served}");
        assert!(served.contains("spire_server_cluster_feed_lag 3\n"), "{served}");
        // Before the views are filled they are at nothing, of no epoch; and they may be asked late.
        for (shown, lag) in [(Revision::default(), 12), (Revision::new(2, 13), 0)] {
            let served = scrape(|| record_lag(Revision::new(2, 12), shown));
            let expected = format!("spire_server_cluster_feed_lag {lag}\n");
            assert!(served.contains(&expected), "{served}");
        }
        assert!(scrape(|| note_sealed(false)).contains("spire_server_cluster_sealed 0\n"));
    }

    #[test]
    fn methods_have_the_names_that_spire_dashboards_use() {
        let table = [
            ("spire.api.server.agent.v1.Agent", "AttestAgent", "agent_v1_agent_attest_agent"),
            (
                "spire.api.server.svid.v1.SVID",
                "BatchNewX509SVID",
                "svid_v1_svid_batch_new_x509svid",
            ),
            ("spire.api.server.svid.v1.SVID", "NewJWTSVID", "svid_v1_svid_new_jwtsvid"),
            (
                "spire.api.server.trustdomain.v1.TrustDomain",
                "RefreshBundle",
                "trustdomain_v1_trust_domain_refresh_bundle",
            ),
            ("grpc.health.v1.Health", "Check", "health_check"),
        ];
        for (service, method, expected) in table {
            assert_eq!(rpc_metric(service, method), format!("spire_server_rpc_{expected}"));
        }
    }
}
