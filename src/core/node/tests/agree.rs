//! Nodes that differ in what a handler is, and handlers that run on more nodes than one.
//!
//! [`Net::record`] stands for the DNS record, [`Net::writer`] for who has written it last.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;

use super::super::Notice;
use super::net::{Net, What, node_name, seeds, wanted, www};
use crate::config::{Pattern, RunOn};
use crate::event::{EventKind, Outcome};
use crate::name::HandlerName;
use crate::plan;

/// A handler whose only scope would fall to the second of two nodes, if both were as good.
fn falls_to_the_second() -> HandlerName {
    let names = (0..).map(|number| HandlerName::new(&format!("dns{number}")).unwrap());
    let two = [node_name(0), node_name(1)];
    let is_so = |name: &HandlerName| plan::runner(name, "www", two.iter()) == Some(&two[1]);
    names.into_iter().find(is_so).unwrap()
}

/// Starts a node whose handler has the config number `config`.
fn start(net: &mut Net, slot: usize, config: u32) {
    let mut settings = net.settings(slot);
    settings.handlers[0].name = falls_to_the_second();
    settings.handlers[0].config = BTreeMap::from([("ttl".into(), config.to_string())]);
    net.start_as(slot, settings);
}

/// Nodes with these config numbers that have settled.
fn with_configs(seed: u64, configs: &[u32]) -> Net {
    let mut net = Net::new(seed);
    for (slot, config) in configs.iter().enumerate() {
        start(&mut net, slot, *config);
    }
    settle(&mut net, configs.len());
    net
}

fn settle(net: &mut Net, count: usize) {
    net.run_until("all are joined and up", 30_000, |net| net.all_see_up(count));
    net.run(15_000);
}

/// Nodes whose handler runs on what `run_on` says, and that have settled.
fn running_on(seed: u64, count: usize, run_on: RunOn) -> Net {
    let mut net = Net::new(seed);
    for slot in 0..count {
        let mut settings = net.settings(slot);
        settings.handlers[0].run_on = run_on;
        net.start_as(slot, settings);
    }
    settle(&mut net, count);
    net.trace.clear();
    net
}

fn runners(net: &Net) -> BTreeSet<usize> {
    net.runs().iter().map(|(_, node, _)| *node).collect()
}

/// How often each node ran events of this kind.
fn counts(net: &Net, kind: EventKind) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for (_, node, run) in net.runs() {
        *counts.entry(node).or_default() += usize::from(run.delivery.event.kind == kind);
    }
    counts.retain(|_, count| *count > 0);
    counts
}

/// What a node shows of its handler: the state, and who differs in what.
fn shown(net: &Net, slot: usize) -> (String, Vec<(String, String)>) {
    let handler = net.node(slot).status().handlers.remove(0);
    (handler.state, handler.mismatches.into_iter().map(|odd| (odd.node, odd.differs)).collect())
}

fn odd(slot: usize, differs: &str) -> Vec<(String, String)> {
    vec![(node_name(slot).to_string(), differs.to_owned())]
}

/// The notices of mismatches on one node: who, and whether it began.
fn told(net: &Net, slot: usize) -> Vec<(String, bool)> {
    let notices = net.trace.iter().filter(|line| line.node == slot);
    notices
        .filter_map(|line| match &line.what {
            What::Notice(Notice::Mismatch { node, differs, .. }) => Some((node.to_string(), differs.is_some())),
            _ => None,
        })
        .collect()
}

#[test]
fn two_nodes_with_different_configs_never_both_write() {
    for seed in seeds(6) {
        let mut net = with_configs(seed, &[1, 2]);
        for _ in 0..30 {
            let (slot, good) = (net.rng.random_range(0..2), net.rng.random());
            net.set_app(slot, good);
            let pause = net.rng.random_range(500..40_000);
            net.run(pause);
        }
        (0..2).for_each(|slot| net.set_app(slot, true));
        // Who has flapped so often has to be up for ten minutes.
        net.run(640_000);
        assert!(net.runs().len() > 3);
        assert_eq!(runners(&net), [0].into(), "as many have the one as the other: the smallest name decides");
        assert_eq!(net.record, net.healthy());
        assert_eq!(shown(&net, 0), ("ready".into(), odd(1, "config")));
        assert_eq!(shown(&net, 1), ("config-mismatch".into(), odd(1, "config")));
    }
}

