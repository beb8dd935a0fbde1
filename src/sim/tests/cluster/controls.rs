//! A simulator in which nothing fails proves nothing: foca as it comes shows its known failures on the same network, and
//! picored does with any one of its defences taken out.

use std::time::Duration;

use picored_core::defences::{Defence, Defences};
use picored_sim::{Report, Scenario, Simulation, System, Template};
use rand::RngExt;

use crate::setting::{lossy, nodes, secs, seeds, settled};

/// Five nodes of either system under loss, for so many node-hours.
fn under_loss(seed: u64, system: System, loss: f64, node_hours: u64) -> Report {
    let scenario = Scenario {
        seed,
        system,
        template: Template::website(),
        nodes: 5,
        stagger: Duration::from_millis(100),
        conditions: lossy(loss),
        length: secs(node_hours * 3600) / 5,
        faults: Vec::new(),
    };
    scenario.run(|_| {}).unwrap().0
}

/// Cuts one of three off for two and a half seconds.
fn outage(mut simulation: Simulation) -> Report {
    let machine = simulation.rng().random_range(0..3);
    let early = simulation.rng().random_range(0..1000);
    simulation.run(Duration::from_millis(early));
    let cuts = simulation.cut_off(machine);
    simulation.run(Duration::from_millis(2500));
    simulation.mend(&cuts);
    simulation.run(secs(20));
    simulation.report()
}

/// Parts two nodes for half a minute, and gives them ten to meet again.
fn split(mut simulation: Simulation) -> bool {
    let cuts = simulation.partition(&[vec![0], vec![1]]);
    simulation.run(secs(30));
    simulation.mend(&cuts);
    simulation.run(secs(600));
    simulation.is_healed() && simulation.all_see_each_other()
}

fn bare(seed: u64, count: usize) -> Simulation {
    settled(seed, System::Foca, Template::membership(), count)
}

/// A settled cluster without one defence, or with all.
fn weakened(seed: u64, count: usize, missing: Option<Defence>) -> Simulation {
    let mut simulation = Simulation::new(seed, System::Picored, Template::website(), count);
    simulation.defences = missing.map(Defences::without).unwrap_or_default();
    for _ in 0..count {
        simulation.add();
        simulation.run(Duration::from_millis(100));
    }
    simulation.settle(secs(60)).expect("they find each other");
    simulation.run(secs(15));
    simulation
}

/// Where TCP does not get through, what is asked over it stands in for nothing else.
fn datagrams_only(mut simulation: Simulation) -> Simulation {
    simulation.network.no_streams = true;
    simulation
}

#[test]
fn bare_foca_calls_healthy_nodes_down_under_loss() {
    for seed in seeds(2) {
        let report = under_loss(seed, System::Foca, 0.1, 50);
        assert!(report.false_downs() > 50, "{report:?}");
    }
}

#[test]
fn bare_foca_never_heals_a_split_of_two() {
    for seed in seeds(20) {
        assert!(!split(bare(seed, 2)), "seed {seed}");
    }
}

#[test]
fn bare_foca_does_not_bear_an_outage_of_two_and_a_half_seconds() {
    let all = seeds(200);
    let hurt = all.iter().filter(|seed| outage(bare(**seed, 3)).false_downs() > 0).count();
    assert!(hurt * 2 > all.len(), "{hurt} of {}", all.len());
}

/// What has to be without harm with all defences, and do harm without this one.
fn is_needed(defence: Defence, harm: impl Fn(Option<Defence>) -> u64) {
    assert_eq!(harm(None), 0, "with all of them");
    assert!(harm(Some(defence)) > 0, "without {defence:?}");
}

#[test]
fn without_the_obituary_filter_the_living_are_told_that_they_are_dead() {
    is_needed(Defence::ObituaryFilter, |missing| {
        let mut simulation = weakened(1, 5, missing);
        simulation.network.conditions = lossy(0.1);
        simulation.run(secs(1800));
        simulation.report().renewals
    });
}

#[test]
fn without_the_buddy_notice_an_outage_is_not_borne() {
    is_needed(Defence::BuddyNotice, |missing| {
        (1..=60).map(|seed| outage(datagrams_only(weakened(seed, 3, missing))).false_downs()).sum()
    });
}

