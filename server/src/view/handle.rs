//! The handle that everyone reads through, and the task that keeps it current.
//!
//! Owns the lock around the model and the signal of its revision. The task is the only writer: it
//! subscribes, applies batches in order and, when it was too slow for the feed, rebuilds the model
//! beside the served one and swaps it in. Readers hold the lock only to copy pointers out.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use steeple_raft_store::change::{ClusterState, Journal, RefreshStatus};
use steeple_raft_store::{Revision, RowNumber, SealedValues, StoreHandle, Subscription};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::tls::BundleSource;
use steeple_spiffe_core::{
    AgentRecord, EntryId, FederationRelationship, RegistrationEntry, SpiffeId, Timestamp,
    TrustDomain,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::authorized;
use super::filter::{AgentFilter, EntryFilter};
use super::model::Model;
use super::rows;

/// Pause before asking a store again that refused a subscription (it is opening or fenced).
const SUBSCRIBE_RETRY: Duration = Duration::from_millis(100);

/// What the registry looks like at the revision this replica has applied.
#[derive(Clone, Debug)]
pub struct Views {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    model: RwLock<Model>,
    revision: watch::Sender<Revision>,
}

/// What a lookup shows.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The revision that it is of.
    pub revision: Revision,
    /// What is there.
    pub shown: T,
}

impl Views {
    /// Empty views of a store and the task that fills them and keeps them current.
    pub fn start(handle: StoreHandle) -> (Self, ViewTask) {
        let views = Self::empty();
        (views.clone(), ViewTask { handle, views })
    }

    /// The revision served now.
    pub fn revision(&self) -> Revision {
        *self.shared.revision.borrow()
    }

    /// A signal that moves with the revision. Readers may miss steps between two looks.
    pub fn subscribe_revision(&self) -> watch::Receiver<Revision> {
        self.shared.revision.subscribe()
    }

    /// Waits until the views have reached a revision; false when the deadline came first.
    pub async fn wait_for(&self, revision: Revision, deadline: Instant) -> bool {
        let mut signal = self.subscribe_revision();
        let reached = signal.wait_for(|current| *current >= revision);
        matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// The cluster's own row; `None` until the cluster has formed.
    pub fn cluster(&self) -> Option<Arc<ClusterState>> {
        self.read().cluster.clone()
    }

    /// The time stamped on the newest entry that is served.
    pub fn cluster_time(&self) -> Timestamp {
        self.read().time
    }

    /// The entry with an id, at the revision that comes with it.
    pub fn entry(&self, id: &EntryId) -> At<Option<Arc<RegistrationEntry>>> {
        self.look(|model| model.entries.get(id).cloned())
    }

    /// Entries after a row that pass the filter, in list order, at most `limit` (`None`: all).
    pub fn entries_page(
        &self,
        after: Option<RowNumber>,
        limit: Option<usize>,
        filter: &EntryFilter,
    ) -> At<Vec<(RowNumber, Arc<RegistrationEntry>)>> {
        self.look(|model| model.entries.page(after, limit.unwrap_or(usize::MAX), filter))
    }

    /// How many entries pass the filter.
    pub fn entries_count(&self, filter: &EntryFilter) -> At<usize> {
        self.look(|model| model.entries.count(filter))
    }

    /// Entries that give a SPIFFE id, in list order.
    pub fn entries_with_spiffe_id(&self, id: &SpiffeId) -> Vec<Arc<RegistrationEntry>> {
        self.read().entries.with_spiffe_id(id).cloned().collect()
    }

    /// All entries an agent is authorised for, in list order.
    pub fn authorized_entries(&self, agent: &SpiffeId) -> Vec<Arc<RegistrationEntry>> {
        let model = self.read();
        let selectors = model.agents.get(agent).map(|agent| &agent.selectors);
        authorized::authorized_entries(&model.entries, agent, selectors)
    }

    /// The entry with an id, if the agent is authorised for it.
    pub fn authorized_entry(
        &self,
        agent: &SpiffeId,
        id: &EntryId,
    ) -> Option<Arc<RegistrationEntry>> {
        let model = self.read();
        let selectors = model.agents.get(agent).map(|agent| &agent.selectors);
        authorized::authorized_entry(&model.entries, agent, selectors, id)
    }

    /// Whether an agent is entitled to the same as at an earlier revision. `false` also when this
    /// replica does not know.
    pub fn is_unchanged_for(&self, agent: &SpiffeId, since: Revision) -> bool {
        self.read().is_unchanged_for(agent, since)
    }

    /// The agent with an id.
    pub fn agent(&self, id: &SpiffeId) -> Option<Arc<AgentRecord>> {
        self.read().agents.get(id).cloned()
    }

    /// As [`Views::agent`], with the revision that shows it so.
    pub fn agent_at(&self, id: &SpiffeId) -> At<Option<Arc<AgentRecord>>> {
        self.look(|model| model.agents.get(id).cloned())
    }

    /// Agents after a row that pass the filter, in list order, at most `limit` (`None`: all).
    pub fn agents_page(
        &self,
        after: Option<RowNumber>,
        limit: Option<usize>,
        filter: &AgentFilter,
    ) -> At<Vec<(RowNumber, Arc<AgentRecord>)>> {
        self.look(|model| model.agents.page(after, limit.unwrap_or(usize::MAX), filter))
    }

    /// The shortest lifetime of X.509-SVIDs that entries ask for; `None`: there are no entries.
    pub fn shortest_x509_svid_ttl(&self, default: Duration) -> Option<Duration> {
        self.read().entries.shortest_x509_ttl(default)
    }

    /// How many agents pass the filter.
    pub fn agents_count(&self, filter: &AgentFilter) -> At<usize> {
        self.look(|model| model.agents.count(filter))
    }

    /// The bundle of a trust domain, the own one or a federated one.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.read().bundle(trust_domain).cloned()
    }

