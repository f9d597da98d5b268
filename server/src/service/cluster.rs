//! `steeple.cluster.v1.Cluster`: what operators ask about the cluster and do to it.
//!
//! Owns the way from the store's own status to the screen of `cluster status`, and the warnings with
//! their fixes. Answers from what this member knows: it never waits for a quorum.

use std::time::Duration;

use steeple_api::pb::cluster::v1 as rpc;
use steeple_raft_store::change::{Restored, UnknownAgents};
use steeple_raft_store::{
    Command, Contact, MemberChange, MemberChangeError, MemberId, MemberState, MemberStatus,
    MemberView, Rejection, Role,
};
use steeple_spiffe_core::AuthorityStatus;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use tonic::{Request, Response, Status};

use super::backup;
use super::context::Context;
use super::{endpoint_certificate, federated, observed, rekey, rotating, upgrading, upstream};
use crate::authority::IssueError;
use crate::check::{self, CheckParts};
use crate::gate::Call;
use crate::gate::staleness::Standing;
use crate::status::Failure;

/// The service.
#[derive(Clone, Debug)]
pub struct ClusterService {
    context: Context,
    cluster_name: String,
    check: CheckParts,
}

impl ClusterService {
    /// The service over a context.
    pub fn new(context: Context, cluster_name: String, check: CheckParts) -> Self {
        Self { context, cluster_name, check }
    }
}

#[tonic::async_trait]
impl rpc::cluster_server::Cluster for ClusterService {
    async fn status(
        &self,
        _request: Request<rpc::StatusRequest>,
    ) -> Result<Response<rpc::StatusResponse>, Status> {
        let status = self.context.gate.store.status();
        let views = self.context.views();
        let cluster = views.cluster();
        let quorum = self.quorum(&status);
        let mut authorities = views.journal().authorities.clone();
        authorities.sort_by_key(|authority| (authority.kind, authority.status));
        let cluster_id = cluster.as_ref().map(|cluster| cluster.cluster_id).or(status.cluster_id);
        let mut warnings = self.warnings(&status, &quorum);
        warnings.extend(rotating::warnings(&self.context).await);
        warnings.extend(upstream::warnings(&self.context).await);
        warnings.extend(federated::warnings(&self.context));
        Ok(Response::new(rpc::StatusResponse {
            cluster_id: cluster_id.map(|id| id.to_string()).unwrap_or_default(),
            cluster_name: self.cluster_name.clone(),
            trust_domain: self.context.trust_domain().as_str().to_owned(),
            epoch: cluster.as_ref().map_or(0, |cluster| cluster.epoch),
            feature_level: cluster.as_ref().map_or(0, |cluster| cluster.feature_level),
            this_member: Some(self.this_member(&status)),
            warnings,
            quorum: Some(quorum),
            members: self.members_of(&status),
            authorities: authorities.iter().map(authority).collect(),
            restored: cluster.as_ref().and_then(|cluster| cluster.restored).map(restored),
            snapshots: self.context.schedule.as_ref().map(|schedule| schedule.to_pb()),
            cluster_keys: rekey::keys(&self.context, &status),
            federated_bundles: federated::bundles(&self.context),
        }))
    }

