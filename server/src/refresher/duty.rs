//! The leader's loop: asks each peer when it is due, several at a time, and notes what came of it.
//!
//! When, and what follows from what came, is `round`'s; here it is carried out.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use steeple_spiffe_core::TrustDomain;

use super::attempt::Refresher;
use super::round::{Due, Ended, Round};

/// Peers that are asked at a time: ten thousand are asked within their hints, and a few dozen that
/// do not answer hold nobody up for long.
const AT_A_TIME: usize = 32;

/// So often the plan is looked at, whatever it says: clocks that stand still while a machine
/// sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type UnderWay<'a> = FuturesUnordered<BoxFuture<'a, Option<Ended>>>;

impl Refresher {
    /// Fetches for the leader of a term; ends only by being dropped.
    pub async fn lead(&self, term: u64) {
        let mut round = Round::new(self.known());
        let mut under_way = UnderWay::new();
        let mut revision = self.views.subscribe_revision();
        let forget = |trust_domain: TrustDomain| self.forget(trust_domain, term).boxed();
        under_way.extend(round.strangers().into_iter().map(forget));
        let mut taken = None;
        loop {
            let seen = self.views.federation_revision();
            if taken.replace(seen) != Some(seen) {
                under_way.extend(round.take().into_iter().map(forget));
            }
            for news in round.look() {
                news.tell();
            }
            for due in round.start(AT_A_TIME.saturating_sub(under_way.len())) {
                under_way.push(self.run_one(due, term).boxed());
            }
            let has_room = under_way.len() < AT_A_TIME;
            let pause = round.pause().filter(|_| has_room).unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
            let moved = async {
                let moved = revision.wait_for(|_| self.views.federation_revision() != seen).await;
                moved.is_ok()
            };
            tokio::select! {
                Some(ended) = under_way.next() => {
                    if let Some(ended) = ended {
                        under_way.extend(round.end(ended).into_iter().map(forget));
                    }
                }
                is_there = moved => {
                    if !is_there {
                        // The views are gone, and the process with them.
                        std::future::pending::<()>().await;
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Asks, and proposes what everyone has to hear of it.
    async fn run_one(&self, due: Due, term: u64) -> Option<Ended> {
        let tried = self.attempt(&due.relationship).await;
        let (command, ended) = self.known().ended(due, tried);
        let Some(command) = command else { return Some(ended) };
        let decided = self.handle.propose_duty(command, term).await;
        let outcome = decided.map(|applied| applied.outcome).map_err(|error| error.to_string());
        Some(ended.decided(outcome))
    }

    async fn forget(&self, trust_domain: TrustDomain, term: u64) -> Option<Ended> {
        if let Some(command) = self.known().forgets(trust_domain) {
            // What could not be forgotten now, the next leader forgets.
            self.handle.propose_duty(command, term).await.ok();
        }
        None
    }
}
