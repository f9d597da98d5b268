//! Pairs the lines of a history: invocations with their completions, observations by kind.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use super::event::{Bundle, Event, Fault, Feed, Header, Line, Mark, Outcome, StateHash};
use super::operation::{Operation, Reply};
use super::read::{HistoryError, ReadLimits, Reader};

/// A call's place in [`History::calls`].
pub type CallId = usize;

/// A call and how it ended. Lines are its interval in real time.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who called.
    pub client: u64,
    /// The request id.
    pub request_id: Option<String>,
    /// What was asked.
    pub op: Arc<Operation>,
    /// The line of its invocation.
    pub invoked: u64,
    /// The line of its completion; none if it never ended.
    pub completed: Option<u64>,
    /// How it ended.
    pub answer: Answer,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With a decision or a read.
    Ok {
        /// The state that it reflects.
        revision: u64,
        /// Cluster time in Unix milliseconds.
        time_ms: Option<i64>,
        /// Whether it may be stale.
        stale: bool,
        /// What came back.
        reply: Reply,
    },
    /// Surely without effect.
    Failed,
    /// Nobody knows; also when it never ended.
    Unknown,
}

impl Call {
    /// The revision of an ok answer.
    pub fn revision(&self) -> Option<u64> {
        match &self.answer {
            Answer::Ok { revision, .. } => Some(*revision),
            Answer::Failed | Answer::Unknown => None,
        }
    }

    /// The reply of an ok answer.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.answer {
            Answer::Ok { reply, .. } => Some(reply),
            Answer::Failed | Answer::Unknown => None,
        }
    }

    /// Whether the answer said that it may be stale.
    pub fn is_stale(&self) -> bool {
        matches!(self.answer, Answer::Ok { stale: true, .. })
    }

    /// Whether it is a read of the newest state: neither stale nor a later page of a listing, which
    /// goes on with the state of the first.
    pub fn is_fresh_read(&self) -> bool {
        let is_later_page = matches!(*self.op, Operation::ListEntries { first: false, .. });
        !self.op.is_write() && !self.is_stale() && !is_later_page
    }

    /// The line after which it surely has no further effect; never for unknown ones.
    pub fn ended(&self) -> u64 {
        match self.answer {
            Answer::Unknown => u64::MAX,
            Answer::Ok { .. } | Answer::Failed => self.completed.unwrap_or(u64::MAX),
        }
    }

    /// The line that shows it best.
    pub fn line(&self) -> u64 {
        self.completed.unwrap_or(self.invoked)
    }
}

/// A whole history.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The run.
    pub header: Header,
    /// Calls in the order of their invocations.
    pub calls: Vec<Call>,
    /// Faults with their lines.
    pub faults: Vec<(u64, Fault)>,
    /// Marks with their lines.
    pub marks: Vec<(u64, Mark)>,
    /// State hashes with their lines.
    pub hashes: Vec<(u64, StateHash)>,
    /// Feed steps with their lines.
    pub feeds: Vec<(u64, Feed)>,
    /// Bundles with their lines.
    pub bundles: Vec<(u64, Bundle)>,
}

impl History {
    /// Reads a history.
    ///
    /// # Errors
    ///
    /// If a line is not one of the format, or the lines do not fit together.
    pub fn read(input: impl BufRead, limits: ReadLimits) -> Result<Self, HistoryError> {
        let mut reader = Reader::new(input, limits);
        let mut pairing = Pairing::default();
        while let Some((line, event)) = reader.next_line()? {
            pairing.add(line, event)?;
        }
        pairing.end()
    }

    /// Puts lines together that were never text.
    ///
    /// # Errors
    ///
    /// If the lines do not fit together.
    pub fn from_lines(lines: impl IntoIterator<Item = Line>) -> Result<Self, HistoryError> {
        let mut pairing = Pairing::default();
        for (number, line) in (1..).zip(lines) {
            pairing.add(number, line)?;
        }
        pairing.end()
    }
}

#[derive(Default)]
struct Pairing {
    history: History,
    has_header: bool,
    /// Open and closed calls by their number.
    by_number: HashMap<u64, CallId>,
    /// The open call of each client.
    busy: HashMap<u64, u64>,
}

