//! The configuration in force: flags over file over defaults, everything checked.
//!
//! Owns the defaults, the rules between keys and SPIRE's texts for them (`spire-config` 3).

use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use steeple_spiffe_core::{KeyType, TrustDomain};
use tracing::Level;

use super::file::{File, FileError, Health};
use super::flags::Flags;
use super::plugins::{KeyManagerKind, NodeAttestorKind, PluginError};
use crate::attest::workload::UnixAttestor;
use crate::limits::{SVID_CACHE_MAX, SYNC_INTERVAL};
use crate::logging::{LogFormat, LogSettings};
use crate::serve::WorkloadPolicy;
use crate::store::StoreLimits;
use crate::upstream::{AddressError, ServerAddress};

const AVAILABILITY_TARGET_MIN: Duration = Duration::from_secs(24 * 3600);

/// How the first trust in the servers comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// Only the server's name is checked at the first contact.
    Insecure,
    /// From a file.
    File(PathBuf, BundleFormat),
    /// From a web server.
    Url {
        /// `https://…`, or `http://…` through a socket.
        url: String,
        /// What it serves.
        format: BundleFormat,
        /// A Unix socket to go through.
        unix_socket: Option<PathBuf>,
    },
}

/// What a trust bundle looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BundleFormat {
    /// Certificates in PEM.
    #[default]
    Pem,
    /// A SPIFFE bundle document.
    Spiffe,
}

/// The HTTP health listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// `host:port`.
    pub address: String,
    /// Path of the liveness check.
    pub live_path: String,
    /// Path of the readiness check.
    pub ready_path: String,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent's trust domain.
    pub trust_domain: TrustDomain,
    /// Where the agent keeps its files.
    pub data_dir: PathBuf,
    /// Where servers are.
    pub servers: Vec<ServerAddress>,
    /// The Workload API socket; `None` = not served.
    pub socket_path: Option<PathBuf>,
    /// The first trust.
    pub bootstrap: Bootstrap,
    /// The join token, if any.
    pub join_token: Option<String>,
    /// Where keys are kept.
    pub key_manager: KeyManagerKind,
    /// How the agent attests.
    pub node_attestor: NodeAttestorKind,
    /// How workloads are attested.
    pub unix: UnixAttestor,
    /// Time between syncs.
    pub sync_interval: Duration,
    /// How much is cached.
    pub limits: StoreLimits,
    /// Of which type workload keys are.
    pub workload_key_type: KeyType,
    /// How long servers may be away without an SVID expiring.
    pub availability_target: Option<Duration>,
    /// The operator's settings about workloads.
    pub policy: WorkloadPolicy,
    /// The HTTP health listener, if enabled.
    pub health: Option<HealthSettings>,
    /// Logging.
    pub log: LogSettings,
    /// Keys that have no effect, in words for the log.
    pub notices: Vec<String>,
    /// Old spellings that were used, in words for the log.
    pub deprecated: Vec<String>,
}

/// The configuration is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no file. The text is SPIRE's.
    #[error("could not find config file {0}: please use the -config flag")]
    NoFile(String),
    /// The file can't be read.
    #[error("unable to read configuration at \"{path}\"")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The text is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// A plugin section is wrong.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A value or a combination is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A server address is wrong.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// Reads the file that the flags name, and joins both. `lookup` knows environment variables.
pub fn load(flags: &Flags, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let path = Path::new(flags.text("config").unwrap_or("conf/agent/agent.conf"));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            return Err(ConfigError::NoFile(absolute.display().to_string()));
        }
        Err(source) => return Err(ConfigError::Read { path: path.display().to_string(), source }),
    };
    let text =
        if flags.is_on("expandEnv") { steeple_hcl1::expand_env(&text, lookup) } else { text };
    from_text(&text, flags)
}

fn from_text(text: &str, flags: &Flags) -> Result<Config, ConfigError> {
    let mut file = File::parse(text)?;
    merge(flags, &mut file)?;
    check(file)
}

/// Flags over file.
fn merge(flags: &Flags, file: &mut File) -> Result<(), ConfigError> {
    for (name, value) in [
        ("dataDir", &mut file.data_dir),
        ("joinToken", &mut file.join_token),
        ("joinTokenFile", &mut file.join_token_file),
        ("logFile", &mut file.log_file),
        ("logFormat", &mut file.log_format),
        ("logLevel", &mut file.log_level),
        ("serverAddress", &mut file.server_address),
        ("socketPath", &mut file.socket_path),
        ("trustDomain", &mut file.trust_domain),
        ("trustBundle", &mut file.trust_bundle_path),
        ("trustBundleUrl", &mut file.trust_bundle_url),
        ("trustBundleFormat", &mut file.trust_bundle_format),
        ("rebootstrapMode", &mut file.rebootstrap_mode),
    ] {
        if let Some(text) = flags.text(name) {
            *value = Some(text.to_owned());
        }
        // An empty text is no text.
        *value = value.take().filter(|text| !text.is_empty());
    }
    if let Some(port) = flags.text("serverPort") {
        let port = port.parse();
        file.server_port =
            Some(port.map_err(|_not_a_number| invalid("serverPort must be a number"))?);
    }
    file.log_source_location |= flags.is_on("logSourceLocation");
    file.disable_workload_api |= flags.is_on("disableWorkloadAPI");
    file.allow_unauthenticated_verifiers |= flags.is_on("allowUnauthenticatedVerifiers");
    file.insecure_bootstrap |= flags.is_on("insecureBootstrap");
    Ok(())
}

