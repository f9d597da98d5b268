//! One leader's turn at fetching: who is asked when, what follows from what came, what is told.
//!
//! Waits for nothing: whoever carries it out brings the answers of peers and of the registry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steeple_federation::{Flips, Managed, Plan, Turn};
use steeple_raft_store::command::Refreshed;
use steeple_raft_store::{BundleOutcome, Command, Outcome, REFRESH_LEVEL, Rejection};
use steeple_spiffe_core::{Bundle, EndpointProfile, FederationRelationship, TrustDomain};

use super::attempt::{Known, RefreshError, Tried};
use super::looks::{Looks, News};
use super::watch::Leading;
use crate::logging::time_text;

/// What a leader knows of its tries.
#[derive(Debug)]
pub(crate) struct Round {
    known: Known,
    plan: Plan,
    leading: Leading,
    told: BTreeMap<TrustDomain, Told>,
    flips: BTreeMap<TrustDomain, Flips>,
    looks: Looks,
}

/// What was said last of a peer: each change is told once.
#[derive(Debug, Default)]
struct Told {
    failure: Option<&'static str>,
    /// The bundle by which the endpoint was judged when it failed.
    judged_by: Option<Arc<Bundle>>,
}

/// A try that is due.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) relationship: Arc<FederationRelationship>,
    /// Failures in a row so far.
    failures: u32,
    flips: Flips,
}

/// A try that is over.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) relationship: Arc<FederationRelationship>,
    pub(crate) tried: Tried,
    flips: Flips,
    /// The peer was found to contradict itself.
    contradicts: bool,
}

impl Known {
    /// What follows from a try: the command that everyone has to hear, if there is one, and what is
    /// the leader's to know.
    pub(crate) fn ended(&self, due: Due, tried: Tried) -> (Option<Command>, Ended) {
        let Due { relationship, failures, mut flips } = due;
        let (tried, contradicts) = self.held_back(tried, &mut flips);
        let command = self.command(&relationship.trust_domain, &tried, failures.saturating_add(1));
        (command, Ended { relationship, tried, flips, contradicts })
    }

    /// Keeps what is stored while it is not the turn of a bundle that returns.
    fn held_back(&self, tried: Tried, flips: &mut Flips) -> (Tried, bool) {
        if matches!(tried, Tried::Same(_)) {
            flips.agreed();
        }
        let Tried::Other { bundle, seen } = tried else { return (tried, false) };
        let Some(stored) = self.views.bundle(&bundle.trust_domain) else {
            return (Tried::Other { bundle, seen }, false);
        };
        match flips.turn(&stored, &bundle, self.clock.boot_time()) {
            Turn::Taken => (Tried::Other { bundle, seen }, false),
            Turn::Waits { is_news } => (Tried::Same(stored), is_news),
        }
    }

    /// The command that forgets what was noted of a trust domain, if anything was.
    pub(crate) fn forgets(&self, trust_domain: TrustDomain) -> Option<Command> {
        let level = self.views.cluster().map_or(0, |cluster| cluster.feature_level);
        let is_noted = level >= REFRESH_LEVEL && self.views.refresh(&trust_domain).is_some();
        let refreshed = Refreshed::Ended;
        is_noted.then_some(Command::RecordRefresh { trust_domain, refreshed })
    }
}

impl Ended {
    /// What came of it once its command was decided; an error says why it was not.
    pub(crate) fn decided(self, outcome: Result<Result<Outcome, Rejection>, String>) -> Self {
        let tried = match (stored(outcome), self.tried) {
            (Ok(()), tried) => tried,
            (Err(None), _) => Tried::Overtaken,
            // That a failure could not be noted changes nothing about it.
            (Err(Some(_)), Tried::Failed(error)) => Tried::Failed(error),
            (Err(Some(text)), Tried::Same(_) | Tried::Other { .. } | Tried::Overtaken) => {
                Tried::Failed(RefreshError::Store(text))
            }
        };
        Self { tried, ..self }
    }
}

