//! The transport of members over the simulated network.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use steeple_raft_store::{Connection, Incoming, Transport};
use turmoil::net::{TcpListener, TcpStream};

/// A connection that cannot be made fails after so long: a round trip.
const REFUSED_AFTER: Duration = Duration::from_millis(1);

/// TCP of the simulation: connections stall when the network loses a segment, as after a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SimTransport;

impl Transport for SimTransport {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Connection>> {
        Box::pin(async move {
            let (host, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port: u16 = port.parse().or(Err(io::ErrorKind::InvalidInput))?;
            match TcpStream::connect((host, port)).await {
                Ok(stream) => Ok(Box::new(stream) as Connection),
                Err(error) => {
                    // The simulated network refuses in no time at all.
                    tokio::time::sleep(REFUSED_AFTER).await;
                    Err(error)
                }
            }
        })
    }

    fn listen(&self, bind: SocketAddr) -> BoxFuture<'_, io::Result<(SocketAddr, Incoming)>> {
        Box::pin(async move {
            let listener = TcpListener::bind(bind).await?;
            let incoming = futures::stream::unfold(listener, async |listener| {
                let accepted = listener.accept().await;
                let accepted = accepted.map(|(stream, _)| Box::new(stream) as Connection);
                Some((accepted, listener))
            });
            Ok((bind, incoming.boxed()))
        })
    }
}
