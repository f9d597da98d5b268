//! What happens to packets from one node to another. One link for each direction.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a link does to a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Link {
    /// Nothing passes.
    pub(crate) is_cut: bool,
    /// Shortest and longest delay in microseconds.
    pub(crate) delay_us: (u64, u64),
    /// Share of packets that are lost.
    pub(crate) loss: f64,
    /// Share of packets that arrive twice.
    pub(crate) duplicate: f64,
    /// Share of packets that others may overtake.
    pub(crate) reorder: f64,
}

/// All links between so many nodes, shared with the switch.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    nodes: usize,
    table: Arc<Mutex<Vec<Link>>>,
    connections: Arc<Mutex<Vec<Connection>>>,
}

/// A connection that was asked for: when since the system's start, from which node, to which.
pub(crate) type Connection = (Duration, usize, usize);

/// Above so many nobody counts on.
const CONNECTIONS_MAX: usize = 1 << 20;

impl Links {
    /// Links that do nothing to packets.
    pub(crate) fn new(nodes: usize) -> Self {
        let table = Arc::new(Mutex::new(vec![Link::default(); nodes * nodes]));
        Self { nodes, table, connections: Arc::default() }
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    /// The link from one node to another.
    pub(crate) fn get(&self, from: usize, to: usize) -> Link {
        self.lock().get(from * self.nodes + to).copied().unwrap_or_default()
    }

    /// Changes the link from one node to another.
    pub(crate) fn set(&self, from: usize, to: usize, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.lock().get_mut(from * self.nodes + to) {
            change(link);
        }
    }

    /// Makes every link do nothing to packets.
    pub(crate) fn mend(&self) {
        self.lock().fill(Link::default());
    }

    /// Somebody asks for a connection.
    pub(super) fn note_connection(&self, connection: Connection) {
        let mut known = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < CONNECTIONS_MAX {
            known.push(connection);
        }
    }

    /// All that were asked for, in their order.
    pub(crate) fn connections(&self) -> Vec<Connection> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
