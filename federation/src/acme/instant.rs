//! The server of certificates, by instant-acme over our own TLS.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Request;
use http_body_util::Full;
use hyper::body::Bytes;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse,
    CertificateIdentifier, ChallengeStatus, ChallengeType, HttpClient, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem,
};
use rustls_pki_types::CertificateDer;
use steeple_spiffe_core::tls::{TlsError, WebTrust, web_client_config};
use steeple_spiffe_core::{Clock, Secret, Timestamp};

use super::client::{Acme, AcmeAccount, AcmeError, Progress, Window};
use super::settings::AcmeSettings;
use super::state::Digest;
use crate::https::{HttpsClient, Schemes};

/// No call takes longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// There is nobody to trust.
#[derive(Debug, thiserror::Error)]
#[error("prepare TLS towards the ACME server")]
pub struct InstantAcmeError(#[from] TlsError);

/// The client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct InstantAcme {
    http: Http,
}

impl InstantAcme {
    /// A client of servers with certificates that are trusted.
    ///
    /// # Errors
    ///
    /// The machine trusts nobody.
    pub fn new(trust: &WebTrust, clock: Arc<dyn Clock>) -> Result<Self, InstantAcmeError> {
        let config = web_client_config(trust, None, clock)?;
        Ok(Self { http: Http(HttpsClient::new(config, Schemes::Https)) })
    }
}

impl Acme for InstantAcme {
    fn register<'a>(
        &'a self,
        settings: &'a AcmeSettings,
    ) -> BoxFuture<'a, Result<Secret, AcmeError>> {
        async move {
            let contact = settings.email.as_ref().map(|email| format!("mailto:{email}"));
            let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
            let account = NewAccount {
                contact: &contact,
                terms_of_service_agreed: settings.tos_accepted,
                only_return_existing: false,
            };
            let builder = Account::builder_with_http(Box::new(self.http.clone()));
            let created = builder.create(&account, settings.directory_url.clone(), None).await;
            let (_account, credentials) = created.map_err(failed)?;
            let bytes = serde_json::to_vec(&credentials);
            bytes.map(Secret::new).map_err(|error| AcmeError::Call(error.into()))
        }
        .boxed()
    }

    fn open<'a>(
        &'a self,
        credentials: &'a Secret,
    ) -> BoxFuture<'a, Result<Box<dyn AcmeAccount>, AcmeError>> {
        async move {
            let credentials = serde_json::from_slice::<AccountCredentials>(credentials.expose());
            let credentials = credentials.map_err(|error| AcmeError::Call(error.into()))?;
            let builder = Account::builder_with_http(Box::new(self.http.clone()));
            let account = builder.from_credentials(credentials).await.map_err(failed)?;
            let account: Box<dyn AcmeAccount> = Box::new(Opened { account });
            Ok(account)
        }
        .boxed()
    }
}

struct Opened {
    account: Account,
}

impl Opened {
    async fn find(&self, order: &str) -> Result<Order, AcmeError> {
        self.account.order(order.to_owned()).await.map_err(failed)
    }
}

impl AcmeAccount for Opened {
    fn order<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<String, AcmeError>> {
        async move {
            let identifiers = [Identifier::Dns(domain.to_owned())];
            let order = self.account.new_order(&NewOrder::new(&identifiers)).await;
            Ok(order.map_err(failed)?.url().to_owned())
        }
        .boxed()
    }

    fn look<'a>(&'a self, order: &'a str) -> BoxFuture<'a, Result<Progress, AcmeError>> {
        async move {
            let mut order = self.find(order).await?;
            match order.state().status {
                OrderStatus::Pending => pending(&mut order).await,
                OrderStatus::Ready => Ok(Progress::Ready),
                OrderStatus::Processing => Ok(Progress::Processing),
                OrderStatus::Valid => Ok(Progress::Valid),
                OrderStatus::Invalid => Ok(Progress::Invalid(reasons(&mut order).await)),
            }
        }
        .boxed()
    }

