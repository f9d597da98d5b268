//! Restore and recover: a registry made anew beside the old one, in a new epoch.
//!
//! ```text
//!   restore   frames of a snapshot file ─┐
//!                                        ├─► tables of a new folder ─► new epoch ─► takes the place
//!   recover   old tables, whole log ─────┘
//! ```
//!
//! Both block, and need a folder that no process uses. Owns what is checked before anything is
//! replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use steeple_spiffe_core::authority::{AuthorityKind, AuthorityStatus};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::time::Timestamp;

use crate::apply::{SINGLE, Table, Tables, WriteSet, read_journal};
use crate::backup::epoch::{Beginning, Begun, NewCluster, begin, each_page, read_state};
use crate::backup::error::RebuildError;
use crate::backup::facts::SnapshotCounts;
use crate::backup::folder::Site;
use crate::backup::sealing::Opener;
use crate::change::ClusterState;
use crate::config::Config;
use crate::error::OpenError;
use crate::ids::{ClusterId, MemberId};
use crate::pb;
use crate::raft::Entry;
use crate::raft::convert::{entry_from_bytes, log_id_from_pb, snapshot_meta_from_pb};
use crate::raft::state_machine::{StateMachine, write_applied};
use crate::storage::{Engine, LogValue};
use crate::{rocks, snapshot};

/// An authority in the last part of its life has no time left to hand over in order.
const LAST_PART: u32 = 12;

/// Log read at a time.
const LOG_BYTES: usize = 2 * 1024 * 1024;

/// Log entries applied in one write.
const LOG_ENTRIES: usize = 256;

/// What both need to know.
#[derive(Debug)]
pub struct Rebuild<'a> {
    /// The member's settings.
    pub config: &'a Config,
    /// Draws the member's new id.
    pub random: &'a dyn Random,
    /// The time that the new epoch begins, by this machine's clock.
    pub now: Timestamp,
    /// The cluster's name, as the operator typed it.
    pub confirmed: String,
}

/// What a snapshot says of itself, from its file's header.
#[derive(Debug)]
pub struct Origin {
    /// The cluster it is of.
    pub cluster_id: ClusterId,
    /// That cluster's name.
    pub cluster_name: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// The cluster key that opens it.
    pub key_id: String,
    /// Makes its key its own.
    pub salt: Vec<u8>,
    /// What its frames are bound to.
    pub binding: [u8; 32],
}

/// What an operator may add to a restore.
#[derive(Debug, Default)]
pub struct RestoreOptions<'a> {
    /// Make a cluster of its own.
    pub new_cluster: Option<NewCluster<'a>>,
    /// Publish these authorities too.
    pub trust: Option<Bundle>,
    /// Even if what signs has ended.
    pub force: bool,
}

/// A registry that was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The cluster, in its new epoch.
    pub cluster: ClusterState,
    /// The member's new id.
    pub member_id: MemberId,
    /// Its first log index.
    pub index: u64,
    /// How much is in it; join tokens are those that are void.
    pub counts: SnapshotCounts,
    /// Where the old registry is, if there was one.
    pub replaced: Option<PathBuf>,
    /// The cluster of the old registry, if that was another one.
    pub replaced_cluster: Option<ClusterId>,
}

/// A survivor's registry that was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The registry.
    pub rebuilt: Rebuilt,
    /// The last entry of its log, which is kept: index and term.
    pub last: (u64, u64),
    /// The last index that it had heard to be committed.
    pub heard: u64,
}

/// Makes a registry of a snapshot's frames.
///
/// # Errors
///
/// [`RebuildError`]; then nothing was replaced.
pub fn restore(
    ask: &Rebuild<'_>,
    origin: &Origin,
    options: &RestoreOptions<'_>,
    frames: &mut dyn FnMut() -> io::Result<Option<Vec<u8>>>,
) -> Result<Rebuilt, RebuildError> {
    check_origin(ask, origin, options.new_cluster.as_ref())?;
    let keys = &ask.config.keys;
    let key = keys.snapshot_key(&origin.key_id, &origin.salt)?;
    let key = key.ok_or_else(|| RebuildError::OtherKey {
        key_id: origin.key_id.clone(),
        held: keys.ids().join(", "),
    })?;
    let in_place = cluster_in_place(&ask.config.data_dir)?;
    let (ours, other): (Option<ClusterState>, Option<ClusterState>) = match in_place {
        Some(found) if found.cluster_id == origin.cluster_id => (Some(found), None),
        found => (None, found),
    };
    // The cluster may have begun more epochs than the snapshot knows.
    let above = ours.map_or(0, |ours| ours.epoch);
    let site = Site::prepare(&ask.config.data_dir)?;
    let engine = site.open()?;
    let made = (|| {
        let opener = Opener::new(key, origin.binding, frames)?;
        load(engine.tables.as_ref(), opener)?;
        if !options.force {
            check_authorities(engine.tables.as_ref(), ask.now)?;
        }
        let (new, trust) = (options.new_cluster.as_ref(), options.trust.as_ref());
        finish(ask, &engine, above, new, trust)
    })();
    drop(engine);
    let (begun, me, counts) = made?;
    let replaced = site.take_place(ask.now)?;
    // A cluster that is made anew is another one in any case.
    let other = other.filter(|_| options.new_cluster.is_none());
    let replaced_cluster = other.map(|other| other.cluster_id);
    Ok(Rebuilt { replaced_cluster, ..rebuilt(begun, me, counts, replaced) })
}

