//! `UpstreamAuthority "cert-manager"`: its keys in the file.

use std::path::PathBuf;

use super::error::ConfigError;
use super::section::Section;
use crate::upstream::CertManagerSettings;

/// The longest name of a namespace in Kubernetes.
const NAMESPACE_CHARS_MAX: usize = 63;

/// Reads the plugin's section. The kubeconfig is not looked at here.
pub(super) fn read(
    data: &Section<'_>,
    refuse: impl Fn(&str) -> ConfigError,
) -> Result<CertManagerSettings, ConfigError> {
    // In SPIRE's words.
    let required = |key: &str| {
        let missing = || refuse(&format!("plugin configuration has empty {key} property"));
        data.string(key)?.ok_or_else(missing)
    };
    let or = |key: &str, default: &str| {
        data.string(key).map(|given| given.unwrap_or_else(|| default.to_owned()))
    };
    let namespace = required("namespace")?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if namespace.len() > NAMESPACE_CHARS_MAX || !namespace.bytes().all(plain) {
        let fix = "write its name in small letters, digits and dashes";
        return Err(data.refuse("namespace", format!("{namespace:?} is no namespace; {fix}")));
    }
    Ok(CertManagerSettings {
        namespace,
        issuer_name: required("issuer_name")?,
        issuer_kind: or("issuer_kind", "Issuer")?,
        issuer_group: or("issuer_group", "cert-manager.io")?,
        kube_config_file: data.string("kube_config_file")?.map(PathBuf::from),
    })
}
