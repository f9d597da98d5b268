//! What workloads saw, as it happened: a line of a file each, and a list to be judged.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use serde::Serialize;
use steeple_spiffe_core::time::{Clock as _, SystemClock};

use crate::record::Recorder;

/// Something that a workload saw.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sight {
    /// When, in nanoseconds of the run.
    pub(crate) at_ns: u64,
    /// When by the wall clock, by which SVIDs end, in milliseconds since 1970.
    pub(crate) wall_ms: i64,
    /// Which agent served it.
    pub(crate) agent: usize,
    /// Which workload of that agent.
    pub(crate) workload: usize,
    /// What it was.
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What there is to see on a Workload API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum What {
    /// A message of the stream of X.509-SVIDs that is held open.
    Svids { svids: Vec<Svid> },
    /// A message of one of the streams of bundles.
    Bundles { stream: &'static str },
    /// A new connection was given its SVIDs.
    Fetched { svids: usize, took_ms: u64 },
    /// A JWT-SVID.
    Token { subject: String, expires_ms: i64, took_ms: u64 },
    /// A call that failed, a stream that ended, something that does not prove what it says.
    Failed { call: &'static str, text: String },
}

/// An X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Svid {
    /// Whose.
    pub(crate) id: String,
    /// Which.
    pub(crate) serial: String,
    /// When it ends, in milliseconds since 1970.
    pub(crate) not_after_ms: i64,
}

/// Writes down what workloads see. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Notebook {
    recorder: Recorder,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    file: BufWriter<File>,
    failure: Option<String>,
    sights: Vec<Sight>,
}

impl Notebook {
    /// Begins a notebook.
    pub(crate) fn create(path: &Path, recorder: Recorder) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let inner = Inner { file: BufWriter::new(file), failure: None, sights: Vec::new() };
        Ok(Self { recorder, inner: Arc::new(Mutex::new(inner)) })
    }

    /// A workload sees something.
    pub(crate) fn note(&self, agent: usize, workload: usize, what: What) {
        let mut inner = self.lock();
        let at_ns = self.recorder.now_ns();
        let sight = Sight { at_ns, wall_ms: now_ms(), agent, workload, what };
        let line = serde_json::to_string(&sight).map_err(|error| error.to_string());
        let written =
            line.and_then(|line| writeln!(inner.file, "{line}").map_err(|error| error.to_string()));
        inner.failure = inner.failure.take().or(written.err());
        inner.sights.push(sight);
    }

    /// The newest message on a workload's stream of X.509-SVIDs.
    pub(crate) fn held(&self, agent: usize, workload: usize) -> Vec<Svid> {
        let inner = self.lock();
        let own =
            inner.sights.iter().rev().filter(|one| (one.agent, one.workload) == (agent, workload));
        let mut messages = own.filter_map(|one| match &one.what {
            What::Svids { svids } => Some(svids.clone()),
            What::Bundles { .. }
            | What::Fetched { .. }
            | What::Token { .. }
            | What::Failed { .. } => None,
        });
        messages.next().unwrap_or_default()
    }

    /// Whether a workload was given a token.
    pub(crate) fn has_token(&self, agent: usize, workload: usize) -> bool {
        let is_own = |one: &Sight| (one.agent, one.workload) == (agent, workload);
        let is_token = |what: &What| matches!(what, What::Token { .. });
        self.lock().sights.iter().any(|one| is_own(one) && is_token(&one.what))
    }

    /// Everything that was seen. Nothing is to be written after it.
    pub(crate) fn finish(&self) -> Result<Vec<Sight>> {
        let mut inner = self.lock();
        inner.file.flush().context("write the notebook")?;
        if let Some(failure) = inner.failure.take() {
            anyhow::bail!("write the notebook: {failure}");
        }
        Ok(std::mem::take(&mut inner.sights))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wall clock in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    SystemClock.now().unix_ms()
}
