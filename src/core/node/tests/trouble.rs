//! Restarts, joins and losses at the worst moments: what is healthy stays published, and in the end the record is right.
//!
//! [`Net::record`] stands for the DNS record: the last run that worked has written what it saw when it began.

use std::time::Duration;

use rand::RngExt;

use super::super::Notice;
use super::net::{Net, What, address, node_name, seeds, wanted, www};
use crate::config::Seed;
use crate::event::{EventKind, Outcome, RunEnd};
use crate::name::{HandlerName, NodeName};
use crate::plan::runner;

/// No run may have left out an application that was up all the time.
fn assert_nothing_taken_out(net: &Net, healthy: std::ops::Range<usize>) {
    for (at_ms, node, run) in net.runs() {
        for slot in healthy.clone() {
            let name = node_name(slot).to_string();
            let event = &run.delivery.event.id;
            assert!(wanted(run).contains(&name), "at {at_ms} ms {} left {name} out for {event}", node_name(node));
        }
    }
}

fn restart(net: &mut Net, slot: usize, down_ms: u64) {
    net.kill(slot);
    net.run(down_ms);
    net.start(slot);
}

/// Who runs the scope of `www` among the nodes in `slots` and `other`.
fn runner_of(slots: &[usize], other: &NodeName) -> NodeName {
    let mut names: Vec<_> = slots.iter().map(|slot| node_name(*slot)).collect();
    names.push(other.clone());
    runner(&HandlerName::new("dns").unwrap(), "www", names.iter()).unwrap().clone()
}

#[test]
fn a_quick_restart_of_any_node_takes_nothing_out() {
    for seed in seeds(3) {
        for (count, slot) in [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)] {
            let mut net = Net::settled(seed, count);
            let down_ms = net.rng.random_range(50..1500);
            restart(&mut net, slot, down_ms);
            net.run(20_000);
            assert_nothing_taken_out(&net, 0..count);
            assert_eq!(net.record, net.healthy());
            assert_eq!(net.events(EventKind::MemberDown), []);
        }
    }
}

#[test]
fn restarts_one_after_the_other_take_nothing_out() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 5);
        for slot in 0..5 {
            let down_ms = net.rng.random_range(50..1000);
            restart(&mut net, slot, down_ms);
            let pause = net.rng.random_range(50..4000);
            net.run(pause);
        }
        net.run(20_000);
        assert_nothing_taken_out(&net, 0..5);
        assert_eq!(net.record, net.healthy());
        assert_eq!(net.events(EventKind::MemberDown), []);
    }
}

#[test]
fn a_restart_of_all_at_once_takes_nothing_out() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        (0..3).for_each(|slot| net.kill(slot));
        net.run(300);
        (0..3).for_each(|slot| net.start(slot));
        net.run(30_000);
        assert_nothing_taken_out(&net, 0..3);
        assert_eq!(net.record, net.healthy());
    }
}

#[test]
fn a_newcomer_takes_nothing_out_while_others_restart() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 3);
        let (slot, down_ms) = (net.rng.random_range(0..3), net.rng.random_range(50..1000));
        restart(&mut net, slot, down_ms);
        let pause = net.rng.random_range(50..2000);
        net.run(pause);
        (3..5).for_each(|slot| net.start(slot));
        net.run(20_000);
        assert_nothing_taken_out(&net, 0..3);
        assert_eq!(net.record, net.healthy(), "the newcomers made runs that could have");
    }
}

#[test]
fn a_scope_is_run_by_a_node_that_has_its_handler() {
    for seed in seeds(2) {
        for with_handler in 0..3 {
            let mut net = Net::new(seed);
            for slot in 0..3 {
                let mut settings = net.settings(slot);
                if slot != with_handler {
                    settings.handlers.clear();
                }
                net.start_as(slot, settings);
            }
            net.run_until("all are up", 30_000, |net| net.all_see_up(3));
            net.run_until("published", 5000, |net| net.record == net.healthy());
            net.kill((with_handler + 1) % 3);
            net.run_until("published again", 12_000, |net| net.record == net.healthy());
        }
    }
}

#[test]
fn an_application_whose_checks_never_agree_does_not_hold_up_the_rest() {
    let mut net = Net::settled(1, 2);
    (0..2).for_each(|slot| net.kill(slot));
    net.flapping.insert(0);
    (0..2).for_each(|slot| net.start(slot));
    net.run_until("the other's is published", 60_000, |net| !net.runs().is_empty());
    assert_eq!(wanted(net.runs()[0].2), ["web2"]);
}

