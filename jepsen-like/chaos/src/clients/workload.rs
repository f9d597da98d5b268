//! What clients ask, by a seed: much of it about the same few rows, which change as time goes on.
//!
//! Rows are shared by a few calls at a time: the checker's search grows with the calls that overlap
//! on one row, so rows are left behind after a while and new ones begin.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use steeple_checker::history as h;
use tokio::sync::{RwLock, RwLockWriteGuard, watch};

use super::ask::{Ask, NewEntry};
use super::client::Client;

/// So many calls use one set of rows.
const CALLS_PER_SET: u64 = 200;

/// Likenesses of a set, each with two ids.
const LIKENESSES: usize = 6;

/// Tokens and agents that are remembered to be used again.
const REMEMBERED: usize = 12;

/// What clients share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Workload(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    seed: u64,
    calls: AtomicU64,
    tokens: Mutex<VecDeque<String>>,
    agents: Mutex<VecDeque<String>>,
    /// Shared by calls; whoever has it alone holds all of them up.
    gate: RwLock<()>,
}

impl Workload {
    /// The workload of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let (tokens, agents, gate) = Default::default();
        Self(Arc::new(Shared { seed, calls: AtomicU64::new(0), tokens, agents, gate }))
    }

    /// Calls until told to stop.
    pub(crate) async fn run(self, mut client: Client, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let _passes = self.0.gate.read().await;
            let ask = self.next(&client);
            let reply = client.ask(&ask).await;
            self.learn(&ask, reply.as_ref());
        }
    }

    /// Waits until no call is under way; none begins before what is returned is dropped.
    pub(crate) async fn hold_up(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.gate.write().await
    }

    /// Join tokens that were not spent are void from now on: nobody tries them.
    pub(crate) fn forget_tokens(&self) {
        lock(&self.0.tokens).clear();
    }

    fn next(&self, client: &Client) -> Ask {
        let number = self.0.calls.fetch_add(1, Ordering::Relaxed);
        let dice = &client.dice;
        // Now and then someone comes back to the rows before.
        let set = (number / CALLS_PER_SET).saturating_sub(u64::from(dice.chance(0.1)));
        let parent = format!("/set/{}-{set}", self.0.seed);
        let new = || {
            let likeness = format!("s{}-{set}-{}", self.0.seed, dice.place(LIKENESSES));
            let id = format!("{likeness}{}", if dice.chance(0.5) { "a" } else { "b" });
            NewEntry::alike(id, &likeness, parent.clone())
        };
        match dice.within(0..=99) {
            0..=21 => Ask::Create(vec![new()]),
            22..=24 => Ask::Create((0..dice.within(2..=3)).map(|_| new()).collect()),
            25..=39 => Ask::Update { id: new().id, hint: format!("h{number}") },
            40..=52 => Ask::Delete(vec![new().id]),
            53..=54 => Ask::Delete((0..2).map(|_| new().id).collect()),
            55..=72 => Ask::Get(new().id),
            73..=76 => Ask::List { listing: number, parent: Some(parent) },
            77..=78 => Ask::Count,
            79..=83 => Ask::Token(format!("t{}-{number}", self.0.seed)),
            84..=90 => self.about(client, &self.0.tokens, |token| Ask::Attest {
                token,
                client: client.number,
            }),
            91..=92 => self.about(client, &self.0.agents, Ask::Ban),
            93..=94 => self.about(client, &self.0.agents, Ask::Forget),
            95..=98 => self.about(client, &self.0.agents, Ask::Agent),
            _ => Ask::CountAgents,
        }
    }

    /// A question about something that is remembered; a count, if nothing is.
    fn about(
        &self,
        client: &Client,
        among: &Mutex<VecDeque<String>>,
        question: impl FnOnce(String) -> Ask,
    ) -> Ask {
        let known = lock(among);
        let at = client.dice.place(known.len());
        known.get(at).cloned().map_or(Ask::CountAgents, question)
    }

    fn learn(&self, ask: &Ask, reply: Option<&h::Reply>) {
        if reply != Some(&h::Reply::Done) {
            return;
        }
        if let Ask::Token(token) = ask {
            remember(&self.0.tokens, token);
        } else if let Ask::Attest { token, .. } = ask {
            remember(&self.0.agents, token);
        }
    }
}

fn remember(among: &Mutex<VecDeque<String>>, what: &str) {
    let mut known = lock(among);
    known.push_back(what.to_owned());
    if known.len() > REMEMBERED {
        known.pop_front();
    }
}

fn lock(among: &Mutex<VecDeque<String>>) -> MutexGuard<'_, VecDeque<String>> {
    among.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_held_up_and_tokens_of_before_a_restore_are_not_tried() {
        let workload = Workload::new(1);
        let under_way = workload.0.gate.read().await;
        assert!(workload.0.gate.try_write().is_err(), "it waits for calls under way");
        drop(under_way);
        let held_up = workload.hold_up().await;
        assert!(workload.0.gate.try_read().is_err(), "no call begins");
        workload.learn(&Ask::Token("old".to_owned()), Some(&h::Reply::Done));
        workload.forget_tokens();
        assert!(lock(&workload.0.tokens).is_empty());
        drop(held_up);
        assert!(workload.0.gate.try_read().is_ok());
    }
}
