//! No private key is anywhere but in the memory of who signs with it.
//!
//! Three members and an agent rotate, revoke, save a snapshot, log everything, and are aborted. Then the
//! sealed keys are opened with the cluster key, and every form of every private number is looked for: in
//! the files of all members, in all logs, and in what went over the network. Of keys that never leave a
//! process (a server's own, those of TLS) nothing is known but the bytes that begin every private key:
//! these are looked for in files and logs (packets are all of this machine's, others' too). What `sealed`
//! does with all key types and on one disk is seen here on real processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use steeple_raft_store::testing::{config, seams};
use steeple_raft_store::{Change, ClusterKeys, Config, Storage, Store};
use steeple_server::keys::{SealContext, open_key};
use steeple_spiffe_core::authority::{Authority, SealedKey};
use steeple_spiffe_core::{Secret, pem};
use steeple_testkit::capture::Capture;
use steeple_testkit::client::http_ok;
use steeple_testkit::cluster::Place;
use steeple_testkit::leaks::Secrets;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Agent, Cluster, ClusterSpec, Process, skip};

const SOON: Duration = Duration::from_secs(30);

/// Runs a command that must succeed.
fn done(cluster: &Cluster, member: usize, words: &[&str]) {
    let output = cluster.member(member).expect("a member").cli(words).expect("it runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Replaces both authorities, so that there are two of each.
fn rotate(cluster: &Cluster) {
    for kind in ["x509", "jwt"] {
        done(cluster, 2, &["cluster", "rotate", kind, "-wait"]);
    }
}

/// The keys of the agent's folder, of its workload, and of an SVID that was minted by hand.
fn keys_of_clients(cluster: &Cluster, agent: &Agent, folder: &Path, secrets: &mut Secrets) {
    let workload = folder.join("workload");
    let minted = folder.join("minted");
    for place in [&workload, &minted] {
        fs::create_dir_all(place).expect("a folder");
    }
    let words = ["api", "fetch", "x509", "-write", workload.to_str().expect("text")];
    let fetched = agent.cli(&words).expect("it runs");
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    let place = minted.to_str().expect("text");
    done(cluster, 1, &["x509", "mint", "-spiffeID", "spiffe://example.org/w", "-write", place]);
    for (name, file) in
        [("workload", workload.join("svid.0.key")), ("minted", minted.join("key.pem"))]
    {
        let text = fs::read_to_string(&file).expect("a key");
        let key = pem::decode_private_key(&text).expect("a private key");
        secrets.add_key(name, key.expose()).expect("private numbers");
    }
    let kept = fs::read_to_string(folder.join("agent/data/keys.json")).expect("the agent's keys");
    let kept: serde_json::Value = serde_json::from_str(&kept).expect("json");
    for (name, key) in kept.get("keys").and_then(serde_json::Value::as_object).expect("keys") {
        let der = STANDARD.decode(key.as_str().expect("text")).expect("base64");
        secrets.add_key(name, &der).expect("private numbers");
    }
}

/// Kills a member and keeps what is on its disk now: keys that are destroyed later are in it.
async fn keep(cluster: &mut Cluster, member: usize, to: &Path) {
    cluster.kill_member(member).expect("it is killed");
    let from = cluster.member(member).expect("a member").folder.join("data/raft");
    copy(&from, &to.join("data/raft"));
    cluster.start_member(member).expect("it starts");
    cluster.wait_ready(SOON).await.expect("it comes back");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

/// Taints and revokes the X.509 authority that signed before: its private key is destroyed.
fn revoke_old(cluster: &Cluster) {
    let shown = cluster.member(0).expect("a member").cli_json(&["localauthority", "x509", "show"]);
    let shown = shown.expect("authorities");
    let id = shown.pointer("/old/authority_id").and_then(serde_json::Value::as_str);
    let id = id.expect("an old authority");
    for verb in ["taint", "revoke"] {
        done(cluster, 0, &["localauthority", "x509", verb, "-authorityID", id]);
    }
}

/// A process that has been aborted, and would have left a core file if it were allowed to.
fn left_no_core(name: &str, ended: ExitStatus) {
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "{name}");
    assert!(!ended.core_dumped(), "{name} has left a core file");
}

fn abort(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::ABORT).expect("a signal");
}

/// Ends everything: two members are stopped; a member and the agent are aborted, which would leave core
/// files if they were allowed to.
async fn end(cluster: &mut Cluster, mut agent: Agent) {
    let agents = [agent.process().pid()];
    let servers: Vec<u32> =
        (0..3).map(|member| cluster.process(member).expect("it runs").pid()).collect();
    for pid in servers.iter().chain(&agents) {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size"));
        let numbers: Vec<&str> = core.expect("a limit").split_whitespace().skip(4).collect();
        assert!(numbers.starts_with(&["0", "0"]), "process {pid} may write a core file");
    }
    for member in 0..2 {
        cluster.stop_member(member).await.expect("it stops");
    }
    let last = cluster.process(2).expect("it runs");
    abort(last.pid());
    left_no_core("a server", last.wait(SOON).await.expect("it ends"));
    abort(agent.process().pid());
    left_no_core("an agent", agent.process().wait(SOON).await.expect("it ends"));
}

/// Opens what a stopped member holds with the cluster key: every authority's private key.
async fn sealed_keys(
    member: &Path,
    cluster_key: &str,
    secrets: &mut Secrets,
) -> BTreeMap<String, Secret> {
    let keys = Arc::new(ClusterKeys::parse(cluster_key).expect("the cluster key"));
    let settings = Config {
        keys: Arc::clone(&keys),
        cluster_name: "testkit".to_owned(),
        ..config(member.join("data/raft"))
    };
    let store = Store::open(settings, seams(Storage::Rocks)).await.expect("it opens");
    let (mut id, mut journal) = (None, None);
    for change in store.handle().subscribe().expect("its state").snapshot {
        if let Change::ClusterWritten(cluster) = change {
            id = Some(cluster.cluster_id);
        } else if let Change::JournalWritten(written) = change {
            journal = Some(written);
        }
    }
    let (cluster_id, journal) = (id.expect("it has formed"), journal.expect("it has authorities"));
    let open = |authority: &Authority| {
        let context = SealContext { cluster_id, kind: authority.kind, authority_id: &authority.id };
        let key = open_key(&keys, &context, &authority.sealed_key).expect("it opens");
        (format!("{:?} authority {}", authority.kind, authority.id), key)
    };
    let sealed = journal.authorities.iter().filter(|one| one.sealed_key != SealedKey::destroyed());
    let opened: BTreeMap<String, Secret> = sealed.map(open).collect();
    for (name, key) in &opened {
        secrets.add_key(name, key.expose()).expect("private numbers");
    }
    opened
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_private_key_is_in_a_file_a_log_a_packet_or_a_core() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path();
    let capture = Capture::start();
    if let Err(error) = &capture {
        skip::record("packet-capture", &format!("{error:#}"));
    }
    let spec = ClusterSpec {
        server_lines: "  jwt_key_type = \"rsa-2048\"\n".to_owned(),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(&place.join("cluster"), &spec).await.expect("a cluster");
    let node = "spiffe://example.org/node";
    let member = cluster.member(0).expect("a member");
    let token = member.cli_json(&["token", "generate", "-spiffeID", node]).expect("a token");
    let token = token["value"].as_str().expect("text").to_owned();
    let uid = format!("unix:uid:{}", rustix::process::getuid().as_raw());
    let entry = ["-parentID", node, "-spiffeID", "spiffe://example.org/w", "-selector", &uid];
    done(&cluster, 0, &[&["entry", "create"], &entry[..]].concat());
    let order = [0, 1, 2];
    let agent = Agent::start(&place.join("agent"), &cluster, &order, &token, "").await;
    let agent = agent.expect("an agent");
    rotate(&cluster);
    let kept = place.join("kept");
    keep(&mut cluster, 2, &kept).await;
    let mut secrets = Secrets::default();
    keys_of_clients(&cluster, &agent, place, &mut secrets);
    // The agent is given no time for it: nothing is asked of it any more.
    revoke_old(&cluster);
    let snapshot = place.join("cluster/saved.snapshot");
    done(&cluster, 0, &["cluster", "snapshot", "save", snapshot.to_str().expect("text")]);

    end(&mut cluster, agent).await;
    let key_file = place.join("cluster/cluster.key");
    let cluster_key = fs::read_to_string(&key_file).expect("the cluster key");
    let bytes = STANDARD.decode(cluster_key.trim()).expect("base64");
    secrets.add("the cluster key", &bytes).expect("it is long enough");
    let members: Vec<PathBuf> =
        cluster.members().iter().map(|member| member.folder.clone()).collect();
    let mut opened = sealed_keys(&members[0], &cluster_key, &mut secrets).await;
    let left = opened.len();
    opened.extend(sealed_keys(&kept, &cluster_key, &mut secrets).await);
    assert!(left >= 3, "{left} are not two keys and one authority");
    assert_eq!(opened.len(), left + 1, "one more was there before its revocation");

    let files = place.join("cluster");
    let excepted = [key_file];
    let (searched, mut found) = secrets.found_below(&files, &excepted).expect("files");
    assert!(searched > 20, "{searched} files are not three members'");
    // The agent keeps its own key there, as SPIRE's does.
    let of_agent = (place.join("agent"), [place.join("agent/data/keys.json")]);
    let mut frames = Secrets::default();
    frames.add_frames();
    found.extend(secrets.found_below(&of_agent.0, &of_agent.1).expect("files").1);
    for (files, excepted) in [(&files, &excepted), (&of_agent.0, &of_agent.1)] {
        found.extend(frames.found_below(files, excepted).expect("files").1);
    }
    if let Ok(capture) = capture {
        let packets = capture.stop().expect("packets");
        assert!(packets.len() > 100_000, "{} bytes are not a cluster's", packets.len());
        found
            .extend(secrets.found_in(&packets).into_iter().map(|what| format!("a packet: {what}")));
    }
    assert!(found.is_empty(), "{found:#?}");
    // And one that were there would be found.
    let planted = pem::encode_private_key(opened.last_entry().expect("a key").get().expose());
    fs::write(files.join("planted"), planted.as_bytes()).expect("written");
    let (_, found) = secrets.found_below(&files, &excepted).expect("files");
    assert!(found.iter().any(|found| found.contains("planted: ")), "{found:?}");
}

/// What starts a program without the privileges of root, which may look at any process.
fn powerless() -> Vec<String> {
    if !rustix::process::getuid().is_root() {
        return Vec::new();
    }
    ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"].map(str::to_owned).into()
}

fn without_powers(program: &str) -> Command {
    let words = powerless();
    let Some((first, rest)) = words.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// Whether another process of the same user may look into this one.
fn is_open(pid: u32) -> bool {
    let memory = format!("/proc/{pid}/environ");
    let read = without_powers("cat").arg(memory).output().expect("cat runs");
    read.status.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_process_of_the_user_looks_into_a_server_or_an_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("other.log");
    let other = Process::spawn("other", without_powers("sleep").arg("600"), &log);
    let other = other.expect("it starts");
    let looked = wait_for("a look at an ordinary process", SOON, async || {
        anyhow::ensure!(is_open(other.pid()), "it is not open");
        Ok(())
    });
    looked.await.expect("else nothing is shown here");

    let place = Place { launcher: powerless(), ..Place::default() };
    let spec = ClusterSpec { members: 1, places: vec![place], ..ClusterSpec::default() };
    let mut cluster = Cluster::start(&folder.path().join("server"), &spec).await.expect("a server");
    assert!(!is_open(cluster.process(0).expect("it runs").pid()), "the server");

    let token = cluster.member(0).expect("a member").cli_json(&["token", "generate"]);
    let token = token.expect("a token")["value"].as_str().expect("text").to_owned();
    let place = folder.path().join("agent");
    Agent::configure(&place, &cluster, &[0], "").expect("a configuration");
    let program = binary("spire-agent").expect("it is built");
    let mut command = without_powers(program.to_str().expect("text"));
    command.args(["run", "-joinToken", &token, "-config"]).arg(place.join("agent.conf"));
    let agent = Process::spawn("agent", &mut command, &place.join("agent.log"));
    let agent = agent.expect("it starts");
    let port = fs::read_to_string(place.join("health-port")).expect("its port");
    let port = port.parse().expect("a port");
    let ready = wait_for("the agent", SOON, async || http_ok(port, "/ready").await);
    ready.await.expect("it is ready");
    assert!(!is_open(agent.pid()), "the agent");
}
