//! One call as its service sees it: who, until when, under which request id, and what its answer
//! will say about the state that it reflects.
//!
//! The front puts a [`Call`] into the extensions of each request that the gate has let through;
//! services take it out with [`Call::of`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::digest;
use steeple_raft_store::{RequestId, Revision};
use steeple_spiffe_core::random::Random;
use tokio::time::Instant;

use super::caller::{AgentCaller, Caller};
use super::policy::Rule;
use super::ratelimit::Limiter;
use crate::listen::Peer;
use crate::status::Failure;
use crate::view::At;

/// A call without a deadline of its own does not wait longer than this for the cluster.
pub const WORK_MAX: Duration = Duration::from_secs(5);

/// Staleness that was never noted.
const FRESH: u64 = u64::MAX;

/// An admitted call.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is called.
    pub rule: &'static Rule,
    /// Who calls.
    pub caller: Caller,
    /// Where the call comes from.
    pub peer: Arc<Peer>,
    /// The caller's own deadline.
    pub client_deadline: Option<Instant>,
    /// The caller's `steeple-request-id`: it may send the call again under the same id.
    pub attempt: Option<[u8; 16]>,
    /// What the answer will say of itself.
    pub notes: Arc<Notes>,
}

impl Call {
    /// The call that a request belongs to.
    ///
    /// # Errors
    ///
    /// The request did not come through the gate: a mistake in the wiring.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Failure> {
        let call = request.extensions().get::<Self>().cloned();
        call.ok_or_else(|| Failure::internal("request did not pass the gate"))
    }

    /// Until when to wait for the cluster: the caller's deadline, but at most [`WORK_MAX`] from now.
    pub fn deadline(&self) -> Instant {
        let longest = Instant::now() + WORK_MAX;
        self.client_deadline.map_or(longest, |deadline| deadline.min(longest))
    }

    /// Waits until the peer's share of a limit covers the call, as far as the caller's deadline allows.
    ///
    /// # Errors
    ///
    /// SPIRE's `ResourceExhausted` for `what`; nothing of the share is taken then.
    pub async fn within(&self, limit: &Limiter, cost: usize, what: &str) -> Result<(), Failure> {
        let passed = limit.wait(&self.peer, cost, self.client_deadline).await;
        passed.map_err(|error| Failure::limited(what, &error))
    }

    /// Takes what the views show, and notes that the answer is of that revision.
    pub fn showing<T>(&self, at: At<T>) -> T {
        self.notes.reflects(at.revision);
        at.shown
    }

    /// The calling agent.
    ///
    /// # Errors
    ///
    /// The caller is no agent; the policy lets none but agents reach the methods that ask.
    pub fn agent(&self) -> Result<&AgentCaller, Failure> {
        match &self.caller {
            Caller::Agent(agent) => Ok(agent),
            Caller::Nobody | Caller::Local | Caller::Admin(_) | Caller::Downstream(_) => {
                Err(Failure::denied(self.rule.method, None))
            }
        }
    }

    /// Names one command of this call, so that a call sent again has no second effect. `part` tells
    /// the commands of one call apart. Without a `steeple-request-id` the name is drawn at random.
    ///
    /// A caller's id keeps its first eight bytes, which embed the revision at its first attempt; the
    /// rest is keyed by caller, method and part, so that no caller can claim another's outcome.
    pub fn request_id(&self, part: u32, random: &dyn Random) -> RequestId {
        let Some(attempt) = &self.attempt else {
            return RequestId::fresh(self.notes.revision(), random);
        };
        let mut id = [0; 16];
        let keyed = self.keyed(attempt, &part.to_be_bytes());
        for (index, byte) in id.iter_mut().enumerate() {
            let source = if index < 8 { attempt.as_slice() } else { keyed.as_ref() };
            *byte = source.get(index).copied().unwrap_or(0);
        }
        RequestId(id)
    }

    /// A UUID for a new thing: random, but the same again when the call is sent again.
    pub fn uuid(&self, part: u32, random: &dyn Random) -> String {
        let Some(attempt) = &self.attempt else { return random.uuid_v4() };
        let keyed = self.keyed(attempt, &[b"uuid".as_slice(), &part.to_be_bytes()].concat());
        let bytes: [u8; 16] = std::array::from_fn(|i| keyed.as_ref().get(i).copied().unwrap_or(0));
        let value = u128::from_be_bytes(bytes);
        let value = (value & !(0xf << 76)) | (0x4 << 76);
        let value = (value & !(0x3 << 62)) | (0x2 << 62);
        let hex = format!("{value:032x}");
        let (a, rest) = hex.split_at(8);
        let (b, rest) = rest.split_at(4);
        let (c, rest) = rest.split_at(4);
        let (d, e) = rest.split_at(4);
        format!("{a}-{b}-{c}-{d}-{e}")
    }

    fn keyed(&self, attempt: &[u8; 16], label: &[u8]) -> digest::Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [self.caller.key().as_bytes(), self.rule.method.as_bytes(), attempt, label] {
            // Lengths keep neighbouring parts apart.
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        context.finish()
    }
}

/// What an answer says of itself in its trailers. What it reflects moves up until a decision sets it.
#[derive(Debug)]
pub struct Notes {
    revision: AtomicU64,
    staleness_ms: AtomicU64,
    local_authority_id: OnceLock<String>,
    subject_key_id: OnceLock<String>,
    authorized: OnceLock<Authorized>,
    log_id: OnceLock<String>,
}

