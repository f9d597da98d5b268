//! The HTTP probes: *live* says that the process works, *ready* that it can serve something useful.
//!
//! Owns the two answers and their JSON body (`docs/reference/cluster.md` 7). Live never depends on a
//! quorum and never waits for the disk; ready is computed from what is known at the moment.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use steeple_raft_store::{MemberState, MemberStatus, StoreHandle};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authority::{IssueError, Issuer};
use crate::config::HealthConfig;
use crate::gate::Reads;
use crate::gate::staleness::Standing;

/// Probes at a time; a kubelet opens two.
const PROBES_MAX: usize = 64;

/// A client that has not sent its request by then is dropped.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The health listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not listen on {address} for health checks; change health_checks.bind_address or bind_port"
)]
pub struct HealthError {
    address: String,
    source: std::io::Error,
}

/// What the probes look at.
#[derive(Clone, Debug)]
pub enum Health {
    /// The cluster key does not open the data.
    Sealed {
        /// `Sealed: cluster key does not open KEY_ID`.
        text: String,
    },
    /// `-hold`: only the admin socket is open.
    Held,
    /// Everything else.
    Serving(Box<Serving>),
}

/// The parts of a serving process.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The registry.
    pub store: StoreHandle,
    /// Confirmed reads.
    pub reads: Reads,
    /// Signs.
    pub issuer: Issuer,
    /// Whether the API port is open.
    pub open: Arc<AtomicBool>,
    /// Whether the process is stopping.
    pub stop: CancellationToken,
}

impl Health {
    /// Why the process is not ready; `None` = it is.
    pub fn not_ready(&self) -> Option<String> {
        match self {
            Self::Sealed { text } => Some(text.clone()),
            Self::Held => Some("held: only the admin socket is open".into()),
            Self::Serving(serving) => serving.not_ready(),
        }
    }

    fn body(&self) -> Value {
        let reason = self.not_ready();
        let sealed = matches!(self, Self::Sealed { .. });
        let mut cluster = json!({
            "ready": reason.is_none(),
            "reason": reason.clone().unwrap_or_default(),
            "sealed": sealed,
        });
        if let (Self::Serving(serving), Some(cluster)) = (self, cluster.as_object_mut()) {
            cluster.append(&mut serving.numbers());
        }
        let server = reason.map_or_else(|| json!({}), |reason| json!({ "get_bundle_err": reason }));
        json!({ "server": server, "cluster": cluster })
    }
}

impl Serving {
    fn not_ready(&self) -> Option<String> {
        if self.stop.is_cancelled() {
            return Some("stopping".into());
        }
        let status = self.store.status();
        match &status.state {
            MemberState::Forming { text } => return Some(text.clone()),
            MemberState::Joining { text } if text.is_empty() => {
                return Some("waiting to join a cluster".into());
            }
            MemberState::Joining { text } => {
                return Some(format!("waiting to join a cluster: {text}"));
            }
            MemberState::Member => {}
        }
        let unsigned = self.issuer.not_ready_reason();
        let unsigned = unsigned.map(|reason| unsigned_text(&reason, &status));
        let confirmed = self.reads.confirmed_age().is_some();
        let open = self.open.load(Ordering::Relaxed);
        reason(self.reads.standing(), confirmed, open, unsigned)
    }

    #[expect(clippy::cast_precision_loss, reason = "offsets beyond 2^53 ms are as wrong as any")]
    fn numbers(&self) -> serde_json::Map<String, Value> {
        let status = self.store.status();
        let seconds = |age: Duration| age.as_secs_f64();
        let numbers = json!({
            "role": role(&status),
            "member": status.member_id.to_string(),
            "leader": status.leader.map(|id| id.to_string()).unwrap_or_default(),
            "quorum_contact_age_s": status.quorum_contact_age.map(seconds),
            "applied_lag": status.commit_index.saturating_sub(status.applied_index),
            "clock_offset_s": status.clock_ahead_ms.map(|ms| ms as f64 / 1000.0),
            "staleness_s": self.reads.confirmed_age().map(seconds),
        });
        match numbers {
            Value::Object(numbers) => numbers,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => serde_json::Map::new(),
        }
    }
}

