//! First start: asks the other founders, does what `formation` says, until a cluster is formed or met.
//!
//! Owns the rounds, their pace and their log lines, and the order "durable first, then tell".

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tonic::Status;

use crate::cluster::formation::{Formation, FoundingSet, Introduction, Standing, Verdict};
use crate::cluster::life::{Life, REMIND_EVERY, has_started};
use crate::cluster::{joining, records};
use crate::command::{Command, InitCluster};
use crate::error::{ProposeError, RunError};
use crate::ids::{ClusterId, MemberId};
use crate::raft::PeerNode;
use crate::status::MemberState;

/// Between rounds: founders start within seconds of each other, and one that waits costs nothing.
const ROUND_PAUSE: Duration = Duration::from_millis(300);

/// Between looks at consensus once it is started: an election takes a few hundred milliseconds.
const COMMIT_PAUSE: Duration = Duration::from_millis(20);

/// The cluster is named once every founder has its first entry: so a second cluster can only be formed
/// if every folder was emptied. But a founder that dies in between holds it up no longer than this.
const ALL_STARTED_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs until this member belongs to a formed cluster.
///
/// # Errors
///
/// If the disk or consensus fails, or this founder must start over.
pub(crate) async fn run(life: &Life) -> Result<(), RunError> {
    let mut reminder = Reminder::default();
    loop {
        note_start(life).await?;
        let started = matches!(standing(life).await, Some(Standing::Initialised(_)));
        if started && wait_for_commit(life).await? {
            return settle(life).await;
        }
        let asked_as = standing(life).await.unwrap_or_default();
        let answers = ask(life).await;
        match decide(life, &asked_as, &answers).await? {
            Decided::Wait(text) => reminder.say(life, text),
            Decided::Offered(set) => offer(life, set).await?,
            Decided::Adopted => continue,
            Decided::Join(address) => {
                *life.formation.lock().await = None;
                return joining::run_at(life, Some(address)).await;
            }
            Decided::StartOver => return Err(start_over(life)),
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// What a round came to, after what had to be done at once was done.
enum Decided {
    Wait(String),
    Offered(FoundingSet),
    Adopted,
    Join(String),
    StartOver,
}

/// Answers a coordinator's offer.
///
/// # Errors
///
/// The refusal, in words for the coordinator's log.
pub(crate) async fn consider(life: &Life, from: MemberId, set: FoundingSet) -> Result<(), Status> {
    let mut guard = life.formation.lock().await;
    let Some(formation) = guard.as_mut() else {
        return Err(Status::failed_precondition("this member only joins an existing cluster"));
    };
    let internal = |error: RunError| Status::internal(error.to_string());
    if has_started(&life.core).await.map_err(internal)? {
        formation.started();
    }
    formation.consider(from, &set).map_err(Status::failed_precondition)?;
    adopt(life, formation, set).await.map_err(internal)
}

/// Makes a set this member's own: durable first.
async fn adopt(life: &Life, formation: &mut Formation, set: FoundingSet) -> Result<(), RunError> {
    if *formation.standing() != Standing::Adopted(set.clone()) {
        let kept = set.clone();
        life.records(move |local| records::write_set(local, &kept)).await?;
        let cluster = set.cluster_id(formation.settings());
        let entered = life.network.enter(cluster);
        entered.map_err(|error| RunError::Formation(crate::net::chain(&error)))?;
        tracing::info!(%cluster, founders = set.founders.len(), "founding set adopted");
    }
    for (member, address) in &set.founders {
        life.network.addresses.commit(*member, address);
    }
    formation.adopted(set);
    Ok(())
}

async fn standing(life: &Life) -> Option<Standing> {
    life.formation.lock().await.as_ref().map(|formation| formation.standing().clone())
}

async fn note_start(life: &Life) -> Result<(), RunError> {
    let mut formation = life.formation.lock().await;
    if has_started(&life.core).await?
        && let Some(formation) = formation.as_mut()
    {
        formation.started();
    }
    Ok(())
}

type Answers = BTreeMap<String, Result<Introduction, String>>;

async fn ask(life: &Life) -> Answers {
    let others = match &*life.formation.lock().await {
        Some(formation) => formation.others(),
        None => Vec::new(),
    };
    let introduction = life.introduction(None).await;
    let asked = others.into_iter().map(async |address| {
        let answer = match life.network.hello(&address, introduction.clone()).await {
            Ok(answer) => records::introduction_from_pb(answer),
            Err(error) => Err(error.to_string()),
        };
        (address, answer)
    });
    join_all(asked).await.into_iter().collect()
}

async fn decide(life: &Life, asked_as: &Standing, answers: &Answers) -> Result<Decided, RunError> {
    let mut guard = life.formation.lock().await;
    let Some(formation) = guard.as_mut() else {
        return Ok(Decided::Wait("joining".to_owned()));
    };
    // Consensus may have begun since the round did: then there is nothing to adopt any more.
    if has_started(&life.core).await? {
        formation.started();
    }
    // Index 0 holds the membership that it was initialised with.
    let bare = life.metrics().last_log_index == Some(0);
    Ok(match formation.conclude(asked_as, bare, answers) {
        Verdict::Wait(text) => Decided::Wait(text),
        Verdict::Offer(set) => {
            adopt(life, formation, set.clone()).await?;
            Decided::Offered(set)
        }
        Verdict::Return(set) => {
            adopt(life, formation, set).await?;
            Decided::Adopted
        }
        Verdict::Join(address) => Decided::Join(address),
        Verdict::StartOver => Decided::StartOver,
    })
}

/// Offers an adopted set to the others and initialises consensus if all take it.
async fn offer(life: &Life, set: FoundingSet) -> Result<(), RunError> {
    let others = match &*life.formation.lock().await {
        Some(formation) => formation.others(),
        None => return Ok(()),
    };
    let wire = records::set_to_pb(&set);
    let offered = others.into_iter().map(async |address| {
        let taken = life.network.adopt(&address, wire.clone()).await;
        (address, taken)
    });
    let offered = join_all(offered).await;
    let mut guard = life.formation.lock().await;
    let Some(formation) = guard.as_mut() else { return Ok(()) };
    for (address, taken) in offered {
        match taken {
            Ok(()) => formation.acknowledged(&address, &set),
            Err(error) => tracing::info!("founder did not adopt the founding set: {error}"),
        }
    }
    let Some(set) = formation.ready() else { return Ok(()) };
    // Invariant: the lock is held from the last acknowledgement until consensus has the set.
    let members: BTreeMap<u64, PeerNode> = set
        .founders
        .iter()
        .map(|(id, address)| (id.0, PeerNode { address: address.clone(), ..PeerNode::default() }))
        .collect();
    let initialised = life.core.raft.initialize(members).await;
    initialised.map_err(|error| RunError::Formation(format!("initialise consensus: {error}")))?;
    formation.started();
    Ok(())
}

/// Waits a little for the cluster's first command; proposes it if this member leads.
async fn wait_for_commit(life: &Life) -> Result<bool, RunError> {
    let until = Instant::now() + ROUND_PAUSE * 4;
    while !life.is_formed() {
        if Instant::now() >= until {
            return Ok(false);
        }
        name_cluster(life).await?;
        tokio::time::sleep(COMMIT_PAUSE).await;
    }
    Ok(true)
}

async fn name_cluster(life: &Life) -> Result<(), RunError> {
    let leadership = life.core.leadership_now();
    if !leadership.is_self || !all_started(life) {
        return Ok(());
    }
    let Some(Standing::Initialised(set)) = standing(life).await else { return Ok(()) };
    let Some(feature_level) = common_level(life, &set).await else { return Ok(()) };
    let config = &life.core.config;
    let command = Command::InitCluster(InitCluster {
        cluster_id: cluster_of(life, &set).await,
        name: config.cluster_name.clone(),
        trust_domain: config.trust_domain.clone(),
        feature_level,
    });
    match life.core.propose_duty(command, leadership.term).await {
        // A rejection: an earlier leader has named it.
        Ok(_)
        | Err(
            ProposeError::NotLeader
            | ProposeError::Unavailable(_)
            | ProposeError::Indeterminate { .. }
            | ProposeError::Overloaded,
        ) => Ok(()),
        Err(error @ ProposeError::TooLarge { .. }) => Err(RunError::Formation(error.to_string())),
    }
}

/// The highest feature level that all founders support; `None`: one does not answer, ask again. One that
/// was silent for too long may be of the first build.
async fn common_level(life: &Life, set: &FoundingSet) -> Option<u32> {
    let own = life.core.config.tuning.feature_level_max;
    let introduction = life.introduction(None).await;
    let others = set.founders.iter().filter(|(member, _)| **member != life.me());
    let levels = others.map(async |(_, address)| {
        let answer = life.network.hello(address, introduction.clone()).await;
        answer.map(|said| said.feature_level_max.max(1))
    });
    let waited = life.core.clock.boot_time().saturating_sub(life.leading_since());
    let or_first =
        |level: Result<u32, _>| level.ok().or_else(|| (waited >= ALL_STARTED_TIMEOUT).then_some(1));
    join_all(levels)
        .await
        .into_iter()
        .try_fold(own, |lowest, level| Some(lowest.min(or_first(level)?)))
}

async fn cluster_of(life: &Life, set: &FoundingSet) -> ClusterId {
    match &*life.formation.lock().await {
        Some(formation) => set.cluster_id(formation.settings()),
        None => life.network.cluster_id().unwrap_or_default(),
    }
}

/// Whether every founder has the first entry, as far as this leader knows, or was given time enough.
fn all_started(life: &Life) -> bool {
    let metrics = life.metrics();
    let Some(replication) = &metrics.replication else { return false };
    let all = metrics
        .membership_config
        .voter_ids()
        .all(|id| id == life.me().0 || replication.get(&id).is_some_and(Option::is_some));
    all || life.core.clock.boot_time().saturating_sub(life.leading_since()) >= ALL_STARTED_TIMEOUT
}

/// The cluster is formed: from now on its id is this member's.
async fn settle(life: &Life) -> Result<(), RunError> {
    let failed = |text: String| RunError::Formation(text);
    let cluster = life.core.cluster_id().ok_or_else(|| failed("cluster has no id".to_owned()))?;
    life.records(move |local| local.adopt_cluster(cluster)).await?;
    life.records(records::forget_set).await?;
    life.network.enter(cluster).map_err(|error| failed(crate::net::chain(&error)))?;
    *life.formation.lock().await = None;
    life.core.state.send_replace(MemberState::Member);
    let members = life.metrics().membership_config.nodes().count();
    tracing::info!(cluster_id = %cluster, member_id = %life.me(), members, "Cluster formed");
    Ok(())
}

/// Puts the folder aside: the next start finds none and is a new member's.
fn start_over(life: &Life) -> RunError {
    let folder = &life.core.config.data_dir;
    let unix_s = life.core.clock.now().unix_s();
    let mut aside = folder.clone().into_os_string();
    aside.push(format!(".abandoned-{unix_s}"));
    let done = match std::fs::rename(folder, &aside) {
        Ok(()) => "its state was put aside; start again and it forms anew".to_owned(),
        Err(error) => format!("empty {} and start again ({error})", folder.display()),
    };
    RunError::Formation(format!(
        "this member began a cluster whose other founders are gone: {done}"
    ))
}

/// Says what a member waits for: in its state at once, in the log now and then.
#[derive(Debug, Default)]
pub(crate) struct Reminder {
    said: Option<(String, Instant)>,
}

impl Reminder {
    pub(crate) fn say(&mut self, life: &Life, text: String) {
        let due = match &self.said {
            Some((said, at)) => *said != text || at.elapsed() >= REMIND_EVERY,
            None => true,
        };
        life.core.state.send_replace(MemberState::Forming { text: text.clone() });
        if due {
            tracing::info!("{text}");
            self.said = Some((text, Instant::now()));
        }
    }
}
