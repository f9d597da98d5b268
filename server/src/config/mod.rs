//! What the operator said: command line and `server.conf`, checked once.
//!
//! Owns the syntax of SPIRE's server configuration (HCL 1 and JSON) with the old spellings that
//! walkthroughs still use, the `cluster { }` block, and the rule that nothing is ignored in silence:
//! what is unknown is an error with its place, what is known and unused is a notice. Opens no file
//! but the configuration itself.

#[cfg(feature = "kubernetes")]
mod cert_manager;
mod cluster;
mod error;
mod federation;
mod flags;
mod load;
mod old_spellings;
mod plugins;
mod section;
mod server;
mod settings_hash;
mod telemetry;
mod vault;

pub(crate) use cluster::hostname;
pub use cluster::{ClusterConfig, KeySource};
pub use error::ConfigError;
pub use federation::{BundleEndpointConfig, EndpointProfile};
pub use flags::{FlagError, RunFlags};
pub use load::{Config, Notice, load, load_text};
pub use plugins::{AttestorConfig, PluginsConfig, UpstreamConfig};
pub use server::{LogConfig, LogFormat, LogLevel, ServerConfig};
pub use settings_hash::settings_hash;
pub use telemetry::{HealthConfig, PrometheusConfig, TelemetryConfig};
