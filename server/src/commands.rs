//! The two commands of the binary that the command line library does not have: `run` and
//! `validate`.
//!
//! Owns their output and exit codes, and what must happen before any thread is started: the file
//! mode mask and core dumps. What a server is made of is [`crate::wiring`]'s business.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use steeple_cli::Mounted;
use steeple_spiffe_core::random::SystemRandom;
use steeple_spiffe_core::time::SystemClock;

use crate::cluster_key;
use crate::config::{self, Config, FlagError, KeySource, Notice, RunFlags};
use crate::logging::Logging;
use crate::wiring;

const DONE: i32 = 0;
const FAILED: i32 = 1;

/// Files are never made writable for the group or readable for others.
const UMASK: u32 = 0o027;

/// Runs the command that the process' arguments name.
pub fn main() -> ExitCode {
    let arguments = std::env::args().skip(1).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let code = match runtime {
        Ok(runtime) => {
            let mounted = Mounted { run: Box::new(run), validate: Box::new(validate) };
            runtime.block_on(steeple_cli::server_main(arguments, mounted))
        }
        Err(error) => fail(&format!("start runtime: {error}")),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// How long tasks may take to end after every signal to do so; what is written is durable already.
const RUNTIME_END_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// `spire-server run`: serves until a signal. Returns the exit code.
fn run(words: Vec<String>) -> i32 {
    let flags = match RunFlags::parse(&words) {
        Ok(flags) => flags,
        Err(error) => return refuse("run", &error),
    };
    let config = match config::load(&flags) {
        Ok(config) => config,
        Err(error) => return fail(&text_of(&error)),
    };
    restrict_process();
    let clock = Arc::new(SystemClock);
    let logging = match Logging::install(&config.server.log, clock) {
        Ok(logging) => logging,
        Err(error) => return fail(&text_of(&error)),
    };
    config.notices.iter().for_each(log_notice);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("start runtime: {error}")),
    };
    let result = runtime.block_on(wiring::run(config, logging));
    // The database must be closed before the process ends: its own threads are torn down then.
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    match result {
        Ok(()) => {
            tracing::info!("Server stopped gracefully");
            DONE
        }
        Err(error) => {
            let text = format!("{error:#}");
            tracing::error!(error = text, "Server crashed");
            fail(&text)
        }
    }
}

/// `spire-server validate`: checks the configuration. Returns the exit code.
fn validate(words: Vec<String>) -> i32 {
    let flags = match RunFlags::parse(&words) {
        Ok(flags) => flags,
        Err(error) => return refuse("validate", &error),
    };
    let config = match config::load(&flags) {
        Ok(config) => config,
        Err(error) => {
            let text = text_of(&error);
            return fail(&format!("SPIRE server configuration file is invalid: {text}"));
        }
    };
    // Scripts read the verdict on standard output.
    for notice in config.notices.iter().filter(|notice| notice.warning) {
        say(io::stderr(), &format!("Warning: {}", notice.text), DONE);
    }
    let (mut notes, doubt) = plugin_notes(&config);
    if let Some(doubt) = doubt {
        say(io::stderr(), &format!("Warning: {doubt}"), DONE);
    }
    notes.extend(key_note(&config));
    if notes.is_empty() {
        return say(io::stdout(), "SPIRE server configuration file is valid.", DONE);
    }
    let mut text = "SPIRE server configuration file is invalid.\nValidation errors:".to_owned();
    for (plugin, note) in notes {
        text.push_str(&format!("\n\t{plugin}:\n\t\t{note}"));
    }
    fail(&text)
}

/// What the plugins refuse of their configuration, and what is to be warned of.
fn plugin_notes(config: &Config) -> (Vec<(String, String)>, Option<String>) {
    match wiring::check_plugins(config) {
        Ok(doubt) => (Vec::new(), doubt),
        Err(error) => {
            let plugin = error.plugin().to_owned();
            (vec![(plugin, format!("{:#}", anyhow::Error::from(error)))], None)
        }
    }
}

/// What is wrong with the file of the cluster key. Other sources may be there for the server alone.
fn key_note(config: &Config) -> Option<(String, String)> {
    let source = &config.cluster.key;
    if !matches!(source, KeySource::File(_)) {
        return None;
    }
    let error = cluster_key::load(source, &config.server.data_dir, &SystemRandom).err()?;
    Some(("cluster.key_file".to_owned(), text_of(&error)))
}

/// The private keys of this process are for no core file and no other process, its files for no
/// stranger. The limit stops core files; a program that `core_pattern` names is given a core
/// whatever the limit is, but none of a process that is not dumpable.
fn restrict_process() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none);
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = limited.and(hidden) {
        // The log is not there yet, and a process that cannot lower its own limit is sandboxed.
        say(io::stderr(), &format!("could not switch core dumps off: {error}"), DONE);
    }
    let mask = rustix::fs::Mode::from_raw_mode(UMASK);
    let before = rustix::process::umask(mask);
    rustix::process::umask(mask | before);
}

fn log_notice(notice: &Notice) {
    let text = notice.text.as_str();
    match (notice.warning, notice.deprecated) {
        (_, true) => tracing::warn!(alert = true, alert_type = "deprecated_config", "{text}"),
        (true, false) => tracing::warn!("{text}"),
        (false, false) => tracing::info!("{text}"),
    }
}

fn refuse(command: &str, error: &FlagError) -> i32 {
    let usage = RunFlags::usage(command);
    if *error == FlagError::Help {
        return say(io::stderr(), usage.trim_end(), DONE);
    }
    fail(&format!("{error}\n{}", usage.trim_end()))
}

fn fail(text: &str) -> i32 {
    say(io::stderr(), text, FAILED)
}

/// Writes a line; a stream that takes none leaves nowhere to say so.
fn say(mut to: impl io::Write, text: &str, code: i32) -> i32 {
    writeln!(to, "{text}").ok();
    code
}

/// An error and its causes in one line.
fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some texts have that of their cause in them.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