    /// Bundles after a row, in list order, at most `limit` (`None`: all). The own one is among them.
    pub fn bundles_page(
        &self,
        after: Option<RowNumber>,
        limit: Option<usize>,
    ) -> Vec<(RowNumber, Arc<Bundle>)> {
        rows::page(&self.read().bundles, after, limit, |_| true)
    }

    /// The federation relationship with a trust domain.
    pub fn relationship(&self, trust_domain: &TrustDomain) -> Option<Arc<FederationRelationship>> {
        self.read().relationships.get(trust_domain).cloned()
    }

    /// Federation relationships after a row, in list order, at most `limit` (`None`: all).
    pub fn relationships_page(
        &self,
        after: Option<RowNumber>,
        limit: Option<usize>,
    ) -> Vec<(RowNumber, Arc<FederationRelationship>)> {
        self.read().relationships.page(after, limit)
    }

    /// How the fetching of a trust domain's bundle goes, as it was noted last.
    pub fn refresh(&self, trust_domain: &TrustDomain) -> Option<Arc<RefreshStatus>> {
        self.read().refreshes.get(trust_domain).cloned()
    }

    /// How the fetching of all bundles goes, ascending by trust domain.
    pub fn refreshes(&self) -> Vec<Arc<RefreshStatus>> {
        self.read().refreshes.values().cloned().collect()
    }

    /// The newest revision at which a bundle or a federation relationship may have changed.
    pub fn federation_revision(&self) -> Revision {
        self.read().federation_revision
    }

    /// How many bundles are stored, the own one included.
    pub fn bundles_count(&self) -> usize {
        self.read().bundles.len()
    }

