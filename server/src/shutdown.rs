//! How the process ends: signals in, tokens out.
//!
//! The first SIGTERM or SIGINT starts the orderly stop (`docs/reference/cluster.md` 3, "Stopping");
//! a second ends the process at once. The stages are tokens that every loop selects on; what each
//! stage waits for is [`crate::wiring`]'s business.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long open calls may go on after the stop was asked for.
pub const DRAIN_MAX: Duration = Duration::from_secs(30);

/// The stages of the end, each later than the one before.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// Not ready any more; listeners stop accepting and connections are told to go away.
    pub stop: CancellationToken,
    /// The drain is over: open connections are dropped.
    pub abort: CancellationToken,
    /// Nothing uses the views, the duties or the store any more.
    pub close: CancellationToken,
}

/// The signals that end the process or make it reopen its log.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    reopen: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGUSR1: configure plugins anew and dump metrics, for which nothing is to be done here.
    ReloadPlugins,
    /// SIGUSR2.
    ReopenLog,
    /// SIGHUP: read the cluster key again.
    ReloadKey,
}

impl Signals {
    /// Takes the signals over from their default actions.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::user_defined1())?,
            reopen: signal(SignalKind::user_defined2())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.reload.recv() => Asked::ReloadPlugins,
            _ = self.reopen.recv() => Asked::ReopenLog,
            _ = self.hangup.recv() => Asked::ReloadKey,
        }
    }
}
