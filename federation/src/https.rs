//! Calls to servers that are not ours: peers' bundle endpoints, servers of certificates, a Vault.
//!
//! Owns the bounds on what such a server can do to its caller: how long its addresses are dialled,
//! how long an answer may be and take. One connection a call, and none is kept: these servers are
//! asked once in a while, and whom we trust may have changed by then. How a server is known is the
//! affair of the [`ClientConfig`]; what is asked, that of the caller.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Most bytes of an answer. Bundles of the registry, chains of certificates and what a Vault says
/// are smaller.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// So much is shown of an answer that is no document (SPIRE: the same).
const REFUSAL_BYTES_MAX: usize = 1024;

/// Largest head of an answer: redirects have long URLs, and little else is looked at.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// One address of several has so long to be reached.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Where servers are, if a URL does not say.
const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The URL is none that can be dialled.
    #[error("{0}")]
    Url(String),
    /// Its host has no address.
    #[error("no such host")]
    Name(#[source] io::Error),
    /// Nobody listens there.
    #[error("connection failed")]
    Dial(#[source] io::Error),
    /// The server is not whom we expect, or speaks no TLS.
    #[error("{text}")]
    Tls {
        /// What is wrong, with all causes.
        text: String,
        /// What TLS said.
        error: io::Error,
    },
    /// The connection broke, or what came is no HTTP.
    #[error("answer is cut short or malformed")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    /// More than anything that makes sense.
    #[error("answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What TLS tells of with a link to its manual.
#[derive(Debug, thiserror::Error)]
#[error("the server ended the connection before its answer was whole")]
struct EndedEarly;

/// Which URLs are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schemes {
    /// `https` alone.
    Https,
    /// `http` too, as it is: whoever gave the address has said so.
    HttpToo,
}

/// How much of an answer is taken. More than [`ANSWER_BYTES_MAX`] is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// All of it.
    Whole,
    /// All of it with status 200; else as much of its beginning as is shown to people.
    Document,
}

/// A client of HTTP/1.1. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HttpsClient {
    tls: Arc<ClientConfig>,
    schemes: Schemes,
}

impl HttpsClient {
    /// A client of servers that this configuration knows.
    pub fn new(mut tls: ClientConfig, schemes: Schemes) -> Self {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { tls: Arc::new(tls), schemes }
    }

    /// One call. The whole of it takes no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`HttpsError`]: no answer. What a status means is the caller's business.
    pub async fn call<B>(
        &self,
        request: Request<B>,
        timeout: Duration,
    ) -> Result<Response<Bytes>, HttpsError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let answered = tokio::time::timeout(timeout, self.exchange(request, Take::Whole)).await;
        answered.unwrap_or(Err(HttpsError::Timeout(timeout)))
    }

    /// One call; how long it may take is the caller's business.
    pub(crate) async fn exchange<B>(
        &self,
        request: Request<B>,
        take: Take,
    ) -> Result<Response<Bytes>, HttpsError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (uri, request) = origin_form(request)?;
        let stream = self.connect(&uri).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let asked = async {
            let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
            let body = match (take, head.status) {
                (Take::Whole, _) | (Take::Document, StatusCode::OK) => whole(body).await?,
                (Take::Document, _) => beginning(body).await?,
            };
            Ok(Response::from_parts(head, body))
        };
        // What the connection ends with, the answer ends with too.
        let driven = async {
            connection.await.ok();
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            answer = asked => answer,
            never = driven => match never {},
        }
    }

    async fn connect(&self, uri: &Uri) -> Result<Box<dyn Stream>, HttpsError> {
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let scheme = uri.scheme();
        if self.schemes == Schemes::HttpToo && scheme == Some(&Scheme::HTTP) {
            return Ok(Box::new(dial(host, uri.port_u16().unwrap_or(HTTP_PORT)).await?));
        }
        if scheme != Some(&Scheme::HTTPS) {
            let scheme = uri.scheme_str().unwrap_or_default();
            return Err(HttpsError::Url(format!("URL scheme {scheme:?} is not supported")));
        }
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| HttpsError::Url(format!("host {host:?}: {error}")))?;
        let stream = dial(host, uri.port_u16().unwrap_or(HTTPS_PORT)).await?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let connected = connector.connect(name, stream).await;
        let connected =
            connected.map_err(|error| HttpsError::Tls { text: tls_text(&error), error })?;
        Ok(Box::new(connected))
    }
}

/// With TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where an answer points to, if it does.
pub fn location<T>(answer: &Response<T>) -> Option<&str> {
    answer.headers().get(header::LOCATION)?.to_str().ok()
}

/// The refusal of a verifier of ours in the error of a handshake.
pub(crate) fn refusal(error: &io::Error) -> Option<&(dyn Error + Send + Sync + 'static)> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error {
        return Some(other.0.as_ref());
    }
    None
}

/// The URL, and the request as it is sent to its server.
fn origin_form<B>(request: Request<B>) -> Result<(Uri, Request<B>), HttpsError> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = std::mem::replace(&mut head.uri, Uri::from(path));
    let host = uri.host().unwrap_or_default();
    let authority = match uri.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let authority = HeaderValue::from_str(&authority);
    let authority = authority.map_err(|error| HttpsError::Url(error.to_string()))?;
    head.headers.insert(header::HOST, authority);
    Ok((uri, Request::from_parts(head, body)))
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, HttpsError> {
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(HttpsError::Name)?;
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses.take(ADDRESSES_MAX) {
        match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_elapsed) => failed = io::Error::from(io::ErrorKind::TimedOut),
        }
    }
    Err(HttpsError::Dial(failed))
}

/// What a handshake failed with. rustls says of refusals of ours no more than that there was one.
fn tls_text(error: &io::Error) -> String {
    match refusal(error) {
        Some(cause) => format!("invalid peer certificate: {}", with_causes(cause)),
        None => error.to_string(),
    }
}

fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn broken(error: hyper::Error) -> HttpsError {
    let is_end = |error: &(dyn Error + 'static)| {
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        if is_end(error) {
            return HttpsError::Broken(Box::new(EndedEarly));
        }
        cause = error.source();
    }
    HttpsError::Broken(Box::new(error))
}

async fn whole(mut body: Incoming) -> Result<Bytes, HttpsError> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken)?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(HttpsError::TooLong);
        }
        read.extend_from_slice(&data);
    }
    Ok(read.into())
}

async fn beginning(mut body: Incoming) -> Result<Bytes, HttpsError> {
    let mut read = Vec::new();
    while read.len() < REFUSAL_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(broken)?;
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data);
        }
    }
    read.truncate(REFUSAL_BYTES_MAX);
    Ok(read.into())
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;

    type Case<'a> = (&'a str, &'a str, &'a str);

    #[test]
    fn a_server_is_asked_by_path_and_told_its_name() {
        let cases: [Case<'_>; 4] = [
            ("https://b.test", "/", "b.test"),
            ("https://b.test:8443/a/b?c=d", "/a/b?c=d", "b.test:8443"),
            ("https://u:p@b.test/x", "/x", "b.test"),
            ("http://[::1]:80/", "/", "[::1]:80"),
        ];
        for (url, path, host) in cases {
            let request = Request::get(url).body(Empty::<Bytes>::new()).unwrap();
            let (dialled, sent) = origin_form(request).unwrap();
            assert_eq!(dialled, url.parse::<Uri>().unwrap());
            assert_eq!(sent.uri().to_string(), path);
            assert_eq!(sent.headers()["host"], host);
        }
    }
}
