//! What a run is to do, from the command line.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

/// A kind of fault. Its name is the one of the command line, the journal and the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nemesis {
    /// SIGKILL of one, the leader or all, and a restart.
    Kill,
    /// SIGSTOP and SIGCONT.
    Pause,
    /// The disk forgets what was not synced; then SIGKILL, remount, restart.
    PowerCut,
    /// Links are cut, both ways or one way.
    Partition,
    /// Links delay, lose, reorder and duplicate packets.
    Network,
    /// SIGTERM, restart and wait, member by member from the highest.
    Rolling,
    /// No space is left on a member's disk.
    DiskFull,
    /// A member loses its volume and comes back as a new one.
    Wipe,
    /// A member comes back at another address.
    Move,
    /// A member's wall clock jumps.
    Clock,
    /// Members become the newer release, the older one, and the newer one again.
    Upgrade,
    /// Files of a member that does not run are damaged.
    Corrupt,
    /// Commands change who leads, who votes and who belongs to the cluster.
    Membership,
    /// Everything is restored from a snapshot, and one member comes back with its old folder.
    Restore,
    /// A member is cut off and stands still for longer than it may serve what it knows.
    Suspend,
}

impl Nemesis {
    /// Every kind.
    pub(crate) const ALL: [Self; 15] = [
        Self::Kill,
        Self::Pause,
        Self::PowerCut,
        Self::Partition,
        Self::Network,
        Self::Rolling,
        Self::DiskFull,
        Self::Wipe,
        Self::Move,
        Self::Clock,
        Self::Upgrade,
        Self::Corrupt,
        Self::Membership,
        Self::Restore,
        Self::Suspend,
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::PowerCut => "power-cut",
            Self::Partition => "partition",
            Self::Network => "network",
            Self::Rolling => "rolling",
            Self::DiskFull => "disk-full",
            Self::Wipe => "wipe",
            Self::Move => "move",
            Self::Clock => "clock",
            Self::Upgrade => "upgrade",
            Self::Corrupt => "corrupt",
            Self::Membership => "membership",
            Self::Restore => "restore",
            Self::Suspend => "suspend",
        }
    }

    /// Whether it needs the switch.
    pub(crate) fn needs_network(self) -> bool {
        matches!(self, Self::Partition | Self::Network | Self::Move | Self::Suspend)
    }

    /// Whether it needs disks of its own.
    pub(crate) fn needs_disk(self) -> bool {
        matches!(self, Self::PowerCut | Self::DiskFull)
    }

    /// Whether it is installed on links rather than on members; such faults overlap the others.
    pub(crate) fn is_of_links(self) -> bool {
        matches!(self, Self::Partition | Self::Network)
    }

    /// Whether it is work that a cluster is there for: nobody is to notice it.
    pub(crate) fn is_planned(self) -> bool {
        matches!(self, Self::Rolling | Self::Upgrade)
    }

    /// How long it may take until the cluster is whole again; such faults begin no later than this
    /// before the end. None: it waits for nothing.
    pub(crate) fn waits_s(self) -> Option<u64> {
        match self {
            Self::Wipe | Self::Move | Self::Corrupt | Self::Membership | Self::Restore => Some(60),
            Self::Suspend => Some(30),
            Self::Rolling | Self::Upgrade => Some(25),
            Self::Kill
            | Self::Pause
            | Self::PowerCut
            | Self::Partition
            | Self::Network
            | Self::DiskFull
            | Self::Clock => None,
        }
    }

    /// With how many members it means anything.
    fn members_min(self) -> usize {
        match self {
            // The others go on without the one that stands still.
            Self::Suspend => 3,
            // One is restored, one comes back late.
            Self::Restore => 2,
            Self::Kill
            | Self::Pause
            | Self::PowerCut
            | Self::Partition
            | Self::Network
            | Self::Rolling
            | Self::DiskFull
            | Self::Wipe
            | Self::Move
            | Self::Clock
            | Self::Upgrade
            | Self::Corrupt
            | Self::Membership => 1,
        }
    }

    fn parse(name: &str) -> Result<Self> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|nemesis| nemesis.name() == name);
        found.with_context(|| format!("no nemesis {name:?}; there are {}", known()))
    }
}

