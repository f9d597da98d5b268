//! An operator who does not wait for the schedule: rotates by hand, and taints and revokes what signed.

use steeple_raft_store::Command;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::{AuthorityId, AuthorityStatus, Timestamp};

use super::super::forecast::Forecast;
use super::super::planner::Evidence;
use super::super::slots::successor;
use super::member::Condition;
use super::world::World;

/// Rotations begin so many hours apart.
const HOURS_BETWEEN: (u64, u64) = (3, 9);

pub(super) struct Operator {
    next: Timestamp,
    rotates: Option<AuthorityKind>,
    to_revoke: Option<(AuthorityKind, AuthorityId, Timestamp)>,
}

impl Operator {
    pub(super) fn new(world: &World) -> Self {
        Self { next: world.now, rotates: None, to_revoke: None }
    }

    /// Goes on with whatever is begun, through a member that confirms its reads.
    pub(super) fn act(&mut self, world: &mut World) {
        let well = |index: &usize| world.members[*index].condition == Condition::Well;
        let Some(by) = (0..3).find(well).filter(|_| world.leader.is_some()) else { return };
        world.catch_up(by);
        self.revoke(world);
        world.catch_up(by);
        match self.rotates {
            Some(kind) => self.activate(world, by, kind),
            None if world.now >= self.next => self.begin(world, by),
            None => {}
        }
    }

    fn revoke(&mut self, world: &mut World) {
        let due = self.to_revoke.take_if(|(_, _, at)| world.now >= *at);
        let Some((kind, id, _)) = due else { return };
        let journal = world.truth();
        // It may have left by itself.
        if journal.authorities.iter().any(|one| one.kind == kind && one.id == id) {
            let expected_journal = journal.revision;
            let revoke = Command::RevokeAuthority { expected_journal, kind, id };
            world.commit(&revoke, world.now).unwrap();
        }
    }

    /// Prepares an authority if it leaves the schedule its place and none is prepared.
    fn begin(&mut self, world: &mut World, by: usize) {
        let kinds = [AuthorityKind::X509, AuthorityKind::Jwt];
        let kind = kinds[usize::from(world.chance(2))];
        let journal = world.members[by].journal();
        if successor(&journal, kind).is_none() {
            let now = world.members[by].now();
            let forecast = Forecast::of(&journal, kind, &world.common.policy, now);
            if !forecast.is_some_and(|forecast| forecast.allows(now)) {
                return;
            }
            if !world.quick_agents && !world.chance(4) {
                world.trouble(by);
            }
            let now = world.members[by].now();
            let prepare = world.prepare(kind, journal.revision, now);
            world.commit(&prepare, now).unwrap();
        }
        self.rotates = Some(kind);
    }

    /// Lets the prepared authority sign once all know it; then what signed may be tainted at once.
    fn activate(&mut self, world: &mut World, by: usize, kind: AuthorityKind) {
        let journal = world.members[by].journal();
        let Some(prepared) = successor(&journal, kind) else {
            // The schedule was faster.
            self.rest(world);
            return;
        };
        let now = world.members[by].now();
        if world.report(by, prepared).judge(now) != Evidence::Complete {
            return;
        }
        let (expected_journal, id) = (journal.revision, prepared.id.clone());
        let activate = Command::ActivateAuthority { expected_journal, kind, id };
        world.commit(&activate, now).unwrap();
        self.rest(world);
        let signed = journal.authorities.iter().find(|one| is_active(one, kind));
        if let Some(signed) = signed.filter(|_| self.to_revoke.is_none() && world.chance(2)) {
            let (expected_journal, id) = (expected_journal + 1, signed.id.clone());
            let taint = Command::TaintAuthority { expected_journal, kind, id: id.clone() };
            world.commit(&taint, now).unwrap();
            self.to_revoke = Some((kind, id, world.in_s(1_800, 5_400)));
        }
    }

    fn rest(&mut self, world: &World) {
        self.rotates = None;
        self.next = world.in_s(HOURS_BETWEEN.0 * 3_600, HOURS_BETWEEN.1 * 3_600);
    }
}

fn is_active(one: &Authority, kind: AuthorityKind) -> bool {
    one.kind == kind && one.status == AuthorityStatus::Active
}
