//! Bytes between members: dial an address, accept connections.
//!
//! Owns the [`Transport`] seam and its two implementations: TCP, and pipes in memory for tests and
//! simulation, which can be cut. Knows nothing of TLS, HTTP or who is at the other end. Addresses are
//! `host:port`; a host name is resolved anew at each dial.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// A connection, both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {
    /// The address at the other end, if this is a connection of TCP.
    fn tcp_peer(&self) -> Option<SocketAddr>;
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug + 'static> Duplex for T {
    fn tcp_peer(&self) -> Option<SocketAddr> {
        (self as &dyn Any).downcast_ref::<TcpStream>()?.peer_addr().ok()
    }
}

/// A connection of whatever kind.
pub type Connection = Box<dyn Duplex>;

/// Accepted connections. An error is about one connection; the listener lives on.
pub type Incoming = BoxStream<'static, io::Result<Connection>>;

/// How members are dialled and listened for.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Opens a connection to `host:port`. Every address that the name resolves to is tried.
    ///
    /// # Errors
    ///
    /// The last attempt's. There is no timeout here: the caller has one.
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Connection>>;

    /// Listens on an address; port 0 chooses one. Returns the address that it listens on.
    ///
    /// # Errors
    ///
    /// If the address is taken, not of this machine or not permitted.
    fn listen(&self, bind: SocketAddr) -> BoxFuture<'_, io::Result<(SocketAddr, Incoming)>>;
}

/// TCP, without Nagle's delay: it costs 40 ms a handshake.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Transport for Tcp {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Connection>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Connection)
        })
    }

    fn listen(&self, bind: SocketAddr) -> BoxFuture<'_, io::Result<(SocketAddr, Incoming)>> {
        Box::pin(async move {
            let listener = TcpListener::bind(bind).await?;
            let bound = listener.local_addr()?;
            let incoming = futures::stream::unfold(listener, async |listener| {
                Some((accept(&listener).await, listener))
            });
            Ok((bound, incoming.boxed()))
        })
    }
}

async fn accept(listener: &TcpListener) -> io::Result<Connection> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// Connections that wait to be accepted, as a kernel's backlog.
const PIPE_BACKLOG: usize = 128;

/// Bytes in flight each way of a pipe: about a loopback socket's buffer.
const PIPE_BYTES: usize = 256 * 1024;

/// A network in memory. Each member holds a [`Pipes`] of it, made by [`PipeNetwork::endpoint`]; an
/// endpoint can be cut off and healed.
#[derive(Clone, Debug, Default)]
pub struct PipeNetwork {
    state: Arc<Mutex<PipeState>>,
}

#[derive(Debug, Default)]
struct PipeState {
    /// By port: host names do not matter here.
    listeners: BTreeMap<u16, (String, mpsc::Sender<Connection>)>,
    cut: BTreeSet<String>,
    /// Which ways of which connections stand still.
    held: watch::Sender<BTreeSet<Lane>>,
    next_port: u16,
    wires: Vec<Wire>,
}

/// One way of the connections that one member has dialled to another.
type Lane = (String, String, Way);

/// One way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From who dialled it.
    There,
    /// To who dialled it.
    Back,
}

/// A live pipe, so that a cut can end it: the two tasks that copy it stop when this is dropped.
#[derive(Debug)]
struct Wire {
    ends: [String; 2],
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// One member's end of a [`PipeNetwork`].
#[derive(Clone, Debug)]
pub struct Pipes {
    network: PipeNetwork,
    name: String,
}

impl PipeNetwork {
    /// The end of the member of that name.
    pub fn endpoint(&self, name: &str) -> Pipes {
        Pipes { network: self.clone(), name: name.to_owned() }
    }

    /// Ends all connections of a member and refuses new ones until [`PipeNetwork::heal`].
    pub fn cut(&self, name: &str) {
        let mut state = self.lock();
        state.cut.insert(name.to_owned());
        state.wires.retain(|wire| !wire.ends.iter().any(|end| end == name));
    }

    /// Lets a member be reached again.
    pub fn heal(&self, name: &str) {
        self.lock().cut.remove(name);
    }

    /// Keeps back what goes one way of the connections that `from` has dialled or will dial to `to`,
    /// until [`PipeNetwork::release`]. They stay open.
    pub fn hold(&self, from: &str, to: &str, way: Way) {
        self.lock().held.send_modify(|held| {
            held.insert((from.to_owned(), to.to_owned(), way));
        });
    }

    /// Lets go on what [`PipeNetwork::hold`] kept back.
    pub fn release(&self, from: &str, to: &str, way: Way) {
        self.lock().held.send_modify(|held| {
            held.remove(&(from.to_owned(), to.to_owned(), way));
        });
    }