/// Whether a command did what it says: `None` where somebody was faster, else why it did not.
fn stored(outcome: Result<Result<Outcome, Rejection>, String>) -> Result<(), Option<String>> {
    let rejection = match outcome.map_err(Some)? {
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

impl Round {
    /// A turn that begins now.
    pub(crate) fn new(known: Known) -> Self {
        Self {
            plan: Plan::new(known.timing),
            leading: known.live.lead(),
            told: BTreeMap::new(),
            flips: BTreeMap::new(),
            looks: Looks::default(),
            known,
        }
    }

    /// Trust domains of which something was noted and that no relationship is with: those of a file
    /// that has changed. Those of the registry go with their relationships.
    pub(crate) fn strangers(&self) -> Vec<TrustDomain> {
        let relationships = self.known.relationships();
        let noted = self.known.views.refreshes().into_iter();
        let names = noted.map(|status| status.trust_domain.clone());
        names.filter(|name| !relationships.contains_key(name)).collect()
    }

    /// Takes over the relationships as they are now, and tries those again whose endpoint is judged
    /// by another bundle than when it failed. Returns what is to be forgotten.
    pub(crate) fn take(&mut self) -> Vec<TrustDomain> {
        let now = self.known.clock.boot_time();
        let relationships = self.known.relationships();
        let mut over = Vec::new();
        for change in self.plan.take(now, &relationships) {
            match change {
                Managed::Begun(relationship) => {
                    tell(&relationship, "Trust domain is now managed");
                    self.looks.touch(&relationship.trust_domain);
                }
                Managed::Changed(relationship) => {
                    tell(&relationship, "Updated configuration for managed trust domain");
                    self.flips.remove(&relationship.trust_domain);
                    self.looks.touch(&relationship.trust_domain);
                }
                Managed::Ended(trust_domain) => {
                    tracing::info!(
                        subsystem_name = "bundle_client",
                        %trust_domain,
                        "Trust domain no longer managed"
                    );
                    tell_end(&trust_domain);
                    self.looks.forget(&trust_domain);
                    self.told.remove(&trust_domain);
                    self.flips.remove(&trust_domain);
                    self.leading.ended(&trust_domain);
                    over.push(trust_domain);
                }
            }
        }
        self.looks.compare(|trust_domain| self.known.views.bundle(trust_domain));
        for (trust_domain, told) in &self.told {
            let Some(relationship) = relationships.get(trust_domain) else { continue };
            let judged_by = self.known.endpoint_bundle(relationship);
            if told.failure.is_some() && judged_by != told.judged_by {
                self.plan.hurry_failed(now, trust_domain);
            }
        }
        over
    }

    /// What is due, as far as there is room.
    pub(crate) fn start(&mut self, room: usize) -> Vec<Due> {
        let now = self.known.clock.boot_time();
        let started = self.plan.start(now, room).into_iter();
        let due = started.map(|relationship| {
            let trust_domain = &relationship.trust_domain;
            let failures = self.plan.failures(trust_domain);
            let flips = self.flips.get(trust_domain).cloned().unwrap_or_default();
            Due { relationship, failures, flips }
        });
        due.collect()
    }

    /// How long nothing is due, neither a try nor a look; `None`: all are under way, or there are
    /// none.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let clock = &self.known.clock;
        let fetch = self.plan.next_due().map(|at| at.saturating_sub(clock.boot_time()));
        let look = self.looks.next().map(|at| at.since(clock.now()));
        fetch.into_iter().chain(look).min()
    }

    /// Looks at the dangers that may be others by now. Returns what is to be told.
    pub(crate) fn look(&mut self) -> Vec<News> {
        let now = self.known.clock.now();
        self.looks.look(now, |trust_domain| self.known.outlook(trust_domain, now))
    }

    /// Takes in a try that is over. Returns what is to be forgotten.
    pub(crate) fn end(&mut self, ended: Ended) -> Option<TrustDomain> {
        let Ended { relationship, tried, flips, contradicts } = ended;
        let trust_domain = &relationship.trust_domain;
        let now = self.known.clock.boot_time();
        let timing = self.known.timing;
        if !self.plan.follows(trust_domain) {
            // What this try has noted came after what was noted had been forgotten.
            return Some(trust_domain.clone());
        }
        let is_good = !matches!(tried, Tried::Failed(_));
        match tried {
            Tried::Overtaken => {
                self.plan.overtaken(now, trust_domain);
                return None;
            }
            Tried::Same(bundle) => {
                self.plan.succeeded(now, trust_domain, timing.pause(&bundle));
                self.flips.insert(trust_domain.clone(), flips);
                self.tell_success(trust_domain);
            }
            Tried::Other { bundle, .. } => {
                self.plan.succeeded(now, trust_domain, timing.pause(&bundle));
                self.flips.insert(trust_domain.clone(), flips);
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
        if contradicts {
            tell_contradiction(trust_domain);
        }
        let wall = self.known.clock.now();
        let pause = self.plan.due(trust_domain).unwrap_or(now).saturating_sub(now);
        let next_at = wall.plus(pause);
        self.leading.tried(trust_domain, is_good, wall, next_at);
        self.looks.touch(trust_domain);
        tracing::debug!(
            subsystem_name = "bundle_client",
            %trust_domain,
            at = time_text(next_at.floor_to_second()),
            "Scheduling next bundle refresh"
        );
        None
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
        let judged_by = self.known.endpoint_bundle(relationship);
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
}

impl Drop for Round {
    fn drop(&mut self) {
        self.plan.peers().for_each(tell_end);
    }
}

/// SPIRE says this where the relationship ends and where the server does.
fn tell_end(trust_domain: &TrustDomain) {
    let subsystem_name = "bundle_client";
    tracing::info!(subsystem_name, %trust_domain, "No longer polling for updates");
}

/// Said once of a sequence number.
fn tell_contradiction(trust_domain: &TrustDomain) {
    tracing::warn!(
        %trust_domain,
        fix = "its servers give out different bundles under one sequence number: ask its operators",
        subsystem_name = "bundle_client",
        "Bundle endpoint contradicts itself; what returns is stored after four times in a row, or an hour"
    );
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
