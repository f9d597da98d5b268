//! A slice of seeds: on several threads, resumable, some of them twice.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use steeple_checker::results::{self, ResultsError, say};
use steeple_spiffe_core::time::{Clock, SystemClock};

use crate::options::Options;
use crate::report::{Line, Report, Verdict};
use crate::sums::Sums;

/// What the command line says.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    pub(crate) seeds: Range<u64>,
    ticks: u64,
    results: Option<PathBuf>,
    pub(crate) mutant: Option<String>,
    pub(crate) jobs: usize,
    /// So many of the seeds are run twice and must leave the same trace.
    twice: u64,
    trace: Option<PathBuf>,
    history: Option<PathBuf>,
    stop_at_first: bool,
}

const USAGE: &str = "usage: steeple-sim [--seeds N | --seeds A..B] [--ticks 20000] \
[--results FILE] [--jobs 2] [--twice 3] [--trace FILE] [--history FILE] [--mutant NAME]\n       \
steeple-sim mutants [--seeds 150] [--ticks 4000] [--jobs 2] [--mutant NAME]\n       \
steeple-sim merge FILE…";

impl Arguments {
    /// Parses the command line of a hunt for mutants: many short runs.
    pub(crate) fn parse_hunt(arguments: &[String]) -> Result<Self> {
        Self::parse_over(0..150, 4_000, arguments)
    }

    /// Parses a command line.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        Self::parse_over(0..10, 20_000, arguments)
    }

    fn parse_over(seeds: Range<u64>, ticks: u64, arguments: &[String]) -> Result<Self> {
        let mut parsed = Self {
            seeds,
            ticks,
            results: None,
            mutant: None,
            jobs: 2,
            twice: 3,
            trace: None,
            history: None,
            stop_at_first: false,
        };
        let mut left = arguments.iter();
        while let Some(flag) = left.next() {
            let mut value =
                || left.next().with_context(|| format!("{flag} needs a value\n{USAGE}"));
            match flag.as_str() {
                "--seeds" => parsed.seeds = parse_seeds(value()?)?,
                "--ticks" => parsed.ticks = value()?.parse().context("--ticks")?,
                "--results" => parsed.results = Some(value()?.into()),
                "--jobs" => parsed.jobs = value()?.parse().context("--jobs")?,
                "--twice" => parsed.twice = value()?.parse().context("--twice")?,
                "--trace" => parsed.trace = Some(value()?.into()),
                "--history" => parsed.history = Some(value()?.into()),
                "--mutant" => {
                    parsed.mutant = Some(value()?.clone());
                    parsed.stop_at_first = true;
                    parsed.twice = 0;
                }
                other => bail!("unknown argument {other:?}\n{USAGE}"),
            }
        }
        Ok(parsed)
    }

    /// The same with another mutant, or none.
    pub(crate) fn with_mutant(&self, name: Option<&str>) -> Self {
        Self { mutant: name.map(str::to_owned), ..self.clone() }
    }

    /// The command that runs a seed again.
    pub(crate) fn replay(&self, seed: u64) -> String {
        let mutant = self.mutant.as_ref().map(|name| format!(" --mutant {name}"));
        let mutant = mutant.unwrap_or_default();
        format!("cargo xtask sim --seeds {seed}..{} --ticks {}{mutant}", seed + 1, self.ticks)
    }
}

fn parse_seeds(text: &str) -> Result<Range<u64>> {
    match text.split_once("..") {
        Some((from, to)) => Ok(from.parse().context("--seeds")?..to.parse().context("--seeds")?),
        None => Ok(0..text.parse().context("--seeds")?),
    }
}

#[cfg(feature = "mutants")]
fn switch_on(name: &str) -> Result<()> {
    if steeple_raft_store::testing::switch_on_mutant(name) {
        return Ok(());
    }
    let known: Vec<_> = steeple_raft_store::testing::mutants().collect();
    bail!("no mutant {name:?}; there are {}", known.join(", "))
}

#[cfg(not(feature = "mutants"))]
fn switch_on(name: &str) -> Result<()> {
    bail!("mutant {name:?}: build with the feature \"mutants\"")
}

/// What the threads share.
struct Shared<'a> {
    arguments: &'a Arguments,
    next: AtomicU64,
    done: BTreeSet<u64>,
    stop: AtomicBool,
    out: Mutex<(Sums, Vec<ResultsError>)>,
}

