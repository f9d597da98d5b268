//! Which server is asked.
//!
//! Owns the rotation over several servers: one is picked at random and kept while it works; when it
//! cannot be reached, hangs or answers `Unavailable`, the next one is asked in the same call. Servers
//! are asked one after the other, never side by side: the answer of one that was given up is never
//! taken, so that what a later one answered holds. An address that failed rests for a growing time
//! and is only tried when no other is left. Also owns the moment the agent's certificate changes:
//! calls in flight end first, then every connection is opened anew.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ClientConfig;
use steeple_api::pb;
use steeple_spiffe_core::Random;
use tokio::sync::{RwLock, RwLockWriteGuard, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::debug;

use super::address::ServerAddress;
use super::dial::{DialError, chain, connect, dial_error};
use crate::backoff::Backoff;
use crate::limits::{
    ADDRESS_BACKOFF_MAX, ADDRESS_BACKOFF_START, PROBE_TIMEOUT, RPC_TIMEOUT, SILENCE_MAX,
};

/// A call came to nothing.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(.status))]
pub struct CallError {
    /// What the last server asked answered, or `Unavailable` when none could be reached.
    pub status: Status,
    /// Every server that was reached showed a certificate below no known authority.
    pub is_unknown_authority: bool,
    /// Which of the agent's certificates was used: an answer to an older one says nothing about the
    /// current.
    pub generation: u64,
}

/// The servers of one trust domain.
#[derive(Debug)]
pub struct Upstream {
    addresses: Vec<ServerAddress>,
    tls: Arc<ClientConfig>,
    random: Arc<dyn Random>,
    pool: Mutex<Pool>,
    /// Read by calls, written while the agent's certificate is replaced.
    gate: RwLock<()>,
    generation: AtomicU64,
    /// Tells long streams to end: they don't hold the gate, and one on a hanging server would not
    /// notice.
    reopen: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Pool {
    current: Option<SocketAddr>,
    servers: BTreeMap<SocketAddr, Server>,
}

#[derive(Debug)]
struct Server {
    channel: Option<Channel>,
    backoff: Backoff,
    rests_until: Option<Instant>,
}

/// Holds calls back while the agent's certificate is replaced.
#[derive(Debug)]
pub struct Pause<'a> {
    upstream: &'a Upstream,
    _gate: RwLockWriteGuard<'a, ()>,
}

impl Pause<'_> {
    /// The new certificate is in place: connections with the old one are dropped.
    pub fn finish_with_new_identity(self) {
        let upstream = self.upstream;
        let generation = upstream.generation.fetch_add(1, Ordering::SeqCst) + 1;
        upstream.lock().servers.values_mut().for_each(|server| server.channel = None);
        upstream.reopen.send_replace(generation);
    }
}

