//! Whole nodes against each other on a virtual network.

mod accuracy;
mod agree;
mod beat;
mod drain;
mod govern;
mod heal;
mod hold;
mod hostile;
mod keep;
mod net;
mod receipts;
mod reload;
mod stand_in;
mod stream;
mod tcp;
mod trouble;
mod upgrade;
mod verbs;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Input, Notice};
use crate::config::{App, Handler, MAX_HANDLERS, Seed};
use crate::envelope::ClusterKey;
use crate::event::{EventKind, Outcome, RunEnd};
use crate::name::{AppName, ClusterName, HandlerName, MAX_LEN, NodeName};
use crate::record::{AppRecord, room_for_apps};
use net::{Net, What, address, node_name, seeds, wanted, www};
use tcp::Fate;

#[test]
fn nodes_find_each_other_and_share_their_states() {
    for seed in seeds(10) {
        for count in [1, 2, 3, 8] {
            let mut net = Net::new(seed);
            (0..count).for_each(|slot| {
                let mut settings = net.settings(slot);
                if count == 1 {
                    settings.seeds.clear();
                }
                net.start_as(slot, settings);
            });
            net.run_until("all see all up", 10_000, |net| net.all_see_up(count));
        }
    }
}

#[test]
fn the_longest_names_and_the_largest_records_still_get_through() {
    let mut net = Net::new(1);
    for slot in 0..4 {
        let mut settings = net.settings(slot);
        settings.name = NodeName::new(&format!("{slot}{}", "x".repeat(MAX_LEN - 1))).unwrap();
        let handler = settings.handlers[0].clone();
        settings.handlers.extend(
            (1..MAX_HANDLERS).map(|index| Handler {
                name: HandlerName::new(&format!("handler{index}")).unwrap(),
                ..handler.clone()
            }),
        );
        let publish = |index: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, slot as u16, index]);
        settings.apps[0].publish = (0..8).map(publish).collect();
        let mut second = App { name: AppName::new("second").unwrap(), ..settings.apps[0].clone() };
        second.publish.truncate(4);
        let room = room_for_apps(MAX_HANDLERS);
        let size = AppRecord::largest(&second).encoded_len() + AppRecord::largest(&settings.apps[0]).encoded_len();
        assert!((room - 17..=room).contains(&size), "as large as the config takes them: {size}");
        settings.apps.push(second);
        net.start_as(slot, settings);
    }
    net.loss = 0.1;
    net.run_until("all see all up", 30_000, |net| net.all_see_up(4));
}

#[test]
fn a_node_that_finds_nobody_decides_nothing() {
    let mut net = Net::new(1);
    net.start(0);
    net.run(600_000);
    assert!(!net.node(0).is_joined());
    assert_eq!(net.runs().len(), 0);
    // Seeds are tried for ever.
    net.start(1);
    net.run_until("they met", 5000, |net| net.all_see_up(2));
}

#[test]
fn a_killed_node_is_down_on_all_and_one_node_acts_once() {
    for seed in seeds(20) {
        let mut net = Net::settled(seed, 3);
        let start = net.ms();
        net.kill(2);
        net.run_until("both know", 12_000, |net| net.events(EventKind::MemberDown).len() == 2);
        assert!(net.ms() - start <= 10_000);
        net.run(5000);
        let runs = net.runs();
        assert_eq!(runs.len(), 1, "one run in the whole cluster");
        assert_eq!(wanted(runs[0].2), ["web1", "web2"]);
        assert_eq!(runs[0].2.queued, Duration::ZERO, "nothing is added between the event and its delivery");
        assert_eq!(net.outcomes().iter().filter(|outcome| **outcome == Outcome::Done).count(), 1);
    }
}

#[test]
fn a_bad_application_is_acted_on_and_so_is_its_return() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 3);
        net.set_app(1, false);
        net.run(20_000);
        assert_eq!(net.events(EventKind::AppDown).len(), 3, "every node knows, once");
        assert_eq!(net.runs().len(), 1);
        assert_eq!(wanted(net.runs()[0].2), ["web1", "web3"]);
        net.trace.clear();
        net.set_app(1, true);
        net.run(20_000);
        assert_eq!(net.runs().len(), 1);
        assert_eq!(wanted(net.runs()[0].2), ["web1", "web2", "web3"]);
        assert_eq!(net.events(EventKind::MemberDown), []);
    }
}

