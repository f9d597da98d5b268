//! One try to fetch the bundle of one trust domain, and the command that says what came of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use steeple_federation::{
    Danger, Fetch, FetchError, Followed, Outlook, Progress, Refusal, Source, Timing, Verdict,
    judge, outlook,
};
use steeple_raft_store::command::{
    BundleDigest, BundleWrite, FetchedBundle, Refreshed, WriteBundles,
};
use steeple_raft_store::{Command, REFRESH_LEVEL, StoreHandle};
use steeple_spiffe_core::{
    Bundle, Clock, EndpointProfile, FederationRelationship, Timestamp, TrustDomain,
};
use tokio::time::Instant;

use super::noting;
use super::watch::{Live, LiveState};
use crate::mutants::{self, Mutant};
use crate::view::Views;

/// Relationships by trust domain.
pub(crate) type Relationships = BTreeMap<TrustDomain, Arc<FederationRelationship>>;

/// Fetches the bundles of foreign trust domains. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Refresher {
    /// The registry.
    pub handle: StoreHandle,
    /// What this replica has applied.
    pub views: Views,
    /// The relationships of this replica's file. They win over those of the registry, as in SPIRE.
    pub of_file: Arc<Relationships>,
    /// The way to the peers.
    pub fetch: Arc<dyn Fetch>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How often.
    pub timing: Timing,
    /// What the leader knows beyond what is noted.
    pub live: Live,
}

/// What came of one try.
#[derive(Debug)]
pub enum Tried {
    /// The bundle was fetched, and is the one that is stored.
    Same(Arc<Bundle>),
    /// Another one was fetched, which is to be stored in the place of the one that was seen.
    Other {
        /// What was fetched.
        bundle: Box<Bundle>,
        /// What was stored.
        seen: Option<BundleDigest>,
    },
    /// The relationship, or the bundle that the endpoint was judged by, has changed meanwhile: what
    /// came of the try says nothing.
    Overtaken,
    /// There is no bundle that could be taken.
    Failed(RefreshError),
}

/// Why a bundle could not be refreshed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// It was not fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It was, and is not taken.
    #[error("fetched federated bundle is refused")]
    Refused(#[from] Refusal),
    /// It was, and the registry does not take it.
    #[error("failed to store fetched federated bundle: {0}")]
    Store(String),
}

impl RefreshError {
    /// A word that stays the same while the cause does.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.class(),
            Self::Refused(refusal) => match refusal {
                Refusal::Empty => "empty",
                Refusal::Older { .. } => "older",
                Refusal::Foreign(_) => "foreign",
                Refusal::Expired => "expired",
            },
            Self::Store(_) => "store",
        }
    }

    /// The text with all causes.
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

impl Refresher {
    /// All relationships: those of the file, and those of the registry where the file has none.
    pub fn relationships(&self) -> BTreeMap<TrustDomain, Arc<FederationRelationship>> {
        self.known().relationships()
    }

    /// The relationship with a trust domain.
    pub fn relationship(&self, trust_domain: &TrustDomain) -> Option<Arc<FederationRelationship>> {
        self.known().relationship(trust_domain)
    }

    /// What is wrong with the bundles of relationships that a person has to see to, by name.
    pub fn dangers(&self, now: Timestamp) -> Vec<Danger> {
        let known = self.known();
        let names = known.relationships().into_keys();
        names.filter_map(|name| known.outlook(&name, now).danger).collect()
    }

    /// How the fetching of a bundle goes: exactly where this replica leads, elsewhere as far as was
    /// noted.
    pub fn progress(&self, trust_domain: &TrustDomain) -> Progress {
        let noted = self.views.refresh(trust_domain);
        LiveState::progress(self.live.of(trust_domain), noted.as_deref())
    }

