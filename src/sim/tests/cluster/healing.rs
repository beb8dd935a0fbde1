//! What was apart comes together: splits, sleepers, restarts.

use std::time::Duration;

use picored_sim::Simulation;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::setting::{nodes, secs, seeds};

/// The machines in two groups, neither empty, drawn from the seed.
fn two_groups(simulation: &mut Simulation) -> Vec<Vec<usize>> {
    let mut machines: Vec<usize> = (0..simulation.len()).collect();
    let count = machines.len();
    machines.shuffle(simulation.rng());
    let rest = machines.split_off(simulation.rng().random_range(1..count));
    vec![machines, rest]
}

#[test]
fn every_split_heals_within_a_minute() {
    for seed in seeds(500) {
        let count = 2 + (seed % 8) as usize;
        let mut simulation = nodes(seed, count);
        let groups = two_groups(&mut simulation);
        let cuts = simulation.partition(&groups);
        let apart = simulation.rng().random_range(4..60);
        simulation.run(secs(apart));
        simulation.mend(&cuts);
        let healed = simulation.run_until(secs(60), Simulation::is_healed);
        assert!(healed.is_some(), "{groups:?} after {apart} s");
        simulation.run(secs(60) - healed.unwrap());
        assert!(simulation.is_healed() && simulation.all_see_each_other(), "{groups:?} after {apart} s");
    }
}

#[test]
fn who_slept_for_ten_minutes_is_back_within_one() {
    for seed in seeds(10) {
        let mut simulation = nodes(seed, 5);
        let machine = simulation.rng().random_range(0..5);
        simulation.pause(machine);
        simulation.run(secs(600));
        simulation.resume(machine);
        let back = simulation.settle(secs(60));
        assert!(back.is_some());
        simulation.run(secs(60));
        assert!(simulation.all_see_each_other());
        // The sleeper must not hold those for dead who were there all the time.
        assert_eq!(simulation.report().false_downs(), 0);
    }
}

#[test]
fn a_restart_at_another_address_is_one_member() {
    for seed in seeds(10) {
        let mut simulation = nodes(seed, 4);
        let machine = simulation.rng().random_range(2..4);
        let down = simulation.rng().random_range(0..20_000);
        simulation.kill(machine);
        simulation.run(Duration::from_millis(down));
        simulation.move_address(machine);
        simulation.start(machine);
        let back = simulation.settle(secs(60));
        assert!(back.is_some(), "down for {down} ms");
        for other in 0..4 {
            let members = simulation.node(other).unwrap().status().members;
            assert_eq!(members.len(), 4);
        }
        simulation.run(secs(20));
        assert_eq!(simulation.report().false_downs(), 0, "down for {down} ms");
    }
}

#[test]
fn a_clock_that_was_set_back_keeps_nobody_out() {
    for seed in seeds(10) {
        let mut simulation = nodes(seed, 3);
        let machine = simulation.rng().random_range(0..3);
        simulation.kill(machine);
        simulation.set_clock_back(machine, secs(24 * 3600));
        simulation.run(secs(1));
        simulation.start(machine);
        simulation.settle(secs(30)).expect("it is back");
        simulation.run(secs(20));
        assert_eq!((simulation.report().false_downs(), simulation.report().wrong_removals), (0, 0));
    }
}

#[test]
fn a_restart_of_all_at_once_leaves_no_ghost() {
    for seed in seeds(10) {
        let mut simulation = nodes(seed, 6);
        (0..6).for_each(|machine| simulation.kill(machine));
        simulation.run(Duration::from_millis(500));
        (0..6).for_each(|machine| simulation.start(machine));
        simulation.settle(secs(30)).expect("they are back");
        simulation.run(secs(30));
        assert!(simulation.all_see_each_other());
        let report = simulation.report();
        assert_eq!((report.false_downs(), report.wrong_removals), (0, 0), "{report:?}");
    }
}
