//! One fetch of a bundle: whom it is taken from, by which profile, over how many redirects.
//!
//! Owns the texts of what can go wrong, which are SPIRE's where it has one. A server of
//! `https_spiffe` is believed only if its chain ends at the bundle of its own trust domain that was
//! accepted last, and only under the one id that was configured; one of `https_web` by the roots of
//! the machine and the name of its host. Each redirect is held to the same.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Bytes;
use rustls::ClientConfig;
use steeple_spiffe_core::bundle::document::{self, DocumentError};
use steeple_spiffe_core::tls::{
    AcceptId, BundleSource, SpiffeServer, TlsError, WebTrust, client_config, web_client_config,
};
use steeple_spiffe_core::{
    Bundle, Clock, EndpointProfile, EndpointUrl, FederationRelationship, SpiffeId, TrustDomain,
};

use crate::https::{HttpsClient, HttpsError, Schemes, Take, location, refusal};
use crate::mutants::{self, Mutant};

/// A fetch that takes longer, redirects included, has failed. SPIRE waits for ever.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Redirects that are followed (SPIRE, by Go's library: the same).
const REDIRECTS_MAX: usize = 10;

/// A fetch under way.
pub type Fetching = Pin<Box<dyn Future<Output = Result<Bundle, FetchError>> + Send>>;

/// Fetches bundles. A trait, so that whoever decides when can be tested without a network.
pub trait Fetch: fmt::Debug + Send + Sync {
    /// Fetches the bundle of one trust domain. Ends by itself within half a minute.
    fn fetch(&self, source: Source) -> Fetching;
}

/// Where a bundle comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The relationship.
    pub relationship: Arc<FederationRelationship>,
    /// The bundle that was accepted last of the trust domain of the endpoint's SPIFFE id. `None`:
    /// none was, or the endpoint is known by its host's name.
    pub endpoint_bundle: Option<Arc<Bundle>>,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The endpoint has a SPIFFE id of a trust domain whose bundle is not known.
    #[error("can't perform SPIFFE Authentication: local copy of bundle not found")]
    NoEndpointBundle,
    /// The machine trusts nobody, for instance.
    #[error("failed to fetch federated bundle from endpoint: failed to fetch bundle")]
    Client(#[source] TlsError),
    /// No answer.
    #[error(
        "failed to fetch federated bundle from endpoint: failed to fetch bundle: Get \"{url}\""
    )]
    Exchange {
        /// What was asked for.
        url: String,
        /// Why there is none.
        source: HttpsError,
    },
    /// The server is known by another SPIFFE id.
    #[error(
        "failed to fetch federated bundle from endpoint: failed to fetch bundle: Get \"{url}\": \
         unexpected ID \"{id}\""
    )]
    UnexpectedId {
        /// What was asked for.
        url: String,
        /// Who answered.
        id: SpiffeId,
    },
    /// The server's chain ends at none of the authorities of the bundle that is known.
    #[error(
        "failed to fetch federated bundle from endpoint: failed to fetch bundle: Get \"{url}\": \
         x509svid: could not verify leaf certificate: x509: certificate signed by unknown authority; if \
         the authorities of its trust domain were replaced while it was not fetched, set its bundle by \
         \"bundle set\""
    )]
    UnknownAuthority {
        /// What was asked for.
        url: String,
    },
    /// The server has a SPIFFE id where one of the web was expected.
    #[error(
        "failed to fetch federated bundle from endpoint: failed to authenticate bundle endpoint using \
         web authentication but the server certificate contains SPIFFE ID \"{id}\": maybe use \
         https_spiffe instead of https_web"
    )]
    SpiffeServer {
        /// The id that its certificate names.
        id: SpiffeId,
        /// Why it was refused.
        source: HttpsError,
    },
    /// Nothing came in time.
    #[error(
        "failed to fetch federated bundle from endpoint: failed to fetch bundle: Get \"{url}\": no \
         answer within {timeout:?}"
    )]
    Timeout {
        /// What was asked for first.
        url: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// A redirect to where bundles may not be fetched, or one too many.
    #[error(
        "failed to fetch federated bundle from endpoint: failed to fetch bundle: Get \"{url}\": {text}"
    )]
    Redirect {
        /// Who redirects.
        url: String,
        /// What is wrong with it.
        text: String,
    },
    /// An answer that is no document.
    #[error(
        "failed to fetch federated bundle from endpoint: unexpected status {status} fetching bundle: \
         {body}"
    )]
    Status {
        /// The status.
        status: u16,
        /// How the body begins.
        body: String,
    },
    /// A document that is none.
    #[error("failed to fetch federated bundle from endpoint: failed to decode bundle")]
    Malformed(#[source] DocumentError),
    /// A document with a key that is none.
    #[error("failed to fetch federated bundle from endpoint")]
    BadKeys(#[source] DocumentError),
}

/// The class of [`FetchError::UnknownAuthority`].
const UNKNOWN_AUTHORITY: &str = "unknown_authority";

impl FetchError {
    /// Whether a failure of this class means that the bundle that is known verifies its peer no more.
    pub fn is_lost_trust(class: &str) -> bool {
        class == UNKNOWN_AUTHORITY
    }

    /// A word that stays the same while the cause does.
    pub fn class(&self) -> &'static str {
        match self {
            Self::NoEndpointBundle => "no_endpoint_bundle",
            Self::Client(_) => "client",
            Self::Exchange { source, .. } => match source {
                HttpsError::Url(_) => "url",
                HttpsError::Name(_) => "name",
                HttpsError::Dial(_) => "dial",
                HttpsError::Tls { .. } => "tls",
                HttpsError::Broken(_) => "broken",
                HttpsError::TooLong => "too_long",
                HttpsError::Timeout(_) => "timeout",
            },
            Self::UnexpectedId { .. } => "unexpected_id",
            Self::UnknownAuthority { .. } => UNKNOWN_AUTHORITY,
            Self::SpiffeServer { .. } => "spiffe_server",
            Self::Timeout { .. } => "timeout",
            Self::Redirect { .. } => "redirect",
            Self::Status { .. } => "status",
            Self::Malformed(_) | Self::BadKeys(_) => "document",
        }
    }
}