impl Upstream {
    /// Nothing is dialled before the first call.
    pub fn new(
        addresses: Vec<ServerAddress>,
        tls: Arc<ClientConfig>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            addresses,
            tls,
            random,
            pool: Mutex::new(Pool::default()),
            gate: RwLock::new(()),
            generation: AtomicU64::new(0),
            reopen: watch::Sender::new(0),
        }
    }

    /// The same servers over connections of their own, which end with what is returned.
    pub fn with_tls(&self, tls: Arc<ClientConfig>) -> Self {
        Self::new(self.addresses.clone(), tls, Arc::clone(&self.random))
    }

    /// Makes one call within [`RPC_TIMEOUT`]. `attempt` may run several times, on different servers:
    /// it must be safe to repeat.
    pub async fn call<T, F, Fut>(&self, attempt: F) -> Result<T, CallError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let _open = self.gate.read().await;
        self.call_ungated(attempt).await
    }

    /// As [`Self::call`], during a `Pause`.
    pub async fn call_during<T, F, Fut>(
        &self,
        _pause: &Pause<'_>,
        attempt: F,
    ) -> Result<T, CallError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.call_ungated(attempt).await
    }

    /// Waits for the calls in flight and holds new ones back.
    pub async fn pause(&self) -> Pause<'_> {
        Pause { _gate: self.gate.write().await, upstream: self }
    }

    /// Changes when long streams shall be opened anew: the agent's certificate was replaced, or the
    /// server in use failed a call.
    pub fn reopen_streams(&self) -> watch::Receiver<u64> {
        self.reopen.subscribe()
    }

    /// Counts the agent's certificates: rises when one replaces another.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    async fn call_ungated<T, F, Fut>(&self, attempt: F) -> Result<T, CallError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let generation = self.generation();
        let deadline = Instant::now() + RPC_TIMEOUT;
        let mut failures = Failures::default();
        // The server in use is asked without a look at the resolver.
        let current = self.lock().current;
        if let Some(address) = current {
            match self.attempt(address, deadline, &attempt).await {
                Attempt::Answered(answer) => return answer.map_err(|s| answered(s, generation)),
                Attempt::Failed(failure) => failures.add(failure),
            }
        }
        let resolved = match timeout_at(deadline, self.resolve()).await {
            Ok(resolved) => resolved,
            Err(_elapsed) => Err(Status::unavailable("resolve server address: timed out")),
        };
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(status) => {
                failures.add(Failure { status, is_unknown_authority: false });
                Vec::new()
            }
        };
        for address in self.order(resolved) {
            if Some(address) == current || Instant::now() >= deadline {
                continue;
            }
            match self.attempt(address, deadline, &attempt).await {
                Attempt::Answered(answer) => return answer.map_err(|s| answered(s, generation)),
                Attempt::Failed(failure) => failures.add(failure),
            }
        }
        Err(failures.into_error(generation))
    }

    /// Asks one server. `Answered` ends the call, `Failed` goes on to the next.
    async fn attempt<T, F, Fut>(
        &self,
        address: SocketAddr,
        deadline: Instant,
        attempt: &F,
    ) -> Attempt<T>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let channel = match self.channel(address).await {
            Ok(channel) => channel,
            Err(failure) => {
                self.rest(address);
                return Attempt::Failed(failure);
            }
        };
        // While there are others, a slow server must not use up the whole time, and one that hangs
        // no more than seconds of it.
        let now = Instant::now();
        let others = self.has_alternatives(address);
        let share = if others { 2 } else { 1 };
        let until = now + deadline.saturating_duration_since(now) / share;
        let hang = channel.clone();
        let answer = tokio::select! {
            answer = timeout_at(until, attempt(channel)) => answer.ok(),
            () = hangs(hang), if others => None,
        };
        let status = match answer {
            Some(Ok(value)) => {
                self.use_from_now_on(address);
                return Attempt::Answered(Ok(value));
            }
            Some(Err(status)) => status,
            None => Status::deadline_exceeded(format!("no answer from {address}")),
        };
        if !is_worth_another_server(&status) {
            self.use_from_now_on(address);
            return Attempt::Answered(Err(status));
        }
        debug!(%address, error = %describe(&status), "Server failed, trying the next");
        self.rest(address);
        let dial = status.source().and_then(|source| dial_error(source));
        let is_unknown_authority = matches!(dial, Some(DialError::UnknownAuthority { .. }));
        Attempt::Failed(Failure { status, is_unknown_authority })
    }

    async fn channel(&self, address: SocketAddr) -> Result<Channel, Failure> {
        let open = self.lock().servers.get(&address).and_then(|server| server.channel.clone());
        if let Some(channel) = open {
            return Ok(channel);
        }
        match connect(address, Arc::clone(&self.tls)).await {
            Ok(channel) => {
                self.lock().server(address).channel = Some(channel.clone());
                Ok(channel)
            }
            Err(error) => {
                let dial = dial_error(&error);
                let text = dial.map_or_else(|| chain(&error), |dial| chain(dial));
                debug!(%address, error = %text, "Server cannot be reached");
                Err(Failure {
                    is_unknown_authority: matches!(dial, Some(DialError::UnknownAuthority { .. })),
                    status: Status::unavailable(text),
                })
            }
        }
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, Status> {
        let mut found = Vec::new();
        let mut failure = None;
        for address in &self.addresses {
            match address.resolve().await {
                Ok(resolved) => found.extend(resolved),
                Err(error) => failure = Some(format!("resolve {address}: {error}")),
            }
        }
        found.sort();
        found.dedup();
        match failure {
            Some(text) if found.is_empty() => Err(Status::unavailable(text)),
            _ => Ok(found),
        }
    }

    /// Random order, those that rest last. Forgets servers that the resolver no longer names, and
    /// knows of those that it does: they are alternatives before they were ever asked.
    fn order(&self, mut resolved: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut pool = self.lock();
        if !resolved.is_empty() {
            pool.servers.retain(|address, _| resolved.contains(address));
        }
        for address in &resolved {
            pool.server(*address);
        }
        let now = Instant::now();
        resolved.sort_by_cached_key(|address| {
            let server = pool.servers.get(address);
            let rests = server.and_then(|server| server.rests_until).is_some_and(|t| t > now);
            (rests, self.random.u64())
        });
        resolved
    }

    fn has_alternatives(&self, address: SocketAddr) -> bool {
        let others = self.lock().servers.keys().any(|other| *other != address);
        others || self.addresses.len() > 1
    }

    fn use_from_now_on(&self, address: SocketAddr) {
        let mut pool = self.lock();
        pool.current = Some(address);
        let server = pool.server(address);
        server.backoff.reset();
        server.rests_until = None;
    }

    fn rest(&self, address: SocketAddr) {
        let unit = self.random.unit_f64();
        let mut pool = self.lock();
        if pool.current == Some(address) {
            pool.current = None;
            self.reopen.send_modify(|_unchanged| {});
        }
        let server = pool.server(address);
        server.channel = None;
        server.rests_until = Some(Instant::now() + server.backoff.pause(unit));
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    fn server(&mut self, address: SocketAddr) -> &mut Server {
        self.servers.entry(address).or_insert_with(|| Server {
            channel: None,
            backoff: Backoff::new(ADDRESS_BACKOFF_START, ADDRESS_BACKOFF_MAX),
            rests_until: None,
        })
    }
}

enum Attempt<T> {
    Answered(Result<T, Status>),
    Failed(Failure),
}

struct Failure {
    status: Status,
    is_unknown_authority: bool,
}

/// What went wrong in one call, over all servers asked.
#[derive(Default)]
struct Failures {
    last: Option<Status>,
    reached_trusted: bool,
    unknown_authority: bool,
}

impl Failures {
    fn add(&mut self, failure: Failure) {
        if failure.is_unknown_authority {
            self.unknown_authority = true;
        } else if failure.status.source().is_none() && failure.status.code() != Code::Unavailable {
            self.reached_trusted = true;
        }
        self.last = Some(failure.status);
    }

    fn into_error(self, generation: u64) -> CallError {
        let status = self.last.unwrap_or_else(|| Status::unavailable("no server address"));
        let is_unknown_authority = self.unknown_authority && !self.reached_trusted;
        CallError { status, is_unknown_authority, generation }
    }
}

fn answered(status: Status, generation: u64) -> CallError {
    CallError { status, is_unknown_authority: false, generation }
}

/// Whether another server may do better: this one is unreachable, overloaded or without quorum. An
/// error with a local cause was never an answer; a refused client certificate for instance arrives
/// as `Unknown` with the TLS alert as its cause.
fn is_worth_another_server(status: &Status) -> bool {
    let is_local = status.source().is_some();
    let timed_out = status.code() == Code::DeadlineExceeded;
    is_local || timed_out || status.code() == Code::Unavailable
}

/// Resolves when a server has stopped answering at all: stopped, swapped out, cut off without a word.
/// Slow answers are waited for. Any answer to the probe will do; a server on this port says
/// `Unimplemented`. HTTP/2 pings would do the same, but stock servers close connections that ping
/// more often than every five minutes.
async fn hangs(channel: Channel) {
    loop {
        tokio::time::sleep(SILENCE_MAX).await;
        let mut health = pb::health::health_client::HealthClient::new(channel.clone());
        let probe = health.check(pb::health::HealthCheckRequest::default());
        if timeout(PROBE_TIMEOUT, probe).await.is_err() {
            return;
        }
    }
}

/// A status as gRPC tools print it, with the local cause if it has one.
pub(crate) fn describe(status: &Status) -> String {
    let text = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
    match status.source() {
        Some(source) => format!("{text}: {}", chain(source)),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreachable_hanging_or_unavailable_servers_are_given_up_for_another() {
        let local = |code| {
            let mut status = Status::new(code, "transport error");
            status.set_source(Arc::new(std::io::Error::other("alert: bad certificate")));
            status
        };
        let cases = [
            (Status::unavailable("no leader"), true),
            (Status::deadline_exceeded("slow"), true),
            (local(Code::Unknown), true),
            (local(Code::Internal), true),
            (Status::unknown("handler failed"), false),
            (Status::permission_denied("agent is banned"), false),
            (Status::internal("x"), false),
            (Status::resource_exhausted("x"), false),
        ];
        for (status, want) in cases {
            assert_eq!(is_worth_another_server(&status), want, "{status:?}");
        }
    }

    #[test]
    fn unknown_authority_counts_only_when_no_trusted_server_answered() {
        let failure = |is_unknown_authority, status| Failure { status, is_unknown_authority };
        let unknown = || failure(true, Status::unavailable("x509"));
        let down = || failure(false, Status::unavailable("refused"));
        let slow = || failure(false, Status::deadline_exceeded("slow"));
        for (failures, want) in [
            (vec![unknown()], true),
            (vec![down(), unknown()], true),
            (vec![unknown(), slow()], false),
            (vec![down()], false),
            (vec![], false),
        ] {
            let mut all = Failures::default();
            failures.into_iter().for_each(|failure| all.add(failure));
            assert_eq!(all.into_error(0).is_unknown_authority, want);
        }
    }
}
