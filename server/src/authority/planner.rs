//! The plan of rotation: given the journal, the policy and the time, the next step.
//!
//! Pure: reads no clock and changes nothing. The rotator acts on one step, lets it be applied and
//! asks again. X.509 comes before JWT and JWT before WIT, as in SPIRE. Invariant: under scheduled
//! rotation at most [`PUBLISHED_MAX`] authorities of a kind are published, and the active one is never pruned.

use std::fmt;
use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::{AuthorityId, AuthorityStatus, Timestamp};

use super::policy::{
    AuthorityPolicy, activate_before, activate_regardless_before, prepare_before,
    prepare_in_haste_before,
};
use super::slots::{Slots, successor};
use crate::mutants::{self, Mutant};

/// Authorities of one kind that are published at the same time: old, active, prepared. The stock calls
/// of LocalAuthority may publish more; scheduled preparation then waits for a free place while it can.
pub const PUBLISHED_MAX: usize = 3;

/// A kind as logs and errors spell it.
pub fn kind_name(kind: AuthorityKind) -> &'static str {
    match kind {
        AuthorityKind::X509 => "X.509",
        AuthorityKind::Jwt => "JWT",
        AuthorityKind::Wit => "WIT",
    }
}

/// One change of the journal that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a new authority and publish it.
    Prepare(AuthorityKind),
    /// Let a published authority sign from now on.
    Activate(AuthorityKind, AuthorityId),
    /// Remove authorities that ended long enough ago.
    Prune(Vec<(AuthorityKind, AuthorityId)>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare(kind) => write!(f, "prepare {} authority", kind_name(*kind)),
            Self::Activate(kind, id) => write!(f, "activate {} authority {id}", kind_name(*kind)),
            Self::Prune(ids) => write!(f, "prune {} ended authorities", ids.len()),
        }
    }
}

/// Whether those who must know a prepared authority before it signs are known to have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Every replica in contact has applied it.
    Complete,
    /// Some may lag behind: activation waits, but not for ever.
    Incomplete,
}

/// The next step, if one is due. `evidence` is asked about authorities that are due for activation.
pub fn plan(
    journal: &Journal,
    policy: &AuthorityPolicy,
    now: Timestamp,
    evidence: &dyn Fn(&Authority) -> Evidence,
) -> Option<Step> {
    let mut kinds = policy.kinds().iter();
    kinds
        .find_map(|kind| plan_kind(journal, *kind, now, evidence))
        .or_else(|| plan_prune(journal, policy, now))
}

/// As [`plan`], for a round in which an authority of one kind cannot be made: no step of that kind.
pub(super) fn plan_without(
    kind: AuthorityKind,
    journal: &Journal,
    policy: &AuthorityPolicy,
    now: Timestamp,
    evidence: &dyn Fn(&Authority) -> Evidence,
) -> Option<Step> {
    let mut others = policy.kinds().iter().filter(|other| **other != kind);
    others
        .find_map(|other| plan_kind(journal, *other, now, evidence))
        .or_else(|| plan_prune(journal, policy, now))
}

fn plan_kind(
    journal: &Journal,
    kind: AuthorityKind,
    now: Timestamp,
    evidence: &dyn Fn(&Authority) -> Evidence,
) -> Option<Step> {
    let active = Slots::of(journal, kind).current;
    let prepared = successor(journal, kind).filter(|prepared| prepared.not_after > now);

    let Some(active) = active else {
        // Nothing signs: at formation, the two steps go back to back.
        return Some(match prepared {
            Some(prepared) => Step::Activate(kind, prepared.id.clone()),
            None => Step::Prepare(kind),
        });
    };
    // One that an operator prepared long ago would hand over again at once: it is replaced in time.
    let young =
        |prepared: &&Authority| !is_within(prepared, prepare_before(lifetime(prepared)), now);
    if prepared.filter(young).is_none() && prepare_is_due(journal, active, now) {
        return Some(Step::Prepare(kind));
    }
    let prepared = prepared.filter(|prepared| activate_is_due(active, prepared, now, evidence))?;
    Some(Step::Activate(kind, prepared.id.clone()))
}

