//! `UpstreamAuthority "vault"`: its keys in the file.

use std::path::PathBuf;

use super::error::ConfigError;
use super::load::Notice;
use super::section::Section;
use crate::upstream::{Credential, VaultAuth, VaultSettings};

/// Reads the plugin's section. What the environment may give is not asked for here.
pub(super) fn read(
    data: &Section<'_>,
    refuse: impl Fn(&str) -> ConfigError,
    notices: &mut Vec<Notice>,
) -> Result<VaultSettings, ConfigError> {
    let path = |key: &str| data.string(key).map(|path| path.map(PathBuf::from));
    let settings = VaultSettings {
        vault_addr: data.string("vault_addr")?,
        namespace: data.string("namespace")?,
        ca_cert_path: path("ca_cert_path")?,
        insecure_skip_verify: data.bool("insecure_skip_verify")?.unwrap_or(false),
        pki_mount_point: mount_point(data, "pki_mount_point", "pki")?,
        auth: auth(data, refuse)?,
    };
    let is_plain = settings.vault_addr.as_ref().is_some_and(|address| address.starts_with("http:"));
    if is_plain || settings.insecure_skip_verify {
        notices.push(Notice::warning(
            "UpstreamAuthority \"vault\": whoever is between this server and Vault can take its token: \
             use https and ca_cert_path outside of tests",
        ));
    }
    Ok(settings)
}

/// Exactly one way to authenticate.
fn auth(
    data: &Section<'_>,
    refuse: impl Fn(&str) -> ConfigError,
) -> Result<VaultAuth, ConfigError> {
    let mut found = Vec::new();
    if let Some(block) = data.section("token_auth")? {
        found.push(VaultAuth::Token { token: credential(&block, "token")? });
    }
    if let Some(block) = data.section("cert_auth")? {
        let path = |key: &str| block.string(key).map(|path| path.map(PathBuf::from));
        found.push(VaultAuth::Cert {
            mount_point: mount_point(&block, "cert_auth_mount_point", "cert")?,
            role_name: block.string("cert_auth_role_name")?,
            client_cert_path: path("client_cert_path")?,
            client_key_path: path("client_key_path")?,
        });
    }
    if let Some(block) = data.section("approle_auth")? {
        found.push(VaultAuth::AppRole {
            mount_point: mount_point(&block, "approle_auth_mount_point", "approle")?,
            role_id: credential(&block, "approle_id")?,
            secret_id: credential(&block, "approle_secret_id")?,
        });
    }
    if let Some(block) = data.section("k8s_auth")? {
        let required =
            |key: &str| block.string(key)?.ok_or_else(|| refuse(&format!("{key} is required")));
        found.push(VaultAuth::K8s {
            mount_point: mount_point(&block, "k8s_auth_mount_point", "kubernetes")?,
            role_name: required("k8s_auth_role_name")?,
            token_path: required("token_path")?.into(),
        });
    }
    let Some(auth) = found.pop() else {
        return Err(refuse(
            "must be configured one of these authentication method 'Token, Client Certificate, AppRole \
             or Kubernetes: add token_auth, cert_auth, approle_auth or k8s_auth",
        ));
    };
    if found.is_empty() {
        Ok(auth)
    } else {
        Err(refuse("only one authentication method can be configured"))
    }
}

fn credential(block: &Section<'_>, key: &str) -> Result<Credential, ConfigError> {
    Ok(Credential::new(block.string(key)?.unwrap_or_default()))
}

fn mount_point(section: &Section<'_>, key: &str, default: &str) -> Result<String, ConfigError> {
    let path = section.string(key)?.unwrap_or_else(|| default.to_owned());
    let path = path.trim_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    if path.is_empty() || !path.bytes().all(plain) {
        return Err(section.refuse(key, format!("{path:?} is no mount point; write pki or a/b")));
    }
    Ok(path.to_owned())
}