/// Makes a registry of what a survivor has, its whole log applied.
///
/// # Errors
///
/// [`RebuildError`]; then nothing was replaced.
pub fn recover(ask: &Rebuild<'_>) -> Result<Recovered, RebuildError> {
    recover_or_not(ask).map_err(|error| {
        // A damaged block is found when it is read, wherever that is.
        if let RebuildError::Tables(reason) = error {
            return RebuildError::Survivor { folder: ask.config.data_dir.clone(), reason };
        }
        error
    })
}

fn recover_or_not(ask: &Rebuild<'_>) -> Result<Recovered, RebuildError> {
    let place = &ask.config.data_dir;
    if !place.join("STEEPLE").exists() {
        return Err(RebuildError::NoRegistry(place.clone()));
    }
    let old = rocks::open(place)?;
    // Mends what a crash has left, as every start does.
    drop(StateMachine::open(&old)?);
    let name = check_survivor(ask, &old)?;
    if ask.confirmed != name {
        let last = match old.log.bounds()?.last {
            Some(record) => entry_from_bytes(&record.bytes)?.log_id,
            None => read_state(old.tables.as_ref())?.log_id,
        };
        let (term, index) = (last.leader_id.term, last.index);
        return Err(RebuildError::UnconfirmedSurvivor { name, term, index });
    }
    let heard = match old.log.get(LogValue::Committed)? {
        Some(bytes) if !bytes.is_empty() => {
            let id = pb::store::LogId::decode(bytes.as_slice());
            id.map_or(0, |id| log_id_from_pb(&id).index)
        }
        Some(_) | None => 0,
    };
    let site = Site::prepare_held(place)?;
    let engine = site.open()?;
    let made = (|| {
        copy(old.tables.as_ref(), engine.tables.as_ref())?;
        apply_log(ask, &old, &engine)?;
        let last = read_state(engine.tables.as_ref())?.log_id;
        let (begun, me, counts) = finish(ask, &engine, 0, None, None)?;
        Ok::<_, RebuildError>((begun, me, counts, (last.index, last.leader_id.term)))
    })();
    drop(engine);
    drop(old);
    let (begun, me, counts, last) = made?;
    let replaced = site.take_place(ask.now)?;
    Ok(Recovered { rebuilt: rebuilt(begun, me, counts, replaced), last, heard })
}

fn rebuilt(
    begun: Begun,
    member_id: MemberId,
    counts: SnapshotCounts,
    replaced: Option<PathBuf>,
) -> Rebuilt {
    let counts = SnapshotCounts { tokens: begun.tokens, ..counts };
    let (cluster, index) = (begun.cluster, begun.index);
    Rebuilt { cluster, member_id, index, counts, replaced, replaced_cluster: None }
}

fn check_origin(
    ask: &Rebuild<'_>,
    origin: &Origin,
    new: Option<&NewCluster<'_>>,
) -> Result<(), RebuildError> {
    let config = ask.config;
    if origin.trust_domain != config.trust_domain.as_str() {
        return Err(RebuildError::OtherTrustDomain {
            found: origin.trust_domain.clone(),
            configured: config.trust_domain.to_string(),
        });
    }
    if ask.confirmed != origin.cluster_name {
        return Err(RebuildError::Unconfirmed { name: origin.cluster_name.clone() });
    }
    let configured = config.cluster_name.clone();
    match new {
        Some(new) if new.name != configured => {
            Err(RebuildError::NewName { asked: new.name.clone(), configured })
        }
        Some(_) => Ok(()),
        None if origin.cluster_name != configured => {
            Err(RebuildError::OtherName { found: origin.cluster_name.clone(), configured })
        }
        None => match config.cluster_id {
            Some(id) if id != origin.cluster_id => Err(RebuildError::OtherCluster {
                found: origin.cluster_id.to_string(),
                configured: id.to_string(),
            }),
            Some(_) | None => Ok(()),
        },
    }
}

