//! Clients: one call at a time each, retried under the same request id at another member when the
//! answer is lost.
//!
//! Owns what a client believes; whether it was told the truth is `promises`'.

use std::time::Duration;

use steeple_raft_store::{RequestId, Revision};
use steeple_spiffe_core::random::SeededRandom;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::member::{Answer, Ask, Job};
use crate::workload::Operation;
use steeple_spiffe_core::dice::Dice;

/// Attempts of one call.
const ATTEMPTS: u32 = 4;

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its number.
    pub(crate) id: u64,
    /// When it calls again, in milliseconds.
    pub(crate) next_ms: u64,
    /// The newest revision that it knows.
    pub(crate) seen: u64,
    /// The call it is in.
    pub(crate) call: Option<Call>,
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Call {
    /// Names the call.
    pub(crate) number: u64,
    /// What is asked.
    pub(crate) operation: Operation,
    /// Under which id.
    pub(crate) request: RequestId,
    /// What was promised to anyone before the call began.
    pub(crate) floor: u64,
    /// The attempt under way.
    pub(crate) attempt: Option<Attempt>,
    /// When the next attempt is made, in milliseconds.
    pub(crate) retry_ms: u64,
    attempts: u32,
    /// An answer was lost.
    unknown: bool,
}

/// An attempt under way.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The member that was asked.
    pub(crate) member: usize,
    answer: oneshot::Receiver<Answer>,
    until_ms: u64,
    answer_is_lost: bool,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// With an answer that says something, from a member.
    Answered(usize, Answer),
    /// Surely without effect.
    Failed(String),
    /// Nobody knows.
    Unknown(String),
}

impl Call {
    /// A call that begins now.
    pub(crate) fn new(
        number: u64,
        operation: Operation,
        (floor, seen): (u64, u64),
        random: &SeededRandom,
    ) -> Self {
        let request = RequestId::fresh(Revision::from_u64(seen), random);
        let (attempt, retry_ms, attempts, unknown) = (None, 0, 0, false);
        Self { number, operation, request, floor, attempt, retry_ms, attempts, unknown }
    }

    /// The same request once more, on its own way; `None` for what is not remembered by its id.
    ///
    /// While the call is open the other may have the effect that this one says it has not: then this
    /// one is of unknown outcome at best.
    pub(crate) fn again(&mut self, is_open: bool, at_ms: u64) -> Option<Self> {
        let Operation::Command(_) = &self.operation else { return None };
        // An id without a revision may be forgotten without a word, when a clock leaps far enough.
        if self.request.0.starts_with(&[0; 8]) {
            return None;
        }
        self.unknown |= is_open;
        let (operation, request) = (self.operation.clone(), self.request);
        let (number, floor, retry_ms) = (self.number, self.floor, at_ms);
        let (attempt, attempts, unknown) = (None, 0, true);
        Some(Self { number, operation, request, floor, attempt, retry_ms, attempts, unknown })
    }

    /// Asks a member; the job is to be handed to it.
    pub(crate) fn ask(&mut self, member: usize, now_ms: u64, dice: &Dice, loss: f64) -> Job {
        let ask = match &self.operation {
            Operation::Command(command) => Ask::Propose(command.clone(), self.request),
            Operation::Duty(command) => Ask::Duty(command.clone()),
            Operation::Read(what) => Ask::Read(what.clone()),
        };
        let timeout_ms = dice.within(200..=1_500);
        let (reply, answer) = oneshot::channel();
        self.attempts += 1;
        self.attempt = Some(Attempt {
            member,
            answer,
            // The member gives up first, unless it stands still.
            until_ms: now_ms + timeout_ms + 300,
            answer_is_lost: dice.chance(loss),
        });
        Job { ask, timeout: Duration::from_millis(timeout_ms), reply }
    }

    /// Looks whether the attempt is over, and then whether the call is.
    pub(crate) fn poll(&mut self, now_ms: u64, dice: &Dice) -> Option<End> {
        let attempt = self.attempt.as_mut()?;
        let member = attempt.member;
        let answer = match attempt.answer.try_recv() {
            Ok(_) if attempt.answer_is_lost => Answer::Unknown("the reply was lost".to_owned()),
            Ok(answer) => answer,
            Err(TryRecvError::Closed) => Answer::Unknown("the member is gone".to_owned()),
            Err(TryRecvError::Empty) if now_ms < attempt.until_ms => return None,
            Err(TryRecvError::Empty) => Answer::Unknown("no answer in time".to_owned()),
        };
        self.attempt = None;
        // A duty has no request id of the caller's: it is not tried again.
        let is_duty = matches!(self.operation, Operation::Duty(_));
        let last = is_duty || self.attempts >= ATTEMPTS;
        self.retry_ms = now_ms + dice.within(5..=100);
        match answer {
            Answer::Unknown(text) => {
                self.unknown = true;
                last.then(|| self.over(text))
            }
            Answer::Failed(text) => last.then(|| self.over(text)),
            answer @ (Answer::Applied(_) | Answer::Rows { .. } | Answer::Done) => {
                Some(End::Answered(member, answer))
            }
        }
    }

    /// What is known when the client gives up.
    pub(crate) fn over(&self, text: String) -> End {
        if self.unknown && !matches!(self.operation, Operation::Read(_)) {
            End::Unknown(text)
        } else {
            End::Failed(text)
        }
    }
}
