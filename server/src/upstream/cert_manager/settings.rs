//! The plugin's configuration.

use std::path::PathBuf;

/// The plugin's configuration keys, with SPIRE's defaults in place of what is not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertManagerSettings {
    /// `namespace`: where the requests are made.
    pub namespace: String,
    /// `issuer_name`.
    pub issuer_name: String,
    /// `issuer_kind`.
    pub issuer_kind: String,
    /// `issuer_group`.
    pub issuer_group: String,
    /// `kube_config_file`; `None`: this is a pod of the cluster.
    pub kube_config_file: Option<PathBuf>,
}
