//! A cluster whose authorities are signed by a real OpenBao, over TLS.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use steeple_testkit::process::{Process, wait_for};
use steeple_testkit::{Cluster, ClusterSpec, ports, skip};

use crate::upstream::{
    certificates, is_logged, leads_to, mint, signs_anew, signs_below, wait_logged,
};

const SOON: Duration = Duration::from_secs(60);

/// Who may do anything. In memory, for a test.
const ROOT_TOKEN: &str = "root";

/// May have CA certificates signed, and nothing else.
const POLICY: &str = "path \"pki_int/root/sign-intermediate\" { capabilities = [\"update\"] }\n\
                      path \"pki/root/sign-intermediate\" { capabilities = [\"update\"] }\n";

/// A server in memory with a root at `pki` and an intermediate at `pki_int`.
struct Bao {
    address: String,
    folder: PathBuf,
    process: Process,
    root: Vec<u8>,
    intermediate: Vec<u8>,
}

impl Bao {
    /// `None`: there is none on this machine.
    async fn start(folder: &Path) -> Option<Self> {
        if Command::new("bao").arg("version").stdout(Stdio::null()).status().is_err() {
            skip::record("openbao", "no bao on PATH: cargo xtask setup installs it");
            return None;
        }
        let folder = folder.join("bao");
        fs::create_dir_all(&folder).unwrap();
        let [port] = ports::lease().unwrap();
        let address = format!("127.0.0.1:{port}");
        let mut server = Command::new("bao");
        server
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
            .arg(format!("-dev-listen-address={address}"))
            .arg(format!("-dev-tls-cert-dir={}", folder.display()));
        let process = Process::spawn("bao", &mut server, &folder.join("log")).unwrap();
        let none = Vec::new();
        let mut bao = Self { address, folder, process, root: none.clone(), intermediate: none };
        let answers = wait_for("OpenBao", SOON, async || {
            let status = bao.command(&["status"]).output()?;
            anyhow::ensure!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
            Ok(())
        });
        answers.await.unwrap();
        bao.make_authorities();
        bao.run_with(&["policy", "write", "signer", "-"], POLICY);
        Some(bao)
    }

    fn ca_path(&self) -> PathBuf {
        self.folder.join("vault-ca.pem")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("bao");
        command
            .args(words)
            .env("BAO_ADDR", format!("https://{}", self.address))
            .env("BAO_TOKEN", ROOT_TOKEN)
            .env("BAO_CACERT", self.ca_path());
        command
    }

    fn run(&self, words: &[&str]) -> String {
        self.run_with(words, "")
    }

