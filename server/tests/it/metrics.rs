//! The names of metrics, as a monitoring system sees them, against the page that promises them.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use crate::process::{DEADLINE, Place, free_port, get, pause, run};

const PAGE: &str = include_str!("../../../docs/reference/metrics.md");

/// Promised, but only served once their cause has happened.
const CONDITIONAL: &[&str] = &[
    "spire_server_cluster_snapshot_elapsed_time",
    "spire_server_cluster_snapshot_size",
    "spire_server_cluster_clock_offset",
    "spire_server_cluster_clock_ahead",
    "spire_server_ca_manager_bundle_prune",
    "spire_server_cluster_snapshot_age",
    "spire_server_server_ca_sign_x509_ca_svid",
    "spire_server_bundle_endpoint_requests",
    "spire_server_bundle_endpoint_certificate_days_left",
    "spire_server_bundle_manager_fetch_federated_bundle",
    "spire_server_bundle_manager_fetch_federated_bundle_elapsed_time",
    "spire_server_bundle_manager_update_federated_bundle",
    "spire_server_federation_bundle_age",
    "spire_server_federation_bundle_ends_in",
    "spire_server_federation_failing",
    "spire_server_ca_manager_wit_key_prepare",
    "spire_server_ca_manager_wit_key_prepare_elapsed_time",
    "spire_server_manager_wit_key_activate",
    "spire_server_manager_wit_key_activate_elapsed_time",
    // Where an upstream authority has files here.
    "spire_server_cluster_upstream_ends_in",
    "spire_server_cluster_upstream_refused",
];

#[test]
fn every_metric_that_is_served_is_documented_and_the_other_way_round() {
    let place = Place::new();
    let port = free_port();
    place.write_config(&format!(
        "telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {port} }} }}"
    ));
    let server = place.start();
    place.wait_for("/ready", 200);
    let socket = place.socket();
    for words in [
        ["x509", "mint", "-spiffeID", "spiffe://example.org/a"].as_slice(),
        &["jwt", "mint", "-spiffeID", "spiffe://example.org/a", "-audience", "x"],
        &["token", "generate"],
    ] {
        let output = run(&[words, &["-socketPath", &socket]].concat());
        assert!(output.status.success(), "{output:?}");
    }

    let promised = promised();
    let deadline = Instant::now() + DEADLINE;
    // Gauges are set every second: the last ones come a little after the replica is ready.
    let missing = loop {
        let (_, body) = get(port, "/metrics").expect("metrics are served");
        let served = served(&body);
        let surprises: Vec<_> =
            served.iter().filter(|name| !is_documented(name, &promised)).collect();
        assert!(surprises.is_empty(), "not in docs/reference/metrics.md: {surprises:?}");
        let missing: Vec<_> = promised
            .iter()
            .filter(|name| !served.contains(*name) && !CONDITIONAL.contains(&name.as_str()))
            .cloned()
            .collect();
        if missing.is_empty() || Instant::now() > deadline {
            break missing;
        }
        pause();
    };
    assert!(missing.is_empty(), "promised in docs/reference/metrics.md: {missing:?}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_sealed_member_says_so_in_its_metrics() {
    let place = Place::new();
    let port = free_port();
    place.write_config(&format!(
        "telemetry {{ EnableHostnameLabel = false\n\
         Prometheus {{ host = \"127.0.0.1\" port = {port} }} }}"
    ));
    let sealed = || {
        let (_, body) = get(port, "/metrics").expect("metrics are served");
        let line = body.lines().find_map(|line| line.strip_prefix("spire_server_cluster_sealed "));
        line.map(str::to_owned)
    };
    let server = place.start();
    place.wait_for("/ready", 200);
    assert_eq!(sealed().as_deref(), Some("0"));
    assert_eq!(server.stop(), Some(0));

    let other = run(&["cluster", "keygen"]);
    fs::write(place.data("cluster.key"), &other.stdout).expect("written");
    let server = place.start();
    place.wait_for("/live", 200);
    assert_eq!(sealed().as_deref(), Some("1"));
    assert_eq!(server.stop(), Some(0));
}

/// Names in backticks in the first column of the page's tables, patterns left out.
fn promised() -> BTreeSet<String> {
    PAGE.lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| name.starts_with("spire_server_") && !name.contains('<'))
        .map(str::to_owned)
        .collect()
}

/// The names of families in Prometheus' text format.
fn served(body: &str) -> BTreeSet<String> {
    body.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn is_documented(name: &str, promised: &BTreeSet<String>) -> bool {
    let call = name.strip_suffix("_elapsed_time").unwrap_or(name);
    promised.contains(name) || promised.contains(call) || call.starts_with("spire_server_rpc_")
}