/// What the command line says.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Which seeds to run, each a run of its own.
    pub(crate) seeds: Range<u64>,
    /// How long faults go on.
    pub(crate) seconds: u64,
    /// How many members.
    pub(crate) members: usize,
    /// Which faults.
    pub(crate) nemeses: Vec<Nemesis>,
    /// Where run folders are made.
    pub(crate) out: PathBuf,
    /// Results, a line a run.
    pub(crate) results: Option<PathBuf>,
    /// Concurrent clients.
    pub(crate) clients: u64,
    /// Agents with workloads beside them.
    pub(crate) agents: usize,
    /// A deliberate bug that the server is started with, if it was built with them.
    pub(crate) mutant: Option<String>,
}

/// How the program is called.
pub(crate) const USAGE: &str = "usage: steeple-chaos [--seed N | --seeds A..B] [--seconds 60] \
[--nemesis kill,pause,…] [--members 3] [--clients 8] [--agents 2] [--out FOLDER] [--results FILE] [--mutant NAME]
       steeple-chaos quick [--out FOLDER]
       steeple-chaos rotations|federation [--rotations 100] [--seed N] [--out FOLDER]
       steeple-chaos merge FILE…, steeple-chaos figures FILE…
nemeses: kill, pause, power-cut, partition, network, rolling, disk-full, wipe, move, clock, \
upgrade, corrupt, membership, restore, suspend";

impl Options {
    /// Parses a command line.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut parsed = Self {
            seeds: 1..2,
            seconds: 60,
            members: 3,
            nemeses: vec![
                Nemesis::Kill,
                Nemesis::Pause,
                Nemesis::PowerCut,
                Nemesis::Partition,
                Nemesis::Network,
            ],
            out: std::env::temp_dir().join("steeple-chaos"),
            results: None,
            clients: 8,
            agents: 2,
            mutant: None,
        };
        let mut left = arguments.iter();
        while let Some(flag) = left.next() {
            let mut value =
                || left.next().with_context(|| format!("{flag} needs a value\n{USAGE}"));
            match flag.as_str() {
                "--seed" => {
                    let seed: u64 = value()?.parse().context("--seed")?;
                    parsed.seeds = seed..seed + 1;
                }
                "--seeds" => parsed.seeds = parse_seeds(value()?)?,
                "--seconds" => parsed.seconds = value()?.parse().context("--seconds")?,
                "--members" => parsed.members = value()?.parse().context("--members")?,
                "--clients" => parsed.clients = value()?.parse().context("--clients")?,
                "--agents" => parsed.agents = value()?.parse().context("--agents")?,
                "--nemesis" => {
                    let names = value()?.split(',').filter(|name| !name.is_empty());
                    parsed.nemeses = names.map(Nemesis::parse).collect::<Result<_>>()?;
                }
                "--out" => parsed.out = value()?.into(),
                "--results" => parsed.results = Some(value()?.into()),
                "--mutant" => parsed.mutant = Some(value()?.clone()),
                other => bail!("unknown argument {other:?}\n{USAGE}"),
            }
        }
        ensure!((1..=7).contains(&parsed.members), "--members is 1 to 7");
        ensure!((1..=32).contains(&parsed.clients), "--clients is 1 to 32");
        ensure!(parsed.agents <= 8, "--agents is 0 to 8");
        ensure!(parsed.seconds >= 5, "--seconds is 5 or more: faults need time to begin and end");
        ensure!(!parsed.seeds.is_empty(), "--seeds names no seed");
        for nemesis in &parsed.nemeses {
            let (name, least) = (nemesis.name(), nemesis.members_min());
            ensure!(parsed.members >= least, "{name} needs --members {least} or more");
        }
        let has = |nemesis| parsed.nemeses.contains(&nemesis);
        ensure!(
            !has(Nemesis::Restore) || !parsed.nemeses.iter().any(|one| one.is_of_links()),
            "restore goes without faults of links: those who join vote after ten quiet seconds"
        );
        Ok(parsed)
    }

    /// How many agents a run has: none where members move, since an agent knows them by address.
    pub(crate) fn agents_of_a_run(&self) -> usize {
        if self.nemeses.contains(&Nemesis::Move) { 0 } else { self.agents }
    }

    /// Whether nothing happens but planned work: then no call to issue may fail.
    pub(crate) fn is_planned(&self) -> bool {
        self.nemeses.iter().all(|nemesis| nemesis.is_planned())
    }

    /// A short run with other faults, length and seed.
    pub(crate) fn of(&self, seed: u64, seconds: u64, nemeses: &[Nemesis]) -> Self {
        let nemeses = nemeses.to_vec();
        // Agents take a while to begin: one of the short runs has them.
        let agents = if nemeses == [Nemesis::Kill] { self.agents } else { 0 };
        Self { seeds: seed..seed + 1, seconds, nemeses, agents, ..self.clone() }
    }

    /// The names of its faults, as the command line has them.
    pub(crate) fn nemesis_list(&self) -> String {
        self.nemeses.iter().map(|nemesis| nemesis.name()).collect::<Vec<_>>().join(",")
    }

    /// The command that runs a seed again: the same plan of faults, and calls of the same clients.
    pub(crate) fn replay(&self, seed: u64) -> String {
        let mutant = self.mutant.as_ref().map(|name| format!(" --mutant {name}"));
        format!(
            "cargo xtask chaos --seed {seed} --seconds {} --nemesis {} --members {} --clients {} \
             --agents {}{}",
            self.seconds,
            self.nemesis_list(),
            self.members,
            self.clients,
            self.agents,
            mutant.unwrap_or_default()
        )
    }
}

