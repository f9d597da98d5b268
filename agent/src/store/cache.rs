//! The agent's state behind one lock: entries, SVIDs, bundles, tokens, subscribers.
//!
//! Owns what happens when a sync or a signing brings something new: which subscribers hear of it,
//! what is logged, when the signing task is woken. Decisions about SVIDs are `plan`'s, those about
//! matching `entries`'. Every method is short and none waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::{EntryId, Random, SelectorSet, Timestamp, TrustDomain};
use tokio::sync::Notify;
use tracing::{debug, info};

use super::bundles::{Bundles, OwnBundle, Taken, keys, roots, tainted_keys, tainted_roots};
use super::entries::{Entry, EntryTable, drop_repeated_hints};
use super::jwt::JwtCache;
use super::plan::{Candidate, SvidState, plan};
use super::subscribe::{ServedIdentity, Subscribers, WorkloadView};
use super::svids::WorkloadSvid;
use crate::limits::{SIGN_CHECK_INTERVAL, TAINT_SPREAD};
use crate::mutants::{self, Mutant};
use crate::rotate::Condition;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// X.509-SVIDs without a live subscriber, together with those that have one.
    pub x509_svids: usize,
    /// JWT-SVIDs.
    pub jwt_svids: usize,
}

/// What a sync brought: the complete lists.
#[derive(Debug)]
pub struct Synced {
    /// All entries of this agent.
    pub entries: BTreeMap<EntryId, Arc<Entry>>,
    /// The own trust domain's bundle.
    pub bundle: Bundle,
    /// Stands for the answer that brought it; `None`: the server does not ask what becomes of it.
    pub receipt: Option<u64>,
    /// Bundles of the trust domains that some entry federates with.
    pub federated: Bundles,
}

/// One SVID to sign.
#[derive(Clone, Debug)]
pub struct WorkOrder {
    /// For which entry.
    pub entry: Arc<Entry>,
    /// Whether it replaces one.
    pub is_renewal: bool,
}

/// Numbers for health and debugging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Entries known.
    pub entries: usize,
    /// X.509-SVIDs kept.
    pub x509_svids: usize,
    /// JWT-SVIDs kept.
    pub jwt_svids: usize,
    /// Live workload streams.
    pub subscribers: usize,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    own: Arc<OwnBundle>,
    limits: StoreLimits,
    /// Tells the signing task that an SVID is missing or outdated.
    work: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Of the answer that the own bundle was in last.
    receipt: Option<u64>,
    entries: EntryTable,
    svids: BTreeMap<EntryId, Arc<WorkloadSvid>>,
    last_access: BTreeMap<EntryId, u64>,
    accesses: u64,
    federated: Bundles,
    /// Roots below which nothing is to be served any longer than it takes to replace it: tainted, or
    /// gone from the bundle while an SVID below them was cached.
    bad_roots: BTreeSet<Vec<u8>>,
    /// When the replacement of what is below them begins; `None`: not drawn yet.
    replace_from: Option<Timestamp>,
    tainted_keys: BTreeSet<String>,
    subscribers: Subscribers,
    jwt: JwtCache,
}

impl Store {
    /// An empty store that trusts `own`.
    pub fn new(own: Arc<OwnBundle>, limits: StoreLimits) -> Arc<Self> {
        let state = State {
            receipt: None,
            entries: EntryTable::default(),
            svids: BTreeMap::new(),
            last_access: BTreeMap::new(),
            accesses: 0,
            federated: Bundles::new(),
            bad_roots: BTreeSet::new(),
            replace_from: None,
            tainted_keys: BTreeSet::new(),
            subscribers: Subscribers::default(),
            jwt: JwtCache::new(limits.jwt_svids),
        };
        Arc::new(Self { own, limits, work: Notify::new(), state: Mutex::new(state) })
    }

    /// The own bundle.
    pub fn own_bundle(&self) -> Arc<Bundle> {
        self.own.load()
    }

    /// The entries as last synced, to ask a server only for what differs.
    pub fn entries(&self) -> BTreeMap<EntryId, Arc<Entry>> {
        self.lock().entries.all().clone()
    }

    /// The receipt of the bundle that workloads get now, if a server wants to know of it.
    pub fn receipt(&self) -> Option<u64> {
        self.lock().receipt
    }

