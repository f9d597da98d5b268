//! Looks at every member of both sides all the time: what it publishes, what it signs, what it has
//! stored of the other side.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use steeple_api::convert;
use steeple_api::pb::server::bundle::v1 as api;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::jwt::JwtSvid;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_testkit::client::unix_channel;
use steeple_testkit::trust::{self, AUDIENCE, Given, Received, Svid, look};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::guest::Guest;
use super::ledger::{Kind, View, hex};
use super::side::Which;
use super::{Shared, lock};
use crate::agents::proof;
use crate::agents::seen::now_ms;

/// Between two looks at a member.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// No answer takes longer, or it is none.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is in the way of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing.
    #[default]
    Calm,
    /// The two sides do not hear each other; inside of each nothing is amiss.
    Apart,
    /// A member of one side is down, stands still or is cut off.
    Hit(Which),
}

/// Calls that had no answer, by what was in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// Calls to members of a side one of whose members was hit.
    pub(super) hit: usize,
    /// Calls while the two sides did not hear each other.
    pub(super) apart: usize,
    /// All others.
    pub(super) calm: usize,
}

/// Looks at one member. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) which: Which,
    pub(super) member: usize,
    pub(super) socket: PathBuf,
    /// What members of this side told of it.
    pub(super) own: Arc<Mutex<trust::Ledger>>,
    pub(super) ledger: Shared,
    /// Workloads that verify what the member signs: of this side and of the other.
    pub(super) guests: Vec<Guest>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) unanswered: Arc<Mutex<Unanswered>>,
}

impl Watch {
    /// Looks until told to stop.
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _stopped = stop.wait_for(|stop| *stop) => return,
                () = self.once() => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn once(&self) {
        let before = *self.phase.borrow();
        let sight = look(&self.socket, self.which.name()).await;
        let other = self.which.other();
        let stored = timeout(PATIENCE, stored(&self.socket, other.name())).await;
        let missed = sight.unanswered() + usize::from(!matches!(stored, Ok(Ok(_))));
        self.count(missed, [before, *self.phase.borrow()]);
        if let Some(given) = sight.given() {
            lock(&self.ledger).note_given(self.which, given);
        }
        if let Ok(Ok(stored)) = stored {
            lock(&self.ledger).note_stored(other, &stored);
        }
        for svid in sight.svids() {
            self.verify(svid);
        }
        lock(&self.own).note(self.member, sight);
    }

    fn count(&self, missed: usize, phases: [Phase; 2]) {
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        let count = if phases.contains(&Phase::Hit(self.which)) {
            &mut unanswered.hit
        } else if phases.contains(&Phase::Apart) {
            &mut unanswered.apart
        } else {
            &mut unanswered.calm
        };
        *count += missed;
    }

    /// By libraries that are none of ours, with what workloads of both sides hold at this moment.
    fn verify(&self, received: &Received) {
        let (key, name) = match key_of(&received.svid) {
            Ok(key) => (key, self.which.name()),
            Err(error) => return lock(&self.ledger).wrong(format!("{error:#}")),
        };
        let life = (received.from, received.to);
        for guest in &self.guests {
            let verified = match &received.svid {
                Svid::X509(chain) => {
                    let view = View { of: self.which, by: guest.which, kind: Kind::X509 };
                    let held = lock(&self.ledger).held(view).cloned().unwrap_or_default();
                    let roots: Vec<Vec<u8>> = held.into_values().collect();
                    proof::verify(&chain.concat(), &roots.concat(), now_ms())
                }
                Svid::Jwt(token) => guest.verify_token(token, AUDIENCE),
            };
            let Err(error) = verified else { continue };
            let mut ledger = lock(&self.ledger);
            if guest.which == self.which || !ledger.is_closed(self.which) {
                let by = guest.which.name();
                ledger.wrong(format!("a workload of {by} refuses what {name} signs: {error:#}"));
            }
        }
        lock(&self.ledger).note_svid(self.which, key, life);
    }
}

/// Who has signed an SVID.
fn key_of(svid: &Svid) -> Result<(Kind, String)> {
    match svid {
        Svid::X509(chain) => {
            let leaf = chain.first().map_or(&[][..], Vec::as_slice);
            Ok((Kind::X509, hex(&certificate_facts(leaf)?.authority_key_id)))
        }
        Svid::Jwt(token) => Ok((Kind::Jwt, JwtSvid::parse_insecure(token)?.key_id)),
    }
}

/// What a member has stored of a foreign trust domain.
async fn stored(socket: &Path, trust_domain: &str) -> Result<Given> {
    let asked = Instant::now();
    let request =
        api::GetFederatedBundleRequest { trust_domain: trust_domain.to_owned(), output_mask: None };
    let mut client = api::bundle_client::BundleClient::new(unix_channel(socket));
    let reply = client.get_federated_bundle(request).await?;
    let is_stale = reply.metadata().contains_key("steeple-staleness");
    let bundle: Bundle = convert::bundle::from_pb(reply.get_ref())?;
    Ok(Given { asked, at: Instant::now(), is_stale, bundle: Arc::new(bundle) })
}
