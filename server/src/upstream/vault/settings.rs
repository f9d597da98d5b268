//! What the file and the environment say of Vault.
//!
//! Owns SPIRE's keys, their defaults, and which variables win over them.

use std::fmt;
use std::path::PathBuf;

use http::Uri;
use zeroize::Zeroizing;

use super::VaultError;

/// Where Vault is if nobody says (Vault's own default).
const DEFAULT_ADDRESS: &str = "https://127.0.0.1:8200";

/// A text that must not be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential(Zeroizing<String>);

impl Credential {
    /// Takes a text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one call that needs it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The plugin's configuration keys, as they stand in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSettings {
    /// `vault_addr`; `VAULT_ADDR` wins.
    pub vault_addr: Option<String>,
    /// `namespace`; `VAULT_NAMESPACE` wins.
    pub namespace: Option<String>,
    /// `ca_cert_path`: who signs Vault's certificate; `VAULT_CACERT` wins. `None`: the machine's roots.
    pub ca_cert_path: Option<PathBuf>,
    /// `insecure_skip_verify`.
    pub insecure_skip_verify: bool,
    /// `pki_mount_point`: where the PKI engine is mounted. Default `pki`.
    pub pki_mount_point: String,
    /// How this server says who it is.
    pub auth: VaultAuth,
}

/// How this server says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAuth {
    /// `token_auth`.
    Token {
        /// `token`; `VAULT_TOKEN` wins.
        token: Credential,
    },
    /// `cert_auth`.
    Cert {
        /// `cert_auth_mount_point`. Default `cert`.
        mount_point: String,
        /// `cert_auth_role_name`; `None`: whichever role fits.
        role_name: Option<String>,
        /// `client_cert_path`; `VAULT_CLIENT_CERT` wins.
        client_cert_path: Option<PathBuf>,
        /// `client_key_path`; `VAULT_CLIENT_KEY` wins.
        client_key_path: Option<PathBuf>,
    },
    /// `approle_auth`.
    AppRole {
        /// `approle_auth_mount_point`. Default `approle`.
        mount_point: String,
        /// `approle_id`; `VAULT_APPROLE_ID` wins.
        role_id: Credential,
        /// `approle_secret_id`; `VAULT_APPROLE_SECRET_ID` wins.
        secret_id: Credential,
    },
    /// `k8s_auth`.
    K8s {
        /// `k8s_auth_mount_point`. Default `kubernetes`.
        mount_point: String,
        /// `k8s_auth_role_name`.
        role_name: String,
        /// `token_path`: the service account's token.
        token_path: PathBuf,
    },
}

impl VaultAuth {
    /// Its block in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token_auth",
            Self::Cert { .. } => "cert_auth",
            Self::AppRole { .. } => "approle_auth",
            Self::K8s { .. } => "k8s_auth",
        }
    }
}

/// Reads a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl VaultSettings {
    /// With what the environment says, which wins over the file as in SPIRE.
    ///
    /// # Errors
    ///
    /// What every call would need is neither here nor there.
    pub(super) fn resolve(mut self, environment: Environment<'_>) -> Result<Self, VaultError> {
        let text = |name: &str, value: &mut Option<String>| {
            *value = environment(name).or_else(|| value.take()).filter(|text| !text.is_empty());
        };
        let path = |name: &str, value: &mut Option<PathBuf>| {
            let path = environment(name).map(PathBuf::from).or_else(|| value.take());
            *value = path.filter(|path| !path.as_os_str().is_empty());
        };
        let secret = |name: &'static str, key: &'static str, value: &mut Credential| {
            if let Some(given) = environment(name) {
                *value = Credential::new(given);
            }
            if value.is_empty() { Err(VaultError::Missing { key, name }) } else { Ok(()) }
        };
        text("VAULT_ADDR", &mut self.vault_addr);
        text("VAULT_NAMESPACE", &mut self.namespace);
        path("VAULT_CACERT", &mut self.ca_cert_path);
        match &mut self.auth {
            VaultAuth::Token { token } => secret("VAULT_TOKEN", "token_auth.token", token)?,
            VaultAuth::Cert { client_cert_path, client_key_path, .. } => {
                path("VAULT_CLIENT_CERT", client_cert_path);
                path("VAULT_CLIENT_KEY", client_key_path);
                if client_cert_path.is_none() || client_key_path.is_none() {
                    return Err(VaultError::HalfAPair);
                }
            }
            VaultAuth::AppRole { role_id, secret_id, .. } => {
                secret("VAULT_APPROLE_ID", "approle_auth.approle_id", role_id)?;
                // A role may be set up to ask for no secret id.
                let optional =
                    secret("VAULT_APPROLE_SECRET_ID", "approle_auth.approle_secret_id", secret_id);
                optional.ok();
            }
            VaultAuth::K8s { .. } => {}
        }
        Ok(self)
    }

    /// Where Vault is.
    ///
    /// # Errors
    ///
    /// It is no address of an HTTP server.
    pub(super) fn address(&self) -> Result<String, VaultError> {
        let address = self.vault_addr.as_deref().unwrap_or(DEFAULT_ADDRESS).trim_end_matches('/');
        let bad = |reason: &str| VaultError::Address {
            address: address.to_owned(),
            reason: reason.to_owned(),
        };
        let uri: Uri =
            address.parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(_)) if uri.query().is_none() => Ok(address.to_owned()),
            _ => Err(bad("write https://host:port")),
        }
    }
}
