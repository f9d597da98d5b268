//! The order: from a decision to a certificate that all replicas have. On the leader alone.
//!
//! Owns the steps and what is saved between them, so that whoever leads next goes on where this
//! leader stopped: the order's address and its key before anything is asked for it, the challenge
//! before the server is told to look. One order is under way at a time.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::tls::{WebIdentity, WebIdentityError};
use steeple_spiffe_core::{Clock, Secret, Timestamp};
use tokio::time::Instant;

use super::answer::{AnswerError, new_key, request};
use super::client::{Acme, AcmeAccount, AcmeError, Progress, Window};
use super::plan::{Facts, Lifetime, Plan, back_off, plan, within};
use super::present::usable;
use super::record::{Account, Attempt, Certificate, PendingOrder};
use super::settings::AcmeSettings;
use super::state::{AcmeState, Digest, Held, Record, Records, StateError};

/// The clock is looked at this often while nothing is due: it may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Pause before the next attempt where records could not be read or written, and after any other.
const STATE_RETRY: Duration = Duration::from_secs(5);

/// Between two looks at an order.
const POLL: Duration = Duration::from_secs(1);

/// An order takes seconds; some servers look several times at the challenge.
const ORDER_TIME: Duration = Duration::from_secs(10 * 60);

/// Replicas that can be reached answer a challenge within moments; one that does not keeps the
/// others from a certificate no longer than this.
const SPREAD_TIME: Duration = Duration::from_secs(15);

/// How often the server is asked when it wants its certificate renewed (RFC 9773, 4.3.2: its own
/// wish is six hours, mostly).
const ASK_RENEWAL: Duration = Duration::from_secs(6 * 3600);

/// Orders and renews.
#[derive(Clone, Debug)]
pub struct Orderer {
    /// What the operator wants.
    pub settings: AcmeSettings,
    /// The server of certificates.
    pub acme: Arc<dyn Acme>,
    /// The records.
    pub state: Arc<dyn AcmeState>,
    /// Decides what is due.
    pub clock: Arc<dyn Clock>,
    /// Chooses a time in the window that the server wants.
    pub random: Arc<dyn Random>,
}

/// An attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error(transparent)]
    Acme(#[from] AcmeError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("ACME server found the order invalid: {0}")]
    Invalid(String),
    #[error("what the ACME server made is no certificate for the key")]
    Certificate(#[from] WebIdentityError),
    #[error("what the ACME server made is no certificate for {domain}, good at {now}")]
    Wrong { domain: String, now: Timestamp },
    #[error("order took longer than {0:?}")]
    Slow(Duration),
}

impl OrderError {
    /// Whether the order is left alone, and the next attempt begins with another.
    fn ends_order(&self) -> bool {
        match self {
            Self::Acme(error) => error.ends_order(),
            Self::State(_) => false,
            Self::Answer(_)
            | Self::Invalid(_)
            | Self::Certificate(_)
            | Self::Wrong { .. }
            | Self::Slow(_) => true,
        }
    }

    fn fix(&self) -> &'static str {
        match self {
            Self::Acme(error) => error.fix(),
            Self::Invalid(_) => {
                "see that port 443 of domain_name leads to the bundle endpoint of every replica"
            }
            Self::State(_)
            | Self::Answer(_)
            | Self::Certificate(_)
            | Self::Wrong { .. }
            | Self::Slow(_) => "",
        }
    }
}

/// When the server wants a certificate renewed, as it was last asked.
#[derive(Default)]
struct Wish {
    leaf: Vec<u8>,
    at: Option<Timestamp>,
    asked: Option<Instant>,
}

impl Orderer {
    /// Sees to it that there is a certificate, for as long as it is run.
    pub async fn lead(&self) {
        let (mut wish, mut said) = (Wish::default(), String::new());
        loop {
            let records = match self.state.load() {
                Ok(records) => records,
                Err(error) => {
                    say_once(&mut said, &error);
                    tokio::time::sleep(STATE_RETRY).await;
                    continue;
                }
            };
            said.clear();
            self.ask_renewal(&records, &mut wish).await;
            match self.plan(&records, &wish) {
                Plan::Wait(until) => {
                    let pause = until.since(self.clock.now()).min(LOOK_AGAIN);
                    let changed = self.state.changed(records.versions());
                    tokio::time::timeout(pause, changed).await.ok();
                }
                Plan::Order => {
                    self.order_now().await;
                    tokio::time::sleep(STATE_RETRY).await;
                }
            }
        }
    }

    fn plan(&self, records: &Records, wish: &Wish) -> Plan {
        let attempt = records.attempt.value.as_ref();
        let facts = Facts {
            certificate: self.lifetime(records),
            suggested: wish.at,
            is_pending: attempt.and_then(|one| one.order.as_ref()).is_some_and(|o| self.is_ours(o)),
            not_before: attempt.and_then(|attempt| attempt.not_before),
        };
        plan(&facts, self.clock.now())
    }

