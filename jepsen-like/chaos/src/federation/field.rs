//! Both sides on a network of ours, and everyone who looks at them.

use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use steeple_spiffe_core::dice::Dice;
use steeple_testkit::Machines;
use steeple_testkit::process::wait_for;
use steeple_testkit::trust;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::disturb::Done;
use super::guest::Guest;
use super::handshake::{self, Handshakes};
use super::ledger::{Kind, Ledger, View};
use super::side::{NODES, Side, Which};
use super::watch::{Phase, Unanswered, Watch};
use super::{KEEPS, Shared, WHOLE_MAX, lock};
use crate::net::Spaces;

/// Two trust domains that trust each other.
#[derive(Debug)]
pub(super) struct Field {
    // Dropped in this order: processes end before their namespaces go.
    foo: Side,
    bar: Side,
    pub(super) spaces: Spaces,
    pub(super) dice: Dice,
    pub(super) ledger: Shared,
    pub(super) own: [Arc<Mutex<trust::Ledger>>; 2],
    guests: [Guest; 2],
    pub(super) unanswered: Arc<Mutex<Unanswered>>,
    pub(super) handshakes: Arc<Mutex<Handshakes>>,
    pub(super) done: Done,
    pub(super) began: Instant,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Field {
    /// Forms both sides, relates them, and begins to look when each knows the other.
    pub(super) async fn form(
        folder: &Path,
        seed: u64,
        phase: &watch::Sender<Phase>,
    ) -> Result<Self> {
        let prefix = format!("feder{}-", std::process::id());
        let spaces = Spaces::make(&prefix, NODES, folder, seed).context("make the network")?;
        let machines = Machines::new()?;
        let (mut one, mut other) = tokio::try_join!(
            Side::start(Which::Foo, folder, &spaces, &machines),
            Side::start(Which::Bar, folder, &spaces, &machines),
        )?;
        one.relate(&other)?;
        other.relate(&one)?;
        one.register()?;
        other.register()?;
        tokio::try_join!(one.attest(&spaces, &machines), other.attest(&spaces, &machines))?;
        let ledger: Shared = Arc::new(Mutex::new(Ledger::new()));
        let guest = |side: &Side| Guest::new(side.which, &side.agent_socket(), Arc::clone(&ledger));
        let (guests, (stop, _)) = ([guest(&one), guest(&other)], watch::channel(false));
        let mut field = Self {
            foo: one,
            bar: other,
            spaces,
            dice: Dice::new(seed, 1),
            own: [(); 2].map(|()| Arc::new(Mutex::new(trust::Ledger::new(KEEPS)))),
            ledger,
            guests,
            unanswered: Arc::default(),
            handshakes: Arc::default(),
            done: Done::default(),
            began: Instant::now(),
            stop,
            tasks: Vec::new(),
        };
        for guest in field.guests.clone() {
            field.tasks.push(tokio::spawn(guest.run(field.stop.subscribe())));
        }
        wait_for("workloads that hold all bundles", WHOLE_MAX, async || field.hold_all()).await?;
        field.look(phase);
        wait_for("both sides to know each other", WHOLE_MAX, async || field.know_each_other())
            .await?;
        field.began = Instant::now();
        Ok(field)
    }

    /// Before the first SVID is looked at.
    fn hold_all(&self) -> Result<()> {
        let ledger = lock(&self.ledger);
        for of in Which::BOTH {
            for by in Which::BOTH {
                for kind in Kind::BOTH {
                    let held = ledger.held(View { of, by, kind });
                    ensure!(
                        held.is_some_and(|held| !held.is_empty()),
                        "{by:?} has no {kind:?} of {of:?}"
                    );
                }
            }
        }
        Ok(())
    }

    /// Begins to look at members, and to shake hands.
    fn look(&mut self, phase: &watch::Sender<Phase>) {
        let mut watches = Vec::new();
        for (side, own) in [&self.foo, &self.bar].into_iter().zip(&self.own) {
            for member in side.cluster.members() {
                watches.push(Watch {
                    which: side.which,
                    member: member.index,
                    socket: member.socket(),
                    own: Arc::clone(own),
                    ledger: Arc::clone(&self.ledger),
                    guests: self.guests.to_vec(),
                    phase: phase.subscribe(),
                    unanswered: Arc::clone(&self.unanswered),
                });
            }
        }
        for watch in watches {
            self.tasks.push(tokio::spawn(watch.run(self.stop.subscribe())));
        }
        let (guests, ledger) = (self.guests.clone(), Arc::clone(&self.ledger));
        let (done, stop) = (Arc::clone(&self.handshakes), self.stop.subscribe());
        self.tasks.push(tokio::spawn(handshake::run(guests, ledger, done, stop)));
    }

    /// Whether workloads of either side hold everything that the other publishes.
    pub(super) fn know_each_other(&self) -> Result<()> {
        let ledger = lock(&self.ledger);
        for of in Which::BOTH {
            for kind in Kind::BOTH {
                let published = ledger.published(of, kind);
                let held = ledger.held(View { of, by: of.other(), kind });
                let held =
                    held.is_some_and(|held| published.iter().all(|one| held.contains_key(one)));
                ensure!(held && !published.is_empty(), "{kind:?} of {of:?} is not known");
            }
        }
        Ok(())
    }

    /// How often each side has replaced its authorities, at least.
    pub(super) fn rotations(&self) -> usize {
        self.own.iter().map(|own| lock(own).rotations()).min().unwrap_or(0)
    }

    pub(super) fn side(&self, which: Which) -> &Side {
        match which {
            Which::Foo => &self.foo,
            Which::Bar => &self.bar,
        }
    }

    pub(super) fn side_mut(&mut self, which: Which) -> &mut Side {
        match which {
            Which::Foo => &mut self.foo,
            Which::Bar => &mut self.bar,
        }
    }

    /// How often streams of workloads have ended.
    pub(super) fn breaks(&self) -> usize {
        self.guests.iter().map(Guest::breaks).sum()
    }

    /// Ends everyone who looks.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks.drain(..) {
            task.await.context("somebody who looks")?;
        }
        Ok(())
    }

    /// Ends both sides and leaves their logs.
    pub(super) fn remove_data(&mut self) -> Result<()> {
        self.foo.remove_data()?;
        self.bar.remove_data()
    }
}
