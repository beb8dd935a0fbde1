//! Who may take whom out: quorum, whole nodes on a virtual network.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;

use super::net::{Net, What, names, seeds};
use crate::event::{EventKind, RunEnd};
use crate::governor::Hold;
use crate::node::{ForgetError, Notice};

/// The reasons that `slot` told of holds.
fn held(net: &Net, slot: usize) -> BTreeSet<Hold> {
    let notices = net.trace.iter().filter(|line| line.node == slot);
    notices
        .filter_map(|line| match &line.what {
            What::Notice(Notice::Held { reason, .. }) => Some(*reason),
            _ => None,
        })
        .collect()
}

/// Cuts `slots` off from all others.
fn cut_off(net: &mut Net, slots: &[usize], count: usize) {
    let others = (0..count).filter(|slot| !slots.contains(slot));
    net.cut = others.flat_map(|other| slots.iter().map(move |slot| (other.min(*slot), other.max(*slot)))).collect();
}

#[test]
fn a_minority_takes_nobody_out_however_long_it_is_alone_and_when_it_returns() {
    for seed in seeds(10) {
        for (count, alone) in [(3, vec![2]), (5, vec![0]), (5, vec![1, 3]), (4, vec![0, 1])] {
            for away_ms in [4000, 9000, 16_000, 40_000, 200_000] {
                let mut net = Net::settled(seed, count);
                cut_off(&mut net, &alone, count);
                net.run(away_ms);
                let minority: Vec<_> = net.runs().into_iter().filter(|(_, node, _)| alone.contains(node)).collect();
                assert_eq!(minority.len(), 0, "{alone:?} of {count} for {away_ms} ms");
                net.cut.clear();
                let healed = net.ms();
                net.run_until("healed", 60_000, |net| net.all_see_up(count));
                net.run(15_000);
                for (at, node, run) in
                    net.runs().into_iter().filter(|(at, node, _)| *at >= healed && alone.contains(node))
                {
                    let wanted = super::net::wanted(run);
                    let others: Vec<_> = names((0..count).filter(|slot| !alone.contains(slot)));
                    assert!(
                        others.iter().all(|other| wanted.contains(other)),
                        "{node} took a healthy one out at {at}: {wanted:?}, {alone:?} of {count} for {away_ms} ms"
                    );
                }
                assert_eq!(net.record, net.healthy(), "{alone:?} of {count} for {away_ms} ms");
            }
        }
    }
}

#[test]
fn two_nodes_take_each_other_out_only_by_intent() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 2);
        net.kill(1);
        net.run(60_000);
        assert_eq!(net.events(EventKind::MemberDown).len(), 1);
        assert_eq!(net.record, names(0..2), "one of two is no majority");
        assert_eq!(held(&net, 0), [Hold::Quorum].into());
        net.start(1);
        net.run_until("back", 30_000, |net| net.all_see_up(2));
        net.run(10_000);
        net.leave(1);
        net.run(10_000);
        assert_eq!(net.record, names(0..1), "who leaves wants to");
    }
}

#[test]
fn who_remembers_nobody_hears_who_is_missing() {
    for seed in seeds(20) {
        let mut net = Net::settled(seed, 4);
        (0..4).for_each(|slot| net.kill(slot));
        net.run(1000);
        // Both are of the majority of the seeds and themselves, but not of the four that there are.
        net.remembered.remove(&2);
        let order = [[0, 2], [2, 0]][seed as usize % 2];
        for slot in order {
            net.start(slot);
            let pause = net.rng.random_range(0..4000);
            net.run(pause);
        }
        net.run(60_000);
        assert_eq!(net.runs().len(), 0, "two of four are no majority");
        net.start(3);
        net.run_until("three of four are", 30_000, |net| net.record == names([0, 2, 3]) || net.all_see_up(3));
        net.start(1);
        net.run_until("all are back", 30_000, |net| net.record == names(0..4));
    }
}

#[test]
fn a_lone_first_node_publishes_nothing_before_a_second_one_is_there() {
    for seed in seeds(5) {
        let mut net = Net::new(seed);
        let start = |net: &mut Net, slot| {
            let mut settings = net.settings(slot);
            settings.expect = 3;
            if slot == 0 {
                settings.seeds.clear();
            }
            net.start_as(slot, settings);
        };
        start(&mut net, 0);
        net.run(30_000);
        assert!(net.node(0).is_joined());
        assert_eq!(net.runs().len(), 0);
        start(&mut net, 1);
        net.run(30_000);
        start(&mut net, 2);
        net.run_until("all see all up", 30_000, |net| net.all_see_up(3));
        net.run(15_000);
        let sets: BTreeSet<_> = net.runs().iter().map(|(_, _, run)| super::net::wanted(run)).collect();
        assert!(!sets.is_empty() && sets.iter().all(|set| set.len() >= 2), "{sets:?}");
        assert_eq!(net.record, names(0..3));
    }
}

#[test]
fn losses_beyond_the_majority_stay_published() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 5);
        for slot in 1..5 {
            net.kill(slot);
            net.run(310_000);
        }
        assert_eq!(net.record, names([0, 3, 4]), "with two of five gone the others still were a majority");
        assert_eq!(held(&net, 0), [Hold::Quorum].into());
    }
}

