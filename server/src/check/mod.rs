//! `cluster check`: is this member, and what it can see of its cluster, in good order?
//!
//! Measures (`measure`), then judges (`judge`, pure): a verdict a line, with what to do about it and
//! where to read more. Asks no other member: they say how they stand every 2 s, and what is older than
//! 10 s is compared with nothing.

mod federation;
mod judge;
mod measure;
mod upstream;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use steeple_raft_store::{ClusterKeys, KeysInUse};

use crate::key_uses;
use crate::keys::test_signatures;
use crate::service::{self, Context};
use crate::upstream::Upstream;

pub(crate) use judge::FREE_WARN;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Someone should look at it.
    Warn,
    /// Something does not work, or is about to stop working.
    Fail,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What was looked at, a stable word for scripts.
    pub name: &'static str,
    /// How bad it is.
    pub outcome: Outcome,
    /// What was found.
    pub text: String,
    /// What to do about it; empty if it is as it should be.
    pub hint: Cow<'static, str>,
    /// Where to read more.
    pub doc: &'static str,
}

impl Verdict {
    fn ok(name: &'static str, doc: &'static str, text: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, text: text.into(), hint: Cow::Borrowed(""), doc }
    }

    fn warn(self, text: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { outcome: Outcome::Warn, text: text.into(), hint: hint.into(), ..self }
    }

    fn fail(self, text: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { outcome: Outcome::Fail, text: text.into(), hint: hint.into(), ..self }
    }
}

/// What the checks need beside the context of all services.
#[derive(Clone, Debug)]
pub struct CheckParts {
    /// `data_dir`.
    pub data_dir: PathBuf,
    /// `cluster.peers`.
    pub peers: Vec<String>,
    /// The cluster keys.
    pub keys: Arc<ClusterKeys>,
}

/// Looks at everything.
pub async fn run(parts: &CheckParts, context: &Context) -> Vec<Verdict> {
    let store = &context.gate.store;
    let now = context.gate.clock.boot_time();
    let status = store.status();
    let contact = store.contact();
    let views = context.views();
    let addresses = status.members.iter().map(|member| member.address.clone());
    let addresses = addresses.chain(parts.peers.iter().cloned()).collect();
    let (folder, disk, names) = tokio::join!(
        measure::folder(parts.data_dir.clone()),
        measure::sync(parts.data_dir.clone()),
        measure::names(addresses),
    );
    let backups = match &context.schedule {
        Some(schedule) => Some(schedule.look().await),
        None => None,
    };
    let leads = status.leader == Some(status.member_id);
    let own = status.members.iter().find(|member| member.id == status.member_id);
    let log = own.and_then(|own| Some(own.observed.as_ref()?.said.disk)).unwrap_or_default();
    let journal = views.journal();
    let (tested, uses) = match views.cluster() {
        Some(cluster) => {
            let in_use = KeysInUse::of(&cluster, &journal, &views.sealed());
            let uses = key_uses::keys(&status, &cluster, &in_use, now);
            (test_signatures(&parts.keys, cluster.cluster_id, &journal), uses)
        }
        None => (Vec::new(), Vec::new()),
    };
    vec![
        judge::data_folder(&folder),
        judge::disk_sync(&disk, log),
        judge::quorum(&status.state, &contact),
        judge::epochs(
            views.cluster().map_or(0, |cluster| cluster.epoch),
            store.newer_epoch(),
            store.has_twin_epoch(),
            &store.foreign_peers(),
        ),
        judge::clock(&status),
        judge::names(&names),
        judge::peers(&status, &contact),
        judge::versions(&status, &store.level_status(), now),
        judge::cluster_keys(&uses),
        judge::authorities(&tested),
        judge::settings(&status, now),
        judge::certificates(
            &journal,
            context.minter.policy.kinds(),
            views.shortest_x509_svid_ttl(context.minter.policy.default_x509_svid_ttl),
            context.common_time(),
        ),
        judge::state(&status, now),
        judge::snapshots(backups.as_ref(), leads),
        federation::judge(
            context.refresher.relationships().len(),
            context.refresher.dangers(context.common_time()),
        ),
        upstream::judge(
            context.minter.upstream.as_ref().map(Upstream::name),
            service::upstream::standing(context).await,
            context.minter.policy.ca_ttl,
            context.common_time(),
        ),
    ]
}
