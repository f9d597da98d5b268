//! What a replica may serve to agents when it cannot confirm reads with the cluster. Pure.
//!
//! Owns the decision and its order: strict service, nothing where others go on, a pause in which
//! agents are sent elsewhere, renew-only service from the last confirmed state, nothing. What each
//! state means per method is in `docs/reference/cluster.md` 4; who looks and waits is
//! [`super::reads`].

use std::time::Duration;

/// Contact that has been lost for less than this counts as a change of leader: reads wait for the
/// new one instead of sending agents away. Elections take at most six heartbeats plus a vote.
pub const LEADER_CHANGE_MAX: Duration = Duration::from_secs(1);

/// How long agents are refused after contact is lost, unless `renew_only_delay` says otherwise, so
/// that those with another replica to go to take it.
pub const RENEW_ONLY_DELAY: Duration = Duration::from_secs(30);

/// The two settings of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long agents are refused before renew-only service starts.
    pub renew_only_delay: Duration,
    /// How old the last confirmed state may be; zero = never serve without confirmation.
    pub max_staleness: Duration,
}

/// What is known at the moment of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// For how long there has been no contact with the leader (on the leader: with a quorum);
    /// `None` = in contact.
    pub lost_for: Option<Duration>,
    /// Whether a member that answers is in contact with a leader.
    pub leader_elsewhere: bool,
    /// Time since the *start* of the last successful read barrier; `None` = none since this process
    /// started.
    pub confirmed_age: Option<Duration>,
}

/// What the replica may serve to agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything, each issuance after a read barrier.
    Strict,
    /// Nothing: agents with another replica to go to shall take it.
    SendingAway {
        /// When renew-only service may start.
        for_another: Duration,
    },
    /// Renewals of what was known at the last confirmed read.
    RenewOnly {
        /// How old that read is.
        age: Duration,
    },
    /// Bundles only: the cluster goes on without this replica. It may have decided anything since, and
    /// agents are better served by whoever is in contact.
    CutOff,
    /// Bundles only: the last confirmed read is too old, or there was none.
    TooOld,
}

/// Decides.
pub fn stand(observed: Observation, limits: Limits) -> Standing {
    let Some(lost_for) = observed.lost_for else { return Standing::Strict };
    if lost_for < LEADER_CHANGE_MAX {
        return Standing::Strict;
    }
    // Before all that time decides: the others do not wait for this replica.
    if observed.leader_elsewhere {
        return Standing::CutOff;
    }
    let fresh_enough = observed.confirmed_age.filter(|age| *age < limits.max_staleness);
    let Some(age) = fresh_enough else { return Standing::TooOld };
    let starts_after = LEADER_CHANGE_MAX + limits.renew_only_delay;
    if lost_for < starts_after {
        return Standing::SendingAway { for_another: starts_after - lost_for };
    }
    Standing::RenewOnly { age }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn service_narrows_step_by_step_as_contact_stays_lost() {
        let limits = Limits { renew_only_delay: s(30), max_staleness: s(600) };
        let ms = Duration::from_millis;
        let table = [
            // In contact: strict, however old the last barrier is.
            (None, None, Standing::Strict),
            (None, Some(s(9000)), Standing::Strict),
            // A change of leader is waited for.
            (Some(ms(999)), Some(s(1)), Standing::Strict),
            (Some(ms(999)), None, Standing::Strict),
            // Then agents are sent away for the delay.
            (Some(s(1)), Some(s(2)), Standing::SendingAway { for_another: s(30) }),
            (Some(s(30)), Some(s(31)), Standing::SendingAway { for_another: s(1) }),
            // Then renewals, while the last confirmed state is young enough.
            (Some(s(31)), Some(s(32)), Standing::RenewOnly { age: s(32) }),
            (Some(s(599)), Some(s(599)), Standing::RenewOnly { age: s(599) }),
            (Some(s(600)), Some(s(600)), Standing::TooOld),
            // Never confirmed since the start: nothing to renew from.
            (Some(s(1)), None, Standing::TooOld),
            (Some(s(31)), None, Standing::TooOld),
        ];
        for (lost_for, confirmed_age, expected) in table {
            let observed = Observation { lost_for, leader_elsewhere: false, confirmed_age };
            assert_eq!(stand(observed, limits), expected, "{observed:?}");
            // Where others have a leader, it is said so from the loss on, whatever time has passed.
            let elsewhere = stand(Observation { leader_elsewhere: true, ..observed }, limits);
            let strict = expected == Standing::Strict;
            assert_eq!(elsewhere, if strict { expected } else { Standing::CutOff }, "{observed:?}");
        }
    }

    #[test]
    fn zero_staleness_never_serves_without_contact() {
        let limits = Limits { renew_only_delay: s(0), max_staleness: s(0) };
        let observed = Observation {
            lost_for: Some(s(60)),
            leader_elsewhere: false,
            confirmed_age: Some(s(0)),
        };
        assert_eq!(stand(observed, limits), Standing::TooOld);
    }
}
