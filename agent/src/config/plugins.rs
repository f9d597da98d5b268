//! The `plugins` section of `agent.conf`.
//!
//! Owns which built-ins exist, how many of each type there must be, and their settings. External
//! programs are not supported.

use std::path::PathBuf;

use steeple_hcl1::decode::{Block, DecodeError, Label};

use crate::attest::node::X509Pop;
use crate::attest::workload::UnixAttestor;

/// A plugin section is wrong. Texts are SPIRE's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// A value of the wrong type.
    #[error("unable to decode configuration {0}")]
    Decode(#[from] DecodeError),
    /// There is no such type.
    #[error("unsupported plugin type \"{0}\"")]
    UnknownType(String),
    /// There is no such built-in.
    #[error("failed to load plugin \"{name}\": no built-in plugin \"{name}\" for type \"{kind}\"")]
    UnknownName {
        /// The type.
        kind: String,
        /// The name.
        name: String,
    },
    /// SPIRE has it, this agent doesn't.
    #[error("failed to load plugin \"{name}\": {kind} \"{name}\" is not supported by this agent")]
    Unsupported {
        /// The type.
        kind: String,
        /// The name.
        name: String,
    },
    /// An external program.
    #[error("failed to load plugin \"{name}\": external plugins are not supported by this agent")]
    External {
        /// The name.
        name: String,
    },
    /// Twice the same.
    #[error("plugin \"{kind}\"/\"{name}\" declared more than once")]
    Twice {
        /// The type.
        kind: String,
        /// The name.
        name: String,
    },
    /// The wrong number of a type.
    #[error("plugin type \"{kind}\" constraint not satisfied: expected {wanted} but got {got}")]
    Count {
        /// The type.
        kind: &'static str,
        /// How many there must be.
        wanted: &'static str,
        /// How many there are.
        got: usize,
    },
    /// A setting is missing or unknown.
    #[error("failed to configure plugin \"{name}\": {text}")]
    Setting {
        /// The plugin.
        name: String,
        /// What is wrong.
        text: String,
    },
}

/// Where the agent's keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyManagerKind {
    /// In memory.
    Memory,
    /// In `keys.json` in this folder.
    Disk(PathBuf),
}

/// How the agent attests.
#[derive(Clone, Debug)]
pub enum NodeAttestorKind {
    /// By a token.
    JoinToken,
    /// By a certificate.
    X509Pop(Box<X509Pop>),
}

/// The configured plugins.
#[derive(Clone, Debug, Default)]
pub struct Plugins {
    /// Exactly one.
    pub key_managers: Vec<KeyManagerKind>,
    /// Exactly one.
    pub node_attestors: Vec<NodeAttestorKind>,
    /// At least one; at most one is `unix`, the only one so far.
    pub workload_attestors: Vec<UnixAttestor>,
}

impl Plugins {
    /// Reads the section.
    pub(super) fn read(block: &Block<'_>) -> Result<Self, PluginError> {
        let mut plugins = Self::default();
        let mut seen: Vec<(String, String)> = Vec::new();
        for (path, section) in block.paths(2)? {
            let [kind, name] = path.as_slice() else { continue };
            let (kind, name) = (kind.text.clone(), name.text.clone());
            if seen.contains(&(kind.clone(), name.clone())) {
                return Err(PluginError::Twice { kind, name });
            }
            seen.push((kind.clone(), name.clone()));
            plugins.add(&kind, &name, &section)?;
        }
        Ok(plugins)
    }

    /// How many there must be.
    pub(super) fn check_counts(&self) -> Result<(), PluginError> {
        let exactly_one = "exactly 1";
        for (kind, wanted, got, good) in [
            ("KeyManager", exactly_one, self.key_managers.len(), self.key_managers.len() == 1),
            (
                "NodeAttestor",
                exactly_one,
                self.node_attestors.len(),
                self.node_attestors.len() == 1,
            ),
            (
                "WorkloadAttestor",
                "at least 1",
                self.workload_attestors.len(),
                !self.workload_attestors.is_empty(),
            ),
        ] {
            if !good {
                return Err(PluginError::Count { kind, wanted, got });
            }
        }
        Ok(())
    }