    /// The journal of authorities.
    pub fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.read().journal)
    }

    /// The values that are kept sealed.
    pub fn sealed(&self) -> SealedValues {
        self.read().sealed.clone()
    }

    /// The journal together with the bundle of the own trust domain, both of one revision.
    pub fn trust(&self, own: &TrustDomain) -> (Arc<Journal>, Option<Arc<Bundle>>) {
        let model = self.read();
        (Arc::clone(&model.journal), model.bundle(own).cloned())
    }

    fn empty() -> Self {
        let (revision, _) = watch::channel(Revision::default());
        Self { shared: Arc::new(Shared { model: RwLock::default(), revision }) }
    }

    /// Looks something up, and says which revision shows it so: the views may have moved on since a
    /// read was confirmed, and an answer names the state that it is of.
    fn look<T>(&self, what: impl FnOnce(&Model) -> T) -> At<T> {
        let model = self.read();
        At { revision: model.revision, shown: what(&model) }
    }

    // A panic under the lock cannot leave a row half indexed that a later write would not repair;
    // besides, a task that panics ends the process. So a poisoned lock is taken as it is.
    fn read(&self) -> RwLockReadGuard<'_, Model> {
        self.shared.model.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Model> {
        self.shared.model.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the whole model.
    fn replace(&self, model: Model) {
        let revision = model.revision;
        // The old model is dropped after the lock is released: a million rows take a while.
        let old = std::mem::replace(&mut *self.write(), model);
        drop(old);
        self.shared.revision.send_replace(revision);
    }

    /// Moves the model by one batch.
    pub(crate) fn apply(&self, batch: &steeple_raft_store::ChangeBatch) {
        let revision = {
            let mut model = self.write();
            model.apply(batch);
            model.revision
        };
        self.shared.revision.send_replace(revision);
    }

    /// Views of a fixed set of rows, for tests of code that reads views.
    #[cfg(test)]
    pub(crate) fn of_changes(
        revision: Revision,
        time: Timestamp,
        changes: Vec<steeple_raft_store::Change>,
    ) -> Self {
        let views = Self::empty();
        views.replace(Model::from_snapshot(revision, time, changes));
        views
    }
}

impl BundleSource for Views {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        Self::bundle(self, trust_domain)
    }
}

/// The task that feeds the views.
#[derive(Debug)]
pub struct ViewTask {
    handle: StoreHandle,
    views: Views,
}

impl ViewTask {
    /// Feeds the views until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let feed = self.follow();
        shutdown.run_until_cancelled(feed).await;
    }

    async fn follow(&self) {
        loop {
            let Some(mut subscription) = self.subscribe().await else {
                tokio::time::sleep(SUBSCRIBE_RETRY).await;
                continue;
            };
            while let Ok(batch) = subscription.next().await {
                self.views.apply(&batch);
            }
            tracing::info!("Views fell behind the change stream and are rebuilt");
        }
    }

    /// Reads the whole registry and loads it, on a blocking thread: a million rows take a while.
    async fn subscribe(&self) -> Option<Subscription> {
        let (handle, views) = (self.handle.clone(), self.views.clone());
        let load = move || handle.subscribe().map(|subscription| load(&views, subscription));
        match tokio::task::spawn_blocking(load).await {
            Ok(Ok(subscription)) => Some(subscription),
            Ok(Err(error)) => {
                tracing::warn!(%error, "Could not read registry for views");
                None
            }
            Err(_cancelled) => None,
        }
    }
}

