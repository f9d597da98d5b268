//! Parts that are made from the configuration alone, or from it and a few others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use steeple_api::pb;
use steeple_federation::{HttpsFetcher, Timing};
use steeple_raft_store::{ClusterKeys, Seams, Storage, StoreHandle, Tcp, Tuning};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::random::{Random, SystemRandom};
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::BundleSource;
use steeple_spiffe_core::{Clock, TrustDomain};
use tonic::service::Routes;

use crate::attest::{Attestors, JoinToken, X509Pop, X509PopConfigError};
use crate::authority::{AuthorityPolicy, PEER_MINUTE};
use crate::check::CheckParts;
use crate::config::{AttestorConfig, Config, UpstreamConfig, settings_hash};
use crate::gate::Reads;
use crate::gate::staleness::Limits;
use crate::refresher::{Live, Refresher};
use crate::service::{
    AgentService, BundleService, ClusterService, Context, EntryService, HealthService,
    LocalAuthorityService, SvidService, TrustDomainService,
};
#[cfg(feature = "kubernetes")]
use crate::upstream::{CertManager, CertManagerError};
use crate::upstream::{
    Disk, DiskError, Spire, Upstream, UpstreamAuthority, Vault, VaultError, VaultSettings,
};
use crate::view::Views;

/// A plugin whose configuration is refused.
#[derive(Debug, thiserror::Error)]
#[error("configure {plugin}")]
pub struct PluginError {
    plugin: String,
    #[source]
    source: Box<PluginConfigError>,
}

/// Why a plugin's configuration is refused.
#[derive(Debug, thiserror::Error)]
enum PluginConfigError {
    #[error(transparent)]
    X509Pop(#[from] X509PopConfigError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[cfg(feature = "kubernetes")]
    #[error(transparent)]
    CertManager(#[from] CertManagerError),
}

impl PluginError {
    fn new(plugin: &str, error: impl Into<PluginConfigError>) -> Self {
        Self { plugin: plugin.to_owned(), source: Box::new(error.into()) }
    }

    /// Which plugin, as the file names it: `NodeAttestor "x509pop"`.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }
}

/// Clock and randomness of the real world.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
}

impl World {
    pub(super) fn real() -> Self {
        Self { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom) }
    }
}

/// The attestors of a configuration.
pub(super) fn attestors(
    config: &Config,
    bundles: &Arc<dyn BundleSource>,
    world: &World,
) -> Result<Attestors, PluginError> {
    let mut attestors = Attestors::default();
    let trust_domain = &config.server.trust_domain;
    for attestor in &config.plugins.attestors {
        match attestor {
            AttestorConfig::JoinToken => {}
            AttestorConfig::X509Pop(settings) => {
                let configured = X509Pop::configure(
                    (**settings).clone(),
                    trust_domain.clone(),
                    Arc::clone(bundles),
                    Arc::clone(&world.clock),
                    Arc::clone(&world.random),
                );
                let plugin = "NodeAttestor \"x509pop\"";
                let configured = configured.map_err(|error| PluginError::new(plugin, error))?;
                attestors.insert(Arc::new(configured));
            }
        }
    }
    // Tokens work without their block, as in SPIRE: the server itself answers for them.
    attestors.insert(Arc::new(JoinToken::new(trust_domain.clone())));
    Ok(attestors)
}

