//! Bars that the core does not hold yet: the simulator shows it, and they move to `cluster` as they hold. Run by name:
//! `cargo test -p picored-sim --test bars`.

#![allow(clippy::unwrap_used, reason = "clippy knows tests, not the functions that they share")]

#[path = "cluster/setting.rs"]
mod setting;

use picored_sim::Simulation;
use rand::RngExt;

use setting::{length, lossy, nodes, secs, seeds};

#[test]
fn a_node_that_is_slow_both_ways_harms_nobody() {
    for seed in seeds(1) {
        let mut simulation = nodes(seed, 5);
        let slow = simulation.rng().random_range(0..5);
        simulation.network.slow.insert(slow, secs(3));
        let hours = length(5, 10);
        simulation.run(hours);
        let report = simulation.report();
        // To call the slow one down is no mistake: it answers later than any probe waits.
        let healthy = report.false_downs_of.iter().filter(|((_, subject), _)| *subject != slow);
        assert_eq!(healthy.collect::<Vec<_>>(), [], "{slow} is slow: {report:?}");
        let an_hour = report.renewals as f64 / (hours.as_secs_f64() / 3600.0);
        assert!(an_hour <= 2.0, "no storm: {an_hour} renewals an hour, {report:?}");
    }
}

/// Thirty nodes under loss, some of whose applications change all the time.
fn thirty_call_nobody_down(loss: f64) {
    for seed in seeds(4) {
        let mut simulation = nodes(seed, 30);
        simulation.network.conditions = lossy(loss);
        simulation.run(length(30, 10));
        let report = simulation.report();
        assert_eq!((report.false_downs(), report.renewals, report.wrong_removals), (0, 0, 0), "{report:?}");
    }
}

#[test]
fn thirty_nodes_call_nobody_down_at_10_percent_loss() {
    thirty_call_nobody_down(0.1);
}

#[test]
fn thirty_nodes_call_nobody_down_at_20_percent_loss() {
    thirty_call_nobody_down(0.2);
}

#[test]
fn a_split_that_heals_is_told_to_nobody_as_a_death() {
    for seed in seeds(40) {
        let mut simulation = nodes(seed, 5);
        let cuts = simulation.partition(&[vec![0, 1], vec![2, 3, 4]]);
        simulation.run(secs(30));
        let before = simulation.report();
        simulation.mend(&cuts);
        simulation.run_until(secs(60), Simulation::is_healed).expect("it heals");
        simulation.run(secs(60));
        let after = simulation.report();
        assert_eq!(after.false_downs(), before.false_downs(), "{after:?}");
    }
}
