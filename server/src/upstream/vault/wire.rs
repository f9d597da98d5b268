//! Vault's HTTP API, as far as it is needed.
//!
//! Owns paths, headers, and how answers and errors are read. Who may ask is `session`'s business.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::{Value, json};
use steeple_federation::{HttpsClient, location};
use steeple_spiffe_core::svid::x509::read_ca_subject;
use steeple_spiffe_core::{CertificateRequest, pem};

use super::VaultError;
use super::settings::Credential;
use crate::upstream::MintedCa;

/// How long one call may take. A login and a signature fit into what a certificate may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of an answer that is no JSON is told.
const EXCERPT_CHARS: usize = 200;

/// One Vault, and how to reach it.
#[derive(Clone, Debug)]
pub(super) struct Vault {
    pub(super) client: HttpsClient,
    pub(super) address: String,
    pub(super) namespace: Option<String>,
}

/// What Vault gave for a login, or tells of a token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) token: Credential,
    /// How long it is good for; zero: for ever.
    pub(super) lease: Duration,
    pub(super) renewable: bool,
}

impl Vault {
    /// Logs in at a mounted auth method.
    pub(super) async fn log_in(&self, mount_point: &str, body: Value) -> Result<Token, VaultError> {
        let path = format!("auth/{mount_point}/login");
        let doing = format!("authentication failed {path}");
        let answer = self.call(&doing, Method::POST, &path, None, Some(body)).await?;
        read_auth(&answer).ok_or_else(|| self.answer(&doing, "it holds no token"))
    }

    /// What Vault knows of a token.
    pub(super) async fn look_up(&self, token: &Credential) -> Result<Token, VaultError> {
        let doing = "token lookup failed";
        let answer =
            self.call(doing, Method::GET, "auth/token/lookup-self", Some(token), None).await?;
        let seconds = answer.pointer("/data/ttl").and_then(Value::as_u64);
        let renewable = answer.pointer("/data/renewable").and_then(Value::as_bool);
        let lease = seconds.map(Duration::from_secs);
        let lease = lease
            .ok_or_else(|| self.answer(doing, "it does not say how long the token is good for"))?;
        Ok(Token { token: token.clone(), lease, renewable: renewable.unwrap_or(false) })
    }

    /// Makes a token good for longer.
    pub(super) async fn renew(&self, token: &Credential) -> Result<Token, VaultError> {
        let doing = "failed to renew auth token";
        let path = "auth/token/renew-self";
        let answer = self.call(doing, Method::POST, path, Some(token), Some(json!({}))).await?;
        read_auth(&answer).ok_or_else(|| self.answer(doing, "it holds no token"))
    }

    /// Has a CA certificate signed by the engine that is mounted there.
    pub(super) async fn sign(
        &self,
        token: &Credential,
        mount_point: &str,
        csr: &[u8],
        ttl: Duration,
    ) -> Result<MintedCa, VaultError> {
        let doing = "failed to sign intermediate";
        let body = signing_request(csr, ttl).map_err(VaultError::Request)?;
        let path = format!("{mount_point}/root/sign-intermediate");
        let answer = self.call(doing, Method::POST, &path, Some(token), Some(body)).await?;
        read_signed(&answer).map_err(|reason| self.answer(doing, &reason))
    }

    async fn call(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        token: Option<&Credential>,
        body: Option<Value>,
    ) -> Result<Value, VaultError> {
        let failed = |source| VaultError::Call {
            doing: doing.to_owned(),
            address: self.address.clone(),
            source,
        };
        let text = body.map(|body| body.to_string()).unwrap_or_default();
        let mut uri = format!("{}/v1/{path}", self.address);
        let mut redirected = false;
        loop {
            let request = self.request(&method, &uri, token, &text);
            let request = request.map_err(|error| self.answer(doing, &error.to_string()))?;
            let answer = self.client.call(request, CALL_TIMEOUT).await.map_err(failed)?;
            // A standby that does not forward names the active node.
            match location(&answer).filter(|_| answer.status().is_redirection()) {
                Some(location) if !redirected => {
                    location.clone_into(&mut uri);
                    self.check_redirect(doing, location)?;
                    redirected = true;
                }
                Some(_) | None => return self.read(doing, &answer),
            }
        }
    }

    fn request(
        &self,
        method: &Method,
        uri: &str,
        token: Option<&Credential>,
        body: &str,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request =
            Request::builder().method(method).uri(uri).header("X-Vault-Request", "true");
        if let Some(token) = token {
            let mut value = http::HeaderValue::from_str(token.expose())?;
            value.set_sensitive(true);
            request = request.header("X-Vault-Token", value);
        }
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        request.header(CONTENT_TYPE, "application/json").body(Full::new(body))
    }