    fn lock(&self) -> MutexGuard<'_, PipeState> {
        // Nothing panics while it is held, and a half-made change does no harm to a test network.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, from: &str, address: &str) -> io::Result<(String, mpsc::Sender<Connection>)> {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let state = self.lock();
        let found = port.and_then(|port| state.listeners.get(&port));
        match found {
            Some((name, sender)) if !state.cut.contains(name) && !state.cut.contains(from) => {
                Ok((name.clone(), sender.clone()))
            }
            Some(_) | None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl Transport for Pipes {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Connection>> {
        Box::pin(async move {
            let (name, accepts) = self.network.find(&self.name, address)?;
            let (near, near_wire) = tokio::io::duplex(PIPE_BYTES);
            let (far, far_wire) = tokio::io::duplex(PIPE_BYTES);
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let wire = Wire { ends: [self.name.clone(), name.clone()], _stop: stop };
            let held = {
                let mut state = self.network.lock();
                state.wires.push(wire);
                state.held.subscribe()
            };
            let (near_reads, near_writes) = tokio::io::split(near_wire);
            let (far_reads, far_writes) = tokio::io::split(far_wire);
            let lane = |way| (self.name.clone(), name.clone(), way);
            let there = carry(near_reads, far_writes, lane(Way::There), held.clone());
            let back = carry(far_reads, near_writes, lane(Way::Back), held);
            tokio::spawn(async move {
                tokio::select! {
                    _ = futures::future::join(there, back) => {}
                    _ = stopped => {}
                }
            });
            let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
            accepts.send(Box::new(far)).await.map_err(refused)?;
            Ok(Box::new(near) as Connection)
        })
    }

    fn listen(&self, bind: SocketAddr) -> BoxFuture<'_, io::Result<(SocketAddr, Incoming)>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(PIPE_BACKLOG);
            let mut state = self.network.lock();
            let mut port = bind.port();
            while port == 0 || (bind.port() == 0 && state.listeners.contains_key(&port)) {
                state.next_port = state.next_port.checked_add(1).unwrap_or(1);
                port = state.next_port;
            }
            if state.listeners.get(&port).is_some_and(|(_, sender)| !sender.is_closed()) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            state.listeners.insert(port, (self.name.clone(), sender));
            let incoming = futures::stream::unfold(receiver, async |mut receiver| {
                receiver.recv().await.map(|connection| (Ok(connection), receiver))
            });
            Ok((SocketAddr::new(bind.ip(), port), incoming.boxed()))
        })
    }
}

/// Copies one way, unless it is held, until its source ends.
async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    lane: Lane,
    mut held: watch::Receiver<BTreeSet<Lane>>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIPE_BYTES];
    loop {
        let bytes = from.read(&mut buffer).await?;
        // The network lives at least as long as its pipes are of use.
        held.wait_for(|held| !held.contains(&lane)).await.map_err(io::Error::other)?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..bytes).unwrap_or_default()).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo_once(transport: &dyn Transport, dialler: &dyn Transport) -> io::Result<()> {
        let (address, mut incoming) = transport.listen("127.0.0.1:0".parse().unwrap()).await?;
        let mut near = dialler.dial(&address.to_string()).await?;
        let mut far = incoming.next().await.unwrap()?;
        near.write_all(b"ping").await?;
        near.flush().await?;
        let mut read = [0; 4];
        far.read_exact(&mut read).await?;
        assert_eq!(&read, b"ping");
        Ok(())
    }

    #[tokio::test]
    async fn both_transports_carry_bytes() {
        echo_once(&Tcp, &Tcp).await.unwrap();
        let network = PipeNetwork::default();
        echo_once(&network.endpoint("a"), &network.endpoint("b")).await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_address_is_refused() {
        let (tcp, _one) = Tcp.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_eq!(Tcp.listen(tcp).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);
        let network = PipeNetwork::default();
        let (pipe, _two) =
            network.endpoint("a").listen("0.0.0.0:7".parse().unwrap()).await.unwrap();
        let taken = network.endpoint("b").listen(pipe).await.err().unwrap();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn what_is_held_one_way_comes_later_and_the_other_way_goes_on() {
        let network = PipeNetwork::default();
        let (a, b) = (network.endpoint("a"), network.endpoint("b"));
        let (address, mut incoming) = a.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut near = b.dial(&address.to_string()).await.unwrap();
        let mut far = incoming.next().await.unwrap().unwrap();
        network.hold("b", "a", Way::Back);
        near.write_all(b"there").await.unwrap();
        far.read_exact(&mut [0; 5]).await.unwrap();
        far.write_all(b"back").await.unwrap();
        let mut back = [0; 4];
        let reading = near.read_exact(&mut back);
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), reading).await;
        assert!(early.is_err(), "{early:?}");
        network.release("b", "a", Way::Back);
        near.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"back");
    }

    #[tokio::test]
    async fn a_cut_ends_open_pipes_and_refuses_new_ones_until_healed() {
        let network = PipeNetwork::default();
        let (a, b) = (network.endpoint("a"), network.endpoint("b"));
        let (address, _incoming) = a.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut open = b.dial(&address.to_string()).await.unwrap();
        network.cut("b");
        assert_eq!(open.read(&mut [0; 1]).await.unwrap(), 0, "the open pipe has ended");
        b.dial(&address.to_string()).await.unwrap_err();
        network.heal("b");
        b.dial(&address.to_string()).await.unwrap();
    }
}