    async fn members(
        &self,
        _request: Request<rpc::MembersRequest>,
    ) -> Result<Response<rpc::MembersResponse>, Status> {
        let members = self.members_of(&self.context.gate.store.status());
        Ok(Response::new(rpc::MembersResponse { members }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<rpc::TransferLeadershipRequest>,
    ) -> Result<Response<rpc::TransferLeadershipResponse>, Status> {
        let to = target(&request.into_inner().to)?;
        let store = &self.context.gate.store;
        let took = store.hand_over(to).await.map_err(refused)?;
        let leader = store.status().leader;
        Ok(Response::new(rpc::TransferLeadershipResponse {
            leader_id: leader.map(|id| id.to_string()).unwrap_or_default(),
            took_s: took.as_secs_f64(),
        }))
    }

    async fn remove_member(
        &self,
        request: Request<rpc::RemoveMemberRequest>,
    ) -> Result<Response<rpc::RemoveMemberResponse>, Status> {
        let request = request.into_inner();
        let member = required_target(&request.id)?;
        self.change(MemberChange::Remove { member, force: request.force }).await?;
        Ok(Response::new(rpc::RemoveMemberResponse {}))
    }

    async fn promote_member(
        &self,
        request: Request<rpc::PromoteMemberRequest>,
    ) -> Result<Response<rpc::PromoteMemberResponse>, Status> {
        let member = required_target(&request.into_inner().id)?;
        self.change(MemberChange::Promote(member)).await?;
        Ok(Response::new(rpc::PromoteMemberResponse {}))
    }

    async fn demote_member(
        &self,
        request: Request<rpc::DemoteMemberRequest>,
    ) -> Result<Response<rpc::DemoteMemberResponse>, Status> {
        let member = required_target(&request.into_inner().id)?;
        self.change(MemberChange::Demote(member)).await?;
        Ok(Response::new(rpc::DemoteMemberResponse {}))
    }

    async fn decide_agents(
        &self,
        request: Request<rpc::DecideAgentsRequest>,
    ) -> Result<Response<rpc::DecideAgentsResponse>, Status> {
        let call = Call::of(&request)?;
        let decision = match request.into_inner().decision() {
            rpc::UnknownAgents::Adopt => UnknownAgents::Adopt,
            rpc::UnknownAgents::Refuse => UnknownAgents::Refuse,
            rpc::UnknownAgents::Undecided => UnknownAgents::Undecided,
        };
        let command = Command::DecideAgents(decision);
        match self.context.propose(&call, 0, command).await.map_err(Failure::from)?.outcome {
            Ok(_) => {}
            Err(Rejection::NothingToAdopt) => {
                let text = "this cluster was never restored or recovered: it knows its agents";
                return Err(Failure::failed_precondition(text).into());
            }
            Err(rejection) => return Err(Failure::rejected("failed to decide", &rejection).into()),
        }
        tracing::info!(?decision, "Decided about agents that the restored state does not know");
        Ok(Response::new(rpc::DecideAgentsResponse {}))
    }

    type SaveSnapshotStream = backup::Pieces;

    async fn save_snapshot(
        &self,
        request: Request<rpc::SaveSnapshotRequest>,
    ) -> Result<Response<backup::Pieces>, Status> {
        let call = Call::of(&request)?;
        Ok(Response::new(backup::stream(&self.context, &call).await))
    }

    async fn upgrade_status(
        &self,
        _request: Request<rpc::UpgradeStatusRequest>,
    ) -> Result<Response<rpc::UpgradeStatusResponse>, Status> {
        let store = &self.context.gate.store;
        let response = upgrading::level_to_pb(store.level_status(), &store.status());
        Ok(Response::new(response))
    }

    async fn finalize_upgrade(
        &self,
        _request: Request<rpc::FinalizeUpgradeRequest>,
    ) -> Result<Response<rpc::FinalizeUpgradeResponse>, Status> {
        let store = &self.context.gate.store;
        let raised = store.raise_level().await;
        let (from, to) = upgrading::raised(raised, || store.level_status())?;
        Ok(Response::new(rpc::FinalizeUpgradeResponse { from, to }))
    }

    async fn rotation(
        &self,
        request: Request<rpc::RotationRequest>,
    ) -> Result<Response<rpc::RotationResponse>, Status> {
        let call = Call::of(&request)?;
        let kind = rotating::kind_of(request.into_inner().kind())?;
        if !self.context.minter.policy.kinds().contains(&kind) {
            return Err(Failure::unimplemented("JWT functionality is disabled").into());
        }
        Ok(Response::new(rotating::rotation(&self.context, &call, kind).await?))
    }

    async fn check(
        &self,
        _request: Request<rpc::CheckRequest>,
    ) -> Result<Response<rpc::CheckResponse>, Status> {
        let verdicts = check::run(&self.check, &self.context).await.into_iter();
        let verdicts = verdicts.map(upgrading::verdict_to_pb).collect();
        Ok(Response::new(rpc::CheckResponse { verdicts }))
    }

    async fn rekey(
        &self,
        request: Request<rpc::RekeyRequest>,
    ) -> Result<Response<rpc::RekeyResponse>, Status> {
        let call = Call::of(&request)?;
        Ok(Response::new(rekey::rekey(&self.context, &call, &request.into_inner()).await?))
    }
}

fn refused(error: MemberChangeError) -> Failure {
    match error {
        MemberChangeError::Refused(text) => Failure::failed_precondition(text),
        MemberChangeError::Unavailable(unavailable) => unavailable.into(),
    }
}

impl ClusterService {
    async fn change(&self, change: MemberChange) -> Result<(), Failure> {
        let changed = self.context.gate.store.change_members(change).await;
        changed.map_err(refused)
    }

    fn members_of(&self, status: &MemberStatus) -> Vec<rpc::Member> {
        members(status, self.context.gate.clock.boot_time())
    }

    fn this_member(&self, status: &MemberStatus) -> rpc::ThisMember {
        use rpc::this_member::State;

        let (state, state_text) = match &status.state {
            MemberState::Forming { text } => (State::Forming, text.clone()),
            MemberState::Joining { text } if text.is_empty() => {
                (State::Joining, "asks to be taken into a cluster".to_owned())
            }
            MemberState::Joining { text } => (State::Joining, text.clone()),
            MemberState::Member => (State::Member, String::new()),
        };
        let age = self.context.gate.reads.confirmed_age();
        rpc::ThisMember {
            id: status.member_id.to_string(),
            state: state.into(),
            state_text,
            commit_index: status.commit_index,
            applied_index: status.applied_index,
            revision: self.context.views().revision().as_u64(),
            staleness_s: age.map(|age| age.as_secs_f64()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn quorum(&self, status: &MemberStatus) -> rpc::Quorum {
        let voters: Vec<&MemberView> =
            status.members.iter().filter(|member| member.role == Role::Voter).collect();
        let reachable = voters.iter().filter(|member| member.reachable == Some(true)).count();
        let (in_contact, lost_for_s, text) = match self.context.gate.store.contact() {
            Contact::InContact => (true, 0.0, String::new()),
            Contact::Lost { since, text, .. } => {
                let lost_for = self.context.gate.clock.boot_time().saturating_sub(since);
                (false, lost_for.as_secs_f64(), text)
            }
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        rpc::Quorum {
            leader_id: status.leader.map(|id| id.to_string()).unwrap_or_default(),
            term: status.term,
            voters: count(voters.len()),
            voters_reachable: count(reachable),
            needed: count(voters.len() / 2 + 1),
            in_contact,
            lost_for_s,
            text,
        }
    }

    fn warnings(&self, status: &MemberStatus, quorum: &rpc::Quorum) -> Vec<rpc::Warning> {
        let mut warnings = Vec::new();
        let mut warn = |code: &str, message: String, fix: &str| {
            warnings.push(rpc::Warning { code: code.into(), message, fix: fix.into() });
        };
        match &status.state {
            MemberState::Forming { text } => {
                let fix = "start the missing founders, or correct cluster.peers";
                warn("forming", text.clone(), fix);
            }
            MemberState::Joining { text } => warn(
                "joining",
                if text.is_empty() {
                    "this member has not been taken in yet".into()
                } else {
                    format!("this member has not been taken in yet: {text}")
                },
                "check that cluster.peers names a member of the cluster and the keys agree",
            ),
            MemberState::Member => {}
        }
        if !quorum.in_contact {
            let fix = "bring back enough voters or the network between them";
            warn("no_contact", quorum.text.clone(), fix);
        }
        for member in status.members.iter().filter(|member| member.reachable == Some(false)) {
            let text = format!("member {} at {} does not answer", member.id, member.address);
            warn("member_unreachable", text, unreachable_fix(quorum.in_contact));
        }
        if let Some(next) = &status.voters_next {
            let ids = next.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let text = format!("the voters are being changed to {ids}");
            let fix = "it is done at once; if this stays, a majority of them, or of those before, does not \
                       answer: start them";
            warn("voters_change", text, fix);
        }
        let learners = status.members.iter().filter(|member| member.role == Role::Learner);
        if let Some(FewVoters { code, text, fix }) = few_voters(quorum.voters, learners.count()) {
            warn(code, text.into(), fix);
        }
        if let Some(reason) = self.context.issuer.not_ready_reason() {
            warn("cannot_sign", reason.to_string(), &sign_fix(&reason, status));
        }
        match self.context.gate.reads.standing() {
            Standing::TooOld => {
                let fix = "bring back contact with the cluster";
                warn("stale", "agents are refused: no recent read is confirmed".into(), fix);
            }
            Standing::CutOff => {
                let text = "agents are refused: others hear a leader that this member does not";
                warn("cut_off", text.into(), "mend the link between this member and the leader");
            }
            Standing::Strict | Standing::SendingAway { .. } | Standing::RenewOnly { .. } => {}
        }
        warnings.extend(observed::warnings(status, self.context.gate.clock.boot_time()));
        warnings.extend(rekey::warnings(&self.context, status));
        warnings.extend(backup::warnings(&self.context));
        warnings.extend(endpoint_certificate::warnings(&self.context));
        warnings
    }
}

/// What to do about the reason why this member signs nothing.
fn sign_fix(reason: &IssueError, status: &MemberStatus) -> String {
    match reason {
        IssueError::NoAuthority { .. } => {
            "wait until the leader has made and published it; if it does not come, the leader's log \
             says what keeps it"
                .to_owned()
        }
        IssueError::Sealed { kek_id } if holds(status, kek_id) => format!(
            "this member holds cluster key {kek_id}, and it does not open what it sealed: \"Authority \
             key does not open\" in its log says why"
        ),
        IssueError::Sealed { kek_id } => format!(
            "put the line of cluster key {kek_id} into the cluster key file of this member and send \
             it SIGHUP"
        ),
        IssueError::Expired { .. } => {
            "bring back a leader and its quorum: it makes the next authority; if there is one, its \
             log says what keeps it"
                .to_owned()
        }
        IssueError::Skew { .. } | IssueError::ClockOff { .. } => {
            "set this machine's clock right (docs/runbooks/clock-wrong.md)".to_owned()
        }
        IssueError::Invalid(_) => {
            "replace that authority (docs/runbooks/compromised-authority.md)".to_owned()
        }
    }
}

/// Whether this member says that it holds a cluster key.
fn holds(status: &MemberStatus, key_id: &str) -> bool {
    let own = status.members.iter().find(|view| view.id == status.member_id);
    let own = own.and_then(|view| view.observed.as_ref());
    own.is_some_and(|seen| seen.said.key_ids.iter().any(|held| held == key_id))
}

/// What is said of a cluster with one voter among several members, or with two.
#[derive(Debug)]
struct FewVoters {
    code: &'static str,
    text: &'static str,
    fix: &'static str,
}

/// Whether too few vote, and how three come to: `learners` are there already.
fn few_voters(voters: u32, learners: usize) -> Option<FewVoters> {
    let (one, two) = ("one_voter", "two_voters");
    let others_wait = "one of several members votes: without it the others do nothing";
    let even = "the cluster has two voters";
    let (code, text, fix) = match (voters, learners) {
        (1, 1) => (
            one,
            others_wait,
            "add a third member, then all three vote by themselves; with two voters the loss of \
             either would stop writes",
        ),
        (1, 2..) => (
            one,
            others_wait,
            "let two of the others vote: \"spire-server cluster promote -id ID\" for each",
        ),
        (2, 0) => (two, even, "add a third member: with two the loss of either stops writes"),
        (2, _) => (two, even, "let a third member vote: \"spire-server cluster promote -id ID\""),
        (_, _) => return None,
    };
    Some(FewVoters { code, text, fix })
}

/// What to do about a member that does not answer. Without a quorum nobody can be removed; to recover is
/// for a quorum that is gone, not for one that only this member does not hear.
fn unreachable_fix(in_contact: bool) -> &'static str {
    match in_contact {
        true => "start it, or remove it with \"spire-server cluster remove\"",
        false => {
            "start it, or mend the network; only if most voters are lost for good: \
             \"spire-server cluster recover\" (docs/runbooks/lost-quorum.md)"
        }
    }
}

fn members(status: &MemberStatus, now: Duration) -> Vec<rpc::Member> {
    let mut members: Vec<&MemberView> = status.members.iter().collect();
    members.sort_by_key(|member| member.id);
    members.into_iter().map(|view| member(status, view, now)).collect()
}

fn member(status: &MemberStatus, view: &MemberView, now: Duration) -> rpc::Member {
    use rpc::member::{Reachability, Role as PbRole};

    let leader = status.leader == Some(view.id);
    let this_member = view.id == status.member_id;
    let reachability = match view.reachable {
        Some(true) => Reachability::Reachable,
        Some(false) => Reachability::Unreachable,
        None => Reachability::Unknown,
    };
    let host = view.address.rsplit_once(':').map_or(view.address.as_str(), |(host, _)| host);
    let name = if view.name.is_empty() { host } else { view.name.as_str() };
    let role = match view.role {
        Role::Voter => PbRole::Voter,
        Role::Learner => PbRole::Learner,
    };
    let mut member = rpc::Member {
        id: view.id.to_string(),
        name: name.to_owned(),
        address: view.address.clone(),
        role: role.into(),
        leader,
        this_member,
        reachability: reachability.into(),
        applied_lag: view.lag,
        version: view.version.clone().unwrap_or_default(),
        ..rpc::Member::default()
    };
    observed::fill(&mut member, view, now);
    member
}

pub(super) fn authority(authority: &Authority) -> rpc::Authority {
    use rpc::authority::{Kind, Status};

    let kind = match authority.kind {
        AuthorityKind::X509 => Kind::X509,
        AuthorityKind::Jwt => Kind::Jwt,
        AuthorityKind::Wit => Kind::Wit,
    };
    let status = match authority.status {
        AuthorityStatus::Prepared => Status::Prepared,
        AuthorityStatus::Active => Status::Active,
        AuthorityStatus::Old => Status::Old,
        AuthorityStatus::Revoked => Status::Revoked,
    };
    rpc::Authority {
        kind: kind.into(),
        id: authority.id.as_str().to_owned(),
        status: status.into(),
        issued_at: authority.issued_at.unix_s(),
        not_after: authority.not_after.unix_s(),
        tainted: authority.tainted,
    }
}

fn restored(restored: Restored) -> rpc::Restored {
    let unknown_agents = match restored.unknown_agents {
        UnknownAgents::Undecided => rpc::UnknownAgents::Undecided,
        UnknownAgents::Adopt => rpc::UnknownAgents::Adopt,
        UnknownAgents::Refuse => rpc::UnknownAgents::Refuse,
    };
    rpc::Restored {
        lost_from: restored.lost_from.unix_s(),
        at: restored.at.unix_s(),
        unknown_agents: unknown_agents.into(),
    }
}

fn required_target(text: &str) -> Result<MemberId, Failure> {
    target(text)?.ok_or_else(|| Failure::invalid("a member ID is required"))
}

fn target(text: &str) -> Result<Option<MemberId>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    let id =
        id.ok_or_else(|| Failure::invalid(format!("{text:?} is no member id: 16 hex digits")))?;
    Ok(Some(MemberId(id)))
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::testing::member_status;
    use steeple_raft_store::{Observation, Observed};

    use super::*;

    fn view(id: u64, role: Role, reachable: Option<bool>) -> MemberView {
        let address = format!("server-{id}.peers:8082");
        let (name, version) = (String::new(), (id != 3).then(|| format!("0.{id}")));
        let (lag, observed) = (None, None);
        MemberView { id: MemberId(id), name, address, role, reachable, version, lag, observed }
    }

    fn status(this: u64, leader: Option<u64>) -> MemberStatus {
        let members = vec![
            view(3, Role::Learner, None),
            view(1, Role::Voter, Some(true)),
            view(2, Role::Voter, Some(false)),
        ];
        MemberStatus {
            member_id: MemberId(this),
            leader: leader.map(MemberId),
            ..member_status(members)
        }
    }

    #[test]
    fn members_are_sorted_and_only_those_that_were_asked_are_called_unreachable() {
        use rpc::member::Reachability::{Reachable, Unknown, Unreachable};

        for leader in [Some(1), Some(2), None] {
            let members = members(&status(1, leader), Duration::ZERO).into_iter();
            let seen: Vec<_> = members.map(|m| (m.name, m.reachability)).collect();
            let expected = [(1, Reachable), (2, Unreachable), (3, Unknown)]
                .map(|(id, reach)| (format!("server-{id}.peers"), i32::from(reach)));
            assert_eq!(seen, expected, "leader {leader:?}");
        }
    }

    #[test]
    fn without_a_quorum_nobody_is_told_to_remove_a_member() {
        assert!(unreachable_fix(true).contains("spire-server cluster remove"));
        let fix = unreachable_fix(false);
        assert!(fix.contains("docs/runbooks/lost-quorum.md") && !fix.contains("remove"), "{fix}");
    }

    #[test]
    fn the_fix_of_a_member_that_cannot_sign_fits_the_reason_alone() {
        let mut own = view(1, Role::Voter, Some(true));
        let said = Observation { key_ids: vec!["k1".to_owned()], ..Observation::default() };
        own.observed = Some(Observed { said, ..Observed::default() });
        let status = MemberStatus { member_id: MemberId(1), ..member_status(vec![own]) };
        let sealed = |kek_id: &str| IssueError::Sealed { kek_id: kek_id.to_owned() };
        let limit = Duration::from_secs(30);
        let missing = || IssueError::NoAuthority { text: "no active JWT authority".to_owned() };
        let table = [
            (sealed("k2"), "put the line of cluster key k2 into the cluster key file"),
            (sealed("k1"), "this member holds cluster key k1, and it does not open"),
            (IssueError::ClockOff { ahead_ms: 42_000, limit }, "set this machine's clock right ("),
            (IssueError::Skew { limit_ms: 30_000 }, "set this machine's clock right ("),
            (missing(), "wait until the leader has made and published it"),
            (IssueError::Expired { kind: "JWT" }, "bring back a leader and its quorum"),
            (IssueError::Invalid("bad".to_owned()), "replace that authority"),
        ];
        for (reason, expected) in table {
            let fix = sign_fix(&reason, &status);
            assert!(fix.starts_with(expected), "{reason:?}: {fix}");
            let of_clock = matches!(reason, IssueError::ClockOff { .. } | IssueError::Skew { .. });
            let of_key = matches!(reason, IssueError::Sealed { .. });
            assert_eq!(fix.contains("clock"), of_clock, "{reason:?}: {fix}");
            assert_eq!(fix.contains("cluster key"), of_key, "{reason:?}: {fix}");
        }
    }

    #[test]
    fn the_way_to_three_voters_begins_with_the_members_that_are_there() {
        let table = [
            (0, 0, None),
            (1, 0, None),
            (1, 1, Some(("one_voter", "add a third member, then all three vote"))),
            (
                1,
                2,
                Some(("one_voter", "let two of the others vote: \"spire-server cluster promote")),
            ),
            (1, 4, Some(("one_voter", "let two of the others vote"))),
            (2, 0, Some(("two_voters", "add a third member"))),
            (2, 1, Some(("two_voters", "let a third member vote: \"spire-server cluster promote"))),
            (3, 2, None),
        ];
        for (voters, learners, expected) in table {
            let found = few_voters(voters, learners);
            let case = format!("{voters} and {learners}: {found:?}");
            assert_eq!(
                found.as_ref().map(|one| one.code),
                expected.map(|(code, _)| code),
                "{case}"
            );
            let fix = expected.map_or("", |(_, fix)| fix);
            assert!(found.is_none_or(|one| one.fix.starts_with(fix)), "{case}");
        }
    }

    #[test]
    fn a_members_version_is_what_it_said_or_nothing() {
        let members = members(&status(1, Some(1)), Duration::ZERO);
        let versions: Vec<&str> = members.iter().map(|m| m.version.as_str()).collect();
        assert_eq!(versions, ["0.1", "0.2", ""]);
    }

    #[test]
    fn a_target_is_sixteen_hex_digits_or_none() {
        assert_eq!(target(""), Ok(None));
        assert_eq!(target("00000000000000ab"), Ok(Some(MemberId(0xab))));
        for bad in ["ab", "zz000000000000ab", "+0000000000000ab0"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
