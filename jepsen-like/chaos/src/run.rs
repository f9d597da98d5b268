//! One run: a cluster, clients, faults, healing, last reads, verdict, folder.
//!
//! Owns the order. An error in any step makes the run unacceptable; what was recorded until then is
//! checked all the same.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use steeple_checker::history::ReadLimits;
use steeple_checker::{History, Report as Checked, Requirements, Settings, check};
use steeple_testkit::Cluster;
use steeple_testkit::client::unix_channel;
use steeple_testkit::process::wait_for;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::agents::seen::now_ms;
use crate::agents::workload::Audiences;
use crate::agents::{Crew, Notebook, crew};
use crate::clients::ask::NewEntry;
use crate::clients::workload::Workload;
use crate::clients::{Ask, Client};
use crate::issuers::{self, Issuers};
use crate::journal::Journal;
use crate::nemesis::{self, Stage};
use crate::options::{Nemesis, Options};
use crate::plan::Plan;
use crate::record::Recorder;
use crate::releases;
use crate::report::{FINAL_PHASE, Facts, LOAD, Line, Word, judge};
use crate::suspend;
use crate::timeline;
use crate::watch::{Eyes, apart};
use crate::world::{World, lacks};
use steeple_spiffe_core::dice::Dice;

/// How long a cluster of unoptimised programs may take to form.
const FORM_MAX: Duration = Duration::from_secs(60);

/// How long it may take to be one cluster in one state again: the promise.
const HEAL_MAX: Duration = Duration::from_secs(10);

/// Calls that must have been answered before the first fault.
const WARM_UP_CALLS: u64 = 50;

/// Steps of the checker's search for one row.
const STEPS_MAX: u64 = 3_000_000;

/// Runs a seed. The folder is made anew.
pub(crate) async fn run(options: &Options, seed: u64) -> Result<Line> {
    let folder = make_folder(&options.out, seed)?;
    let recorder = Recorder::create(&folder.join("history.jsonl"), seed)?;
    let mut facts = Facts::new(options, seed, folder.clone());
    facts.harness = options.nemeses.iter().filter_map(|nemesis| lacks(*nemesis)).collect();
    let mut world = None;
    if facts.harness.is_empty() {
        match prepare(&folder, options, seed).await {
            Ok((prepared, older)) => {
                let prepared = Arc::new(Mutex::new(prepared));
                world = Some(Arc::clone(&prepared));
                let ran = perform(options, seed, prepared, older, &recorder, &mut facts).await;
                facts.harness.extend(ran.err().map(|error| format!("{error:#}")));
            }
            Err(error) => facts.harness.push(format!("{error:#}")),
        }
    }
    match recorder.finish() {
        Ok(told) => facts.told = told,
        Err(error) => facts.harness.push(format!("{error:#}")),
    }
    if let Some(world) = &world {
        world.lock().await.end_all()?;
    }
    match examine(&folder, options) {
        Ok(checked) => facts.checked = Some(checked),
        Err(error) => facts.harness.push(format!("{error:#}")),
    }
    facts.read_logs(options.members);
    let mut line = judge(&facts);
    if let Some(world) = &world {
        // What a failed run left on its disks may be what explains it.
        if let Err(error) = world.lock().await.leave_data(line.verdict != Word::Pass) {
            line.why.push(format!("the data was not kept: {error:#}"));
        }
    }
    let verdict = serde_json::to_string_pretty(&line).context("encode the verdict")?;
    std::fs::write(folder.join("verdict.json"), verdict).context("write the verdict")?;
    std::fs::write(folder.join("timeline.html"), timeline::page(&facts, &line))
        .context("write the timeline")?;
    Ok(line)
}

/// The world, and the feature level of the older release if the run has two.
async fn prepare(folder: &Path, options: &Options, seed: u64) -> Result<(World, Option<u32>)> {
    let older = match options.nemeses.contains(&Nemesis::Upgrade) {
        true => Some(releases::older(folder).await?),
        false => None,
    };
    Ok((World::prepare(folder, options, seed, older)?, older))
}

