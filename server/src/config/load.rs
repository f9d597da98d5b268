//! From a file and flags to a checked [`Config`]: expansion, parsing, sections, cross-checks.
//!
//! The order is SPIRE's: values are checked before unknown keys are reported, so that the first
//! message is about what the operator most likely meant.

use std::path::Path;
use std::time::Duration;

use steeple_hcl1::decode::Block;

use super::cluster::{self, ClusterConfig};
use super::error::ConfigError;
use super::flags::RunFlags;
use super::old_spellings;
use super::plugins::{self, PluginsConfig};
use super::section::Section;
use super::server::{self, ServerConfig};
use super::telemetry::{self, HealthConfig, TelemetryConfig};
use crate::authority::{AGENT_FETCH_BOUND, AuthorityPolicy, CA_TTL_MIN};

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `server { }`.
    pub server: ServerConfig,
    /// `cluster { }`, or what stands for it in a one-member cluster.
    pub cluster: ClusterConfig,
    /// `plugins { }`.
    pub plugins: PluginsConfig,
    /// `health_checks { }`, if its listener is enabled.
    pub health: Option<HealthConfig>,
    /// `telemetry { }`.
    pub telemetry: TelemetryConfig,
    /// `-hold`: only the admin socket is opened.
    pub hold: bool,
    /// What was accepted and is worth a line in the log.
    pub notices: Vec<Notice>,
}

/// Something in the configuration that the operator should know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether a person may have to act.
    pub warning: bool,
    /// An old spelling: the log line carries SPIRE's alert fields.
    pub deprecated: bool,
    /// What to know.
    pub text: String,
}

impl Notice {
    /// For information.
    pub fn info(text: impl Into<String>) -> Self {
        Self { warning: false, deprecated: false, text: text.into() }
    }

    /// Something that a person may have to change.
    pub fn warning(text: impl Into<String>) -> Self {
        Self { warning: true, deprecated: false, text: text.into() }
    }

    /// An old spelling.
    pub fn deprecated(text: impl Into<String>) -> Self {
        Self { warning: true, deprecated: true, text: text.into() }
    }
}

/// Reads the file that the flags name.
///
/// # Errors
///
/// [`ConfigError`].
pub fn load(flags: &RunFlags) -> Result<Config, ConfigError> {
    let text = match std::fs::read_to_string(&flags.config) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let path = std::path::absolute(&flags.config).unwrap_or_else(|_| flags.config.clone());
            return Err(ConfigError::NoFile(path));
        }
        Err(source) => return Err(ConfigError::Read { path: flags.config.clone(), source }),
    };
    let text = if flags.expand_env {
        steeple_hcl1::expand_env(&text, &|name| std::env::var(name).ok())
    } else {
        text
    };
    load_text(&text, flags)
}

/// As [`load`], with the file's text given.
///
/// # Errors
///
/// [`ConfigError`].
pub fn load_text(text: &str, flags: &RunFlags) -> Result<Config, ConfigError> {
    let mut unknown = Vec::new();
    let mut notices = Vec::new();
    let body = old_spellings::translate(steeple_hcl1::parse(text)?, &mut notices)?;
    let file = Section::new("top-level", Block::of_file(&body));

    let section = file.section("server")?;
    let section =
        section.ok_or_else(|| ConfigError::Missing("server section must be configured".into()))?;
    let mut server = server::read(&section, flags, &mut notices, &mut unknown)?;
    let plugins = file.section("plugins")?;
    let plugins =
        plugins.ok_or_else(|| ConfigError::Missing("plugins section must be configured".into()))?;
    let plugins = plugins::read(&plugins, &mut notices)?;
    server.authority.unique_ids = plugins.unique_ids;
    let cluster =
        cluster::read(file.section("cluster")?, &server, flags, &mut notices, &mut unknown)?;
    let health = telemetry::read_health(file.section("health_checks")?, &mut unknown)?;
    let telemetry = telemetry::read(file.section("telemetry")?, &mut notices, &mut unknown)?;
    section.collect_unknown(&mut unknown);
    file.collect_unknown(&mut unknown);
    if !unknown.is_empty() {
        return Err(ConfigError::Unknown(unknown));
    }
    let agent_ttl = section.duration("agent_ttl")?.filter(|ttl| !ttl.is_zero());
    check_lifetimes(&server.authority, agent_ttl, &mut notices)?;
    check_refresh_hint(&server.authority, &mut notices);
    let hold = flags.hold || held_by_file(&server.data_dir);
    Ok(Config { server, cluster, plugins, health, telemetry, hold, notices })
}

