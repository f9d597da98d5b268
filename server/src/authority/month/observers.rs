//! Agents and federated peers: they fetch bundles at their intervals from any replica that serves, and
//! agents fetch SVIDs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::authority::AuthorityKind;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::signer::Signer as _;
use steeple_spiffe_core::svid::wit::HolderKey;
use steeple_spiffe_core::{SpiffeId, Timestamp};

use super::super::issuer::{IssueError, JwtParams, WitParams, X509Params};
use super::judge::{Seen, Signed};
use super::member::Condition;
use super::world::{MAX_STALENESS, World};

/// How long what was current stays good enough: `max_staleness`, a stock agent's longest back-off and a
/// bundle's refresh hint.
pub(super) const HEARD: Duration = Duration::from_secs(600 + 8 * 60 + 5 * 60);

/// What an observer holds.
struct Held {
    ids: Arc<BTreeSet<usize>>,
    from: Timestamp,
    /// When it was everything that was committed.
    current_at: Timestamp,
}

pub(super) struct Observer {
    name: &'static str,
    /// `None`: a federated peer.
    agent: Option<SpiffeId>,
    next: Timestamp,
    /// The replica that it asks first.
    at: usize,
    held: Option<Held>,
    /// The highest sequence number of an answer that was confirmed.
    newest: u64,
}

/// An answer to a call for the bundle.
struct Answer {
    bundle: Arc<Bundle>,
    current_at: Timestamp,
    is_confirmed: bool,
}

impl Observer {
    pub(super) fn new(name: &'static str, agent: Option<SpiffeId>, now: Timestamp) -> Self {
        Self { name, agent, next: now, at: 0, held: None, newest: 0 }
    }
}

impl World {
    /// Whoever is due fetches.
    pub(super) fn observe(&mut self) {
        for index in 0..self.observers.len() {
            if self.now >= self.observers[index].next {
                self.sync(index);
            }
        }
    }

    fn sync(&mut self, index: usize) {
        let agent = self.observers[index].agent.clone();
        // Agents keep a connection for a while.
        if agent.is_none() || self.chance(2) {
            self.observers[index].at = usize::try_from(self.below(3)).unwrap();
        }
        let first = self.observers[index].at;
        let found = (0..3)
            .map(|turn| (first + turn) % 3)
            .find_map(|member| Some((member, self.serve(member, agent.as_ref())?)));
        let Some((member, answer)) = found else {
            self.observers[index].next = self.in_s(5, 60);
            return;
        };
        self.take(index, &answer);
        self.observers[index].next = match agent {
            None => self.in_s(240, 330),
            Some(_) if self.quick_agents => self.in_s(5, 40),
            // It is away: nobody hears of it.
            Some(_) if self.chance(1_000) => self.in_s(1_800, 18_000),
            Some(_) if self.chance(4) => self.in_s(5, 480),
            Some(_) => self.in_s(5, 40),
        };
        if agent.is_some() && self.chance(6) {
            self.sign(member);
        }
    }

    /// What a member answers, if it serves.
    fn serve(&mut self, member: usize, agent: Option<&SpiffeId>) -> Option<Answer> {
        let is_confirmed = match self.members[member].condition {
            Condition::Well => {
                self.catch_up(member);
                true
            }
            Condition::Stalled { .. } => false,
            Condition::Cut { since, .. } if self.now.since(since) <= MAX_STALENESS => false,
            Condition::Cut { .. } | Condition::Down { .. } => return None,
        };
        let member = &self.members[member];
        let bundle = member.give(agent)?;
        Some(Answer { bundle, current_at: member.current_at, is_confirmed })
    }

    fn take(&mut self, index: usize, answer: &Answer) {
        let observer = &mut self.observers[index];
        let sequence = answer.bundle.sequence_number;
        if answer.is_confirmed {
            if sequence < observer.newest {
                let (name, newest) = (observer.name, observer.newest);
                self.judge.wrong(format!("{name} got sequence {sequence} after {newest}"));
            }
            observer.newest = observer.newest.max(sequence);
        }
        let ids = self.judge.ids(&answer.bundle);
        let held = Held { ids, from: self.now, current_at: answer.current_at };
        if let Some(before) = observer.held.replace(held) {
            let to = self.now.min(before.current_at.plus(HEARD));
            self.judge.held(&Seen {
                by: observer.name,
                is_peer: observer.agent.is_none(),
                from: before.from,
                to,
                ids: &before.ids,
            });
        }
    }

    /// An X509-SVID, a JWT-SVID and, where there are any, a WIT-SVID, on one connection.
    fn sign(&mut self, index: usize) {
        let renews = matches!(self.members[index].condition, Condition::Cut { .. });
        if self.members[index].condition != Condition::Well && !renews {
            return;
        }
        let connects = self.chance(2) || !self.members[index].was_asked;
        let ttl = [Duration::ZERO, Duration::from_secs(300), Duration::from_secs(360_000)]
            [usize::try_from(self.below(3)).unwrap()];
        let spiffe_id = SpiffeId::new(self.common.trust_domain.clone(), "/w").unwrap();
        let member = &mut self.members[index];
        if connects {
            member.was_asked = true;
            member.issuer.refresh();
        }
        let x509 = member.issuer.sign_x509(X509Params {
            spiffe_id: spiffe_id.clone(),
            dns_names: Vec::new(),
            subject: None,
            public_key_spki: self.workload.public_key_spki().to_vec(),
            ttl,
        });
        if let Ok(issued) = &x509 {
            self.newest = Some(issued.clone());
        }
        let x509 = x509.map(Signed::x509);
        let wit = self.common.policy.wit_svids.then(|| {
            let key = HolderKey::new(self.workload.public_key_spki(), "ES256").unwrap();
            let params = WitParams { spiffe_id: spiffe_id.clone(), key, ttl };
            member.issuer.sign_wit(&params).map(|issued| Signed::token(AuthorityKind::Wit, issued))
        });
        let audience = vec!["a".to_owned()];
        let jwt = member.issuer.sign_jwt(JwtParams { spiffe_id, audience, ttl, jwt_id: None });
        let jwt = jwt.map(|issued| Signed::token(AuthorityKind::Jwt, issued));
        for signed in [Some(x509), Some(jwt), wit].into_iter().flatten() {
            match signed {
                Ok(signed) => {
                    let skew_limit = self.common.policy.skew_limit();
                    self.judge.signed(self.now, !renews, skew_limit, signed);
                }
                Err(IssueError::ClockOff { .. } | IssueError::Skew { .. }) => {
                    self.judge.clocks_refused += 1;
                }
                Err(error) if renews => drop(error),
                Err(error) => self.judge.wrong(format!("member {index} signs nothing: {error}")),
            }
        }
    }
}
