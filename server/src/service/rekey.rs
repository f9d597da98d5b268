//! `cluster rekey`: another cluster key, refused until every member holds it.
//!
//! Owns the choice of the key, the checks before it moves, and the words. The move is one command; the rest
//! is the leader's duty (`authority::rekey`) and each member's own (peer certificates), whether anyone
//! waits or not.

use steeple_api::pb::cluster::v1 as rpc;
use steeple_raft_store::{Command, KeysInUse, MemberId, MemberStatus, REKEY_LEVEL, Rejection};

use super::context::Context;
use crate::gate::Call;
use crate::key_uses::{self, KeyFacts, KeyUse, WaitReason, Waiting};
use crate::status::Failure;

/// The keys as this member sees them; none before the cluster has formed.
pub(super) fn keys(context: &Context, status: &MemberStatus) -> Vec<rpc::ClusterKey> {
    facts(context, status).into_iter().map(to_pb).collect()
}

fn facts(context: &Context, status: &MemberStatus) -> Vec<KeyFacts> {
    let views = context.views();
    let Some(cluster) = views.cluster() else { return Vec::new() };
    let in_use = KeysInUse::of(&cluster, &views.journal(), &views.sealed());
    key_uses::keys(status, &cluster, &in_use, context.gate.clock.boot_time())
}

fn to_pb(key: KeyFacts) -> rpc::ClusterKey {
    use rpc::cluster_key::Use;
    let names = |members: Vec<MemberId>| members.iter().map(ToString::to_string).collect();
    let use_ = match key.use_ {
        KeyUse::New => Use::New,
        KeyUse::Seals => Use::Seals,
        KeyUse::Leaving => Use::Leaving,
        KeyUse::Unused => Use::Unused,
    };
    rpc::ClusterKey {
        id: key.id,
        r#use: use_.into(),
        held_by: names(key.held_by),
        missing_at: names(key.missing_at),
        authorities: u32::try_from(key.authorities).unwrap_or(u32::MAX),
        presented_by: names(key.presented_by),
        waits_for: key.waits_for.into_iter().map(waiting_to_pb).collect(),
    }
}

fn waiting_to_pb(waiting: Waiting) -> rpc::cluster_key::Waiting {
    use rpc::cluster_key::waiting::Reason;
    let reason = match waiting.reason {
        WaitReason::Presents => Reason::Presents,
        WaitReason::Silent => Reason::Silent,
        WaitReason::LacksKey => Reason::LacksKey,
    };
    let id = waiting.member.to_string();
    rpc::cluster_key::Waiting { id, address: waiting.address, reason: reason.into() }
}

/// A key that something depends on and a member that answers does not hold.
pub(super) fn warnings(context: &Context, status: &MemberStatus) -> Vec<rpc::Warning> {
    let keys = facts(context, status);
    let needed = keys.iter().filter(|key| key.is_needed());
    let lacking = needed.flat_map(|key| key.lacking_at.iter().map(move |member| (&key.id, member)));
    let warning = |(id, member): (&String, &MemberId)| rpc::Warning {
        code: "key_missing".to_owned(),
        message: format!("member {member} does not hold cluster key {id}, which is needed"),
        fix: "put its line into the cluster key file of that member and send it SIGHUP".to_owned(),
    };
    lacking.map(warning).collect()
}

/// Moves to another key, or says how far that is.
pub(super) async fn rekey(
    context: &Context,
    call: &Call,
    request: &rpc::RekeyRequest,
) -> Result<rpc::RekeyResponse, Failure> {
    context.confirm(call).await?;
    let status = context.gate.store.status();
    let keys = facts(context, &status);
    let from = keys.iter().find(|key| key.use_ == KeyUse::Seals).map(|key| key.id.clone());
    let from = from.unwrap_or_default();
    let cluster = context.views().cluster();
    let moved_before = cluster.is_some_and(|cluster| !cluster.left_key_ids.is_empty());
    let to = choose(&keys, &request.to, moved_before).map_err(Failure::failed_precondition)?;
    let moved = to != from;
    if moved {
        check_level(context)?;
        check_held(&keys, &to, &status).map_err(Failure::failed_precondition)?;
    }
    if moved && !request.plan {
        let command = Command::MoveClusterKey { expected: from.clone(), to: to.clone() };
        let applied = context.propose(call, 0, command).await?;
        match applied.outcome {
            Ok(_) => tracing::info!(from, to, "Cluster key moved"),
            Err(rejection @ Rejection::ClusterKeyMoved { .. }) => {
                let text = format!("{rejection}: someone else has moved it; look and ask again");
                return Err(Failure::failed_precondition(text));
            }
            Err(rejection) => return Err(Failure::rejected("failed to rekey", &rejection)),
        }
        // It is decided; a replica that does not show it in time is merely late.
        context.views().wait_for(applied.revision, call.deadline()).await;
    }
    let keys = facts(context, &context.gate.store.status());
    let done = key_uses::is_done(&keys) && !(moved && request.plan);
    let keys = keys.into_iter().map(to_pb).collect();
    Ok(rpc::RekeyResponse { from, to, moved, done, keys })
}

