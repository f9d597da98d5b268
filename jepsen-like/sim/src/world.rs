//! The simulated world: hosts, network, and the members on them.
//!
//! Owns starting and ending processes and the state of links. When and why is `nemesis`'s.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use steeple_raft_store::testing::config;
use steeple_raft_store::{ClusterKeys, Config, Leadership, MemberStatus, MemoryDisk};

use crate::clock::{SimClock, SimTime};
use crate::disk::DiskTimes;
use crate::member::{Ended, Member, PORT, Shared, software};
use crate::options::Options;
use steeple_spiffe_core::dice::Dice;

/// One tick, in milliseconds.
pub(crate) const TICK_MS: u64 = 1;

/// Segments that a connection holds.
const TCP_SEGMENTS: usize = 1024;

/// How often a link that lost a message carries the next one again.
const REPAIR_RATE: f64 = 0.05;

/// Hosts, network, members.
pub(crate) struct World {
    sim: turmoil::Sim<'static>,
    /// Everyone there may be, by number.
    pub(crate) members: Vec<Shared>,
    /// Simulated time.
    pub(crate) time: SimTime,
    /// Directed links that carry nothing, with how many faults say so.
    blocked: BTreeMap<(usize, usize), u32>,
    latency_ms: u64,
    dice: Dice,
}

