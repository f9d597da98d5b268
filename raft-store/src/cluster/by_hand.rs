//! Changes of the membership that an operator asks for: whether they are safe, and the way to the
//! leader.
//!
//! Owns the refusals of `cluster.md` 3 "Leaving". The decision is pure; the shell takes it on the
//! leader only, under the same lock as autopilot. A leader that is to lose its own vote hands over
//! first and passes the request on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::ChangeMembers;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::cluster::admission;
use crate::cluster::autopilot::measure;
use crate::cluster::life::Life;
use crate::cluster::plan::Seen;
use crate::contact::Contact;
use crate::error::{RunError, Unavailable};
use crate::ids::MemberId;
use crate::membership::{Asked, MemberChange, MemberChangeError, Requested};
use crate::net::messages as pb;
use crate::raft::{Metrics, PeerNode};

/// Most voters (`cluster.md` 10): more make writes slower and tolerate hardly more failures.
const VOTERS_MAX: usize = 7;

/// Between two attempts to reach a new leader: an election takes longer.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a request looks for the leader that shall carry it out.
const PASS_ON_TIMEOUT: Duration = Duration::from_secs(5);

/// What a safe request leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is so already.
    Nothing,
    /// These voters, and no others; with `forget`, who loses its seat is forgotten too.
    Voters { voters: BTreeSet<MemberId>, forget: bool },
    /// The learner is forgotten.
    Forget,
}

/// Decides about a request; an error is the refusal, with the fix.
fn decide(change: MemberChange, members: &[Seen]) -> Result<Verdict, String> {
    let id = change.member();
    let Some(member) = members.iter().find(|member| member.id == id) else {
        return Err(format!("no member has the id {id}; \"cluster members\" lists them"));
    };
    let mut voters: BTreeSet<MemberId> =
        members.iter().filter(|member| member.voter).map(|member| member.id).collect();
    match change {
        MemberChange::Promote(_) => {
            if member.voter {
                return Ok(Verdict::Nothing);
            }
            if voters.len() >= VOTERS_MAX {
                return Err(format!(
                    "{VOTERS_MAX} voters are the most; remove or demote one first"
                ));
            }
            if member.healthy_for.is_none() {
                return Err(format!(
                    "member {id} does not answer or trails too far behind; promote it once \
                     \"cluster status\" shows it reachable"
                ));
            }
            voters.insert(id);
            // It came back there with an empty folder: what it was before never comes back.
            let gone = members
                .iter()
                .find(|other| other.voter && !other.answers && other.address == member.address);
            let forget = gone.is_some_and(|gone| voters.remove(&gone.id));
            Ok(Verdict::Voters { voters, forget })
        }
        MemberChange::Demote(_) => {
            if !member.voter {
                return Ok(Verdict::Nothing);
            }
            voters.remove(&id);
            check_last(&voters, members)?;
            check_majority(&voters, members)?;
            Ok(Verdict::Voters { voters, forget: false })
        }
        MemberChange::Remove { force, .. } => {
            if !member.voter {
                return Ok(Verdict::Forget);
            }
            voters.remove(&id);
            check_last(&voters, members)?;
            if force {
                check_alive(&voters, members)?;
            } else {
                check_majority(&voters, members)
                    .map_err(|text| format!("{text}, or use -force"))?;
            }
            Ok(Verdict::Voters { voters, forget: true })
        }
    }
}

/// Someone must stay. A learner may take the seat first: then nothing is lost.
fn check_last(staying: &BTreeSet<MemberId>, members: &[Seen]) -> Result<(), String> {
    if !staying.is_empty() {
        return Ok(());
    }
    let learners = members.iter().filter(|member| !member.voter);
    // One that would be promoted before one that would not.
    match learners.max_by_key(|learner| learner.healthy_for.is_some()) {
        Some(learner) => Err(format!(
            "the last voter cannot go: the cluster would be gone; promote a learner first, for \
             instance with \"spire-server cluster promote -id {}\"",
            learner.id
        )),
        None => Err("the last voter cannot go: the cluster would be gone; to end it, stop the \
                     member and delete its data folder"
            .to_owned()),
    }
}