    /// Runs a command that must succeed, with an input.
    fn run_with(&self, words: &[&str], input: &str) -> String {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn make_authorities(&mut self) {
        for mount in ["pki", "pki_int"] {
            self.run(&["secrets", "enable", &format!("-path={mount}"), "pki"]);
            self.run(&["secrets", "tune", "-max-lease-ttl=87600h", mount]);
        }
        let words = ["write", "-field=certificate", "pki/root/generate/internal"];
        let root = self.run(&[&words[..], &["common_name=Test Root", "ttl=87600h"]].concat());
        let words = ["write", "-field=csr", "pki_int/intermediate/generate/internal"];
        let csr =
            self.run(&[&words[..], &["common_name=Test Intermediate", "key_type=ec"]].concat());
        let words = ["write", "-field=certificate", "pki/root/sign-intermediate", "csr=-"];
        let options = ["format=pem_bundle", "ttl=43800h"];
        let signed = self.run_with(&[&words[..], &options].concat(), &csr);
        self.run_with(&["write", "pki_int/intermediate/set-signed", "certificate=-"], &signed);
        let (root_path, signed_path) = (self.folder.join("root.pem"), self.folder.join("int.pem"));
        fs::write(&root_path, root).unwrap();
        fs::write(&signed_path, signed).unwrap();
        self.root = certificates(&root_path).swap_remove(0);
        self.intermediate = certificates(&signed_path).swap_remove(0);
    }

    /// A role and a secret for it; its tokens live for so long.
    fn app_role(&self, token_ttl: &str) -> (String, String) {
        self.run(&["auth", "enable", "approle"]);
        let ttl = format!("token_ttl={token_ttl}");
        self.run(&["write", "auth/approle/role/steeple", "token_policies=signer", &ttl]);
        let id = self.run(&["read", "-field=role_id", "auth/approle/role/steeple/role-id"]);
        let words = ["write", "-f", "-field=secret_id", "auth/approle/role/steeple/secret-id"];
        (id, self.run(&words))
    }

    /// The plugin, for an engine and with a block of authentication.
    fn plugin(&self, mount_point: &str, auth: &str) -> String {
        format!(
            "  UpstreamAuthority \"vault\" {{\n    plugin_data {{\n      vault_addr = \
             \"https://{}\"\n      ca_cert_path = \"{}\"\n      pki_mount_point = \"{mount_point}\"\n      \
             {auth}\n    }}\n  }}\n",
            self.address,
            self.ca_path().display(),
        )
    }
}

fn app_role_auth((id, secret): &(String, String)) -> String {
    format!("approle_auth {{ approle_id = \"{id}\" approle_secret_id = \"{secret}\" }}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vault_signs_the_authorities_of_a_cluster_through_a_kill_and_a_standstill_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let Some(bao) = Bao::start(place).await else { return };
    let role = bao.app_role("16s");
    let spec = ClusterSpec {
        server_lines: "  ca_ttl = \"40s\"\n  default_x509_svid_ttl = \"8s\"\n".to_owned(),
        plugin_lines: bao.plugin("pki_int", &app_role_auth(&role)),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(&place.join("cluster"), &spec).await.unwrap();
    let signer = signs_below(&cluster, &bao.intermediate, &bao.root, place);

    // While Vault stands still, what was signed before goes on signing, and it is said.
    bao.process.signal(Signal::SIGSTOP).unwrap();
    wait_logged(&cluster, "Upstream authority is not followed; trying again").await;
    leads_to(&mint(&cluster, 0, place).unwrap(), &bao.root, place);
    bao.process.signal(Signal::SIGCONT).unwrap();
    wait_logged(&cluster, "Upstream authority is followed again").await;

    // Another leader logs in itself, and has the next authority signed.
    let leader = cluster.leader(SOON).await.unwrap();
    cluster.kill_member(leader).unwrap();
    let other = (leader + 1) % 3;
    signs_anew(&cluster, other, &signer, &bao.root, place).await;
    wait_logged(&cluster, "Successfully renew auth token").await;
    let (id, secret) = role;
    assert!(!is_logged(&cluster, &secret), "the secret id of {id} is in a log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_logs_in_by_token_and_by_certificate_and_says_what_vault_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let Some(bao) = Bao::start(place).await else { return };
    let token = bao.run(&["token", "create", "-field=token", "-policy=signer", "-ttl=1h"]);
    let (cert, key) = client_pair(place);
    bao.run(&["auth", "enable", "-path=auth-by-cert", "cert"]);
    let certificate = format!("certificate=@{}", cert.display());
    bao.run(&["write", "auth/auth-by-cert/certs/steeple", "token_policies=signer", &certificate]);
    let (cert, key) = (cert.display(), key.display());
    let ways = [
        format!("token_auth {{ token = \"{token}\" }}"),
        format!(
            "cert_auth {{ cert_auth_mount_point = \"auth-by-cert\" cert_auth_role_name = \"steeple\" \
             client_cert_path = \"{cert}\" client_key_path = \"{key}\" }}"
        ),
    ];
    for (number, way) in ways.iter().enumerate() {
        let plugin_lines = bao.plugin("/pki/", way);
        let spec = ClusterSpec { members: 1, plugin_lines, ..ClusterSpec::default() };
        let cluster = Cluster::start(&place.join(format!("{number}")), &spec).await.unwrap();
        let chain = mint(&cluster, 0, place).unwrap();
        assert_eq!(chain.len(), 2, "leaf and our authority");
        leads_to(&chain, &bao.root, place);
    }

    // What Vault refuses stands in the log, with Vault's own words.
    let refused = [
        (
            "token_auth { token = \"nonsense\" }".to_owned(),
            "token lookup failed",
            "permission denied",
        ),
        (ways[0].clone(), "failed to sign intermediate", "unsupported path"),
    ];
    for (number, (way, doing, words)) in refused.into_iter().enumerate() {
        let mount_point = if number == 1 { "nothing" } else { "pki" };
        let plugin_lines = bao.plugin(mount_point, &way);
        let spec = ClusterSpec { members: 1, plugin_lines, ..ClusterSpec::default() };
        let place = place.join(format!("refused-{number}"));
        let mut cluster = Cluster::prepare(&place, &spec).unwrap();
        cluster.start_member(0).unwrap();
        wait_logged(&cluster, doing).await;
        let log = fs::read_to_string(cluster.member(0).unwrap().log()).unwrap();
        assert!(log.contains(words) || log.contains("permission denied"), "{log}");
    }
}

/// A client's certificate and key, from OpenSSL.
fn client_pair(folder: &Path) -> (PathBuf, PathBuf) {
    let (cert, key) = (folder.join("client.pem"), folder.join("client.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=steeple", "-addext", "extendedKeyUsage=clientAuth", "-days", "1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (cert, key)
}
