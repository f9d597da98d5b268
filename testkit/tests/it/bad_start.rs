//! Starts that cannot work say so plainly, name the fix and lose nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use steeple_testkit::process::{Process, binary};
use steeple_testkit::{Cluster, ClusterSpec};

/// Runs a server that must end by itself, and returns its exit code and everything it said.
async fn refused(config: &Path) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new(binary("spire-server").unwrap());
    command.arg("run").arg("-config").arg(config);
    let mut process = Process::spawn("spire-server", &mut command, &log).unwrap();
    let status = process.wait(Duration::from_secs(30)).await;
    let text = fs::read_to_string(&log).unwrap();
    (status.unwrap_or_else(|error| panic!("{error}\n{text}")).code().unwrap_or(-1), text)
}

fn one_member(folder: &Path) -> Cluster {
    Cluster::prepare(folder, &ClusterSpec { members: 1, ..ClusterSpec::default() }).unwrap()
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = one_member(folder.path());
    let member = cluster.member(0).unwrap();
    let _holder = std::net::TcpListener::bind(("127.0.0.1", member.api_port)).unwrap();
    let (code, text) = refused(&member.config()).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&member.api_port.to_string()) && text.contains("in use"), "{text}");
}

#[tokio::test]
async fn an_unknown_key_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = one_member(folder.path());
    let config = cluster.member(0).unwrap().config();
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("  log_level", "  no_such_key = 1\n  log_level");
    fs::write(&config, text).unwrap();
    let (code, text) = refused(&config).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("\"no_such_key\" in section server at "), "{text}");
}

#[tokio::test]
async fn a_foreign_data_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = one_member(folder.path());
    let member = cluster.member(0).unwrap();
    let raft = member.data().join("raft");
    fs::create_dir_all(&raft).unwrap();
    fs::write(raft.join("somebody-elses-file"), "not ours").unwrap();
    let (code, text) = refused(&member.config()).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("raft"), "{text}");
    assert!(raft.join("somebody-elses-file").is_file(), "nothing was deleted");
}

#[tokio::test]
async fn a_foreign_trust_domain_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = one_member(folder.path());
    cluster.start_member(0).unwrap();
    cluster.wait_ready(Duration::from_secs(30)).await.unwrap();
    cluster.stop_member(0).await.unwrap();
    let config = cluster.member(0).unwrap().config();
    let text = fs::read_to_string(&config).unwrap().replace("\"example.org\"", "\"other.example\"");
    fs::write(&config, text).unwrap();
    let (code, text) = refused(&config).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("example.org") && text.contains("other.example"), "{text}");
}

#[tokio::test]
async fn a_corrupt_store_without_others_is_refused_and_comes_back_by_the_command_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = one_member(folder.path());
    let soon = Duration::from_secs(30);
    let typed = |cluster: &Cluster, words: &[&str]| {
        let output = cluster.member(0).unwrap().cli(words).unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    cluster.start_member(0).unwrap();
    cluster.wait_ready(soon).await.unwrap();
    let (parent, id) = ("spiffe://example.org/parent", "spiffe://example.org/kept");
    let create = ["entry", "create", "-selector", "unix:uid:1", "-parentID", parent];
    typed(&cluster, &[&create[..], &["-spiffeID", id]].concat());
    let file = folder.path().join("saved").display().to_string();
    typed(&cluster, &["cluster", "snapshot", "save", &file]);
    cluster.stop_member(0).await.unwrap();

    let raft = cluster.member(0).unwrap().data().join("raft");
    let manifest = find(&raft, "MANIFEST-").expect("the store has a manifest");
    let size = fs::metadata(&manifest).unwrap().len();
    fs::write(&manifest, vec![0xAB; usize::try_from(size).unwrap()]).unwrap();
    let (code, text) = refused(&cluster.member(0).unwrap().config()).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.to_lowercase().contains("corrupt"), "{text}");
    assert!(text.contains("restore a snapshot (spire-server cluster snapshot restore)"), "{text}");
    assert_eq!(fs::metadata(&manifest).unwrap().len(), size, "it is left alone");

    cluster.hold_member(0).await.unwrap();
    typed(&cluster, &["cluster", "snapshot", "restore", &file, "-confirm", "example.org"]);
    cluster.stop_member(0).await.unwrap();
    cluster.start_member(0).unwrap();
    cluster.wait_ready(soon).await.unwrap();
    assert!(typed(&cluster, &["entry", "show"]).contains(id));
}

fn find(folder: &Path, prefix: &str) -> Option<std::path::PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, prefix) {
                return Some(found);
            }
        } else if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Some(path);
        }
    }
    None
}

#[tokio::test]
async fn another_cluster_key_leaves_the_member_sealed_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &ClusterSpec::default()).await.unwrap();
    cluster.stop_member(2).await.unwrap();
    let made: Output =
        Command::new(binary("spire-server").unwrap()).args(["cluster", "keygen"]).output().unwrap();
    let other = folder.path().join("other.key");
    fs::write(&other, &made.stdout).unwrap();
    Command::new("chmod").args(["600", &other.display().to_string()]).status().unwrap();
    let config = cluster.member(2).unwrap().config();
    let text = fs::read_to_string(&config).unwrap().replace("cluster.key", "other.key");
    fs::write(&config, text).unwrap();
    cluster.start_member(2).unwrap();
    let said = steeple_testkit::process::wait_for(
        "the sealed line",
        Duration::from_secs(30),
        async || {
            let text = fs::read_to_string(cluster.member(2)?.log())?;
            anyhow::ensure!(text.contains("Sealed: cluster key does not open"), "not yet");
            Ok(())
        },
    )
    .await;
    said.unwrap();
    let port = cluster.member(2).unwrap().api_port;
    assert!(
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err(),
        "a sealed member opens no API port"
    );
    // The other two go on.
    let json = cluster.member(0).unwrap().cli_json(&["entry", "count"]).unwrap();
    assert!(json.get("count").is_some(), "{json}");
}