#[test]
fn a_leave_is_never_told_as_a_failure() {
    for seed in seeds(6) {
        let mut net = Net::settled(seed, 10);
        net.loss = 0.3;
        net.leave(9);
        net.leave(8);
        net.run(20_000);
        assert!(!net.events(EventKind::MemberLeft).is_empty(), "it is told as what it is");
        assert_eq!(net.events(EventKind::MemberDown), []);
    }
}

#[test]
fn who_leaves_while_it_joins_is_gone_at_once() {
    for seed in seeds(20) {
        let mut net = Net::settled(seed, 3);
        net.start(3);
        net.run(seed % 20);
        net.leave(3);
        net.run_until("it may end", 3500, |net| net.has_left(3));
        net.run(20_000);
        assert_eq!(net.events(EventKind::MemberDown), []);
        assert_nothing_taken_out(&net, 0..3);
    }
}

#[test]
fn who_leaves_begins_nothing_more() {
    let mut net = Net::settled(1, 3);
    for slot in 0..3 {
        net.run_ends.insert(slot, RunEnd::Retry("refused".into()));
    }
    net.set_app(0, false);
    net.run_until("a run has failed", 20_000, |net| net.outcomes().contains(&Outcome::Retry));
    let runner = net.runs()[0].1;
    net.trace.clear();
    // Nobody hears it: it waits for as long as it may, and the next try falls due.
    net.cut = (0..3).flat_map(|a| (a..3).map(move |b| (a, b))).collect();
    net.leave(runner);
    net.run_until("it ends", 3500, |net| net.has_left(runner));
    assert!(net.runs().iter().all(|(_, node, _)| *node != runner));
}

#[test]
fn who_takes_over_does_at_once_what_its_predecessor_could_not() {
    let mut net = Net::settled(1, 3);
    for slot in 0..3 {
        net.run_ends.insert(slot, RunEnd::Retry("refused".into()));
    }
    net.set_app(0, false);
    net.run_until("a run has failed", 20_000, |net| net.outcomes().contains(&Outcome::Retry));
    let mut settings = net.settings(3);
    settings.apps.clear();
    settings.name = (3..).map(node_name).find(|name| runner_of(&[0, 1, 2], name) == *name).unwrap();
    net.start_as(3, settings);
    let handler_timeout = 10_000;
    net.run_until("the newcomer has done it", handler_timeout / 2, |net| net.record == ["web2", "web3"]);
}

#[test]
fn what_a_predecessor_writes_last_does_not_stay() {
    for seed in seeds(8) {
        let mut net = Net::settled(seed, 3);
        // Runs take long, and the scope moves to newcomers while they go on.
        net.run_takes = Duration::from_secs(8);
        net.set_app(0, false);
        net.run_until("a run has begun", 20_000, |net| !net.runs().is_empty());
        net.run_takes = Duration::from_millis(20);
        (3..7).for_each(|slot| net.start(slot));
        net.run(30_000);
        assert_eq!(net.record, net.healthy());
    }
}

#[test]
fn nobody_goes_on_with_a_part_of_its_cluster() {
    for seed in seeds(25) {
        let mut net = Net::settled(seed, 5);
        net.loss = 0.3;
        (1..5).for_each(|slot| net.kill(slot));
        net.run(300);
        (1..5).for_each(|slot| net.start(slot));
        net.run(8000);
        let down: Vec<_> = net.events(EventKind::MemberDown).into_iter().map(|(_, member)| member).collect();
        let healthy: Vec<_> = net.healthy().into_iter().filter(|name| !down.contains(name)).collect();
        for (at_ms, node, run) in net.runs() {
            let wanted = wanted(run);
            assert!(healthy.iter().all(|name| wanted.contains(name)), "{at_ms} {} {wanted:?}", node_name(node));
        }
    }
}

#[test]
fn two_that_miss_the_rest_wait_for_it_before_they_go_on_alone() {
    let mut net = Net::settled(1, 3);
    (1..3).for_each(|slot| net.kill(slot));
    net.cut = [(0, 1), (0, 2)].into();
    (1..3).for_each(|slot| net.start(slot));
    net.run(8000);
    assert!(!net.node(1).is_joined() && !net.node(2).is_joined());
    // For ever would be too long: the rest may be dead.
    net.run_until("they go on", 10_000, |net| net.node(1).is_joined() && net.node(2).is_joined());
}

