//! The leader's loop: asks each peer when it is due, several at a time, and notes what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use steeple_federation::{Managed, Plan};
use steeple_raft_store::command::Refreshed;
use steeple_raft_store::{
    Applied, BundleOutcome, Command, Outcome, ProposeError, REFRESH_LEVEL, Rejection,
};
use steeple_spiffe_core::{Bundle, EndpointProfile, FederationRelationship, TrustDomain};

use super::attempt::{RefreshError, Refresher, Tried};
use super::watch::{Leading, LiveState};

/// Peers that are asked at a time: ten thousand are asked within their hints, and a few dozen that
/// do not answer hold nobody up for long.
const AT_A_TIME: usize = 32;

/// So often the plan is looked at, whatever it says: clocks that stand still while a machine
/// sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One run of the duty.
struct Round<'a> {
    refresher: &'a Refresher,
    term: u64,
    plan: Plan,
    leading: Leading,
    told: BTreeMap<TrustDomain, Told>,
    under_way: FuturesUnordered<BoxFuture<'a, Option<Ended>>>,
}

/// What was said last of a peer: each change is told once.
#[derive(Debug, Default)]
struct Told {
    failure: Option<&'static str>,
    danger: Option<&'static str>,
    /// The bundle by which the endpoint was judged when it failed.
    judged_by: Option<Arc<Bundle>>,
}

/// A try that is over.
struct Ended {
    relationship: Arc<FederationRelationship>,
    tried: Tried,
}