/// Who stays must be able to go on.
fn check_majority(staying: &BTreeSet<MemberId>, members: &[Seen]) -> Result<(), String> {
    let healthy = members
        .iter()
        .filter(|member| staying.contains(&member.id) && member.healthy_for.is_some())
        .count();
    if healthy * 2 > staying.len() {
        return Ok(());
    }
    Err(format!(
        "only {healthy} of the {} voters that would stay are healthy, a majority is needed; bring \
         them back first",
        staying.len()
    ))
}

/// A change that a majority of those who stay cannot agree to would never be committed, and every write
/// would wait for it: no force helps there.
fn check_alive(staying: &BTreeSet<MemberId>, members: &[Seen]) -> Result<(), String> {
    let stays = members.iter().filter(|member| staying.contains(&member.id));
    let alive = stays.filter(|member| member.answers).count();
    if alive * 2 > staying.len() {
        return Ok(());
    }
    Err(format!(
        "only {alive} of the {} voters that would stay answer: the change could not be committed, and \
         every write would wait for it; start them first, or remove one that is gone instead",
        staying.len()
    ))
}

/// Takes requests from the handle, one at a time.
///
/// # Errors
///
/// Never: what fails is answered.
pub(crate) async fn run(
    life: Arc<Life>,
    mut requests: mpsc::Receiver<Requested>,
) -> Result<(), RunError> {
    while let Some(Requested { asked, answer }) = requests.recv().await {
        // Who asked may have gone: then nobody hears the answer.
        answer.send(pass_on(&life, asked).await).ok();
    }
    std::future::pending().await
}

/// Carries a request out here or through the leader, as soon as there is one.
async fn pass_on(life: &Life, asked: Asked) -> Result<(), MemberChangeError> {
    let deadline = Instant::now() + PASS_ON_TIMEOUT;
    loop {
        let leadership = life.core.leadership_now();
        let done = match leadership.leader {
            Some(_) if leadership.is_self => carry_out(life, asked).await,
            Some(leader) => life.network.change_members(leader, asked_to_pb(asked)).await,
            None => Err(Status::unavailable(life.core.no_leader().text)),
        };
        let Err(status) = done else { return Ok(()) };
        // Aborted: there is another leader by now.
        let may_pass = matches!(status.code(), Code::Aborted | Code::Unavailable);
        if !may_pass || Instant::now() + PAUSE >= deadline {
            return Err(refusal(life, &status));
        }
        sleep(PAUSE).await;
    }
}

fn refusal(life: &Life, status: &Status) -> MemberChangeError {
    let text = match life.core.contact() {
        Contact::InContact => status.message().to_owned(),
        Contact::Lost { text, .. } => {
            format!("{text}; a change of the membership needs a majority of the voters")
        }
    };
    if status.code() == Code::FailedPrecondition {
        return MemberChangeError::Refused(text);
    }
    Unavailable { text, retry_after: life.core.config.election_timeout_max() }.into()
}

/// Serves a request that another member has passed on.
///
/// # Errors
///
/// `FailedPrecondition`: refused; `Aborted`: this member does not lead (any more).
pub(crate) async fn serve(life: &Life, request: &pb::ChangeMembersRequest) -> Result<(), Status> {
    let asked = asked_from_pb(request)?;
    if !life.core.leadership_now().is_self {
        return Err(Status::aborted("member does not lead"));
    }
    carry_out(life, asked).await
}

/// On the leader: does what is asked for.
async fn carry_out(life: &Life, asked: Asked) -> Result<(), Status> {
    match asked {
        Asked::Change(change) => change_members(life, change).await,
        Asked::HandOver(to) => {
            life.core.check_hand_over(to).map_err(Status::failed_precondition)?;
            let took = life.core.transfer_leadership(to).await;
            let took = took.map_err(|error| Status::failed_precondition(error.text))?;
            tracing::info!(took_ms = took.as_millis(), "Leadership handed over by hand");
            Ok(())
        }
    }
}

