//! Being known to Vault: the four ways to log in, and how long a token is good for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use steeple_federation::{HttpsClient, Schemes};
use steeple_spiffe_core::tls::{WebTrust, web_client_config};
use steeple_spiffe_core::{Clock, Secret, pem};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::VaultError;
use super::settings::{VaultAuth, VaultSettings};
use super::wire::{Token, Vault};
use crate::upstream::MintedCa;
use crate::upstream::files::{certificates, read};

/// How to reach Vault, and as whom.
#[derive(Debug)]
pub(super) struct Access {
    settings: VaultSettings,
    clock: Arc<dyn Clock>,
}

/// A token and the connection that it was got by.
#[derive(Debug)]
pub(super) struct Session {
    vault: Vault,
    token: Token,
    since: Instant,
}

impl Session {
    /// Whether the token is good for another call: not in the last eighth of its life.
    pub(super) fn is_usable(&self) -> bool {
        let lease = self.token.lease;
        lease.is_zero() || self.since.elapsed() < lease * 7 / 8
    }

    /// Whether the token can be renewed, and it is time to: from the half of its life.
    pub(super) fn is_due(&self) -> bool {
        let lease = self.token.lease;
        self.token.renewable && !lease.is_zero() && self.since.elapsed() >= lease / 2
    }
}

impl Access {
    /// Reads the files once, so that one that is missing is told at the start.
    pub(super) fn new(settings: VaultSettings, clock: Arc<dyn Clock>) -> Result<Self, VaultError> {
        let access = Self { settings, clock };
        access.vault()?;
        if let VaultAuth::K8s { token_path, .. } = &access.settings.auth {
            service_account_token(token_path)?;
        }
        Ok(access)
    }

    /// Logs in anew, with what the files hold now.
    pub(super) async fn log_in(&self) -> Result<Session, VaultError> {
        let vault = self.vault()?;
        let token = match &self.settings.auth {
            VaultAuth::Token { token } => vault.look_up(token).await?,
            VaultAuth::Cert { mount_point, role_name, .. } => {
                vault.log_in(mount_point, json!({ "name": role_name })).await?
            }
            VaultAuth::AppRole { mount_point, role_id, secret_id } => {
                let body = json!({ "role_id": role_id.expose(), "secret_id": secret_id.expose() });
                vault.log_in(mount_point, body).await?
            }
            VaultAuth::K8s { mount_point, role_name, token_path } => {
                let jwt = service_account_token(token_path)?;
                let body = json!({ "role": role_name, "jwt": jwt.as_str() });
                vault.log_in(mount_point, body).await?
            }
        };
        tracing::debug!(
            method = self.settings.auth.name(),
            lease_duration = token.lease.as_secs(),
            renewable = token.renewable,
            "Authenticated to the Vault"
        );
        Ok(Session { vault, token, since: Instant::now() })
    }

    /// The same session for longer.
    pub(super) async fn renew(&self, session: &Session) -> Result<Session, VaultError> {
        let token = session.vault.renew(&session.token.token).await?;
        let lease_duration = token.lease.as_secs();
        tracing::debug!(lease_duration, "Successfully renew auth token");
        Ok(Session { vault: session.vault.clone(), token, since: Instant::now() })
    }

    pub(super) async fn sign(
        &self,
        session: &Session,
        csr: &[u8],
        ttl: Duration,
    ) -> Result<MintedCa, VaultError> {
        let mount_point = &self.settings.pki_mount_point;
        session.vault.sign(&session.token.token, mount_point, csr, ttl).await
    }

    /// A client with what the files hold now.
    pub(super) fn vault(&self) -> Result<Vault, VaultError> {
        let settings = &self.settings;
        let trust = match &settings.ca_cert_path {
            _ if settings.insecure_skip_verify => WebTrust::Nobody,
            Some(path) => WebTrust::Roots(certificates(path).map_err(VaultError::CaCertificate)?),
            None => WebTrust::System,
        };
        let identity = match &settings.auth {
            VaultAuth::Cert {
                client_cert_path: Some(cert), client_key_path: Some(key), ..
            } => Some(pair(cert, key).map_err(VaultError::ClientCertificate)?),
            VaultAuth::Cert { .. }
            | VaultAuth::Token { .. }
            | VaultAuth::AppRole { .. }
            | VaultAuth::K8s { .. } => None,
        };
        let config = web_client_config(&trust, identity, Arc::clone(&self.clock))?;
        Ok(Vault {
            client: HttpsClient::new(config, Schemes::HttpToo),
            address: settings.address()?,
            namespace: settings.namespace.clone(),
        })
    }
}

fn service_account_token(path: &Path) -> Result<Zeroizing<String>, VaultError> {
    let text = read(path).map_err(VaultError::ServiceAccountToken)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn pair(cert: &Path, key: &Path) -> Result<(Vec<Vec<u8>>, Secret), String> {
    let chain = certificates(cert)?;
    let text = read(key)?;
    let key =
        pem::decode_private_key(&text).map_err(|error| format!("{}: {error}", key.display()))?;
    Ok((chain, key))
}
