//! `cluster { }`: what turns one member into several (`docs/reference/cluster.md` 1).
//!
//! Owns every key with its unit, range and default. Without the block a server is a cluster of one
//! member that listens for no peers.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use steeple_raft_store::ClusterId;

use super::error::{ConfigError, UnknownKey};
use super::flags::RunFlags;
use super::load::Notice;
use super::section::Section;
use super::server::ServerConfig;
use crate::gate::staleness::RENEW_ONLY_DELAY;
use crate::snapshots::ScheduleConfig;

/// Default of `bind_port`.
const DEFAULT_PORT: u16 = 8082;

/// Longest cluster name; it travels in certificates.
const NAME_BYTES_MAX: usize = 255;

const GIB: u64 = 1 << 30;

const HOUR: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What `cluster { }` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// `name`; default: the trust domain.
    pub name: String,
    /// `cluster_id`.
    pub cluster_id: Option<ClusterId>,
    /// Host and port of the peer listener; `None` = no peers, as without the block.
    pub bind: Option<(String, u16)>,
    /// `advertise_address`.
    pub advertise_address: String,
    /// `peers`, and what `-clusterJoin` adds.
    pub peers: Vec<String>,
    /// Where the cluster key comes from.
    pub key: KeySource,
    /// `voters_max`.
    pub voters_max: u8,
    /// `replace_dead_after`; zero = never.
    pub replace_dead_after: Duration,
    /// `max_staleness`; zero = never serve without contact.
    pub max_staleness: Duration,
    /// `barrier_timeout`.
    pub barrier_timeout: Duration,
    /// `heartbeat_interval`.
    pub heartbeat_interval: Duration,
    /// `leave_on_terminate`.
    pub leave_on_terminate: bool,
    /// `renew_only_delay`: how long agents are sent elsewhere before renew-only service.
    pub renew_only_delay: Duration,
    /// `snapshot { }`; `None` = no schedule.
    pub snapshot: Option<ScheduleConfig>,
}

/// Where the cluster key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `DATA_DIR/cluster.key`, made on the first start. Only for a cluster of one member.
    BesideData,
    /// `key_file`.
    File(PathBuf),
    /// `key_env`.
    Environment(String),
    /// `key_command`: program and arguments; its output is the key.
    Command(Vec<String>),
}