#[test]
fn a_first_node_without_seeds_finds_its_cluster_again() {
    for seed in seeds(5) {
        let mut net = Net::new(seed);
        for slot in 0..3 {
            let mut settings = net.settings(slot);
            settings.seeds = if slot == 0 { vec![] } else { vec![Seed::Address(address(0))] };
            net.start_as(slot, settings);
        }
        net.run_until("all are up", 30_000, |net| net.all_see_up(3));
        net.run(12_000);
        net.trace.clear();
        net.kill(0);
        net.run(300);
        let mut settings = net.settings(0);
        settings.seeds.clear();
        net.start_as(0, settings);
        net.run(20_000);
        assert!(net.all_see_up(3));
        assert_nothing_taken_out(&net, 0..3);
        assert_eq!(net.record, net.healthy());
    }
}

#[test]
fn an_address_that_moves_while_its_application_is_up_is_published() {
    for slot in 0..3 {
        let mut net = Net::settled(1, 3);
        net.kill(slot);
        net.run(300);
        let mut settings = net.settings(slot);
        let moved = "192.0.2.99".parse().unwrap();
        settings.apps[0].publish = vec![moved];
        net.start_as(slot, settings);
        let is_published = |net: &Net| {
            let last = net.runs().last().map(|(_, _, run)| run.snapshot.apps[&www()].clone());
            last.is_some_and(|set| set.endpoints.iter().any(|endpoint| endpoint.address == moved))
        };
        net.run_until("published", 5000, is_published);
        assert_nothing_taken_out(&net, 0..3);
    }
}

#[test]
fn nodes_that_start_together_do_not_all_run_the_handler() {
    for seed in seeds(3) {
        let mut net = Net::new(seed);
        (0..12).for_each(|slot| net.start(slot));
        net.run(8000);
        assert_eq!(net.runs().len(), 1);
        assert_eq!(net.record, net.healthy());
    }
}

#[test]
fn halves_that_meet_again_agree_on_the_record() {
    let runner = (0..4).find(|slot| runner_of(&[0, 1, 2, 3], &node_name(*slot)) == node_name(*slot)).unwrap();
    for seed in seeds(6) {
        let mut net = Net::new(seed);
        for slot in 0..4 {
            let mut settings = net.settings(slot);
            if slot != runner {
                settings.handlers[0].reconcile_every = Duration::from_secs(10);
            }
            net.start_as(slot, settings);
        }
        net.run_until("all are up", 30_000, |net| net.all_see_up(4));
        let (same, others) = ((runner + 1) % 4, [(runner + 2) % 4, (runner + 3) % 4]);
        let pair = |a: usize, b: usize| (a.min(b), a.max(b));
        net.cut = others.iter().flat_map(|other| [pair(runner, *other), pair(same, *other)]).collect();
        // The other half has a run under way nearly all the time, and what that writes is its half of the addresses.
        net.slow = others.into();
        net.run(40_000);
        net.cut.clear();
        net.run_until("healed", 60_000, |net| net.all_see_up(4));
        net.run(15_000);
        assert_eq!(net.record, net.healthy());
    }
}

#[test]
fn a_name_is_not_taken_over_because_datagrams_are_lost() {
    for seed in seeds(40) {
        let mut net = Net::settled(seed, 3);
        net.loss = 0.2;
        let mut settings = net.settings(3);
        settings.name = node_name(2);
        net.start_as(3, settings);
        let is_told = |net: &Net| {
            let told = |what: &What| matches!(what, What::Notice(Notice::NameTaken { joined: false, .. }));
            net.trace.iter().any(|line| line.node == 3 && told(&line.what))
        };
        net.run_until("it is told that the name is taken", 30_000, is_told);
        net.kill(3);
        net.run(10_000);
        let state = net.sees(0, 2).unwrap();
        assert!(["alive", "suspect"].contains(&state.as_str()), "{state}");
        assert_eq!(net.node(0).status().members[2].address, address(2).to_string());
    }
}