/// A folder of its own for a run of a seed.
pub(crate) fn make_folder(out: &Path, seed: u64) -> Result<PathBuf> {
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    for number in 0..10_000 {
        let folder = out.join(format!("run-{seed}-{number}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return std::path::absolute(&folder).context("name the run's folder"),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context("create the run's folder"),
        }
    }
    anyhow::bail!("{} is full of runs of seed {seed}", out.display())
}

/// Ends the members of a cluster and leaves their logs.
pub(crate) fn remove_data(cluster: &mut Cluster, members: usize) -> Result<()> {
    for at in 0..members {
        if cluster.member(at)?.is_started() {
            cluster.kill_member(at)?;
        }
        let data = cluster.member(at)?.data();
        std::fs::remove_dir_all(&data).context("remove a data folder")?;
    }
    Ok(())
}

async fn perform(
    options: &Options,
    seed: u64,
    world: Arc<Mutex<World>>,
    older: Option<u32>,
    recorder: &Recorder,
    facts: &mut Facts,
) -> Result<()> {
    let (eyes, channels) = form(options, &world, &facts.folder).await?;
    let mut crew = begin_agents(options, seed, &world, &channels, recorder, facts).await?;
    let journal = Journal::create(&facts.folder.join("faults.jsonl"), recorder.clone())?;
    let issuers = begin_issuers(options, seed, &world, &channels, recorder).await?;
    // It begins with the older release everywhere: the first change is to the newer.
    let (unexplained, to_older) = (Arc::default(), Arc::new(Mutex::new(older.is_some())));
    let workload = Workload::new(seed);
    let hand = nemesis_client(options, seed, &channels, recorder)?;
    let stage = Stage {
        world,
        eyes: eyes.clone(),
        journal: journal.clone(),
        unexplained,
        to_older,
        workload: workload.clone(),
        hand: Arc::new(Mutex::new(hand)),
        recorder: recorder.clone(),
        damaged: Arc::default(),
        noted: Arc::default(),
    };
    let (stop_looking, looking) = watch::channel(false);
    let looks = tokio::spawn(eyes.clone().keep_looking(recorder.clone(), looking));
    recorder.mark(LOAD);
    let crowd = Crowd::start(options, seed, &workload, &channels, recorder)?;
    let disturbed = disturb(options, seed, &stage, recorder).await;
    if let Some(issuers) = issuers {
        facts.issued = issuers.stop().await?;
    }
    let healed = match disturbed {
        Ok(()) => heal(&stage, crowd, &mut facts.heal_ms).await,
        Err(error) => crowd.stop().await.and(Err(error)),
    };
    if let Some(older) = older.filter(|_| healed.is_ok() && facts.heal_ms.is_some()) {
        let raised = stage.finish_upgrade(older).await;
        stage.unexplained.lock().await.extend(raised.err().map(|error| format!("{error:#}")));
    }
    let ended = if healed.is_ok() && facts.heal_ms.is_some() {
        recorder.mark(FINAL_PHASE);
        let said = last_words(options, seed, &channels, recorder).await;
        let synced = last_identities(options, seed, &channels, recorder, &crew).await;
        said.and(synced.map(|why_not| facts.story.wrong.extend(why_not)))
    } else {
        healed
    };
    let told = match &mut crew {
        Some(crew) => end_agents(crew, &stage, recorder, facts).await,
        None => Ok(()),
    };
    stop_looking.send_replace(true);
    looks.await.context("look at the members")?;
    let found = stage.restart_ended(&[]).await;
    facts.faults = journal.entries();
    facts.seen = eyes.seen();
    facts.unexplained = stage.unexplained.lock().await.clone();
    facts.noted = stage.noted.lock().await.clone();
    ended.and(found).and(told)
}

/// Starts all members and waits until they are one cluster.
async fn form(
    options: &Options,
    world: &Mutex<World>,
    folder: &Path,
) -> Result<(Eyes, Vec<Channel>)> {
    let sockets = {
        let mut world = world.lock().await;
        for at in 0..options.members {
            world.start(at)?;
        }
        world.sockets()
    };
    let eyes = Eyes::open(&sockets);
    wait_until_one(&eyes, FORM_MAX, true).await.context("the cluster does not form")?;
    if let Some(mutant) = &options.mutant {
        let log = std::fs::read_to_string(folder.join("server-0/server.log"));
        let said = log.is_ok_and(|log| log.contains(&format!("deliberate bug {mutant} is on")));
        ensure!(said, "spire-server was built without deliberate bugs");
    }
    let channels = sockets.iter().map(|socket| unix_channel(socket)).collect();
    Ok((eyes, channels))
}

/// Entries for agents, as a client makes them, and the agents; none if the run has none.
async fn begin_agents(
    options: &Options,
    seed: u64,
    world: &Mutex<World>,
    channels: &[Channel],
    recorder: &Recorder,
    facts: &mut Facts,
) -> Result<Option<Crew>> {
    let agents = options.agents_of_a_run();
    facts.story.agents = agents;
    if agents == 0 {
        return Ok(None);
    }
    let mut client = agents_client(options, Dice::new(seed, 2_000), channels, recorder)?;
    for entry in crew::entries(agents) {
        let made = client.ask(&Ask::Create(vec![entry])).await;
        made.context("no entry for an agent was made")?;
    }
    let notes = Notebook::create(&facts.folder.join("agents.jsonl"), recorder.clone())?;
    let world = world.lock().await;
    let sites = world.sites()?;
    facts.story.stock = sites.iter().filter(|site| site.stock.is_some()).count();
    // The leader makes the first authorities a moment after the cluster has formed.
    let bundle = wait_for("a trust bundle", FORM_MAX, async || world.bundle()).await?;
    let audiences = if options.is_planned() { Audiences::Fresh } else { Audiences::Same };
    let crew = Crew::start(&sites, world.machines(), &bundle, notes, audiences).await;
    Ok(Some(crew.context("start the agents")?))
}

/// Issuance beside the clients, if the run is of planned work alone.
async fn begin_issuers(
    options: &Options,
    seed: u64,
    world: &Mutex<World>,
    channels: &[Channel],
    recorder: &Recorder,
) -> Result<Option<Issuers>> {
    if !options.is_planned() {
        return Ok(None);
    }
    let mut client = agents_client(options, Dice::new(seed, 2_002), channels, recorder)?;
    let token = format!("issuer-{seed}");
    for ask in [Ask::Token(token.clone()), Ask::Create(vec![issuers::entry(&token)])] {
        client.ask(&ask).await.context("nothing was made for an issuer")?;
    }
    let world = world.lock().await;
    let (sockets, ports) = (world.sockets(), world.ports());
    let targets = issuers::Targets { sockets, ports, token, client: client.number };
    Ok(Some(Issuers::start(targets, recorder.clone())?))
}

/// A client whose number no other has. Request ids are drawn: each time with other dice.
fn agents_client(
    options: &Options,
    dice: Dice,
    channels: &[Channel],
    recorder: &Recorder,
) -> Result<Client> {
    let number = options.clients + channels.len() as u64;
    Client::new(number, dice, channels.to_vec(), recorder.clone())
}

/// A client of the faults' own.
fn nemesis_client(
    options: &Options,
    seed: u64,
    channels: &[Channel],
    recorder: &Recorder,
) -> Result<Client> {
    let number = options.clients + channels.len() as u64 + 1;
    Client::new(number, Dice::new(seed, 2_003), channels.to_vec(), recorder.clone())
}

/// An identity for each agent that none has had, which must reach its workloads. Returns why not.
async fn last_identities(
    options: &Options,
    seed: u64,
    channels: &[Channel],
    recorder: &Recorder,
    crew: &Option<Crew>,
) -> Result<Option<String>> {
    let Some(crew) = crew else { return Ok(None) };
    let mut client = agents_client(options, Dice::new(seed, 2_001), channels, recorder)?;
    let new = (0..crew.agents()).map(|agent| crew::identity(agent, "last")).collect();
    let made = client.ask(&Ask::Create(new)).await;
    made.context("no last entry for agents was made")?;
    Ok(crew.wait_synced("last").await)
}

/// What agents and workloads have seen.
async fn end_agents(
    crew: &mut Crew,
    stage: &Stage,
    recorder: &Recorder,
    facts: &mut Facts,
) -> Result<()> {
    let world = stage.world.lock().await;
    let admin = world.sockets().into_iter().next().context("no member")?;
    facts.story.until_ms = now_ms();
    let wrong = crew.finish(&admin).await;
    facts.story.sights = crew.sights()?;
    facts.story.wrong.extend(wrong?);
    let members = world.members();
    let asked = world.spaces().map(|spaces| spaces.links().connections()).unwrap_or_default();
    let of_agents = asked.into_iter().filter(|(_, from, to)| *from >= members && *to < members);
    facts.story.connections =
        of_agents.map(|(at, from, to)| (recorder.ns_of(at), from - members, to)).collect();
    Ok(())
}

/// Clients at work.
struct Crowd {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Crowd {
    fn start(
        options: &Options,
        seed: u64,
        workload: &Workload,
        channels: &[Channel],
        recorder: &Recorder,
    ) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        for number in 0..options.clients {
            let dice = Dice::new(seed, 100 + number);
            let client = Client::new(number, dice, channels.to_vec(), recorder.clone())?;
            tasks.push(tokio::spawn(workload.clone().run(client, stopped.clone())));
        }
        Ok(Self { tasks, stop })
    }

    async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.context("a client")?;
        }
        Ok(())
    }
}