#[test]
fn events_have_one_id_in_the_whole_cluster() {
    let mut net = Net::settled(3, 4);
    net.set_app(1, false);
    net.run(20_000);
    net.kill(2);
    net.run(20_000);
    let mut ids: Vec<_> = net
        .trace
        .iter()
        .filter_map(|line| match &line.what {
            What::Notice(Notice::Event(event)) => Some(event.id.clone()),
            _ => None,
        })
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "an app-down, a member-down, and the app-down that came with it: {ids:?}");
}

#[test]
fn the_last_application_stays_published() {
    let mut net = Net::settled(5, 3);
    for slot in 0..3 {
        net.set_app(slot, false);
        // One of three in five minutes: more is beyond the budget.
        net.run(310_000);
    }
    let sets: Vec<_> = net.runs().iter().map(|(_, _, run)| wanted(run)).collect();
    assert!(sets.iter().all(|set| !set.is_empty()), "{sets:?}");
    assert_eq!(sets.last().unwrap(), &["web3"]);
    let held = net.trace.iter().filter(|line| matches!(&line.what, What::Notice(Notice::Held { .. }))).count();
    assert_eq!(held, 3, "each node says once that it holds the set");
}

#[test]
fn a_quick_restart_moves_nothing() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 3);
        net.kill(1);
        net.run(1000);
        net.start(1);
        net.run(20_000);
        assert_eq!(net.events(EventKind::MemberDown), []);
        assert_eq!(net.events(EventKind::AppDown), []);
        for (_, _, run) in net.runs() {
            assert_eq!(wanted(run), ["web1", "web2", "web3"], "{run:?}");
        }
        assert!(net.all_see_up(3));
    }
}

#[test]
fn a_slow_restart_is_the_same_member_again() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 3);
        net.kill(1);
        net.run(15_000);
        net.start(1);
        net.run_until("back", 20_000, |net| net.all_see_up(3));
        net.run(2000);
        let last = net.runs().last().map(|(_, _, run)| wanted(run)).unwrap();
        assert_eq!(last, ["web1", "web2", "web3"]);
        assert_eq!(net.node(0).status().members.len(), 3);
    }
}

#[test]
fn a_leave_is_known_at_once_and_is_no_failure() {
    for seed in seeds(20) {
        let mut net = Net::settled(seed, 5);
        net.loss = 0.1;
        let start = net.ms();
        net.leave(3);
        net.run_until("it may end", 3500, |net| net.has_left(3));
        assert!(net.ms() - start <= 3000);
        net.run(15_000);
        assert_eq!(net.events(EventKind::MemberDown), []);
        assert_eq!(net.events(EventKind::MemberLeft).len(), 4);
        assert_eq!(net.sees(0, 3).as_deref(), Some("left"));
    }
}

#[test]
fn who_left_may_return() {
    let mut net = Net::settled(4, 3);
    net.leave(2);
    net.run(20_000);
    net.start(2);
    net.run_until("back", 20_000, |net| net.all_see_up(3));
}

#[test]
fn no_false_failure_under_loss() {
    for seed in seeds(3) {
        for loss in [0.05, 0.1, 0.2] {
            let mut net = Net::settled(seed, 5);
            net.loss = loss;
            net.run(600_000);
            assert_eq!(net.events(EventKind::MemberDown), [], "loss {loss}");
        }
    }
}

#[test]
fn states_reach_everybody_under_loss() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 10);
        net.loss = 0.1;
        net.set_app(4, false);
        net.run_until("first knows", 20_000, |net| !net.events(EventKind::AppDown).is_empty());
        let first = net.ms();
        net.run_until("all know", 60_000, |net| net.events(EventKind::AppDown).len() == 10);
        assert!(net.ms() - first <= 5000, "{} ms", net.ms() - first);
    }
}

#[test]
fn a_late_joiner_has_the_full_state() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 10);
        let start = net.ms();
        net.start(10);
        net.run_until("joined", 5000, |net| net.node(10).is_joined());
        assert!(net.ms() - start <= 2000);
        let known = net.node(10).status().members.iter().filter(|member| member.apps.len() == 1).count();
        assert_eq!(known, 11, "joined means: it holds all that the others hold");
    }
}