#[test]
fn without_more_transmissions_news_get_lost() {
    is_needed(Defence::Transmissions, |missing| {
        let mut simulation = weakened(1, 2, missing);
        simulation.network.conditions = lossy(0.2);
        for _ in 0..30 {
            simulation.set_apps(1, false);
            simulation.run(secs(25));
            simulation.set_apps(1, true);
            simulation.run(secs(15));
        }
        let changes = simulation.report().app_changes;
        assert!(changes.len() > 40, "{changes:?}");
        changes.iter().filter(|took| **took > secs(2)).count() as u64
    });
}

#[test]
fn without_postponement_who_stood_still_calls_the_living_down() {
    is_needed(Defence::StallPostponement, |missing| {
        let stalled = |seed: u64| {
            let mut simulation = datagrams_only(weakened(seed, 2, missing));
            let cuts = simulation.cut_off(1);
            simulation.run(Duration::from_millis(4000 + seed % 20 * 70));
            let called_before = simulation.report().false_downs();
            simulation.pause(0);
            simulation.mend(&cuts);
            // So long that the cut is no excuse any more.
            simulation.run(secs(90));
            simulation.resume(0);
            simulation.run(secs(20));
            simulation.report().false_downs_of.get(&(0, 1)).copied().unwrap_or_default() - called_before
        };
        (1..=40).map(stalled).sum()
    });
}

#[test]
fn without_greeting_a_split_never_heals() {
    is_needed(Defence::Greeting, |missing| (1..=5).filter(|seed| !split(weakened(*seed, 2, missing))).count() as u64);
}

#[test]
fn without_the_exchange_what_gossip_lost_is_never_known() {
    is_needed(Defence::Exchange, |missing| {
        let failing = |seed| {
            let mut simulation = weakened(seed, 3, missing);
            simulation.set_apps(1, false);
            simulation
        };
        let untold = |seed| {
            // One seed is one history: what happens when can be looked up.
            let verdict = failing(seed).run_until(secs(30), |simulation| !simulation.all_told()).expect("a verdict");
            let mut simulation = failing(seed);
            simulation.run(verdict - Duration::from_millis(5));
            // For as long as the news is spread, but not long enough to be taken for dead.
            let cuts = simulation.cut_off(2);
            simulation.run(Duration::from_millis(2500));
            assert!(!simulation.all_told());
            simulation.mend(&cuts);
            simulation.run(secs(120));
            u64::from(!simulation.all_told())
        };
        (1..=10).map(untold).sum()
    });
}

#[test]
fn without_local_health_a_slow_node_keeps_all_busy() {
    is_needed(Defence::LocalHealth, |missing| {
        let mut simulation = weakened(1, 5, missing);
        simulation.network.slow.insert(0, secs(3));
        simulation.run(secs(1800));
        // A third more than with all of them: every second somebody is suspected, and has to refute.
        u64::from(simulation.report().packets.offered > 200_000)
    });
}

#[test]
fn without_beginning_anew_a_split_does_not_heal_in_a_minute() {
    is_needed(Defence::BeginningAnew, |missing| {
        let unhealed = |seed| {
            let mut simulation = weakened(seed, 5, missing);
            let cuts = simulation.partition(&[vec![0, 1], vec![2, 3, 4]]);
            simulation.run(secs(30));
            simulation.mend(&cuts);
            simulation.run(secs(60));
            simulation.report().unhealed
        };
        (1..=5).map(unhealed).sum()
    });
}

#[test]
fn without_the_question_who_answers_over_tcp_alone_is_called_down() {
    is_needed(Defence::Question, |missing| {
        let mut simulation = weakened(1, 5, missing);
        simulation.network.no_datagrams = [0].into();
        simulation.run(secs(300));
        simulation.report().false_downs()
    });
}

#[test]
fn every_defence_has_its_test() {
    let text = include_str!("controls.rs");
    for defence in Defence::ALL {
        assert!(text.contains(&format!("is_needed(Defence::{defence:?},")), "{defence:?}");
    }
    assert!(nodes(1, 2).all_see_each_other());
}