/// Checks that the folder is this member's to recover, and returns the cluster's name.
fn check_survivor(ask: &Rebuild<'_>, old: &Engine) -> Result<String, RebuildError> {
    let config = ask.config;
    let Some(cluster) = crate::apply::read_cluster(old.tables.as_ref())? else {
        return Err(RebuildError::NoRegistry(config.data_dir.clone()));
    };
    let configured = config.cluster_name.clone();
    if cluster.trust_domain != config.trust_domain {
        return Err(RebuildError::OtherTrustDomain {
            found: cluster.trust_domain.to_string(),
            configured: config.trust_domain.to_string(),
        });
    }
    if cluster.name != configured {
        return Err(RebuildError::OtherName { found: cluster.name, configured });
    }
    if let Some(id) = config.cluster_id.filter(|id| *id != cluster.cluster_id) {
        let (found, configured) = (cluster.cluster_id.to_string(), id.to_string());
        return Err(RebuildError::OtherCluster { found, configured });
    }
    let held = config.keys.checks();
    let identity = old.local.identity()?;
    if !identity.key_checks.iter().any(|stored| held.contains(stored)) {
        let key_id = identity.key_checks.first().map_or_else(String::new, |(id, _)| id.clone());
        return Err(RebuildError::OtherKey { key_id, held: config.keys.ids().join(", ") });
    }
    Ok(cluster.name)
}

/// The cluster of the registry whose place a restored one takes, as far as it can be read.
fn cluster_in_place(place: &Path) -> Result<Option<ClusterState>, RebuildError> {
    if !place.join("STEEPLE").exists() {
        return Ok(None);
    }
    let old = match rocks::open(place) {
        Ok(old) => old,
        Err(error @ OpenError::Locked { .. }) => return Err(error.into()),
        // Damaged: what a restore is for.
        Err(_) => return Ok(None),
    };
    Ok(crate::apply::read_cluster(old.tables.as_ref()).ok().flatten())
}

fn load(tables: &dyn Tables, mut opener: Opener<'_>) -> Result<(), RebuildError> {
    tables.begin_replace()?;
    let meta = snapshot::read_from(&mut opener, &mut |rows| tables.load(rows))?;
    let meta = snapshot_meta_from_pb(&meta)?;
    let mut writes = WriteSet::new();
    write_applied(&mut writes, meta.last_log_id.as_ref(), &meta.last_membership);
    Ok(tables.end_replace(writes)?)
}

fn check_authorities(tables: &dyn Tables, now: Timestamp) -> Result<(), RebuildError> {
    let journal = read_journal(tables)?;
    for kind in AuthorityKind::ALL {
        let name = match kind {
            AuthorityKind::X509 => "X.509",
            AuthorityKind::Jwt => "JWT",
            // What ends with these ends nothing else: a cluster is restored without them.
            AuthorityKind::Wit => continue,
        };
        let mut of_kind = journal.authorities.iter().filter(|one| one.kind == kind);
        let Some(active) = of_kind.find(|one| one.status == AuthorityStatus::Active) else {
            continue;
        };
        let last_part: Duration = active.not_after.since(active.issued_at) / LAST_PART;
        if now >= active.not_after.minus(last_part) {
            return Err(RebuildError::ends(name, active.not_after));
        }
    }
    Ok(())
}

fn finish(
    ask: &Rebuild<'_>,
    engine: &Engine,
    above: u32,
    new_cluster: Option<&NewCluster<'_>>,
    trust: Option<&Bundle>,
) -> Result<(Begun, MemberId, SnapshotCounts), RebuildError> {
    let counts = read_state(engine.tables.as_ref())?.counts;
    // Zero stands for "no member" in messages.
    let me = MemberId(ask.random.u64().max(1));
    let beginning = Beginning {
        me,
        address: ask.config.advertise.clone(),
        key_checks: ask.config.keys.checks(),
        now: ask.now,
        above,
        new_cluster,
        trust,
    };
    Ok((begin(engine, &beginning)?, me, counts))
}

fn copy(from: &dyn Tables, to: &dyn Tables) -> Result<(), RebuildError> {
    to.begin_replace()?;
    for table in Table::IN_SNAPSHOTS {
        each_page(from, *table, &mut |page| {
            to.load(page.into_iter().map(|(key, value)| (*table, key, value)).collect())
        })?;
    }
    let applied = from.get(Table::Applied, SINGLE)?;
    let writes = WriteSet::from([((Table::Applied, SINGLE.to_vec()), applied)]);
    Ok(to.end_replace(writes)?)
}

/// Applies what the old log has beyond the tables, committed or not.
fn apply_log(ask: &Rebuild<'_>, old: &Engine, new: &Engine) -> Result<(), RebuildError> {
    let applied = read_state(new.tables.as_ref())?.log_id.index;
    let Some(last) = old.log.bounds()?.last else { return Ok(()) };
    let (machine, _) = StateMachine::open(new)?;
    let mut next = applied + 1;
    while next <= last.index {
        let records = old.log.read(next, last.index + 1, LOG_BYTES)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(records.len());
        for record in records {
            if record.index != next {
                break;
            }
            entries.push(entry_from_bytes(&record.bytes)?);
            next += 1;
        }
        if entries.is_empty() {
            return Err(RebuildError::Hole { folder: ask.config.data_dir.clone(), index: next });
        }
        for batch in entries.chunks(LOG_ENTRIES) {
            machine.apply_batch(batch)?;
        }
    }
    Ok(())
}