fn check(file: File) -> Result<Config, ConfigError> {
    let servers = servers(&file)?;
    let trust_domain = file.trust_domain.as_deref();
    let trust_domain = trust_domain.ok_or_else(|| invalid("trust_domain must be configured"))?;
    let trust_domain = TrustDomain::parse_name_or_id(trust_domain).map_err(|error| {
        invalid(format!("could not parse trust_domain \"{trust_domain}\": {error}"))
    })?;
    let bootstrap = bootstrap(&file)?;
    file.plugins.check_counts()?;
    let missing = |kind| invalid(format!("no {kind} configured"));
    check_admin_socket(&file)?;
    let key_manager = file.plugins.key_managers.first().cloned();
    let node_attestor = file.plugins.node_attestors.first().cloned();
    let unix = file.plugins.workload_attestors.first().cloned();
    Ok(Config {
        trust_domain,
        servers,
        bootstrap,
        data_dir: file.data_dir.as_deref().unwrap_or(".").into(),
        socket_path: (!file.disable_workload_api).then(|| socket_path(&file).into()),
        join_token: join_token(&file)?,
        key_manager: key_manager.ok_or_else(|| missing("KeyManager"))?,
        node_attestor: node_attestor.ok_or_else(|| missing("NodeAttestor"))?,
        unix: unix.ok_or_else(|| missing("WorkloadAttestor"))?,
        sync_interval: file.sync_interval.filter(|d| !d.is_zero()).unwrap_or(SYNC_INTERVAL),
        limits: StoreLimits {
            x509_svids: cache_size("x509_svid_cache_max_size", file.x509_svid_cache_max_size)?,
            jwt_svids: cache_size("jwt_svid_cache_max_size", file.jwt_svid_cache_max_size)?,
        },
        workload_key_type: key_type(file.workload_key_type.as_deref())?,
        availability_target: availability_target(file.availability_target)?,
        policy: WorkloadPolicy {
            allow_unauthenticated_verifiers: file.allow_unauthenticated_verifiers,
            allowed_foreign_jwt_claims: file.allowed_foreign_jwt_claims,
            log_selectors: file.log_selectors,
        },
        health: file.health.filter(|health| health.listener_enabled).map(health),
        log: log(
            file.log_level.as_deref(),
            file.log_format.as_deref(),
            file.log_file,
            file.log_source_location,
        )?,
        notices: file.notices,
        deprecated: file.deprecated,
    })
}

/// The admin API is not served, but a file that SPIRE refuses must not be called valid.
fn check_admin_socket(file: &File) -> Result<(), ConfigError> {
    let Some(admin) = file.admin_socket_path.as_deref().filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let admin = lexically_absolute(Path::new(admin));
    let public = lexically_absolute(Path::new(socket_path(file)));
    // SPIRE compares texts: the folder itself passes, and so does everything below the root.
    let folder = public.parent().filter(|folder| folder.parent().is_some());
    let is_inside = folder.is_some_and(|folder| admin != folder && admin.starts_with(folder));
    if is_inside && !file.disable_workload_api {
        return Err(invalid(
            "admin socket cannot be in the same directory or a subdirectory as that containing the \
             Workload API socket",
        ));
    }
    Ok(())
}

/// The path from the root on, without `.` and `..`; links are not looked at.
fn lexically_absolute(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        if part == Component::ParentDir {
            clean.pop();
        } else {
            clean.push(part);
        }
    }
    clean
}

fn socket_path(file: &File) -> &str {
    file.socket_path.as_deref().unwrap_or("/tmp/spire-agent/public/api.sock")
}

fn servers(file: &File) -> Result<Vec<ServerAddress>, ConfigError> {
    let address = file.server_address.as_deref();
    if !file.server_addresses.is_empty() {
        if address.is_some() {
            return Err(invalid(
                "only one of server_address and server_addresses can be configured",
            ));
        }
        let parsed = file.server_addresses.iter().map(|text| ServerAddress::parse(text));
        return Ok(parsed.collect::<Result<_, _>>()?);
    }
    let address = address.ok_or_else(|| invalid("server_address must be configured"))?;
    let port = file.server_port.filter(|port| *port != 0);
    let port = port.ok_or_else(|| invalid("server_port must be configured"))?;
    let port = u16::try_from(port).map_err(|_out_of_range| {
        invalid(format!("server_port {port} is not a port; use a number from 1 to 65535"))
    })?;
    Ok(vec![ServerAddress::new(address, port)?])
}

