//! How far the rotation of an authority is, for `cluster rotate` and for warnings.
//!
//! Owns the way from journal, policy and survey to the answer. Steps are taken by the rotator and by the
//! calls of LocalAuthority; nothing is decided here.

use steeple_api::pb::cluster::v1 as rpc;
use steeple_raft_store::change::Journal;
use steeple_spiffe_core::Timestamp;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};

use super::cluster::authority;
use super::context::Context;
use crate::authority::evidence::{Agents, Report};
use crate::authority::{
    AuthorityPolicy, Evidence, Forecast, PUBLISHED_MAX, Slots, Times, kind_name, successor,
};
use crate::gate::Call;
use crate::status::Failure;

/// So many agents are named: a person reads no more, a script asks for their number.
const LAGGARDS_MAX: usize = 100;

/// Which kind a caller asks about.
///
/// # Errors
///
/// None is named.
pub(super) fn kind_of(kind: rpc::authority::Kind) -> Result<AuthorityKind, Failure> {
    match kind {
        rpc::authority::Kind::X509 => Ok(AuthorityKind::X509),
        rpc::authority::Kind::Jwt => Ok(AuthorityKind::Jwt),
        // SPIRE lets nobody rotate these by hand: rotation is by schedule alone.
        rpc::authority::Kind::Wit | rpc::authority::Kind::Unspecified => {
            Err(Failure::invalid("kind of authority is required: X509 or JWT"))
        }
    }
}

/// How far it is, by a confirmed read: steps are taken by it. Asks the members if an authority is
/// prepared.
///
/// # Errors
///
/// The cluster cannot be asked.
pub(super) async fn rotation(
    context: &Context,
    call: &Call,
    kind: AuthorityKind,
) -> Result<rpc::RotationResponse, Failure> {
    context.confirm(call).await?;
    let journal = context.views().journal();
    let policy = &context.minter.policy;
    let now = context.gate.clock.now().max(context.views().cluster_time());
    let forecast = Forecast::of(&journal, kind, policy, now);
    let mut response = scheduled(&journal, kind, policy, forecast, now);
    response.below_upstream = kind == AuthorityKind::X509 && context.minter.upstream.is_some();
    if let Some(prepared) = successor(&journal, kind) {
        let report = context.survey.of(prepared).await;
        let now = context.gate.clock.now().max(context.views().cluster_time());
        response.complete = report.judge(now) == Evidence::Complete;
        known(&mut response, &report, now);
        response.known_from = context.survey.known_between(prepared.issued_at).0.unix_s();
    } else if let Some(forecast) = forecast {
        let (earliest, latest) = context.survey.known_between(forecast.by_hand);
        (response.known_from, response.assumed_at) = (earliest.unix_s(), latest.unix_s());
    }
    Ok(response)
}

/// Hand-overs that are due and wait for someone. Members are asked only if there is one.
pub(super) async fn warnings(context: &Context) -> Vec<rpc::Warning> {
    let journal = context.views().journal();
    let now = context.common_time().max(context.views().cluster_time());
    let mut warnings = Vec::new();
    for kind in context.minter.policy.kinds().iter().copied() {
        let Some(active) = Slots::of(&journal, kind).current else { continue };
        let times = Times::of(active, &context.minter.policy);
        warnings.extend(ends(active, times, now));
        let Some(prepared) = successor(&journal, kind) else { continue };
        if now < times.activate_at {
            continue;
        }
        let report = context.survey.of(prepared).await;
        let Some(waits_for) = report.waits_for(now) else { continue };
        if report.judge(now) == Evidence::Incomplete {
            let (kind, id) = (kind_name(kind), &prepared.id);
            warnings.push(rpc::Warning {
                code: "rotation_waits".to_owned(),
                message: format!("{kind} authority {id} does not sign yet: it waits for {waits_for}"),
                fix: "bring them back; it signs in time without them, who then have to fetch the bundle"
                    .to_owned(),
            });
        }
    }
    warnings
}