fn prepare_is_due(journal: &Journal, active: &Authority, now: Timestamp) -> bool {
    let lifetime = lifetime(active);
    if !is_within(active, prepare_before(lifetime), now) {
        return false;
    }
    let is_published = |one: &&Authority| one.kind == active.kind && one.status.is_published();
    let published = journal.authorities.iter().filter(is_published).count();
    published < PUBLISHED_MAX || is_within(active, prepare_in_haste_before(lifetime), now)
}

fn activate_is_due(
    active: &Authority,
    prepared: &Authority,
    now: Timestamp,
    evidence: &dyn Fn(&Authority) -> Evidence,
) -> bool {
    let lifetime = lifetime(active);
    if !is_within(active, activate_before(lifetime), now) {
        return false;
    }
    let at_the_latest = !mutants::on(Mutant::AbsentForEver);
    (at_the_latest && is_within(active, activate_regardless_before(lifetime), now))
        || evidence(prepared) == Evidence::Complete
}

fn plan_prune(journal: &Journal, policy: &AuthorityPolicy, now: Timestamp) -> Option<Step> {
    let margin = policy.prune_margin();
    let ended: Vec<_> = journal
        .authorities
        .iter()
        .filter(|one| one.status != AuthorityStatus::Active)
        .filter(|one| now > last_use(one, policy).plus(margin))
        .map(|one| (one.kind, one.id.clone()))
        .collect();
    (!ended.is_empty()).then_some(Step::Prune(ended))
}

/// When the last of what an authority signed ends.
fn last_use(one: &Authority, policy: &AuthorityPolicy) -> Timestamp {
    if mutants::on(Mutant::PrunedAtLastSeen) {
        let handed_over = one.not_after.minus(activate_before(lifetime(one)));
        return handed_over.plus(policy.default_x509_svid_ttl.min(policy.default_jwt_svid_ttl));
    }
    one.not_after
}

/// Thresholds count from when it was prepared, not from the backdated start of a certificate.
pub(super) fn lifetime(authority: &Authority) -> Duration {
    authority.not_after.since(authority.issued_at)
}