fn load(views: &Views, mut subscription: Subscription) -> Subscription {
    let snapshot = std::mem::take(&mut subscription.snapshot);
    let model = Model::from_snapshot(subscription.revision, subscription.time, snapshot);
    views.replace(model);
    subscription
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::{Change, ChangeBatch};
    use steeple_spiffe_core::{Selector, SelectorMatch, SelectorSet, SortedSet};

    use super::*;

    fn entry(row: u64, parent: &str, hint: &str) -> Change {
        let entry = RegistrationEntry {
            downstream: row.is_multiple_of(2),
            hint: hint.to_owned(),
            ..RegistrationEntry::new(
                EntryId::parse(&format!("e{row}")).unwrap(),
                SpiffeId::parse("spiffe://a.test/w").unwrap(),
                SpiffeId::parse(parent).unwrap(),
                SortedSet::from([Selector::new("unix", &format!("uid:{row}")).unwrap()]),
            )
        };
        Change::EntryWritten { row: RowNumber(row), entry: Arc::new(entry) }
    }

    fn rows(page: &[(RowNumber, Arc<RegistrationEntry>)]) -> Vec<u64> {
        page.iter().map(|(row, _)| row.0).collect()
    }

    #[test]
    fn pages_go_on_after_a_row_whatever_the_filter() {
        let changes = vec![
            entry(1, "spiffe://a.test/p", "x"),
            entry(2, "spiffe://a.test/q", ""),
            entry(4, "spiffe://a.test/p", ""),
            entry(7, "spiffe://a.test/p", "x"),
        ];
        let views = Views::of_changes(Revision::new(0, 4), Timestamp::UNIX_EPOCH, changes);
        let parent = |path: &str| Some(SpiffeId::parse(path).unwrap());
        let all = EntryFilter::default();
        let by_parent = EntryFilter { parent_id: parent("spiffe://a.test/p"), ..all.clone() };
        let by_hint = EntryFilter { hint: Some("x".to_owned()), ..all.clone() };
        let no_hint = EntryFilter { hint: Some(String::new()), ..all.clone() };
        let downstream = EntryFilter { downstream: true, ..all.clone() };
        let uids: SelectorSet =
            ["uid:1", "uid:7"].iter().map(|uid| Selector::new("unix", uid).unwrap()).collect();
        let any = EntryFilter { selectors: Some((SelectorMatch::Any, uids)), ..all.clone() };
        let both = EntryFilter { downstream: true, ..by_parent.clone() };

        let page = |after: Option<u64>, limit, filter| {
            rows(&views.entries_page(after.map(RowNumber), limit, filter).shown)
        };
        assert_eq!(page(None, Some(2), &all), [1, 2]);
        assert_eq!(page(Some(3), None, &all), [4, 7], "after a row that is gone");
        assert_eq!(page(Some(1), Some(1), &by_parent), [4]);
        let cases: [(&str, &EntryFilter, &[u64]); 7] = [
            ("all", &all, &[1, 2, 4, 7]),
            ("by parent", &by_parent, &[1, 4, 7]),
            ("by hint", &by_hint, &[1, 7]),
            ("an empty hint is no filter", &no_hint, &[1, 2, 4, 7]),
            ("downstream", &downstream, &[2, 4]),
            ("any selector", &any, &[1, 7]),
            ("two filters", &both, &[4]),
        ];
        for (name, filter, expected) in cases {
            assert_eq!(page(None, None, filter), expected, "{name}");
            assert_eq!(views.entries_count(filter).shown, expected.len(), "{name}");
        }
    }

    #[test]
    fn a_moved_entry_leaves_the_indexes_it_was_in() {
        let before = vec![entry(1, "spiffe://a.test/p", "")];
        let views = Views::of_changes(Revision::new(0, 1), Timestamp::UNIX_EPOCH, before);
        views.apply(&ChangeBatch {
            revision: Revision::new(0, 2),
            time: Timestamp::from_unix_s(5),
            changes: vec![entry(1, "spiffe://a.test/q", "")],
        });
        let below = |path: &str| {
            let parent_id = Some(SpiffeId::parse(path).unwrap());
            views.entries_count(&EntryFilter { parent_id, ..EntryFilter::default() }).shown
        };
        assert_eq!((below("spiffe://a.test/p"), below("spiffe://a.test/q")), (0, 1));
        assert_eq!(views.cluster_time(), Timestamp::from_unix_s(5));

        let id = EntryId::parse("e1").unwrap();
        let deleted = Change::EntryDeleted { row: RowNumber(1), id: id.clone() };
        views.apply(&ChangeBatch {
            revision: Revision::new(0, 3),
            time: Timestamp::from_unix_s(5),
            changes: vec![deleted],
        });
        let found = views.entry(&id);
        assert!(found.shown.is_none());
        assert_eq!(found.revision, Revision::new(0, 3), "what is shown comes with its revision");
        assert_eq!(below("spiffe://a.test/q"), 0);
    }

    #[test]
    fn an_agent_may_resume_when_nothing_that_concerns_it_has_changed() {
        use steeple_spiffe_core::Serials;

        let id = SpiffeId::parse("spiffe://a.test/spire/agent/x").unwrap();
        let agent = |selector: &str| Change::AgentWritten {
            row: RowNumber(9),
            agent: Arc::new(AgentRecord {
                id: id.clone(),
                attestation_type: "x509pop".to_owned(),
                serials: Serials::default(),
                not_after: Timestamp::UNIX_EPOCH,
                pending_not_after: None,
                selectors: [Selector::new("k", selector).unwrap()].into(),
                can_reattest: true,
                agent_version: String::new(),
                attested_at: Timestamp::UNIX_EPOCH,
            }),
        };
        let bundle = |row| Change::BundleWritten {
            row: RowNumber(row),
            bundle: Arc::new(Bundle::empty(TrustDomain::parse("b.test").unwrap())),
        };
        let trust_domain = TrustDomain::parse("b.test").unwrap();
        let gone = Change::BundleDeleted { row: RowNumber(8), trust_domain };
        let deleted = Change::EntryDeleted { row: RowNumber(1), id: EntryId::parse("e1").unwrap() };
        let changes = vec![entry(1, "spiffe://a.test/p", ""), agent("a")];
        let views = Views::of_changes(Revision::new(1, 10), Timestamp::UNIX_EPOCH, changes);
        let resumes = |at: u64| views.is_unchanged_for(&id, Revision::new(1, at));
        assert!(!resumes(9), "what was before the snapshot is not known");
        assert!(resumes(10));
        assert!(!resumes(11), "this replica is behind");
        let stranger = SpiffeId::parse("spiffe://a.test/spire/agent/y").unwrap();
        assert!(!views.is_unchanged_for(&stranger, Revision::new(1, 10)));

        let table = [
            ("a renewal", agent("a"), true),
            ("other selectors", agent("b"), false),
            ("the journal", Change::JournalWritten(Arc::default()), true),
            ("a new entry", entry(2, "spiffe://a.test/q", ""), false),
            ("an entry gone", deleted, false),
            ("a bundle", bundle(8), false),
            ("a bundle gone", gone, false),
            ("the agent gone", Change::AgentDeleted { row: RowNumber(9), id: id.clone() }, false),
        ];
        for (at, (what, change, expected)) in (11..).zip(table) {
            let revision = Revision::new(1, at);
            let changes = vec![change];
            views.apply(&ChangeBatch { revision, time: Timestamp::UNIX_EPOCH, changes });
            assert_eq!(resumes(at - 1), expected, "{what}");
        }
    }

    #[tokio::test]
    async fn a_waiter_wakes_at_its_revision_and_gives_up_at_its_deadline() {
        let views = Views::of_changes(Revision::new(0, 1), Timestamp::UNIX_EPOCH, Vec::new());
        let soon = Instant::now() + Duration::from_millis(10);
        assert!(views.wait_for(Revision::new(0, 1), soon).await);
        assert!(!views.wait_for(Revision::new(0, 2), soon).await);

        let waiter = views.clone();
        let later = Instant::now() + Duration::from_secs(30);
        let waiting = async move { waiter.wait_for(Revision::new(0, 2), later).await };
        let batch = ChangeBatch {
            revision: Revision::new(0, 2),
            time: Timestamp::UNIX_EPOCH,
            changes: Vec::new(),
        };
        let (reached, ()) = tokio::join!(waiting, async { views.apply(&batch) });
        assert!(reached);
    }
}
