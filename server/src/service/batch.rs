//! Batches: requests of many items that are decided one by one.
//!
//! Owns the grouping of items into commands that fit, and the promise that every item of a request
//! gets an answer in its place. What an item is and how its fate is told is the service's.

use steeple_raft_store::limits::COMMAND_BYTES_MAX;
use steeple_raft_store::{Command, Outcome, ProposeError, Rejection};

use super::context::Context;
use crate::gate::Call;
use crate::status::Failure;

/// Encoded size up to which items share one command: half of what a command may have, since the
/// registry's encoding is not the API's.
const COMMAND_BYTES: usize = COMMAND_BYTES_MAX / 2;

/// Most items of one command, so that applying one does not hold up the others for long.
const COMMAND_ITEMS: usize = 1000;

/// A batch on its way: items `T` that still have to be proposed, and what became of each, `I`.
pub(super) struct Batch<T, I> {
    waiting: Vec<(usize, usize, T)>,
    settled: Vec<Option<I>>,
}

impl<T, I: From<Failure> + Clone> Batch<T, I> {
    pub(super) fn new(len: usize) -> Self {
        Self { waiting: Vec::with_capacity(len), settled: vec![None; len] }
    }

    /// Adds a checked item, which stands at `number` of the request and had `bytes` there.
    pub(super) fn push(&mut self, number: usize, bytes: usize, item: T) {
        self.waiting.push((number, bytes, item));
    }

    /// Says what became of an item.
    pub(super) fn settle(&mut self, number: usize, item: I) {
        if let Some(place) = self.settled.get_mut(number) {
            *place = Some(item);
        }
    }

    /// Proposes what waits, command by command, and settles it by `outcomes`, which is given the
    /// number of items of a command. A command that is refused for what is in it fails its own
    /// items alone; so does any other that fails after an earlier one was applied.
    ///
    /// # Errors
    ///
    /// The store cannot be asked, or no decision is known, and none was applied before.
    pub(super) async fn run(
        &mut self,
        context: &Context,
        call: &Call,
        command: impl Fn(Vec<T>) -> Command,
        outcomes: impl Fn(Result<Outcome, Rejection>, usize) -> Vec<I>,
    ) -> Result<(), Failure> {
        let mut any_applied = false;
        for (part, chunk) in (0..).zip(self.take_chunks()) {
            let (numbers, items): (Vec<usize>, Vec<T>) = chunk.into_iter().unzip();
            let settled = match context.propose(call, part, command(items)).await {
                Ok(applied) => {
                    any_applied = true;
                    outcomes(applied.outcome, numbers.len())
                }
                Err(error) => vec![on_items(error, any_applied)?.into(); numbers.len()],
            };
            for (number, item) in numbers.into_iter().zip(settled) {
                self.settle(number, item);
            }
        }
        Ok(())
    }

    /// One item per request, in order. An item without an outcome would be our mistake; clients
    /// dereference every status, so it is said in one.
    pub(super) fn into_items(self) -> impl Iterator<Item = I> {
        self.settled
            .into_iter()
            .map(|item| item.unwrap_or_else(|| Failure::internal("no outcome").into()))
    }

    /// Takes the waiting items in groups that fit one command each.
    fn take_chunks(&mut self) -> Vec<Vec<(usize, T)>> {
        let mut chunks = Vec::new();
        let (mut chunk, mut chunk_bytes) = (Vec::new(), 0);
        for (number, bytes, item) in self.waiting.drain(..) {
            let full = chunk_bytes + bytes > COMMAND_BYTES || chunk.len() >= COMMAND_ITEMS;
            if full && !chunk.is_empty() {
                chunks.push(std::mem::take(&mut chunk));
                chunk_bytes = 0;
            }
            chunk_bytes += bytes;
            chunk.push((number, item));
        }
        if !chunk.is_empty() {
            chunks.push(chunk);
        }
        chunks
    }
}

/// What the items of a failed command are told; an error fails the request whole. Whoever sends an
/// item that no command can hold is told so of that item: the others are fit.
fn on_items(error: ProposeError, any_applied: bool) -> Result<Failure, Failure> {
    let is_the_items_own = matches!(error, ProposeError::TooLarge { .. });
    let failure = Failure::from(error);
    if is_the_items_own || any_applied { Ok(failure) } else { Err(failure) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_raft_store::Unavailable;

    use super::*;

    #[test]
    fn an_item_that_is_too_large_fails_alone_wherever_it_stands() {
        let too_large = || ProposeError::TooLarge { bytes: 9, max: 8 };
        let lost = || ProposeError::Indeterminate { text: "reply lost".to_owned() };
        let no_leader = || {
            let (text, retry_after) = ("no leader".to_owned(), Duration::ZERO);
            ProposeError::Unavailable(Unavailable { text, retry_after })
        };
        let told = on_items(too_large(), false).expect("the item's own");
        assert!(told.message().contains("larger than 8: give it fewer or shorter"), "{told:?}");
        assert_eq!(on_items(too_large(), true), Ok(told));
        for error in [no_leader(), lost(), ProposeError::Overloaded, ProposeError::NotLeader] {
            assert!(on_items(error.clone(), false).is_err(), "{error}: nothing was decided");
            assert!(on_items(error.clone(), true).is_ok(), "{error}: others were decided");
        }
    }

    #[test]
    fn a_large_batch_is_split_so_that_each_command_fits() {
        let mut batch: Batch<usize, Failure> = Batch::new(5);
        for (number, bytes) in
            [COMMAND_BYTES - 1, 1, 1, COMMAND_BYTES * 3, 1].into_iter().enumerate()
        {
            batch.push(number, bytes, number);
        }
        let numbers: Vec<Vec<usize>> = batch
            .take_chunks()
            .into_iter()
            .map(|chunk| chunk.into_iter().map(|(number, _)| number).collect())
            .collect();
        assert_eq!(numbers, [vec![0, 1], vec![2], vec![3], vec![4]]);
    }

    #[test]
    fn no_command_has_more_than_a_thousand_items() {
        let mut batch: Batch<usize, Failure> = Batch::new(2500);
        (0..2500).for_each(|number| batch.push(number, 1, number));
        let sizes: Vec<usize> = batch.take_chunks().iter().map(Vec::len).collect();
        assert_eq!(sizes, [1000, 1000, 500]);
    }

    #[test]
    fn every_item_has_an_answer_in_the_order_of_the_request() {
        let mut batch: Batch<(), Failure> = Batch::new(2);
        batch.settle(1, Failure::invalid("second"));
        let texts: Vec<String> = batch.into_items().map(|item| item.message().to_owned()).collect();
        assert_eq!(texts, ["no outcome", "second"]);
    }
}