/// Reads the section; flags win.
pub(super) fn read(
    section: Option<Section<'_>>,
    server: &ServerConfig,
    flags: &RunFlags,
    notices: &mut Vec<Notice>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<ClusterConfig, ConfigError> {
    let by_flags = flags.cluster_advertise_address.is_some() || !flags.cluster_join.is_empty();
    let mut config = match section {
        Some(section) => {
            let config = read_section(&section, server, unknown)?;
            section.collect_unknown(unknown);
            config
        }
        None => absent(server, by_flags),
    };
    if let Some(address) = &flags.cluster_advertise_address {
        check_address(address).map_err(ConfigError::Missing)?;
        config.advertise_address.clone_from(address);
    }
    for address in &flags.cluster_join {
        check_address(address).map_err(ConfigError::Missing)?;
        config.peers.push(address.clone());
    }
    let others = config.peers.iter().any(|peer| *peer != config.advertise_address);
    if others && config.key == KeySource::BesideData {
        return Err(ConfigError::Missing(
            "cluster: peers are configured but no key: make one with \"spire-server cluster keygen\", give it to every member and set key_file, key_env or key_command".into(),
        ));
    }
    if others && !config.peers.contains(&config.advertise_address) {
        notices.push(Notice::info(format!(
            "cluster.peers does not name this member ({:?}): it founds no cluster and joins the one that \
             they form; a founder lists every founder, itself included",
            config.advertise_address
        )));
    }
    Ok(config)
}

fn absent(server: &ServerConfig, listen: bool) -> ClusterConfig {
    ClusterConfig {
        name: server.trust_domain.as_str().to_owned(),
        cluster_id: None,
        bind: listen.then(|| ("0.0.0.0".to_owned(), DEFAULT_PORT)),
        advertise_address: format!("{}:{DEFAULT_PORT}", hostname()),
        peers: Vec::new(),
        key: KeySource::BesideData,
        voters_max: 5,
        replace_dead_after: Duration::ZERO,
        max_staleness: Duration::from_secs(600),
        barrier_timeout: Duration::from_secs(1),
        heartbeat_interval: Duration::from_millis(50),
        leave_on_terminate: false,
        renew_only_delay: RENEW_ONLY_DELAY,
        snapshot: None,
    }
}

fn read_section(
    section: &Section<'_>,
    server: &ServerConfig,
    unknown: &mut Vec<UnknownKey>,
) -> Result<ClusterConfig, ConfigError> {
    let ms = Duration::from_millis;
    let defaults = absent(server, true);
    let port = section.port("bind_port")?.unwrap_or(DEFAULT_PORT);
    let host = section.string("bind_address")?.unwrap_or("0.0.0.0".into());
    Ok(ClusterConfig {
        name: name(section)?.unwrap_or(defaults.name),
        cluster_id: cluster_id(section)?,
        bind: Some((host, port)),
        advertise_address: address(section, "advertise_address")?
            .unwrap_or_else(|| format!("{}:{port}", hostname())),
        peers: peers(section)?,
        key: key(section)?,
        voters_max: voters_max(section)?.unwrap_or(defaults.voters_max),
        replace_dead_after: replace_dead_after(section)?.unwrap_or(defaults.replace_dead_after),
        max_staleness: section
            .duration_in("max_staleness", Duration::ZERO..=DAY)?
            .unwrap_or(defaults.max_staleness),
        barrier_timeout: section
            .duration_in("barrier_timeout", ms(50)..=ms(30_000))?
            .unwrap_or(defaults.barrier_timeout),
        heartbeat_interval: section
            .duration_in("heartbeat_interval", ms(10)..=ms(5_000))?
            .unwrap_or(defaults.heartbeat_interval),
        leave_on_terminate: section.bool("leave_on_terminate")?.unwrap_or(false),
        renew_only_delay: section
            .duration_in("renew_only_delay", Duration::ZERO..=ms(600_000))?
            .unwrap_or(defaults.renew_only_delay),
        snapshot: snapshots(section, unknown)?,
    })
}

fn name(section: &Section<'_>) -> Result<Option<String>, ConfigError> {
    let Some(name) = section.string("name")? else { return Ok(None) };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed) {
        return Ok(Some(name));
    }
    let text = format!("{name:?} is no name; use up to {NAME_BYTES_MAX} of [A-Za-z0-9._-]");
    Err(section.refuse("name", text))
}

fn cluster_id(section: &Section<'_>) -> Result<Option<ClusterId>, ConfigError> {
    let Some(text) = section.string("cluster_id")? else { return Ok(None) };
    let id = u128::from_str_radix(&text, 16).ok().filter(|_| text.len() == 32);
    let id = id.ok_or_else(|| {
        let fix =
            "is no cluster id; use the 32 hex digits that \"spire-server cluster status\" shows";
        section.refuse("cluster_id", format!("{text:?} {fix}"))
    })?;
    Ok(Some(ClusterId(id)))
}

fn address(section: &Section<'_>, key: &str) -> Result<Option<String>, ConfigError> {
    let Some(address) = section.string(key)? else { return Ok(None) };
    check_address(&address).map_err(|text| section.refuse(key, text))?;
    Ok(Some(address))
}

fn peers(section: &Section<'_>) -> Result<Vec<String>, ConfigError> {
    let peers = section.strings("peers")?;
    for (number, peer) in peers.iter().enumerate() {
        check_address(peer).map_err(|text| section.refuse("peers", text))?;
        if peers.iter().take(number).any(|earlier| earlier == peer) {
            return Err(section.refuse("peers", format!("{peer:?} is listed twice")));
        }
    }
    Ok(peers)
}

fn check_address(address: &str) -> Result<(), String> {
    let parts = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let port = parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0);
    let Some(((host, _), _)) = parts.zip(port) else {
        return Err(format!("{address:?} is no address; write host:port"));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        return Err(format!(
            "{address:?} is an address to listen at, not one that others can reach; name one of this \
             machine's"
        ));
    }
    Ok(())
}