/// Runs the slice. True if all passed.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let (mut sums, mut done) = (Sums::default(), BTreeSet::new());
    for line in arguments.results.as_deref().map_or(Ok(Vec::new()), results::read::<Line>)? {
        let same = line.ticks == arguments.ticks && line.mutant == arguments.mutant;
        if same && arguments.seeds.contains(&line.seed) {
            done.insert(line.seed);
            sums.add(&line);
        }
    }
    let began = SystemClock.boot_time();
    let shared = Shared {
        arguments,
        next: AtomicU64::new(arguments.seeds.start),
        done,
        stop: AtomicBool::new(false),
        out: Mutex::new((sums, Vec::new())),
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| work(&shared));
        }
    });
    let took = SystemClock.boot_time().saturating_sub(began);
    let (sums, errors) = shared.out.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = errors.into_iter().next() {
        return Err(error.into());
    }
    say(&sums.table());
    let ran = arguments.seeds.end - arguments.seeds.start - shared.done.len() as u64;
    let per_minute = ran as f64 * 60.0 / took.as_secs_f64().max(0.001);
    say(&format!("{ran} seeds in {:.1} s: {per_minute:.1} a minute", took.as_secs_f64()));
    let (passed, failed) = sums.counts();
    say(&format!("sim: {passed} passed, {failed} failed"));
    Ok(sums.is_acceptable())
}

fn work(shared: &Shared<'_>) {
    loop {
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        if seed >= shared.arguments.seeds.end || shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if !shared.done.contains(&seed) {
            one(shared, seed);
        }
    }
}

fn one(shared: &Shared<'_>, seed: u64) {
    let arguments = shared.arguments;
    let mut line = in_child(arguments, seed, false);
    if seed - arguments.seeds.start < arguments.twice && line.verdict == "pass" {
        let again = in_child(arguments, seed, true);
        if again.trace != line.trace {
            let lines = (line.trace_lines, again.trace_lines);
            line.text = format!("two runs left different traces, of {lines:?} lines");
            line.check = "determinism".to_owned();
            line.verdict = "harness".to_owned();
        }
    }
    let mut out = shared.out.lock().unwrap_or_else(PoisonError::into_inner);
    let (sums, errors) = &mut *out;
    let written = arguments.results.as_deref().map_or(Ok(()), |file| results::append(file, &line));
    if let Err(error) = written {
        errors.push(error);
        shared.stop.store(true, Ordering::Relaxed);
    }
    sums.add(&line);
    if line.verdict == "pass" {
        return;
    }
    say(&format!(
        "seed {seed}: {} ({}) after {} ms of wall clock\n  {}\n  again: {}",
        line.verdict.to_uppercase(),
        line.check,
        line.wall_ms,
        line.text,
        arguments.replay(seed),
    ));
    if arguments.stop_at_first {
        shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs a seed in a process of its own: libraries count things for a whole process (tokio its
/// runtimes, for their seeds), so a second run in one would not be the first again.
pub(crate) fn in_child(arguments: &Arguments, seed: u64, again: bool) -> Line {
    let began = SystemClock.boot_time();
    let mut line = child(arguments, seed, again).unwrap_or_else(|error| {
        let mut report = Report::new(&Options::of_seed(seed), arguments.ticks);
        report.verdict = Verdict::Harness(format!("{error:#}"));
        report.line(arguments.mutant.as_deref())
    });
    let took = SystemClock.boot_time().saturating_sub(began);
    line.wall_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    line
}

fn child(arguments: &Arguments, seed: u64, again: bool) -> Result<Line> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.arg("one").args(["--seeds", &format!("{seed}..{}", seed + 1)]);
    command.args(["--ticks", &arguments.ticks.to_string()]);
    if let Some(mutant) = &arguments.mutant {
        command.args(["--mutant", mutant]);
    }
    for (flag, path) in [("--trace", &arguments.trace), ("--history", &arguments.history)] {
        if let Some(path) = path {
            let path = if again { path.with_extension("again") } else { path.clone() };
            command.arg(flag).arg(path);
        }
    }
    let output = command.stderr(Stdio::inherit()).output().context("start a run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or("");
    serde_json::from_str(last).with_context(|| format!("the run ended with {}", output.status))
}

/// `one`: what a process of its own does. Writes the result to standard output.
pub(crate) fn one_seed(arguments: &Arguments) -> Result<bool> {
    if let Some(name) = &arguments.mutant {
        switch_on(name)?;
    }
    let (seed, ticks) = (arguments.seeds.start, arguments.ticks);
    let files = [&arguments.trace, &arguments.history]
        .map(|path| path.as_ref().and_then(|path| File::create(path).ok()));
    // A thread of its own: the standard library draws hash seeds once a thread.
    let ran = std::thread::spawn(move || {
        crate::entropy::seed_thread(seed);
        crate::instants::set(0);
        crate::run::run(seed, ticks, files)
    });
    let report = ran.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let mut report = Report::new(&Options::of_seed(seed), ticks);
        report.verdict = Verdict::Harness(format!("panic: {}", text.unwrap_or_default()));
        report
    });
    let line = report.line(arguments.mutant.as_deref());
    say(&serde_json::to_string(&line).context("encode the result")?);
    Ok(true)
}