    /// Tries once. Ends by itself within half a minute.
    pub async fn attempt(&self, relationship: &Arc<FederationRelationship>) -> Tried {
        let known = self.known();
        let source = known.source(relationship);
        let trust_domain = &relationship.trust_domain;
        let started = Instant::now();
        tracing::debug!(
            subsystem_name = "bundle_client",
            %trust_domain,
            "Polling for bundle update"
        );
        let fetched = self.fetch.fetch(source.clone()).await;
        count(trust_domain, fetched.is_ok(), started);
        known.judged(&source, fetched)
    }

    /// The command that everyone has to hear of a try, if they have to. `failures` in a row, this
    /// one included; 0: an operator asked, who is told.
    pub fn command(
        &self,
        trust_domain: &TrustDomain,
        tried: &Tried,
        failures: u32,
    ) -> Option<Command> {
        self.known().command(trust_domain, tried, failures)
    }

    /// What tries go by.
    pub(super) fn known(&self) -> Known {
        Known {
            views: self.views.clone(),
            of_file: Arc::clone(&self.of_file),
            clock: Arc::clone(&self.clock),
            timing: self.timing,
            live: self.live.clone(),
        }
    }
}

/// What tries go by: relationships and bundles as this replica knows them, and the time. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// What this replica has applied.
    pub(crate) views: Views,
    /// The relationships of its file.
    pub(crate) of_file: Arc<Relationships>,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// How often.
    pub(crate) timing: Timing,
    /// What the leader knows beyond what is noted.
    pub(crate) live: Live,
}

impl Known {
    /// All relationships: those of the file, and those of the registry where the file has none.
    pub(crate) fn relationships(&self) -> Relationships {
        let rows = self.views.relationships_page(None, None).into_iter();
        let mut all: Relationships = rows.map(|(_, one)| (one.trust_domain.clone(), one)).collect();
        all.extend(self.of_file.iter().map(|(name, one)| (name.clone(), Arc::clone(one))));
        all
    }

    /// The relationship with a trust domain.
    fn relationship(&self, trust_domain: &TrustDomain) -> Option<Arc<FederationRelationship>> {
        let of_file = self.of_file.get(trust_domain).cloned();
        of_file.or_else(|| self.views.relationship(trust_domain))
    }

    /// What is wrong with the bundle of a relationship, and when to look again.
    pub(crate) fn outlook(&self, trust_domain: &TrustDomain, now: Timestamp) -> Outlook {
        let noted = self.views.refresh(trust_domain);
        let bundle = self.views.bundle(trust_domain);
        let followed = Followed {
            trust_domain,
            bundle: bundle.as_deref(),
            progress: LiveState::progress(self.live.of(trust_domain), noted.as_deref()),
            patience: self.timing.patience(bundle.as_deref()),
            by_bundle: self
                .relationship(trust_domain)
                .is_some_and(|one| matches!(one.profile, EndpointProfile::HttpsSpiffe { .. })),
            has_lost_trust: noted
                .as_deref()
                .and_then(|noted| noted.failure.as_ref())
                .is_some_and(|failure| FetchError::is_lost_trust(&failure.class)),
        };
        outlook(followed, now)
    }

    /// Where the bundle of a relationship is fetched, and whom the endpoint is judged by.
    pub(crate) fn source(&self, relationship: &Arc<FederationRelationship>) -> Source {
        let endpoint_bundle = self.endpoint_bundle(relationship);
        Source { relationship: Arc::clone(relationship), endpoint_bundle }
    }