/// The upstream authority of a configuration.
pub(super) fn upstream(config: &Config, world: &World) -> Result<Option<Upstream>, PluginError> {
    let Some(configured) = &config.plugins.upstream else { return Ok(None) };
    let authority: Arc<dyn UpstreamAuthority> = match configured {
        UpstreamConfig::Disk(settings) => {
            let disk = Disk::configure(
                settings.clone(),
                config.server.trust_domain.clone(),
                Arc::clone(&world.clock),
                Arc::clone(&world.random),
            );
            Arc::new(disk.map_err(|error| refused(configured, error))?)
        }
        UpstreamConfig::Spire(settings) => Arc::new(Spire::new(
            settings.clone(),
            config.server.trust_domain.clone(),
            Arc::clone(&world.clock),
        )),
        UpstreamConfig::Vault(settings) => {
            let environment = |name: &str| std::env::var(name).ok();
            let clock = Arc::clone(&world.clock);
            let vault = Vault::configure(VaultSettings::clone(settings), &environment, clock);
            Arc::new(vault.map_err(|error| refused(configured, error))?)
        }
        #[cfg(feature = "kubernetes")]
        UpstreamConfig::CertManager(settings) => {
            let trust_domain = config.server.trust_domain.clone();
            let clock = Arc::clone(&world.clock);
            let configured_one = CertManager::configure(settings.clone(), trust_domain, clock);
            Arc::new(configured_one.map_err(|error| refused(configured, error))?)
        }
    };
    Ok(Some(Upstream::new(authority)))
}

fn refused(configured: &UpstreamConfig, error: impl Into<PluginConfigError>) -> PluginError {
    PluginError::new(&format!("UpstreamAuthority {:?}", configured.name()), error)
}

/// Configures the plugins as a start would, for `validate`; returns what is to be warned of.
///
/// # Errors
///
/// The first plugin that refuses its configuration.
pub fn check_plugins(config: &Config) -> Result<Option<String>, PluginError> {
    let (bundles, world): (Arc<dyn BundleSource>, _) = (Arc::new(NoBundles), World::real());
    attestors(config, &bundles, &world)?;
    let standing = upstream(config, &world)?.and_then(|upstream| upstream.look_now());
    let trouble =
        standing.and_then(|one| one.trouble(config.server.authority.ca_ttl, world.clock.now()));
    Ok(trouble.map(|trouble| format!("{}; {}", trouble.text(), trouble.fix())))
}

#[derive(Debug)]
struct NoBundles;

impl BundleSource for NoBundles {
    fn bundle(&self, _trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        None
    }
}

/// The registry's settings.
pub(crate) async fn store_config(
    config: &Config,
    keys: Arc<ClusterKeys>,
) -> anyhow::Result<steeple_raft_store::Config> {
    let cluster = &config.cluster;
    let bind = match &cluster.bind {
        None => None,
        Some((host, port)) => Some(resolve(host, *port).await?),
    };
    Ok(steeple_raft_store::Config {
        data_dir: config.server.data_dir.join("raft"),
        cluster_name: cluster.name.clone(),
        cluster_id: cluster.cluster_id,
        trust_domain: config.server.trust_domain.clone(),
        bind,
        advertise: cluster.advertise_address.clone(),
        peers: cluster.peers.clone(),
        keys,
        voters_max: cluster.voters_max,
        replace_dead_after: cluster.replace_dead_after,
        heartbeat_interval: cluster.heartbeat_interval,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings_hash: settings_hash(config),
        leave_on_terminate: cluster.leave_on_terminate,
        tuning: tuning()?,
    })
}

fn tuning() -> anyhow::Result<Tuning> {
    let tuning = Tuning::default();
    match older_release()? {
        Some(feature_level_max) => Ok(Tuning { feature_level_max, ..tuning }),
        None => Ok(tuning),
    }
}

/// What fetches the bundles of foreign trust domains.
pub(super) fn refresher(
    config: &Config,
    handle: StoreHandle,
    views: Views,
    world: &World,
) -> anyhow::Result<Refresher> {
    let of_file = config.server.federates_with.iter();
    let of_file = of_file.map(|one| (one.trust_domain.clone(), Arc::new(one.clone())));
    let timing = refresh_minute()?.map_or_else(Timing::default, Timing::with_minute);
    Ok(Refresher {
        handle,
        views,
        of_file: Arc::new(of_file.collect()),
        fetch: Arc::new(HttpsFetcher::new(Arc::clone(&world.clock))),
        clock: Arc::clone(&world.clock),
        timing,
        live: Live::default(),
    })
}

