//! A stock server below our cluster, and our cluster below a stock server: one trust domain each, and
//! what either signs verifies with what the upper one publishes.
//!
//! The agents between them are ours; those of SPIRE are tested beside.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use steeple_api::convert::bundle as convert;
use steeple_api::pb::server::bundle::v1::{GetBundleRequest, bundle_client::BundleClient};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::pem;
use steeple_spiffe_core::svid::x509::verify_chain;
use steeple_spiffe_core::time::{Clock as _, SystemClock};
use steeple_testkit::client::unix_channel;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Agent, Cluster, ClusterSpec};

use super::server::StockServer;
use super::{NODE, WITHIN, authorities};

/// Who the servers below are.
const BELOW: &str = "spiffe://example.org/below";

/// Both ways.
pub(super) async fn run(folder: &Path, binaries: &Path) -> Result<()> {
    stock_below(&folder.join("stock-below"), binaries)
        .await
        .context("a stock server below ours")?;
    ours_below(&folder.join("ours-below"), binaries).await.context("ours below a stock server")
}

/// The stock server shares our root and follows a forced rotation of it.
async fn stock_below(folder: &Path, binaries: &Path) -> Result<()> {
    let cluster = Cluster::start(&folder.join("cluster"), &ClusterSpec::default()).await?;
    let token = crate::demo::token(&cluster, 0, Some(NODE))?;
    cluster.member(1)?.cli_json(&[&entry()[..], &["-selector", &selector()]].concat())?;
    let agent = Agent::start(&folder.join("agent"), &cluster, &[2, 0, 1], &token, "").await?;
    let above = cluster.member(0)?;
    let plugin = plugin(above.api_port, &agent);
    let below = StockServer::start(&folder.join("stock"), binaries, &plugin).await?;
    let stock = binaries.join("spire-server");
    let verified = async || {
        let chain = mint(&stock, &below.socket(), folder)?;
        ensure!(chain.len() == 2, "{} certificates", chain.len());
        let published = bundle(&above.socket()).await?;
        verify_chain(&chain, &published, SystemClock.now())?;
        let here = bundle(&below.socket()).await?;
        ensure!(here.x509_authorities == published.x509_authorities, "it publishes other roots");
        let known = |key: &str| published.jwt_authorities.iter().any(|one| one.key_id == key);
        ensure!(here.jwt_authorities.iter().all(|key| known(&key.key_id)), "its key is not known");
        Ok(())
    };
    wait_for("a shared trust", WITHIN, verified).await?;

    let old = authorities::id_of(&cluster, 0, "x509", "active")?;
    let new = authorities::prepare(&cluster, 1, "x509")?;
    authorities::step(&cluster, 2, "x509", "activate", &new)?;
    authorities::step(&cluster, 0, "x509", "taint", &old)?;
    let line = "Current root CA is signed by a tainted upstream authority, preparing rotation";
    wait_for("the stock server to see the taint", WITHIN, async || {
        let log = below.log_text();
        ensure!(log.contains(line), "not yet");
        Ok(())
    })
    .await?;
    authorities::step(&cluster, 1, "x509", "revoke", &old)?;
    wait_for("a shared trust after the revocation", WITHIN, verified).await
}

/// Our cluster shares the root of the stock server.
async fn ours_below(folder: &Path, binaries: &Path) -> Result<()> {
    let above = StockServer::start(&folder.join("stock"), binaries, "").await?;
    let ours = binary("spire-server")?;
    let token = above.token(&ours)?;
    above.command(&ours, &[&entry()[..], &["-selector", &selector()]].concat())?;
    let trusted = above.bundle_pem(&ours)?;
    let addresses = [format!("127.0.0.1:{}", above.port)];
    let agent = Agent::start_at(&folder.join("agent"), &addresses, &trusted, &token).await?;
    let spec = ClusterSpec { plugin_lines: plugin(above.port, &agent), ..ClusterSpec::default() };
    let cluster = Cluster::start(&folder.join("cluster"), &spec).await?;
    for member in cluster.members() {
        let chain = mint(&ours, &member.socket(), folder)?;
        ensure!(chain.len() == 2, "{} certificates", chain.len());
        verify_chain(&chain, &bundle(&above.socket()).await?, SystemClock.now())?;
    }
    let key = authorities::id_of(&cluster, 0, "jwt", "active")?;
    let published = bundle(&above.socket()).await?.jwt_authorities;
    ensure!(published.iter().any(|one| one.key_id == key), "the stock server lacks our JWT key");

    let [old, new] = above.replace_root(&binaries.join("spire-server"))?;
    wait_for("our cluster to follow the taint", WITHIN, async || {
        let shown = cluster.member(1)?.cli_json(&["localauthority", "x509", "show"])?;
        let signer = shown.pointer("/active/upstream_authority_subject_key_id");
        let signer = signer.and_then(|id| id.as_str()).unwrap_or_default();
        ensure!(signer == new && signer != old, "it is below {signer}");
        let known = bundle(&cluster.member(2)?.socket()).await?.x509_authorities;
        ensure!(known.iter().any(|root| root.tainted), "the old root is not marked");
        Ok(())
    })
    .await
}

fn plugin(port: u16, agent: &Agent) -> String {
    format!(
        "UpstreamAuthority \"spire\" {{ plugin_data {{\n    server_address = \"127.0.0.1\"\n    \
         server_port = \"{port}\"\n    workload_api_socket = \"{}\"\n  }} }}\n",
        agent.socket().display()
    )
}

fn selector() -> String {
    format!("unix:uid:{}", nix::unistd::getuid())
}

/// The words that make the entry of the servers below, but for the selector.
fn entry() -> [&'static str; 7] {
    ["entry", "create", "-parentID", NODE, "-spiffeID", BELOW, "-downstream"]
}

async fn bundle(socket: &Path) -> Result<Bundle> {
    let mut bundles = BundleClient::new(unix_channel(socket));
    let message = bundles.get_bundle(GetBundleRequest { output_mask: None }).await?.into_inner();
    convert::with_taints_from_pb(&message).context("read the bundle")
}

/// An SVID as its chain.
fn mint(tool: &Path, socket: &Path, folder: &Path) -> Result<Vec<Vec<u8>>> {
    let mut command = Command::new(tool);
    command.args(["x509", "mint", "-spiffeID", "spiffe://example.org/minted", "-write"]);
    let output = command.arg(folder).arg("-socketPath").arg(socket).output().context("mint")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "mint: {text}");
    let text = fs::read_to_string(folder.join("svid.pem")).context("read the chain")?;
    Ok(pem::decode_certificates(&text)?)
}
