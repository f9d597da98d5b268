//! The flags of `run` and `validate`, in Go's flag syntax (`spire-cli` 1 and 4.18).
//!
//! Owns SPIRE's flags and three of ours for one-off starts. A flag overrides the file.

use std::path::PathBuf;

/// Where the configuration is unless a flag says otherwise.
const DEFAULT_CONFIG: &str = "conf/server/server.conf";

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFlags {
    /// `-config`.
    pub config: PathBuf,
    /// `-expandEnv`.
    pub expand_env: bool,
    /// `-bindAddress`.
    pub bind_address: Option<String>,
    /// `-serverPort`.
    pub server_port: Option<u16>,
    /// `-dataDir`.
    pub data_dir: Option<String>,
    /// `-trustDomain`.
    pub trust_domain: Option<String>,
    /// `-socketPath`.
    pub socket_path: Option<String>,
    /// `-logFile`.
    pub log_file: Option<String>,
    /// `-logFormat`.
    pub log_format: Option<String>,
    /// `-logLevel`.
    pub log_level: Option<String>,
    /// `-logSourceLocation`.
    pub log_source_location: bool,
    /// `-clusterAdvertiseAddress`: overrides `cluster.advertise_address`.
    pub cluster_advertise_address: Option<String>,
    /// `-clusterJoin`, repeatable: more addresses to look for the cluster at.
    pub cluster_join: Vec<String>,
    /// `-hold`: only the admin socket is opened.
    pub hold: bool,
}

impl Default for RunFlags {
    fn default() -> Self {
        Self {
            config: DEFAULT_CONFIG.into(),
            expand_env: false,
            bind_address: None,
            server_port: None,
            data_dir: None,
            trust_domain: None,
            socket_path: None,
            log_file: None,
            log_format: None,
            log_level: None,
            log_source_location: false,
            cluster_advertise_address: None,
            cluster_join: Vec::new(),
            hold: false,
        }
    }
}

/// Why a command line is refused. Texts are those of Go's flag package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// `-h` or `-help`: the usage is wanted, not an error.
    #[error("help requested")]
    Help,
    /// No such flag.
    #[error("flag provided but not defined: -{0}")]
    NotDefined(String),
    /// The last word is a flag that wants a value.
    #[error("flag needs an argument: -{0}")]
    NeedsArgument(String),
    /// A word of dashes that names nothing.
    #[error("bad flag syntax: {0}")]
    BadSyntax(String),
    /// A value that the flag does not take.
    #[error("invalid value {value:?} for flag -{flag}: {reason}")]
    InvalidValue {
        /// The flag.
        flag: String,
        /// What was typed.
        value: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A value that is no truth value.
    #[error("invalid boolean value {value:?} for -{flag}: parse error")]
    InvalidBoolean {
        /// The flag.
        flag: String,
        /// What was typed.
        value: String,
    },
}

/// Name, kind of value, and explanation of each flag, in the order of the usage text.
const FLAGS: &[(&str, &str, &str)] = &[
    ("bindAddress", "string", "IP address or DNS name of the SPIRE server"),
    ("clusterAdvertiseAddress", "string", "How other members of the cluster reach this one"),
    ("clusterJoin", "string", "Where to look for a cluster to join; can be used more than once"),
    ("config", "string", "Path to a SPIRE config file (default \"conf/server/server.conf\")"),
    ("dataDir", "string", "Directory to store runtime data to"),
    ("expandEnv", "", "Expand environment variables in SPIRE config file"),
    ("hold", "", "Open the admin socket only, for restore and recover"),
    ("logFile", "string", "File to write logs to"),
    ("logFormat", "string", "'text' or 'json'"),
    ("logLevel", "string", "'debug', 'info', 'warn', or 'error'"),
    ("logSourceLocation", "", "Include source file, line number and function name in log lines"),
    ("serverPort", "int", "Port number of the SPIRE server"),
    ("socketPath", "string", "Path to bind the SPIRE Server API socket to"),
    ("trustDomain", "string", "The trust domain that this server belongs to"),
];