/// How long after it was made an authority is known to peers of other trust domains, if any fetch it.
pub(super) fn peers_known_within(policy: &AuthorityPolicy) -> anyhow::Result<Option<Duration>> {
    Ok(policy.peers_known_within(refresh_minute()?.unwrap_or(PEER_MINUTE)))
}

/// How long the refresher's minute is, and that of peers who are waited for, so that tests need not
/// wait for it. Builds with assertions alone look at it: none that is shipped does.
fn refresh_minute() -> anyhow::Result<Option<Duration>> {
    const VARIABLE: &str = "STEEPLE_REFRESH_MINUTE_MS";
    match std::env::var(VARIABLE) {
        Ok(text) if cfg!(debug_assertions) => {
            let ms = text.parse().with_context(|| format!("{VARIABLE} is not a number"))?;
            Ok(Some(Duration::from_millis(ms)))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}

/// The feature level of an older release that this process is to stand for, so that upgrades can be
/// tested with one build. Builds with assertions alone look at it: none that is shipped does.
fn older_release() -> anyhow::Result<Option<u32>> {
    const VARIABLE: &str = "STEEPLE_FEATURE_LEVEL_MAX";
    match std::env::var(VARIABLE) {
        Ok(text) if cfg!(debug_assertions) => {
            text.parse().map(Some).with_context(|| format!("{VARIABLE} is not a number"))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}

async fn resolve(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host((host, port))
        .await
        .with_context(|| format!("could not resolve cluster.bind_address {host:?}"))?;
    found.next().with_context(|| format!("cluster.bind_address {host:?} has no address"))
}

/// How the registry meets the real world.
pub(crate) fn seams(world: &World) -> Seams {
    Seams {
        clock: Arc::clone(&world.clock),
        random: Arc::clone(&world.random),
        storage: Storage::Rocks,
        transport: Arc::new(Tcp),
    }
}

/// Confirmed reads with the configured patience.
pub(super) fn reads(config: &Config, store: StoreHandle, views: Views, world: &World) -> Reads {
    let limits = Limits {
        renew_only_delay: config.cluster.renew_only_delay,
        max_staleness: config.cluster.max_staleness,
    };
    let barrier_timeout = config.cluster.barrier_timeout;
    Reads::new(store, views, Arc::clone(&world.clock), limits, barrier_timeout)
}

/// The services of the API port, and of the admin socket, which has a few more.
pub(super) fn routes(context: &Context, cluster_name: &str, check: CheckParts) -> (Routes, Routes) {
    use pb::agent_ext::v1::updates_server::UpdatesServer;
    use pb::cluster::v1::cluster_server::ClusterServer;
    use pb::cluster::v1::rebuild_server::RebuildServer;
    use pb::health::health_server::HealthServer;
    use pb::server::agent::v1::agent_server::AgentServer;
    use pb::server::bundle::v1::bundle_server::BundleServer;
    use pb::server::entry::v1::entry_server::EntryServer;
    use pb::server::localauthority::v1::local_authority_server::LocalAuthorityServer;
    use pb::server::svid::v1::svid_server::SvidServer;
    use pb::server::trustdomain::v1::trust_domain_server::TrustDomainServer;

    let cluster = ClusterService::new(context.clone(), cluster_name.to_owned(), check);
    let api = Routes::new(AgentServer::new(AgentService::new(context.clone())))
        .add_service(BundleServer::new(BundleService::new(context.clone())))
        .add_service(EntryServer::new(EntryService::new(context.clone())))
        .add_service(SvidServer::new(SvidService::new(context.clone())))
        .add_service(TrustDomainServer::new(TrustDomainService::new(context.clone())))
        .add_service(LocalAuthorityServer::new(LocalAuthorityService::new(context.clone())))
        .add_service(ClusterServer::new(cluster))
        .add_service(UpdatesServer::new(crate::service::UpdatesService::new(context.clone())));
    let socket = api
        .clone()
        .add_service(HealthServer::new(HealthService::new(context.clone())))
        .add_service(RebuildServer::new(crate::held::Serving));
    (api, socket)
}
