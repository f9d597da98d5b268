//! gRPC channels to members: one for each member and lane, dialled when used and again when lost.
//!
//! Owns reuse and keep-alive. Lanes keep urgent traffic off connections that bulk traffic fills: a
//! snapshot must not delay a heartbeat. Who must answer is checked at each dial.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::Service;

use crate::ids::{ClusterId, MemberId};
use crate::net::addresses::AddressBook;
use crate::net::dial::{DialError, Dialler, Expected, PeerConnection};

/// Largest message between members, both ways.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Votes, transfers, forwarded proposals, read index.
    Control,
    /// Heartbeats.
    Heartbeat,
    /// Log replication.
    Append,
    /// Snapshots.
    Snapshot,
}

/// A connection that does not answer a ping for this long, sent every so often, is dropped and
/// dialled anew: after a partition TCP alone would take minutes. About four longest election
/// timeouts at the default heartbeat, so that a stall of the peer's process does not count as one.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes in flight on one connection and stream: a snapshot chunk or append of the largest size must
/// fit, or each costs more than one round trip.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// The channels of one member.
#[derive(Debug)]
pub(crate) struct Channels {
    dialler: Dialler,
    addresses: Arc<AddressBook>,
    open: Mutex<BTreeMap<(MemberId, Lane), (ClusterId, Channel)>>,
}

impl Channels {
    pub(crate) fn new(dialler: Dialler, addresses: Arc<AddressBook>) -> Self {
        Self { dialler, addresses, open: Mutex::default() }
    }

    /// The channel to a member of a cluster. It is dialled at its first use.
    pub(crate) fn to(&self, cluster: ClusterId, member: MemberId, lane: Lane) -> Channel {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, channel)) = open.get(&(member, lane))
            && *of == cluster
        {
            return channel.clone();
        }
        let connector = MemberConnector {
            dialler: self.dialler.clone(),
            addresses: self.addresses.clone(),
            expected: Expected::Member { cluster, member },
            member,
        };
        let channel = endpoint().connect_with_connector_lazy(connector);
        open.insert((member, lane), (cluster, channel.clone()));
        channel
    }

    /// Closes what leads to members that are no longer any.
    pub(crate) fn retain(&self, keep: impl Fn(MemberId) -> bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(member, _), _| keep(*member));
    }
}

/// A channel over one connection that is already there; it is never dialled again.
///
/// # Errors
///
/// If the HTTP/2 handshake fails.
pub(crate) async fn over(connection: PeerConnection) -> Result<Channel, tonic::transport::Error> {
    let mut connection = Some(connection);
    let once = tower::service_fn(move |_: Uri| {
        let taken = connection.take().map(TokioIo::new);
        async move { taken.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    endpoint().connect_with_connector(once).await
}

fn endpoint() -> Endpoint {
    // The name is never resolved: connectors know where to go.
    Endpoint::from_static("http://peer.steeple")
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
}

/// Dials one member wherever the address book says it is, anew each time.
#[derive(Clone)]
struct MemberConnector {
    dialler: Dialler,
    addresses: Arc<AddressBook>,
    expected: Expected,
    member: MemberId,
}

impl MemberConnector {
    async fn dial(self) -> Result<TokioIo<PeerConnection>, DialError> {
        let mut last = DialError::NoAddress(self.member);
        for address in self.addresses.candidates(self.member) {
            match self.dialler.dial(&address, self.expected).await {
                Ok((connection, _)) => return Ok(TokioIo::new(connection)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Service<Uri> for MemberConnector {
    type Response = TokioIo<PeerConnection>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}
