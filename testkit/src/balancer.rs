//! One name for several replicas: connections to its port go to whichever of them takes the next
//! one, and to nobody while the way is cut.
//!
//! Owns no word of what is said: it passes bytes on.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// A listener in front of several others. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Balancer {
    port: u16,
    is_cut: watch::Sender<bool>,
    turned_away: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Balancer {
    /// Listens, and passes connections on to these ports of loopback in turn; one where nobody
    /// listens is passed over.
    ///
    /// # Errors
    ///
    /// There is no port to listen on.
    pub async fn start(targets: &[u16]) -> Result<Self> {
        let local = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        let targets: Vec<SocketAddr> = targets.iter().map(local).collect();
        Self::start_at(Ipv4Addr::LOCALHOST, &targets).await
    }

    /// As [`Balancer::start`], listening on an address that need not be loopback, for others that are
    /// not there either.
    ///
    /// # Errors
    ///
    /// There is no port to listen on.
    pub async fn start_at(address: Ipv4Addr, targets: &[SocketAddr]) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await.context("listen")?;
        let port = listener.local_addr().context("look at the listener")?.port();
        let (is_cut, seen) = watch::channel(false);
        let turned_away = Arc::new(AtomicUsize::new(0));
        let door =
            Door { targets: targets.into(), is_cut: seen, turned_away: Arc::clone(&turned_away) };
        let task = tokio::spawn(door.serve(listener)).abort_handle();
        Ok(Self { port, is_cut, turned_away, task })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection, and each new one as it comes.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Passes connections on again.
    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }

    /// How many connections were ended by a cut, or came while the way was cut.
    pub fn turned_away(&self) -> usize {
        self.turned_away.load(Ordering::SeqCst)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Door {
    targets: Arc<[SocketAddr]>,
    is_cut: watch::Receiver<bool>,
    turned_away: Arc<AtomicUsize>,
}

impl Door {
    async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut number = 0;
        while let Ok((stream, _from)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            if *self.is_cut.borrow() {
                self.turned_away.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            number += 1;
            let (targets, turned_away) = (Arc::clone(&self.targets), Arc::clone(&self.turned_away));
            let mut is_cut = self.is_cut.clone();
            connections.spawn(async move {
                tokio::select! {
                    () = pass(stream, &targets, number) => {}
                    _cut = is_cut.wait_for(|is_cut| *is_cut) => {
                        turned_away.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    }
}

async fn pass(mut stream: TcpStream, targets: &[SocketAddr], number: usize) {
    let first = number % targets.len().max(1);
    for address in targets.iter().cycle().skip(first).take(targets.len()) {
        let Ok(mut target) = TcpStream::connect(*address).await else {
            continue;
        };
        // Whichever end breaks it off, both see the end.
        drop(tokio::io::copy_bidirectional(&mut stream, &mut target).await);
        return;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A server that says its name to each connection, then what it is told.
    async fn echo(name: u8) -> (u16, AbortHandle) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    stream.write_u8(name).await?;
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        (port, task.abort_handle())
    }

    /// Who answers at the balancer, and the connection.
    async fn ask(balancer: &Balancer) -> (Option<u8>, TcpStream) {
        let mut stream = TcpStream::connect(("127.0.0.1", balancer.port())).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await;
        (read.unwrap().ok(), stream)
    }

    #[tokio::test]
    async fn connections_go_to_whoever_listens_and_to_nobody_while_the_way_is_cut() {
        let (one, _) = echo(1).await;
        let (two, second) = echo(2).await;
        let balancer = Balancer::start(&[one, two]).await.unwrap();
        let mut names = [ask(&balancer).await.0, ask(&balancer).await.0];
        names.sort_unstable();
        assert_eq!(names, [Some(1), Some(2)]);

        second.abort();
        // Its listener goes with the task, soon.
        while TcpStream::connect(("127.0.0.1", two)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        for _ in 0..4 {
            assert_eq!(ask(&balancer).await.0, Some(1));
        }

        let (_, mut open) = ask(&balancer).await;
        balancer.cut();
        assert!(open.read_u8().await.is_err(), "what is open is ended");
        assert_eq!(ask(&balancer).await.0, None);
        assert!(balancer.turned_away() >= 2, "{}", balancer.turned_away());
        balancer.mend();
        assert_eq!(ask(&balancer).await.0, Some(1));
    }
}
