//! `steeple.agent.v1.Updates`: the push stream that tells our agent of changes as they happen.
//!
//! Owns what one agent has been told and the difference to what it may see now. Steps are made from
//! the views, which follow the log at once, and are gathered for a moment so that a burst of
//! commands is one step. The stream ends when the agent loses its standing, by a confirmed read.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use steeple_api::convert::{bundle, entry};
use steeple_api::pb::agent_ext::v1 as rpc;
use steeple_raft_store::Revision;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::{EntryId, RegistrationEntry, SpiffeId, TrustDomain};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::context::Context;
use crate::gate::Call;
use crate::status::Failure;
use crate::view::Views;

/// Changes are gathered for so long before a step is made: short against the second that an entry
/// may take to reach a workload, long against the milliseconds between commands of a burst.
const GATHER: Duration = Duration::from_millis(100);

/// An agent that nothing concerns hears the revision at least this often, so that it can resume
/// from a recent one and both sides notice a dead connection.
const QUIET_MAX: Duration = Duration::from_secs(30);

type Steps = Pin<Box<dyn Stream<Item = Result<rpc::WatchResponse, Status>> + Send>>;

/// The service.
#[derive(Clone, Debug)]
pub struct UpdatesService {
    context: Context,
}

impl UpdatesService {
    /// The service over a context.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl rpc::updates_server::Updates for UpdatesService {
    type WatchStream = Steps;

    async fn watch(
        &self,
        request: Request<rpc::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let call = Call::of(&request)?;
        let resume = Revision::from_u64(request.into_inner().resume_revision);
        let agent = call.agent()?.id.clone();
        let signal = self.context.views().subscribe_revision();
        let told = Told::new(self.context.trust_domain().clone(), agent);
        let watch =
            Watch { context: self.context.clone(), call, signal, told, resume: Some(resume) };
        let stop = self.context.stop.clone();
        let steps = futures::stream::try_unfold((watch, stop), |(mut watch, stop)| async move {
            // A stream has no end of its own: it must not hold up the drain.
            let Some(step) = stop.run_until_cancelled(watch.next()).await else {
                return Err(Failure::unavailable("this replica is stopping", Duration::ZERO).into());
            };
            Ok::<_, Status>(Some((step?, (watch, stop))))
        });
        Ok(Response::new(Box::pin(steps)))
    }
}

/// One agent's stream.
struct Watch {
    context: Context,
    call: Call,
    signal: watch::Receiver<Revision>,
    told: Told,
    /// Where the agent left off; taken by the first step.
    resume: Option<Revision>,
}

impl Watch {
    async fn next(&mut self) -> Result<rpc::WatchResponse, Failure> {
        if let Some(resume) = self.resume.take() {
            let revision = *self.signal.borrow_and_update();
            let (step, _) = self.told.step(self.context.views(), revision);
            // Asked after the step was made: what it holds is then what the agent has.
            if self.context.views().is_unchanged_for(&self.told.agent, resume) {
                return Ok(rpc::WatchResponse {
                    revision: revision.as_u64(),
                    ..Default::default()
                });
            }
            return Ok(rpc::WatchResponse { resync: true, ..step });
        }
        let quiet_until = tokio::time::Instant::now() + QUIET_MAX;
        loop {
            let moved = tokio::time::timeout_at(quiet_until, self.signal.changed()).await;
            if moved.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
            self.check_standing().await?;
            let revision = *self.signal.borrow_and_update();
            let (step, news) = self.told.step(self.context.views(), revision);
            if news || moved.is_err() {
                return Ok(step);
            }
        }
    }

    /// Ends the stream of an agent that is banned, deleted or superseded: on a confirmed read.
    async fn check_standing(&self) -> Result<(), Failure> {
        if self.context.gate.agent_stands(&self.call).is_ok() {
            return Ok(());
        }
        self.context.gate.reads.confirm(self.call.deadline()).await?;
        self.context.gate.agent_stands(&self.call)
    }
}

/// What an agent has been told.
pub(crate) struct Told {
    trust_domain: TrustDomain,
    agent: SpiffeId,
    entries: BTreeMap<EntryId, Arc<RegistrationEntry>>,
    bundle: Option<Arc<Bundle>>,
    federated: BTreeMap<TrustDomain, Arc<Bundle>>,
}

impl Told {
    pub(crate) fn new(trust_domain: TrustDomain, agent: SpiffeId) -> Self {
        let (entries, federated) = (BTreeMap::new(), BTreeMap::new());
        Self { trust_domain, agent, entries, bundle: None, federated }
    }

    /// The step from what was told to what the views show, and whether it says anything. The views
    /// show `revision` or a later state; a later one is told again by the next step.
    pub(crate) fn step(&mut self, views: &Views, revision: Revision) -> (rpc::WatchResponse, bool) {
        let entries: BTreeMap<EntryId, Arc<RegistrationEntry>> = views
            .authorized_entries(&self.agent)
            .into_iter()
            .map(|entry| (entry.id.clone(), entry))
            .collect();
        let federated: BTreeMap<TrustDomain, Arc<Bundle>> = entries
            .values()
            .flat_map(|entry| entry.federates_with.iter())
            .filter_map(|name| Some((name.clone(), views.bundle(name)?)))
            .collect();
        let own = views.bundle(&self.trust_domain);
        let step = rpc::WatchResponse {
            revision: revision.as_u64(),
            resync: false,
            entries_changed: changed(&self.entries, &entries)
                .map(|one| entry::to_pb(one))
                .collect(),
            entries_removed: removed(&self.entries, &entries).map(ToString::to_string).collect(),
            bundle: own
                .as_ref()
                .filter(|own| Some(*own) != self.bundle.as_ref())
                .map(|own| bundle::to_pb(own)),
            federated_bundles_changed: changed(&self.federated, &federated)
                .map(|one| bundle::to_pb(one))
                .collect(),
            federated_bundles_removed: removed(&self.federated, &federated)
                .map(ToString::to_string)
                .collect(),
        };
        self.entries = entries;
        self.federated = federated;
        self.bundle = own;
        let news = !step.entries_changed.is_empty()
            || !step.entries_removed.is_empty()
            || step.bundle.is_some()
            || !step.federated_bundles_changed.is_empty()
            || !step.federated_bundles_removed.is_empty();
        (step, news)
    }

    /// The foreign bundles that it holds.
    #[cfg(test)]
    pub(crate) fn federated(&self) -> &BTreeMap<TrustDomain, Arc<Bundle>> {
        &self.federated
    }
}

/// What is new or differs. Unchanged rows are the same allocation, so most comparisons are of
/// pointers.
fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, Arc<V>>,
    after: &'a BTreeMap<K, Arc<V>>,
) -> impl Iterator<Item = &'a Arc<V>> {
    after.iter().filter_map(|(key, value)| {
        let same = before.get(key).is_some_and(|old| Arc::ptr_eq(old, value) || old == value);
        (!same).then_some(value)
    })
}

fn removed<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    before.keys().filter(|key| !after.contains_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_is_new_or_other_and_what_is_gone() {
        let same = Arc::new(1);
        let before =
            BTreeMap::from([("a", Arc::clone(&same)), ("b", Arc::new(2)), ("c", Arc::new(3))]);
        let after = BTreeMap::from([("a", same), ("b", Arc::new(20)), ("d", Arc::new(4))]);
        let values: Vec<i32> = changed(&before, &after).map(|value| **value).collect();
        assert_eq!(values, [20, 4]);
        assert_eq!(removed(&before, &after).collect::<Vec<_>>(), [&"c"]);
        assert_eq!(changed(&after, &after).count(), 0);
    }
}
