//! Why a configuration is refused: with the place in the file and, where we know it, the fix.

use std::path::PathBuf;

use steeple_hcl1::decode::DecodeError;
use steeple_hcl1::{ParseError, Pos};

/// A configuration that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("could not find config file {}: please use the -config flag", .0.display())]
    NoFile(PathBuf),
    /// The file cannot be read.
    #[error("unable to read configuration at {:?}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is neither HCL nor JSON.
    #[error("unable to decode configuration: {0}")]
    Parse(#[from] ParseError),
    /// A required section or key is missing, or two contradict each other.
    #[error("{0}")]
    Missing(String),
    /// A value is not what its key takes.
    #[error("at {line}:{column}: {key}: {message}")]
    Value {
        /// Line, from 1.
        line: u32,
        /// Column, from 1.
        column: u32,
        /// The key with its section, for instance `server.bind_port`.
        key: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// Keys that no version knows.
    #[error("unknown configuration detected: {}", list(.0))]
    Unknown(Vec<UnknownKey>),
}

/// A key that is not known in its section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// The section, for instance `server`; `top-level` for none.
    pub section: String,
    /// The key as written.
    pub key: String,
    /// Where it stands.
    pub pos: Pos,
}

impl ConfigError {
    /// A value that is refused.
    pub(super) fn value(pos: Pos, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Value { line: pos.line, column: pos.column, key: key.into(), message: message.into() }
    }

    /// A value of the wrong type in a section.
    pub(super) fn decode(section: &str, error: DecodeError) -> Self {
        Self::Value {
            line: error.line,
            column: error.column,
            key: format!("{section}.{}", error.key),
            message: error.message,
        }
    }
}

fn list(keys: &[UnknownKey]) -> String {
    let texts: Vec<String> = keys
        .iter()
        .map(|unknown| {
            format!("{:?} in section {} at {}", unknown.key, unknown.section, unknown.pos)
        })
        .collect();
    texts.join(", ")
}