/// Why a member of a cluster is not ready; `unsigned` is why it signs nothing. A replica that is
/// cut off says so first: it explains the rest.
fn reason(
    standing: Standing,
    confirmed: bool,
    open: bool,
    unsigned: Option<String>,
) -> Option<String> {
    let refused = match standing {
        Standing::Strict | Standing::SendingAway { .. } | Standing::RenewOnly { .. } => None,
        Standing::CutOff => return Some("others hear a leader that this replica does not".into()),
        Standing::TooOld => Some("the last confirmed read is older than max_staleness".to_owned()),
    };
    if !confirmed {
        return Some("no read has been confirmed since the start".into());
    }
    match (open, unsigned) {
        (true, None) => refused,
        (true, Some(unsigned)) => Some(unsigned),
        (false, None) => Some("the API port is not open yet".into()),
        (false, Some(unsigned)) => Some(format!("the API port is not open yet: {unsigned}")),
    }
}

/// Why nothing is signed here, with the fix where a cluster key is missing.
fn unsigned_text(reason: &IssueError, status: &MemberStatus) -> String {
    let IssueError::Sealed { kek_id } = reason else { return reason.to_string() };
    let own = status.members.iter().find(|view| view.id == status.member_id);
    let own = own.and_then(|view| view.observed.as_ref());
    // A key that is held and opens nothing is another matter.
    if own.is_some_and(|seen| seen.said.key_ids.contains(kek_id)) {
        return reason.to_string();
    }
    format!(
        "this member lacks cluster key {kek_id}, which seals what it would sign with; put the line \
         of that key into its cluster key file, then send it SIGHUP or restart it"
    )
}

/// A member without a leader that it hears plays no part; neither does a leader without a quorum.
fn role(status: &MemberStatus) -> &'static str {
    match status.leader {
        Some(leader) if leader == status.member_id => "leader",
        Some(_) => "follower",
        None => "none",
    }
}

/// The bound listener.
#[derive(Debug)]
pub struct HealthListener {
    listener: TcpListener,
    ready_path: Arc<str>,
    live_path: Arc<str>,
}

impl HealthListener {
    /// Binds the listener.
    ///
    /// # Errors
    ///
    /// [`HealthError`].
    pub async fn bind(config: &HealthConfig) -> Result<Self, HealthError> {
        let address = format!("{}:{}", config.bind_address, config.bind_port);
        let listener = TcpListener::bind(address.as_str())
            .await
            .map_err(|source| HealthError { address, source })?;
        let (ready_path, live_path) = (config.ready_path.as_str(), config.live_path.as_str());
        Ok(Self { listener, ready_path: ready_path.into(), live_path: live_path.into() })
    }

    /// Answers probes until the shutdown.
    pub async fn run(self, health: Health, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept(), if connections.len() < PROBES_MAX => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            let health = health.clone();
            let (ready_path, live_path) =
                (Arc::clone(&self.ready_path), Arc::clone(&self.live_path));
            connections.spawn(async move {
                let probe = service_fn(move |request: Request<Incoming>| {
                    let response = answer(&health, request.uri().path(), &ready_path, &live_path);
                    async move { Ok::<_, Infallible>(response) }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(REQUEST_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), probe)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "Health connection ended");
                }
            });
        }
    }
}

