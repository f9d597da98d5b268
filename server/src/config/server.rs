//! `server { }`: every key of SPIRE 1.15 (`spire-config` 2.1) and the old spellings of
//! walkthroughs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use steeple_spiffe_core::svid::x509::CaSubject;
use steeple_spiffe_core::{FederationRelationship, KeyType, SpiffeId, TrustDomain};

use super::error::{ConfigError, UnknownKey};
use super::federation::{self, BundleEndpointConfig, FederationConfig};
use super::flags::RunFlags;
use super::load::Notice;
use super::section::Section;
use crate::authority::AuthorityPolicy;
use crate::duties::AgentPruning;
use crate::service::Settings;

/// SPIRE's default of `socket_path`.
const DEFAULT_SOCKET: &str = "/tmp/spire-server/private/api.sock";

/// SPIRE's default of `bind_port`.
const DEFAULT_PORT: u16 = 8081;

/// What `server { }` says.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `trust_domain`.
    pub trust_domain: TrustDomain,
    /// `data_dir`.
    pub data_dir: PathBuf,
    /// `socket_path`.
    pub socket_path: PathBuf,
    /// `bind_address`: an address or a name.
    pub bind_address: String,
    /// `bind_port`.
    pub bind_port: u16,
    /// `admin_ids`.
    pub admin_ids: BTreeSet<SpiffeId>,
    /// `audit_log_enabled`.
    pub audit_log_enabled: bool,
    /// `log_*`.
    pub log: LogConfig,
    /// `ca_*`, `default_*_svid_ttl`, `agent_ttl`, `jwt_*`.
    pub authority: AuthorityPolicy,
    /// `prune_*`.
    pub agent_pruning: AgentPruning,
    /// `ratelimit.attestation`.
    pub limit_attestation: bool,
    /// `ratelimit.signing`.
    pub limit_signing: bool,
    /// `disable_jwt_svids`, `experimental.agent_spiffe_id_as_selector`.
    pub settings: Settings,
    /// `federation.bundle_endpoint`; `None` = none is served.
    pub bundle_endpoint: Option<BundleEndpointConfig>,
    /// `federation.federates_with`, ascending by trust domain, one each, never the own one.
    pub federates_with: Vec<FederationRelationship>,
}

/// Where and how log lines are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// `log_file`; `None` = standard output.
    pub file: Option<PathBuf>,
    /// `log_level`.
    pub level: LogLevel,
    /// `log_format`.
    pub format: LogFormat,
    /// `log_source_location`.
    pub source_location: bool,
}

/// Levels by logrus' names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// `error`, `fatal` and `panic`.
    Error,
    /// `warn`, `warning`.
    Warn,
    /// `info`.
    #[default]
    Info,
    /// `debug`.
    Debug,
    /// `trace`.
    Trace,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `time=… level=… msg=… key=value`.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "panic" | "fatal" | "error" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(format!("could not start logger: not a valid logrus Level: {text:?}")),
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("unknown logger format: {text:?}; choose text or json")),
        }
    }
}

