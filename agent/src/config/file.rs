//! The text of `agent.conf`: HCL or JSON to the values of its keys.
//!
//! Owns the list of keys and their types. A key nobody knows is an error that names its place; one
//! that SPIRE knows and this agent doesn't act on yet is either refused, where ignoring it would be
//! unsafe, or named in a notice. What values mean together is `checked`'s.

use std::time::Duration;

use steeple_hcl1::decode::{Block, DecodeError};
use steeple_hcl1::{Body, ParseError};

use super::plugins::{PluginError, Plugins};

/// The file is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Not HCL or JSON.
    #[error("unable to decode configuration {0}")]
    Parse(#[from] ParseError),
    /// A value of the wrong type.
    #[error("unable to decode configuration {0}")]
    Decode(#[from] DecodeError),
    /// Keys nobody knows.
    #[error("unknown {section} configuration options: {keys}")]
    Unknown {
        /// Where: `top-level`, `agent`, …
        section: &'static str,
        /// The keys with their places.
        keys: String,
    },
    /// A key that SPIRE knows and this agent can't honour.
    #[error("at {place}: {key} is not supported by this agent: {hint}")]
    Unsupported {
        /// Line and column.
        place: String,
        /// The key.
        key: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// A plugin section.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

/// The values as they stand; `None` and empty mean "not there".
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) data_dir: Option<String>,
    pub(super) trust_domain: Option<String>,
    pub(super) server_address: Option<String>,
    pub(super) server_port: Option<i64>,
    pub(super) server_addresses: Vec<String>,
    pub(super) socket_path: Option<String>,
    pub(super) admin_socket_path: Option<String>,
    pub(super) disable_workload_api: bool,
    pub(super) join_token: Option<String>,
    pub(super) join_token_file: Option<String>,
    pub(super) insecure_bootstrap: bool,
    pub(super) trust_bundle_path: Option<String>,
    pub(super) trust_bundle_url: Option<String>,
    pub(super) trust_bundle_unix_socket: Option<String>,
    pub(super) trust_bundle_format: Option<String>,
    pub(super) rebootstrap_mode: Option<String>,
    pub(super) workload_key_type: Option<String>,
    pub(super) availability_target: Option<Duration>,
    pub(super) x509_svid_cache_max_size: Option<i64>,
    pub(super) jwt_svid_cache_max_size: Option<i64>,
    pub(super) allow_unauthenticated_verifiers: bool,
    pub(super) allowed_foreign_jwt_claims: Vec<String>,
    pub(super) log_file: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) log_source_location: bool,
    pub(super) log_selectors: Vec<String>,
    pub(super) sync_interval: Option<Duration>,
    pub(super) health: Option<Health>,
    pub(super) plugins: Plugins,
    /// Keys that have no effect, in words for the log.
    pub(super) notices: Vec<String>,
    /// Old spellings that were used, in words for the log.
    pub(super) deprecated: Vec<String>,
}

/// The `health_checks` section.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) listener_enabled: bool,
    pub(super) bind_address: Option<String>,
    pub(super) bind_port: Option<String>,
    pub(super) live_path: Option<String>,
    pub(super) ready_path: Option<String>,
}

impl File {
    /// Reads a text.
    pub(super) fn parse(text: &str) -> Result<Self, FileError> {
        let body: Body = steeple_hcl1::parse(text)?;
        let top = Block::of_file(&body);
        let mut file = match top.block("agent")? {
            Some(agent) => read_agent(&agent)?,
            None => Self::default(),
        };
        if let Some(plugins) = top.block("plugins")? {
            file.plugins = Plugins::read(&plugins)?;
        }
        if let Some(health) = top.block("health_checks")? {
            file.health = Some(read_health(&health)?);
        }
        if let Some(telemetry) = top.block("telemetry")? {
            check_telemetry(&telemetry)?;
            file.notices.push("telemetry is not exported by this agent yet".to_owned());
        }
        refuse_unknown("top-level", &top)?;
        Ok(file)
    }
}

fn read_agent(block: &Block<'_>) -> Result<File, FileError> {
    let mut file = File {
        data_dir: block.string("data_dir")?,
        trust_domain: block.string("trust_domain")?,
        server_address: block.string("server_address")?,
        server_port: block.int("server_port")?,
        server_addresses: block.strings("server_addresses")?,
        socket_path: block.string("socket_path")?,
        disable_workload_api: block.bool("disable_workload_api")?.unwrap_or(false),
        join_token: block.string("join_token")?,
        join_token_file: block.string("join_token_file")?,
        insecure_bootstrap: block.bool("insecure_bootstrap")?.unwrap_or(false),
        trust_bundle_path: block.string("trust_bundle_path")?,
        trust_bundle_url: block.string("trust_bundle_url")?,
        trust_bundle_unix_socket: block.string("trust_bundle_unix_socket")?,
        trust_bundle_format: block.string("trust_bundle_format")?,
        rebootstrap_mode: block.string("rebootstrap_mode")?,
        workload_key_type: block.string("workload_x509_svid_key_type")?,
        availability_target: block.duration("availability_target")?,
        x509_svid_cache_max_size: block.int("x509_svid_cache_max_size")?,
        jwt_svid_cache_max_size: block.int("jwt_svid_cache_max_size")?,
        allow_unauthenticated_verifiers: block
            .bool("allow_unauthenticated_verifiers")?
            .unwrap_or(false),
        allowed_foreign_jwt_claims: block.strings("allowed_foreign_jwt_claims")?,
        log_file: block.string("log_file")?,
        log_format: block.string("log_format")?,
        log_level: block.string("log_level")?,
        log_source_location: block.bool("log_source_location")?.unwrap_or(false),
        log_selectors: block.strings("log_selectors")?,
        ..File::default()
    };
    read_without_effect(block, &mut file)?;
    if let Some(experimental) = block.block("experimental")? {
        read_experimental(&experimental, &mut file)?;
    }
    refuse_unknown("agent", block)?;
    Ok(file)
}