/// An authority that should have been followed by another.
fn ends(active: &Authority, times: Times, now: Timestamp) -> Option<rpc::Warning> {
    if now <= times.activate_at_latest {
        return None;
    }
    let (kind, id) = (kind_name(active.kind), &active.id);
    let message = match active.not_after.since(now).as_secs() / 60 {
        0 => format!("{kind} authority {id} ends now or has ended, and none has taken its place"),
        left => format!("{kind} authority {id} ends in {left} min, and none has taken its place"),
    };
    Some(rpc::Warning {
        code: "authority_ends".to_owned(),
        message,
        fix: "see the leader's log for what keeps rotation: a quorum, clocks and the upstream authority \
              come first"
            .to_owned(),
    })
}

/// What the journal and the policy say.
fn scheduled(
    journal: &Journal,
    kind: AuthorityKind,
    policy: &AuthorityPolicy,
    forecast: Option<Forecast>,
    now: Timestamp,
) -> rpc::RotationResponse {
    let active = Slots::of(journal, kind).current;
    let is_published = |one: &&Authority| one.kind == kind && one.status.is_published();
    let published: Vec<_> = journal.authorities.iter().filter(is_published).collect();
    let served = published.iter().filter(|one| !one.status.may_sign());
    let place_free_at = served.map(|one| Times::of(one, policy).leave_at).min();
    let mut response = rpc::RotationResponse {
        active: active.map(authority),
        prepared: successor(journal, kind).map(authority),
        published: count(published.len()),
        published_max: count(PUBLISHED_MAX),
        place_free_at: place_free_at.map_or(0, |time| time.unix_s()),
        journal_revision: journal.revision,
        ..Default::default()
    };
    if let Some(active) = active {
        let times = Times::of(active, policy);
        response.activate_at = times.activate_at.unix_s();
        response.activate_at_latest = times.activate_at_latest.unix_s();
        response.leave_at = times.leave_at.unix_s();
    }
    if let Some(forecast) = forecast {
        response.prepare_at = forecast.by_itself.unix_s();
        response.may_prepare = response.prepared.is_none() && forecast.allows(now);
        response.may_prepare_at = forecast.by_hand.unix_s();
    }
    response
}

/// What members and agents show.
fn known(response: &mut rpc::RotationResponse, report: &Report, now: Timestamp) {
    response.waits_for = report.waits_for(now).unwrap_or_default();
    let Agents { count: all, without, unsure } = &report.agents;
    response.agents = count(*all);
    response.agents_without = count(without.len());
    response.agents_unsure = count(unsure.len());
    response.laggards = without.iter().take(LAGGARDS_MAX).map(ToString::to_string).collect();
    response.assumed_at = report.known_at().unix_s();
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_spiffe_core::authority::SealedKey;
    use steeple_spiffe_core::{AuthorityId, AuthorityStatus};

    use super::*;
    use crate::service::context::by_the_median;

    #[test]
    fn an_authority_without_a_follower_is_warned_of_before_it_ends() {
        let minutes = |count: u64| Timestamp::UNIX_EPOCH.plus(Duration::from_secs(count * 60));
        let active = Authority {
            id: AuthorityId::new("a"),
            kind: AuthorityKind::Jwt,
            status: AuthorityStatus::Active,
            public_der: Vec::new(),
            upstream_chain: Vec::new(),
            sealed_key: SealedKey::destroyed(),
            issued_at: minutes(0),
            not_after: minutes(120),
            tainted: false,
        };
        let times = Times::of(&active, &AuthorityPolicy::default());
        let told = |at| ends(&active, times, minutes(at)).map(|warning| warning.message);
        assert_eq!(told(110), None, "it is handed over now, known or not");
        assert!(told(111).unwrap().contains("JWT authority a ends in 9 min, and none"));
        assert!(told(120).unwrap().contains("has ended"));
        // A clock that is known to be an hour ahead ends nothing.
        let right = by_the_median(minutes(150), Some(60 * 60 * 1000));
        assert_eq!(ends(&active, times, right).map(|warning| warning.message), None);
        assert_eq!(by_the_median(minutes(150), None), minutes(150), "never compared");
    }
}