#[test]
fn one_who_differs_from_two_writes_nothing() {
    for seed in seeds(2) {
        for other in 0..3 {
            let mut configs = [1; 3];
            configs[other] = 2;
            let mut net = with_configs(seed, &configs);
            for slot in 0..3 {
                net.set_app(slot, false);
                net.run(25_000);
                net.set_app(slot, true);
                net.run(25_000);
            }
            assert!(!net.runs().is_empty() && !runners(&net).contains(&other));
            assert_eq!(net.record, net.healthy());
            assert_eq!(shown(&net, other).0, "config-mismatch");
            assert!((0..3).all(|slot| shown(&net, slot).1 == odd(other, "config")));
            assert_eq!(told(&net, 0), [(node_name(other).to_string(), true)], "once");
            // The last one there is runs it, whatever the others had.
            (0..3).filter(|slot| *slot != other).for_each(|slot| net.leave(slot));
            net.run_until("published", 40_000, |net| net.record == [node_name(other).to_string()]);
            assert_eq!(shown(&net, other), ("ready".into(), vec![]));
            let told = told(&net, other);
            assert_eq!(told[0], (node_name(other).to_string(), true));
            let over: BTreeMap<_, _> = told.into_iter().collect();
            assert!(over.values().all(|begun| !begun), "each that began is over: {over:?}");
        }
    }
}

#[test]
fn a_restart_does_not_hand_the_record_to_another_config() {
    for seed in seeds(6) {
        let mut net = with_configs(seed, &[1, 2]);
        net.trace.clear();
        net.kill(0);
        let down_ms = net.rng.random_range(100..2000);
        net.run(down_ms);
        start(&mut net, 0, 1);
        net.run(60_000);
        assert_eq!(runners(&net), [0].into());
        assert_eq!(net.record, net.healthy());
    }
}

#[test]
fn a_config_that_is_rolled_out_takes_over_once() {
    for seed in seeds(4) {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut net = with_configs(seed, &[1, 1, 1]);
            let mut configs = [1; 3];
            let mut written = Vec::new();
            for slot in order {
                net.trace.clear();
                net.kill(slot);
                let down_ms = net.rng.random_range(100..2000);
                net.run(down_ms);
                configs[slot] = 2;
                start(&mut net, slot, 2);
                net.run(20_000);
                net.set_app(slot, false);
                net.run(25_000);
                net.set_app(slot, true);
                net.run(25_000);
                assert_eq!(net.record, net.healthy());
                written.extend(net.runs().iter().map(|(_, node, _)| configs[*node]));
            }
            assert!(written.is_sorted() && written.contains(&1) && written.contains(&2), "{order:?} {written:?}");
            assert!((0..3).all(|slot| shown(&net, slot) == ("ready".into(), vec![])));
        }
    }
}

#[test]
fn halves_with_mixed_configs_settle_when_they_meet_again() {
    let configs = [1, 1, 1, 2, 2];
    for seed in seeds(6) {
        let mut net = with_configs(seed, &configs);
        let halves = |a: usize| (2..5).map(move |b| (a, b));
        net.trace.clear();
        net.cut = (0..2).flat_map(halves).collect();
        // The half in which the other config has most is in the middle of a run when they meet.
        net.slow = [2, 3, 4].into();
        net.run(30_000);
        assert_eq!(runners(&net).iter().filter(|slot| configs[**slot] == 2).count(), 1, "each half has its most");
        net.set_app(4, false);
        let at = net.rng.random_range(15_000..30_000);
        net.run(at);
        net.set_app(4, true);
        net.cut.clear();
        net.run_until("healed", 60_000, |net| net.all_see_up(5));
        net.slow.clear();
        net.run(25_000);
        assert_eq!(net.record, net.healthy());
        assert!(net.writer.is_some_and(|writer| configs[writer] == 1), "{:?}", net.writer);
        net.trace.clear();
        net.run(700_000);
        assert!(runners(&net).iter().all(|slot| configs[*slot] == 1));
        assert_eq!(net.record, net.healthy());
    }
}

