//! The served side of an echo.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message as _;
use rustls::ServerConfig;
use steeple_api::pb::server::svid::v1 as rpc;
use steeple_api::pb::server::svid::v1::svid_server::{Svid, SvidServer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::codegen::Service as _;
use tonic::{Request, Response, Status};

use super::identity;

/// `echo svids PORT X509 JWT` and `echo document PORT FILE`: serves until the process is ended.
pub(crate) async fn serve(words: &[&str]) -> Result<()> {
    match words {
        ["svids", port, x509, jwt] => {
            let x509 = rpc::batch_new_x509svid_response::Result::decode(read(x509)?.as_slice())?;
            let jwt = rpc::NewJwtsvidResponse::decode(read(jwt)?.as_slice())?;
            let server = SvidServer::new(Canned { x509, jwt });
            let tls = identity::api_tls()?;
            accept(port, tls, move |stream| svids(stream, server.clone())).await
        }
        ["document", port, file] => {
            let document = Bytes::from(read(file)?);
            let tls = identity::endpoint_tls()?;
            accept(port, tls, move |stream| documents(stream, document.clone())).await
        }
        other => bail!("no echo {other:?}"),
    }
}

fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {path}"))
}

/// Serves every connection whose handshake succeeds.
async fn accept<F, Served>(port: &str, tls: Arc<ServerConfig>, serve: F) -> Result<()>
where
    F: Fn(TlsStream<TcpStream>) -> Served + Clone + Send + 'static,
    Served: Future<Output = ()> + Send + 'static,
{
    let port: u16 = port.parse().context("a port")?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.context("listen")?;
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        // Fails where the caller has left already.
        stream.set_nodelay(true).ok();
        let (acceptor, serve) = (acceptor.clone(), serve.clone());
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream).await;
            }
        });
    }
}

async fn svids(stream: TlsStream<TcpStream>, server: SvidServer<Canned>) {
    let service = service_fn(move |request: http::Request<Incoming>| server.clone().call(request));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    // A caller who leaves is no matter.
    builder.serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn documents(stream: TlsStream<TcpStream>, document: Bytes) {
    let service = service_fn(move |_request: http::Request<Incoming>| {
        let mut response = http::Response::new(Full::new(document.clone()));
        // As many bytes as the endpoint's.
        let headers = [
            (CONTENT_TYPE, "application/json"),
            (ETAG, "\"1-0123456789abcdef\""),
            (CACHE_CONTROL, "no-cache"),
        ];
        for (name, value) in headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

/// Answers every request with what it was given, as often as it is asked for.
#[derive(Clone, Debug)]
struct Canned {
    x509: rpc::batch_new_x509svid_response::Result,
    jwt: rpc::NewJwtsvidResponse,
}

#[tonic::async_trait]
impl Svid for Canned {
    async fn batch_new_x509svid(
        &self,
        request: Request<rpc::BatchNewX509svidRequest>,
    ) -> Result<Response<rpc::BatchNewX509svidResponse>, Status> {
        let results = vec![self.x509.clone(); request.get_ref().params.len()];
        Ok(Response::new(rpc::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        _request: Request<rpc::NewJwtsvidRequest>,
    ) -> Result<Response<rpc::NewJwtsvidResponse>, Status> {
        Ok(Response::new(self.jwt.clone()))
    }

    async fn mint_x509svid(
        &self,
        _request: Request<rpc::MintX509svidRequest>,
    ) -> Result<Response<rpc::MintX509svidResponse>, Status> {
        Err(not_echoed())
    }

    async fn mint_jwtsvid(
        &self,
        _request: Request<rpc::MintJwtsvidRequest>,
    ) -> Result<Response<rpc::MintJwtsvidResponse>, Status> {
        Err(not_echoed())
    }

    async fn mint_witsvid(
        &self,
        _request: Request<rpc::MintWitsvidRequest>,
    ) -> Result<Response<rpc::MintWitsvidResponse>, Status> {
        Err(not_echoed())
    }

    async fn batch_new_witsvid(
        &self,
        _request: Request<rpc::BatchNewWitsvidRequest>,
    ) -> Result<Response<rpc::BatchNewWitsvidResponse>, Status> {
        Err(not_echoed())
    }

    async fn new_downstream_x509ca(
        &self,
        _request: Request<rpc::NewDownstreamX509caRequest>,
    ) -> Result<Response<rpc::NewDownstreamX509caResponse>, Status> {
        Err(not_echoed())
    }
}

fn not_echoed() -> Status {
    Status::unimplemented("the echo has no answer for this")
}