/// A file `DATA_DIR/hold` does what `-hold` does, for StatefulSets whose arguments are hard to
/// change.
fn held_by_file(data_dir: &Path) -> bool {
    data_dir.join("hold").exists()
}

/// Lifetimes above what rotation guarantees are warned of, with SPIRE's three texts; `agent_ttl` where it
/// is set. A `ca_ttl` that rotation cannot keep up with is refused.
fn check_lifetimes(
    policy: &AuthorityPolicy,
    agent_ttl: Option<Duration>,
    notices: &mut Vec<Notice>,
) -> Result<(), ConfigError> {
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
    let ca_ttl = policy.ca_ttl;
    if ca_ttl < CA_TTL_MIN {
        let (ca_ttl, least) = (printed(ca_ttl), printed(CA_TTL_MIN));
        return Err(ConfigError::Missing(format!(
            "ca_ttl of {ca_ttl} is too low: an authority would end before an election of a leader is over \
             and the next one signs; set it to {least} or more, in production to hours"
        )));
    }
    let lifetimes = [
        ("default_x509_svid_ttl", Some(policy.default_x509_svid_ttl)),
        ("default_jwt_svid_ttl", Some(policy.default_jwt_svid_ttl)),
        ("agent_ttl", agent_ttl),
    ];
    let set = lifetimes.into_iter().filter_map(|(key, ttl)| Some((key, ttl?)));
    let (cut, least) = (printed(policy.uncut_svid_ttl()), printed(LONGEST * 6));
    for (key, ttl) in set.filter(|(_, ttl)| *ttl > policy.uncut_svid_ttl()) {
        let (what, fix) = if ttl < LONGEST {
            let raised = printed(ttl * 6);
            (
                format!("{key} is too high for the configured ca_ttl value."),
                format!("set {key} to {cut} or less, or the ca_ttl to {raised} or more,"),
            )
        } else if ca_ttl < LONGEST * 6 {
            let longest = printed(LONGEST);
            (
                format!("{key} is too high and the ca_ttl is too low."),
                format!("set {key} to {longest} or less, and the ca_ttl to {least} or more,"),
            )
        } else {
            (format!("{key} is too high."), format!("set {key} to {cut} or less"))
        };
        notices.push(Notice::warning(format!(
            "{what} SVIDs with shorter lifetimes may be issued. Please {fix} to guarantee the full {key} \
             lifetime when CA rotations are scheduled."
        )));
    }
    let longest_wait = policy.longest_wait();
    if longest_wait < AGENT_FETCH_BOUND {
        let (wait, bound) = (printed(longest_wait), printed(AGENT_FETCH_BOUND));
        notices.push(Notice::warning(format!(
            "ca_ttl is too low for slow agents: an authority signs {wait} after it was published at the \
             latest, and an agent that backs off may need {bound} to fetch it: raise ca_ttl"
        )));
    }
    Ok(())
}

/// As SPIRE prints a lifetime: `1h30m`, in whole seconds.
fn printed(time: Duration) -> String {
    let (hours, minutes, seconds) =
        (time.as_secs() / 3600, time.as_secs() / 60 % 60, time.as_secs() % 60);
    match (hours, minutes, seconds) {
        (0, 0, _) => format!("{seconds}s"),
        (0, _, 0) => format!("{minutes}m"),
        (0, _, _) => format!("{minutes}m{seconds}s"),
        (_, 0, 0) => format!("{hours}h"),
        (_, _, 0) => format!("{hours}h{minutes}m"),
        (_, _, _) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// A rotation by schedule waits for peers that fetch the bundle, but not longer than it can.
fn check_refresh_hint(policy: &AuthorityPolicy, notices: &mut Vec<Notice>) {
    let longest = policy.longest_wait();
    if policy.peers_fetch_bound().is_some_and(|bound| bound > longest) {
        notices.push(Notice::warning(format!(
            "refresh_hint is too high for the configured ca_ttl; an authority signs {longest:?} after it \
             was published at the latest, when peers may not have fetched it: lower refresh_hint, or raise \
             ca_ttl"
        )));
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