    /// What came of a fetch from a source.
    pub(crate) fn judged(&self, source: &Source, fetched: Result<Bundle, FetchError>) -> Tried {
        let relationship = &source.relationship;
        let trust_domain = &relationship.trust_domain;
        // What was believed on the word of settings that hold no more, is not to be written over
        // what somebody has set meanwhile.
        if self.relationship(trust_domain).as_ref() != Some(relationship)
            || self.endpoint_bundle(relationship) != source.endpoint_bundle
        {
            return Tried::Overtaken;
        }
        let stored = self.views.bundle(trust_domain);
        let judged = fetched.map_err(RefreshError::from).and_then(|bundle| {
            let stored = judged_by(stored.as_deref(), &bundle);
            judge(stored.as_deref(), bundle, self.clock.now()).map_err(RefreshError::from)
        });
        match (judged, stored) {
            (Ok(Verdict::Unchanged), Some(stored)) => Tried::Same(stored),
            (Ok(Verdict::Changed(bundle)), stored) => {
                let seen = stored.map(|stored| BundleDigest::of(&stored));
                Tried::Other { bundle: Box::new(bundle), seen }
            }
            // Nothing equals what is not there.
            (Ok(Verdict::Unchanged), None) => Tried::Overtaken,
            (Err(error), _) => Tried::Failed(error),
        }
    }

    /// The command that everyone has to hear of a try, if they have to. `failures` in a row, this
    /// one included; 0: an operator asked, who is told.
    pub(crate) fn command(
        &self,
        trust_domain: &TrustDomain,
        tried: &Tried,
        failures: u32,
    ) -> Option<Command> {
        let level = self.views.cluster().map_or(0, |cluster| cluster.feature_level);
        let noted = self.views.refresh(trust_domain);
        let noted = noted.as_deref();
        let refreshed = match tried {
            Tried::Other { bundle, .. } if level < REFRESH_LEVEL => {
                let (mode, bundles) = (BundleWrite::Set, vec![bundle.as_ref().clone()]);
                return Some(Command::WriteBundles(WriteBundles { mode, bundles }));
            }
            Tried::Other { bundle, seen } => {
                let fetched = FetchedBundle { bundle: bundle.as_ref().clone(), seen: *seen };
                Refreshed::Succeeded(Some(fetched))
            }
            Tried::Same(_) if noting::is_success_worth_it(noted, self.clock.now()) => {
                Refreshed::Succeeded(None)
            }
            Tried::Failed(error) if noting::is_failure_worth_it(noted, error.class(), failures) => {
                let (class, text) = (error.class().to_owned(), noting::cut(error.full_text()));
                Refreshed::Failed { class, text }
            }
            Tried::Same(_) | Tried::Failed(_) | Tried::Overtaken => return None,
        };
        let trust_domain = trust_domain.clone();
        (level >= REFRESH_LEVEL).then_some(Command::RecordRefresh { trust_domain, refreshed })
    }

    /// The bundle by which the endpoint of a relationship is judged.
    pub(super) fn endpoint_bundle(
        &self,
        relationship: &FederationRelationship,
    ) -> Option<Arc<Bundle>> {
        match &relationship.profile {
            EndpointProfile::HttpsWeb => None,
            EndpointProfile::HttpsSpiffe { endpoint_id } => {
                self.views.bundle(endpoint_id.trust_domain())
            }
        }
    }
}

/// The stored bundle that a fetched one is held against.
fn judged_by<'a>(stored: Option<&'a Bundle>, fetched: &Bundle) -> Option<Cow<'a, Bundle>> {
    let stored = stored?;
    if mutants::on(Mutant::LowerSequenceAccepted) {
        let sequence_number = stored.sequence_number.min(fetched.sequence_number);
        return Some(Cow::Owned(Bundle { sequence_number, ..stored.clone() }));
    }
    Some(Cow::Borrowed(stored))
}

/// SPIRE's counter of fetches.
fn count(trust_domain: &TrustDomain, is_ok: bool, started: Instant) {
    const NAME: &str = "spire_server_bundle_manager_fetch_federated_bundle";
    let labels = [
        ("status", if is_ok { "OK" } else { "Unknown" }.to_owned()),
        ("trust_domain_id", trust_domain.to_string()),
    ];
    let elapsed_ms = started.elapsed().as_secs_f64() * 1000.0;
    metrics::histogram!(format!("{NAME}_elapsed_time"), &labels).record(elapsed_ms);
    metrics::counter!(NAME, &labels).increment(1);
}
