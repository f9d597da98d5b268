//! `telemetry { }` and `health_checks { }` (`spire-config` 4.1 and 4.2).

use super::error::{ConfigError, UnknownKey};
use super::load::Notice;
use super::section::Section;

/// The HTTP health listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Where it binds.
    pub bind_address: String,
    /// Its port; SPIRE writes it as a text.
    pub bind_port: u16,
    /// Path of the readiness probe.
    pub ready_path: String,
    /// Path of the liveness probe.
    pub live_path: String,
}

/// What is measured and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// The Prometheus listener.
    pub prometheus: Option<PrometheusConfig>,
    /// Whether metrics carry `trust_domain`.
    pub trust_domain_label: bool,
    /// Whether metrics carry `host`.
    pub hostname_label: bool,
}

/// The Prometheus listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusConfig {
    /// Where it binds.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Reads `health_checks { }`; `None` unless its listener is enabled.
pub(super) fn read_health(
    section: Option<Section<'_>>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<Option<HealthConfig>, ConfigError> {
    let Some(section) = section else { return Ok(None) };
    let enabled = section.bool("listener_enabled")?.unwrap_or(false);
    let config = HealthConfig {
        bind_address: section.string("bind_address")?.unwrap_or("localhost".into()),
        bind_port: section.port("bind_port")?.unwrap_or(80),
        ready_path: path(&section, "ready_path", "/ready")?,
        live_path: path(&section, "live_path", "/live")?,
    };
    section.collect_unknown(unknown);
    Ok(enabled.then_some(config))
}

fn path(section: &Section<'_>, key: &str, default: &str) -> Result<String, ConfigError> {
    let path = section.string(key)?.unwrap_or(default.to_owned());
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(section.refuse(key, format!("{path:?} is no path; begin it with a slash")))
}

/// Reads `telemetry { }`.
pub(super) fn read(
    section: Option<Section<'_>>,
    notices: &mut Vec<Notice>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<TelemetryConfig, ConfigError> {
    let absent = TelemetryConfig { hostname_label: true, ..TelemetryConfig::default() };
    let Some(section) = section else { return Ok(absent) };
    for sink in ["DogStatsd", "Statsd", "M3", "InMem"] {
        if section.has(sink) {
            let text = format!("telemetry.{sink} is not supported by this version; use Prometheus");
            notices.push(Notice::warning(text));
        }
    }
    const FILTERS: [&str; 5] =
        ["MetricPrefix", "AllowedPrefixes", "BlockedPrefixes", "AllowedLabels", "BlockedLabels"];
    for key in FILTERS {
        if section.has(key) {
            let text = format!("telemetry.{key} is not supported by this version and unused");
            notices.push(Notice::warning(text));
        }
    }
    Ok(TelemetryConfig {
        prometheus: prometheus(&section, notices, unknown)?,
        trust_domain_label: section.bool("EnableTrustDomainLabel")?.unwrap_or(false),
        hostname_label: section.bool("EnableHostnameLabel")?.unwrap_or(true),
    })
}

fn prometheus(
    section: &Section<'_>,
    notices: &mut Vec<Notice>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<Option<PrometheusConfig>, ConfigError> {
    let Some(section) = section.section("Prometheus")? else { return Ok(None) };
    let host = section.string("host")?.unwrap_or("localhost".into());
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    if host != "localhost" && !address.is_ok_and(|address| address.is_loopback()) {
        notices.push(Notice::warning(
            "telemetry is served beyond this host: metrics are neither encrypted nor authenticated",
        ));
    }
    if section.has("tls") {
        let text = "TLS for metrics is not supported by this version; drop the block or scrape through a proxy";
        return Err(section.refuse("tls", text));
    }
    let port = section.port("port")?;
    let port = port.ok_or_else(|| section.refuse("port", "a port is required"))?;
    section.collect_unknown(unknown);
    Ok(Some(PrometheusConfig { host, port }))
}
