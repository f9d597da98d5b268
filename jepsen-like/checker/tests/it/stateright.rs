//! The search and stateright's tester say the same of random small histories.

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use steeple_checker::check::linear::{Interval, Linearity, Object, linearizable};

use crate::generator::Rng;

/// Histories compared. Each has at most 24 operations: stateright's tester has no cache.
const HISTORIES: u64 = 4_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Create(u8),
    Update(u8),
    Delete,
    Get,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ret {
    Did(bool),
    Saw(Option<u8>),
}

fn run(state: &mut Option<u8>, op: Op) -> Ret {
    let had = state.is_some();
    match op {
        Op::Create(value) => {
            *state = state.or(Some(value));
            Ret::Did(!had)
        }
        Op::Update(value) => {
            *state = state.map(|_| value);
            Ret::Did(had)
        }
        Op::Delete => {
            *state = None;
            Ret::Did(had)
        }
        Op::Get => Ret::Saw(*state),
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Reference(Option<u8>);

impl SequentialSpec for Reference {
    type Op = Op;
    type Ret = Ret;
    fn invoke(&mut self, op: &Op) -> Ret {
        run(&mut self.0, *op)
    }
}

struct Register;

impl Object for Register {
    type State = Option<u8>;
    /// `None` = nobody knows what came back.
    type Action = (Op, Option<Ret>);

    fn step(&self, state: &Option<u8>, (op, told): &Self::Action) -> Option<Option<u8>> {
        let mut next = *state;
        let ret = run(&mut next, *op);
        match told {
            Some(told) => (ret == *told).then_some(next),
            None => (next != *state).then_some(next),
        }
    }
}

#[test]
fn search_agrees_with_stateright_on_random_histories() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..HISTORIES {
        let (ours, theirs) = both(&mut Rng(seed));
        assert_eq!(ours, theirs, "seed {seed}");
        if ours { good += 1 } else { bad += 1 }
    }
    println!("{good} linearizable, {bad} not");
    assert!(good > HISTORIES / 10 && bad > HISTORIES / 10, "{good} and {bad}: too one-sided");
}

/// Makes a history, lies in half of them, and asks both.
fn both(rng: &mut Rng) -> (bool, bool) {
    let threads = 2 + rng.below(3) as usize;
    let length = 4 + rng.below(14);
    let lie = rng.percent(50).then(|| rng.below(length));
    let mut state = None;
    let mut open: Vec<Option<(usize, Option<Ret>)>> = vec![None; threads];
    let mut actions: Vec<Interval<(Op, Option<Ret>)>> = Vec::new();
    let mut theirs = LinearizabilityTester::new(Reference::default());
    for line in 0..length * 3 {
        let thread = rng.below(threads as u64) as usize;
        match &mut open[thread] {
            None if (actions.len() as u64) < length => {
                let value = rng.below(3) as u8;
                let op = [Op::Create(value), Op::Update(value), Op::Delete, Op::Get, Op::Get]
                    [rng.below(5) as usize];
                open[thread] = Some((actions.len(), None));
                actions.push(Interval { invoked: line, ended: u64::MAX, action: (op, None) });
                theirs.on_invoke(thread, op).unwrap();
            }
            None => {}
            Some((at, ret @ None)) => *ret = Some(run(&mut state, actions[*at].action.0)),
            Some((at, Some(ret))) => {
                let mut told = *ret;
                if lie == Some(*at as u64) {
                    told = match told {
                        Ret::Did(did) => Ret::Did(!did),
                        Ret::Saw(_) => Ret::Saw(rng.percent(50).then(|| rng.below(3) as u8)),
                    };
                }
                actions[*at].ended = line;
                actions[*at].action.1 = Some(told);
                theirs.on_return(thread, told).unwrap();
                open[thread] = None;
            }
        }
    }
    let ours = linearizable(&Register, None, &actions, u64::MAX);
    assert_ne!(ours, Linearity::Undecided);
    (ours == Linearity::Linearizable, theirs.is_consistent())
}

#[test]
fn reaching_the_bound_is_no_verdict() {
    let action = |told| Interval { invoked: 1, ended: 9, action: (Op::Get, Some(told)) };
    let actions = [action(Ret::Saw(None)), action(Ret::Saw(Some(1)))];
    assert_eq!(linearizable(&Register, None, &actions, 1), Linearity::Undecided);
    let enough = linearizable(&Register, None, &actions, 100);
    assert!(matches!(enough, Linearity::Not { .. }), "{enough:?}");
}
