//! Workloads that verify those of another trust domain, and workloads that are not to.

use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::Command;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::x509::verify_chain;
use steeple_spiffe_core::{
    EntryId, RegistrationEntry, Selector, SortedSet, SpiffeId, Timestamp, TrustDomain,
};

use super::judge::Seen;
use super::link::{Link, PEERS_FETCH};
use super::member::Condition;
use super::world::{MAX_STALENESS, World};
use crate::told::Told;

/// Clocks of verifiers and signers are apart by less.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// What a workload holds of the other trust domain.
struct Held {
    bundle: Arc<Bundle>,
    from: Timestamp,
    /// When it was everything that was committed there; the beginning of time: nobody knows.
    current_at: Timestamp,
}

pub(super) struct Guests {
    other: TrustDomain,
    /// The agent whose entry names the other trust domain, and one whose entry does not.
    agents: [SpiffeId; 2],
    next: Timestamp,
    held: Option<Held>,
    /// SVIDs of the other that were verified.
    pub(super) verified: u64,
    /// Those that were refused, with a bundle that is older than their authority.
    pub(super) refused: u64,
}

impl Guests {
    /// Creates the entries.
    pub(super) fn new(world: &mut World, other: &TrustDomain) -> Self {
        let own = world.common.trust_domain.clone();
        let agents = ["a", "b"].map(|name| SpiffeId::agent(own.clone(), name).unwrap());
        let named = [SortedSet::from([other.clone()]), SortedSet::new()];
        let entries = agents.iter().zip(named).zip(["federated", "alone"]);
        let entries = entries.map(|((agent, federates_with), name)| RegistrationEntry {
            federates_with,
            ..RegistrationEntry::new(
                EntryId::parse(name).unwrap(),
                SpiffeId::new(own.clone(), &format!("/{name}")).unwrap(),
                agent.clone(),
                SortedSet::from([Selector::new("unix", "uid:1").unwrap()]),
            )
        });
        let create = Command::CreateEntries(entries.collect());
        world.commit(&create, world.now).unwrap();
        let (other, next) = (other.clone(), world.now);
        Self { other, agents, next, held: None, verified: 0, refused: 0 }
    }

    /// Both agents sync through any replica that serves, as ours do; the workload then verifies
    /// what the other side has signed last.
    pub(super) fn sync(&mut self, here: &mut World, there: &mut World, link: &Link) {
        if here.now >= self.next {
            self.next = here.in_s(5, 40);
            let first = usize::try_from(here.below(3)).unwrap();
            let all = (0..3).map(|turn| (first + turn) % 3);
            if let Some(member) = all.into_iter().find(|member| serves(here, *member)) {
                self.take(here, there, link, member);
            }
        }
        self.verify(here, there);
    }

    fn take(&mut self, here: &mut World, there: &mut World, link: &Link, member: usize) {
        let is_current = here.members[member].condition == Condition::Well;
        if is_current {
            here.catch_up(member);
        }
        let views = &here.members[member].views;
        let [named, unnamed] = self.agents.each_ref().map(|agent| {
            let mut told = Told::new(here.common.trust_domain.clone(), agent.clone());
            told.step(views, views.revision());
            told.federated().clone()
        });
        let expected = views.bundle(&self.other);
        if !unnamed.is_empty() || named.len() > 1 || named.get(&self.other) != expected.as_ref() {
            here.judge.wrong(format!("agents were given {named:?} and {unnamed:?}"));
        }
        let Some(bundle) = expected else { return };
        let before = self.held.take();
        let current_at = match &before {
            _ if is_current => link.current_at(),
            Some(before) if before.bundle.sequence_number <= bundle.sequence_number => {
                before.current_at
            }
            Some(_) | None => Timestamp::UNIX_EPOCH,
        };
        if let Some(before) = before {
            judge(here, there, &before);
        }
        self.held = Some(Held { bundle, from: here.now, current_at });
    }

    /// By the real rules of chains: what the other's bundle holds verifies, all else does not, and
    /// nothing of the other ever verifies as one's own.
    fn verify(&mut self, here: &mut World, there: &World) {
        let (Some(held), Some(svid)) = (&self.held, &there.newest) else { return };
        let now = here.now;
        let is_alive =
            svid.not_before.plus(CLOCKS_APART) < now && now < svid.not_after.minus(CLOCKS_APART);
        let Some((_, ids)) = there.judge.known(held.bundle.sequence_number) else { return };
        let signer = there.judge.x509_number(&svid.authority_id);
        let (Some(signer), true) = (signer, is_alive && here.chance(4)) else { return };
        let is_known = ids.contains(&signer);
        let verifies = |bundle: &Bundle| verify_chain(&svid.chain_der, bundle, now).is_ok();
        if verifies(&held.bundle) != is_known {
            here.judge.wrong(format!("{signer} verifies: {}, known: {is_known}", !is_known));
        }
        let own = here.judge.known(here.judge.newest()).map(|(bundle, _)| verifies(bundle));
        if own != Some(false) {
            here.judge.wrong(format!("{signer} verifies as one's own"));
        }
        self.verified += u64::from(is_known);
        self.refused += u64::from(!is_known);
    }
}

fn serves(world: &World, member: usize) -> bool {
    match world.members[member].condition {
        Condition::Well | Condition::Stalled { .. } => true,
        Condition::Cut { since, .. } => world.now.since(since) <= MAX_STALENESS,
        Condition::Down { .. } => false,
    }
}

/// Whether all that the other side signed verified, for as long as a peer may go without its
/// bundle.
fn judge(here: &World, there: &mut World, held: &Held) {
    let Some((_, ids)) = there.judge.known(held.bundle.sequence_number) else {
        there.judge.wrong(format!("nobody published {:?}", held.bundle));
        return;
    };
    let ids = Arc::clone(ids);
    let to = here.now.min(held.current_at.plus(PEERS_FETCH));
    let (by, is_peer, from) = ("a workload of the other side", false, held.from);
    there.judge.held(&Seen { by, is_peer, from, to, ids: &ids });
}
