//! The trust domains whose bundles are fetched, for `cluster status`.

use std::io::{Result, Write};

use steeple_api::pb::cluster::v1::FederatedBundle;

use super::table::write_table;
use crate::output::go_time_utc;

/// Writes a row each, and below them what is not known exactly and why a bundle cannot be fetched.
pub(super) fn write_federated_bundles(
    out: &mut (dyn Write + Send),
    bundles: &[FederatedBundle],
) -> Result<()> {
    let heading = [
        "FEDERATED WITH",
        "SOURCE",
        "STATE",
        "SEQUENCE",
        "LAST FETCHED",
        "AUTHORITIES END",
        "NEXT",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(bundles.iter().map(|bundle| {
        vec![
            bundle.trust_domain.clone(),
            if bundle.from_file { "file" } else { "api" }.to_owned(),
            state(bundle),
            match bundle.sequence_number {
                0 => "-".to_owned(),
                number => number.to_string(),
            },
            time(bundle.succeeded_at),
            time(bundle.authorities_end_at),
            time(bundle.next_try_at),
        ]
    }));
    write_table(out, &rows)?;
    let is_coarse = |bundle: &FederatedBundle| !bundle.succeeded_at_is_exact;
    if bundles.iter().filter(|bundle| bundle.succeeded_at != 0).any(is_coarse) {
        writeln!(out, "LAST FETCHED may be up to an hour later than shown; the leader knows.")?;
    }
    for bundle in bundles.iter().filter(|bundle| !bundle.failure.is_empty()) {
        writeln!(out, "{} cannot be fetched: {}", bundle.trust_domain, bundle.failure)?;
    }
    Ok(())
}

fn state(bundle: &FederatedBundle) -> String {
    match (bundle.failing_since, bundle.stored) {
        (0, true) => "ok".to_owned(),
        (0, false) => "no bundle yet".to_owned(),
        (since, _) => format!("fails since {}", go_time_utc(since)),
    }
}

fn time(seconds: i64) -> String {
    match seconds {
        0 => "-".to_owned(),
        seconds => go_time_utc(seconds),
    }
}
