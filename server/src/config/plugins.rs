//! `plugins { }`: which node attestors and upstream authority there are, and what is said of plugins
//! that this server does not need or have.
//!
//! Owns the one decision per type and name (`cluster.md` 1): used, accepted with a notice because
//! the registry takes its place, or refused with the reason.

use std::collections::BTreeSet;
use std::path::PathBuf;

use steeple_hcl1::Pos;
use steeple_hcl1::decode::Block;

#[cfg(feature = "kubernetes")]
use super::cert_manager;
use super::error::ConfigError;
use super::load::Notice;
use super::section::Section;
use super::vault;
use crate::attest::X509PopSettings;
#[cfg(feature = "kubernetes")]
use crate::upstream::CertManagerSettings;
use crate::upstream::{DiskSettings, SpireSettings, VaultSettings};

/// What `plugins { }` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginsConfig {
    /// The node attestors, in the order of the file.
    pub attestors: Vec<AttestorConfig>,
    /// Whether there is `CredentialComposer "uniqueid"`.
    pub unique_ids: bool,
    /// Who signs X.509 authorities; `None`: they are self-signed.
    pub upstream: Option<UpstreamConfig>,
}

/// One upstream authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamConfig {
    /// `UpstreamAuthority "disk"`.
    Disk(DiskSettings),
    /// `UpstreamAuthority "spire"`.
    Spire(SpireSettings),
    /// `UpstreamAuthority "vault"`.
    Vault(Box<VaultSettings>),
    /// `UpstreamAuthority "cert-manager"`.
    #[cfg(feature = "kubernetes")]
    CertManager(CertManagerSettings),
}

impl UpstreamConfig {
    /// Its name in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Disk(_) => "disk",
            Self::Spire(_) => "spire",
            Self::Vault(_) => "vault",
            #[cfg(feature = "kubernetes")]
            Self::CertManager(_) => "cert-manager",
        }
    }
}

/// One node attestor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttestorConfig {
    /// `NodeAttestor "join_token"`.
    JoinToken,
    /// `NodeAttestor "x509pop"`.
    X509Pop(Box<X509PopSettings>),
}

impl AttestorConfig {
    /// Its name in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::JoinToken => "join_token",
            Self::X509Pop(_) => "x509pop",
        }
    }
}

/// SPIRE's built-in plugins that this version lacks.
const MISSING_ATTESTORS: &[&str] = &[
    "aws_iid",
    "azure_imds",
    "azure_msi",
    "gcp_iit",
    "http_challenge",
    "k8s_psat",
    "k8s_sat",
    "sshpop",
    "tpm_devid",
];
const MISSING_UPSTREAM_AUTHORITIES: &[&str] = &["aws_pca", "awssecret", "ejbca", "gcp_cas"];
const CLOUD_KEY_MANAGERS: &[&str] = &["aws_kms", "azure_key_vault", "gcp_kms", "hashicorp_vault"];

/// One declared plugin.
struct Plugin<'a> {
    kind: String,
    name: String,
    pos: Pos,
    section: Section<'a>,
}

/// Reads the section.
pub(super) fn read(
    section: &Section<'_>,
    notices: &mut Vec<Notice>,
) -> Result<PluginsConfig, ConfigError> {
    let mut config = PluginsConfig::default();
    let mut seen = BTreeSet::new();
    for plugin in declared(section)? {
        if !seen.insert((plugin.kind.clone(), plugin.name.clone())) {
            let text =
                format!("plugin {:?}/{:?} declared more than once", plugin.kind, plugin.name);
            return Err(plugin.refuse(text));
        }
        let enabled = plugin.section.bool("enabled")?.unwrap_or(true);
        if !enabled && is_type(&plugin.kind) {
            continue;
        }
        match plugin.kind.as_str() {
            "DataStore" => data_store(&plugin, notices)?,
            "KeyManager" => key_manager(&plugin, notices)?,
            "NodeAttestor" => config.attestors.push(node_attestor(&plugin)?),
            "CredentialComposer" => {
                credential_composer(&plugin)?;
                config.unique_ids = true;
            }
            "UpstreamAuthority" => {
                if config.upstream.replace(upstream_authority(&plugin, notices)?).is_some() {
                    return Err(plugin.refuse(
                        "plugin type \"UpstreamAuthority\" constraint not satisfied: expected at most 1 but got 2",
                    ));
                }
            }
            "Notifier" | "BundlePublisher" => notices.push(Notice::warning(format!(
                "{} {:?} is not supported by this version: the bundle is published nowhere",
                plugin.kind, plugin.name
            ))),
            "NodeResolver" if plugin.name == "noop" => {
                notices
                    .push(Notice::deprecated("NodeResolver \"noop\" does nothing: drop the block"));
            }
            _ => return Err(plugin.refuse(format!("unsupported plugin type {:?}", plugin.kind))),
        }
    }
    Ok(config)
}

