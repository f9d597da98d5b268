//! The one name of a side's bundle endpoints, on a machine of its own: whom the other side asks.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use steeple_testkit::Balancer;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// Passes connections on, on a thread that lives in its machine's namespace. Ends when dropped.
#[derive(Debug)]
pub(super) struct Gate {
    /// Where it listens.
    pub(super) address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Gate {
    /// Moves into a namespace that has this address, and passes connections on to these.
    pub(super) async fn open(
        namespace: PathBuf,
        address: Ipv4Addr,
        targets: Vec<SocketAddr>,
    ) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, opened) = oneshot::channel();
        let work = move || match open(namespace, address, &targets) {
            // Nobody listens any more where a reply cannot be sent: the run was given up.
            Ok((runtime, balancer)) => {
                ready.send(Ok(balancer.port())).ok();
                runtime.block_on(stopped).ok();
            }
            Err(error) => {
                ready.send(Err(error)).ok();
            }
        };
        let thread = std::thread::Builder::new().name("gate".to_owned()).spawn(work);
        thread.context("start a gate")?;
        let port = opened.await.context("a gate has ended")??;
        Ok(Self { address: (address, port).into(), _stop: stop })
    }
}

fn open(
    namespace: PathBuf,
    address: Ipv4Addr,
    targets: &[SocketAddr],
) -> Result<(Runtime, Balancer)> {
    let namespace = File::open(namespace).context("open a namespace")?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter a namespace")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start a gate's runtime")?;
    let balancer = runtime.block_on(Balancer::start_at(address, targets))?;
    Ok((runtime, balancer))
}