/// On the leader: decides and changes.
async fn change_members(life: &Life, change: MemberChange) -> Result<(), Status> {
    let _changing = life.changing.lock().await;
    let metrics = life.metrics();
    if metrics.membership_config.get_joint_config().len() > 1 {
        return Err(Status::unavailable("another change of membership is under way"));
    }
    let mut members = measure(life, &metrics, &mut BTreeMap::new());
    let leaving = Some(change.member()).filter(|_| change.takes_the_vote());
    look_now(life, leaving, &mut members).await;
    let verdict = decide(change, &members).map_err(Status::failed_precondition)?;
    if verdict == Verdict::Nothing {
        return Ok(());
    }
    if change.member() == life.me() && change.takes_the_vote() {
        let handed_over = life.core.transfer_leadership(None).await;
        handed_over.map_err(|error| Status::unavailable(error.text))?;
        return Err(Status::aborted("leadership was handed over"));
    }
    let wire = |ids: &BTreeSet<MemberId>| ids.iter().map(|id| id.0).collect::<BTreeSet<u64>>();
    match verdict {
        Verdict::Nothing => {}
        Verdict::Forget => {
            let gone = BTreeSet::from([change.member().0]);
            admission::change(life, ChangeMembers::RemoveNodes(gone), false).await?;
        }
        Verdict::Voters { voters, forget } => {
            mark(life, &metrics, change).await?;
            let goal = ChangeMembers::ReplaceAllVoters(wire(&voters));
            admission::change(life, goal, !forget).await?;
        }
    }
    tracing::info!(%change, "Membership changed by hand");
    Ok(())
}

/// Asks those that would vote afterwards whether they live: one that died a moment ago still counts as
/// healthy from memory, and a joint change that needs it would block every write until it is back.
async fn look_now(life: &Life, leaving: Option<MemberId>, members: &mut [Seen]) {
    let introduction = life.introduction(None).await;
    let stays = |member: &Seen| Some(member.id) != leaving && member.id != life.me();
    let looks = members.iter_mut().filter(|member| stays(member)).map(async |member| {
        if life.network.ping(member.id, introduction.clone()).await.is_err() {
            (member.healthy_for, member.answers) = (None, false);
        }
    });
    join_all(looks).await;
}

/// Notes in the membership whether autopilot may promote the member.
async fn mark(life: &Life, metrics: &Metrics, change: MemberChange) -> Result<(), Status> {
    let demoted = match change {
        MemberChange::Demote(_) => true,
        MemberChange::Promote(_) => false,
        MemberChange::Remove { .. } => return Ok(()),
    };
    let id = change.member().0;
    let Some(node) = metrics.membership_config.get_node(&id) else { return Ok(()) };
    if node.demoted == demoted {
        return Ok(());
    }
    let node = PeerNode { demoted, ..node.clone() };
    let nodes = ChangeMembers::SetNodes(BTreeMap::from([(id, node)]));
    admission::change(life, nodes, true).await
}

fn asked_to_pb(asked: Asked) -> pb::ChangeMembersRequest {
    use pb::change_members_request::Change;
    let (member, change) = match asked {
        Asked::Change(MemberChange::Remove { member, force }) => {
            (member, Change::Remove(pb::Remove { force }))
        }
        Asked::Change(MemberChange::Promote(member)) => (member, Change::Promote(pb::Promote {})),
        Asked::Change(MemberChange::Demote(member)) => (member, Change::Demote(pb::Demote {})),
        Asked::HandOver(to) => (to.unwrap_or_default(), Change::HandOver(pb::HandOver {})),
    };
    pb::ChangeMembersRequest { member_id: member.0, change: Some(change) }
}