    fn add(&mut self, kind: &str, name: &str, section: &Block<'_>) -> Result<(), PluginError> {
        let is_enabled = section.bool("enabled")?.unwrap_or(true);
        if !["KeyManager", "NodeAttestor", "WorkloadAttestor", "SVIDStore"].contains(&kind) {
            return Err(PluginError::UnknownType(kind.to_owned()));
        }
        if !is_enabled {
            return Ok(());
        }
        if section.string("plugin_cmd")?.is_some_and(|command| !command.is_empty()) {
            return Err(PluginError::External { name: name.to_owned() });
        }
        for key in ["plugin_args", "plugin_checksum"] {
            section.has(key);
        }
        if section.has("plugin_data_file") {
            let text =
                "plugin_data_file is not supported by this agent; use plugin_data".to_owned();
            return Err(PluginError::Setting { name: name.to_owned(), text });
        }
        // JSON charts write `"plugin_data": null`, which the parser leaves out.
        let data = section.block("plugin_data")?;
        refuse_unknown(name, section)?;
        let data = data.as_ref();
        match (kind, name) {
            ("KeyManager", "memory") => {
                refuse_data(name, data)?;
                self.key_managers.push(KeyManagerKind::Memory);
            }
            ("KeyManager", "disk") => {
                let directory = required(name, data, "directory")?;
                self.key_managers.push(KeyManagerKind::Disk(directory.into()));
                data.map_or(Ok(()), |data| refuse_unknown(name, data))?;
            }
            ("NodeAttestor", "join_token") => {
                refuse_data(name, data)?;
                self.node_attestors.push(NodeAttestorKind::JoinToken);
            }
            ("NodeAttestor", "x509pop") => {
                self.node_attestors.push(NodeAttestorKind::X509Pop(Box::new(x509pop(data)?)));
            }
            ("WorkloadAttestor", "unix") => self.workload_attestors.push(unix(data)?),
            _ => return Err(not_built_in(kind, name)),
        }
        Ok(())
    }
}

fn not_built_in(kind: &str, name: &str) -> PluginError {
    const OF_SPIRE: [&str; 17] = [
        "aws_iid",
        "azure_imds",
        "azure_msi",
        "gcp_iit",
        "http_challenge",
        "k8s_psat",
        "k8s_sat",
        "sshpop",
        "tpm_devid",
        "docker",
        "k8s",
        "slurm",
        "systemd",
        "windows",
        "aws_secretsmanager",
        "gcp_secretmanager",
        "kubernetes",
    ];
    let (kind, is_known) = (kind.to_owned(), OF_SPIRE.contains(&name));
    let name = name.to_owned();
    if is_known {
        PluginError::Unsupported { kind, name }
    } else {
        PluginError::UnknownName { kind, name }
    }
}

fn x509pop(data: Option<&Block<'_>>) -> Result<X509Pop, PluginError> {
    const NAME: &str = "x509pop";
    let method = X509Pop {
        private_key_path: required(NAME, data, "private_key_path")?.into(),
        certificate_path: required(NAME, data, "certificate_path")?.into(),
        intermediates_path: optional(data, "intermediates_path")?.map(PathBuf::from),
    };
    if optional(data, "spiffe_endpoint_socket")?.is_some() {
        let text = "spiffe_endpoint_socket is not supported by this agent".to_owned();
        return Err(PluginError::Setting { name: NAME.to_owned(), text });
    }
    data.map_or(Ok(()), |data| refuse_unknown(NAME, data))?;
    Ok(method)
}

fn unix(data: Option<&Block<'_>>) -> Result<UnixAttestor, PluginError> {
    let mut attestor = UnixAttestor {
        discover_workload_path: false,
        workload_size_limit: 0,
        proc_root: std::env::var_os("HOST_PROC").map_or_else(|| "/proc".into(), PathBuf::from),
    };
    if let Some(data) = data {
        attestor.discover_workload_path = data.bool("discover_workload_path")?.unwrap_or(false);
        attestor.workload_size_limit = data.int("workload_size_limit")?.unwrap_or(0);
        refuse_unknown("unix", data)?;
    }
    Ok(attestor)
}

fn optional(data: Option<&Block<'_>>, key: &str) -> Result<Option<String>, PluginError> {
    let text = match data {
        Some(data) => data.string(key)?,
        None => None,
    };
    Ok(text.filter(|text| !text.is_empty()))
}

fn required(name: &str, data: Option<&Block<'_>>, key: &str) -> Result<String, PluginError> {
    let missing =
        || PluginError::Setting { name: name.to_owned(), text: format!("{key} is required") };
    optional(data, key)?.ok_or_else(missing)
}

/// A plugin without settings fails when it is given any.
fn refuse_data(name: &str, data: Option<&Block<'_>>) -> Result<(), PluginError> {
    if data.is_some_and(|data| !data.is_empty()) {
        let text = "no supported configuration interface found".to_owned();
        return Err(PluginError::Setting { name: name.to_owned(), text });
    }
    Ok(())
}

fn refuse_unknown(name: &str, block: &Block<'_>) -> Result<(), PluginError> {
    let place = |label: &Label| format!("{} (at {})", label.text, label.pos);
    let unknown: Vec<String> = block.unknown_keys().iter().map(place).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let text = format!("unknown configurations detected: {}", unknown.join(","));
    Err(PluginError::Setting { name: name.to_owned(), text })
}