fn is_type(kind: &str) -> bool {
    matches!(
        kind,
        "DataStore"
            | "KeyManager"
            | "NodeAttestor"
            | "UpstreamAuthority"
            | "Notifier"
            | "BundlePublisher"
            | "CredentialComposer"
    )
}

fn declared<'a>(section: &Section<'a>) -> Result<Vec<Plugin<'a>>, ConfigError> {
    let paths = section.block().paths(2).map_err(|error| ConfigError::decode("plugins", error))?;
    let plugin = |(path, block): (Vec<steeple_hcl1::decode::Label>, Block<'a>)| {
        let mut names = path.into_iter();
        let (kind, name) = (names.next()?, names.next()?);
        let title = format!("plugins.{}.{}", kind.text, name.text);
        Some(Plugin {
            pos: kind.pos,
            kind: kind.text,
            name: name.text,
            section: Section::new(title, block),
        })
    };
    Ok(paths.into_iter().filter_map(plugin).collect())
}

impl<'a> Plugin<'a> {
    fn refuse(&self, message: impl Into<String>) -> ConfigError {
        let key = format!("plugins.{} {:?}", self.kind, self.name);
        ConfigError::value(self.pos, key, message)
    }

    /// The plugin's own configuration.
    fn data(&self) -> Result<Section<'a>, ConfigError> {
        if self.section.string("plugin_cmd")?.is_some() {
            return Err(self.refuse("external plugins are not supported by this version"));
        }
        if self.section.has("plugin_data_file") {
            let text = if self.section.has("plugin_data") {
                "only one of [plugin_data, plugin_data_file] can be used"
            } else {
                "plugin_data_file is not supported by this version; use plugin_data"
            };
            return Err(self.refuse(text));
        }
        let title = format!("plugins.{}.{}.plugin_data", self.kind, self.name);
        // JSON writes `"plugin_data": null` for none, which is no section.
        let data = self.section.block().block("plugin_data").unwrap_or(None);
        match data {
            Some(block) => Ok(Section::new(title, block)),
            None => Ok(Section::new(title, Block::of_file(&EMPTY))),
        }
    }

    fn no_such(&self) -> ConfigError {
        self.refuse(format!(
            "failed to load plugin {0:?}: no built-in plugin {0:?} for type {1:?}",
            self.name, self.kind
        ))
    }
}

static EMPTY: steeple_hcl1::Body = steeple_hcl1::Body { items: Vec::new() };

fn data_store(plugin: &Plugin<'_>, notices: &mut Vec<Notice>) -> Result<(), ConfigError> {
    if plugin.name != "sql" {
        return Err(plugin.refuse(
            "pluggability for the DataStore is deprecated; only the built-in \"sql\" plugin is supported",
        ));
    }
    let data = plugin.data()?;
    // `database_type "aws_mysql" { … }` is a block with a label.
    let kind = match data.block().string("database_type") {
        Ok(kind) => kind.unwrap_or_default(),
        Err(_not_a_string) => {
            let labelled = data.block().labelled("database_type");
            let labelled = labelled.map_err(|error| ConfigError::decode("plugin_data", error))?;
            labelled.into_iter().next().map(|(label, _)| label.text).unwrap_or_default()
        }
    };
    match kind.as_str() {
        "sqlite3" => {
            notices.push(Notice::info(
                "DataStore \"sql\": state is kept in DATA_DIR/raft; connection_string is not used",
            ));
            Ok(())
        }
        "" => Err(plugin.refuse("database_type must be set; or drop the block, state is kept in DATA_DIR/raft")),
        other => Err(data.refuse(
            "database_type",
            format!("{other:?} is not supported: the registry is replicated by the servers themselves, without a database; drop the block, start with an empty data_dir and create the entries anew"),
        )),
    }
}

fn key_manager(plugin: &Plugin<'_>, notices: &mut Vec<Notice>) -> Result<(), ConfigError> {
    match plugin.name.as_str() {
        "sealed" => Ok(()),
        "memory" | "disk" => {
            plugin.data()?;
            notices.push(Notice::info(format!(
                "KeyManager {:?} is not used: keys are sealed in the replicated registry",
                plugin.name
            )));
            Ok(())
        }
        name if CLOUD_KEY_MANAGERS.contains(&name) => Err(plugin.refuse(
            "external signers are not supported yet; drop the block: keys are then sealed in the replicated registry",
        )),
        _ => Err(plugin.no_such()),
    }
}

