//! Administrators of another trust domain, whom the bundle that is held of it vouches for.

use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use steeple_api::pb;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_api::pb::server::entry::v1::{
    BatchCreateEntryRequest, CountEntriesRequest, GetAuthorizedEntriesRequest,
};
use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::{self, BundleSource, Identity};
use steeple_spiffe_core::{Secret, SpiffeId, TrustDomain, pem};
use steeple_testkit::client::{request_key, tls_channel};
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::bundles::done;

const SOON: Duration = Duration::from_secs(30);

const ADMIN: &str = "spiffe://bar.test/admin";

/// The only bundle that a caller believes.
#[derive(Debug)]
struct Only(Arc<Bundle>);

impl BundleSource for Only {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        (self.0.trust_domain == *trust_domain).then(|| Arc::clone(&self.0))
    }
}

/// A chain and its private key.
type Svid = (Vec<Vec<u8>>, Secret);

/// An SVID of a workload of bar.
fn minted(bar: &Cluster, id: &str, folder: &Path) -> Svid {
    let place = folder.join(id.replace(['/', ':'], "-"));
    fs::create_dir_all(&place).unwrap();
    done(bar, 0, &["x509", "mint", "-spiffeID", id, "-write", place.to_str().unwrap()]);
    let chain = fs::read_to_string(place.join("svid.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(place.join("key.pem")).unwrap();
    (pem::decode_certificates(&chain).unwrap(), Secret::new(key.secret_der().to_vec()))
}

/// The SVID of an agent of bar, which is attested by a join token.
async fn attested(bar: &Cluster, token: &str) -> Svid {
    use pb::server::agent::v1::{
        AgentX509svidParams, AttestAgentRequest,
        agent_client::AgentClient,
        attest_agent_request::{Params, Step},
        attest_agent_response::Step as Answer,
    };
    let server = SpiffeId::server(TrustDomain::parse(bar.trust_domain()).unwrap());
    let tls = tls::insecure_bootstrap_client_config(server).unwrap();
    let (key, csr) = request_key().unwrap();
    let payload = token.as_bytes().to_vec();
    let data = Some(pb::types::AttestationData { r#type: "join_token".into(), payload });
    let params = Some(AgentX509svidParams { csr });
    let request = AttestAgentRequest { step: Some(Step::Params(Params { data, params })) };
    let mut agents = AgentClient::new(tls_channel(bar.member(0).unwrap().api_port, tls));
    let mut replies = agents.attest_agent(tokio_stream::once(request)).await.unwrap().into_inner();
    let reply = replies.message().await.unwrap().unwrap();
    let Some(Answer::Result(result)) = reply.step else { panic!("{reply:?}") };
    (result.svid.unwrap().cert_chain, key)
}

/// Channels to each member of foo for who has an SVID.
fn caller(own: &Cluster, (chain, key): Svid) -> Vec<Channel> {
    let identity = Arc::new(ArcSwap::new(Identity::new(chain, &key).unwrap()));
    let roots = pem::decode_certificates(&done(own, 0, &["bundle", "show"])).unwrap();
    let mut bundle = Bundle::empty(TrustDomain::parse(own.trust_domain()).unwrap());
    let authority = |certificate_der| X509Authority { certificate_der, tainted: false };
    bundle.x509_authorities = roots.into_iter().map(authority).collect();
    let servers = Arc::new(|id: &SpiffeId| id.is_server());
    let (bundle, clock) = (Arc::new(Only(Arc::new(bundle))), Arc::new(SystemClock));
    let config = tls::client_config(Some(identity), bundle, servers, clock).unwrap();
    let members = own.members().iter();
    members.map(|member| tls_channel(member.api_port, Arc::clone(&config))).collect()
}

async fn count(channel: &Channel) -> Result<i32, Status> {
    let mut entries = EntryClient::new(channel.clone());
    let reply = entries.count_entries(CountEntriesRequest::default()).await?;
    Ok(reply.into_inner().count)
}

/// Everybody is let in, and sees so many entries.
async fn all_see(channels: &[Channel], entries: i32) {
    for channel in channels {
        let seen = wait_for("a member that lets the administrator in", SOON, async || {
            let count = count(channel).await?;
            anyhow::ensure!(count == entries, "{count} entries");
            Ok(())
        });
        seen.await.unwrap();
    }
}

/// The handshake fails: nothing was asked.
async fn is_refused_at_the_door(channel: &Channel) {
    let status = count(channel).await.unwrap_err();
    assert!(status.source().is_some() && status.code() != Code::PermissionDenied, "{status:?}");
}

fn is_denied<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let text = "authorization denied for method /";
    assert!(status.message().starts_with(text) && status.details().is_empty(), "{status:?}");
}

/// What no administrator of another trust domain may do.
async fn is_nothing_else(channel: &Channel) {
    let mut entries = EntryClient::new(channel.clone());
    is_denied(entries.get_authorized_entries(GetAuthorizedEntriesRequest::default()).await);
    let mut svids = pb::server::svid::v1::svid_client::SvidClient::new(channel.clone());
    let request = pb::server::svid::v1::NewDownstreamX509caRequest::default();
    is_denied(svids.new_downstream_x509ca(request).await);
    let mut agents = pb::server::agent::v1::agent_client::AgentClient::new(channel.clone());
    is_denied(agents.renew_agent(pb::server::agent::v1::RenewAgentRequest::default()).await);
    let mut cluster = pb::cluster::v1::cluster_client::ClusterClient::new(channel.clone());
    is_denied(cluster.status(pb::cluster::v1::StatusRequest {}).await);
}

async fn creates_an_entry(channel: &Channel) {
    let id = |path: &str| {
        Some(pb::types::Spiffeid { trust_domain: "foo.test".into(), path: path.to_owned() })
    };
    let selector = pb::types::Selector { r#type: "unix".into(), value: "uid:1".into() };
    let entry = pb::types::Entry {
        spiffe_id: id("/web"),
        parent_id: id("/node"),
        selectors: vec![selector],
        ..Default::default()
    };
    let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    let reply = EntryClient::new(channel.clone()).batch_create_entry(request).await.unwrap();
    let status = reply.into_inner().results[0].status.clone().unwrap();
    assert_eq!(status.code, 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_administrator_is_one_while_the_bundle_of_its_trust_domain_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let spec = ClusterSpec { trust_domain: "bar.test", members: 1, ..ClusterSpec::default() };
    let bar = Cluster::start(&place.join("bar"), &spec).await.unwrap();
    let token = bar.member(0).unwrap().cli_json(&["token", "generate"]).unwrap();
    let token = token["value"].as_str().unwrap().to_owned();
    // An agent of bar is an administrator too, and not an agent.
    let agent_id = format!("spiffe://bar.test/spire/agent/join_token/{token}");
    let admin_ids = format!("  admin_ids = [\"{ADMIN}\", \"{agent_id}\"]\n");
    let server_lines = admin_ids.clone();
    let spec = ClusterSpec { trust_domain: "foo.test", server_lines, ..ClusterSpec::default() };
    let mut own = Cluster::start(&place.join("foo"), &spec).await.unwrap();
    let admin = caller(&own, minted(&bar, ADMIN, place));
    let agent = caller(&own, attested(&bar, &token).await);
    let other = caller(&own, minted(&bar, "spiffe://bar.test/other", place));
    let pem = |cluster: &Cluster| {
        let path = place.join(format!("{}.pem", cluster.trust_domain()));
        fs::write(&path, done(cluster, 0, &["bundle", "show"])).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ours, theirs) = (pem(&own), pem(&bar));
    let set = |own: &Cluster, member, path: &str| {
        done(own, member, &["bundle", "set", "-id", "bar.test", "-path", path]);
    };

    for (channel, member) in admin.iter().zip(own.members()) {
        is_refused_at_the_door(channel).await;
        let log = fs::read_to_string(member.log()).unwrap();
        let told = log.matches("No bundle found for foreign admin trust domain").count();
        assert_eq!(told, 1, "{log}");
    }
    set(&own, 1, &theirs);
    all_see(&admin, 0).await;
    creates_an_entry(&admin[2]).await;
    all_see(&agent, 1).await;
    for channel in admin.iter().chain(&agent) {
        is_nothing_else(channel).await;
    }
    for channel in &other {
        is_refused_at_the_door(channel).await;
    }

    // The connections are open, and refused as soon as the command has returned.
    done(&own, 0, &["bundle", "delete", "-id", "bar.test"]);
    for channel in &admin {
        is_denied(count(channel).await);
    }
    set(&own, 2, &theirs);
    all_see(&admin, 1).await;
    set(&own, 1, &ours);
    for channel in admin.iter().chain(&agent) {
        is_denied(count(channel).await);
    }

    set(&own, 0, &theirs);
    own.stop_member(0).await.unwrap();
    let config = own.member(0).unwrap().config();
    let text = fs::read_to_string(&config).unwrap().replace(&admin_ids, "");
    fs::write(&config, text).unwrap();
    own.start_member(0).unwrap();
    own.wait_ready(SOON).await.unwrap();
    is_refused_at_the_door(&admin[0]).await;
    all_see(&admin[1..], 1).await;
}