fn check_level(context: &Context) -> Result<(), Failure> {
    let level = context.views().cluster().map_or(0, |cluster| cluster.feature_level);
    if level >= REKEY_LEVEL {
        return Ok(());
    }
    Err(Failure::failed_precondition(format!(
        "the cluster is at feature level {level}, another cluster key needs {REKEY_LEVEL}: start this \
         version on every member, then run \"spire-server cluster upgrade finalize\""
    )))
}

/// Which key is meant. `moved_before`: another key sealed once.
fn choose(keys: &[KeyFacts], asked: &str, moved_before: bool) -> Result<String, String> {
    let of_use = |wanted: KeyUse| keys.iter().filter(move |key| key.use_ == wanted);
    let list =
        |keys: &[&KeyFacts]| keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>().join(", ");
    if !asked.is_empty() {
        if keys.iter().any(|key| key.id == asked) {
            return Ok(asked.to_owned());
        }
        let known = list(&keys.iter().collect::<Vec<_>>());
        return Err(format!("no member holds a cluster key {asked}; members hold {known}"));
    }
    let seals = of_use(KeyUse::Seals).next();
    let new: Vec<&KeyFacts> = of_use(KeyUse::New).collect();
    // It was moved already and goes on. Where the old key waits for silent members alone, it may have
    // finished long ago: then a new key is meant, if there is one.
    let is_under_way =
        |key: &KeyFacts| key.use_ == KeyUse::Leaving && (new.is_empty() || key.is_known_to_wait());
    if let (Some(seals), true) = (seals, keys.iter().any(is_under_way)) {
        return Ok(seals.id.clone());
    }
    match new.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => {
            let unused: Vec<&KeyFacts> = of_use(KeyUse::Unused).collect();
            let seals = seals.map_or("none", |key| key.id.as_str());
            Err(nothing_new(seals, &list(&unused), moved_before))
        }
        several => {
            Err(format!("there are several new cluster keys: name one with -to: {}", list(several)))
        }
    }
}

/// What is said where there is no key to move to: after a move that it has finished.
fn nothing_new(seals: &str, unused: &str, moved_before: bool) -> String {
    let text = format!("no member holds a new cluster key beside {seals}");
    let make = "make one with \"spire-server cluster keygen\", add its line to the key file of \
                every member and send them SIGHUP";
    if !moved_before {
        return format!("{text}: {make}");
    }
    let but = match unused {
        "" => String::new(),
        unused => format!(" but to drop the line of {unused} from every key file"),
    };
    format!(
        "the move to cluster key {seals} has finished, nothing is left to do{but}; {text}: to \
         begin another move, {make}"
    )
}

