//! Clients of the server API that tests and load use: over the admin socket, and over mutual TLS as
//! an attested agent.
//!
//! Owns dialling. Verifies servers by the bundle it was given, with the product's own verifiers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use steeple_api::pb;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::tls::{self, BundleSource, Identity};
use steeple_spiffe_core::{Secret, SpiffeId, TrustDomain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_stream::StreamExt as _;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::cluster::TRUST_DOMAIN;

/// A lazy channel over a unix socket.
pub fn unix_channel(path: &Path) -> Channel {
    let path: Arc<PathBuf> = Arc::new(path.to_owned());
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(
        move |_: Uri| {
            let path = Arc::clone(&path);
            async move { UnixStream::connect(path.as_path()).await.map(TokioIo::new) }
        },
    ))
}

/// A lazy channel over TLS with the given configuration, to a port on loopback.
pub fn tls_channel(port: u16, config: Arc<rustls::ClientConfig>) -> Channel {
    tls_channel_to((Ipv4Addr::LOCALHOST, port).into(), config)
}

fn tls_channel_to(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> Channel {
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(
        move |_: Uri| {
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
                let stream = connector.connect(name, stream).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        },
    ))
}

/// GET over plain HTTP on loopback; anything but 200 is an error with the body.
pub async fn http_ok(port: u16, path: &str) -> Result<()> {
    let reply = http_reply(port, path).await?;
    if reply.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    bail!("{path} answers {reply}")
}

/// GET over plain HTTP on loopback: status line, headers and body.
pub async fn http_reply(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("send the request")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.context("read the reply")?;
    Ok(reply)
}

/// The id of the servers.
pub fn server_id() -> Result<SpiffeId> {
    Ok(SpiffeId::server(TrustDomain::parse(TRUST_DOMAIN)?))
}

#[derive(Debug)]
struct OneBundle(Arc<Bundle>);

impl BundleSource for OneBundle {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        (self.0.trust_domain == *trust_domain).then(|| Arc::clone(&self.0))
    }
}

/// An attested agent that is only a client: it asks for SVIDs and does nothing else.
#[derive(Debug)]
pub struct AttestedClient {
    /// The agent's id.
    pub id: SpiffeId,
    /// What the server said beside the result of the attestation.
    pub told: MetadataMap,
    channels: Vec<Channel>,
}

impl AttestedClient {
    /// Attests by join token through the first of the given API ports on loopback.
    pub async fn attest(ports: &[u16], token: &str) -> Result<Self> {
        let local = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        Self::attest_at(&ports.iter().map(local).collect::<Vec<_>>(), token).await
    }

    /// As [`AttestedClient::attest`], where the server API is not on loopback.
    pub async fn attest_at(addresses: &[SocketAddr], token: &str) -> Result<Self> {
        let first = *addresses.first().context("no address to attest at")?;
        let bootstrap = tls_channel_to(first, tls::insecure_bootstrap_client_config(server_id()?)?);
        let (key, csr) = request_key()?;
        let step = pb::server::agent::v1::attest_agent_request::Step::Params(
            pb::server::agent::v1::attest_agent_request::Params {
                data: Some(pb::types::AttestationData {
                    r#type: "join_token".to_owned(),
                    payload: token.as_bytes().to_vec(),
                }),
                params: Some(pb::server::agent::v1::AgentX509svidParams { csr }),
            },
        );
        let request = pb::server::agent::v1::AttestAgentRequest { step: Some(step) };
        let mut agents = pb::server::agent::v1::agent_client::AgentClient::new(bootstrap.clone());
        let mut replies = agents.attest_agent(tokio_stream::once(request)).await?.into_inner();
        let reply = replies.next().await.context("the server ended the attestation")??;
        let told = replies.trailers().await?.unwrap_or_default();
        let svid = match reply.step {
            Some(pb::server::agent::v1::attest_agent_response::Step::Result(result)) => {
                result.svid.context("no SVID in the result")?
            }
            other => bail!("unexpected step {other:?}"),
        };
        let identity = Arc::new(ArcSwap::new(Identity::new(svid.cert_chain, &key)?));
        let bundle = fetch_bundle(bootstrap).await?;
        let id = svid.id.context("no id in the SVID")?;
        let id = SpiffeId::new(TrustDomain::parse(&id.trust_domain)?, &id.path)?;
        let expected = server_id()?;
        let config = tls::client_config(
            Some(identity),
            Arc::new(OneBundle(Arc::new(bundle))),
            Arc::new(move |id: &SpiffeId| *id == expected),
            Arc::new(steeple_spiffe_core::time::SystemClock),
        )?;
        let channel = |address: &SocketAddr| tls_channel_to(*address, Arc::clone(&config));
        let channels = addresses.iter().map(channel).collect();
        Ok(Self { id, told, channels })
    }

    /// One channel a server, in the order of their addresses.
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }
}

async fn fetch_bundle(channel: Channel) -> Result<Bundle> {
    let mut bundles = pb::server::bundle::v1::bundle_client::BundleClient::new(channel);
    let request = pb::server::bundle::v1::GetBundleRequest { output_mask: None };
    let reply = bundles.get_bundle(request).await?.into_inner();
    steeple_api::convert::bundle::from_pb(&reply).context("read the bundle")
}

/// A fresh P-256 key and a request for it.
pub fn request_key() -> Result<(Secret, Vec<u8>)> {
    let key = rcgen::KeyPair::generate().context("generate a key")?;
    let params = rcgen::CertificateParams::new(Vec::<String>::new()).context("request")?;
    let csr = params.serialize_request(&key).context("sign the request")?;
    Ok((Secret::new(key.serialize_der()), csr.der().to_vec()))
}
