//! The history of a run, written as it happens, and what is counted on the way.
//!
//! One lock orders all lines: an invocation is written before its request leaves, a completion after
//! its reply has arrived.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use steeple_checker::history as h;
use steeple_spiffe_core::time::{Clock as _, SystemClock};

/// Writes a history. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    began: Duration,
    writer: Option<h::Writer<BufWriter<File>>>,
    failure: Option<String>,
    open: BTreeMap<u64, bool>,
    next_call: u64,
    told: Told,
}

/// What clients were told, in numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Calls that were answered.
    pub(crate) ok: u64,
    /// Calls that surely did nothing.
    pub(crate) failed: u64,
    /// Calls of which nobody knows.
    pub(crate) unknown: u64,
    /// When each acknowledged write was, in nanoseconds.
    pub(crate) writes_ns: Vec<u64>,
    /// When each line of the history was written, by its number from 1.
    pub(crate) lines_ns: Vec<u64>,
    /// Answers that no client should ever get, each once.
    pub(crate) strange: Vec<String>,
    /// What was marked, and when.
    pub(crate) marks: Vec<(u64, String)>,
}

/// Strange answers that are kept; the rest are alike.
const STRANGE_MAX: usize = 20;

impl Recorder {
    /// Begins a history.
    pub(crate) fn create(path: &Path, seed: u64) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let inner = Inner {
            began: SystemClock.boot_time(),
            writer: Some(h::Writer::new(BufWriter::new(file))),
            failure: None,
            open: BTreeMap::new(),
            next_call: 1,
            told: Told::default(),
        };
        let recorder = Self(Arc::new(Mutex::new(inner)));
        recorder.lock().add(h::Event::Header(h::Header {
            version: h::event::VERSION,
            name: "steeple-chaos".to_owned(),
            seed: Some(seed),
            // The leader prunes by itself.
            background_prune: true,
            ..h::Header::default()
        }));
        Ok(recorder)
    }

    /// A client is about to call. Returns the call's number.
    pub(crate) fn invoke(
        &self,
        client: u64,
        member: &str,
        request_id: Option<String>,
        op: h::Operation,
    ) -> u64 {
        let mut inner = self.lock();
        let call = inner.next_call;
        inner.next_call += 1;
        inner.open.insert(call, op.is_write());
        let member = Some(member.to_owned());
        inner.add(h::Event::Invoke(h::Invoke { client, call, member, request_id, op }));
        call
    }

    /// A call has ended.
    pub(crate) fn complete(&self, call: u64, outcome: h::Outcome) {
        let mut inner = self.lock();
        let is_write = inner.open.remove(&call).unwrap_or(false);
        let now = inner.now_ns();
        match &outcome {
            h::Outcome::Ok { .. } => {
                inner.told.ok += 1;
                if is_write {
                    inner.told.writes_ns.push(now);
                }
            }
            h::Outcome::Failed { .. } => inner.told.failed += 1,
            h::Outcome::Unknown { .. } => inner.told.unknown += 1,
        }
        inner.add(h::Event::Complete(h::Complete { call, outcome }));
    }

    /// Something happened that is no call.
    pub(crate) fn event(&self, event: h::Event) {
        let mut inner = self.lock();
        if let h::Event::Mark(mark) = &event {
            let now = inner.now_ns();
            inner.told.marks.push((now, mark.what.clone()));
        }
        inner.add(event);
    }

    /// Something that coverage counts.
    pub(crate) fn mark(&self, what: &str) {
        self.event(h::Event::Mark(h::Mark { what: what.to_owned() }));
    }

    /// An answer that no client should ever get.
    pub(crate) fn strange(&self, what: String) {
        let mut inner = self.lock();
        if inner.told.strange.len() < STRANGE_MAX && !inner.told.strange.contains(&what) {
            inner.told.strange.push(what);
        }
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now_ns(&self) -> u64 {
        self.lock().now_ns()
    }

    /// A time since the system's start, in nanoseconds of the run.
    pub(crate) fn ns_of(&self, since_boot: Duration) -> u64 {
        let passed = since_boot.saturating_sub(self.lock().began);
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// How many calls were answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.lock().told.ok
    }

    /// Ends the history: what is written later is lost.
    pub(crate) fn finish(&self) -> Result<Told> {
        let mut inner = self.lock();
        if let Some(writer) = inner.writer.take() {
            writer.into_inner().flush().context("write the history")?;
        }
        if let Some(failure) = inner.failure.take() {
            bail!("write the history: {failure}");
        }
        Ok(inner.told.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn now_ns(&self) -> u64 {
        let passed = SystemClock.boot_time().saturating_sub(self.began);
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
    }

    fn add(&mut self, event: h::Event) {
        let at_ns = self.now_ns();
        let line = h::Line { at_ns, wall_ms: SystemClock.now().unix_ms(), event };
        let Some(writer) = &mut self.writer else { return };
        match writer.write(&line) {
            Ok(()) => self.told.lines_ns.push(at_ns),
            Err(error) => self.failure = self.failure.take().or(Some(error.to_string())),
        }
    }
}