/// Reads the section; flags win.
pub(super) fn read(
    section: &Section<'_>,
    flags: &RunFlags,
    notices: &mut Vec<Notice>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<ServerConfig, ConfigError> {
    let trust_domain = trust_domain(section, flags)?;
    let data_dir = section.string("data_dir")?;
    let data_dir = flags.data_dir.clone().or(data_dir);
    let data_dir = data_dir.ok_or_else(|| missing("data_dir must be configured"))?;
    let bind_address = section.string("bind_address")?;
    let bind_port = section.port("bind_port")?;
    unused(section, notices)?;
    let disable_jwt_svids = section.bool("disable_jwt_svids")?.unwrap_or(false);
    if disable_jwt_svids {
        notices.push(Notice::info("JWT-SVID profile is disabled"));
    }
    let Experimental { settings, wit } = experimental(section, notices)?;
    let (limit_attestation, limit_signing) = ratelimit(section, unknown)?;
    let federation = federation::read(section, &trust_domain, notices, unknown)?;
    let FederationConfig { bundle_endpoint, federates_with } = federation;
    let refresh_hint = bundle_endpoint.as_ref().map(|endpoint| endpoint.refresh_hint);
    let config = ServerConfig {
        trust_domain,
        data_dir: data_dir.into(),
        socket_path: socket_path(section, flags, notices)?,
        bind_address: flags.bind_address.clone().or(bind_address).unwrap_or("0.0.0.0".into()),
        bind_port: flags.server_port.or(bind_port).unwrap_or(DEFAULT_PORT),
        admin_ids: admin_ids(section)?,
        audit_log_enabled: section.bool("audit_log_enabled")?.unwrap_or(false),
        log: log(section, flags)?,
        authority: wit
            .told(AuthorityPolicy { refresh_hint, ..authority(section, notices, unknown)? }),
        agent_pruning: pruning(section)?,
        limit_attestation,
        limit_signing,
        settings: Settings { disable_jwt_svids, ..settings },
        bundle_endpoint,
        federates_with,
    };
    Ok(config)
}

fn missing(text: &str) -> ConfigError {
    ConfigError::Missing(text.to_owned())
}

fn trust_domain(section: &Section<'_>, flags: &RunFlags) -> Result<TrustDomain, ConfigError> {
    let configured = section.string("trust_domain")?;
    let text = flags.trust_domain.clone().or(configured);
    let text = text.ok_or_else(|| missing("trust_domain must be configured"))?;
    TrustDomain::parse_name_or_id(&text)
        .map_err(|error| missing(&format!("could not parse trust_domain {text:?}: {error}")))
}

fn socket_path(
    section: &Section<'_>,
    flags: &RunFlags,
    notices: &mut Vec<Notice>,
) -> Result<PathBuf, ConfigError> {
    let new = section.string("socket_path")?;
    let old = section.string("registration_uds_path")?;
    if old.is_some() {
        if new.is_some() {
            let text = "use socket_path alone; registration_uds_path is its old spelling";
            return Err(section.refuse("registration_uds_path", text));
        }
        notices
            .push(Notice::deprecated("registration_uds_path is an old spelling: use socket_path"));
    }
    let path = flags.socket_path.clone().or(new).or(old);
    Ok(path.unwrap_or(DEFAULT_SOCKET.to_owned()).into())
}

fn admin_ids(section: &Section<'_>) -> Result<BTreeSet<SpiffeId>, ConfigError> {
    let parse = |text: &String| {
        SpiffeId::parse(text).map_err(|error| {
            section.refuse("admin_ids", format!("could not parse admin ID {text:?}: {error}"))
        })
    };
    section.strings("admin_ids")?.iter().map(parse).collect()
}

fn log(section: &Section<'_>, flags: &RunFlags) -> Result<LogConfig, ConfigError> {
    let file = section.string("log_file")?;
    let from_flag = |text: &String| text.parse().map_err(ConfigError::Missing);
    let (level, format) = (section.parsed("log_level")?, section.parsed("log_format")?);
    let level_flag = flags.log_level.as_ref().map(from_flag).transpose()?;
    let format_flag = match &flags.log_format {
        Some(text) => Some(text.parse().map_err(ConfigError::Missing)?),
        None => None,
    };
    Ok(LogConfig {
        file: flags.log_file.clone().or(file).map(PathBuf::from),
        level: level_flag.or(level).unwrap_or_default(),
        format: format_flag.or(format).unwrap_or_default(),
        source_location: flags.log_source_location
            || section.bool("log_source_location")?.unwrap_or(false),
    })
}

fn authority(
    section: &Section<'_>,
    notices: &mut Vec<Notice>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<AuthorityPolicy, ConfigError> {
    let defaults = AuthorityPolicy::default();
    let set = |key: &str| -> Result<Option<Duration>, ConfigError> {
        Ok(section.duration(key)?.filter(|ttl| !ttl.is_zero()))
    };
    let x509 = x509_ttl(section, notices)?;
    let default_x509_svid_ttl = x509.unwrap_or(defaults.default_x509_svid_ttl);
    let ca_key_type = section.parsed("ca_key_type")?.unwrap_or(defaults.ca_key_type);
    Ok(AuthorityPolicy {
        ca_ttl: set("ca_ttl")?.unwrap_or(defaults.ca_ttl),
        ca_key_type,
        jwt_key_type: section.parsed("jwt_key_type")?.unwrap_or(ca_key_type),
        default_x509_svid_ttl,
        default_jwt_svid_ttl: set("default_jwt_svid_ttl")?.unwrap_or(defaults.default_jwt_svid_ttl),
        agent_ttl: set("agent_ttl")?.unwrap_or(default_x509_svid_ttl),
        jwt_issuer: section.string("jwt_issuer")?,
        // Said by a plugin.
        unique_ids: false,
        ca_subject: ca_subject(section, notices, unknown)?,
        // Said by the bundle endpoint.
        refresh_hint: None,
        jwt_svids: !section.bool("disable_jwt_svids")?.unwrap_or(false),
        // Said by `experimental { }`.
        wit_key_type: ca_key_type,
        wit_issuer: None,
        wit_svids: false,
    })
}

/// `default_x509_svid_ttl` or one of its two old names, which set nothing but it.
fn x509_ttl(
    section: &Section<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Option<Duration>, ConfigError> {
    let mut found = section.duration("default_x509_svid_ttl")?;
    for old in ["svid_ttl", "default_svid_ttl"] {
        let Some(ttl) = section.duration(old)? else { continue };
        if found.is_some() {
            let text = format!("use default_x509_svid_ttl alone; {old} is an old spelling of it");
            return Err(section.refuse(old, text));
        }
        found = Some(ttl);
        notices.push(Notice::deprecated(format!(
            "{old} is an old spelling and sets X509-SVIDs only: use default_x509_svid_ttl and default_jwt_svid_ttl"
        )));
    }
    Ok(found.filter(|ttl| !ttl.is_zero()))
}

fn ca_subject(
    section: &Section<'_>,
    notices: &mut Vec<Notice>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<Option<CaSubject>, ConfigError> {
    let Some(subject) = section.section("ca_subject")? else { return Ok(None) };
    let parsed = CaSubject {
        country: subject.strings("country")?,
        organization: subject.strings("organization")?,
        common_name: subject.string("common_name")?.unwrap_or_default(),
    };
    subject.collect_unknown(unknown);
    let empty = parsed.country.is_empty()
        && parsed.organization.is_empty()
        && parsed.common_name.is_empty();
    if empty {
        notices
            .push(Notice::warning("ca_subject configurable is empty; using the default subject"));
        return Ok(None);
    }
    Ok(Some(parsed))
}

fn pruning(section: &Section<'_>) -> Result<AgentPruning, ConfigError> {
    // The batch size is raft-store's own; SPIRE's key is accepted and means nothing else.
    section.int("prune_attested_nodes_batch_size")?;
    Ok(AgentPruning {
        expired_for: section.duration("prune_attested_nodes_expired_for")?,
        include_non_reattestable: section.bool("prune_tofu_nodes")?.unwrap_or(false),
    })
}

fn ratelimit(
    section: &Section<'_>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<(bool, bool), ConfigError> {
    let Some(limits) = section.section("ratelimit")? else { return Ok((true, true)) };
    let attestation = limits.bool("attestation")?.unwrap_or(true);
    let signing = limits.bool("signing")?.unwrap_or(true);
    limits.collect_unknown(unknown);
    Ok((attestation, signing))
}

/// Keys that SPIRE has and that change nothing here, or that this version does not support yet.
fn unused(section: &Section<'_>, notices: &mut Vec<Notice>) -> Result<(), ConfigError> {
    match section.bool("upstream_bundle")? {
        None => {}
        Some(true) => {
            notices.push(Notice::deprecated("upstream_bundle is always on: drop the key"))
        }
        Some(false) => {
            let text = "false is not supported since SPIRE 0.11: drop the key";
            return Err(section.refuse("upstream_bundle", text));
        }
    }
    section.duration("max_attested_node_info_staleness")?;
    if !section.strings("proxy_protocol_trusted_cidrs")?.is_empty() {
        let text = "PROXY protocol is not supported by this version; drop the key";
        return Err(section.refuse("proxy_protocol_trusted_cidrs", text));
    }
    if section.bool("profiling_enabled")?.unwrap_or(false) {
        notices
            .push(Notice::warning("profiling is not supported by this version; the key is unused"));
    }
    section.int("profiling_port")?;
    section.int("profiling_freq")?;
    section.strings("profiling_names")?;
    Ok(())
}

/// What `experimental { }` says.
#[derive(Default)]
struct Experimental {
    settings: Settings,
    wit: Wit,
}

/// What it says of WIT-SVIDs.
#[derive(Default)]
struct Wit {
    /// Feature flag `wit-svid`.
    enabled: bool,
    /// `wit_key_type`; else that of the CA.
    key_type: Option<KeyType>,
    /// `wit_issuer`.
    issuer: Option<String>,
}

impl Wit {
    fn told(self, policy: AuthorityPolicy) -> AuthorityPolicy {
        AuthorityPolicy {
            wit_svids: self.enabled,
            wit_key_type: self.key_type.unwrap_or(policy.ca_key_type),
            wit_issuer: self.issuer,
            ..policy
        }
    }
}

/// `experimental { }`: SPIRE checks no unknown key here, which silently loses old settings; we warn.
fn experimental(
    section: &Section<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Experimental, ConfigError> {
    let Some(experimental) = section.section("experimental")? else {
        return Ok(Experimental::default());
    };
    let agent_spiffe_id_as_selector =
        experimental.bool("agent_spiffe_id_as_selector")?.unwrap_or(false);
    if experimental.has("auth_opa_policy_engine") {
        return Err(experimental.refuse(
            "auth_opa_policy_engine",
            "policies of your own are not supported by this version; drop the block to use SPIRE's default policy",
        ));
    }
    if experimental.has("named_pipe_name") {
        let text =
            "named_pipe_name is not supported in this platform; please use socket_path instead";
        return Err(experimental.refuse("named_pipe_name", text));
    }
    let flags = experimental.strings("feature_flags")?;
    for flag in &flags {
        if !matches!(flag.as_str(), "wit-svid" | "i_am_a_test_flag") {
            let text = format!("error loading feature flags: unknown feature flag(s): [{flag}]");
            return Err(experimental.refuse("feature_flags", text));
        }
        let text = format!("Developer feature flag {flag:?} has been enabled");
        notices.push(Notice::warning(text));
    }
    let wit = Wit {
        enabled: flags.iter().any(|flag| flag == "wit-svid"),
        key_type: experimental.parsed("wit_key_type")?,
        issuer: experimental.string("wit_issuer")?.filter(|issuer| !issuer.is_empty()),
    };
    // Views follow the log at once: the keys of SPIRE's caches mean nothing here.
    const CACHES: [&str; 7] = [
        "cache_reload_interval",
        "events_based_cache",
        "full_cache_reload_interval",
        "prune_events_older_than",
        "event_timeout",
        "sql_transaction_timeout",
        "require_pq_kem",
    ];
    let without_flag: &[&str] = if wit.enabled { &[] } else { &["wit_key_type", "wit_issuer"] };
    let unused = CACHES.iter().chain(without_flag).copied();
    let used: Vec<&str> = unused.filter(|key| experimental.has(key)).collect();
    if !used.is_empty() {
        notices.push(Notice::info(format!("unused experimental keys: {}", used.join(", "))));
    }
    if !experimental.is_empty() {
        notices.push(Notice::warning("experimental features have been enabled"));
    }
    for key in experimental.unknown() {
        let text = format!("unknown experimental key {:?} at {} is ignored", key.key, key.pos);
        notices.push(Notice::warning(text));
    }
    let settings = Settings { agent_spiffe_id_as_selector, ..Settings::default() };
    Ok(Experimental { settings, wit })
}