/// Whether every member has said, lately, that it holds the key.
fn check_held(keys: &[KeyFacts], to: &str, status: &MemberStatus) -> Result<(), String> {
    let Some(key) = keys.iter().find(|key| key.id == to) else { return Ok(()) };
    if key.missing_at.is_empty() {
        return Ok(());
    }
    let named = key.missing_at.iter();
    let named = named.map(|id| format!("{id} ({})", key_uses::address_of(status, *id)));
    Err(format!(
        "not every member is known to hold cluster key {to}: missing at {}; add its line to their key \
         files and send them SIGHUP, or start those that are down, then ask again",
        named.collect::<Vec<_>>().join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::testing::member_status;

    use super::*;
    use crate::key_uses::tests::{NOW, cluster, in_use, member};

    fn found(
        members: &[(u64, &[&str])],
        current: &str,
        left: &[&str],
        sealed: &[&str],
    ) -> Vec<KeyFacts> {
        let members = members.iter().map(|(id, keys)| member(*id, keys)).collect();
        key_uses::keys(
            &member_status(members),
            &cluster(current, left),
            &in_use(current, sealed),
            NOW,
        )
    }

    #[test]
    fn without_a_name_the_one_new_key_is_meant_and_never_one_that_was_left() {
        let one = |keys: &[KeyFacts]| choose(keys, "", false);
        let both: &[&str] = &["new", "old"];
        assert_eq!(
            one(&found(&[(1, &["old", "new"])], "old", &[], &["old"])).as_deref(),
            Ok("new")
        );
        // Begun: it goes on.
        assert_eq!(one(&found(&[(1, both)], "new", &["old"], &["old"])).as_deref(), Ok("new"));
        // There never was another.
        let text = one(&found(&[(1, &["old"])], "old", &[], &["old"])).unwrap_err();
        assert!(
            text.starts_with("no member holds a new cluster key beside old: make one"),
            "{text}"
        );
        let text = one(&found(&[(1, &["old", "a", "b"])], "old", &[], &["old"])).unwrap_err();
        assert_eq!(text, "there are several new cluster keys: name one with -to: a, b");
        assert_eq!(
            choose(&found(&[(1, both)], "new", &["old"], &["new"]), "old", true).as_deref(),
            Ok("old")
        );
        let text = choose(&found(&[(1, both)], "new", &[], &["new"]), "x", false).unwrap_err();
        assert_eq!(text, "no member holds a cluster key x; members hold new, old");
    }

    #[test]
    fn asked_again_after_a_move_it_has_finished_and_says_how_to_begin_another() {
        let again = |keys: &[KeyFacts]| choose(keys, "", true).unwrap_err();
        let make = "no member holds a new cluster key beside new: to begin another move, make one \
                    with \"spire-server cluster keygen\"";
        // The old line is still there: back is not forward.
        let text = again(&found(&[(1, &["new", "old"])], "new", &["old"], &["new"]));
        let done = "the move to cluster key new has finished, nothing is left to do but to drop \
                    the line of old from every key file; ";
        assert!(text.starts_with(&format!("{done}{make}")), "{text}");
        let text = again(&found(&[(1, &["new"])], "new", &["old"], &["new"]));
        let done = "the move to cluster key new has finished, nothing is left to do; ";
        assert!(text.starts_with(&format!("{done}{make}")), "{text}");
        // A key that was added since is to be moved to.
        let added = found(&[(1, &["new", "newer"])], "new", &["old"], &["new"]);
        assert_eq!(choose(&added, "", true).as_deref(), Ok("newer"));
    }

    #[test]
    fn a_finished_move_does_not_begin_again_because_a_member_does_not_answer() {
        let of = |held: &[&str], sealed: &[&str]| {
            let silent = steeple_raft_store::MemberView { observed: None, ..member(3, &[]) };
            let status = member_status(vec![member(1, held), member(2, held), silent]);
            let left = cluster("k3", &["k1", "k2"]);
            (key_uses::keys(&status, &left, &in_use("k3", sealed), NOW), status)
        };
        // A fourth key is there: it is refused as with `-to`, by the member's name.
        let (keys, status) = of(&["k3", "k1", "k2", "k4"], &["k3"]);
        assert_eq!(choose(&keys, "", true).as_deref(), Ok("k4"));
        let text = check_held(&keys, "k4", &status).unwrap_err();
        let expected = "not every member is known to hold cluster key k4: missing at 0000000000000003 \
                        (m3:1); add its line";
        assert!(text.starts_with(expected), "{text}");
        // The caller is told why the old keys are needed again.
        let left = keys.into_iter().find(|key| key.id == "k1").map(to_pb).unwrap();
        let reason = rpc::cluster_key::waiting::Reason::Silent.into();
        let (id, address) = ("0000000000000003".to_owned(), "m3:1".to_owned());
        assert_eq!(left.waits_for, [rpc::cluster_key::Waiting { id, address, reason }]);
        // There is none, or the last move is known to go on.
        let (none, _) = of(&["k3", "k1"], &["k3"]);
        assert_eq!(choose(&none, "", true).as_deref(), Ok("k3"));
        let (under_way, _) = of(&["k3", "k1", "k2", "k4"], &["k3", "k2"]);
        assert_eq!(choose(&under_way, "", true).as_deref(), Ok("k3"));
    }

    #[test]
    fn a_member_that_lacks_the_key_or_says_nothing_keeps_it_from_moving() {
        let silent = steeple_raft_store::MemberView { observed: None, ..member(3, &[]) };
        let members = vec![member(1, &["old", "new"]), member(2, &["old"]), silent];
        let status = member_status(members);
        let keys = key_uses::keys(&status, &cluster("", &[]), &in_use("old", &["old"]), NOW);
        let text = check_held(&keys, "new", &status).unwrap_err();
        let expected = "not every member is known to hold cluster key new: missing at 0000000000000002 \
                        (m2:1), 0000000000000003 (m3:1); add its line";
        assert!(text.starts_with(expected), "{text}");
        let all = found(&[(1, &["old", "new"]), (2, &["new", "old"])], "old", &[], &["old"]);
        assert_eq!(check_held(&all, "new", &status), Ok(()));
    }
}