    async fn order_now(&self) {
        let ordered = tokio::time::timeout(ORDER_TIME, self.attempt());
        let ordered = ordered.await.unwrap_or(Err(OrderError::Slow(ORDER_TIME)));
        match ordered {
            Ok(not_after) => {
                let domain_name = &self.settings.domain_name;
                let not_after = not_after.unix_s();
                tracing::info!(domain_name, not_after, "Certificate ordered by ACME");
            }
            Err(OrderError::State(error)) => {
                let error: &dyn Error = &error;
                tracing::warn!(error, "Could not write the records of ACME");
            }
            Err(error) => self.note_failure(&error).await,
        }
    }

    fn lifetime(&self, records: &Records) -> Option<Lifetime> {
        let found = usable(records.certificate.value.as_ref()?, &self.settings)?;
        Some(Lifetime { not_before: found.not_before(), not_after: found.not_after() })
    }

    fn is_ours(&self, order: &PendingOrder) -> bool {
        let settings = &self.settings;
        order.directory_url == settings.directory_url && order.domain == settings.domain_name
    }

    /// One attempt, from wherever the last one stopped.
    async fn attempt(&self) -> Result<Timestamp, OrderError> {
        let account = self.account(false).await?;
        let (account, mut order) = match self.order(account.as_ref()).await {
            Ok(order) => (account, order),
            Err(OrderError::Acme(error)) if error.is_unknown_account() => {
                let account = self.account(true).await?;
                let order = self.order(account.as_ref()).await?;
                (account, order)
            }
            Err(error) => return Err(error),
        };
        let (mut is_finalized, mut is_answered) = (false, false);
        loop {
            match account.look(&order.url).await? {
                Progress::Pending { challenge, is_asked } => {
                    if order.challenge != Some(challenge) {
                        order = self.save_challenge(challenge).await?;
                    }
                    if !is_asked && !is_answered {
                        self.state.spread(challenge, SPREAD_TIME).await;
                        account.validate(&order.url).await?;
                        is_answered = true;
                    }
                }
                Progress::Ready if !is_finalized => {
                    let csr = request(&order.domain, &order.key)?;
                    account.finalize(&order.url, &csr).await?;
                    is_finalized = true;
                }
                Progress::Ready | Progress::Processing => {}
                Progress::Valid => {
                    let chain = account.certificate(&order.url).await?;
                    return self.take(&order, chain).await;
                }
                Progress::Invalid(reason) => return Err(OrderError::Invalid(reason)),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The account: the one that is kept, or a new one.
    async fn account(&self, is_anew: bool) -> Result<Box<dyn AcmeAccount>, OrderError> {
        let found = self.state.load()?.account;
        let directory_url = &self.settings.directory_url;
        let kept = found.value.filter(|one| !is_anew && one.directory_url == *directory_url);
        if let Some(account) = kept {
            return Ok(self.acme.open(&account.credentials).await?);
        }
        self.claim().await?;
        let credentials = self.acme.register(&self.settings).await?;
        let directory_url = directory_url.clone();
        tracing::info!(directory_url, "Registered an account with the ACME server");
        let account = Account { directory_url, credentials };
        self.state.save(Record::Account(account.clone()), found.version).await?;
        Ok(self.acme.open(&account.credentials).await?)
    }

    /// The order: the one that is under way, or a new one.
    async fn order(&self, account: &dyn AcmeAccount) -> Result<PendingOrder, OrderError> {
        let found = self.state.load()?.attempt.value.unwrap_or_default();
        if let Some(order) = found.order.filter(|order| self.is_ours(order)) {
            return Ok(order);
        }
        let found = self.claim().await?;
        let mut attempt = found.value.unwrap_or_default();
        let key = new_key()?;
        let url = account.order(&self.settings.domain_name).await?;
        let order = PendingOrder {
            directory_url: self.settings.directory_url.clone(),
            domain: self.settings.domain_name.clone(),
            url,
            key,
            challenge: None,
        };
        attempt.order = Some(order.clone());
        self.state.save(Record::Attempt(attempt), found.version).await?;
        Ok(order)
    }

    /// Writes the attempt as it is: it proves that this replica leads and can write, before the
    /// server is asked to remember anything.
    async fn claim(&self) -> Result<Held<Attempt>, OrderError> {
        let found = self.state.load()?.attempt;
        let record = Record::Attempt(found.value.unwrap_or_default());
        self.state.save(record, found.version).await?;
        Ok(self.state.load()?.attempt)
    }

    /// Keeps the challenge, so that every replica answers it.
    async fn save_challenge(&self, challenge: Digest) -> Result<PendingOrder, OrderError> {
        let found = self.state.load()?.attempt;
        let mut attempt = found.value.ok_or(StateError::Moved)?;
        let order = attempt.order.as_mut().ok_or(StateError::Moved)?;
        order.challenge = Some(challenge);
        let order = order.clone();
        self.state.save(Record::Attempt(attempt), found.version).await?;
        Ok(order)
    }

    /// Takes what was made, if it is what was ordered.
    async fn take(&self, order: &PendingOrder, chain_pem: String) -> Result<Timestamp, OrderError> {
        let identity = WebIdentity::from_pkcs8(chain_pem.as_bytes(), &order.key)?;
        let now = self.clock.now();
        if !identity.covers(&order.domain) || identity.not_after() <= now {
            return Err(OrderError::Wrong { domain: order.domain.clone(), now });
        }
        let records = self.state.load()?;
        let certificate = Certificate {
            directory_url: order.directory_url.clone(),
            domain: order.domain.clone(),
            chain_pem,
            key: Secret::clone(&order.key),
        };
        let record = Record::Certificate(certificate);
        self.state.save(record, records.certificate.version).await?;
        let (not_before, not_after) = (identity.not_before(), identity.not_after());
        // Whatever the server's clock and wishes are, the next one is not ordered at once.
        let pause = back_off(1, Some(Lifetime { not_before, not_after }));
        let attempt = Attempt { not_before: Some(now.plus(pause)), ..Attempt::default() };
        self.state.save(Record::Attempt(attempt), records.attempt.version).await?;
        Ok(not_after)
    }

    /// Says why, and keeps it with the time of the next attempt, for whoever leads then.
    async fn note_failure(&self, failed: &OrderError) {
        let error = match self.state.load() {
            Ok(records) => {
                let mut attempt = records.attempt.value.clone().unwrap_or_default();
                attempt.failures = attempt.failures.saturating_add(1);
                let pause = back_off(attempt.failures, self.lifetime(&records));
                let text = with_fix(words(failed), failed.fix());
                let next_attempt_in_s = pause.as_secs();
                tracing::error!(
                    error = text,
                    next_attempt_in_s,
                    "Certificate was not ordered by ACME"
                );
                attempt.not_before = Some(self.clock.now().plus(pause));
                attempt.error = text;
                attempt.order = attempt.order.filter(|_| !failed.ends_order());
                let record = Record::Attempt(attempt);
                self.state.save(record, records.attempt.version).await.err()
            }
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            let error: &dyn Error = &error;
            tracing::warn!(error, "Could not write the records of ACME");
        }
    }

    /// Asks the server when it wants the certificate renewed, from time to time.
    async fn ask_renewal(&self, records: &Records, wish: &mut Wish) {
        let found = records.certificate.value.as_ref();
        let Some(found) = found.and_then(|found| usable(found, &self.settings)) else {
            *wish = Wish::default();
            return;
        };
        let is_fresh = wish.asked.is_some_and(|asked| asked.elapsed() < ASK_RENEWAL);
        if wish.leaf == found.leaf() && is_fresh {
            return;
        }
        let asked = Some(Instant::now());
        *wish = Wish { leaf: found.leaf().to_vec(), at: None, asked };
        let window = match self.renewal(records, found.leaf()).await {
            Ok(window) => window,
            Err(error) => {
                let error: &dyn Error = &error;
                tracing::debug!(error, "ACME server did not say when to renew");
                None
            }
        };
        wish.at = window.map(|window| self.moment(window, &found));
    }

    async fn renewal(&self, records: &Records, leaf: &[u8]) -> Result<Option<Window>, OrderError> {
        let account = records.account.value.as_ref();
        let account = account.filter(|one| one.directory_url == self.settings.directory_url);
        let Some(account) = account else { return Ok(None) };
        Ok(self.acme.open(&account.credentials).await?.renewal(leaf).await?)
    }

    /// When to renew in a window: at once if it is over, which is how a server calls certificates
    /// back; else not in the first half of the certificate's life, however wide the window is.
    fn moment(&self, window: Window, found: &WebIdentity) -> Timestamp {
        let now = self.clock.now();
        if window.end <= now {
            return now;
        }
        let half = within(found.not_before(), found.not_after(), 0.5);
        within(window.start, window.end, self.random.unit_f64()).max(half)
    }
}

/// The same trouble is not said every few seconds.
fn say_once(said: &mut String, error: &StateError) {
    let text = words(error);
    if *said != text {
        tracing::warn!(
            error = text,
            "Could not read the records of ACME; no certificate is ordered"
        );
        *said = text;
    }
}

fn with_fix(text: String, fix: &str) -> String {
    if fix.is_empty() { text } else { format!("{text}; {fix}") }
}

/// An error with its causes, in one line.
fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests;