fn credential_composer(plugin: &Plugin<'_>) -> Result<(), ConfigError> {
    match plugin.name.as_str() {
        "uniqueid" if !plugin.data()?.block().is_empty() => {
            Err(plugin.refuse("it has no settings: drop what is in plugin_data"))
        }
        "uniqueid" => Ok(()),
        _ => Err(plugin.no_such()),
    }
}

fn upstream_authority(
    plugin: &Plugin<'_>,
    notices: &mut Vec<Notice>,
) -> Result<UpstreamConfig, ConfigError> {
    let data = plugin.data()?;
    match plugin.name.as_str() {
        "disk" => {
            let path = |key: &str| data.string(key).map(|path| path.map(PathBuf::from));
            let (Some(cert_file_path), Some(key_file_path)) =
                (path("cert_file_path")?, path("key_file_path")?)
            else {
                return Err(plugin.refuse(
                    "'cert_file_path' and 'key_file_path' must be set and not empty",
                ));
            };
            let bundle_file_path = path("bundle_file_path")?;
            let settings = DiskSettings { cert_file_path, key_file_path, bundle_file_path };
            Ok(UpstreamConfig::Disk(settings))
        }
        "spire" => Ok(UpstreamConfig::Spire(server_above(plugin, &data)?)),
        "vault" => {
            let settings = vault::read(&data, |text| plugin.refuse(text), notices)?;
            Ok(UpstreamConfig::Vault(Box::new(settings)))
        }
        #[cfg(feature = "kubernetes")]
        "cert-manager" => {
            let settings = cert_manager::read(&data, |text| plugin.refuse(text))?;
            Ok(UpstreamConfig::CertManager(settings))
        }
        #[cfg(not(feature = "kubernetes"))]
        "cert-manager" => Err(plugin.refuse(
            "this build has no Kubernetes: build spire-server with the feature \"kubernetes\"",
        )),
        name if MISSING_UPSTREAM_AUTHORITIES.contains(&name) => Err(plugin.refuse(
            "not supported by this version, which has disk, spire, vault and cert-manager; drop the block to let the cluster be its own root",
        )),
        _ => Err(plugin.no_such()),
    }
}

fn server_above(plugin: &Plugin<'_>, data: &Section<'_>) -> Result<SpireSettings, ConfigError> {
    let required = |key: &str| {
        let value = data.string(key)?;
        value.ok_or_else(|| plugin.refuse(format!("{key} is required")))
    };
    let server_address = required("server_address")?;
    let port = required("server_port")?;
    let server_port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
        data.refuse("server_port", format!("{port:?} is no port; choose between 1 and 65535"))
    })?;
    let workload_api_socket = required("workload_api_socket")?.into();
    if let Some(experimental) = data.section("experimental")? {
        for key in ["workload_api_named_pipe_name", "require_pq_kem"] {
            let off = key == "require_pq_kem" && experimental.bool(key)? == Some(false);
            if experimental.has(key) && !off {
                return Err(experimental.refuse(key, "not supported by this version: drop the key"));
            }
        }
    }
    Ok(SpireSettings { server_address, server_port, workload_api_socket })
}

fn node_attestor(plugin: &Plugin<'_>) -> Result<AttestorConfig, ConfigError> {
    let data = plugin.data()?;
    match plugin.name.as_str() {
        "join_token" => Ok(AttestorConfig::JoinToken),
        "x509pop" => Ok(AttestorConfig::X509Pop(Box::new(X509PopSettings {
            mode: data.string("mode")?,
            spiffe_prefix: data
                .block()
                .string("spiffe_prefix")
                .map_err(|error| ConfigError::decode("plugin_data", error))?,
            ca_bundle_path: data.string("ca_bundle_path")?.map(PathBuf::from),
            ca_bundle_paths: data
                .strings("ca_bundle_paths")?
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            agent_path_template: data.string("agent_path_template")?,
            max_intermediates: data.int("max_intermediates")?,
            max_rsa_key_size: data.int("max_rsa_key_size")?,
            verify_client_ip: data.bool("verify_client_ip")?.unwrap_or(false),
        }))),
        name if MISSING_ATTESTORS.contains(&name) => {
            Err(plugin.refuse("not supported by this version, which has join_token and x509pop"))
        }
        _ => Err(plugin.no_such()),
    }
}