impl Pairing {
    fn add(&mut self, line: u64, record: Line) -> Result<(), HistoryError> {
        let wrong = |what: String| HistoryError::Order { line, what };
        match record.event {
            Event::Header(header) => {
                self.has_header = true;
                self.history.header = header;
            }
            Event::Invoke(invoke) => {
                if let Some(open) = self.busy.insert(invoke.client, invoke.call) {
                    let what = format!("client {} has call {open} open", invoke.client);
                    return Err(wrong(what));
                }
                let id = self.history.calls.len();
                if self.by_number.insert(invoke.call, id).is_some() {
                    return Err(wrong(format!("call {} was invoked before", invoke.call)));
                }
                self.history.calls.push(Call {
                    client: invoke.client,
                    request_id: invoke.request_id,
                    op: Arc::new(invoke.op),
                    invoked: line,
                    completed: None,
                    answer: Answer::Unknown,
                });
            }
            Event::Complete(complete) => {
                let number = complete.call;
                let id = self.by_number.get(&number).copied();
                let call = id.and_then(|id| self.history.calls.get_mut(id));
                let call = call.ok_or_else(|| wrong(format!("call {number} never began")))?;
                if call.completed.replace(line).is_some() {
                    return Err(wrong(format!("call {number} has ended before")));
                }
                self.busy.remove(&call.client);
                call.answer = answer(&call.op, complete.outcome).ok_or_else(|| {
                    wrong(format!("the reply of call {number} is another operation's"))
                })?;
            }
            Event::Nemesis(fault) => self.history.faults.push((line, fault)),
            Event::Mark(mark) => self.history.marks.push((line, mark)),
            Event::StateHash(hash) => self.history.hashes.push((line, hash)),
            Event::Feed(feed) => self.history.feeds.push((line, feed)),
            Event::Bundle(bundle) => self.history.bundles.push((line, bundle)),
        }
        Ok(())
    }

    fn end(self) -> Result<History, HistoryError> {
        if self.has_header { Ok(self.history) } else { Err(HistoryError::NoHeader) }
    }
}

/// The answer, if the reply is one that the operation can have.
fn answer(op: &Operation, outcome: Outcome) -> Option<Answer> {
    match outcome {
        Outcome::Ok { revision, time_ms, stale, reply } => {
            fits(op, &reply).then_some(Answer::Ok { revision, time_ms, stale, reply })
        }
        Outcome::Failed { .. } => Some(Answer::Failed),
        Outcome::Unknown { .. } => Some(Answer::Unknown),
    }
}

fn fits(op: &Operation, reply: &Reply) -> bool {
    let items = |count: usize| matches!(reply, Reply::Items(items) if items.len() == count);
    let refused = matches!(reply, Reply::Rejected(_));
    match op {
        Operation::CreateEntries(entries) => refused || items(entries.len()),
        Operation::UpdateEntries(updates) => refused || items(updates.len()),
        Operation::DeleteEntries(ids) => refused || items(ids.len()),
        Operation::CreateRelationships(all) => refused || items(all.len()),
        Operation::UpdateRelationships(updates) => refused || items(updates.len()),
        Operation::DeleteRelationships(names) => refused || items(names.len()),
        Operation::GetRelationship { .. } => matches!(reply, Reply::Relationship(_)),
        Operation::GetEntry { .. } => matches!(reply, Reply::Entry(_)),
        Operation::ListEntries { .. } => matches!(reply, Reply::Page(_)),
        Operation::CountEntries | Operation::CountAgents => matches!(reply, Reply::Count(_)),
        Operation::GetAgent { .. } => matches!(reply, Reply::Agent(_)),
        Operation::PruneExpired(_) => refused || matches!(reply, Reply::Pruned(_)),
        Operation::InitCluster { .. }
        | Operation::CreateToken(_)
        | Operation::AdmitAgent(_)
        | Operation::SetPendingSerial { .. }
        | Operation::PromoteSerial { .. }
        | Operation::BanAgent { .. }
        | Operation::DeleteAgent { .. }
        | Operation::SetAgentVersion { .. } => refused || *reply == Reply::Done,
    }
}