fn key(section: &Section<'_>) -> Result<KeySource, ConfigError> {
    let words = section.strings("key_command")?;
    let is_empty = [
        ("key_file", section.string("key_file")?.is_none()),
        ("key_env", section.string("key_env")?.is_none()),
        ("key_command", words.first().is_none_or(String::is_empty)),
    ];
    // Taken for absent, it would have this member make a key of its own.
    if let Some((key, _)) = is_empty.iter().find(|(key, empty)| *empty && section.has(key)) {
        return Err(section.refuse(key, "is empty; say where the cluster key is, or drop the key"));
    }
    let file = section.string("key_file")?.map(|path| KeySource::File(path.into()));
    let environment = section.string("key_env")?.map(KeySource::Environment);
    let command = (!words.is_empty()).then_some(KeySource::Command(words));
    let mut sources = [file, environment, command].into_iter().flatten();
    match (sources.next(), sources.next()) {
        (None, _) => Ok(KeySource::BesideData),
        (Some(source), None) => Ok(source),
        (Some(_), Some(_)) => {
            let key = if section.has("key_command") { "key_command" } else { "key_env" };
            Err(section.refuse(key, "set only one of key_file, key_env and key_command"))
        }
    }
}

fn voters_max(section: &Section<'_>) -> Result<Option<u8>, ConfigError> {
    match section.int("voters_max")? {
        None => Ok(None),
        Some(1) => Ok(Some(1)),
        Some(3) => Ok(Some(3)),
        Some(5) => Ok(Some(5)),
        Some(7) => Ok(Some(7)),
        Some(other) => {
            Err(section.refuse("voters_max", format!("{other} is not one of 1, 3, 5 and 7")))
        }
    }
}

/// Zero, or long enough that a restart is no death.
fn replace_dead_after(section: &Section<'_>) -> Result<Option<Duration>, ConfigError> {
    const SHORTEST: Duration = Duration::from_secs(30);
    let Some(after) = section.duration("replace_dead_after")? else { return Ok(None) };
    if after.is_zero() || after >= SHORTEST {
        return Ok(Some(after));
    }
    let text = format!(
        "{after:?} would replace members that only restart; choose 0s (never) or at least {SHORTEST:?}"
    );
    Err(section.refuse("replace_dead_after", text))
}

/// The snapshot schedule.
fn snapshots(
    section: &Section<'_>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<Option<ScheduleConfig>, ConfigError> {
    let Some(snapshot) = section.section("snapshot")? else { return Ok(None) };
    let minute = Duration::from_secs(60);
    let interval = snapshot.duration_in("interval", minute..=DAY * 30)?;
    let keep = snapshot.int("keep")?.unwrap_or(24);
    let keep = usize::try_from(keep).ok().filter(|keep| (1..=10_000).contains(keep));
    let keep =
        keep.ok_or_else(|| snapshot.refuse("keep", "out of range; choose between 1 and 10000"))?;
    let directory = snapshot.string("directory")?;
    let min_free = match snapshot.string("min_free")? {
        None => GIB,
        Some(text) => size(&text).ok_or_else(|| {
            snapshot.refuse("min_free", format!("{text:?} is no size; write for instance \"1GiB\""))
        })?,
    };
    let unknown_before = unknown.len();
    snapshot.collect_unknown(unknown);
    let Some(directory) = directory else {
        if unknown.len() > unknown_before {
            // A misspelt key says more than a missing one.
            return Ok(None);
        }
        let text = "cluster.snapshot: directory is missing: name a folder for the files, best on \
                    another disk";
        return Err(ConfigError::Missing(text.into()));
    };
    let (interval, directory) = (interval.unwrap_or(HOUR), directory.into());
    Ok(Some(ScheduleConfig { interval, keep, directory, min_free }))
}

/// A number of bytes with a unit: `B`, `KiB`, `MiB`, `GiB` or `TiB`.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => GIB,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// This machine's name, as the kernel has it.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
