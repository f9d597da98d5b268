//! `agent.conf` and the flags of `run`.
//!
//! `flags` reads the command line, `file` the text, `plugins` the plugin sections; `checked` joins
//! them into a [`Config`] in which everything is valid. Knows what each key means and its default;
//! nothing here opens a socket or a data folder.

mod checked;
mod file;
mod flags;
mod plugins;

pub use checked::{Bootstrap, BundleFormat, Config, ConfigError, HealthSettings, load};
pub use flags::{FlagError, Flags};
pub use plugins::{KeyManagerKind, NodeAttestorKind, Plugins};
