//! The runs.

use std::time::Duration;

use super::world::{Death, World};

const HOUR: Duration = Duration::from_secs(3600);

/// Prepared after three hours, activated after five: with rotations by hand in between, some hundred of
/// each kind in a month.
const CA_TTL: Duration = Duration::from_secs(6 * 3600);

#[test]
fn thirty_days_of_rotation_surprise_nobody() {
    let mut restores = 0;
    for seed in [1, 2] {
        let mut world = World::new(seed, CA_TTL);
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