impl World {
    /// The world of a seed, with its founders about to start.
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(options.seed)
            .tick_duration(Duration::from_millis(TICK_MS))
            .simulation_duration(Duration::from_secs(86_400))
            .min_message_latency(Duration::ZERO)
            .max_message_latency(Duration::from_millis(options.latency_ms))
            .repair_rate(REPAIR_RATE)
            .tcp_capacity(TCP_SEGMENTS);
        if options.random_order {
            builder.enable_random_order();
        }
        let mut world = Self {
            sim: builder.build(),
            members: Vec::new(),
            time: SimTime::default(),
            blocked: BTreeMap::new(),
            latency_ms: options.latency_ms,
            dice: Dice::new(options.seed, 3),
        };
        for number in 1..=options.members() {
            world.add(options, number)?;
        }
        Ok(world)
    }

    fn add(&mut self, options: &Options, number: u16) -> Result<()> {
        let drift = i64::try_from(self.dice.within(0..=2 * options.drift_ppm)).unwrap_or(0);
        let drift = drift - i64::try_from(options.drift_ppm).unwrap_or(0);
        let times = Arc::new(DiskTimes::new(self.dice.fork(), options.sync_us));
        let member = Member {
            name: name(number),
            config: member_config(options, number)?,
            disk: MemoryDisk::simulated(times.clone()),
            times,
            clock: Arc::new(SimClock::new(self.time.clone(), drift)),
            random: Arc::new(self.dice.fork()),
            exists: number <= options.founders,
            incarnation: 0,
            process: None,
            ended: None,
            feed: VecDeque::new(),
        };
        let shared: Shared = Rc::new(RefCell::new(member));
        self.members.push(shared.clone());
        self.sim.host(name(number), move || software(shared.clone()));
        Ok(())
    }

    /// Lets a tick pass.
    pub(crate) fn step(&mut self) -> Result<()> {
        self.sim.step().map_err(|error| anyhow!("simulator: {error}"))?;
        self.time.set(self.time.ms() + TICK_MS);
        Ok(())
    }

    /// A member.
    pub(crate) fn member(&self, at: usize) -> Option<std::cell::Ref<'_, Member>> {
        self.members.get(at).map(|member| member.borrow())
    }

    /// Members that were started at some time.
    pub(crate) fn existing(&self) -> Vec<usize> {
        self.those(|member| member.exists)
    }

    /// Members whose process runs.
    pub(crate) fn running(&self) -> Vec<usize> {
        self.those(|member| member.process.is_some())
    }

    fn those(&self, which: impl Fn(&Member) -> bool) -> Vec<usize> {
        let all = self.members.iter().enumerate();
        all.filter(|(_, member)| which(&member.borrow())).map(|(at, _)| at).collect()
    }

    /// What a member knows of who leads.
    pub(crate) fn leadership(&self, at: usize) -> Option<Leadership> {
        let member = self.member(at)?;
        let known = *member.process.as_ref()?.leadership.borrow();
        Some(known)
    }

    /// The member that leads in the newest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads =
            |at: &usize| self.leadership(*at).filter(|known| known.is_self).map(|known| known.term);
        self.running().into_iter().filter(|at| leads(at).is_some()).max_by_key(leads)
    }

    /// What a member says of itself.
    pub(crate) fn status(&self, at: usize) -> Option<MemberStatus> {
        let member = self.member(at)?;
        let process = member.process.as_ref()?;
        // Without its runtime it would measure by the machine's clock, and how fast the simulation
        // runs would decide what it says.
        let _its_clock = process.runtime.enter();
        Some(process.handle.status())
    }

    /// Starts a member's process.
    pub(crate) fn start(&mut self, at: usize) {
        let Some(member) = self.members.get(at) else { return };
        let name = {
            let mut member = member.borrow_mut();
            if member.process.is_some() {
                return;
            }
            member.exists = true;
            member.ended = None;
            member.feed.clear();
            member.name.clone()
        };
        self.sim.bounce(name);
    }

    /// Ends a member's process without a word. Its disk keeps what `disk` makes of it.
    pub(crate) fn kill(&mut self, at: usize, disk: impl FnOnce(&Member) -> Arc<MemoryDisk>) {
        let Some(member) = self.members.get(at) else { return };
        let name = member.borrow().name.clone();
        // The handle first: what it holds must not outlive the process.
        member.borrow_mut().process = None;
        self.sim.crash(name);
        let mut member = member.borrow_mut();
        member.process = None;
        member.feed.clear();
        member.ended = Some(Ended::Killed);
        let disk = disk(&member);
        member.disk = disk;
    }

    /// Ends a member's process by a power cut: some of what was not synced is on its disk.
    pub(crate) fn power_cut(&mut self, at: usize) {
        let unsynced = self.member(at).map_or(0, |member| member.disk.unsynced());
        let keep = usize::try_from(self.dice.within(0..=unsynced as u64)).unwrap_or(0);
        self.kill(at, |member| member.disk.crash_keeping(keep));
    }

    /// Ends a member's process and empties its disk.
    pub(crate) fn wipe(&mut self, at: usize) {
        self.kill(at, |member| MemoryDisk::simulated(member.times.clone()));
    }

    /// Cuts links, each one way.
    pub(crate) fn block(&mut self, links: &[(usize, usize)]) {
        for (from, to) in links {
            *self.blocked.entry((*from, *to)).or_default() += 1;
            self.sim.partition_oneway(host(*from), host(*to));
        }
    }

    /// Mends links that [`Self::block`] cut.
    pub(crate) fn unblock(&mut self, links: &[(usize, usize)]) {
        for link in links {
            let left = self.blocked.get(link).map_or(0, |count| count.saturating_sub(1));
            if left > 0 {
                self.blocked.insert(*link, left);
            } else if self.blocked.remove(link).is_some() {
                self.sim.repair_oneway(host(link.0), host(link.1));
            }
        }
    }

    /// Holds everything from and to a member.
    pub(crate) fn hold(&mut self, at: usize) {
        for other in self.others(at) {
            if !self.is_blocked(at, other) {
                self.sim.hold(host(at), host(other));
            }
        }
    }

    /// Delivers what was held.
    pub(crate) fn release(&mut self, at: usize) {
        for other in self.others(at) {
            if !self.is_blocked(at, other) {
                self.sim.release(host(at), host(other));
            }
        }
    }

    fn is_blocked(&self, one: usize, other: usize) -> bool {
        self.blocked.contains_key(&(one, other)) || self.blocked.contains_key(&(other, one))
    }

    fn others(&self, at: usize) -> Vec<usize> {
        (0..self.members.len()).filter(|other| *other != at).collect()
    }

    /// Makes a link lose messages; zero: none from now on.
    pub(crate) fn lose(&mut self, one: usize, other: usize, rate: f64) {
        self.sim.set_link_fail_rate(host(one), host(other), rate);
        if rate <= 0.0 && !self.is_blocked(one, other) {
            self.sim.repair(host(one), host(other));
        }
    }

    /// Makes a link slow; `None`: as usual.
    pub(crate) fn delay(&mut self, one: usize, other: usize, ms: Option<u64>) {
        let ms = ms.unwrap_or(self.latency_ms);
        self.sim.set_link_max_message_latency(host(one), host(other), Duration::from_millis(ms));
    }

    /// Mends the whole network.
    pub(crate) fn mend_network(&mut self) {
        self.blocked.clear();
        for one in 0..self.members.len() {
            for other in one + 1..self.members.len() {
                self.sim.set_link_fail_rate(host(one), host(other), 0.0);
                self.delay(one, other, None);
                self.sim.release(host(one), host(other));
                self.sim.repair(host(one), host(other));
            }
        }
    }
}

fn name(number: u16) -> String {
    format!("m{number}")
}

fn host(at: usize) -> String {
    format!("m{}", at + 1)
}

fn address(number: u16) -> String {
    format!("{}:{PORT}", name(number))
}

fn member_config(options: &Options, number: u16) -> Result<Config> {
    Ok(Config {
        bind: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))),
        advertise: address(number),
        peers: (1..=options.founders).map(address).collect(),
        voters_max: options.voters_max,
        heartbeat_interval: options.heartbeat,
        tuning: options.tuning,
        keys: Arc::new(cluster_keys()?),
        ..config(PathBuf::new())
    })
}

/// The cluster keys that all members hold.
pub(crate) fn cluster_keys() -> Result<ClusterKeys> {
    const TEXT: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n\
                        AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=\n";
    Ok(ClusterKeys::parse(TEXT)?)
}
