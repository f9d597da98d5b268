//! The flags of `spire-agent run` and `validate`, in the syntax of Go's `flag` package.
//!
//! One or two dashes, `-name value` or `-name=value`, booleans without a separate value, parsing stops
//! at the first word that is no flag. A flag that is not given leaves the file's value.

use std::collections::BTreeMap;

/// Flags that take a value.
const TEXT: [&str; 19] = [
    "config",
    "dataDir",
    "joinToken",
    "joinTokenFile",
    "logFile",
    "logFormat",
    "logLevel",
    "serverAddress",
    "serverPort",
    "socketPath",
    "trustDomain",
    "trustBundle",
    "trustBundleUrl",
    "trustBundleFormat",
    "rebootstrapMode",
    "rebootstrapDelay",
    // Accepted for scripts of Windows agents; means nothing here.
    "namedPipeName",
    "adminNamedPipeName",
    "instance",
];

/// Flags that are on or off.
const SWITCHES: [&str; 6] = [
    "logSourceLocation",
    "disableWorkloadAPI",
    "disableSDSAPI",
    "allowUnauthenticatedVerifiers",
    "insecureBootstrap",
    "expandEnv",
];

/// The command line is wrong. Texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// There is no such flag.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// The flag's value is missing.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// The value is no truth value.
    #[error("invalid boolean value \"{value}\" for -{name}: parse error")]
    BadSwitch {
        /// The flag.
        name: String,
        /// What was given.
        value: String,
    },
    /// Help was asked for.
    #[error("flag: help requested")]
    Help,
}

/// The flags that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    texts: BTreeMap<String, String>,
    switches: BTreeMap<String, bool>,
}

impl Flags {
    /// Reads the words after the command.
    pub fn parse(words: &[String]) -> Result<Self, FlagError> {
        let mut flags = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let bare = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let Some(bare) = bare.filter(|bare| !bare.is_empty()) else { break };
            let (name, value) = match bare.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (bare, None),
            };
            if SWITCHES.contains(&name) {
                let on = switch(name, value.as_deref())?;
                flags.switches.insert(name.to_owned(), on);
            } else if TEXT.contains(&name) {
                let value = value.or_else(|| words.next().cloned());
                let value = value.ok_or_else(|| FlagError::NoValue(name.to_owned()))?;
                flags.texts.insert(name.to_owned(), value);
            } else if matches!(name, "h" | "help") {
                return Err(FlagError::Help);
            } else {
                return Err(FlagError::Unknown(name.to_owned()));
            }
        }
        Ok(flags)
    }

    /// A text that was given and is not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Whether a switch is on. A flag can't switch off what the file switches on (SPIRE's rule).
    pub fn is_on(&self, name: &str) -> bool {
        self.switches.get(name).copied().unwrap_or(false)
    }

    /// The names, for the usage text.
    pub fn usage(command: &str) -> String {
        let mut names: Vec<&str> = TEXT.into_iter().chain(SWITCHES).collect();
        names.sort_unstable();
        let lines = names.iter().map(|name| format!("  -{name}\n"));
        format!("Usage of {command}:\n{}", lines.collect::<String>())
    }
}

fn switch(name: &str, value: Option<&str>) -> Result<bool, FlagError> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(FlagError::BadSwitch { name: name.to_owned(), value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Flags, FlagError> {
        Flags::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_or_two_dashes_with_a_blank_or_an_equals_sign() {
        for words in [
            ["-joinToken", "x", "-insecureBootstrap"].as_slice(),
            &["--joinToken=x", "--insecureBootstrap=true"],
            &["-insecureBootstrap", "-joinToken=x"],
            &["-joinToken", "x", "-insecureBootstrap=T", "stop", "-nonsense"],
        ] {
            let flags = parse(words).expect("flags");
            assert_eq!(flags.text("joinToken"), Some("x"), "{words:?}");
            assert!(flags.is_on("insecureBootstrap"), "{words:?}");
        }
    }

    #[test]
    fn wrong_flags_are_refused_with_gos_texts() {
        for (words, want) in [
            (["-nonsense"].as_slice(), "flag provided but not defined: -nonsense"),
            (&["-jointoken", "x"], "flag provided but not defined: -jointoken"),
            (&["-joinToken"], "flag needs an argument: -joinToken"),
            (&["-expandEnv=maybe"], "invalid boolean value \"maybe\" for -expandEnv: parse error"),
        ] {
            assert_eq!(parse(words).expect_err("error").to_string(), want, "{words:?}");
        }
    }
}