/// Fetches over the network.
#[derive(Clone, Debug)]
pub struct HttpsFetcher {
    clock: Arc<dyn Clock>,
    web: WebTrust,
    timeout: Duration,
}

impl HttpsFetcher {
    /// Believes servers of the web by the roots of the machine.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, web: WebTrust::System, timeout: FETCH_TIMEOUT }
    }

    /// With other roots and another patience, for tests.
    #[cfg(test)]
    pub(super) fn with(clock: Arc<dyn Clock>, web: WebTrust, timeout: Duration) -> Self {
        Self { clock, web, timeout }
    }

    async fn run(self, source: Source) -> Result<Bundle, FetchError> {
        let url = source.relationship.endpoint_url.to_string();
        let timeout = self.timeout;
        let fetched = tokio::time::timeout(timeout, self.follow(source)).await;
        fetched.unwrap_or(Err(FetchError::Timeout { url, timeout }))
    }

    async fn follow(&self, source: Source) -> Result<Bundle, FetchError> {
        let relationship = &source.relationship;
        let peer = Arc::new(OnceLock::new());
        let client = HttpsClient::new(self.tls(&source, &peer).await?, Schemes::Https);
        let mut url = relationship.endpoint_url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let profile = &relationship.profile;
            let answer = ask(&client, &url).await;
            let answer = answer.map_err(|error| explained(&url, error, &peer, profile))?;
            url = match answer.status() {
                StatusCode::OK => return decode(&relationship.trust_domain, answer.body()),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => redirected(&url, &answer)?,
                status => {
                    let body = printable(answer.body());
                    return Err(FetchError::Status { status: status.as_u16(), body });
                }
            };
        }
        let text = format!("stopped after {REDIRECTS_MAX} redirects");
        Err(FetchError::Redirect { url: url.to_string(), text })
    }

    /// How the server is authenticated. A peer whose chain is good and whose id is not is noted.
    async fn tls(
        &self,
        source: &Source,
        peer: &Arc<OnceLock<SpiffeId>>,
    ) -> Result<ClientConfig, FetchError> {
        let clock = Arc::clone(&self.clock);
        let mut config = match &source.relationship.profile {
            EndpointProfile::HttpsWeb => {
                let web = self.web.clone();
                // The machine's roots are files, read anew each time.
                let made = move || web_client_config(&web, None, clock);
                let made = tokio::task::spawn_blocking(made).await;
                made.unwrap_or(Err(TlsError::NoSystemRoots)).map_err(FetchError::Client)?
            }
            EndpointProfile::HttpsSpiffe { endpoint_id } => {
                let bundle = source.endpoint_bundle.clone();
                let bundle = bundle.filter(|one| one.trust_domain == *endpoint_id.trust_domain());
                let bundle = bundle.ok_or(FetchError::NoEndpointBundle)?;
                let accept = only(endpoint_id.clone(), Arc::clone(peer));
                let config = client_config(None, Arc::new(OneBundle(bundle)), accept, clock);
                ClientConfig::clone(&*config.map_err(FetchError::Client)?)
            }
        };
        // Endpoints may be behind something that looks at the name, whoever authenticates them.
        config.enable_sni = true;
        Ok(config)
    }
}

impl Fetch for HttpsFetcher {
    fn fetch(&self, source: Source) -> Fetching {
        Box::pin(self.clone().run(source))
    }
}

/// The only bundle that an endpoint may chain to.
#[derive(Debug)]
struct OneBundle(Arc<Bundle>);

impl BundleSource for OneBundle {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        (self.0.trust_domain == *trust_domain).then(|| Arc::clone(&self.0))
    }
}