#[test]
fn a_large_cluster_exchanges_in_parts() {
    let mut net = Net::new(1);
    for slot in 0..80 {
        net.start(slot);
        net.run(50);
    }
    net.run_until("all see all up", 120_000, |net| net.all_see_up(80));
    net.trace.clear();
    net.start(80);
    net.run_until("joined", 5000, |net| net.node(80).is_joined());
    assert_eq!(net.node(80).status().members.iter().filter(|member| member.apps.len() == 1).count(), 81);
}

#[test]
fn what_gossip_has_lost_is_found_among_many_by_a_few_hashes() {
    for (seed, fate) in [(1, Fate::Made), (2, Fate::Refused), (3, Fate::Unknown)] {
        let (mut net, many) = (Net::settled(seed, 40), 40);
        net.tcp.fate = fate;
        net.set_app(9, false);
        net.run_until("its owner knows", 30_000, |net| !net.events(EventKind::AppDown).is_empty());
        // One hears nothing until the news is old; and not for so long that it would be missed.
        net.cut = (0..many).filter(|slot| *slot != 5).map(|slot| (slot.min(5), slot.max(5))).collect();
        net.run(3200);
        net.cut.clear();
        net.run_until("it knows as well", 70_000, |net| net.events(EventKind::AppDown).len() == many);
        assert_eq!(net.events(EventKind::MemberDown), []);
        let sent = net.sent;
        net.run(60_000);
        let per_node = (net.sent - sent) as f64 / many as f64 / 60.0;
        assert!(per_node < 5.0, "at rest {per_node} datagrams a node and second");
    }
}

#[test]
fn splits_heal() {
    for seed in seeds(5) {
        for (left, right) in [(1, 1), (2, 2), (1, 3), (2, 3)] {
            let mut net = Net::settled(seed, left + right);
            net.cut = (0..left).flat_map(|a| (left..left + right).map(move |b| (a, b))).collect();
            net.run(40_000);
            net.cut.clear();
            net.run_until("healed", 60_000, |net| net.all_see_up(left + right));
        }
    }
}

#[test]
fn a_new_address_is_the_same_member() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        net.kill(2);
        net.run(500);
        let mut settings = net.settings(2);
        settings.advertise = address(20);
        net.start_as(2, settings);
        let new = address(20).to_string();
        let all_know = |net: &Net| (0..2).all(|slot| net.node(slot).status().members[2].address == new);
        net.run_until("known at its new address", 30_000, all_know);
        net.run_until("and well", 30_000, |net| net.all_see_up(3));
        assert_eq!(net.node(0).status().members.len(), 3);
        assert_eq!(net.events(EventKind::MemberDown), []);
    }
}

#[test]
fn a_second_node_with_a_name_in_use_is_refused() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        let mut settings = net.settings(3);
        settings.name = node_name(2);
        net.start_as(3, settings);
        let told = |net: &Net| {
            net.trace.iter().any(|line| {
                matches!(&line.what, What::Notice(Notice::NameTaken { holder, joined: false })
                    if line.node == 3 && *holder == address(2))
            })
        };
        net.run_until("it is told who has the name", 5000, told);
        assert_eq!(net.events(EventKind::MemberDown), []);
        assert_eq!(net.sees(0, 2).as_deref(), Some("alive"));
    }
}

#[test]
fn a_runner_that_dies_is_succeeded() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 3);
        // Whoever runs the scope dies in the middle of its run.
        net.run_takes = Duration::from_secs(3600);
        net.set_app(0, false);
        net.run_until("a run starts", 20_000, |net| !net.runs().is_empty());
        let (_, first, _) = net.runs()[0];
        net.run_takes = Duration::from_millis(20);
        net.kill(first);
        net.run_until("another has run it", 20_000, |net| {
            net.runs().iter().any(|(_, node, _)| *node != first) && net.outcomes().contains(&Outcome::Done)
        });
        net.run(5000);
        let last = net.runs().last().map(|(_, node, run)| (*node, wanted(run))).unwrap();
        let expected: Vec<_> = (1..3).filter(|slot| *slot != first).map(|slot| node_name(slot).to_string()).collect();
        assert!(last.0 != first && last.1 == expected, "{last:?} {expected:?}");
    }
}