impl RunFlags {
    /// Reads the words after the command. Reading stops at the first word that is no flag.
    ///
    /// # Errors
    ///
    /// [`FlagError`].
    pub fn parse(words: &[String]) -> Result<Self, FlagError> {
        let mut flags = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(body) = word.strip_prefix('-').filter(|_| word != "--") else { break };
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.is_empty() || body.starts_with(['-', '=']) {
                return Err(FlagError::BadSyntax(word.clone()));
            }
            let (name, attached) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            let known = FLAGS.iter().find(|(known, ..)| *known == name);
            let Some((name, kind, _)) = known else {
                let help = matches!(name, "h" | "help");
                return Err(if help {
                    FlagError::Help
                } else {
                    FlagError::NotDefined(name.to_owned())
                });
            };
            let value = match attached {
                Some(value) => value,
                None if kind.is_empty() => "true",
                None => words.next().ok_or_else(|| FlagError::NeedsArgument((*name).to_owned()))?,
            };
            flags.set(name, value)?;
        }
        Ok(flags)
    }

    /// The usage text of a command (`run`, `validate`) in Go's layout.
    pub fn usage(command: &str) -> String {
        let mut text = format!("Usage of {command}:\n");
        for (name, kind, explanation) in FLAGS {
            let gap = if kind.is_empty() { "" } else { " " };
            text.push_str(&format!("  -{name}{gap}{kind}\n    \t{explanation}\n"));
        }
        text
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), FlagError> {
        let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
        match name {
            "config" => self.config = value.into(),
            "expandEnv" => self.expand_env = boolean(name, value)?,
            "bindAddress" => self.bind_address = text(),
            "serverPort" => self.server_port = port(name, value)?,
            "dataDir" => self.data_dir = text(),
            "trustDomain" => self.trust_domain = text(),
            "socketPath" => self.socket_path = text(),
            "logFile" => self.log_file = text(),
            "logFormat" => self.log_format = text(),
            "logLevel" => self.log_level = text(),
            "logSourceLocation" => self.log_source_location = boolean(name, value)?,
            "clusterAdvertiseAddress" => self.cluster_advertise_address = text(),
            "clusterJoin" => self.cluster_join.extend(text()),
            "hold" => self.hold = boolean(name, value)?,
            _ => return Err(FlagError::NotDefined(name.to_owned())),
        }
        Ok(())
    }
}

fn boolean(flag: &str, value: &str) -> Result<bool, FlagError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(FlagError::InvalidBoolean { flag: flag.to_owned(), value: value.to_owned() }),
    }
}

fn port(flag: &str, value: &str) -> Result<Option<u16>, FlagError> {
    let invalid =
        |reason| FlagError::InvalidValue { flag: flag.to_owned(), value: value.to_owned(), reason };
    let number: i64 = value.parse().map_err(|_not_a_number| invalid("parse error"))?;
    let port = u16::try_from(number).map_err(|_too_large| invalid("value out of range"))?;
    Ok(Some(port).filter(|port| *port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<RunFlags, FlagError> {
        RunFlags::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let expected = RunFlags {
            config: "a.conf".into(),
            expand_env: true,
            server_port: Some(9081),
            log_level: Some("debug".into()),
            cluster_join: vec!["a:1".into(), "b:2".into()],
            ..RunFlags::default()
        };
        let words = [
            "-config",
            "a.conf",
            "--expandEnv",
            "-serverPort=9081",
            "--logLevel",
            "debug",
            "-clusterJoin",
            "a:1",
            "-clusterJoin=b:2",
        ];
        assert_eq!(parse(&words), Ok(expected.clone()));
        let cut = [&words[..], &["rest", "-nonsense"]].concat();
        assert_eq!(parse(&cut), Ok(expected), "reading stops at the first word that is no flag");
        assert_eq!(parse(&["-hold=false"]), Ok(RunFlags::default()));
    }

    #[test]
    fn bad_flags_get_gos_texts() {
        let table: [(&[&str], &str); 6] = [
            (&["-nope"], "flag provided but not defined: -nope"),
            (&["-config"], "flag needs an argument: -config"),
            (&["-serverPort", "x"], "invalid value \"x\" for flag -serverPort: parse error"),
            (
                &["-serverPort=70000"],
                "invalid value \"70000\" for flag -serverPort: value out of range",
            ),
            (&["-hold=maybe"], "invalid boolean value \"maybe\" for -hold: parse error"),
            (&["---x"], "bad flag syntax: ---x"),
        ];
        for (words, text) in table {
            assert_eq!(parse(words).map_err(|error| error.to_string()), Err(text.to_owned()));
        }
        assert_eq!(parse(&["-h"]), Err(FlagError::Help));
    }

    #[test]
    fn the_usage_names_every_flag() {
        let usage = RunFlags::usage("run");
        assert!(usage.starts_with("Usage of run:\n"));
        for (name, ..) in FLAGS {
            assert!(usage.contains(&format!("  -{name}")), "{name}");
        }
    }
}
