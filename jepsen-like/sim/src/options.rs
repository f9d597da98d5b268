//! What a seed decides before its run begins: swarm testing, so that each run stresses something else.

use std::time::Duration;

use steeple_raft_store::Tuning;

use steeple_spiffe_core::dice::Dice;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FaultKind {
    /// The network falls into two halves.
    Halves,
    /// A few links carry nothing one way.
    OneWay,
    /// Each member reaches a majority, no two the same.
    Ring,
    /// One member is cut off.
    Isolate,
    /// Members are cut off one by one and come back in another order.
    Swizzle,
    /// Links lose messages.
    Loss,
    /// Links are slow.
    Delay,
    /// One member's network stands still, then everything arrives at once.
    Hold,
    /// One member's timers leap, as after a suspend.
    Leap,
    /// One member stands still while its clocks go on.
    Freeze,
    /// A process is killed; its disk keeps everything.
    Kill,
    /// A member loses power.
    PowerCut,
    /// All members lose power at once.
    Blackout,
    /// A process is stopped in good order.
    Stop,
    /// A wall clock jumps.
    ClockJump,
    /// A disk stalls.
    Stall,
    /// A sync fails.
    DiskError,
    /// Leadership is handed to another member.
    Transfer,
    /// A subscriber of a change feed subscribes anew.
    Resubscribe,
    /// A new member joins.
    Join,
    /// A member loses its disk and rejoins at its address.
    Wipe,
    /// An operator demotes, promotes or removes a member.
    ChangeMembers,
}

impl FaultKind {
    /// Every one, with how likely a seed has it at all.
    pub(crate) const ALL: &'static [(Self, f64)] = &[
        (Self::Halves, 0.5),
        (Self::OneWay, 0.4),
        (Self::Ring, 0.2),
        (Self::Isolate, 0.5),
        (Self::Swizzle, 0.2),
        (Self::Loss, 0.3),
        (Self::Delay, 0.4),
        (Self::Hold, 0.4),
        (Self::Leap, 0.3),
        (Self::Freeze, 0.3),
        (Self::Kill, 0.5),
        (Self::PowerCut, 0.6),
        (Self::Blackout, 0.2),
        (Self::Stop, 0.3),
        (Self::ClockJump, 0.4),
        (Self::Stall, 0.3),
        (Self::DiskError, 0.2),
        (Self::Transfer, 0.4),
        (Self::Resubscribe, 0.5),
        (Self::Join, 0.3),
        (Self::Wipe, 0.25),
        (Self::ChangeMembers, 0.3),
    ];
}

/// The options of a run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Which run.
    pub(crate) seed: u64,
    /// Founding members.
    pub(crate) founders: u16,
    /// Members that may join later.
    pub(crate) spares: u16,
    /// Most voters.
    pub(crate) voters_max: u8,
    /// Small bounds of the registry.
    pub(crate) tuning: Tuning,
    /// Between heartbeats.
    pub(crate) heartbeat: Duration,
    /// Clients with one call at a time each.
    pub(crate) clients: u64,
    /// A client's pause between two calls, at most.
    pub(crate) think_ms: u64,
    /// How often a reply is lost on its way to a client.
    pub(crate) reply_loss: f64,
    /// How often a request arrives twice.
    pub(crate) duplicates: f64,
    /// Slowest message.
    pub(crate) latency_ms: u64,
    /// Slowest sync.
    pub(crate) sync_us: u64,
    /// Largest drift of a clock.
    pub(crate) drift_ppm: u64,
    /// Faults that this run has.
    pub(crate) faults: Vec<FaultKind>,
    /// Between the beginnings of two faults, at most.
    pub(crate) fault_gap_ms: u64,
    /// Whether members are ticked in a new order each time.
    pub(crate) random_order: bool,
}

impl Options {
    /// What a seed decides.
    pub(crate) fn of_seed(seed: u64) -> Self {
        let dice = Dice::new(seed, 1);
        let founders = *dice.pick(&[3, 3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 7]).unwrap_or(&3);
        let faults: Vec<FaultKind> = FaultKind::ALL
            .iter()
            .filter(|(_, likely)| dice.chance(*likely))
            .map(|(fault, _)| *fault)
            .collect();
        let small = dice.chance(0.8);
        let tuning = Tuning {
            snapshot_after: if small { dice.within(20..=400) } else { 5_000 },
            log_kept: if small { dice.within(1..=100) } else { 2_000 },
            stable_for: Duration::from_millis(dice.within(500..=2_000)),
            seat_free_after: Duration::from_millis(dice.within(1_500..=4_000)),
            ..Tuning::default()
        };
        Self {
            seed,
            founders,
            spares: if faults.contains(&FaultKind::Join) { 2 } else { 0 },
            voters_max: if founders == 7 { 7 } else { 5 },
            tuning,
            heartbeat: Duration::from_millis(50),
            clients: dice.within(2..=6),
            think_ms: *dice.pick(&[10, 20, 50, 120]).unwrap_or(&20),
            reply_loss: *dice.pick(&[0.0, 0.02, 0.1]).unwrap_or(&0.0),
            duplicates: *dice.pick(&[0.0, 0.05, 0.2]).unwrap_or(&0.0),
            latency_ms: *dice.pick(&[1, 3, 10, 25]).unwrap_or(&3),
            sync_us: *dice.pick(&[100, 2_000, 10_000]).unwrap_or(&100),
            drift_ppm: *dice.pick(&[0, 100, 5_000]).unwrap_or(&0),
            faults,
            fault_gap_ms: *dice.pick(&[300, 1_000, 3_000]).unwrap_or(&1_000),
            random_order: dice.chance(0.5),
        }
    }

    /// All members there may be.
    pub(crate) fn members(&self) -> u16 {
        self.founders + self.spares
    }
}
