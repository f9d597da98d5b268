//! Our cluster and a stock server, each of a trust domain of its own, federate: either fetches the
//! other's bundle, follows it while authorities are replaced on both sides, and gives it to the
//! workloads whose entries name it, who shake hands.
//!
//! Our agent is on our cluster, a stock agent on the stock server; each command is typed with the
//! tool of its server.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use spiffe::WorkloadApiClient;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Agent, Balancer, Cluster, ClusterSpec, Process, ports};

use super::server::StockServer;
use super::{NODE, authorities};

/// The trust domain of our cluster; the stock server has the other name.
const OURS: &str = "foo.test";

/// Both sides tell the other to come so often, the shortest that either heeds: a new bundle is seen
/// after a quarter of it.
const HINT: &str = "1m";

/// Until when a new bundle is fetched, after a try that failed too; or a new SVID is served.
const WITHIN: Duration = Duration::from_secs(90);

/// Until when `cluster rotate` lets a new authority sign: peers are given two and a half minutes.
const KNOWN_WITHIN: Duration = Duration::from_secs(240);

/// Workloads' SVIDs live so long: those of a new authority are seen soon.
const SVID_TTL: &str = "30";

/// Either direction, then a rotation of either side.
pub(super) async fn run(folder: &Path, binaries: &Path) -> Result<()> {
    let pair = Pair::start(folder, binaries).await?;
    pair.relate()?;
    pair.follow().await.context("the first fetches")?;
    pair.register()?;
    pair.meet([None, None]).await.context("federated")?;

    let id = pair.stock_prepares()?;
    pair.follow().await.context("after the stock server prepared an authority")?;
    let activate = ["localauthority", "x509", "activate", "-authorityID", &id];
    pair.stock.command(&pair.stock_tool, &activate)?;
    pair.meet([None, Some(&id)]).await.context("after the stock server's rotation")?;

    let id = pair.rotate_ours().await?;
    pair.follow().await.context("after our rotation")?;
    pair.meet([Some(&id), None]).await.context("after our rotation")
}

/// The two trust domains.
struct Pair {
    folder: PathBuf,
    cluster: Cluster,
    agent: Agent,
    /// In front of our endpoints.
    endpoint: Balancer,
    stock: StockServer,
    stock_tool: PathBuf,
    stock_port: u16,
    stock_agent: StockAgent,
}

impl Pair {
    async fn start(folder: &Path, binaries: &Path) -> Result<Self> {
        let spec = ClusterSpec { trust_domain: OURS, ..ClusterSpec::default() };
        let mut cluster = Cluster::prepare(&folder.join("cluster"), &spec)?;
        let [one, two, three, stock_port]: [u16; 4] = ports::lease()?;
        let own = [one, two, three];
        for (index, port) in own.into_iter().enumerate() {
            cluster.member(index)?.add_server_lines(&endpoint_lines(port))?;
            cluster.start_member(index)?;
        }
        cluster.wait_ready(WITHIN).await?;
        let endpoint = Balancer::start(&own).await?;
        let token = crate::demo::token(&cluster, 0, Some(&format!("spiffe://{OURS}/node")))?;
        let agent = Agent::start(&folder.join("agent"), &cluster, &[2, 0, 1], &token, "").await?;

        let place = folder.join("stock-server");
        let lines = endpoint_lines(stock_port);
        let stock = StockServer::start_with(&place, binaries, &lines, "").await?;
        let stock_tool = binaries.join("spire-server");
        let stock_agent = StockAgent::start(&folder.join("stock-agent"), binaries, &stock)?;
        let folder = folder.to_owned();
        Ok(Self { folder, cluster, agent, endpoint, stock, stock_tool, stock_port, stock_agent })
    }

