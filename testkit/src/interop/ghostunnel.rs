//! The walk through two trust domains of `spec/seeds.md` 2.4 with the programs of its author:
//! Python's web server behind `ghostunnel server` in foo, and `ghostunnel client` in bar, asked by
//! plain HTTP.
//!
//! Both processes live through all steps, as sidecars do.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use steeple_testkit::process::wait_for;
use steeple_testkit::{Process, client, ports};

use super::federation::{
    BAR, CLIENT, Domain, FOO, Outcome, SERVER, STEPS, TITLE, WITHIN, no_roots, two_domains,
};

/// Walks. `program` is ghostunnel's.
pub(super) async fn walk(folder: &Path, program: &Path) -> Result<()> {
    let [mut own, mut bar] = two_domains(folder).await?;
    let mut tunnel = Tunnel::start(folder, program, &own, &bar)?;
    for (of_foo, of_bar, outcome) in STEPS {
        own.register(of_foo)?;
        bar.register(of_bar)?;
        let words = tunnel.logs().map(|log| log.len());
        let what = format!("foo federated: {of_foo}, bar federated: {of_bar}");
        let met = wait_for(&what, WITHIN, async || tunnel.meets(outcome, words).await).await;
        met.with_context(|| tunnel.logs().join("\n"))?;
    }
    Ok(())
}

/// The web server and both ends of the tunnel.
struct Tunnel {
    web: Process,
    /// The end in bar, then the one in foo.
    ends: [Process; 2],
    /// Where the end in bar is asked.
    port: u16,
}

impl Tunnel {
    fn start(folder: &Path, program: &Path, own: &Domain, bar: &Domain) -> Result<Self> {
        let [web_port, tunnel_port, port]: [u16; 3] = ports::lease()?;
        let root = folder.join("www");
        fs::create_dir_all(&root).context("create the web server's folder")?;
        let mut web = Command::new("python3");
        web.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(root);
        let web = web.arg(web_port.to_string());
        let web = Process::spawn("http.server", web, &folder.join("http.log"))?;
        let end = |name: &str, domain: &Domain, listen: u16, target: u16, peer: &str| {
            let mut command = Command::new(program);
            command.arg(name);
            command.arg(format!("--listen=127.0.0.1:{listen}"));
            command.arg(format!("--target=127.0.0.1:{target}"));
            let socket = domain.agent.socket();
            command.arg(format!("--use-workload-api-addr=unix://{}", socket.display()));
            command.arg(peer);
            Process::spawn(name, &mut command, &folder.join(format!("ghostunnel-{name}.log")))
        };
        let server = end("server", own, tunnel_port, web_port, &format!("--allow-uri={CLIENT}"))?;
        let client = end("client", bar, port, tunnel_port, &format!("--verify-uri={SERVER}"))?;
        Ok(Self { web, ends: [client, server], port })
    }

    /// What both ends have said.
    fn logs(&self) -> [String; 2] {
        self.ends.each_ref().map(|end| fs::read_to_string(end.log()).unwrap_or_default())
    }

    /// Whether who asks in bar meets what it should now, and both ends have said so since the step
    /// began, when their logs were so long.
    async fn meets(&mut self, outcome: Outcome, before: [usize; 2]) -> Result<()> {
        let [client, server] = &mut self.ends;
        for process in [&mut self.web, client, server] {
            ensure!(process.is_running(), "it ended:\n{}", process.log_tail(20));
        }
        // Refused, the connection is reset or ended without a word.
        let reply = client::http_reply(self.port, "/").await.unwrap_or_default();
        let [client, server] = self.logs();
        let [of_client, of_server] = before;
        let client = client.get(of_client..).unwrap_or_default();
        let server = server.get(of_server..).unwrap_or_default();
        let came = reply.contains(TITLE);
        let said = |log: &str, words: &[&str]| {
            log.lines().any(|line| words.iter().all(|word| line.contains(word)))
        };
        let (dial, handshake, remote) =
            ("error on dial", "error on TLS handshake", "remote error: tls");
        match outcome {
            Outcome::Page => ensure!(came, "no page: {reply:?}"),
            Outcome::ClientRefuses => {
                ensure!(!came, "the page came");
                ensure!(said(client, &[dial, &no_roots(FOO)]), "the client's end has not said why");
                ensure!(said(server, &[handshake, remote]), "the server's end has not said so");
            }
            Outcome::ServerRefuses => {
                ensure!(!came, "the page came");
                ensure!(said(server, &[handshake, &no_roots(BAR)]), "the server's end said no why");
            }
        }
        Ok(())
    }
}
