//! Whom this cluster takes for down, and how soon: nobody that lives, and who is dead before anybody waits for it.

use std::time::Duration;

use rand::RngExt;

use super::super::{Notice, Settings};
use super::net::{Line, Net, What, node_name, seeds};
use crate::config::Profile;
use crate::event::EventKind;

fn renewals(net: &Net) -> Vec<usize> {
    let renewed = |line: &&Line| matches!(line.what, What::Notice(Notice::Rejoined { .. }));
    net.trace.iter().filter(renewed).map(|line| line.node).collect()
}

#[test]
fn a_slow_node_takes_nobody_down_and_does_not_renew_itself_all_the_time() {
    for seed in seeds(1) {
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
    for seed in seeds(3) {
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
    for (nodes, count, median) in [(2, 40, 5_200), (3, 40, 5_400), (5, 30, 5_600), (10, 12, 5_900), (30, 9, 7_900)] {
        let mut times: Vec<_> = seeds(count).into_iter().map(|seed| detection(seed, nodes)).collect();
        times.sort_unstable_by_key(|(_, all)| *all);
        let at = |share: usize| times[(times.len() - 1) * share / 100].1;
        // One in some hundred is probed by nobody for six seconds: that is SWIM's own chance.
        let (middle, most, worst) = (at(50), at(99), at(100));
        let is_good = middle <= median && most <= 10_000 && worst <= 12_000;
        assert!(is_good, "{nodes} nodes: {middle} ms, 99 of 100 {most} ms, at worst {worst} ms");
    }
}

#[test]
fn what_led_to_a_verdict_is_told_with_it() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 5);
        net.kill(4);
        net.run_until("suspected", 10_000, |net| net.sees(0, 4).is_some_and(|state| state == "suspect"));
        net.run(100);
        let shown = |net: &Net, slot: usize| {
            let member = net.node(slot).status().members.into_iter().find(|it| it.name == node_name(4).as_str());
            member.unwrap().evidence.unwrap()
        };
        let evidence = shown(&net, 0);
        assert!(evidence.suspected_since.is_some() && evidence.verdict.is_none() && evidence.down_since.is_none());
        assert!((1..=4).contains(&evidence.accusers.len()), "{evidence:?}");
        net.run_until("down", 10_000, |net| net.events(EventKind::MemberDown).len() == 4);
        let mut own = 0;
        for slot in 0..4 {
            let evidence = shown(&net, slot);
            let told = net.trace.iter().find_map(|line| match &line.what {
                What::Notice(Notice::Verdict { member, evidence }) if line.node == slot => Some((member, evidence)),
                _ => None,
            });
            assert_eq!(told, Some((&node_name(4), &Box::new(evidence.clone()))));
            let is_own = evidence.verdict.as_deref() == Some("own");
            // Who takes another's word need not have heard of all that led to it.
            let accusers = if is_own { 2 } else { 1 };
            assert!(evidence.suspected_ms.unwrap() >= 3_000 && evidence.accusers.len() >= accusers, "{evidence}");
            let others = (0..4).map(|slot| node_name(slot).to_string()).collect::<Vec<_>>();
            assert!(evidence.accusers.iter().all(|it| others.contains(&it.name) && it.asked == 3), "{evidence}");
            own += u32::from(is_own);
        }
        assert!(own >= 1, "somebody gave the verdict");
        net.start(4);
        net.run_until("back", 20_000, |net| net.all_see_up(5));
        assert!(net.node(0).status().members.iter().all(|member| member.evidence.is_none()));
    }
}

#[test]
fn the_fast_profile_is_fast_and_still_no_liar() {
    let start = |seed: u64| {
        let mut net = Net::new(seed);
        for slot in 0..3 {
            let settings = Settings { profile: Profile::Fast, ..net.settings(slot) };
            net.start_as(slot, settings);
        }
        net.run_until("all are joined and up", 30_000, |net| net.all_see_up(3));
        net.run(12_000);
        net.trace.clear();
        net
    };
    for seed in seeds(5) {
        let mut net = start(seed);
        net.loss = 0.05;
        net.run(1_200_000);
        assert_eq!(net.events(EventKind::MemberDown), []);
    }
    let mut times: Vec<_> = seeds(40)
        .into_iter()
        .map(|seed| {
            let mut net = start(seed);
            let pause = net.rng.random_range(0..5_000);
            net.run(pause);
            let killed = net.ms();
            net.kill(seed as usize % 3);
            net.run_until("all know", 10_000, |net| net.events(EventKind::MemberDown).len() == 2);
            net.ms() - killed
        })
        .collect();
    times.sort_unstable();
    assert!(times[times.len() / 2] <= 2_500, "{times:?}");
}
