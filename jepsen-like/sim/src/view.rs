//! The rows of one member as its change feed shows them, and reads of them: what a server answers from.
//!
//! Owns no promise: whether what is read is right is `reference`'s and the checker's to say.

use std::cell::RefCell;
use std::collections::BTreeMap;

use steeple_raft_store::{Change, ChangeBatch};
use tokio::sync::watch;

use crate::rows::{self, Key};

/// What a read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// An entry, by id.
    Entry(String),
    /// An agent, by SPIFFE id.
    Agent(String),
    /// A federation relationship, by trust domain.
    Relationship(String),
    /// How many entries there are.
    CountEntries,
    /// How many agents there are.
    CountAgents,
    /// All entries.
    Entries,
    /// All rows, from the tables.
    Everything,
}

impl Read {
    /// The keys that it is about: from the first on, up to the second.
    pub(crate) fn keys(&self) -> (Key, Key) {
        match self {
            Self::Entry(id) => (Key::Entry(id.clone()), Key::Entry(format!("{id}\0"))),
            Self::Agent(id) => (Key::Agent(id.clone()), Key::Agent(format!("{id}\0"))),
            Self::Relationship(name) => {
                (Key::Relationship(name.clone()), Key::Relationship(format!("{name}\0")))
            }
            Self::CountEntries | Self::Entries => {
                (Key::Entry(String::new()), Key::Agent(String::new()))
            }
            Self::CountAgents => (Key::Agent(String::new()), Key::Bundle(String::new())),
            Self::Everything => (Key::Entry(String::new()), Key::End),
        }
    }
}

/// The rows of a member.
#[derive(Debug)]
pub(crate) struct View {
    rows: RefCell<BTreeMap<Key, Change>>,
    reached: watch::Sender<u64>,
}

impl Default for View {
    fn default() -> Self {
        Self { rows: RefCell::default(), reached: watch::Sender::new(0) }
    }
}

impl View {
    /// A subscription begins with these rows.
    pub(crate) fn start(&self, revision: u64, rows: &[Change]) {
        let rows = rows.iter().map(|change| (rows::key(change), change.clone()));
        *self.rows.borrow_mut() = rows.collect();
        self.reached.send_replace(revision);
    }

    /// Takes in a batch.
    pub(crate) fn apply(&self, batch: &ChangeBatch) {
        let mut rows = self.rows.borrow_mut();
        for change in &batch.changes {
            let key = rows::key(change);
            match rows::value(change) {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        self.reached.send_replace(batch.revision.as_u64());
    }

    /// Waits until the rows are those of a revision, or of a later one.
    pub(crate) async fn reaches(&self, revision: u64) {
        // The sender is here: it is not dropped meanwhile.
        self.reached.subscribe().wait_for(|reached| *reached >= revision).await.ok();
    }

    /// The revision and what it has of the rows that were asked for, in order of their keys.
    pub(crate) fn select(&self, what: &Read) -> (u64, Vec<Change>) {
        let (from, to) = what.keys();
        let rows = self.rows.borrow();
        (*self.reached.borrow(), rows.range(from..to).map(|(_, row)| row.clone()).collect())
    }
}
