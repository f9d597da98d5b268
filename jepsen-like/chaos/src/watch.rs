//! Looks at every member all the time: who leads, in which term, who has ended by itself.
//!
//! Owns what the timeline shows of leaders, and the mark `election`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steeple_api::pb::cluster::v1 as cluster;
use steeple_testkit::client::unix_channel;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::record::Recorder;

/// Between two looks: faults are to hit the leader of now.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a look may take: a member that stands still is not waited for.
const LOOK_MAX: Duration = Duration::from_millis(400);

/// What a member says of itself and of the cluster.
pub(crate) type Status = cluster::StatusResponse;

/// Channels to the admin sockets, for looking. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Eyes {
    channels: Vec<Channel>,
    seen: Arc<Mutex<Seen>>,
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The leader's place, as the newest term has it.
    pub(crate) leader: Option<usize>,
    /// The newest epoch and term: a restore begins an epoch, whose terms may be lower.
    pub(crate) term: (u32, u64),
    /// Who led from when on, in nanoseconds of the run.
    pub(crate) leaders: Vec<(u64, Option<usize>)>,
    /// Terms in which someone led, after the first.
    pub(crate) elections: u64,
}

impl Eyes {
    /// Eyes on the members with these admin sockets.
    pub(crate) fn open(sockets: &[std::path::PathBuf]) -> Self {
        let channels = sockets.iter().map(|socket| unix_channel(socket)).collect();
        Self { channels, seen: Arc::default() }
    }

    /// What every member says now; `None` for one that does not answer.
    pub(crate) async fn look(&self) -> Vec<Option<Status>> {
        let mut tasks = Vec::new();
        for channel in &self.channels {
            let mut client = cluster::cluster_client::ClusterClient::new(channel.clone());
            tasks.push(tokio::spawn(async move {
                let status = client.status(cluster::StatusRequest {});
                let status = tokio::time::timeout(LOOK_MAX, status).await.ok()?.ok()?;
                Some(status.into_inner())
            }));
        }
        let mut statuses = Vec::new();
        for task in tasks {
            statuses.push(task.await.unwrap_or(None));
        }
        statuses
    }

    /// For commands to a member.
    pub(crate) fn commands(
        &self,
        at: usize,
    ) -> Option<cluster::cluster_client::ClusterClient<Channel>> {
        self.channels.get(at).cloned().map(cluster::cluster_client::ClusterClient::new)
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Looks until told to stop.
    pub(crate) async fn keep_looking(self, recorder: Recorder, mut stop: watch::Receiver<bool>) {
        loop {
            let statuses = self.look().await;
            self.note(&statuses, &recorder);
            tokio::select! {
                _stopped = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn note(&self, statuses: &[Option<Status>], recorder: &Recorder) {
        let (term, leader) = leader_of(statuses);
        let is_new = {
            let mut seen = self.lock();
            if term < seen.term {
                return;
            }
            let is_new = leader.is_some() && term > seen.term && seen.term.1 > 0;
            if leader.is_some() {
                seen.term = term;
            }
            seen.elections += u64::from(is_new);
            if seen.leader != leader || seen.leaders.is_empty() {
                seen.leader = leader;
                seen.leaders.push((recorder.now_ns(), leader));
            }
            is_new
        };
        if is_new {
            recorder.mark("election");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest epoch and term that any member knows, and the place of its leader.
fn leader_of(statuses: &[Option<Status>]) -> ((u32, u64), Option<usize>) {
    let known = statuses.iter().flatten();
    let known = known.filter_map(|status| Some((status.epoch, status.quorum.as_ref()?)));
    let newest =
        known.max_by_key(|(epoch, quorum)| (*epoch, quorum.term, !quorum.leader_id.is_empty()));
    let Some((epoch, newest)) = newest else { return ((0, 0), None) };
    let is_leader = |status: &Option<Status>| {
        let own = status.as_ref().and_then(|status| status.this_member.as_ref());
        own.is_some_and(|own| own.id == newest.leader_id)
    };
    ((epoch, newest.term), statuses.iter().position(is_leader))
}

/// What all members must show alike.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    leader: String,
    term: u64,
    roles: Vec<(String, i32)>,
    revision: u64,
}

/// Why the members are not one cluster, and in one state if nothing is being written; `None` when they
/// are.
pub(crate) fn apart(statuses: &[Option<Status>], is_quiet: bool) -> Option<String> {
    let mut first: Option<Shown> = None;
    for (at, status) in statuses.iter().enumerate() {
        let Some(status) = status else { return Some(format!("m{at} does not answer")) };
        let (Some(own), Some(quorum)) = (&status.this_member, &status.quorum) else {
            return Some(format!("m{at} does not say what it is"));
        };
        if own.state() != cluster::this_member::State::Member {
            return Some(format!("m{at} is not a member yet: {}", own.state_text));
        }
        if !quorum.in_contact {
            return Some(format!("m{at} is not in contact: {}", quorum.text));
        }
        if quorum.leader_id.is_empty() {
            return Some(format!("m{at} knows no leader"));
        }
        if is_quiet && own.applied_index != own.commit_index {
            return Some(format!(
                "m{at} has applied {} of {}",
                own.applied_index, own.commit_index
            ));
        }
        let shown = Shown {
            leader: quorum.leader_id.clone(),
            term: quorum.term,
            roles: status.members.iter().map(|row| (row.id.clone(), row.role)).collect(),
            revision: if is_quiet { own.revision } else { 0 },
        };
        let known = first.get_or_insert_with(|| shown.clone());
        if *known != shown {
            return Some(format!("m{at} shows {shown:?}, m0 shows {known:?}"));
        }
        if shown.roles.len() != statuses.len() {
            return Some(format!("{} members, {} expected", shown.roles.len(), statuses.len()));
        }
        let voter = cluster::member::Role::Voter as i32;
        if shown.roles.iter().any(|(_, role)| *role != voter) {
            return Some("someone has no vote yet".to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_of_a_newer_epoch_counts_whatever_the_terms_are() {
        let says = |epoch: u32, term: u64, id: &str, leader: &str| {
            Some(Status {
                epoch,
                this_member: Some(cluster::ThisMember { id: id.to_owned(), ..Default::default() }),
                quorum: Some(cluster::Quorum {
                    term,
                    leader_id: leader.to_owned(),
                    ..Default::default()
                }),
                ..Status::default()
            })
        };
        let late = says(1, 40, "late", "late");
        let statuses = [says(2, 5, "new", "new"), late.clone(), None];
        assert_eq!(leader_of(&statuses), ((2, 5), Some(0)));
        assert_eq!(leader_of(&[late]), ((1, 40), Some(0)));
        assert_eq!(leader_of(&[None]), ((0, 0), None));
    }
}
