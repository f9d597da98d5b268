//! A client: one call at a time, to any member, with patience.

use std::time::Duration;

use anyhow::Result;
use steeple_checker::history as h;
use steeple_testkit::client::request_key;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::ask::Ask;
use super::call::{Attempt, Said, attempt};
use crate::record::Recorder;
use steeple_spiffe_core::dice::Dice;

/// How long a client waits for one member's answer.
const ATTEMPT: Duration = Duration::from_millis(1500);

/// Between attempts; a real client's back-off begins near it.
const PAUSE_MS: u64 = 30;

/// How long a client tries in all before it gives up.
const PATIENCE: Duration = Duration::from_secs(8);

/// A client with a key of its own.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its number in the history.
    pub(crate) number: u64,
    pub(crate) dice: Dice,
    channels: Vec<Channel>,
    recorder: Recorder,
    csr: Vec<u8>,
    /// The highest revision that it was told.
    seen: u64,
}

impl Client {
    /// A client of these members.
    pub(crate) fn new(
        number: u64,
        dice: Dice,
        channels: Vec<Channel>,
        recorder: Recorder,
    ) -> Result<Self> {
        let (_key, csr) = request_key()?;
        Ok(Self { number, dice, channels, recorder, csr, seen: 0 })
    }

    /// Asks some member, then others, until there is an answer or its patience ends.
    pub(crate) async fn ask(&mut self, ask: &Ask) -> Option<h::Reply> {
        let first = self.dice.place(self.channels.len());
        self.ask_from(first, true, ask).await
    }

    /// Asks one member and no other.
    pub(crate) async fn ask_member(&mut self, member: usize, ask: &Ask) -> Option<h::Reply> {
        self.ask_from(member, false, ask).await
    }

    async fn ask_from(&mut self, first: usize, may_hop: bool, ask: &Ask) -> Option<h::Reply> {
        let operation = ask.operation();
        let is_write = operation.is_write();
        let request_id = (is_write && ask.may_repeat()).then(|| self.request_id());
        let one =
            Attempt { request_id: request_id.clone(), timeout: ATTEMPT, csr: self.csr.clone() };
        let name = format!("m{first}");
        let call = self.recorder.invoke(self.number, &name, request_id, operation);
        let deadline = Instant::now() + PATIENCE;
        let mut maybe: Option<String> = None;
        let mut turn = first;
        let outcome = loop {
            let channel = self.channels.get(turn).cloned()?;
            match attempt(channel, ask, &one).await {
                Said::Answer { revision, is_stale, reply } => {
                    self.seen = self.seen.max(revision);
                    break h::Outcome::Ok { revision, time_ms: None, stale: is_stale, reply };
                }
                Said::NotDone(text) => {
                    if Instant::now() >= deadline {
                        break ended(maybe, text);
                    }
                }
                Said::Maybe(text) => {
                    if is_write {
                        maybe = Some(text.clone());
                    }
                    if (is_write && !ask.may_repeat()) || Instant::now() >= deadline {
                        break ended(maybe, text);
                    }
                }
                Said::Forgotten { revision, text } => {
                    // An id that says this revision is not too old.
                    self.seen = self.seen.max(revision);
                    break h::Outcome::Unknown { text };
                }
                Said::Strange(text) => {
                    self.recorder.strange(text.clone());
                    break h::Outcome::Unknown { text };
                }
            }
            if may_hop {
                turn = (turn + 1) % self.channels.len();
            }
            let pause = self.dice.within(PAUSE_MS / 2..=PAUSE_MS * 2);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        };
        let reply = match &outcome {
            h::Outcome::Ok { reply, .. } => Some(reply.clone()),
            h::Outcome::Failed { .. } | h::Outcome::Unknown { .. } => None,
        };
        self.recorder.complete(call, outcome);
        reply
    }

    /// Eight bytes for the revision that it has seen, eight drawn.
    fn request_id(&self) -> String {
        format!("{:016x}{:016x}", self.seen, self.dice.any())
    }
}

/// How a call ends without an answer: unknown, if any attempt may have had an effect.
fn ended(maybe: Option<String>, text: String) -> h::Outcome {
    match maybe {
        Some(text) => h::Outcome::Unknown { text },
        None => h::Outcome::Failed { text },
    }
}
