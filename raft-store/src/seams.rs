//! Where a store meets the outside world: clock, randomness, disk, network. All four are arguments,
//! so that a whole cluster can run in a seeded simulation.

use std::sync::Arc;

use steeple_spiffe_core::Clock;
use steeple_spiffe_core::random::Random;

use crate::mem::MemoryDisk;
use crate::net::Transport;

/// The outside world of one member.
#[derive(Clone, Debug)]
pub struct Seams {
    /// Wall clock and boot-time clock.
    pub clock: Arc<dyn Clock>,
    /// Ids, nonces.
    pub random: Arc<dyn Random>,
    /// Where log and tables are kept.
    pub storage: Storage,
    /// How other members are dialled and listened for.
    pub transport: Arc<dyn Transport>,
}

/// Where log and tables are kept.
#[derive(Clone, Debug)]
pub enum Storage {
    /// In RocksDB, below the configured folder.
    Rocks,
    /// In memory. A store that is opened again on the same disk finds what it had written.
    Memory(Arc<MemoryDisk>),
}
