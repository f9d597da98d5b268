//! `spire-agent run` and `validate`.
//!
//! Owns what surrounds the agent in its process: flags, configuration, umask, logging, signals, exit
//! codes (`spire-cli` 5.7, `spire-semantics` 8.6).

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use steeple_spiffe_core::random::SystemRandom;
use steeple_spiffe_core::time::SystemClock;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::config::{Config, FlagError, Flags, load};
use crate::logging::{LogLayer, LogSink};
use crate::start::Seams;
use crate::upstream::chain;

const DONE: i32 = 0;
const FAILED: i32 = 1;

/// What still runs after the drain has this long.
const RUNTIME_END_MAX: Duration = Duration::from_millis(500);

/// `run`: serves until a signal; 0 after a signal, 1 after a failure.
pub fn run(words: Vec<String>) -> i32 {
    let config = match configure("run", &words) {
        Ok(config) => config,
        Err(Refusal::Help) => return DONE,
        Err(Refusal::Text(text)) => return fail(&text),
    };
    match serve(config) {
        Ok(()) => DONE,
        Err(text) => fail(&text),
    }
}

/// `validate`: says whether the configuration is valid.
pub fn validate(words: Vec<String>) -> i32 {
    match configure("validate", &words) {
        Ok(config) => {
            // Scripts read the verdict on standard output.
            for text in config.deprecated.iter().chain(&config.notices) {
                let _unread = writeln!(io::stderr(), "Warning: {text}");
            }
            // Whoever closed our output doesn't want to know.
            let _unread = writeln!(io::stdout(), "SPIRE agent configuration file is valid.");
            DONE
        }
        Err(Refusal::Help) => DONE,
        Err(Refusal::Text(text)) => {
            fail(&format!("SPIRE agent configuration file is invalid: {text}"))
        }
    }
}

enum Refusal {
    Help,
    Text(String),
}

fn configure(command: &str, words: &[String]) -> Result<Config, Refusal> {
    let flags = Flags::parse(words).map_err(|error| {
        // Go's flag package tells an error before the usage text, and SPIRE once more after it.
        let (refusal, first) = match error {
            FlagError::Help => (Refusal::Help, String::new()),
            FlagError::Unknown(_) | FlagError::NoValue(_) | FlagError::BadSwitch { .. } => {
                (Refusal::Text(error.to_string()), format!("{error}\n"))
            }
        };
        let _unread = write!(io::stderr(), "{first}{}", Flags::usage(command));
        refusal
    })?;
    let lookup = |name: &str| std::env::var(name).ok();
    load(&flags, &lookup).map_err(|error| Refusal::Text(chain(&error)))
}

fn serve(config: Config) -> Result<(), String> {
    let sink = LogSink::open(config.log.file.as_deref())
        .map_err(|error| format!("could not open log file: {error}"))?;
    let clock = Arc::new(SystemClock);
    let layer = LogLayer::new(config.log.clone(), sink.clone(), clock.clone());
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())?;
    for text in &config.deprecated {
        warn!(alert = true, alert_type = "deprecated_config", "{text}");
    }
    for text in &config.notices {
        warn!("{text}");
    }
    hide_memory();
    tighten_umask();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("could not start runtime: {error}"))?;
    let seams = Seams { clock, random: Arc::new(SystemRandom) };
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::select! {
            result = crate::wiring::run(config, seams, shutdown.clone()) => {
                result.map_err(|error| chain(&error))
            }
            result = signals(shutdown, sink) => result.map_err(|error| error.to_string()),
        }
    });
    if let Err(text) = &result {
        error!(error = text, "Agent crashed");
    }
    // The crypto library takes its random state down as the process ends, under threads that still draw
    // from it: they end first. Longer work (a hash, a name lookup) must not hold the exit up.
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    result
}

/// Turns signals into their effects. Ends only when signals can't be received.
async fn signals(shutdown: CancellationToken, sink: LogSink) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut reload = signal(SignalKind::user_defined1())?;
    let mut reopen = signal(SignalKind::user_defined2())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => shutdown.cancel(),
            _ = terminate.recv() => shutdown.cancel(),
            // SPIRE's operators send it to have plugins configured anew and metrics dumped.
            _ = reload.recv() => {
                info!("SIGUSR1 has no effect: plugins have no configuration files to read again, and there are no metrics to dump");
            }
            _ = reopen.recv() => match sink.reopen() {
                Ok(()) => info!("Log file reopened"),
                Err(failure) => error!(error = %failure, "Failed to reopen log file"),
            },
        }
    }
}

/// The private keys of this process are for no core file and no other process. The limit stops core
/// files; a program that `core_pattern` names is given a core whatever the limit is, but none of a
/// process that is not dumpable.
fn hide_memory() {
    let (limited, hidden) = (setrlimit(Resource::RLIMIT_CORE, 0, 0), set_dumpable(false));
    if let Err(error) = limited.and(hidden) {
        // A process that cannot lower its own limit is sandboxed.
        warn!(%error, "Could not switch core dumps off");
    }
}

/// Files of the agent are never for others, whatever the caller's umask.
fn tighten_umask() {
    let least = Mode::S_IWGRP | Mode::S_IROTH | Mode::S_IWOTH | Mode::S_IXOTH;
    let before = umask(least);
    umask(before | least);
    if !before.contains(least) {
        let (was, is) = (before.bits(), (before | least).bits());
        info!("Current umask {was:04o} is too permissive; setting umask {is:04o}");
    }
}

fn fail(text: &str) -> i32 {
    let _unread = writeln!(io::stderr(), "{text}");
    FAILED
}