fn asked_from_pb(request: &pb::ChangeMembersRequest) -> Result<Asked, Status> {
    use pb::change_members_request::Change;
    let member = MemberId(request.member_id);
    match &request.change {
        Some(Change::Remove(remove)) => {
            Ok(Asked::Change(MemberChange::Remove { member, force: remove.force }))
        }
        Some(Change::Promote(pb::Promote {})) => Ok(Asked::Change(MemberChange::Promote(member))),
        Some(Change::Demote(pb::Demote {})) => Ok(Asked::Change(MemberChange::Demote(member))),
        Some(Change::HandOver(pb::HandOver {})) => {
            Ok(Asked::HandOver((member != MemberId::default()).then_some(member)))
        }
        None => Err(Status::invalid_argument("a change of membership names no change")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it is about, the request, the members, and what comes of it.
    type Case = (&'static str, MemberChange, Vec<Seen>, Result<Verdict, String>);

    fn seen(id: u64, voter: bool, healthy: bool) -> Seen {
        Seen {
            id: MemberId(id),
            address: format!("m{id}:1"),
            voter,
            demoted: false,
            silent_for: Duration::ZERO,
            healthy_for: healthy.then_some(Duration::ZERO),
            answers: true,
        }
    }

    fn dead(id: u64) -> Seen {
        Seen { answers: false, ..seen(id, true, false) }
    }

    fn voters(ids: &[u64], forget: bool) -> Result<Verdict, String> {
        Ok(Verdict::Voters { voters: ids.iter().copied().map(MemberId).collect(), forget })
    }

    #[test]
    fn a_request_is_carried_out_only_if_who_stays_can_go_on() {
        use MemberChange::{Demote, Promote};

        let remove = |id| MemberChange::Remove { member: MemberId(id), force: false };
        let force = |id| MemberChange::Remove { member: MemberId(id), force: true };
        let three = vec![seen(1, true, true), seen(2, true, true), seen(3, true, true)];
        let one_down = vec![seen(1, true, true), seen(2, true, true), seen(3, true, false)];
        let two_down = vec![seen(1, true, true), seen(2, true, false), seen(3, true, false)];
        let with = |more: &[Seen]| [three.as_slice(), more].concat();
        let refused = |text: &str| Err(text.to_owned());
        let half = "only 1 of the 2 voters that would stay are healthy, a majority is needed; bring \
                    them back first, or use -force";
        let cases: Vec<Case> = vec![
            ("a healthy one goes", remove(3), three.clone(), voters(&[1, 2], true)),
            ("the dead one goes", remove(3), one_down.clone(), voters(&[1, 2], true)),
            ("not a healthy one beside a dead one", remove(2), one_down.clone(), refused(half)),
            ("one of two dead ones", remove(3), two_down, refused(half)),
            (
                "a learner is forgotten",
                remove(4),
                with(&[seen(4, false, false)]),
                Ok(Verdict::Forget),
            ),
            (
                "the last voter stays",
                force(1),
                vec![seen(1, true, true)],
                refused(
                    "the last voter cannot go: the cluster would be gone; to end it, stop the \
                     member and delete its data folder",
                ),
            ),
            (
                "nobody",
                remove(9),
                three.clone(),
                refused("no member has the id 0000000000000009; \"cluster members\" lists them"),
            ),
            (
                "a healthy learner votes",
                Promote(MemberId(4)),
                with(&[seen(4, false, true)]),
                voters(&[1, 2, 3, 4], false),
            ),
            (
                "a silent one does not",
                Promote(MemberId(4)),
                with(&[seen(4, false, false)]),
                refused(
                    "member 0000000000000004 does not answer or trails too far behind; promote it \
                     once \"cluster status\" shows it reachable",
                ),
            ),
            ("a voter votes already", Promote(MemberId(1)), three.clone(), Ok(Verdict::Nothing)),
            ("a voter only follows", Demote(MemberId(2)), three.clone(), voters(&[1, 3], false)),
            (
                "a learner follows already",
                Demote(MemberId(4)),
                with(&[seen(4, false, true)]),
                Ok(Verdict::Nothing),
            ),
            (
                "no eighth voter",
                Promote(MemberId(8)),
                (1..=8).map(|id| seen(id, id < 8, true)).collect(),
                refused("7 voters are the most; remove or demote one first"),
            ),
        ];
        for (name, change, members, expected) in cases {
            assert_eq!(decide(change, &members), expected, "{name}");
        }
    }

    #[test]
    fn a_newcomer_takes_the_seat_of_the_dead_voter_at_its_address_and_no_other() {
        let at_third = || Seen { address: "m3:1".to_owned(), ..seen(4, false, true) };
        let with = |third: Seen| vec![seen(1, true, true), seen(2, true, true), third, at_third()];
        for (name, third, expected) in [
            ("dead", dead(3), voters(&[1, 2, 4], true)),
            ("it only trails", seen(3, true, false), voters(&[1, 2, 3, 4], false)),
        ] {
            assert_eq!(
                decide(MemberChange::Promote(MemberId(4)), &with(third)),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn force_removes_what_health_would_not_let_go_but_never_beyond_those_who_answer() {
        let force = |id| MemberChange::Remove { member: MemberId(id), force: true };
        let trails = vec![seen(1, true, true), seen(2, true, true), seen(3, true, false)];
        let cases: Vec<Case> = vec![
            ("beside one that trails", force(2), trails, voters(&[1, 3], true)),
            (
                "forced or not, who stays must live",
                force(2),
                vec![seen(1, true, true), seen(2, true, true), dead(3)],
                Err("only 1 of the 2 voters that would stay answer: the change could not be \
                     committed, and every write would wait for it; start them first, or remove one \
                     that is gone instead"
                    .to_owned()),
            ),
            (
                "the dead one goes by force",
                force(3),
                vec![seen(1, true, true), seen(2, true, false), dead(3)],
                voters(&[1, 2], true),
            ),
        ];
        for (name, change, members, expected) in cases {
            assert_eq!(decide(change, &members), expected, "{name}");
        }
    }

    #[test]
    fn the_last_voter_goes_once_a_learner_votes_and_one_that_could_is_named() {
        let refused = |learner: u64| {
            Err(format!(
                "the last voter cannot go: the cluster would be gone; promote a learner first, for \
                 instance with \"spire-server cluster promote -id {}\"",
                MemberId(learner)
            ))
        };
        let (demote, id) = (MemberChange::Demote(MemberId(1)), MemberId(1));
        let force = MemberChange::Remove { member: id, force: true };
        let (last, healthy, silent) =
            (seen(1, true, true), seen(2, false, true), seen(3, false, false));
        let cases: Vec<Case> = vec![
            ("one learner", demote, vec![last.clone(), healthy.clone()], refused(2)),
            ("by force", force, vec![last.clone(), healthy.clone()], refused(2)),
            ("two", demote, vec![last.clone(), healthy, silent.clone()], refused(2)),
            ("a silent one", demote, vec![last.clone(), silent], refused(3)),
            ("it votes", demote, vec![last, seen(2, true, true)], voters(&[2], false)),
        ];
        for (name, change, members, expected) in cases {
            assert_eq!(decide(change, &members), expected, "{name}");
        }
    }

    #[test]
    fn requests_survive_the_wire() {
        for asked in [
            Asked::Change(MemberChange::Remove { member: MemberId(7), force: true }),
            Asked::Change(MemberChange::Remove { member: MemberId(7), force: false }),
            Asked::Change(MemberChange::Promote(MemberId(8))),
            Asked::Change(MemberChange::Demote(MemberId(9))),
            Asked::HandOver(Some(MemberId(9))),
            Asked::HandOver(None),
        ] {
            assert_eq!(asked_from_pb(&asked_to_pb(asked)).unwrap(), asked);
        }
        assert!(asked_from_pb(&pb::ChangeMembersRequest::default()).is_err());
    }
}
