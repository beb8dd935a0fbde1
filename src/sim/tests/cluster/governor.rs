//! Whatever happens, nobody is taken out without a majority, and no set is empty; when it is over all are back.

use std::collections::BTreeSet;
use std::time::Duration;

use picored_core::config::GovernorRules;
use picored_core::name::AppName;
use picored_sim::{LATE_AT_MOST, Mood, RUN_TIMEOUT, Simulation, System, Template, What, node_name};
use rand::RngExt;

use crate::setting::{nodes, secs, seeds, settled};

/// Who fails again and again is held out for ten minutes at most; the checks and a reconcile come on top.
const HOLDS: u64 = 600 + 300 + 60;

/// What has been done to the machines and not undone yet.
#[derive(Default)]
struct Troubles {
    killed: BTreeSet<usize>,
    paused: BTreeSet<usize>,
    cuts: Vec<picored_sim::CutId>,
}

impl Troubles {
    /// Something happens, or is over.
    fn stir(&mut self, simulation: &mut Simulation) {
        let count = simulation.len();
        let machine = simulation.rng().random_range(0..count);
        let other = (machine + simulation.rng().random_range(1..count)) % count;
        let is_whole = !self.killed.contains(&machine) && !self.paused.contains(&machine);
        match simulation.rng().random_range(0..10) {
            0 | 1 if is_whole => {
                simulation.kill(machine);
                self.killed.insert(machine);
            }
            2 if is_whole => {
                simulation.pause(machine);
                self.paused.insert(machine);
            }
            3 => self.cuts.extend(simulation.cut_off(machine)),
            4 => self.cuts.push(simulation.cut_one_way(machine, other)),
            5 => {
                let groups: [Vec<usize>; 2] = {
                    let sides: Vec<bool> = (0..count).map(|_| simulation.rng().random()).collect();
                    [true, false].map(|side| (0..count).filter(|machine| sides[*machine] == side).collect())
                };
                self.cuts.extend(simulation.partition(&groups));
            }
            6 => simulation.mend(&std::mem::take(&mut self.cuts)),
            7 if is_whole => {
                let is_good = simulation.rng().random();
                simulation.set_apps(machine, is_good);
            }
            _ => self.restart(simulation),
        }
    }

    fn restart(&mut self, simulation: &mut Simulation) {
        self.paused.pop_first().into_iter().for_each(|machine| simulation.resume(machine));
        self.killed.pop_first().into_iter().for_each(|machine| simulation.start(machine));
    }

    fn end(mut self, simulation: &mut Simulation) {
        simulation.mend(&self.cuts);
        while !self.paused.is_empty() || !self.killed.is_empty() {
            self.restart(simulation);
        }
        (0..simulation.len()).for_each(|machine| simulation.set_apps(machine, true));
    }
}

fn what_was_done(simulation: &Simulation) -> String {
    let faults = simulation.lines().filter(|line| matches!(line.what, What::Fault(_) | What::Wrong(_)));
    faults.map(|line| format!("{line}\n")).collect()
}

fn nothing_is_wrong(simulation: &Simulation) {
    let report = simulation.report();
    let wrong = (report.wrong_removals, report.empty_records, report.double_outcomes);
    assert_eq!(wrong, (0, 0, 0), "{}", what_was_done(simulation));
}

#[test]
fn no_removal_without_a_majority_and_all_come_back() {
    let www = AppName::new("www").unwrap();
    for seed in seeds(60) {
        let count = 2 + (seed % 6) as usize;
        let mut simulation = nodes(seed, count);
        let mut troubles = Troubles::default();
        // The provider has its own troubles, half of the time.
        simulation.moods = if simulation.rng().random() { Mood::ALL.to_vec() } else { Vec::new() };
        for _ in 0..simulation.rng().random_range(3..12) {
            troubles.stir(&mut simulation);
            // What follows sooner may change who is a majority while a verdict is on its way.
            let pause = simulation.rng().random_range(15..60);
            simulation.run(secs(pause));
            nothing_is_wrong(&simulation);
        }
        troubles.end(&mut simulation);
        simulation.moods.clear();
        simulation.run(secs(HOLDS));
        nothing_is_wrong(&simulation);
        let all: BTreeSet<_> = (0..count).map(node_name).collect();
        assert_eq!(simulation.record(&www), Some(&all), "{count} nodes");
    }
}

#[test]
fn who_hears_nothing_is_taken_out_though_it_goes_on_talking() {
    let www = AppName::new("www").unwrap();
    for seed in seeds(20) {
        let count = 3 + (seed % 5) as usize;
        let mut simulation = nodes(seed, count);
        let deaf = simulation.rng().random_range(0..count);
        let cuts: Vec<_> =
            (0..count).filter(|it| *it != deaf).map(|other| simulation.cut_one_way(other, deaf)).collect();
        simulation.run(secs(45));
        let others: BTreeSet<_> = (0..count).filter(|it| *it != deaf).map(node_name).collect();
        assert_eq!(simulation.record(&www), Some(&others), "{count} nodes");
        simulation.mend(&cuts);
        simulation.run(secs(HOLDS));
        assert_eq!(simulation.record(&www).map(BTreeSet::len), Some(count));
        nothing_is_wrong(&simulation);
    }
}

/// What a governor that holds nothing back wants: each change is to be in the record soon.
fn without_holds() -> Template {
    let governor = GovernorRules { budget_ratio: 1.0, panic_ratio: 0.0, flap_hold: Duration::ZERO };
    Template { governor, ..Template::website() }
}

/// What is late, or went by halves, is put right one deadline after it could last be done.
#[test]
fn whatever_the_provider_did_the_record_is_right_soon_after() {
    let www = AppName::new("www").unwrap();
    for seed in seeds(100) {
        let count = 2 + (seed % 6) as usize;
        let mut simulation = settled(seed, System::Picored, without_holds(), count);
        simulation.moods = Mood::ALL.to_vec();
        let subject = simulation.rng().random_range(0..count);
        for _ in 0..simulation.rng().random_range(1..4) {
            let is_good = simulation.rng().random();
            simulation.set_apps(subject, is_good);
            let pause = simulation.rng().random_range(5..60);
            simulation.run(secs(pause));
        }
        simulation.set_apps(subject, false);
        // It is well again, but what was asked for before may still be done.
        simulation.moods.clear();
        simulation.run(secs(20) + RUN_TIMEOUT + LATE_AT_MOST);
        simulation.run(secs(30));
        let others: BTreeSet<_> = (0..count).filter(|it| *it != subject).map(node_name).collect();
        assert_eq!(simulation.record(&www), Some(&others), "{count} nodes: {}", what_was_done(&simulation));
        nothing_is_wrong(&simulation);
    }
}
