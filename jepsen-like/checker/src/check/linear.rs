//! Linearizability of one object by search: Wing and Gong's algorithm on a linked list, with Lowe's
//! cache of (what is linearized, state). Trusts nothing but the order of lines.
//!
//! Bounded by steps; at the bound it says so, which is no pass.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// An object as a sequential program.
pub trait Object {
    /// Its state.
    type State: Clone + Eq + Hash;
    /// What is done to it, with what came back.
    type Action;

    /// The state after an action, or `None` if what came back cannot have come from this state. For an
    /// action of unknown outcome: the state if it takes effect here, `None` if it would do nothing.
    fn step(&self, state: &Self::State, action: &Self::Action) -> Option<Self::State>;
}

/// An action and its interval in real time.
#[derive(Clone, Debug)]
pub struct Interval<A> {
    /// The line before which it had no effect.
    pub invoked: u64,
    /// The line by which it had its effect; `u64::MAX` if unknown: then it need not have one at all.
    pub ended: u64,
    /// The action.
    pub action: A,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linearity {
    /// There is an order.
    Linearizable,
    /// There is none: the action of this number is the first that could never be reached.
    Not {
        /// Its place among the actions.
        action: usize,
    },
    /// The bound was reached.
    Undecided,
}

/// Searches for an order of `actions` that explains what came back, from the state `start`.
pub fn linearizable<O: Object>(
    object: &O,
    start: O::State,
    actions: &[Interval<O::Action>],
    steps_max: u64,
) -> Linearity {
    Search::new(object, start, actions, steps_max).run()
}

/// Node 0 is the list's head. Action `i` is called at node `1 + 2i` and returns at node `2 + 2i`.
struct Search<'a, O: Object> {
    object: &'a O,
    actions: &'a [Interval<O::Action>],
    next: Vec<usize>,
    previous: Vec<usize>,
    states: Vec<O::State>,
    numbers: HashMap<O::State, usize>,
    cache: HashSet<(Done, usize)>,
    done: Done,
    steps_left: u64,
}

/// No node.
const END: usize = usize::MAX;

/// A set of actions. All words before the first that is not full are left out, since most actions are
/// done long before the ones at hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Done {
    full: usize,
    words: Vec<u64>,
}

impl Done {
    fn insert(&mut self, action: usize) {
        let (word, bit) = (action / 64, action % 64);
        let Some(place) = word.checked_sub(self.full) else { return };
        if self.words.len() <= place {
            self.words.resize(place + 1, 0);
        }
        if let Some(word) = self.words.get_mut(place) {
            *word |= 1 << bit;
        }
        let leading = self.words.iter().take_while(|word| **word == u64::MAX).count();
        self.words.drain(..leading);
        self.full += leading;
    }

    fn remove(&mut self, action: usize) {
        let (word, bit) = (action / 64, action % 64);
        while word < self.full {
            self.words.insert(0, u64::MAX);
            self.full -= 1;
        }
        if let Some(word) = self.words.get_mut(word - self.full) {
            *word &= !(1 << bit);
        }
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

impl<'a, O: Object> Search<'a, O> {
    fn new(
        object: &'a O,
        start: O::State,
        actions: &'a [Interval<O::Action>],
        steps_max: u64,
    ) -> Self {
        // An end before a beginning of the same line would be a mistake: lines are unique.
        let mut events: Vec<(u64, usize)> = Vec::with_capacity(actions.len() * 2);
        for (action, interval) in actions.iter().enumerate() {
            events.push((interval.invoked, 1 + 2 * action));
            events.push((interval.ended, 2 + 2 * action));
        }
        events.sort_unstable();
        let mut next = vec![END; 1 + 2 * actions.len()];
        let mut previous = next.clone();
        let mut last = 0;
        for (_, node) in events {
            link(&mut next, last, node);
            link(&mut previous, node, last);
            last = node;
        }
        Self {
            object,
            actions,
            next,
            previous,
            numbers: HashMap::from([(start.clone(), 0)]),
            states: vec![start],
            cache: HashSet::new(),
            done: Done::default(),
            steps_left: steps_max,
        }
    }

    fn run(mut self) -> Linearity {
        let mut taken: Vec<(usize, usize)> = Vec::new();
        let mut state = 0;
        let mut node = self.after(0);
        let mut deepest = (0, 0);
        loop {
            let Some((action, is_return)) = position(node) else { return Linearity::Linearizable };
            if self.steps_left == 0 {
                return Linearity::Undecided;
            }
            self.steps_left -= 1;
            if !is_return {
                if let Some(new) = self.take(action, state) {
                    taken.push((action, state));
                    state = new;
                    self.lift(action);
                    node = self.after(0);
                } else {
                    node = self.after(node);
                }
                continue;
            }
            if self.is_open(action) {
                // Everything that ended is in order; what is left need not have happened.
                return Linearity::Linearizable;
            }
            if taken.len() >= deepest.0 {
                deepest = (taken.len(), action);
            }
            let Some((action, before)) = taken.pop() else {
                return Linearity::Not { action: deepest.1 };
            };
            self.done.remove(action);
            self.unlift(action);
            state = before;
            node = self.after(1 + 2 * action);
        }
    }

    /// The state after an action, if it is possible and was not tried before.
    fn take(&mut self, action: usize, state: usize) -> Option<usize> {
        let before = self.states.get(state)?;
        let after = self.object.step(before, &self.actions.get(action)?.action)?;
        let next = self.states.len();
        let number = *self.numbers.entry(after).or_insert_with_key(|after| {
            self.states.push(after.clone());
            next
        });
        self.done.insert(action);
        if self.cache.insert((self.done.clone(), number)) {
            return Some(number);
        }
        self.done.remove(action);
        None
    }

    fn is_open(&self, action: usize) -> bool {
        self.actions.get(action).is_some_and(|interval| interval.ended == u64::MAX)
    }

    fn after(&self, node: usize) -> usize {
        self.next.get(node).copied().unwrap_or(END)
    }

    /// Takes both nodes of an action out of the list.
    fn lift(&mut self, action: usize) {
        for node in [1 + 2 * action, 2 + 2 * action] {
            let (before, after) = (self.before(node), self.after(node));
            link(&mut self.next, before, after);
            link(&mut self.previous, after, before);
        }
    }

    /// Puts them back, in the opposite order.
    fn unlift(&mut self, action: usize) {
        for node in [2 + 2 * action, 1 + 2 * action] {
            let (before, after) = (self.before(node), self.after(node));
            link(&mut self.next, before, node);
            link(&mut self.previous, after, node);
        }
    }

    fn before(&self, node: usize) -> usize {
        self.previous.get(node).copied().unwrap_or(END)
    }
}

fn link(list: &mut [usize], from: usize, to: usize) {
    if let Some(place) = list.get_mut(from) {
        *place = to;
    }
}

/// A node's action and whether it is its return; `None` behind the last.
fn position(node: usize) -> Option<(usize, bool)> {
    let place = node.checked_sub(1).filter(|_| node != END)?;
    Some((place / 2, place % 2 == 1))
}