fn answer(health: &Health, path: &str, ready_path: &str, live_path: &str) -> Response<Full<Bytes>> {
    let healthy = if path == ready_path {
        health.not_ready().is_none()
    } else if path == live_path {
        true
    } else {
        let mut missing = Response::new(Full::default());
        *missing.status_mut() = StatusCode::NOT_FOUND;
        return missing;
    };
    let body = Full::new(Bytes::from(health.body().to_string()));
    let mut response = Response::new(body);
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    if !healthy {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::testing::{member_status, voter};
    use steeple_raft_store::{MemberId, MemberView, Observation, Observed};

    use super::*;

    #[test]
    fn a_sealed_process_is_live_and_not_ready_and_says_why() {
        let health = Health::Sealed { text: "Sealed: cluster key does not open k1".into() };
        let status = |path| answer(&health, path, "/ready", "/live").status();
        assert_eq!(status("/live"), StatusCode::OK);
        assert_eq!(status("/ready"), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(status("/other"), StatusCode::NOT_FOUND);
        let body = health.body();
        assert_eq!(body.pointer("/cluster/sealed"), Some(&Value::Bool(true)));
        let reason = body.pointer("/cluster/reason").and_then(Value::as_str);
        assert_eq!(reason, Some("Sealed: cluster key does not open k1"));
        let server = body.pointer("/server/get_bundle_err").and_then(Value::as_str);
        assert_eq!(server, reason, "where SPIRE says it");
    }

    #[test]
    fn a_replica_that_is_cut_off_says_so_whatever_else_it_lacks() {
        let cut_off = "others hear a leader that this replica does not";
        let (never, old) = ("no read has been confirmed", "is older than max_staleness");
        let away = Standing::SendingAway { for_another: Duration::from_secs(30) };
        let signs = |reason: Option<&str>| reason.map(str::to_owned);
        let table = [
            (Standing::Strict, true, true, None, None),
            (away, true, true, None, None),
            (Standing::CutOff, true, true, None, Some(cut_off)),
            (Standing::CutOff, false, false, Some("why"), Some(cut_off)),
            (Standing::TooOld, true, true, None, Some(old)),
            (Standing::TooOld, false, true, None, Some(never)),
            (Standing::Strict, true, false, None, Some("the API port is not open yet")),
            (Standing::Strict, true, false, Some("why"), Some("API port is not open yet: why")),
            (Standing::Strict, true, true, Some("why"), Some("why")),
        ];
        for (standing, confirmed, open, unsigned, expected) in table {
            let found = reason(standing, confirmed, open, signs(unsigned));
            assert_eq!(found.is_some(), expected.is_some(), "{standing:?}: {found:?}");
            let found = found.unwrap_or_default();
            assert!(found.contains(expected.unwrap_or_default()), "{standing:?}: {found}");
        }
    }

    #[test]
    fn a_member_without_the_key_that_seals_says_which_line_its_key_file_lacks() {
        let holds = |keys: &[&str]| {
            let key_ids = keys.iter().map(|key| (*key).to_owned()).collect();
            let said = Observation { key_ids, ..Observation::default() };
            let observed = Some(Observed { said, ..Observed::default() });
            let other = Observation { key_ids: vec!["k2".to_owned()], ..Observation::default() };
            let other = Some(Observed { said: other, ..Observed::default() });
            member_status(vec![
                MemberView { observed, ..voter(1) },
                MemberView { observed: other, ..voter(2) },
            ])
        };
        let sealed = IssueError::Sealed { kek_id: "k2".to_owned() };
        let text = unsigned_text(&sealed, &holds(&["k1"]));
        assert!(text.starts_with("this member lacks cluster key k2, which seals"), "{text}");
        assert!(text.contains("put the line of that key into its cluster key file"), "{text}");
        assert!(text.contains("SIGHUP"), "{text}");
        let text = unsigned_text(&sealed, &holds(&["k1", "k2"]));
        assert_eq!(text, "sealed: cluster key does not open k2", "it is there");
        let ended = IssueError::Expired { kind: "JWT" };
        assert_eq!(unsigned_text(&ended, &holds(&[])), "active JWT authority has expired");
    }

    #[test]
    fn only_a_leader_with_a_quorum_calls_itself_leader() {
        let this = MemberId(1);
        for (leader, expected) in
            [(Some(this), "leader"), (Some(MemberId(2)), "follower"), (None, "none")]
        {
            let status = MemberStatus { leader, ..member_status(Vec::new()) };
            assert_eq!(role(&status), expected);
        }
    }
}