#[test]
fn failures_are_tried_again_with_the_newest_state() {
    let mut net = Net::settled(2, 2);
    for slot in 0..2 {
        net.run_ends.insert(slot, RunEnd::RetryAfter(Duration::from_secs(2), "refused".into()));
    }
    net.set_app(0, false);
    net.run_until("it failed", 20_000, |net| net.outcomes().contains(&Outcome::Retry));
    net.run_ends.clear();
    net.run_until("it worked", 10_000, |net| net.outcomes().contains(&Outcome::Done));
    let attempts: Vec<_> = net.runs().iter().map(|(_, _, run)| run.delivery.attempt).collect();
    assert_eq!(attempts, [1, 2]);
}

#[test]
fn reconcile_comes_round_on_one_node() {
    let mut net = Net::settled(6, 3);
    net.run(2 * 330_000);
    let runs = net.runs();
    assert!((2..=3).contains(&runs.len()), "{}", runs.len());
    assert!(runs.iter().all(|(_, node, run)| {
        *node == runs[0].1 && run.delivery.event.kind == EventKind::Reconcile && run.delivery.event.app == Some(www())
    }));
}

#[test]
fn garbage_wrong_keys_and_other_clusters_are_refused_and_told_once() {
    let mut net = Net::settled(7, 2);
    let from: SocketAddr = "127.0.0.9:9".parse().unwrap();
    let mut other_key = net.settings(5);
    other_key.key = ClusterKey::new([8; 32]);
    let mut other_cluster = net.settings(6);
    other_cluster.cluster = ClusterName::new("other").unwrap();
    for (slot, settings) in [(2, other_key), (3, other_cluster)] {
        net.start_as(slot, settings);
    }
    for round in 0..50u8 {
        net.inject(0, from, vec![round; usize::from(round) * 30]);
        net.inject(0, from, vec![]);
        net.run(1000);
    }
    let status = net.node(0).status();
    assert_eq!(status.members.len(), 2);
    for reason in ["key", "cluster", "version", "length"] {
        assert!(status.datagrams[reason] > 1, "{reason}: {:?}", status.datagrams);
    }
    let told =
        net.trace.iter().filter(|line| line.node == 0 && matches!(&line.what, What::Notice(Notice::Refused { .. })));
    assert_eq!(told.count(), 4, "once a minute for each reason");
    assert!(!net.node(2).is_joined() && !net.node(3).is_joined());
}

#[test]
fn a_recording_changes_nothing() {
    let mut net = Net::settled(8, 3);
    net.recorded = Some(Vec::new());
    net.set_app(1, false);
    net.run(15_000);
    net.kill(2);
    net.run(15_000);
    let recorded = net.recorded.take().unwrap();
    net.set_app(1, true);
    net.run(20_000);
    net.start(2);
    net.run_until("all well again", 30_000, |net| net.all_see_up(3));
    net.run(5000);
    net.trace.clear();
    for (from, to, data) in recorded {
        let slot = (0..3).find(|slot| address(*slot) == to).unwrap();
        net.inject(slot, from, data);
    }
    net.run(5000);
    for kind in [EventKind::MemberDown, EventKind::AppDown, EventKind::MemberLeft] {
        assert_eq!(net.events(kind), []);
    }
    assert!(net.all_see_up(3));
}

#[test]
fn a_seed_given_by_name_is_looked_up_until_it_answers() {
    let mut net = Net::settled(9, 2);
    let mut settings = net.settings(2);
    settings.seeds = vec![Seed::Name("seeds.example.org".into(), 7946)];
    net.start_as(2, settings);
    net.run(5000);
    assert_eq!(net.lookups, 1, "one at a time");
    let resolved = |addresses| Input::Resolved { name: "seeds.example.org".into(), port: 7946, addresses };
    net.handle(2, resolved(vec![]));
    net.run(5000);
    assert!(!net.node(2).is_joined());
    assert_eq!(net.lookups, 2);
    net.handle(2, resolved(vec![address(9), address(1)]));
    net.run_until("joined", 5000, |net| net.all_see_up(3));
}

#[test]
fn one_seed_gives_one_history() {
    let history = |seed| {
        let mut net = Net::settled(seed, 4);
        net.loss = 0.2;
        net.kill(3);
        net.run(20_000);
        net.trace.iter().map(|line| format!("{line:?}")).collect::<Vec<_>>()
    };
    assert_eq!(history(11), history(11));
    assert_ne!(history(11), history(12));
}
