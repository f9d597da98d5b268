//! One `GET` over TLS, to the first server that answers.
//!
//! Owns the bounds on what a peer can send; how long it all may take is its caller's. No connection
//! is kept: a peer is asked once in a while, and its trust may have changed by then.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Largest document that is taken, in bytes. The registry keeps no larger bundle.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// So much is shown of an answer that is no document (SPIRE: the same).
const REFUSAL_BYTES_MAX: usize = 1024;

/// Largest head of an answer: redirects have long URLs, and nothing else is looked at.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// One address of several has so long to be reached.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Where https is, if a URL does not say.
const HTTPS_PORT: u16 = 443;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
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
    Broken(#[source] hyper::Error),
    /// More than a document may have.
    #[error("answer has more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLong,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Where it points to, if it does.
    pub(super) location: Option<String>,
    /// The body: whole with status 200, else its beginning.
    pub(super) body: Bytes,
}

/// Asks for what is at a URL.
pub(super) async fn get(tls: &Arc<ClientConfig>, url: &Uri) -> Result<Answer, ExchangeError> {
    let stream = connect(tls, url).await?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(ExchangeError::Broken)?;
    let request = request(url)?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(ExchangeError::Broken)?;
        let (head, body) = answer.into_parts();
        let location = head.headers.get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        let body = match head.status {
            StatusCode::OK => whole(body).await?,
            _ => beginning(body).await?,
        };
        Ok(Answer { status: head.status, location, body })
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

fn request(url: &Uri) -> Result<Request<Empty<Bytes>>, ExchangeError> {
    let wrong = |error: &dyn Error| ExchangeError::Url(error.to_string());
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(authority).map_err(|error| wrong(&error))?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.is_empty() { "/" } else { path };
    Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("steeple/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/json")
        .body(Empty::new())
        .map_err(|error| wrong(&error))
}

async fn connect(
    tls: &Arc<ClientConfig>,
    url: &Uri,
) -> Result<TlsStream<TcpStream>, ExchangeError> {
    let host = url.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| ExchangeError::Url(format!("host {host:?}: {error}")))?;
    let stream = dial(host, url.port_u16().unwrap_or(HTTPS_PORT)).await?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let connected = connector.connect(name, stream).await;
    connected.map_err(|error| ExchangeError::Tls { text: tls_text(&error), error })
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, ExchangeError> {
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(ExchangeError::Name)?;
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses.take(ADDRESSES_MAX) {
        match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_elapsed) => failed = io::Error::from(io::ErrorKind::TimedOut),
        }
    }
    Err(ExchangeError::Dial(failed))
}

/// What a handshake failed with. rustls says of refusals of ours no more than that there was one.
fn tls_text(error: &io::Error) -> String {
    match refusal(error) {
        Some(cause) => format!("invalid peer certificate: {}", with_causes(cause)),
        None => error.to_string(),
    }
}

/// The refusal of a verifier of ours in the error of a handshake.
pub(super) fn refusal(error: &io::Error) -> Option<&(dyn Error + Send + Sync + 'static)> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error {
        return Some(other.0.as_ref());
    }
    None
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

async fn whole(mut body: Incoming) -> Result<Bytes, ExchangeError> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(ExchangeError::Broken)?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > DOCUMENT_BYTES_MAX {
            return Err(ExchangeError::TooLong);
        }
        read.extend_from_slice(&data);
    }
    Ok(read.into())
}

async fn beginning(mut body: Incoming) -> Result<Bytes, ExchangeError> {
    let mut read = Vec::new();
    while read.len() < REFUSAL_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(ExchangeError::Broken)?;
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data);
        }
    }
    read.truncate(REFUSAL_BYTES_MAX);
    Ok(read.into())
}