    /// Takes the result of a sync and tells whoever it concerns. Order as in SPIRE: bundles, taints,
    /// entries. Returns the receipt to acknowledge at once: of a bundle that is new here, or the first
    /// that has one. From now on every workload that asks gets it and every open stream is woken for it.
    pub fn apply(&self, synced: Synced) -> Option<u64> {
        let mut state = self.lock();
        let before = self.own.load();
        let taken = self.own.replace(synced.bundle);
        let own_changed = taken == Taken::Changed;
        let acknowledged = state.take_receipt(taken, synced.receipt);
        let own = self.own.load();
        state.take_roots(&before, &own);
        state.take_keys(&before, &own);
        let changed_domains = state.take_federated(synced.federated);
        let changes = state.entries.replace(synced.entries);
        for entry in &changes.created {
            debug!(entry = %entry.id, spiffe_id = %entry.spiffe_id, "Entry created");
        }
        for entry in &changes.updated {
            debug!(entry = %entry.id, spiffe_id = %entry.spiffe_id, "Entry updated");
        }
        for entry in &changes.removed {
            debug!(entry = %entry.id, spiffe_id = %entry.spiffe_id, "Entry removed");
            state.svids.remove(&entry.id);
            state.last_access.remove(&entry.id);
        }
        if own_changed {
            debug!("Bundle updated");
        }
        state.notify_after_sync(own_changed, &changed_domains, &changes.updated);
        drop(state);
        self.work.notify_one();
        acknowledged
    }

    /// What to sign now, most urgent first, at most `batch`. Drops what the limit asks for.
    pub fn next_work(
        &self,
        condition: Condition,
        now: Timestamp,
        random: &dyn Random,
        batch: usize,
    ) -> Vec<WorkOrder> {
        let mut state = self.lock();
        let plan = state.plan(condition, now, random, self.limits.x509_svids);
        for id in &plan.evict {
            state.svids.remove(id);
        }
        let orders = plan.sign.iter().take(batch).filter_map(|id| {
            let entry = Arc::clone(state.entries.get(id)?);
            Some(WorkOrder { is_renewal: state.svids.contains_key(id), entry })
        });
        orders.collect()
    }

    /// How long until an SVID that ends soon may be renewed; `None` = there is no such SVID. Those with
    /// more time are seen to at the regular checks.
    pub fn next_renewal(&self, now: Timestamp) -> Option<Duration> {
        let soon = now.plus(SIGN_CHECK_INTERVAL * 2);
        let state = self.lock();
        let ending = state.svids.values().filter(|svid| svid.not_after < soon && svid.is_new(now));
        ending.map(|svid| svid.renewable_from().since(now)).min()
    }

    /// Takes signed SVIDs. One whose entry has meanwhile gone is dropped.
    pub fn put_svids(&self, svids: Vec<(EntryId, WorkloadSvid)>) {
        let mut state = self.lock();
        let mut arrived = BTreeSet::new();
        for (id, svid) in svids {
            if state.entries.get(&id).is_none() {
                continue;
            }
            debug!(entry = %id, spiffe_id = %svid.spiffe_id, "SVID updated");
            state.svids.insert(id.clone(), Arc::new(svid));
            arrived.insert(id);
        }
        state.subscribers.notify_where(|matched| !matched.is_disjoint(&arrived));
    }

    /// Waits until there may be something to sign.
    pub async fn work_arrived(&self) {
        self.work.notified().await;
    }

    /// What a workload with these selectors is entitled to, now.
    pub fn view(&self, selectors: &SelectorSet) -> WorkloadView {
        self.lock().view(selectors, self.own.load())
    }

    /// Counts for health and debugging.
    pub fn counts(&self) -> CacheCounts {
        let state = self.lock();
        CacheCounts {
            entries: state.entries.all().len(),
            x509_svids: state.svids.len(),
            jwt_svids: state.jwt.len(),
            subscribers: state.subscribers.len(),
        }
    }

    /// Works on the token cache.
    pub fn with_tokens<T>(&self, work: impl FnOnce(&mut JwtCache) -> T) -> T {
        work(&mut self.lock().jwt)
    }

