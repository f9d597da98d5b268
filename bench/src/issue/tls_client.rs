//! HTTP/1.1 over TLS on loopback, one request at a time on a connection.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An open connection. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects, and shakes hands.
    pub(crate) async fn open(port: u16, tls: &Arc<ClientConfig>) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let name = ServerName::try_from("localhost").context("a name")?;
        let connector = TlsConnector::from(Arc::clone(tls));
        let stream = connector.connect(name, stream).await.context("shake hands")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("begin HTTP")?;
        // How it ended is seen by the request that was under way.
        tokio::spawn(async move { connection.await.ok() });
        Ok(Self { sender })
    }

    /// The body of the answer; an answer that refuses is an error with its text.
    pub(crate) async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes> {
        self.sender.ready().await.context("the connection has ended")?;
        let response = self.sender.send_request(request).await.context("send the request")?;
        let status = response.status();
        let body = response.into_body().collect().await.context("read the answer")?.to_bytes();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}