    /// A token goes nowhere in the clear that was not to go there.
    pub(super) fn check_redirect(&self, doing: &str, location: &str) -> Result<(), VaultError> {
        let is_plain = |text: &str| {
            text.parse::<Uri>()
                .ok()
                .and_then(|uri| uri.scheme_str().map(|scheme| scheme != "https"))
        };
        match (is_plain(&self.address), is_plain(location)) {
            (Some(true), Some(_)) | (_, Some(false)) => Ok(()),
            _ => {
                Err(self
                    .answer(doing, &format!("it points to {location:?}, which is not followed")))
            }
        }
    }

    fn read(&self, doing: &str, answer: &Response<Bytes>) -> Result<Value, VaultError> {
        let json: Option<Value> = serde_json::from_slice(answer.body()).ok();
        if answer.status().is_success() {
            return json.ok_or_else(|| self.answer(doing, &excerpt(answer.body())));
        }
        let errors = json.as_ref().and_then(|json| json.get("errors")?.as_array());
        let errors: Vec<_> = errors.into_iter().flatten().filter_map(Value::as_str).collect();
        let reason = if errors.is_empty() {
            excerpt(answer.body())
        } else {
            errors.join("; ").trim().to_owned()
        };
        Err(VaultError::Refused {
            doing: doing.to_owned(),
            address: self.address.clone(),
            status: answer.status(),
            reason,
        })
    }

    fn answer(&self, doing: &str, reason: &str) -> VaultError {
        VaultError::Answer {
            doing: doing.to_owned(),
            address: self.address.clone(),
            reason: reason.to_owned(),
        }
    }
}

impl VaultError {
    /// Whether the token is no longer taken.
    pub(super) fn is_denied(&self) -> bool {
        matches!(
            self,
            Self::Refused { status: StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, .. }
        )
    }
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text: String = text.chars().take(EXCERPT_CHARS).collect();
    format!("it answers {text:?}")
}

fn read_auth(answer: &Value) -> Option<Token> {
    let auth = answer.get("auth")?;
    let token = auth.get("client_token")?.as_str().filter(|token| !token.is_empty())?;
    Some(Token {
        token: Credential::new(token.to_owned()),
        lease: Duration::from_secs(auth.get("lease_duration")?.as_u64()?),
        renewable: auth.get("renewable").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// SPIRE's request, with the subject's serial number, so that two authorities do not share a name.
fn signing_request(csr: &[u8], ttl: Duration) -> Result<Value, String> {
    let text = |error: &dyn std::error::Error| format!("failed to parse CSR data: {error}");
    let request = CertificateRequest::parse(csr).map_err(|error| text(&error))?;
    let (subject, serial_number) =
        read_ca_subject(&request.subject_der).map_err(|error| text(&error))?;
    Ok(json!({
        "common_name": subject.common_name,
        "organization": subject.organization.join(","),
        "country": subject.country.join(","),
        "serial_number": serial_number.unwrap_or_default(),
        "uri_sans": request.uris.join(","),
        "csr": pem::encode_request(csr),
        "ttl": if ttl.is_zero() { String::new() } else { ttl.as_secs().to_string() },
    }))
}

/// The certificate, what is between it and the root, and the root: the last of `ca_chain`, or who
/// signed if there is none. Some versions repeat the certificate in the chain.
fn read_signed(answer: &Value) -> Result<MintedCa, String> {
    let data = answer.get("data").ok_or("it holds no data")?;
    let certificate = |value: &Value, what: &str| {
        let text = value.as_str().ok_or_else(|| format!("its {what} is no text"))?;
        let ders =
            pem::decode_certificates(text).map_err(|error| format!("its {what}: {error}"))?;
        ders.into_iter().next().ok_or_else(|| format!("its {what} is empty"))
    };
    let field = |name: &str| {
        let value = data.get(name).ok_or_else(|| format!("it holds no {name}"))?;
        certificate(value, name)
    };
    let (signed, issuer) = (field("certificate")?, field("issuing_ca")?);
    let above =
        data.get("ca_chain").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let above = above.iter().map(|one| certificate(one, "ca_chain"));
    let above = above.collect::<Result<Vec<_>, _>>()?;
    let root = above.last().cloned().unwrap_or(issuer);
    let between = above.into_iter().filter(|one| *one != root && *one != signed);
    let chain = std::iter::once(signed.clone()).chain(between).collect();
    Ok(MintedCa { chain, roots: vec![root] })
}
