//! Whom this cluster takes for down, and how soon: nobody that lives, and who is dead before anybody waits for it.

use std::time::Duration;

use rand::RngExt;

use super::super::Notice;
use super::net::{Line, Net, What, node_name, seeds};
use crate::event::EventKind;

fn renewals(net: &Net) -> Vec<usize> {
    let renewed = |line: &&Line| matches!(line.what, What::Notice(Notice::Rejoined { .. }));
    net.trace.iter().filter(renewed).map(|line| line.node).collect()
}

#[test]
fn a_slow_node_takes_nobody_down_and_does_not_renew_itself_all_the_time() {
    for seed in seeds(2) {
        let (mut net, slow) = (Net::settled(seed, 5), seed as usize % 5);
        net.delays.insert(slow, Duration::from_secs(3));
        net.run(3_600_000);
        let name = node_name(slow).to_string();
        let wrong: Vec<_> =
            net.events(EventKind::MemberDown).into_iter().filter(|(_, member)| *member != name).collect();
        assert_eq!(wrong, []);
        let renewals = renewals(&net);
        assert!(renewals.len() <= 4 && renewals.iter().all(|node| *node == slow), "{renewals:?}");
    }
}

#[test]
fn who_has_no_cpu_takes_nobody_down() {
    for seed in seeds(5) {
        for nodes in [3, 5] {
            let (mut net, busy) = (Net::settled(seed, nodes), seed as usize % nodes);
            let end = net.ms() + 600_000;
            while net.ms() < end {
                let (stall, works) = (net.rng.random_range(100..2_000), net.rng.random_range(1..60));
                net.stall(busy, stall);
                net.run(stall + works);
            }
            let wrong: Vec<_> =
                net.events(EventKind::MemberDown).into_iter().filter(|(node, _)| *node == busy).collect();
            assert_eq!(wrong, []);
        }
    }
}

#[test]
fn an_outage_of_two_and_a_half_seconds_is_no_failure() {
    for seed in seeds(200) {
        let nodes = 2 + seed as usize % 2;
        let mut net = Net::settled(seed, nodes);
        net.isolate(seed as usize / 2 % nodes);
        net.run(2_500);
        net.cut.clear();
        net.run(20_000);
        assert_eq!(net.events(EventKind::MemberDown), []);
    }
}

/// How long after a kill the first and the last node know, in milliseconds.
fn detection(seed: u64, nodes: usize) -> (u64, u64) {
    let mut net = Net::settled(seed, nodes);
    let pause = net.rng.random_range(0..5_000);
    net.run(pause);
    net.trace.clear();
    let start = net.ms();
    net.kill(seed as usize % nodes);
    net.run_until("one knows", 60_000, |net| !net.events(EventKind::MemberDown).is_empty());
    let first = net.ms() - start;
    net.run_until("all know", 60_000, |net| net.events(EventKind::MemberDown).len() == nodes - 1);
    (first, net.ms() - start)
}

#[test]
fn the_dead_are_known_to_be_dead_in_time() {
    for (nodes, count, median) in [(2, 40, 5_500), (3, 40, 6_000), (5, 30, 6_000), (10, 12, 6_500), (30, 3, 8_000)] {
        let mut times: Vec<_> = seeds(count).into_iter().map(|seed| detection(seed, nodes)).collect();
        times.sort_unstable_by_key(|(_, all)| *all);
        let (middle, worst) = (times[times.len() / 2].1, times[times.len() - 1].1);
        assert!(middle <= median && worst <= 10_000, "{nodes} nodes: {middle} ms, at worst {worst} ms");
    }
}