fn only(expected: SpiffeId, other: Arc<OnceLock<SpiffeId>>) -> AcceptId {
    Arc::new(move |id| {
        let is_it = *id == expected || mutants::on(Mutant::EndpointIdNotChecked);
        if !is_it {
            // One handshake fails at the first; a second one is not tried.
            other.set(id.clone()).ok();
        }
        is_it
    })
}

async fn ask(client: &HttpsClient, url: &EndpointUrl) -> Result<Response<Bytes>, HttpsError> {
    let text = url.as_str();
    let text = text.split_once('#').map_or(text, |(text, _fragment)| text);
    let request = Request::get(text)
        .header(header::USER_AGENT, concat!("steeple/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| HttpsError::Url(error.to_string()))?;
    client.exchange(request, Take::Document).await
}

fn explained(
    url: &EndpointUrl,
    error: HttpsError,
    peer: &OnceLock<SpiffeId>,
    profile: &EndpointProfile,
) -> FetchError {
    let url = url.to_string();
    if let Some(id) = peer.get() {
        return FetchError::UnexpectedId { url, id: id.clone() };
    }
    let by_bundle = matches!(profile, EndpointProfile::HttpsSpiffe { .. });
    match spiffe_server(&error) {
        Some(id) => FetchError::SpiffeServer { id, source: error },
        None if by_bundle && is_unknown_authority(&error) => FetchError::UnknownAuthority { url },
        None => FetchError::Exchange { url, source: error },
    }
}

/// Whether the server's chain was good but for its end.
fn is_unknown_authority(error: &HttpsError) -> bool {
    let HttpsError::Tls { error, .. } = error else { return false };
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    tls == Some(&unknown)
}

/// The id of a server that shows an X509-SVID where a name was expected.
fn spiffe_server(error: &HttpsError) -> Option<SpiffeId> {
    let HttpsError::Tls { error, .. } = error else { return None };
    let server = refusal(error)?.downcast_ref::<SpiffeServer>()?;
    Some(server.id.clone())
}

/// Where an answer points to: an absolute URL, or one that begins at what was asked for.
fn redirected(from: &EndpointUrl, answer: &Response<Bytes>) -> Result<EndpointUrl, FetchError> {
    let wrong = |text: String| FetchError::Redirect { url: from.to_string(), text };
    let status = answer.status().as_u16();
    let Some(location) = location(answer) else {
        return Err(wrong(format!("{status} response missing Location header")));
    };
    let to = joined(from.as_str(), location);
    EndpointUrl::parse(&to).map_err(|error| wrong(format!("redirect to {to:?} refused: {error}")))
}

fn joined(from: &str, location: &str) -> String {
    let place = from.find("://").map_or(0, |at| at + 3);
    let authority = from.get(place..).unwrap_or_default();
    let end = authority.find(['/', '?', '#']).map_or(from.len(), |at| place + at);
    let (origin, path) = from.split_at(end);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let has_scheme = location.split(['/', '?', '#']).next().is_some_and(|one| one.contains(':'));
    if has_scheme {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("https:{location}")
    } else if location.starts_with('/') {
        format!("{origin}{location}")
    } else {
        format!("{origin}{folder}/{location}")
    }
}

fn decode(trust_domain: &TrustDomain, body: &[u8]) -> Result<Bundle, FetchError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        FetchError::Malformed(DocumentError::Json(format!("not UTF-8: {error}")))
    })?;
    document::from_json(trust_domain.clone(), text).map_err(|error| match error {
        DocumentError::TooLong
        | DocumentError::Json(_)
        | DocumentError::BadMember(_)
        | DocumentError::NoKeys => FetchError::Malformed(error),
        DocumentError::CertificateCount { .. }
        | DocumentError::NoKeyId { .. }
        | DocumentError::BadKey { .. } => FetchError::BadKeys(error),
    })
}

/// What a stranger wrote, as one line without anything that a terminal would obey.
fn printable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_begins_where_it_was_answered() {
        let from = "https://b.test:8443/a/bundle?x=1#y";
        for (location, expected) in [
            ("https://c.test/z", "https://c.test/z"),
            ("http://c.test/z", "http://c.test/z"),
            ("//c.test/z", "https://c.test/z"),
            ("/z", "https://b.test:8443/z"),
            ("z?q=/:", "https://b.test:8443/a/z?q=/:"),
            ("data:text", "data:text"),
        ] {
            assert_eq!(joined(from, location), expected, "{location}");
        }
        assert_eq!(joined("https://b.test", "z"), "https://b.test/z");
        assert_eq!(joined("https://b.test?x", "/z"), "https://b.test/z");
    }

    #[test]
    fn what_a_stranger_wrote_is_one_harmless_line() {
        assert_eq!(printable(b"\x1b[2Jgo away\r\n"), "[2Jgo away");
        assert_eq!(printable(b"two\nlines \xff"), "two lines \u{fffd}");
    }
}
