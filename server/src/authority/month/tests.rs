//! The runs.

use std::time::Duration;

use super::leaders::Death;
use super::pair::{Pair, Side};
use super::world::{Setup, World};

const HOUR: Duration = Duration::from_secs(3600);

/// Prepared after three hours, activated after five: with rotations by hand in between, some hundred of
/// each kind in a month.
const CA_TTL: Duration = Duration::from_secs(6 * 3600);

#[test]
fn thirty_days_of_rotation_surprise_nobody() {
    let mut restores = 0;
    for seed in [1, 2] {
        let mut world = World::new(seed, Setup::alone(CA_TTL));
        world.run(HOUR * 24 * 30);
        let judge = &world.judge;
        println!(
            "seed {seed}: {} rotations, {} SVIDs, {} bundles held, {} commands late, {} refused for \
             their clock, {} at the latest moment, {} restores, leaders died {:?}",
            judge.activations,
            judge.svids,
            judge.bundles_held,
            world.late,
            judge.clocks_refused,
            judge.forced_count(),
            world.restores,
            world.deaths
        );
        assert!(judge.verdict().is_empty(), "seed {seed}: {:#?}", judge.verdict());
        assert!(judge.activations >= 100 && judge.svids > 5_000 && judge.bundles_held > 10_000);
        assert!(world.late > 0, "no would-be leader ever came too late");
        for step in ["prepare", "activate", "prune"] {
            for death in [Death::BeforeProposing, Death::InFlight, Death::AfterCommit] {
                let died = world.deaths.get(&(step, death));
                assert!(died.is_some(), "seed {seed}: no leader died {death:?} at {step}");
            }
        }
        restores += world.restores;
    }
    assert!(restores > 0, "nothing was restored");
}

#[test]
fn wit_keys_rotate_through_deaths_and_restores_as_the_others_do() {
    let mut setup = Setup::alone(CA_TTL);
    setup.policy.wit_svids = true;
    setup.restored_one_in = 5_000;
    let mut world = World::new(3, setup);
    world.run(HOUR * 24 * 7);
    let judge = &world.judge;
    println!(
        "{} rotations, {} of WIT keys, {} SVIDs, {} restores, leaders died {:?}",
        judge.activations, judge.wit_activations, judge.svids, world.restores, world.deaths
    );
    assert!(judge.verdict().is_empty(), "{:#?}", judge.verdict());
    assert!(judge.wit_activations >= 25 && judge.svids > 1_000, "too few rotations");
    assert!(world.restores > 0, "nothing was restored");
}

/// How much a longer run is to do: so many seeds, or days of each.
fn wanted(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn two_trust_domains_that_federate_go_on_verifying_each_other() {
    let days = wanted("STEEPLE_FEDERATED_DAYS", 7);
    let (mut all_died, mut restores, mut overtaken, mut by_hand) = (0, 0, 0, 0);
    for seed in 1..=wanted("STEEPLE_FEDERATED_SEEDS", 1) {
        let mut pair = Pair::new(u64::from(seed));
        pair.run(HOUR * 24 * days);
        all_died += pair.all_died;
        for side in &pair.sides {
            let name = &side.world.common.trust_domain;
            println!("seed {seed}, {days} days of {name}: {}", told(side));
            let verdict = side.world.judge.verdict();
            assert!(verdict.is_empty(), "seed {seed}, {name}: {verdict:#?}");
            federated(side, days);
            restores += side.world.restores;
            overtaken += side.world.judge.foreign.overtaken;
            by_hand += side.link.counts.by_hand;
        }
    }
    assert!(all_died > 0, "no trust domain was down as a whole");
    assert!(restores > 0, "nothing was restored");
    assert!(overtaken > 0 && by_hand > 0, "nobody fetched at once with another");
}

#[test]
fn peers_that_fetch_late_are_waited_for_where_agents_are_quick() {
    let days = 2;
    let mut pair = Pair::with_quick_agents(1);
    pair.run(HOUR * 24 * days);
    for side in &pair.sides {
        let (world, name) = (&side.world, &side.world.common.trust_domain);
        println!("{days} days of {name}: {}", told(side));
        let verdict = world.judge.verdict();
        assert!(verdict.is_empty(), "{name}: {verdict:#?}");
        assert!(world.judge.x509_activations >= 15 * days, "too few rotations");
        assert!(side.link.counts.cuts > 0 && side.guests.verified > 100, "no peer was late");
    }
}

fn told(side: &Side) -> String {
    let (world, guests) = (&side.world, &side.guests);
    let (judge, foreign) = (&world.judge, &world.judge.foreign);
    format!(
        "{} X.509 rotations, {} at the latest moment, {} restores, {} bundles stored, {} overtaken, {} \
         notes, {} SVIDs of the other verified, {} refused, leaders died {:?}, {:?}",
        judge.x509_activations,
        judge.forced_count(),
        world.restores,
        foreign.fetched,
        foreign.overtaken,
        foreign.notes,
        guests.verified,
        guests.refused,
        world.deaths,
        side.link.counts
    )
}

/// What a run must have met to say anything.
fn federated(side: &Side, days: u32) {
    let (judge, counts, guests) = (&side.world.judge, &side.link.counts, &side.guests);
    assert!(judge.x509_activations >= 15 * days, "too few rotations");
    assert!(judge.foreign.fetched > u64::from(judge.x509_activations), "too few bundles stored");
    assert!(counts.stale > 0 && counts.older > 0, "no replica that lags was met");
    assert!(counts.survived_rotation > 0, "no rotation during a cut that was short enough");
    assert!(counts.closed > 0 && counts.mended + 1 >= counts.closed, "no cut was too long");
    assert!(counts.looks > 1_000 && guests.verified > 1_000 && guests.refused > 0);
    for death in [Death::BeforeProposing, Death::InFlight, Death::AfterCommit] {
        assert!(side.world.deaths.contains_key(&("refresh", death)), "no leader died {death:?}");
    }
    // A note an hour, two for each thing that fails and ends.
    let failures = u64::from(counts.cuts) * 4 + counts.older;
    assert!(judge.foreign.notes <= u64::from(days) * 24 + failures, "notes without an event");
}