    pub(super) fn add_subscriber(
        &self,
        selectors: &SelectorSet,
    ) -> (u64, tokio::sync::watch::Receiver<u64>) {
        let mut state = self.lock();
        let matched = state.matched_ids(selectors);
        state.accesses += 1;
        let access = state.accesses;
        let mut is_missing = false;
        for id in &matched {
            state.last_access.insert(id.clone(), access);
            is_missing |= !state.svids.contains_key(id);
        }
        let added = state.subscribers.add(selectors.clone(), matched);
        drop(state);
        if is_missing {
            self.work.notify_one();
        }
        added
    }

    pub(super) fn remove_subscriber(&self, id: u64) {
        self.lock().subscribers.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held ends the process anyway (a task that panics does).
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Entries that are served to a workload: store entries and repeated hints are not.
    fn served(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        let mut entries = self.entries.matching(selectors);
        entries.retain(|entry| !entry.store_svid);
        drop_repeated_hints(entries)
    }

    fn matched_ids(&self, selectors: &SelectorSet) -> BTreeSet<EntryId> {
        self.served(selectors).iter().map(|entry| entry.id.clone()).collect()
    }

    fn view(&self, selectors: &SelectorSet, bundle: Arc<Bundle>) -> WorkloadView {
        let identities: Vec<ServedIdentity> = self
            .served(selectors)
            .into_iter()
            .map(|entry| ServedIdentity { svid: self.svids.get(&entry.id).cloned(), entry })
            .collect();
        let named = identities.iter().flat_map(|identity| &identity.entry.federates_with);
        let all = mutants::on(Mutant::ForeignBundlesForEveryEntry).then(|| self.federated.keys());
        let domains = named.chain(all.into_iter().flatten());
        let federated = domains
            .filter_map(|td| Some((td.clone(), Arc::clone(self.federated.get(td)?))))
            .collect();
        WorkloadView { identities, bundle, federated }
    }

    fn plan(
        &mut self,
        condition: Condition,
        now: Timestamp,
        random: &dyn Random,
        limit: usize,
    ) -> super::plan::Plan {
        if !self.bad_roots.is_empty() && self.replace_from.is_none() {
            self.replace_from = Some(now.plus(TAINT_SPREAD.mul_f64(random.unit_f64())));
        }
        let wanted = self.subscribers.matched();
        let entries = self.entries.all().values().filter(|entry| !entry.store_svid);
        let candidates: Vec<Candidate<'_>> = entries
            .map(|entry| Candidate {
                entry: &entry.id,
                is_wanted: wanted.contains(&entry.id),
                prefetch: entry.prefetch,
                last_access: self.last_access.get(&entry.id).copied().unwrap_or(0),
                svid: self.svid_state(entry, condition, now, random),
            })
            .collect();
        plan(&candidates, limit)
    }

    fn svid_state(
        &self,
        entry: &Entry,
        condition: Condition,
        now: Timestamp,
        random: &dyn Random,
    ) -> SvidState {
        let Some(svid) = self.svids.get(&entry.id) else { return SvidState::Missing };
        if !entry.is_version(svid.entry_revision, svid.entry_created_at_unix_s) {
            return if svid.is_expired(now) { SvidState::Missing } else { SvidState::Outdated };
        }
        // Another would be no better: below the same authority, or as short.
        if svid.is_new(now) {
            return SvidState::Fresh;
        }
        if svid.is_expired(now) {
            return SvidState::Missing;
        }
        let may_replace = self.replace_from.is_some_and(|from| now >= from);
        if may_replace && self.bad_roots.contains(&svid.root_key_id) {
            return SvidState::Outdated;
        }
        let is_due = condition.is_due(svid.not_before, svid.not_after, now, random.unit_f64());
        if is_due { SvidState::Due } else { SvidState::Fresh }
    }

    /// What can be said of the bundle in use from now on, and what is worth a call of its own. A bundle
    /// that was refused leaves what is true of the one in use.
    fn take_receipt(&mut self, taken: Taken, receipt: Option<u64>) -> Option<u64> {
        if taken == Taken::Refused && !mutants::on(Mutant::AcknowledgedWithoutApplying) {
            return None;
        }
        let is_first = self.receipt.is_none();
        self.receipt = receipt;
        receipt.filter(|_| is_first || taken != Taken::Same)
    }

    /// Looks which roots are tainted now, and which have left: an agent that was away between a taint
    /// and the revocation never sees the taint.
    fn take_roots(&mut self, before: &Bundle, own: &Bundle) {
        let tainted = tainted_roots(own);
        let now = roots(own);
        let mut bad: BTreeSet<Vec<u8>> = roots(before).difference(&now).cloned().collect();
        bad.extend(self.bad_roots.iter().filter(|id| !now.contains(*id)).cloned());
        bad.retain(|id| self.svids.values().any(|svid| svid.root_key_id == *id));
        bad.extend(tainted.iter().cloned());
        let is_new = |id: &&Vec<u8>| !self.bad_roots.contains(*id);
        let new_tainted: Vec<String> = tainted.iter().filter(is_new).map(|id| hex(id)).collect();
        let new_gone: Vec<String> =
            bad.difference(&tainted).filter(is_new).map(|id| hex(id)).collect();
        if new_tainted.is_empty() && new_gone.is_empty() {
            self.bad_roots = bad;
            return;
        }
        (self.bad_roots, self.replace_from) = (bad, None);
        let is_below = |svid: &&Arc<WorkloadSvid>| self.bad_roots.contains(&svid.root_key_id);
        let count = self.svids.values().filter(is_below).count();
        if !new_tainted.is_empty() {
            let subject_key_ids = new_tainted.join(",");
            info!(%subject_key_ids, "New tainted X.509 authorities found");
            info!(count, "Scheduled rotation for SVID entries due to tainted X.509 authorities");
        }
        if !new_gone.is_empty() {
            let subject_key_ids = new_gone.join(",");
            info!(%subject_key_ids, count, "X.509 authorities of cached SVIDs have left the bundle");
        }
    }

    /// Forgets tokens of keys that are tainted now or have left the bundle.
    fn take_keys(&mut self, before: &Bundle, own: &Bundle) {
        let tainted = tainted_keys(own);
        let now = keys(own);
        let new: BTreeSet<String> = tainted.difference(&self.tainted_keys).cloned().collect();
        self.tainted_keys = tainted;
        let gone = keys(before).difference(&now).cloned().collect::<BTreeSet<_>>();
        let dropped = self
            .jwt
            .drop_where(|token| new.contains(&token.key_id) || gone.contains(&token.key_id));
        if !new.is_empty() {
            let jwt_authority_key_ids = new.into_iter().collect::<Vec<_>>().join(",");
            info!(
                jwt_authority_key_ids,
                tainted_jwt_svids = dropped,
                "JWT-SVIDs were removed from the JWT cache because they were issued by a tainted authority",
            );
        }
    }

    fn take_federated(&mut self, new: Bundles) -> BTreeSet<TrustDomain> {
        let differs = |td: &&TrustDomain| self.federated.get(*td) != new.get(*td);
        let all = self.federated.keys().chain(new.keys());
        let changed = all.filter(differs).cloned().collect();
        self.federated = new;
        changed
    }

    /// Recomputes what each subscriber matches and tells those for whom something visible changed.
    /// An entry that is new and has no SVID yet isn't visible: its arrival will tell.
    fn notify_after_sync(
        &mut self,
        own_changed: bool,
        changed_domains: &BTreeSet<TrustDomain>,
        updated: &[Arc<Entry>],
    ) {
        let updated: BTreeSet<&EntryId> = updated.iter().map(|entry| &entry.id).collect();
        let mut told = Vec::new();
        let mut rematched = Vec::new();
        for (id, subscriber) in self.subscribers.iter() {
            let entries = self.served(&subscriber.selectors);
            let now: BTreeSet<EntryId> = entries.iter().map(|entry| entry.id.clone()).collect();
            let lost = !subscriber.matched.is_subset(&now);
            let visible = entries.iter().any(|entry| {
                let is_new = !subscriber.matched.contains(&entry.id);
                let bundle_changed =
                    entry.federates_with.iter().any(|one| changed_domains.contains(one));
                (is_new && self.svids.contains_key(&entry.id))
                    || (!is_new && updated.contains(&entry.id))
                    || bundle_changed
            });
            if own_changed || lost || visible {
                told.push(id);
            }
            rematched.push((id, now));
        }
        for (id, matched) in rematched {
            self.subscribers.set_matched(id, matched);
        }
        for id in told {
            self.subscribers.notify(id);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