    /// A relationship on each side, on the roots that the other has now.
    fn relate(&self) -> Result<()> {
        let [of_ours, of_stock] = ["ours.pem", "stock.pem"].map(|name| self.folder.join(name));
        let shown = self.cluster.member(0)?.cli(&["bundle", "show"])?.stdout;
        fs::write(&of_ours, shown).context("write our roots")?;
        let shown = self.stock.bundle_pem(&self.stock_tool)?;
        fs::write(&of_stock, shown).context("write the stock server's roots")?;
        let words = |name: &str, port: u16, roots: &Path| {
            let text = format!(
                "federation create -trustDomain {name} -bundleEndpointURL https://127.0.0.1:{port} \
                 -bundleEndpointProfile https_spiffe -endpointSpiffeID spiffe://{name}/spire/server \
                 -trustDomainBundlePath {}",
                roots.display()
            );
            text.split(' ').map(str::to_owned).collect::<Vec<_>>()
        };
        let on_ours = words(TRUST_DOMAIN, self.stock_port, &of_stock);
        self.cluster
            .member(1)?
            .cli_json(&on_ours.iter().map(String::as_str).collect::<Vec<_>>())?;
        let on_stock = words(OURS, self.endpoint.port(), &of_ours);
        let on_stock: Vec<&str> = on_stock.iter().map(String::as_str).collect();
        self.stock.command(&self.stock_tool, &on_stock).map(drop)
    }

    /// Waits until every replica of ours has the stock server's keys of now, X.509 and JWT, and the
    /// other way round.
    async fn follow(&self) -> Result<()> {
        let (tool, socket) = (binary("spire-server")?, self.cluster.member(0)?.socket());
        let ours = keys(&tool, &socket, None)?;
        let theirs = keys(&self.stock_tool, &self.stock.socket(), None)?;
        wait_for("each other's bundle", WITHIN, async || {
            let held = keys(&self.stock_tool, &self.stock.socket(), Some(OURS))?;
            ensure!(held == ours, "the stock server holds {held:?} of {ours:?}");
            for member in self.cluster.members() {
                let held = keys(&tool, &member.socket(), Some(TRUST_DOMAIN))?;
                ensure!(held == theirs, "replica {} holds {held:?} of {theirs:?}", member.index);
            }
            Ok(())
        })
        .await
        .with_context(|| self.stock_agent.process.log_tail(5))
    }

    /// The workload's entry on each side, which names the other trust domain.
    fn register(&self) -> Result<()> {
        let selector = format!("unix:uid:{}", nix::unistd::getuid());
        let entry = |own: &str, node: &str, other: &str| {
            let text = format!(
                "entry create -parentID {node} -spiffeID {} -selector {selector} -x509SVIDTTL {SVID_TTL} \
                 -federatesWith spiffe://{other}",
                workload(own)
            );
            text.split(' ').map(str::to_owned).collect::<Vec<_>>()
        };
        let on_ours = entry(OURS, &format!("spiffe://{OURS}/node"), TRUST_DOMAIN);
        self.cluster
            .member(2)?
            .cli_json(&on_ours.iter().map(String::as_str).collect::<Vec<_>>())?;
        let on_stock = entry(TRUST_DOMAIN, NODE, OURS);
        let on_stock: Vec<&str> = on_stock.iter().map(String::as_str).collect();
        self.stock.command(&self.stock_tool, &on_stock).map(drop)
    }

    /// The workloads shake hands, and take each other's tokens. `signers`: the authorities that
    /// must have signed what ours and the stock server's present.
    async fn meet(&self, signers: [Option<&str>; 2]) -> Result<()> {
        let ends = [self.agent.endpoint(), self.stock_agent.endpoint()];
        let met = wait_for("a handshake across", WITHIN, async || {
            for (end, signer) in ends.iter().zip(signers) {
                is_signed_by(end, signer).await?;
            }
            let [ours, stock] = &ends;
            for [serving, asking] in [[ours, stock], [stock, ours]] {
                crate::demo::between(serving, asking).await?;
            }
            for ([giving, taking], name) in [([ours, stock], OURS), ([stock, ours], TRUST_DOMAIN)] {
                let giving = WorkloadApiClient::connect_to(giving).await?;
                let token = giving.fetch_jwt_token(["interop"], None).await?;
                let taking = WorkloadApiClient::connect_to(taking).await?;
                let taken = taking.validate_jwt_token("interop", &token).await;
                taken.with_context(|| format!("a token of {name} at the other side"))?;
            }
            Ok(())
        });
        met.await.with_context(|| self.stock_agent.process.log_tail(20))
    }

    fn stock_prepares(&self) -> Result<String> {
        let made = self.stock.json(&self.stock_tool, &["localauthority", "x509", "prepare"])?;
        let id = made.pointer("/prepared_authority/authority_id").and_then(Value::as_str);
        Ok(id.with_context(|| format!("no authority in {made}"))?.to_owned())
    }

