//! The first trust in the servers.
//!
//! Owns the sources of the first bundle: a file, a web server (whose certificate is checked against
//! the system's authorities) or a web server behind a Unix socket. Later bundles come from the
//! servers themselves, over connections verified with this one.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::document::{DocumentError, from_json};
use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::pem::{PemError, decode_certificates};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::config::{Bootstrap, BundleFormat};
use crate::limits::TRUST_BUNDLE_BYTES_MAX;

const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Where systems keep the authorities that web servers are checked against.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// There is no first trust.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file can't be read.
    #[error("could not parse trust bundle: read {path}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Not certificates in PEM.
    #[error("could not parse trust bundle: {0}")]
    Pem(#[from] PemError),
    /// Not a bundle document.
    #[error("could not parse trust bundle: {0}")]
    Document(#[from] DocumentError),
    /// The bundle has no X.509 authority.
    #[error("could not parse trust bundle: no certificates found")]
    Empty,
    /// The download failed.
    #[error("unable to fetch trust bundle URL {url}: {text}")]
    Fetch {
        /// From where.
        url: String,
        /// Why.
        text: String,
    },
}

/// The first bundle; `None` when the operator chose to trust the first contact.
pub async fn first_bundle(
    source: &Bootstrap,
    trust_domain: &TrustDomain,
) -> Result<Option<Bundle>, BootstrapError> {
    let (text, format) = match source {
        Bootstrap::Insecure => return Ok(None),
        Bootstrap::File(path, format) => (read(path)?, *format),
        Bootstrap::Url { url, format, unix_socket } => {
            let fetching = fetch(url, unix_socket.as_deref());
            let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetching).await;
            let fetched = fetched.unwrap_or_else(|_elapsed| Err("timed out".to_owned()));
            let failed = |text| BootstrapError::Fetch { url: url.clone(), text };
            (fetched.map_err(failed)?, *format)
        }
    };
    let bundle = match format {
        BundleFormat::Pem => of_roots(trust_domain, decode_certificates(&text)?),
        BundleFormat::Spiffe => from_json(trust_domain.clone(), &text)?,
    };
    if bundle.x509_authorities.is_empty() { Err(BootstrapError::Empty) } else { Ok(Some(bundle)) }
}

/// A bundle of these X.509 authorities, as the data folder keeps it.
pub fn of_roots(trust_domain: &TrustDomain, roots: Vec<Vec<u8>>) -> Bundle {
    let authority = |certificate_der| X509Authority { certificate_der, tainted: false };
    let mut bundle = Bundle::empty(trust_domain.clone());
    bundle.x509_authorities = roots.into_iter().map(authority).collect();
    bundle
}

fn read(path: &Path) -> Result<String, BootstrapError> {
    let failed = |source| BootstrapError::Read { path: path.display().to_string(), source };
    std::fs::read_to_string(path).map_err(failed)
}

async fn fetch(url: &str, unix_socket: Option<&Path>) -> Result<String, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().ok_or("no host")?.to_owned();
    if let Some(socket) = unix_socket {
        let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
        return get(stream, &uri, &host).await;
    }
    let port = uri.port_u16().unwrap_or(443);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
    let name = name.map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(web_tls()?).connect(name, stream).await;
    get(stream.map_err(|error| error.to_string())?, &uri, &host).await
}

async fn get<S>(stream: S, uri: &http::Uri, host: &str) -> Result<String, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::Request::get(path)
        .header(http::header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("unexpected status {}", response.status()));
        }
        let body = Limited::new(response.into_body(), TRUST_BUNDLE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        String::from_utf8(body.to_vec()).map_err(|error| error.to_string())
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    let mut is_open = true;
    loop {
        tokio::select! {
            text = &mut exchange => return text,
            // The end of the connection is the end of the body too; the exchange tells which.
            _ended = &mut connection, if is_open => is_open = false,
        }
    }
}

fn web_tls() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(system_roots()?).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, String> {
    let named = std::env::var("SSL_CERT_FILE").ok();
    let paths = named.iter().map(String::as_str).chain(SYSTEM_ROOTS);
    let mut texts = paths.filter_map(|path| std::fs::read_to_string(path).ok());
    let text = texts.next().ok_or("no file with the system's certificate authorities")?;
    let mut roots = RootCertStore::empty();
    let ders = decode_certificates(&text).map_err(|error| error.to_string())?;
    // Systems carry authorities in odd forms; those that can't be read just aren't trusted.
    roots.add_parsable_certificates(ders.into_iter().map(CertificateDer::from));
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    fn trust_domain() -> TrustDomain {
        TrustDomain::parse("example.org").expect("trust domain")
    }

    #[tokio::test]
    async fn a_bundle_comes_through_a_unix_socket() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("web.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await.expect("read");
            let body = "{\"keys\":[]}";
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.expect("write");
            String::from_utf8_lossy(&request[..count]).into_owned()
        };
        let (request, text) =
            tokio::join!(serve, fetch("http://bundles.test/b?x=1", Some(path.as_path())));
        assert!(request.starts_with("GET /b?x=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("host: bundles.test\r\n"), "{request}");
        assert_eq!(text.expect("body"), "{\"keys\":[]}");
    }

    #[tokio::test]
    async fn a_file_without_certificates_is_no_trust() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("bundle");
        for (text, format) in [
            ("", BundleFormat::Pem),
            ("garbage", BundleFormat::Pem),
            ("{\"keys\":[]}", BundleFormat::Spiffe),
            ("{", BundleFormat::Spiffe),
        ] {
            std::fs::write(&path, text).expect("write");
            let source = Bootstrap::File(path.clone(), format);
            assert!(first_bundle(&source, &trust_domain()).await.is_err(), "{text:?}");
        }
        let missing = Bootstrap::File(folder.path().join("none"), BundleFormat::Pem);
        assert!(first_bundle(&missing, &trust_domain()).await.is_err());
        assert!(first_bundle(&Bootstrap::Insecure, &trust_domain()).await.expect("ok").is_none());
    }
}