fn parse_seeds(text: &str) -> Result<Range<u64>> {
    match text.split_once("..") {
        Some((from, to)) => Ok(from.parse().context("--seeds")?..to.parse().context("--seeds")?),
        None => Ok(0..text.parse().context("--seeds")?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_replays_a_run_is_read_as_the_same_run() {
        let words = ["--seeds", "3..9", "--seconds", "25", "--nemesis", "power-cut,pause"];
        let first = Options::parse(&words.map(str::to_owned)).unwrap();
        let again = first.replay(7);
        let again: Vec<String> = again.split(' ').skip(3).map(str::to_owned).collect();
        let again = Options::parse(&again).unwrap();
        assert_eq!(again.seeds, 7..8);
        assert_eq!((again.seconds, again.members), (first.seconds, first.members));
        assert_eq!(again.nemeses, [Nemesis::PowerCut, Nemesis::Pause]);
    }

    #[test]
    fn what_is_no_run_is_refused() {
        for line in [
            "--nemesis earthquake",
            "--seconds 1",
            "--members 9",
            "--seeds 5..5",
            "--x",
            "--nemesis suspend --members 2",
            "--nemesis kill,restore --members 1",
            "--nemesis restore,partition",
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert!(Options::parse(&words).is_err(), "{line}");
        }
    }

    #[test]
    fn every_nemesis_is_known_by_its_name_and_told_of_in_the_usage() {
        for nemesis in Nemesis::ALL {
            assert_eq!(Nemesis::parse(nemesis.name()).unwrap(), nemesis);
            assert!(USAGE.contains(nemesis.name()), "{}", nemesis.name());
        }
        // What restores, or stands still for so long, is noticed, and is waited for.
        for nemesis in [Nemesis::Restore, Nemesis::Suspend] {
            assert!(!nemesis.is_planned() && nemesis.waits_s().is_some(), "{}", nemesis.name());
        }
        assert!(Nemesis::Suspend.needs_network() && !Nemesis::Suspend.is_of_links());
    }
}
