//! Tables and labelled lines for people.
//!
//! Owns the columns: each as wide as its widest cell, two blanks between, none at a line's end.

use std::io::{Result, Write};

use steeple_api::pb::cluster::v1::cluster_key::waiting::Reason;
use steeple_api::pb::cluster::v1::cluster_key::{Use, Waiting};
use steeple_api::pb::cluster::v1::member::{Reachability, Role};
use steeple_api::pb::cluster::v1::{ClusterKey, Member};

/// Writes rows; the first is the heading.
pub(crate) fn write_table(out: &mut (dyn Write + Send), rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// The members, a row each. `*` marks the member that answered.
pub(crate) fn members(members: &[Member]) -> Vec<Vec<String>> {
    let heading = ["", "ID", "NAME", "ADDRESS", "ROLE", "REACHABLE", "LAG", "VERSION"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(members.iter().map(|member| {
        vec![
            if member.this_member { "*" } else { "" }.to_owned(),
            member.id.clone(),
            or_dash(&member.name),
            or_dash(&member.address),
            role(member).to_owned(),
            reachability(member).to_owned(),
            member.applied_lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
            or_dash(&member.version),
        ]
    }));
    rows
}

/// What the members said of themselves, a row each.
pub(crate) fn observations(members: &[Member]) -> Vec<Vec<String>> {
    let heading = ["", "ID", "CLOCK", "LEVEL", "SLOWEST SYNC", "SETTINGS", "KEYS", "HEARD"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let dash = || "-".to_owned();
    rows.extend(members.iter().map(|member| {
        let disk = member.disk.as_ref().filter(|disk| disk.last_sync_s.is_some());
        vec![
            if member.this_member { "*" } else { "" }.to_owned(),
            member.id.clone(),
            member.clock_offset_s.map_or_else(dash, |offset| format!("{offset:+.3}s")),
            match member.feature_level_max {
                0 => dash(),
                level => level.to_string(),
            },
            disk.map_or_else(dash, |disk| format!("{:.1}ms", disk.slowest_sync_s * 1000.0)),
            or_dash(&member.settings_hash),
            or_dash(&member.key_ids.join(",")),
            member.observed_age_s.map_or_else(dash, |age| format!("{age:.1}s ago")),
        ]
    }));
    rows
}

/// Writes the cluster keys, and below them which members they wait for though no number shows it.
pub(crate) fn write_cluster_keys(out: &mut (dyn Write + Send), keys: &[ClusterKey]) -> Result<()> {
    write_table(out, &cluster_keys(keys))?;
    for key in keys {
        for text in key.waits_for.iter().filter_map(waiting) {
            writeln!(out, "{} is still needed: {text}", key.id)?;
        }
    }
    Ok(())
}

/// What keeps a key from being dropped at a member that presents no certificate of it.
pub(crate) fn waiting(waiting: &Waiting) -> Option<String> {
    let member = format!("{} ({})", waiting.id, waiting.address);
    match waiting.reason() {
        Reason::Silent => Some(format!("{member} does not answer; its certificate is not known")),
        Reason::LacksKey => Some(format!(
            "{member} does not hold the key that seals; put its line into the key file of that \
             member and send it SIGHUP"
        )),
        Reason::Presents | Reason::Unspecified => None,
    }
}

/// The cluster keys, a row each.
fn cluster_keys(keys: &[ClusterKey]) -> Vec<Vec<String>> {
    let heading = ["CLUSTER KEY", "USE", "AUTHORITIES", "CERTIFICATES", "HELD BY", "NOT HELD BY"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(keys.iter().map(|key| {
        vec![
            key.id.clone(),
            key_use(key).to_owned(),
            key.authorities.to_string(),
            key.presented_by.len().to_string(),
            format!("{} of {}", key.held_by.len(), key.held_by.len() + key.missing_at.len()),
            or_dash(&key.missing_at.join(",")),
        ]
    }));
    rows
}

fn key_use(key: &ClusterKey) -> &'static str {
    match key.r#use() {
        Use::New => "new",
        Use::Seals => "seals",
        Use::Leaving => "still needed",
        Use::Unused => "may be dropped",
        Use::Unspecified => "-",
    }
}

/// Writes a label and its value.
pub(crate) fn line(out: &mut (dyn Write + Send), label: &str, value: &str) -> Result<()> {
    writeln!(out, "{label:<17} : {value}")
}

pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn role(member: &Member) -> &'static str {
    match Role::try_from(member.role).unwrap_or(Role::Unspecified) {
        Role::Voter if member.leader => "leader",
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::Unspecified => "-",
    }
}

fn reachability(member: &Member) -> &'static str {
    match Reachability::try_from(member.reachability).unwrap_or(Reachability::Unknown) {
        Reachability::Reachable => "yes",
        Reachability::Unreachable => "no",
        Reachability::Unknown => "-",
    }
}