    /// Replaces our authority by the clock, as an operator would; the new one.
    async fn rotate_ours(&self) -> Result<String> {
        let mut rotate = Command::new(binary("spire-server")?);
        rotate.args(["cluster", "rotate", "x509", "-wait", "-socketPath"]);
        rotate.arg(self.cluster.member(1)?.socket());
        let log = self.folder.join("rotate.log");
        let mut rotate = Process::spawn("cluster rotate", &mut rotate, &log)?;
        let ended = rotate.wait(KNOWN_WITHIN).await.with_context(|| rotate.log_tail(5))?;
        ensure!(ended.success(), "cluster rotate: {}", rotate.log_tail(5));
        authorities::id_of(&self.cluster, 0, "x509", "active")
    }
}

/// The lines of `server { }` that serve the bundle at a port, in either's file.
fn endpoint_lines(port: u16) -> String {
    format!(
        "  federation {{\n    bundle_endpoint {{\n      address = \"127.0.0.1\"\n      port = {port}\n      \
         refresh_hint = \"{HINT}\"\n      profile \"https_spiffe\" {{}}\n    }}\n  }}\n"
    )
}

fn workload(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/workload")
}

/// What a bundle holds, by certificates and key ids: the server's own, or that of another trust
/// domain.
fn keys(tool: &Path, socket: &Path, of: Option<&str>) -> Result<BTreeSet<String>> {
    let mut command = Command::new(tool);
    match of {
        None => command.args(["bundle", "show"]),
        Some(name) => command.args(["bundle", "list", "-id", name]),
    };
    command.args(["-format", "spiffe", "-socketPath"]).arg(socket);
    let output = command.output().context("show a bundle")?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{error}");
    let document: Value = serde_json::from_slice(&output.stdout).context("read a bundle")?;
    let keys = document.get("keys").and_then(Value::as_array).context("a bundle without keys")?;
    let name = |key: &Value| {
        let name = key.pointer("/x5c/0").or_else(|| key.get("kid")).and_then(Value::as_str);
        Ok(name.with_context(|| format!("{key} has no name"))?.to_owned())
    };
    keys.iter().map(name).collect()
}

/// Whether an agent serves what this authority signed, if it matters.
async fn is_signed_by(endpoint: &str, signer: Option<&str>) -> Result<()> {
    let Some(signer) = signer else { return Ok(()) };
    let svids = WorkloadApiClient::connect_to(endpoint).await?.fetch_all_x509_svids().await?;
    let chain = svids.first().context("no SVID")?.cert_chain();
    let leaf = chain.first().context("a chain without a certificate")?;
    let found = authorities::hex(&certificate_facts(leaf.as_ref())?.authority_key_id);
    ensure!(found == signer, "it is signed by {found}, not {signer}");
    Ok(())
}

/// A stock agent on the stock server.
struct StockAgent {
    folder: PathBuf,
    process: Process,
}

impl StockAgent {
    fn start(folder: &Path, binaries: &Path, server: &StockServer) -> Result<Self> {
        let tool = binaries.join("spire-server");
        let token = server.token(&tool)?;
        fs::create_dir_all(folder).context("create the stock agent's folder")?;
        fs::write(folder.join("bundle.pem"), server.bundle_pem(&tool)?)
            .context("write the trust bundle")?;
        let config = format!(
            "agent {{\n  data_dir = \"{data}\"\n  log_level = \"DEBUG\"\n  server_address = \"127.0.0.1\"\n  \
             server_port = \"{port}\"\n  socket_path = \"{socket}\"\n  trust_bundle_path = \"{bundle}\"\n  \
             trust_domain = \"{TRUST_DOMAIN}\"\n}}\nplugins {{\n  NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n  \
             KeyManager \"memory\" {{ plugin_data {{}} }}\n  WorkloadAttestor \"unix\" {{ plugin_data {{}} }}\n}}\n",
            data = folder.join("data").display(),
            port = server.port,
            socket = folder.join("api.sock").display(),
            bundle = folder.join("bundle.pem").display(),
        );
        fs::write(folder.join("agent.conf"), config).context("write agent.conf")?;
        let mut command = Command::new(binaries.join("spire-agent"));
        command.args(["run", "-joinToken", &token, "-config"]).arg(folder.join("agent.conf"));
        let process = Process::spawn("stock spire-agent", &mut command, &folder.join("agent.log"))?;
        Ok(Self { folder: folder.to_owned(), process })
    }

    fn endpoint(&self) -> String {
        format!("unix:{}", self.folder.join("api.sock").display())
    }
}