/// As what a caller was let in, and what says so, in SPIRE's words for log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorized {
    /// `local`, `admin`, `downstream` or `agent`.
    pub r#as: &'static str,
    /// `transport`, `config`, `entries` or `datastore`.
    pub via: &'static str,
}

/// Names of authorities that log lines repeat are cut: 64 hex digits are the longest there are.
const NAMED_CHARS_MAX: usize = 128;

impl Notes {
    /// Notes of an answer that reflects at least a revision.
    pub fn new(revision: Revision) -> Self {
        Self {
            revision: AtomicU64::new(revision.as_u64()),
            staleness_ms: AtomicU64::new(FRESH),
            local_authority_id: OnceLock::new(),
            subject_key_id: OnceLock::new(),
            authorized: OnceLock::new(),
            log_id: OnceLock::new(),
        }
    }

    /// The answer reflects a revision.
    pub fn reflects(&self, revision: Revision) {
        self.revision.fetch_max(revision.as_u64(), Ordering::Relaxed);
    }

    /// The answer is a decision that was made at this revision: it reflects no later state, also
    /// where a repeated request is told long after it was decided.
    pub fn decided(&self, revision: Revision) {
        self.revision.store(revision.as_u64(), Ordering::Relaxed);
    }

    /// The answer comes from a state that was confirmed so long ago.
    pub fn stale(&self, age: Duration) {
        let ms = u64::try_from(age.as_millis()).unwrap_or(FRESH - 1);
        self.staleness_ms.store(ms, Ordering::Relaxed);
    }

    /// The call is about an authority: log lines name it. Only the first name counts, an empty one never.
    pub fn names_authority(&self, id: &str) {
        name(&self.local_authority_id, id);
    }

    /// The call is about an upstream root, as [`Self::names_authority`].
    pub fn names_root(&self, id: &str) {
        name(&self.subject_key_id, id);
    }

    /// The caller was let in; `None`: as anybody is.
    pub fn authorized(&self, authorized: Option<Authorized>) {
        if let Some(authorized) = authorized {
            self.authorized.set(authorized).ok();
        }
    }

    /// As what the caller was let in; `None`: as anybody is, or not at all.
    pub fn authorization(&self) -> Option<Authorized> {
        self.authorized.get().copied()
    }

    /// What ties the log lines about one call together (SPIRE's `request_id`, a UUID). Drawn when the first
    /// of them is written; it has nothing to do with ids of commands.
    pub fn log_id(&self, random: &dyn Random) -> &str {
        self.log_id.get_or_init(|| random.uuid_v4())
    }

    /// The authority that the call is about.
    pub fn local_authority_id(&self) -> Option<&str> {
        self.local_authority_id.get().map(String::as_str)
    }

    /// The upstream root that the call is about.
    pub fn subject_key_id(&self) -> Option<&str> {
        self.subject_key_id.get().map(String::as_str)
    }

    /// What the answer reflects.
    pub fn revision(&self) -> Revision {
        Revision::from_u64(self.revision.load(Ordering::Relaxed))
    }

    /// How stale it is; `None` = from a replica in contact.
    pub fn staleness(&self) -> Option<Duration> {
        match self.staleness_ms.load(Ordering::Relaxed) {
            FRESH => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }
}

fn name(place: &OnceLock<String>, id: &str) {
    if !id.is_empty() {
        place.set(id.chars().take(NAMED_CHARS_MAX).collect()).ok();
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::random::SeededRandom;

    use super::*;
    use crate::gate::policy;

    fn call(caller: Caller, attempt: Option<[u8; 16]>) -> Call {
        Call {
            rule: policy::rule("/spire.api.server.entry.v1.Entry/BatchCreateEntry").expect("a row"),
            caller,
            peer: Arc::new(Peer::Local { credentials: None }),
            client_deadline: None,
            attempt,
            notes: Arc::new(Notes::new(Revision::default())),
        }
    }

    #[test]
    fn a_repeated_call_names_the_same_commands_and_things() {
        let random = SeededRandom::new(7);
        let call = call(Caller::Local, Some([9; 16]));
        assert_eq!(call.request_id(0, &random), call.request_id(0, &random));
        assert_ne!(call.request_id(0, &random), call.request_id(1, &random));
        assert_eq!(call.uuid(0, &random), call.uuid(0, &random));
        assert_ne!(call.uuid(0, &random), call.uuid(1, &random));
        let uuid = call.uuid(0, &random);
        assert_eq!((uuid.len(), uuid.get(14..15)), (36, Some("4")), "{uuid}");
    }

    #[test]
    fn no_caller_can_name_anothers_commands() {
        let random = SeededRandom::new(7);
        let admin = Caller::Admin("spiffe://example.org/admin".parse().expect("an id"));
        let (ours, theirs) = (call(Caller::Local, Some([9; 16])), call(admin, Some([9; 16])));
        assert_ne!(ours.request_id(0, &random), theirs.request_id(0, &random));
    }

    #[test]
    fn calls_without_an_id_are_never_the_same() {
        let random = SeededRandom::new(7);
        let call = call(Caller::Local, None);
        assert_ne!(call.request_id(0, &random), call.request_id(0, &random));
    }
}