impl Refresher {
    /// Fetches for the leader of a term; ends only by being dropped.
    pub async fn lead(&self, term: u64) {
        let mut round = Round {
            refresher: self,
            term,
            plan: Plan::new(self.timing),
            leading: self.live.lead(),
            told: BTreeMap::new(),
            under_way: FuturesUnordered::new(),
        };
        let mut revision = self.views.subscribe_revision();
        round.forget_strangers();
        let mut taken = None;
        loop {
            let seen = self.views.federation_revision();
            if taken.replace(seen) != Some(seen) {
                round.take();
            }
            round.start();
            let pause = round.pause();
            let moved = async {
                let moved = revision.wait_for(|_| self.views.federation_revision() != seen).await;
                moved.is_ok()
            };
            tokio::select! {
                Some(ended) = round.under_way.next() => {
                    if let Some(ended) = ended {
                        round.end(ended);
                    }
                }
                is_there = moved => {
                    if !is_there {
                        // The views are gone, and the process with them.
                        std::future::pending::<()>().await;
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Asks, and proposes what everyone has to hear of it. `failures` in a row so far.
    async fn run_one(
        &self,
        relationship: Arc<FederationRelationship>,
        failures: u32,
        term: u64,
    ) -> Option<Ended> {
        let tried = self.attempt(&relationship).await;
        let trust_domain = &relationship.trust_domain;
        let command = self.command(trust_domain, &tried, failures.saturating_add(1));
        let Some(command) = command else { return Some(Ended { relationship, tried }) };
        let decided = self.handle.propose_duty(command, term).await;
        let tried = match (stored(decided), tried) {
            (Ok(()), tried) => tried,
            (Err(None), _) => Tried::Overtaken,
            // That a failure could not be noted changes nothing about it.
            (Err(Some(_)), Tried::Failed(error)) => Tried::Failed(error),
            (Err(Some(text)), Tried::Same(_) | Tried::Other { .. } | Tried::Overtaken) => {
                Tried::Failed(RefreshError::Store(text))
            }
        };
        Some(Ended { relationship, tried })
    }
}

/// Whether a command did what it says: `None` where somebody was faster, else why it did not.
fn stored(decided: Result<Applied, ProposeError>) -> Result<(), Option<String>> {
    let outcome = decided.map_err(|error| Some(error.to_string()))?.outcome;
    let rejection = match outcome {
        Ok(Outcome::Bundles(items)) => items.into_iter().find_map(|item| match item {
            BundleOutcome::Rejected(rejection) => Some(rejection),
            BundleOutcome::Written(_) | BundleOutcome::Deleted => None,
        }),
        Ok(
            Outcome::Done | Outcome::Entries(_) | Outcome::Relationships(_) | Outcome::Pruned(_),
        ) => None,
        Err(rejection) => Some(rejection),
    };
    match rejection {
        None => Ok(()),
        Some(Rejection::BundleMoved) => Err(None),
        Some(rejection) => Err(Some(rejection.to_string())),
    }
}

impl Round<'_> {
    /// Forgets what was noted of trust domains that no relationship is with: one of a file that has
    /// changed. Those of the registry go with their relationships.
    fn forget_strangers(&mut self) {
        let relationships = self.refresher.relationships();
        for status in self.refresher.views.refreshes() {
            if !relationships.contains_key(&status.trust_domain) {
                self.forget(status.trust_domain.clone());
            }
        }
    }

    fn forget(&mut self, trust_domain: TrustDomain) {
        let (refresher, term) = (self.refresher, self.term);
        let level = refresher.views.cluster().map_or(0, |cluster| cluster.feature_level);
        if level < REFRESH_LEVEL || refresher.views.refresh(&trust_domain).is_none() {
            return;
        }
        let forgetting = async move {
            let refreshed = Refreshed::Ended;
            let command = Command::RecordRefresh { trust_domain, refreshed };
            // What could not be forgotten now, the next leader forgets.
            refresher.handle.propose_duty(command, term).await.ok();
            None
        };
        self.under_way.push(forgetting.boxed());
    }

    /// Takes over the relationships as they are now, and tries those again whose endpoint is judged
    /// by another bundle than when it failed.
    fn take(&mut self) {
        let now = self.refresher.clock.boot_time();
        let relationships = self.refresher.relationships();
        for change in self.plan.take(now, &relationships) {
            match change {
                Managed::Begun(relationship) => {
                    tell(&relationship, "Trust domain is now managed");
                }
                Managed::Changed(relationship) => {
                    tell(&relationship, "Updated configuration for managed trust domain");
                }
                Managed::Ended(trust_domain) => {
                    tracing::info!(
                        subsystem_name = "bundle_client",
                        %trust_domain,
                        "Trust domain no longer managed"
                    );
                    self.told.remove(&trust_domain);
                    self.leading.ended(&trust_domain);
                    self.forget(trust_domain);
                }
            }
        }
        for (trust_domain, told) in &self.told {
            let Some(relationship) = relationships.get(trust_domain) else { continue };
            let judged_by = self.refresher.endpoint_bundle(relationship);
            if told.failure.is_some() && judged_by != told.judged_by {
                self.plan.hurry_failed(now, trust_domain);
            }
        }
    }

    /// Begins what is due, as far as there is room.
    fn start(&mut self) {
        let now = self.refresher.clock.boot_time();
        let room = AT_A_TIME.saturating_sub(self.under_way.len());
        for relationship in self.plan.start(now, room) {
            let failures = self.plan.failures(&relationship.trust_domain);
            let one = self.refresher.run_one(relationship, failures, self.term);
            self.under_way.push(one.boxed());
        }
    }

    /// How long nothing can happen unless something is heard of.
    fn pause(&self) -> Duration {
        let now = self.refresher.clock.boot_time();
        let due = self.plan.next_due().filter(|_| self.under_way.len() < AT_A_TIME);
        due.map_or(LOOK_EVERY, |due| due.saturating_sub(now).min(LOOK_EVERY))
    }

    fn end(&mut self, ended: Ended) {
        let Ended { relationship, tried } = ended;
        let trust_domain = &relationship.trust_domain;
        let now = self.refresher.clock.boot_time();
        let timing = self.refresher.timing;
        if !self.plan.follows(trust_domain) {
            // What this try has noted came after what was noted had been forgotten.
            self.forget(trust_domain.clone());
            return;
        }
        match tried {
            Tried::Overtaken => {
                self.plan.overtaken(now, trust_domain);
                return;
            }
            Tried::Same(bundle) => {
                self.plan.succeeded(now, trust_domain, timing.pause(&bundle));
                self.tell_success(trust_domain);
            }
            Tried::Other { bundle, .. } => {
                self.plan.succeeded(now, trust_domain, timing.pause(&bundle));
                self.tell_success(trust_domain);
                let name = "spire_server_bundle_manager_update_federated_bundle";
                metrics::counter!(name, "trust_domain_id" => trust_domain.to_string()).increment(1);
                tracing::info!(subsystem_name = "bundle_client", %trust_domain, "Bundle refreshed");
            }
            Tried::Failed(error) => {
                self.plan.failed(now, trust_domain);
                self.tell_failure(&relationship, &error);
            }
        }
        self.tell_danger(trust_domain);
        let wall = self.refresher.clock.now();
        let pause = self.plan.due(trust_domain).unwrap_or(now).saturating_sub(now);
        let state = LiveState { tried_at: wall, next_at: wall.plus(pause) };
        self.leading.tried(trust_domain, state);
        tracing::debug!(
            subsystem_name = "bundle_client",
            %trust_domain,
            at = state.next_at.unix_s(),
            "Scheduling next bundle refresh"
        );
    }

    fn tell_success(&mut self, trust_domain: &TrustDomain) {
        let Some(told) = self.told.get_mut(trust_domain) else { return };
        if told.failure.take().is_some() {
            tracing::info!(
                subsystem_name = "bundle_client",
                %trust_domain,
                "Bundle endpoint answers again"
            );
        }
    }

    /// SPIRE says this at each try.
    fn tell_failure(&mut self, relationship: &FederationRelationship, error: &RefreshError) {
        let judged_by = self.refresher.endpoint_bundle(relationship);
        let trust_domain = &relationship.trust_domain;
        let told = self.told.entry(trust_domain.clone()).or_default();
        told.judged_by = judged_by;
        let is_new = told.failure.replace(error.class()) != Some(error.class());
        let error: &dyn std::error::Error = error;
        let subsystem_name = "bundle_client";
        if is_new {
            tracing::error!(error, subsystem_name, %trust_domain, "Error updating bundle");
        } else {
            tracing::debug!(error, subsystem_name, %trust_domain, "Error updating bundle");
        }
    }

    fn tell_danger(&mut self, trust_domain: &TrustDomain) {
        let danger = self.refresher.danger(trust_domain, self.refresher.clock.now());
        let code = danger.as_ref().map(steeple_federation::Danger::code);
        let told = self.told.entry(trust_domain.clone()).or_default();
        if std::mem::replace(&mut told.danger, code) == code {
            return;
        }
        if let Some(danger) = danger {
            let (fix, subsystem_name) = (danger.fix(), "bundle_client");
            tracing::warn!(%trust_domain, fix, subsystem_name, "Federation is in danger: {danger}");
        }
    }
}

/// SPIRE's lines about what is fetched.
fn tell(relationship: &FederationRelationship, text: &str) {
    let FederationRelationship { trust_domain, endpoint_url, profile } = relationship;
    let profile = match profile {
        EndpointProfile::HttpsWeb => "https_web",
        EndpointProfile::HttpsSpiffe { .. } => "https_spiffe",
    };
    tracing::info!(
        bundle_endpoint_url = %endpoint_url,
        bundle_endpoint_profile = profile,
        subsystem_name = "bundle_client",
        %trust_domain,
        "{text}"
    );
}