#[test]
fn a_component_that_is_changed_on_most_takes_over() {
    for seed in seeds(4) {
        let mut net = Net::settled(seed, 3);
        let names: Vec<_> = (0..3).map(node_name).collect();
        let dns = HandlerName::new("dns").unwrap();
        let first = plan::runner(&dns, "www", names.iter()).unwrap();
        let first = names.iter().position(|name| name == first).unwrap();
        // What it saw before is written while the others have long taken over.
        net.slow = [first].into();
        net.set_app((first + 1) % 3, false);
        net.run_until("a run has begun", 20_000, |net| !net.runs().is_empty());
        net.set_app((first + 1) % 3, true);
        net.run(6500);
        let others = [(first + 1) % 3, (first + 2) % 3];
        for (count, slot) in others.into_iter().enumerate() {
            assert_eq!(
                shown(&net, first),
                ("ready".into(), if count == 0 { vec![] } else { odd(others[0], "component") })
            );
            net.components.insert(slot, 2);
            net.load(slot, dns.clone());
            net.run(50);
        }
        let (at, handler_timeout) = (net.ms(), 10_000);
        net.run(15_000);
        assert_eq!(shown(&net, first), ("config-mismatch".into(), odd(first, "component")));
        let later: Vec<_> = net.runs().into_iter().filter(|(_, node, _)| *node != first).collect();
        let looked = |from: u64, to: u64| later.iter().any(|(ms, ..)| (from..=to).contains(ms));
        assert!(looked(at - 100, at + 1000), "at once");
        assert!(looked(at + handler_timeout, at + handler_timeout + 1000), "and when no run can live any longer");
        assert_eq!(net.record, net.healthy());
        assert_ne!(net.writer, Some(first));
        // It follows: nobody differs any longer.
        net.components.insert(first, 2);
        net.load(first, dns);
        net.run(1000);
        assert!((0..3).all(|slot| shown(&net, slot) == ("ready".into(), vec![])));
    }
}

#[test]
fn who_cannot_load_a_handler_stands_aside_and_tries_again() {
    let runner = plan::runner(&HandlerName::new("dns").unwrap(), "www", [node_name(0), node_name(1)].iter()).cloned();
    let first = (0..2).find(|slot| Some(node_name(*slot)) == runner).unwrap();
    let mut net = Net::new(1);
    net.components.insert(first, 0);
    (0..2).for_each(|slot| net.start(slot));
    settle(&mut net, 2);
    net.set_app(0, false);
    net.run(25_000);
    assert_eq!(runners(&net), [1 - first].into());
    assert_eq!(net.record, net.healthy());
    assert_eq!(shown(&net, first), ("broken".into(), vec![]), "another reason than a mismatch");
    net.components.clear();
    net.run(330_000);
    net.trace.clear();
    net.set_app(0, true);
    net.run(25_000);
    assert_eq!(runners(&net), [first].into());
}

#[test]
fn every_runs_each_event_on_each_node() {
    for seed in seeds(4) {
        let mut net = running_on(seed, 3, RunOn::Every);
        net.set_app(1, false);
        net.run(25_000);
        net.set_app(1, true);
        net.run(25_000);
        for kind in [EventKind::AppDown, EventKind::AppUp] {
            assert_eq!(counts(&net, kind), [(0, 1), (1, 1), (2, 1)].into(), "{kind}");
        }
        net.trace.clear();
        net.kill(2);
        net.run_until("both know", 12_000, |net| net.events(EventKind::MemberDown).len() == 2);
        net.run(5000);
        let both: BTreeMap<_, _> = [(0, 1), (1, 1)].into();
        // In one line each: the member's going and its application's, of which the newer may take the older's place.
        let kinds = [EventKind::MemberDown, EventKind::AppDown];
        let ended = net.outcomes().iter().filter(|outcome| **outcome == Outcome::Done).count();
        assert_eq!((ended, runners(&net)), (2, [0, 1].into()), "{kinds:?}");
        assert!(net.runs().iter().all(|(_, _, run)| wanted(run) == ["web1", "web2"]));
        net.trace.clear();
        net.run(331_000);
        assert!(counts(&net, EventKind::Reconcile).len() == both.len(), "each looks again by itself");
    }
}