/// Keys of SPIRE that this agent knows and doesn't act on.
fn read_without_effect(block: &Block<'_>, file: &mut File) -> Result<(), FileError> {
    if block.string("trust_bundle_spiffe_workload_api")?.is_some_and(|text| !text.is_empty()) {
        let hint = "use trust_bundle_path or trust_bundle_url";
        return Err(unsupported(block, "trust_bundle_spiffe_workload_api", hint));
    }
    match block.bool("enable_sds")? {
        None => {}
        Some(true) => {
            file.deprecated.push("enable_sds is an old key: drop it; Envoy's SDS API needs none, and is not served by this agent yet".to_owned())
        }
        Some(false) => {
            let hint = "it ended with SPIRE 0.12; use disable_sds_api = true";
            return Err(unsupported(block, "enable_sds", hint));
        }
    }
    file.admin_socket_path = block.string("admin_socket_path")?;
    for (key, what) in [
        ("admin_socket_path", "the admin API is not served by this agent yet"),
        ("authorized_delegates", "the delegated identity API is not served by this agent yet"),
        ("sds", "Envoy's SDS API is not served by this agent yet"),
        ("profiling_enabled", "profiling is not available"),
    ] {
        if block.has(key) {
            file.notices.push(format!("{key} has no effect: {what}"));
        }
    }
    for key in [
        "disable_sds_api",
        "profiling_port",
        "profiling_freq",
        "profiling_names",
        "rebootstrap_delay",
    ] {
        block.has(key);
    }
    Ok(())
}

fn read_experimental(block: &Block<'_>, file: &mut File) -> Result<(), FileError> {
    file.sync_interval = block.duration("sync_interval")?;
    if block.bool("require_pq_kem")?.unwrap_or(false) {
        let hint = "hybrid key exchange is preferred already, but can't be enforced";
        return Err(unsupported(block, "require_pq_kem", hint));
    }
    for (key, what) in [
        ("broker", "the Broker API is not served by this agent yet"),
        ("ratelimit", "workload calls are not rate limited by this agent yet"),
        ("jwt_svid_cache_hit_timeout", "the ordinary timeout applies"),
        ("use_sync_authorized_entries", "entries are always synced by revision"),
        ("feature_flags", "this agent has none of SPIRE's feature flags"),
    ] {
        if block.has(key) {
            file.notices.push(format!("experimental.{key} has no effect: {what}"));
        }
    }
    for key in ["named_pipe_name", "admin_named_pipe_name"] {
        block.has(key);
    }
    refuse_unknown("experimental", block)
}

fn read_health(block: &Block<'_>) -> Result<Health, FileError> {
    let health = Health {
        listener_enabled: block.bool("listener_enabled")?.unwrap_or(false),
        bind_address: block.string("bind_address")?,
        bind_port: block.string("bind_port")?,
        live_path: block.string("live_path")?,
        ready_path: block.string("ready_path")?,
    };
    refuse_unknown("health_checks", block)?;
    Ok(health)
}

fn check_telemetry(block: &Block<'_>) -> Result<(), FileError> {
    for key in [
        "Prometheus",
        "DogStatsd",
        "Statsd",
        "M3",
        "InMem",
        "MetricPrefix",
        "EnableTrustDomainLabel",
        "EnableHostnameLabel",
        "AllowedPrefixes",
        "BlockedPrefixes",
        "AllowedLabels",
        "BlockedLabels",
    ] {
        block.has(key);
    }
    refuse_unknown("telemetry", block)
}

fn unsupported(block: &Block<'_>, key: &'static str, hint: &'static str) -> FileError {
    let pos = block.value(key).map_or(block.pos(), |value| value.pos);
    FileError::Unsupported { place: pos.to_string(), key, hint }
}

fn refuse_unknown(section: &'static str, block: &Block<'_>) -> Result<(), FileError> {
    let unknown = block.unknown_keys();
    if unknown.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> =
        unknown.iter().map(|label| format!("\"{}\" (at {})", label.text, label.pos)).collect();
    Err(FileError::Unknown { section, keys: keys.join(", ") })
}
