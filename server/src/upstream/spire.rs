//! `UpstreamAuthority "spire"`: a SPIRE or Steeple server of the same trust domain above this cluster.
//!
//! Owns the calls: an SVID of this member from the Workload API of an agent of the upstream server, and
//! with it the upstream server's API. Each call fetches the SVID anew and opens a connection of its own:
//! they are few, and nothing can go stale. Each member has such an agent beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use steeple_api::convert::bundle as convert;
use steeple_api::pb;
use steeple_api::pb::server::bundle::v1 as bundle_rpc;
use steeple_api::pb::server::svid::v1 as svid_rpc;
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use steeple_spiffe_core::tls::{self, BundleSource, Identity, TlsError};
use steeple_spiffe_core::{Clock, Secret, SpiffeId, TrustDomain};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use super::authority::{MintedCa, UpstreamAuthority, UpstreamError, UpstreamTrust};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Workload API clients say by this that they are no browser.
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The plugin's configuration keys, as they stand in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpireSettings {
    /// `server_address`.
    pub server_address: String,
    /// `server_port`.
    pub server_port: u16,
    /// `workload_api_socket`.
    pub workload_api_socket: PathBuf,
}

/// A call to the upstream server came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SpireError {
    /// The agent gives no SVID.
    #[error("fetch X509-SVID from the Workload API at {}", socket.display())]
    WorkloadApi {
        /// Where it was asked.
        socket: PathBuf,
        /// What it answered.
        #[source]
        source: Box<Status>,
    },
    /// What the agent gave cannot be used.
    #[error("the Workload API at {} gave no X509-SVID that can be used: {reason}", socket.display())]
    Svid {
        /// Where it was asked.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS library refused the SVID.
    #[error("use X509-SVID for TLS")]
    Tls(#[from] TlsError),
    /// The upstream server cannot be reached, or refuses.
    #[error("{doing} at {address}")]
    Call {
        /// What was asked.
        doing: &'static str,
        /// Of whom.
        address: String,
        /// What it answered.
        #[source]
        source: Box<Status>,
    },
    /// The upstream server's answer makes no sense.
    #[error("{doing} at {address}: {reason}")]
    Answer {
        /// What was asked.
        doing: &'static str,
        /// Of whom.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Has a server above sign.
#[derive(Clone, Debug)]
pub struct Spire {
    settings: SpireSettings,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
}

impl Spire {
    /// Nothing is asked yet: the server above may start later.
    pub fn new(settings: SpireSettings, trust_domain: TrustDomain, clock: Arc<dyn Clock>) -> Self {
        Self { settings, trust_domain, clock }
    }

    fn address(&self) -> String {
        format!("{}:{}", self.settings.server_address, self.settings.server_port)
    }

    /// A connection to the server above, as the workload that this member is there.
    async fn connect(&self) -> Result<Channel, SpireError> {
        let own = self.fetch_svid().await?;
        let expected = SpiffeId::server(self.trust_domain.clone());
        let config = tls::client_config(
            Some(Arc::new(ArcSwap::new(own.identity))),
            Arc::new(own.bundle),
            Arc::new(move |id: &SpiffeId| *id == expected),
            Arc::clone(&self.clock),
        )?;
        let address = self.address();
        let connector = tower::service_fn(move |_: Uri| {
            let (config, address) = (Arc::clone(&config), address.clone());
            async move {
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                // Never sent and never compared: the server is known by its SPIFFE id.
                let name = ServerName::try_from("spire-server").map_err(std::io::Error::other)?;
                let connector = tokio_rustls::TlsConnector::from(config);
                connector.connect(name, stream).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://spire-server");
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT);
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    /// The first SVID that the agent gives this process (SPIRE: likewise), and its bundle.
    async fn fetch_svid(&self) -> Result<Own, SpireError> {
        let socket = &self.settings.workload_api_socket;
        let failed = |status: Status| SpireError::WorkloadApi {
            socket: socket.clone(),
            source: Box::new(status),
        };
        let bad = |reason: String| SpireError::Svid { socket: socket.clone(), reason };
        let mut api = pb::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(
            unix_channel(socket),
        );
        let mut request = Request::new(pb::workload::X509svidRequest {});
        let header = "true".parse().map_err(|_ascii| bad("metadata".to_owned()))?;
        request.metadata_mut().insert(SECURITY_HEADER, header);
        request.set_timeout(CALL_TIMEOUT);
        let mut answers = api.fetch_x509svid(request).await.map_err(failed)?.into_inner();
        let answer = answers.message().await.map_err(failed)?;
        let svid = answer.into_iter().flat_map(|answer| answer.svids).next();
        let svid = svid.ok_or_else(|| bad("there is none".to_owned()))?;
        let chain = certificates(svid.x509_svid).map_err(bad)?;
        let chain = chain.into_iter().map(|one| one.certificate_der).collect();
        let identity = Identity::new(chain, &Secret::new(svid.x509_svid_key))?;
        if !identity.svid().id.is_member_of(&self.trust_domain) {
            return Err(bad(format!("{} is of another trust domain", identity.svid().id)));
        }
        let x509_authorities = certificates(svid.bundle).map_err(bad)?;
        let bundle = Bundle { x509_authorities, ..Bundle::empty(self.trust_domain.clone()) };
        Ok(Own { identity, bundle: OwnBundle(Arc::new(bundle)) })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(Status) -> SpireError + '_ {
        move |status| SpireError::Call { doing, address: self.address(), source: Box::new(status) }
    }

    fn answer(&self, doing: &'static str, reason: String) -> SpireError {
        SpireError::Answer { doing, address: self.address(), reason }
    }

    async fn bundle(&self, channel: Channel) -> Result<Bundle, SpireError> {
        let doing = "fetch the bundle";
        let mut bundles = bundle_rpc::bundle_client::BundleClient::new(channel);
        let request = bundle_rpc::GetBundleRequest { output_mask: None };
        let message = bundles.get_bundle(request).await.map_err(self.failed(doing))?.into_inner();
        let bundle = convert::with_taints_from_pb(&message)
            .map_err(|error| self.answer(doing, error.to_string()))?;
        if bundle.trust_domain != self.trust_domain {
            let reason = format!("it is that of {}", bundle.trust_domain);
            return Err(self.answer(doing, reason));
        }
        Ok(bundle)
    }
}

#[tonic::async_trait]
impl UpstreamAuthority for Spire {
    fn name(&self) -> &'static str {
        "spire"
    }

    async fn mint(&self, csr: &[u8], preferred_ttl: Duration) -> Result<MintedCa, UpstreamError> {
        let doing = "request a new downstream X509 CA";
        let channel = self.connect().await?;
        let mut svids = svid_rpc::svid_client::SvidClient::new(channel.clone());
        let preferred_ttl = i32::try_from(preferred_ttl.as_secs()).unwrap_or(i32::MAX);
        let request = svid_rpc::NewDownstreamX509caRequest { csr: csr.to_vec(), preferred_ttl };
        let answer = svids.new_downstream_x509ca(request).await.map_err(self.failed(doing))?;
        let chain = answer.into_inner().ca_cert_chain;
        // Its answer names roots as well, but not which of them are tainted.
        let bundle = self.bundle(channel).await?;
        let clean = bundle.x509_authorities.into_iter().filter(|root| !root.tainted);
        Ok(MintedCa { chain, roots: clean.map(|root| root.certificate_der).collect() })
    }

    async fn publish_jwt_key(
        &self,
        key: &JwtAuthority,
    ) -> Result<Option<Vec<JwtAuthority>>, UpstreamError> {
        let doing = "push JWT authority";
        let mut bundles = bundle_rpc::bundle_client::BundleClient::new(self.connect().await?);
        let jwt_authority = Some(convert::jwt_authority_to_pb(key));
        let request = bundle_rpc::PublishJwtAuthorityRequest { jwt_authority };
        let answer = bundles.publish_jwt_authority(request).await.map_err(self.failed(doing))?;
        let keys = answer.into_inner().jwt_authorities;
        let keys = keys.iter().map(convert::jwt_authority_from_pb).collect::<Result<_, _>>();
        Ok(Some(keys.map_err(|error| self.answer(doing, error.to_string()))?))
    }

    async fn trust(&self) -> Result<Option<UpstreamTrust>, UpstreamError> {
        let bundle = self.bundle(self.connect().await?).await?;
        let Bundle { x509_authorities, jwt_authorities, .. } = bundle;
        Ok(Some(UpstreamTrust { x509_authorities, jwt_authorities }))
    }
}

/// What this member is to the server above.
struct Own {
    identity: Arc<Identity>,
    bundle: OwnBundle,
}

/// The bundle that came with the SVID.
#[derive(Debug)]
struct OwnBundle(Arc<Bundle>);

impl BundleSource for OwnBundle {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        (self.0.trust_domain == *trust_domain).then(|| Arc::clone(&self.0))
    }
}

/// Certificates that stand one after the other.
fn certificates(asn1: Vec<u8>) -> Result<Vec<X509Authority>, String> {
    let message = pb::types::X509Certificate { asn1, tainted: false };
    convert::x509_authorities_from_pb(&[message]).map_err(|error| error.to_string())
}

fn unix_channel(path: &Path) -> Channel {
    let path = Arc::new(path.to_owned());
    let connector = tower::service_fn(move |_: Uri| {
        let path = Arc::clone(&path);
        async move { UnixStream::connect(path.as_path()).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT);
    endpoint.connect_with_connector_lazy(connector)
}