#[test]
fn subject_runs_an_event_on_the_node_that_it_is_about() {
    for seed in seeds(4) {
        let mut net = running_on(seed, 3, RunOn::Subject);
        for slot in 0..3 {
            net.set_app(slot, false);
            net.run(25_000);
            net.set_app(slot, true);
            net.run(25_000);
        }
        for kind in [EventKind::AppDown, EventKind::AppUp] {
            assert_eq!(counts(&net, kind), [(0, 1), (1, 1), (2, 1)].into(), "{kind}");
        }
        assert!(net.runs().iter().all(|(_, node, run)| run.delivery.event.member.as_ref() == Some(&node_name(*node))));
        let all = ["web1", "web2", "web3"];
        assert!(net.runs().iter().any(|(_, _, run)| wanted(run) == all), "it is told of the whole set all the same");
        // Whose subject is gone is run by nobody.
        net.trace.clear();
        net.kill(2);
        net.run(20_000);
        assert_eq!(net.events(EventKind::MemberDown).len(), 2);
        assert_eq!(net.runs().len(), 0);
        net.start(2);
        net.run_until("back", 20_000, |net| net.all_see_up(3));
        for kind in [EventKind::MemberDown, EventKind::MemberUp] {
            assert_eq!(counts(&net, kind), [].into());
        }
    }
}

#[test]
fn subject_looks_again_where_the_application_is() {
    let mut net = Net::new(1);
    for slot in 0..3 {
        let mut settings = net.settings(slot);
        settings.handlers[0].run_on = RunOn::Subject;
        if slot == 2 {
            settings.apps.clear();
        }
        net.start_as(slot, settings);
    }
    let up =
        |net: &Net| net.node(0).status().members.iter().flat_map(|it| &it.apps).filter(|it| it.state == "up").count();
    net.run_until("both are up", 30_000, |net| up(net) == 2);
    net.run(700_000);
    let looked = counts(&net, EventKind::Reconcile);
    assert_eq!(looked.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert!(looked.values().all(|count| *count >= 3), "{looked:?}");
}

#[test]
fn every_with_another_config_runs_nothing() {
    let mut net = Net::new(1);
    for slot in 0..3 {
        let mut settings = net.settings(slot);
        settings.handlers[0].run_on = if slot == 1 { RunOn::One } else { RunOn::Every };
        net.start_as(slot, settings);
    }
    settle(&mut net, 3);
    net.set_app(0, false);
    net.run(25_000);
    assert_eq!(runners(&net), [0, 2].into());
    assert_eq!(shown(&net, 1).0, "config-mismatch");
}

#[test]
fn patterns_say_which_applications_a_handler_sees() {
    let mut net = Net::new(1);
    for slot in 0..2 {
        let mut settings = net.settings(slot);
        settings.handlers[0].apps = vec![Pattern::new("shop-*"), Pattern::new("ww*")];
        let other = crate::config::App { name: "mail".parse().unwrap(), ..settings.apps[0].clone() };
        settings.apps.push(crate::config::App { name: "shop-eu".parse().unwrap(), ..settings.apps[0].clone() });
        settings.apps.push(other);
        net.start_as(slot, settings);
    }
    settle(&mut net, 2);
    net.trace.clear();
    net.set_app(0, false);
    net.run_takes = Duration::from_millis(20);
    net.run(25_000);
    let scopes: BTreeSet<_> = net.runs().iter().map(|(_, _, run)| run.delivery.key.scope().to_owned()).collect();
    assert_eq!(scopes, ["shop-eu".to_owned(), www().to_string()].into());
    assert!(net.runs().iter().all(|(_, _, run)| run.snapshot.apps.len() == 2));
}
