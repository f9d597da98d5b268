//! The faults of a run as they happened: a file with a line for each beginning and end, and a list.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use serde::Serialize;
use steeple_checker::history as h;

use crate::options::Nemesis;
use crate::record::Recorder;

/// A fault that was installed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    /// Its number in the run.
    pub(crate) number: usize,
    /// Its kind.
    pub(crate) nemesis: String,
    /// What was done in particular.
    pub(crate) how: String,
    /// Whom it hit.
    pub(crate) members: Vec<usize>,
    /// Whether the leader was among them.
    pub(crate) hit_leader: bool,
    /// When it began, in nanoseconds of the run.
    pub(crate) from_ns: u64,
    /// When it ended.
    pub(crate) until_ns: Option<u64>,
}

/// Writes the journal. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    inner: Arc<Mutex<(File, Vec<Entry>)>>,
    recorder: Recorder,
}

impl Journal {
    /// Begins a journal.
    pub(crate) fn create(path: &Path, recorder: Recorder) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { inner: Arc::new(Mutex::new((file, Vec::new()))), recorder })
    }

    /// A fault is about to begin: in the history before its first effect. Returns its number.
    pub(crate) fn begin(
        &self,
        nemesis: Nemesis,
        how: &str,
        members: &[usize],
        hit_leader: bool,
    ) -> Result<usize> {
        self.tell(nemesis, h::FaultState::Installed, members, hit_leader);
        let mut inner = self.lock();
        let (file, entries) = &mut *inner;
        let entry = Entry {
            number: entries.len(),
            nemesis: nemesis.name().to_owned(),
            how: how.to_owned(),
            members: members.to_vec(),
            hit_leader,
            from_ns: self.recorder.now_ns(),
            until_ns: None,
        };
        line(file, &entry)?;
        entries.push(entry);
        Ok(entries.len() - 1)
    }

    /// A fault is over.
    pub(crate) fn end(&self, nemesis: Nemesis, number: usize) -> Result<()> {
        let (members, hit_leader) = {
            let mut inner = self.lock();
            let (file, entries) = &mut *inner;
            let entry = entries.get_mut(number).context("a fault that never began")?;
            entry.until_ns = Some(self.recorder.now_ns());
            line(file, entry)?;
            (entry.members.clone(), entry.hit_leader)
        };
        self.tell(nemesis, h::FaultState::Removed, &members, hit_leader);
        Ok(())
    }

    /// Nobody knows whether a fault is in force.
    pub(crate) fn lost(&self, nemesis: Nemesis) {
        self.tell(nemesis, h::FaultState::Indeterminate, &[], false);
    }

    /// All faults so far.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().1.clone()
    }

    fn tell(&self, nemesis: Nemesis, state: h::FaultState, members: &[usize], hit_leader: bool) {
        self.recorder.event(h::Event::Nemesis(h::Fault {
            fault: nemesis.name().to_owned(),
            state,
            members: members.iter().map(|at| format!("m{at}")).collect(),
            hit_leader,
        }));
    }

    fn lock(&self) -> MutexGuard<'_, (File, Vec<Entry>)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(file: &mut File, entry: &Entry) -> Result<()> {
    let mut text = serde_json::to_string(entry).context("encode a fault")?;
    text.push('\n');
    file.write_all(text.as_bytes()).context("write the journal")
}