/// Both tracks of faults, once enough was answered without any.
async fn disturb(options: &Options, seed: u64, stage: &Stage, recorder: &Recorder) -> Result<()> {
    let warm_by = Instant::now() + Duration::from_secs(20);
    while recorder.answered() < WARM_UP_CALLS {
        ensure!(Instant::now() < warm_by, "only {} calls answered at first", recorder.answered());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let (of_links, of_members): (Vec<Nemesis>, Vec<Nemesis>) =
        options.nemeses.iter().copied().partition(|nemesis| nemesis.is_of_links());
    let members = nemesis::run(stage.clone(), Plan::new(seed, 1, of_members), until);
    let links = nemesis::run(stage.clone(), Plan::new(seed, 2, of_links), until);
    let (members, links) = tokio::join!(members, links);
    members.and(links)?;
    tokio::time::sleep_until(until).await;
    Ok(())
}

/// Ends every fault, and measures how long it takes until there is one cluster under load and, once
/// that has stopped, one state.
async fn heal(stage: &Stage, crowd: Crowd, heal_ms: &mut Option<u64>) -> Result<()> {
    stage.restart_ended(&[]).await?;
    stage.world.lock().await.heal()?;
    let began = Instant::now();
    let first = wait_until_one(&stage.eyes, HEAL_MAX, false).await;
    let one_cluster = began.elapsed();
    crowd.stop().await?;
    if let Err(error) = first {
        stage.unexplained.lock().await.push(format!("no healing: {error:#}"));
        return Ok(());
    }
    let stopped = Instant::now();
    let left = HEAL_MAX.saturating_sub(one_cluster);
    match wait_until_one(&stage.eyes, left, true).await {
        Ok(()) => {
            let took = one_cluster + stopped.elapsed();
            *heal_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
        Err(error) => stage.unexplained.lock().await.push(format!("no healing: {error:#}")),
    }
    Ok(())
}

/// Waits until all members show one cluster, in one state if nothing is being written.
pub(crate) async fn wait_until_one(eyes: &Eyes, within: Duration, is_quiet: bool) -> Result<()> {
    let deadline = Instant::now() + within;
    while let Some(why) = apart(&eyes.look().await, is_quiet) {
        ensure!(Instant::now() < deadline, "not one cluster within {within:?}: {why}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A write and all reads through every member.
async fn last_words(
    options: &Options,
    seed: u64,
    channels: &[Channel],
    recorder: &Recorder,
) -> Result<()> {
    for at in 0..channels.len() {
        let number = options.clients + at as u64;
        let dice = Dice::new(seed, 1_000 + number);
        let mut client = Client::new(number, dice, channels.to_vec(), recorder.clone())?;
        let id = format!("last-{seed}-{at}");
        let entry = NewEntry::alike(id.clone(), &id, "/last".to_owned());
        let listing = u64::MAX / 2 + at as u64;
        for ask in [
            Ask::Create(vec![entry]),
            Ask::Get(id),
            Ask::List { listing, parent: None },
            Ask::Count,
            Ask::CountAgents,
        ] {
            client.ask_member(at, &ask).await;
        }
    }
    Ok(())
}

/// Has the history checked.
fn examine(folder: &Path, options: &Options) -> Result<Checked> {
    let file = File::open(folder.join("history.jsonl")).context("open the history")?;
    let history = History::read(BufReader::new(file), ReadLimits::default())?;
    let settings = Settings {
        steps_max: STEPS_MAX,
        requirements: requirements(options),
        ..Settings::default()
    };
    Ok(check(&history, &settings))
}

/// What a run must have exercised to be worth a pass.
fn requirements(options: &Options) -> Requirements {
    let names = |of: fn(&Nemesis) -> bool| {
        options.nemeses.iter().filter(|one| of(one)).map(|one| one.name().to_owned()).collect()
    };
    let mut required = Requirements { faults: names(|_| true), ..Requirements::default() };
    // Each kind has its turn on a leader and on a follower in the first two rounds.
    if options.members > 1 && options.seconds >= 20 * options.nemeses.len() as u64 {
        required.leader_and_follower = names(|one| {
            matches!(one, Nemesis::Kill | Nemesis::Pause | Nemesis::PowerCut | Nemesis::Partition)
        });
    }
    if options.nemeses.contains(&Nemesis::Suspend) {
        // A member that serves nothing while it is cut off shows nothing either.
        required.marks = [(suspend::RENEWED, 1), (suspend::REFUSED, 1)]
            .map(|(mark, times)| (mark.to_owned(), times))
            .into();
    }
    required.examined = [("witness".to_owned(), 5 * options.seconds)].into();
    required
}
