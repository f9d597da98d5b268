//! The command-line tools of Steeple as a library: what `spire-server` and `spire-agent` do beside
//! serving.
//!
//! Owns the commands of SPIRE 1.15 with their flags, texts, JSON and exit codes, and the `cluster`
//! commands that SPIRE lacks. Speaks to the daemons through `steeple-api` over their Unix sockets,
//! and to nothing else. The `run` and `validate` commands belong to the binaries, which hand them
//! in as [`Mounted`].

#![forbid(unsafe_code)]

mod agent;
mod authority;
mod batch;
mod bundle;
mod cluster;
mod command;
mod conn;
mod dispatch;
mod entry;
mod error;
mod federation;
mod files;
mod flags;
mod go_json;
mod healthcheck;
mod ids;
mod io;
mod mint;
mod output;
mod program;
mod token;
mod workload;

use std::fmt;

use steeple_spiffe_core::time::SystemClock;

pub use crate::io::{Interrupt, Io};

/// A command that a binary brings along: gets the words after the command, returns the exit code.
pub type Handler = Box<dyn FnOnce(Vec<String>) -> i32>;

/// The commands that a binary brings along.
///
/// They are called on the thread that polls [`server_main`] or [`agent_main`]. On a runtime of
/// several threads that thread is first taken out of it, so that a handler may start a runtime or
/// block.
pub struct Mounted {
    /// Serves until it is stopped.
    pub run: Handler,
    /// Checks the configuration.
    pub validate: Handler,
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounted").finish_non_exhaustive()
    }
}

/// Runs one `spire-server` command and returns the exit code: 0 done, 1 failed, 127 no such
/// command.
///
/// `args` are the words after the program's name.
pub async fn server_main(args: Vec<String>, mounted: Mounted) -> i32 {
    with_process_io(async |io| server_main_with(args, mounted, io).await).await
}

/// Runs one `spire-agent` command and returns the exit code: 0 done, 1 failed, 127 no such command.
///
/// `args` are the words after the program's name.
pub async fn agent_main(args: Vec<String>, mounted: Mounted) -> i32 {
    with_process_io(async |io| agent_main_with(args, mounted, io).await).await
}

/// As [`server_main`], with streams, environment and clock given.
pub async fn server_main_with(args: Vec<String>, mounted: Mounted, io: &mut Io<'_>) -> i32 {
    dispatch::dispatch(&program::SERVER, args, mounted, io).await
}

/// As [`agent_main`], with streams, environment and clock given.
pub async fn agent_main_with(args: Vec<String>, mounted: Mounted, io: &mut Io<'_>) -> i32 {
    dispatch::dispatch(&program::AGENT, args, mounted, io).await
}

async fn with_process_io(run: impl AsyncFnOnce(&mut Io<'_>) -> i32) -> i32 {
    let mut io = Io {
        stdin: &mut std::io::stdin(),
        stdout: &mut std::io::stdout(),
        stderr: &mut std::io::stderr(),
        env: &|name| std::env::var(name).ok(),
        clock: &SystemClock,
        interrupt: Box::pin(async {
            // A process that cannot listen for the signal is ended by it, which is as good.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        }),
    };
    run(&mut io).await
}
