//! What happens to replicas: they stall, are cut off, die, lose their volumes, come back, lead no more.

use super::member::Condition;
use super::world::World;

impl World {
    /// Whose time is over is well again.
    pub(super) fn mend(&mut self) {
        for index in 0..self.members.len() {
            match self.members[index].condition {
                Condition::Well => {}
                Condition::Stalled { until } | Condition::Cut { until, .. } => {
                    if self.now >= until {
                        self.members[index].condition = Condition::Well;
                    }
                }
                Condition::Down { until } => {
                    if self.now >= until {
                        let lost_its_volume = self.chance(6);
                        self.boot(index, lost_its_volume);
                    }
                }
            }
        }
    }

    /// A member other than this one trails, or is cut off, for as long as it may serve what it knows.
    pub(super) fn trouble(&mut self, but: usize) {
        if self.members.iter().any(|member| member.condition != Condition::Well) {
            return;
        }
        let index = (but + 1 + usize::from(self.chance(2))) % 3;
        self.catch_up(index);
        self.members[index].condition = if self.chance(2) {
            Condition::Stalled { until: self.in_s(200, 400) }
        } else {
            Condition::Cut { since: self.now, until: self.in_s(300, 590) }
        };
    }

    pub(super) fn weather(&mut self) {
        self.mend();
        if self.chance(60) {
            self.depose();
        }
        if self.chance(self.restored_one_in) {
            self.restore();
            return;
        }
        let all_well = self.members.iter().all(|member| member.condition == Condition::Well);
        if !all_well || !self.chance(12) {
            return;
        }
        let index = usize::try_from(self.below(3)).unwrap();
        // Until now it was in contact, and heard of everything.
        self.catch_up(index);
        let right = !self.has_wrong_clock();
        let until = match self.below(20) {
            0 if right => self.in_s(3_600, 9 * 3_600),
            1..4 if right => self.in_s(600, 3_600),
            _ => self.in_s(10, 300),
        };
        self.members[index].condition = match self.below(3) {
            0 => Condition::Stalled { until: until.min(self.in_s(20, 400)) },
            1 => Condition::Cut { since: self.now, until },
            _ => Condition::Down { until },
        };
    }
}
