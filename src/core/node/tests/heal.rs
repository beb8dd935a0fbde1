//! Coming back: what a node that was cut off believes, tells and does when its cable is in again.

use rand::RngExt;

use super::super::{Notice, Settings};
use super::net::{Net, What, address, node_name, seeds, wanted};
use crate::config::Seed;
use crate::event::{EventKind, RunEnd};

/// What is asked as the cable is in is answered by then.
const FIRST_ANSWER_MS: u64 = 50;

/// The members that `by` held for down since the trace began.
fn downs(net: &Net, by: impl Fn(usize) -> bool) -> Vec<(usize, String)> {
    net.events(EventKind::MemberDown).into_iter().filter(|(node, _)| by(*node)).collect()
}

#[test]
fn a_node_whose_cable_was_out_takes_nothing_out_when_it_is_in_again() {
    for seed in seeds(100) {
        let nodes = [3, 5][seed as usize % 2];
        let (mut net, slot) = (Net::settled(seed, nodes), seed as usize / 2 % nodes);
        net.isolate(slot);
        // Neither does it reach the DNS provider: what it wants written waits for the cable.
        net.run_ends.insert(slot, RunEnd::Retry("unreachable".into()));
        let out_for = net.rng.random_range(4_000..20_000);
        net.run(out_for);
        net.trace.clear();
        net.cut.clear();
        net.run_ends.remove(&slot);
        let back = net.ms();
        net.run_until("its view is right", 2_000, |net| {
            (0..nodes).all(|other| net.sees(slot, other).is_some_and(|state| state == "alive"))
        });
        let healed = net.ms() - back;
        net.run_until("all have it back", 2_000, |net| net.all_see_up(nodes));
        net.run(30_000);
        for (at_ms, node, run) in net.runs().into_iter().filter(|(_, node, _)| *node == slot) {
            let event = &run.delivery.event.id;
            assert_eq!(wanted(run).len(), nodes, "{} at {at_ms} for {event}, back at {back}", node_name(node));
        }
        // A verdict of its own that was due in the very moment comes before any answer can.
        let (early, rest) = net.trace.drain(..).partition(|line| line.at_ms <= back + FIRST_ANSWER_MS);
        net.trace = early;
        assert_eq!(downs(&net, |node| node != slot), [], "out for {out_for}, healed after {healed}");
        let had_verdict = !downs(&net, |_| true).is_empty();
        net.trace = rest;
        assert_eq!(downs(&net, |_| true), [], "out for {out_for}, healed after {healed}");
        let rejoined = |line: &super::net::Line| matches!(line.what, What::Notice(Notice::Rejoined { .. }));
        let renewed = net.trace.iter().filter(|line| rejoined(line) && line.node != slot).count();
        assert!(renewed == 0 || had_verdict, "nobody else has to prove that it lives");
        assert_eq!(net.record, net.healthy());
    }
}

#[test]
fn halves_that_meet_again_take_nobody_for_dead() {
    for seed in seeds(5) {
        for (left, right) in [(1, 1), (1, 2), (1, 4), (2, 3), (2, 2), (3, 4)] {
            let mut net = Net::settled(seed, left + right);
            net.cut = (0..left).flat_map(|a| (left..left + right).map(move |b| (a, b))).collect();
            let out_for = net.rng.random_range(20_000..150_000);
            net.run(out_for);
            net.trace.clear();
            net.cut.clear();
            net.run_until("healed", 5_000, |net| net.all_see_up(left + right));
            net.run(30_000);
            // Of two equal halves neither knows better.
            if left != right {
                assert_eq!(downs(&net, |_| true), [], "{left}|{right}, out for {out_for}");
            }
            assert_eq!(net.record, net.healthy());
        }
    }
}

#[test]
fn who_was_there_before_is_found_when_every_seed_is_gone() {
    for (seed, is_remembered) in seeds(10).into_iter().flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut net = Net::settled(seed, 4);
        net.run(40_000);
        (0..4).for_each(|slot| net.kill(slot));
        if !is_remembered {
            net.remembered.clear();
        }
        // The seeds are the first two.
        net.start(2);
        net.start(3);
        let found = |net: &Net| [(2, 3), (3, 2)].iter().all(|&(a, b)| net.sees(a, b).as_deref() == Some("alive"));
        if is_remembered {
            net.run_until("they find each other", 5_000, found);
        } else {
            net.run(60_000);
            assert!(!found(&net), "by what?");
        }
    }
}

#[test]
fn the_first_node_finds_those_that_were_there_before_when_they_come_later() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 3);
        net.run(40_000);
        (0..3).for_each(|slot| net.kill(slot));
        assert!(net.remembered[&0].contains(&address(1)));
        // It has no seeds, and is up long before the others, whose seeds are gone and who remember nobody.
        let alone = Settings { seeds: Vec::new(), ..net.settings(0) };
        net.start_as(0, alone);
        net.run(40_000);
        assert!(net.remembered[&0].contains(&address(1)), "whom it does not see it still remembers");
        net.remembered.remove(&1);
        let other = Settings { seeds: vec![Seed::Address("198.51.100.1:7946".parse().unwrap())], ..net.settings(1) };
        net.start_as(1, other);
        net.run_until("they meet", 90_000, |net| net.sees(0, 1).as_deref() == Some("alive"));
    }
}