fn bootstrap(file: &File) -> Result<Bootstrap, ConfigError> {
    match file.rebootstrap_mode.as_deref() {
        None | Some("never") => {}
        Some(mode @ ("auto" | "always")) => {
            return Err(invalid(format!(
                "rebootstrap_mode \"{mode}\" is not supported by this agent; use \"never\""
            )));
        }
        Some(mode) => return Err(invalid(format!("unknown rebootstrap mode specified: {mode}"))),
    }
    let format = match file.trust_bundle_format.as_deref() {
        None | Some("pem") => BundleFormat::Pem,
        Some("spiffe") => BundleFormat::Spiffe,
        Some(format) => {
            return Err(invalid(format!(
                "invalid value for trust_bundle_format, expected \"pem\" or \"spiffe\", got {format:?}"
            )));
        }
    };
    let socket = file.trust_bundle_unix_socket.as_deref().filter(|path| !path.is_empty());
    match (file.insecure_bootstrap, &file.trust_bundle_path, &file.trust_bundle_url) {
        (true, None, None) => Ok(Bootstrap::Insecure),
        (false, Some(path), None) => Ok(Bootstrap::File(path.into(), format)),
        (false, None, Some(url)) => {
            check_bundle_url(url, socket.is_some())?;
            Ok(Bootstrap::Url { url: url.clone(), format, unix_socket: socket.map(PathBuf::from) })
        }
        (false, None, None) => Err(invalid(
            "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be \
             configured unless insecure_bootstrap is set",
        )),
        (true, Some(_), _) | (true, _, Some(_)) | (false, Some(_), Some(_)) => Err(invalid(
            "only one of insecure_bootstrap, trust_bundle_path, and trust_bundle_url can be \
             configured",
        )),
    }
}

fn check_bundle_url(url: &str, through_socket: bool) -> Result<(), ConfigError> {
    let scheme = if through_socket { "http://" } else { "https://" };
    if url.starts_with(scheme) && url.parse::<http::Uri>().is_ok() {
        return Ok(());
    }
    let why = if through_socket { " when used with trust_bundle_unix_socket" } else { "" };
    Err(invalid(format!("trust bundle URL must start with {scheme}{why}")))
}

fn join_token(file: &File) -> Result<Option<String>, ConfigError> {
    let Some(path) = &file.join_token_file else { return Ok(file.join_token.clone()) };
    if file.join_token.is_some() {
        return Err(invalid(
            "only one of join_token or join_token_file can be specified, not both",
        ));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| invalid(format!("unable to read join token file \"{path}\": {error}")))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(invalid("join token file is empty"));
    }
    Ok(Some(token.to_owned()))
}

fn cache_size(key: &str, value: Option<i64>) -> Result<usize, ConfigError> {
    match usize::try_from(value.unwrap_or(0)) {
        Ok(0) => Ok(SVID_CACHE_MAX),
        Ok(size) => Ok(size),
        Err(_negative) => Err(invalid(format!("{key} should not be negative"))),
    }
}

fn key_type(name: Option<&str>) -> Result<KeyType, ConfigError> {
    let unsupported = |name| {
        invalid(format!(
            "workload_x509_svid_key_type \"{name}\" is unknown; must be one of [rsa-2048, ec-p256, ec-p384]"
        ))
    };
    match name.filter(|name| !name.is_empty()) {
        None => Ok(KeyType::EcP256),
        Some(name) => match name.parse() {
            Ok(KeyType::EcP521 | KeyType::Rsa4096) | Err(_) => Err(unsupported(name)),
            Ok(kind @ (KeyType::EcP256 | KeyType::EcP384 | KeyType::Rsa2048)) => Ok(kind),
        },
    }
}

fn availability_target(target: Option<Duration>) -> Result<Option<Duration>, ConfigError> {
    match target.filter(|target| !target.is_zero()) {
        Some(target) if target < AVAILABILITY_TARGET_MIN => {
            Err(invalid("availability_target must be at least 24h0m0s"))
        }
        target => Ok(target),
    }
}

fn health(health: Health) -> HealthSettings {
    let or = |text: Option<String>, default: &str| {
        text.filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
    };
    let (host, port) = (or(health.bind_address, "localhost"), or(health.bind_port, "80"));
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    HealthSettings {
        address: format!("{host}:{port}"),
        live_path: or(health.live_path, "/live"),
        ready_path: or(health.ready_path, "/ready"),
    }
}

fn log(
    level: Option<&str>,
    format: Option<&str>,
    file: Option<String>,
    source_location: bool,
) -> Result<LogSettings, ConfigError> {
    let level = match level.unwrap_or("info").to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => Level::ERROR,
        "warn" | "warning" => Level::WARN,
        "info" => Level::INFO,
        "debug" => Level::DEBUG,
        "trace" => Level::TRACE,
        other => {
            return Err(invalid(format!(
                "could not start logger: not a valid logrus Level: {other:?}"
            )));
        }
    };
    let format = match format.unwrap_or("text").to_ascii_lowercase().as_str() {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => {
            return Err(invalid(format!(
                "could not start logger: unknown logger format: {other:?}"
            )));
        }
    };
    Ok(LogSettings { level, format, file: file.map(PathBuf::from), source_location })
}

fn invalid(text: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(text.into())
}

#[cfg(test)]
#[path = "checked_tests.rs"]
mod tests;
