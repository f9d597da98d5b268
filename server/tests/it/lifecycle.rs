//! Start, stop, crash, and what another cluster key does.

use std::fs;

use std::time::Instant;

use crate::process::{DEADLINE, Place, pause, run, stderr};

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let place = Place::new();
    let server = place.start();
    place.wait_for("/ready", 200);
    let socket = place.socket();
    let created = run(&[
        "entry",
        "create",
        "-socketPath",
        &socket,
        "-entryID",
        "e1",
        "-selector",
        "unix:uid:1",
        "-parentID",
        "spiffe://example.org/node",
        "-spiffeID",
        "spiffe://example.org/web",
    ]);
    assert!(created.status.success(), "{created:?}");
    server.kill();

    let server = place.start();
    let body = place.wait_for("/ready", 200);
    assert!(body.contains("\"server\":{}"), "SPIRE's body of a server in health: {body}");
    assert!(body.contains("\"role\":\"leader\""), "{body}");
    let shown = run(&["entry", "show", "-socketPath", &socket, "-entryID", "e1"]);
    assert!(shown.status.success(), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("spiffe://example.org/web"));
    assert_eq!(server.stop(), Some(0));
    assert!(!place.folder.path().join("api.sock").exists(), "a clean stop removes the socket");
}

#[test]
fn a_member_with_another_cluster_key_seals_itself() {
    let place = Place::new();
    let server = place.start();
    place.wait_for("/ready", 200);
    assert_eq!(server.stop(), Some(0));

    let other = run(&["cluster", "keygen"]);
    fs::write(place.data("cluster.key"), &other.stdout).expect("written");
    let server = place.start();
    let body = place.wait_for("/ready", 500);
    assert!(body.contains("Sealed: cluster key does not open "), "{body}");
    assert!(body.contains("back into the cluster key file and restart this member"), "{body}");
    place.wait_for("/live", 200);
    let shown = run(&["entry", "show", "-socketPath", &place.socket()]);
    let said = stderr(&shown);
    assert!(said.contains("Sealed: cluster key does not open "), "{said}");
    assert!(said.contains("docs/runbooks/lost-cluster-key.md"), "{said}");
    assert!(std::net::TcpStream::connect(("127.0.0.1", place.api_port)).is_err());
    assert_eq!(server.stop(), Some(0), "a sealed member stops as any other");
}

#[test]
fn the_signal_that_configures_spires_plugins_anew_ends_nothing() {
    let place = Place::new();
    let log = place.folder.path().join("server.log");
    let settings = format!("log_file = {:?} bind_address", log.display().to_string());
    let text = fs::read_to_string(place.config()).expect("config");
    fs::write(place.config(), text.replacen("bind_address", &settings, 1)).expect("written");
    let server = place.start();
    place.wait_for("/ready", 200);
    server.signal(rustix::process::Signal::USR1);
    let deadline = Instant::now() + DEADLINE;
    while !fs::read_to_string(&log).unwrap_or_default().contains("SIGUSR1 has no effect") {
        assert!(Instant::now() < deadline, "no line in the log");
        pause();
    }
    place.wait_for("/ready", 200);
    assert_eq!(server.stop(), Some(0));
}