#[test]
fn a_member_that_flaps_costs_few_writes() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        for _ in 0..30 {
            net.set_app(1, false);
            net.run(20_000);
            net.set_app(1, true);
            net.run(20_000);
        }
        let mut sets: Vec<_> = net.runs().iter().map(|(_, _, run)| super::net::wanted(run)).collect();
        sets.dedup();
        assert!(sets.len() <= 12, "{} writes", sets.len());
        assert!(held(&net, 0).contains(&Hold::Flap));
        net.run(700_000);
        assert_eq!(net.record, names(0..3), "it is forgiven");
    }
}

#[test]
fn who_is_forgotten_counts_no_more_and_may_return() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 5);
        cut_off(&mut net, &[4], 5);
        net.run(20_000);
        for slot in [2, 3] {
            net.kill(slot);
            net.run(310_000);
        }
        assert_eq!(net.record, names([0, 1, 3]), "with three of five gone the others are no majority");
        net.forget(0, 4).unwrap();
        net.run_until("both know", 5000, |net| (0..2).all(|slot| net.sees(slot, 4).as_deref() == Some("left")));
        assert_eq!(net.record, names([0, 1, 3]), "two of four");
        net.forget(1, 3).unwrap();
        net.run(10_000);
        assert_eq!(net.record, names([0, 1]), "who is forgotten goes by intent, and two of three are a majority");
        net.cut.clear();
        net.run_until("it returns", 90_000, |net| {
            [0, 1, 4].iter().all(|slot| net.sees(*slot, 4).as_deref() == Some("alive"))
        });
        net.set_app(4, false);
        net.run(30_000);
        net.set_app(4, true);
        net.run(60_000);
        assert_eq!(net.record, names([0, 1, 4]), "what it says of itself counts again");
    }
}

#[test]
fn who_lives_is_not_forgotten() {
    let mut net = Net::settled(1, 3);
    assert!(matches!(net.forget(0, 1), Err(ForgetError::NotDown(..))));
    assert!(matches!(net.forget(0, 7), Err(ForgetError::Unknown(_))));
}

#[test]
fn maintenance_takes_an_application_out_and_ends_by_itself() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 5);
        let limit = Some(Duration::from_secs(600));
        let on = net.maintain(1, true, limit).unwrap();
        assert_eq!((on.apps.len(), on.kept.len()), (1, 0));
        net.run(3000);
        assert_eq!(net.record, names([0, 2, 3, 4]));
        // By intent: it weighs on no budget, and is no failure.
        net.kill(2);
        net.run(15_000);
        assert_eq!(net.record, names([0, 3, 4]));
        net.kill(1);
        net.run(60_000);
        net.start(1);
        net.run(120_000);
        assert_eq!(net.record, names([0, 3, 4]), "a restart does not end it");
        net.run(600_000);
        assert_eq!(net.record, names([0, 1, 3, 4]), "its time does");
        net.maintain(3, true, None).unwrap();
        net.run(1_000_000);
        assert_eq!(net.record, names([0, 1, 4]));
        net.maintain(3, false, None).unwrap();
        net.run(3000);
        assert_eq!(net.record, names([0, 1, 3, 4]));
    }
}

#[test]
fn maintenance_of_the_last_one_says_that_it_stays() {
    let mut net = Net::new(3);
    let mut settings = net.settings(0);
    settings.seeds.clear();
    net.start_as(0, settings);
    net.run(30_000);
    assert_eq!(net.maintain(0, true, None).unwrap().kept.len(), 1);
    net.run(3000);
    assert_eq!(net.record, names([0]));
}

#[test]
fn who_comes_to_a_part_of_the_cluster_does_not_take_it_for_all() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 6);
        net.kill(1);
        net.run(20_000);
        cut_off(&mut net, &[0, 1, 2], 6);
        net.run(30_000);
        net.trace.clear();
        net.start(1);
        net.run_until("it is taken in", 30_000, |net| net.sees(1, 0).as_deref() == Some("alive"));
        net.run(60_000);
        let runs = net.runs().into_iter().filter(|(_, node, _)| *node < 3).count();
        assert_eq!(runs, 0, "three of six, whatever the newcomer has heard of");
    }
}

#[test]
fn who_stood_still_does_nothing_before_it_has_heard_what_happened() {
    for seed in seeds(20) {
        for sleeper in 0..4 {
            let mut net = Net::settled(seed, 5);
            net.kill(4);
            net.run(20_000);
            // What waits for it to go on is a retry of what it saw before.
            net.run_ends.insert(sleeper, RunEnd::Retry("later".into()));
            net.set_app((sleeper + 1) % 4, false);
            net.run(20_000);
            net.run_ends.remove(&sleeper);
            net.stall(sleeper, 100_000);
            net.set_app((sleeper + 1) % 4, true);
            net.start(4);
            net.run(99_000);
            net.trace.clear();
            net.run(60_000);
            for (at, node, run) in net.runs().into_iter().filter(|(_, node, _)| *node == sleeper) {
                assert_eq!(super::net::wanted(run).len(), 5, "{node} at {at} writes what was");
            }
            assert_eq!(net.record, names(0..5));
        }
    }
}
