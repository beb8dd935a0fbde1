//! Nobody is called down who is up, and who is down is called so in time.

use std::time::Duration;

use picored_sim::{Report, Scenario, Simulation, System, Template};
use rand::RngExt;

use crate::setting::{length, lossy, nodes, secs, seeds};

fn scenario(seed: u64, nodes: usize, loss: f64, length: Duration) -> Scenario {
    Scenario {
        seed,
        system: System::Picored,
        template: Template::website(),
        nodes,
        stagger: Duration::from_millis(100),
        conditions: lossy(loss),
        length,
        faults: Vec::new(),
    }
}

fn nobody_is_called_down(loss: f64) {
    for seed in seeds(2) {
        let (report, simulation) = scenario(seed, 5, loss, length(5, 5)).run(|_| {}).unwrap();
        let dropped = report.packets.dropped as f64 / report.packets.offered as f64;
        assert!((dropped - loss).abs() < 0.01, "the network does what it shall: {dropped}");
        assert!(simulation.all_see_each_other());
        assert_eq!((report.false_downs(), report.renewals, report.wrong_removals), (0, 0, 0), "{report:?}");
    }
}

#[test]
fn nobody_is_called_down_at_5_percent_loss() {
    nobody_is_called_down(0.05);
}

#[test]
fn nobody_is_called_down_at_10_percent_loss() {
    nobody_is_called_down(0.1);
}

#[test]
fn nobody_is_called_down_at_20_percent_loss() {
    nobody_is_called_down(0.2);
}

#[test]
fn an_outage_of_two_and_a_half_seconds_is_borne() {
    for seed in seeds(200) {
        let mut simulation = nodes(seed, 3);
        let machine = simulation.rng().random_range(0..3);
        let early = simulation.rng().random_range(0..1000);
        simulation.run(Duration::from_millis(early));
        let cuts = simulation.cut_off(machine);
        simulation.run(Duration::from_millis(2500));
        simulation.mend(&cuts);
        simulation.run(secs(20));
        let report = simulation.report();
        assert_eq!((report.false_downs(), report.renewals, report.wrong_removals), (0, 0, 0), "{report:?}");
    }
}

#[test]
fn a_crash_is_known_to_all_in_time() {
    for count in [3, 5, 10, 30] {
        let mut times = Vec::new();
        for seed in seeds(4) {
            let mut simulation = nodes(seed, count);
            let machine = simulation.rng().random_range(0..count);
            simulation.kill(machine);
            let took = simulation.run_until(secs(20), Simulation::all_detected);
            times.push(took.expect("all know"));
            simulation.run(secs(20));
            let report = simulation.report();
            assert_eq!(report.detected_by_all.len(), 1);
            assert_eq!((report.false_downs(), report.wrong_removals, report.undetected), (0, 0, 0), "{report:?}");
        }
        times.sort();
        let late = Report::quantile(&times, 0.99).unwrap();
        assert!(late <= secs(10), "{count} nodes: {late:?} of {times:?}");
    }
}

#[test]
fn a_change_of_an_application_is_known_to_all_in_two_seconds() {
    let mut changes = Vec::new();
    for seed in seeds(10) {
        let mut simulation = nodes(seed, 30);
        simulation.network.conditions = lossy(0.1);
        for round in 0..4 {
            let first = simulation.rng().random_range(0..15);
            for (good, checks) in [(false, secs(25)), (true, secs(20))] {
                (first..first + 15).for_each(|machine| simulation.set_apps(machine, good));
                simulation.run(checks);
                // Whom no copy has reached hears of it by the next exchange.
                assert!(simulation.run_until(secs(60), Simulation::all_told).is_some(), "round {round}");
            }
        }
        assert_eq!(simulation.report().unknown_app_changes, 0);
        changes.extend(simulation.report().app_changes);
    }
    changes.sort();
    assert!(changes.len() >= 200, "{}", changes.len());
    let late = Report::quantile(&changes, 0.99).unwrap();
    assert!(late <= secs(2), "{late:?} of {changes:?}");
}

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

fn thirty_call_nobody_down(loss: f64) {
    for seed in seeds(1) {
        let mut simulation = nodes(seed, 30);
        simulation.network.conditions = lossy(loss);
        simulation.run(length(30, 5));
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
