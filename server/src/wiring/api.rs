//! The API port: opened when the cluster has formed and there is something to sign with, as SPIRE
//! never serves without an authority.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use futures::future::{BoxFuture, OptionFuture};
use steeple_federation::Endpoint;
use steeple_federation::acme::Presenter;
use steeple_spiffe_core::tls::PublicIdentity;
use steeple_spiffe_core::{Clock, tls};
use tokio_util::sync::CancellationToken;

use super::parts::World;
use crate::authority::evidence::{ChallengeBoard, Survey};
use crate::authority::{Issuer, ServerSvid};
use crate::config::{BundleEndpointConfig, Config, EndpointProfile};
use crate::endpoint_certificate::EndpointCertificate;
use crate::gate::{Front, HandshakeTrust};
use crate::listen::ConnectionSignals;
use crate::listen::tcp::ApiListener;
use crate::own_bundle::OwnBundle;
use crate::view::Views;

/// How often readiness is looked at without a change of authorities: clocks become right by
/// themselves.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Opens the API port and serves it.
pub(super) struct ApiTask {
    pub(super) config: Arc<Config>,
    pub(super) front: Front,
    pub(super) issuer: Issuer,
    pub(super) views: Views,
    pub(super) survey: Survey,
    pub(super) endpoint_certificate: Option<EndpointCertificate>,
    pub(super) world: World,
    pub(super) signals: ConnectionSignals,
    pub(super) close: CancellationToken,
    pub(super) open: Arc<AtomicBool>,
}

impl ApiTask {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let stop = self.signals.shutdown.clone();
        if stop.run_until_cancelled(self.wait_ready()).await.is_none() {
            return Ok(());
        }
        let server = &self.config.server;
        let challenge_board = self.survey.challenge_board();
        let (identity, svid_task) = ServerSvid::start(
            self.issuer,
            self.views.clone(),
            server.trust_domain.clone(),
            Arc::clone(&self.world.clock),
            self.survey,
        )
        .await?;
        let clock = Arc::clone(&self.world.clock);
        let trust = HandshakeTrust::new(
            server.trust_domain.clone(),
            Arc::new(server.admin_ids.clone()),
            Arc::new(self.views.clone()),
            Arc::clone(&clock),
        );
        let endpoint = match &server.bundle_endpoint {
            Some(config) => {
                let documents = OwnBundle::new(
                    self.views.clone(),
                    server.trust_domain.clone(),
                    config.refresh_hint,
                );
                let presented = Presented {
                    own: Arc::clone(&identity),
                    certificate: self.endpoint_certificate,
                    challenge_board,
                };
                let clock = Arc::clone(&clock);
                Some(bundle_endpoint(config, documents, presented, clock, &stop).await?)
            }
            None => None,
        };
        let accept = trust.accept();
        let tls = tls::server_config(identity, trust, accept, clock)?;
        let listener = ApiListener::bind(&server.bind_address, server.bind_port).await?;
        tracing::info!(
            address = %listener.address(),
            network = "tcp",
            subsystem_name = "endpoints",
            "Starting Server APIs"
        );
        self.open.store(true, Ordering::Relaxed);
        let serve = listener.run(tls, self.front, self.signals, Arc::clone(&self.world.random));
        // The SVID is kept fresh while connections drain; its task ends with the port.
        let serve = futures::future::join(serve, OptionFuture::from(endpoint));
        tokio::select! {
            _ended = serve => {}
            () = svid_task.run(self.close) => {}
        }
        Ok(())
    }

    async fn wait_ready(&self) {
        while !self.issuer.ready() {
            tokio::time::timeout(LOOK_INTERVAL, self.issuer.wait_ready()).await.ok();
        }
    }
}

/// What the endpoint's certificate may come from.
struct Presented {
    own: Arc<ArcSwap<tls::Identity>>,
    certificate: Option<EndpointCertificate>,
    challenge_board: ChallengeBoard,
}

impl Presented {
    /// What handshakes are to read, and what keeps it current until the stop.
    fn follow(
        self,
        profile: &EndpointProfile,
        stop: &CancellationToken,
    ) -> anyhow::Result<(PublicIdentity, Option<BoxFuture<'static, ()>>)> {
        Ok(match (profile, self.certificate) {
            (EndpointProfile::HttpsWeb { files, sync_interval }, _) => {
                let current = Arc::new(ArcSwap::new(files.load()?));
                let watch = files.clone().watch(Arc::clone(&current), *sync_interval, stop.clone());
                (PublicIdentity::Web(current), Some(watch.boxed()))
            }
            (EndpointProfile::HttpsWebAcme(settings), Some(certificate)) => {
                let presenter = Presenter::new(
                    settings.clone(),
                    Arc::new(certificate.records),
                    certificate.clock,
                    self.challenge_board,
                );
                let identity = PublicIdentity::Acme(presenter.current());
                (identity, Some(presenter.run(stop.clone()).boxed()))
            }
            (EndpointProfile::HttpsSpiffe, _) => (PublicIdentity::Spiffe(self.own), None),
            (EndpointProfile::HttpsWebAcme(_), None) => {
                anyhow::bail!("the bundle endpoint's certificate by ACME was not prepared")
            }
        })
    }
}

/// Opens the bundle endpoint; what is returned serves it until the stop.
async fn bundle_endpoint(
    config: &BundleEndpointConfig,
    documents: OwnBundle,
    presented: Presented,
    clock: Arc<dyn Clock>,
    stop: &CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let (identity, watch) = presented.follow(&config.profile, stop)?;
    let tls = tls::public_server_config(identity, clock)?;
    let endpoint = Endpoint::bind(config.address).await?;
    tracing::info!(
        addr = %endpoint.address(),
        refresh_hint = ?config.refresh_hint,
        "Serving bundle endpoint"
    );
    let serve = endpoint.run(tls, Arc::new(documents), stop.clone());
    let both = futures::future::join(serve, OptionFuture::from(watch));
    Ok(async move {
        both.await;
    })
}