/// Whether the authority's end is nearer than `before`; strictly, as in SPIRE.
fn is_within(authority: &Authority, before: Duration, now: Timestamp) -> bool {
    now > authority.not_after.minus(before)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use steeple_raft_store::WIT_LEVEL;
    use steeple_spiffe_core::authority::SealedKey;

    use super::*;

    const HOUR: u64 = 3600;

    pub(in crate::authority) fn authority(
        kind: AuthorityKind,
        name: &str,
        status: AuthorityStatus,
        issued_h: u64,
        ends_h: u64,
    ) -> Authority {
        Authority {
            id: AuthorityId::new(name),
            kind,
            status,
            public_der: Vec::new(),
            upstream_chain: Vec::new(),
            sealed_key: SealedKey {
                kek_id: String::new(),
                version: 1,
                nonce: Vec::new(),
                ciphertext: Vec::new(),
            },
            issued_at: hours(issued_h),
            not_after: hours(ends_h),
            tainted: false,
        }
    }

    pub(in crate::authority) fn hours(count: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH.plus(Duration::from_secs(count * HOUR))
    }

    pub(in crate::authority) fn x509(
        name: &str,
        status: AuthorityStatus,
        issued_h: u64,
        ends_h: u64,
    ) -> Authority {
        authority(AuthorityKind::X509, name, status, issued_h, ends_h)
    }

    /// A journal with the given X.509 authorities and a JWT authority that needs nothing.
    pub(in crate::authority) fn journal(x509: Vec<Authority>) -> Journal {
        let jwt = authority(AuthorityKind::Jwt, "jwt", AuthorityStatus::Active, 0, 1_000_000);
        Journal { revision: 1, authorities: x509.into_iter().chain([jwt]).collect() }
    }

    #[test]
    fn each_state_of_the_journal_has_its_next_step() {
        use AuthorityStatus::{Active, Old, Prepared};
        let prepare = Some(Step::Prepare(AuthorityKind::X509));
        let activate = |name| Some(Step::Activate(AuthorityKind::X509, AuthorityId::new(name)));
        let prune = |name| Some(Step::Prune(vec![(AuthorityKind::X509, AuthorityId::new(name))]));
        let second = Duration::from_secs(1);
        let a = || x509("a", Active, 0, 24);
        let b = || x509("b", Prepared, 12, 36);

        let cases = [
            ("nothing yet", vec![], hours(0), prepare.clone()),
            ("prepared at formation", vec![x509("a", Prepared, 0, 24)], hours(0), activate("a")),
            ("young", vec![a()], hours(1), None),
            ("exactly half of its life", vec![a()], hours(12), None),
            ("past half of its life", vec![a()], hours(12).plus(second), prepare.clone()),
            ("prepared and not due", vec![a(), b()], hours(13), None),
            ("exactly five sixths", vec![a(), b()], hours(20), None),
            ("past five sixths", vec![a(), b()], hours(20).plus(second), activate("b")),
            ("successor missing past five sixths", vec![a()], hours(21), prepare.clone()),
            ("active ended", vec![a()], hours(100), prepare.clone()),
            ("active and successor ended", vec![a(), b()], hours(100), prepare.clone()),
            (
                "old one within the margin",
                vec![x509("a", Old, 0, 24), x509("b", Active, 20, 44)],
                hours(24).plus(second),
                None,
            ),
            (
                "old one past the margin",
                vec![x509("a", Old, 0, 24), x509("b", Active, 20, 44)],
                hours(25).plus(second),
                prune("a"),
            ),
            (
                "no free place, and time left",
                vec![x509("x", Old, 0, 90), x509("y", Old, 0, 90), a()],
                hours(16),
                None,
            ),
            (
                "no free place, and no time left",
                vec![x509("x", Old, 0, 90), x509("y", Old, 0, 90), a()],
                hours(16).plus(second),
                prepare.clone(),
            ),
        ];
        for (name, authorities, now, expected) in cases {
            let policy = AuthorityPolicy::default();
            let step = plan(&journal(authorities), &policy, now, &|_| Evidence::Complete);
            assert_eq!(step, expected, "{name}");
        }
    }

    #[test]
    fn a_successor_that_was_tainted_passed_over_or_left_to_age_is_replaced_and_not_activated() {
        use AuthorityStatus::{Active, Old, Prepared};
        let mut tainted = x509("b", Old, 12, 36);
        tainted.tainted = true;
        let policy = AuthorityPolicy::default();
        for (what, x509, now) in [
            ("tainted", vec![x509("a", Active, 0, 24), tainted], hours(21)),
            ("passed over", vec![x509("b", Prepared, 1, 25), x509("c", Active, 2, 26)], hours(24)),
            ("old itself", vec![x509("a", Active, 0, 24), x509("b", Prepared, 1, 25)], hours(21)),
        ] {
            let step = plan(&journal(x509), &policy, now, &|_| Evidence::Complete);
            assert_eq!(step, Some(Step::Prepare(AuthorityKind::X509)), "{what}");
        }
        let aged = vec![x509("a", Active, 0, 24), x509("b", Prepared, 1, 25)];
        assert_eq!(plan(&journal(aged), &policy, hours(11), &|_| Evidence::Complete), None);
    }

    #[test]
    fn a_revoked_authority_takes_no_place() {
        use AuthorityStatus::{Active, Old, Revoked};
        let x509 = vec![x509("a", Old, 0, 24), x509("b", Revoked, 0, 24), x509("c", Active, 0, 24)];
        let step =
            plan(&journal(x509), &AuthorityPolicy::default(), hours(13), &|_| Evidence::Complete);
        assert_eq!(step, Some(Step::Prepare(AuthorityKind::X509)));
    }

    #[test]
    fn missing_evidence_delays_activation_and_never_prevents_it() {
        let journal = journal(vec![
            x509("a", AuthorityStatus::Active, 0, 24),
            x509("b", AuthorityStatus::Prepared, 12, 36),
        ]);
        let policy = AuthorityPolicy::default();
        let at = |now| plan(&journal, &policy, now, &|_| Evidence::Incomplete);
        assert_eq!(at(hours(21)), None);
        assert_eq!(at(hours(22)), None);
        let activate = Step::Activate(AuthorityKind::X509, AuthorityId::new("b"));
        assert_eq!(at(hours(22).plus(Duration::from_secs(1))), Some(activate));
    }

    #[test]
    fn x509_comes_before_jwt() {
        let policy = AuthorityPolicy::default();
        let step = plan(&Journal::default(), &policy, hours(0), &|_| Evidence::Complete);
        assert_eq!(step, Some(Step::Prepare(AuthorityKind::X509)));
    }

    #[test]
    fn with_jwt_svids_disabled_no_jwt_key_is_made_and_one_of_before_is_left_to_end() {
        use AuthorityStatus::{Active, Old, Prepared};
        let policy = AuthorityPolicy { jwt_svids: false, ..AuthorityPolicy::default() };
        let at = |authorities: Vec<Authority>, now| {
            let journal = Journal { revision: 1, authorities };
            plan(&journal, &policy, now, &|_| Evidence::Complete)
        };
        let jwt = |name: &str, status, ends| authority(AuthorityKind::Jwt, name, status, 0, ends);
        let day = || x509("a", Active, 0, 24);
        assert_eq!(at(vec![], hours(0)), Some(Step::Prepare(AuthorityKind::X509)));
        assert_eq!(at(vec![day()], hours(1)), None);
        let before = vec![day(), jwt("old", Old, 3), jwt("k", Active, 9), jwt("l", Prepared, 9)];
        assert_eq!(at(before.clone(), hours(3)), None, "nothing follows and nothing is activated");
        let ended = |names: &[&str]| {
            let ids = names.iter().map(|name| (AuthorityKind::Jwt, AuthorityId::new(*name)));
            Some(Step::Prune(ids.collect()))
        };
        assert_eq!(at(before.clone(), hours(5)), ended(&["old"]));
        assert_eq!(at(before, hours(11)), ended(&["old", "l"]));
    }

    #[test]
    fn wit_keys_come_last_and_only_with_the_flag_and_the_level_for_it() {
        use AuthorityStatus::{Active, Prepared};
        let flagged = Arc::new(AuthorityPolicy { wit_svids: true, ..AuthorityPolicy::default() });
        let next = |policy: &AuthorityPolicy, wit: Vec<Authority>, now, evidence| {
            let jwt = authority(AuthorityKind::Jwt, "jwt", Active, 0, 1_000_000);
            let of_others = [x509("a", Active, 0, 1_000_000), jwt];
            let authorities = of_others.into_iter().chain(wit).collect();
            plan(&Journal { revision: 1, authorities }, policy, now, &|_| evidence)
        };
        let wit =
            |name: &str, status, from, to| authority(AuthorityKind::Wit, name, status, from, to);
        let prepare = Some(Step::Prepare(AuthorityKind::Wit));
        let (complete, incomplete) = (Evidence::Complete, Evidence::Incomplete);
        assert_eq!(next(&flagged, vec![], hours(0), complete), prepare);
        assert_eq!(next(&AuthorityPolicy::default(), vec![], hours(0), complete), None);
        assert_eq!(next(&flagged.at_level(WIT_LEVEL - 1), vec![], hours(0), complete), None);
        assert_eq!(next(&flagged.at_level(WIT_LEVEL), vec![], hours(0), complete), prepare);
        assert_eq!(flagged.at_level(WIT_LEVEL), flagged);

        let pair = || vec![wit("w", Active, 0, 24), wit("v", Prepared, 12, 36)];
        let activate = Some(Step::Activate(AuthorityKind::Wit, AuthorityId::new("v")));
        assert_eq!(next(&flagged, pair(), hours(21), complete), activate);
        assert_eq!(next(&flagged, pair(), hours(21), incomplete), None);
        assert_eq!(next(&flagged, pair(), hours(23), incomplete), activate);
        let off = AuthorityPolicy::default();
        assert_eq!(next(&off, pair(), hours(23), complete), None, "nothing follows");
        let pruned = Some(Step::Prune(vec![(AuthorityKind::Wit, AuthorityId::new("v"))]));
        assert_eq!(next(&off, pair(), hours(40), complete), pruned);
    }

    /// Applies a step to a journal as raft-store does.
    pub(in crate::authority) fn apply(
        journal: &mut Journal,
        step: Step,
        now: Timestamp,
        ttl: Duration,
        made: &mut u64,
    ) {
        journal.revision += 1;
        match step {
            Step::Prepare(kind) => {
                *made += 1;
                let mut new = authority(kind, &made.to_string(), AuthorityStatus::Prepared, 0, 0);
                new.issued_at = now;
                new.not_after = now.plus(ttl).floor_to_second();
                journal.authorities.push(new);
            }
            Step::Activate(kind, id) => {
                for one in journal.authorities.iter_mut().filter(|one| one.kind == kind) {
                    if one.status == AuthorityStatus::Active {
                        one.status = AuthorityStatus::Old;
                    }
                    if one.id == id {
                        one.status = AuthorityStatus::Active;
                    }
                }
            }
            Step::Prune(ids) => {
                journal.authorities.retain(|one| !ids.contains(&(one.kind, one.id.clone())));
            }
        }
    }

    #[test]
    fn a_month_of_scheduled_rotation_keeps_three_of_a_kind_and_never_loses_the_signer() {
        let cases: [(u64, u64, u64); 4] = [
            // ca_ttl, tick, length of the run; in seconds
            (24 * HOUR, 10, 31 * 24 * HOUR),
            (HOUR, 10, 4 * 24 * HOUR),
            (60, 1, 2 * HOUR),
            (365 * 24 * HOUR, 600, 3 * 365 * 24 * HOUR),
        ];
        for (ttl, tick, length) in cases {
            let ttl = Duration::from_secs(ttl);
            let policy = AuthorityPolicy { ca_ttl: ttl, ..AuthorityPolicy::default() };
            let mut journal = Journal::default();
            let (mut made, mut activations) = (0, 0u64);
            for second in (0..length).step_by(usize::try_from(tick).unwrap()) {
                let now = Timestamp::UNIX_EPOCH.plus(Duration::from_secs(second));
                while let Some(step) = plan(&journal, &policy, now, &|_| Evidence::Complete) {
                    activations += u64::from(matches!(step, Step::Activate(..)));
                    apply(&mut journal, step, now, ttl, &mut made);
                }
                for kind in policy.kinds().iter().copied() {
                    let of_kind = || journal.authorities.iter().filter(|one| one.kind == kind);
                    assert!(of_kind().count() <= PUBLISHED_MAX, "{ttl:?} at {second}");
                    let active: Vec<_> =
                        of_kind().filter(|one| one.status == AuthorityStatus::Active).collect();
                    assert_eq!(active.len(), 1, "{ttl:?} at {second}");
                    assert!(active[0].not_after > now, "{ttl:?} at {second}");
                }
            }
            let turns = length / ttl.as_secs();
            assert!(activations >= 2 * turns, "{ttl:?}: {activations} activations");
        }
    }
}