    fn validate<'a>(&'a self, order: &'a str) -> BoxFuture<'a, Result<(), AcmeError>> {
        async move {
            let mut order = self.find(order).await?;
            let mut authorizations = order.authorizations();
            while let Some(found) = authorizations.next().await {
                let mut found = found.map_err(failed)?;
                if found.status == AuthorizationStatus::Pending {
                    let challenge = found.challenge(ChallengeType::TlsAlpn01);
                    let mut challenge = challenge.ok_or(AcmeError::NoChallenge)?;
                    challenge.set_ready().await.map_err(failed)?;
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn finalize<'a>(
        &'a self,
        order: &'a str,
        csr: &'a [u8],
    ) -> BoxFuture<'a, Result<(), AcmeError>> {
        async move { self.find(order).await?.finalize_csr(csr).await.map_err(failed) }.boxed()
    }

    fn certificate<'a>(&'a self, order: &'a str) -> BoxFuture<'a, Result<String, AcmeError>> {
        async move {
            let chain = self.find(order).await?.certificate().await.map_err(failed)?;
            chain.ok_or_else(|| AcmeError::Call("the certificate is not there yet".into()))
        }
        .boxed()
    }

    fn renewal<'a>(&'a self, leaf: &'a [u8]) -> BoxFuture<'a, Result<Option<Window>, AcmeError>> {
        async move {
            let leaf = CertificateDer::from(leaf);
            // One without the id of its issuer's key has no name in this protocol.
            let Ok(id) = CertificateIdentifier::try_from(&leaf) else { return Ok(None) };
            match self.account.renewal_info(&id).await {
                Ok((info, _ask_again_after)) => {
                    let window = info.suggested_window;
                    let start = Timestamp::from_unix_s(window.start.unix_timestamp());
                    let end = Timestamp::from_unix_s(window.end.unix_timestamp());
                    Ok(Some(Window { start, end }))
                }
                Err(instant_acme::Error::Unsupported(_)) => Ok(None),
                Err(error) => Err(failed(error)),
            }
        }
        .boxed()
    }
}

/// What an order waits for.
async fn pending(order: &mut Order) -> Result<Progress, AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(found) = authorizations.next().await {
        let mut found = found.map_err(failed)?;
        match found.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Invalid
            | AuthorizationStatus::Revoked
            | AuthorizationStatus::Expired
            | AuthorizationStatus::Deactivated => {
                return Ok(Progress::Invalid(format!("the authorization is {:?}", found.status)));
            }
        }
        let challenge = found.challenge(ChallengeType::TlsAlpn01).ok_or(AcmeError::NoChallenge)?;
        let is_asked = challenge.status != ChallengeStatus::Pending;
        let digest = challenge.key_authorization().digest();
        let challenge = Digest::try_from(digest.as_ref());
        let challenge = challenge.map_err(|error| AcmeError::Call(error.into()))?;
        return Ok(Progress::Pending { challenge, is_asked });
    }
    // All that was asked for is proven: the server is about to notice.
    Ok(Progress::Processing)
}

/// Why an order came to nothing: the server says it at the order or at the challenge.
async fn reasons(order: &mut Order) -> String {
    let mut all: Vec<String> = order.state().error.iter().map(words).collect();
    let mut authorizations = order.authorizations();
    while let Some(Ok(found)) = authorizations.next().await {
        all.extend(found.challenges.iter().filter_map(|one| one.error.as_ref()).map(words));
    }
    all.dedup();
    if all.is_empty() { "the server does not say why".to_owned() } else { all.join("; ") }
}

fn failed(error: instant_acme::Error) -> AcmeError {
    if let instant_acme::Error::Api(problem) = &error {
        let kind = problem.r#type.as_deref().and_then(|kind| kind.rsplit(':').next());
        let kind = kind.unwrap_or_default().to_owned();
        return AcmeError::Refused { kind, text: words(problem) };
    }
    AcmeError::Call(Box::new(error))
}

/// A problem in the server's words.
fn words(problem: &Problem) -> String {
    let text = problem.to_string();
    text.strip_prefix("API error: ").unwrap_or(&text).to_owned()
}

/// HTTP over our TLS, within bounds.
#[derive(Clone, Debug)]
struct Http(HttpsClient);

type HttpAnswer = Result<BytesResponse, instant_acme::Error>;

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = HttpAnswer> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let answer = client.call(request, CALL_TIMEOUT).await;
            let answer = answer.map_err(|error| instant_acme::Error::Other(error.into()))?;
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}