/// One history of crashes, restarts, leaves, joins, bad applications, losses, slow and failing runs, and then calm.
fn stir(seed: u64) {
    let mut count = [2, 3, 4, 6][seed as usize % 4];
    let mut net = Net::new(seed);
    (0..count).for_each(|slot| net.start(slot));
    net.run(20_000);
    for _ in 0..20 {
        let slot = net.rng.random_range(0..count);
        match (net.rng.random_range(0..10), net.is_running(slot)) {
            (0, true) => net.kill(slot),
            (1, true) => net.leave(slot),
            (2, _) => net.set_app(slot, false),
            (3, _) => net.set_app(slot, true),
            (4 | 5, false) => net.start(slot),
            (6, true) => restart(&mut net, slot, 0),
            (7, _) => net.loss = [0.0, 0.1, 0.3][net.rng.random_range(0..3)],
            (8, _) => net.run_takes = Duration::from_millis([20, 3000, 9500][net.rng.random_range(0..3)]),
            (9, _) if net.run_ends.remove(&slot).is_none() => {
                net.run_ends.insert(slot, RunEnd::Retry("refused".into()));
            }
            _ if count < 8 => {
                net.start(count);
                count += 1;
            }
            _ => {}
        }
        let pause = [20, 300, 1500, 6000, 20_000][net.rng.random_range(0..5)];
        net.run(pause);
    }
    net.loss = 0.0;
    net.run_ends.clear();
    net.run_takes = Duration::from_millis(20);
    // The seeds come back, or those that look for them would for ever.
    for slot in (0..2).filter(|slot| !net.is_running(*slot)).collect::<Vec<_>>() {
        net.start(slot);
    }
    (0..count).for_each(|slot| net.set_app(slot, true));
    net.run(45_000);
    let healthy = net.healthy();
    assert!(healthy.iter().all(|member| net.record.contains(member)), "{:?} of {healthy:?}", net.record);
    // Too many died for all to be removed by now.
    let holds = net.node(net.writer.unwrap()).status().holds;
    let held: Vec<_> = holds.iter().map(|hold| hold.member.as_str()).collect();
    let surplus = net.record.iter().filter(|member| !healthy.contains(member));
    assert!(
        surplus.clone().all(|member| held.contains(&member.as_str())),
        "{:?} of {healthy:?}: {holds:?}",
        net.record
    );
}

#[test]
fn after_whatever_happened_the_record_is_right() {
    seeds(10).into_iter().for_each(stir);
}

fn verdict_is_told(net: &Net) -> bool {
    net.trace.iter().any(|line| matches!(&line.what, What::Notice(Notice::Health { .. })))
}

#[test]
fn news_do_not_wait_for_the_next_round() {
    let mut net = Net::settled(1, 3);
    net.set_app(1, false);
    net.run_until("a verdict", 20_000, verdict_is_told);
    net.run(10);
    assert_eq!(net.events(EventKind::AppDown).len(), 3);
}

#[test]
fn what_gossip_lost_comes_by_the_exchange() {
    let mut net = Net::settled(1, 3);
    net.set_app(1, false);
    net.run_until("a verdict", 20_000, verdict_is_told);
    // For as long as the news is spread, but not long enough to be taken for dead.
    net.cut = [(0, 2), (1, 2)].into();
    net.run(2500);
    net.cut.clear();
    assert_eq!(net.events(EventKind::AppDown).len(), 2);
    net.run_until("the third knows", 40_000, |net| net.events(EventKind::AppDown).len() == 3);
    assert_eq!(net.events(EventKind::MemberDown), []);
}

#[test]
fn those_that_return_are_asked_what_they_have_to_say() {
    for seed in seeds(3) {
        let mut net = Net::settled(seed, 6);
        net.cut = (0..3).flat_map(|a| (3..6).map(move |b| (a, b))).collect();
        net.run(20_000);
        net.set_app(5, false);
        net.run(20_000);
        net.cut.clear();
        let knows = |net: &Net, slot: usize| {
            let member = net.node(slot).status().members.into_iter().find(|member| member.name == "web6").unwrap();
            member.state == "alive" && member.apps[0].state == "down"
        };
        net.run_until("one knows", 60_000, |net| (0..3).any(|slot| knows(net, slot)));
        net.run_until("all know", 3000, |net| (0..3).all(|slot| knows(net, slot)));
    }
}

#[test]
fn a_split_heals_when_all_seeds_are_dead() {
    let mut net = Net::settled(1, 5);
    (0..2).for_each(|slot| net.kill(slot));
    net.run(15_000);
    net.cut = [(2, 3), (2, 4)].into();
    net.run(40_000);
    net.cut.clear();
    net.run_until("healed", 60_000, |net| net.all_see_up(3));
}
