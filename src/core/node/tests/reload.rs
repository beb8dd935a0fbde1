//! Other configs for nodes that run: what stays keeps what it has, what goes leaves nothing behind, and however often
//! and at whatever moment it happens, each delivery ends once and no set becomes empty.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::super::{Notice, Reconfiguration, SettingsError};
use super::net::{Net, What, address, node_name, seeds, wanted, www};
use crate::config::{App, Check, GovernorRules, Handler, Pattern, Seed, TcpCheck, TwoNode};
use crate::event::{EventKind, Outcome, RunEnd};
use crate::ledger::{Delivery, ScopeKey};
use crate::name::{AppName, HandlerName};
use crate::record::AppState;

/// What `slot` runs with from its start.
pub(super) fn as_started(net: &mut Net, slot: usize) -> Reconfiguration {
    let settings = net.settings(slot);
    let (apps, handlers, seeds) = (settings.apps, settings.handlers, settings.seeds);
    Reconfiguration { apps, handlers, seeds, expect: 1, two_node: TwoNode::Hold, governor: GovernorRules::default() }
}

fn app(name: &str, like: &App) -> App {
    App { name: AppName::new(name).unwrap(), ..like.clone() }
}

fn handler(name: &str, like: &Handler) -> Handler {
    Handler { name: HandlerName::new(name).unwrap(), ..like.clone() }
}

/// Every node takes in what it started with, and what `edit` makes of it.
fn edit_all(net: &mut Net, count: usize, edit: impl Fn(usize, &mut Reconfiguration)) {
    for slot in 0..count {
        let mut new = as_started(net, slot);
        edit(slot, &mut new);
        net.reconfigure(slot, new).unwrap();
    }
}

fn ended(net: &Net) -> Vec<(usize, Delivery, Outcome)> {
    let lines = net.trace.iter().filter_map(|line| match &line.what {
        What::Notice(Notice::Ended { delivery, outcome, .. }) => Some((line.node, (**delivery).clone(), *outcome)),
        _ => None,
    });
    lines.collect()
}

fn verdicts(net: &Net) -> Vec<(AppName, AppState)> {
    let lines = net.trace.iter().filter_map(|line| match &line.what {
        What::Notice(Notice::Health { app, state, .. }) => Some((app.clone(), *state)),
        _ => None,
    });
    lines.collect()
}

#[test]
fn what_has_not_changed_goes_on_undisturbed() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        let sent = |net: &mut Net| {
            let before = net.sent;
            net.run(20_000);
            net.sent - before
        };
        let usual = sent(&mut net);
        for _ in 0..20 {
            edit_all(&mut net, 3, |_, _| {});
        }
        assert!(sent(&mut net) < usual * 2, "nothing is told to anybody");
        assert_eq!((net.runs().len(), verdicts(&net)), (0, vec![]));
        assert_eq!(net.events(EventKind::AppDown), []);
        assert!(net.all_see_up(3));
    }
}

#[test]
fn another_address_is_published_at_once_and_nothing_went_down() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        let mut new = as_started(&mut net, 1);
        new.apps[0].publish = vec!["192.0.2.99".parse().unwrap()];
        net.reconfigure(1, new).unwrap();
        net.run_until("it is published", 2000, |net| !net.runs().is_empty());
        let endpoints = &net.runs()[0].2.snapshot.apps[&www()].endpoints;
        assert!(endpoints.iter().any(|endpoint| endpoint.address.to_string() == "192.0.2.99"), "{endpoints:?}");
        net.run(10_000);
        assert_eq!((net.runs().len(), net.events(EventKind::AppDown), verdicts(&net)), (1, vec![], vec![]));
    }
}

#[test]
fn an_application_that_comes_is_unknown_until_it_is_checked() {
    let mut net = Net::settled(1, 3);
    edit_all(&mut net, 3, |_, new| {
        new.handlers[0].apps.clear();
        // In front, so that every other one moves.
        new.apps.insert(0, app("shop", &new.apps[0]));
    });
    let states =
        |net: &Net| net.node(0).status().members[0].apps.iter().map(|app| app.state.clone()).collect::<Vec<_>>();
    assert_eq!(states(&net), ["unknown", "up"]);
    net.run_until("all know", 10_000, |net| net.events(EventKind::AppUp).len() == 9);
    net.run(2000);
    assert_eq!(verdicts(&net), vec![(AppName::new("shop").unwrap(), AppState::Up); 3]);
    let shop = net.runs().into_iter().rfind(|(_, _, run)| run.delivery.key.scope() == "shop").unwrap().2;
    assert_eq!(shop.snapshot.apps[&AppName::new("shop").unwrap()].endpoints.len(), 3);
}

#[test]
fn an_application_that_goes_leaves_the_set_and_the_last_one_stays_in_it() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        for (slot, left) in [(1, vec!["web1", "web3"]), (0, vec!["web3"]), (2, vec!["web3"])] {
            let mut new = as_started(&mut net, slot);
            new.apps.clear();
            net.reconfigure(slot, new).unwrap();
            net.run(10_000);
            assert_eq!(net.record, left);
        }
        assert_eq!(net.events(EventKind::MemberDown), []);
        assert!(net.runs().iter().all(|(_, _, run)| !wanted(run).is_empty()));
        let held = net.trace.iter().filter(|line| matches!(&line.what, What::Notice(Notice::Held { .. }))).count();
        assert_eq!(held, 3, "each node says that it holds the set");
    }
}

/// Lets `slot` begin so many checks more.
fn checks_begin(net: &mut Net, slot: usize, count: u64) {
    let after = net.checks[&slot] + count;
    net.run_until("checks begin", 20_000, |net| net.checks[&slot] == after);
}

#[test]
fn another_check_keeps_the_verdict_until_it_has_spoken() {
    let mut net = Net::settled(2, 2);
    net.set_app(0, false);
    checks_begin(&mut net, 0, 3);
    // Two were bad, and the third one that would make it down is under way.
    let mut new = as_started(&mut net, 0);
    new.apps[0].check = Check::Tcp(TcpCheck { host: "127.0.0.1".into(), port: 81 });
    net.set_app(0, true);
    net.reconfigure(0, new).unwrap();
    assert_eq!(net.ended_checks, [(0, net.checks[&0])], "nobody waits for it");
    net.run(20_000);
    assert_eq!(verdicts(&net), [], "the old check's word no longer counts");
}

#[test]
fn a_check_begun_before_says_nothing_of_an_application_that_came_after() {
    let mut net = Net::settled(3, 2);
    let mut quick = as_started(&mut net, 0);
    (quick.apps[0].rise, quick.apps[0].fall) = (1, 1);
    net.reconfigure(0, quick.clone()).unwrap();
    net.run(1000);
    net.set_app(0, false);
    checks_begin(&mut net, 0, 1);
    // It ends badly after two seconds, while the first check of one of the same name in the same place is under way.
    net.run(1997);
    net.set_app(0, true);
    net.reconfigure(0, Reconfiguration { apps: vec![], ..quick.clone() }).unwrap();
    assert_eq!(net.ended_checks, [(0, net.checks[&0])]);
    net.reconfigure(0, quick).unwrap();
    net.run(20_000);
    assert_eq!(verdicts(&net), [(www(), AppState::Up)]);
}

#[test]
fn what_waits_for_a_handler_that_goes_is_cancelled_and_another_node_takes_over() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        net.run_takes = Duration::from_secs(9);
        net.set_app(0, false);
        net.run_until("a run starts", 20_000, |net| !net.runs().is_empty());
        let runner = net.runs()[0].1;
        net.set_app(0, true);
        net.run_until("another waits", 8000, |net| net.node(runner).status().handlers[0].pending == 2);
        let mut new = as_started(&mut net, runner);
        let handlers = std::mem::take(&mut new.handlers);
        net.reconfigure(runner, new.clone()).unwrap();
        assert_eq!(net.outcomes(), [Outcome::Cancelled], "the one that waits, at once");
        net.run_until("another node has it", 5000, |net| net.runs().len() > 1);
        assert_ne!(net.runs()[1].1, runner);
        net.run(30_000);
        assert_eq!(net.record, ["web1", "web2", "web3"]);
        let of_runner: Vec<_> = ended(&net).into_iter().filter(|(node, ..)| *node == runner).map(|it| it.2).collect();
        assert_eq!(of_runner, [Outcome::Cancelled, Outcome::Done], "what ran went on to its end");
        // Back again, it looks at its scopes at once.
        net.trace.clear();
        net.reconfigure(runner, Reconfiguration { handlers, ..new }).unwrap();
        net.run_until("it runs", 5000, |net| net.runs().iter().any(|(_, node, _)| *node == runner));
    }
}

#[test]
fn a_handler_that_changes_looks_at_once_and_does_not_wait_out_a_failure() {
    let mut net = Net::settled(4, 2);
    let both = |net: &mut Net, end: Option<RunEnd>| {
        net.run_ends = end.into_iter().flat_map(|end| [(0, end.clone()), (1, end)]).collect();
    };
    both(&mut net, Some(RunEnd::Retry("refused".into())));
    net.set_app(0, false);
    net.run(60_000);
    assert!(net.runs().len() > 3, "its pauses are long by now");
    both(&mut net, None);
    net.trace.clear();
    edit_all(&mut net, 2, |_, new| drop(new.handlers[0].config.insert("ttl".into(), "60".into())));
    net.run(1000);
    assert_eq!((net.outcomes(), net.record.clone()), (vec![Outcome::Done], vec!["web2".to_owned()]));
}

#[test]
fn what_waits_in_a_scope_that_its_handler_no_longer_sees_is_cancelled() {
    let mut net = Net::settled(5, 2);
    net.run_takes = Duration::from_secs(9);
    net.set_app(0, false);
    net.run_until("a run starts", 20_000, |net| !net.runs().is_empty());
    net.set_app(0, true);
    let runner = net.runs()[0].1;
    net.run_until("another waits", 8000, |net| net.node(runner).status().handlers[0].pending == 2);
    edit_all(&mut net, 2, |_, new| new.handlers[0].apps = vec![Pattern::new("other")]);
    assert_eq!(net.outcomes(), [Outcome::Cancelled]);
    net.run(400_000);
    let about_www = |key: &ScopeKey| key.app == Some(www());
    let outcomes: Vec<_> = ended(&net).into_iter().filter(|it| about_www(&it.1.key)).map(|it| it.2).collect();
    assert_eq!(outcomes, [Outcome::Cancelled, Outcome::Done]);
    assert_eq!(net.runs().iter().filter(|(_, _, run)| about_www(&run.delivery.key)).count(), 1);
}

#[test]
fn reconcile_keeps_its_new_time_and_no_old_one() {
    let mut net = Net::settled(6, 2);
    for every in [10, 60, 600, 20] {
        edit_all(&mut net, 2, |_, new| new.handlers[0].reconcile_every = Duration::from_secs(every));
    }
    net.run(1000);
    net.trace.clear();
    net.run(600_000);
    assert!((27..=34).contains(&net.runs().len()), "{}", net.runs().len());
}

#[test]
fn other_seeds_are_asked_at_once() {
    let mut net = Net::settled(7, 2);
    let mut lost = net.settings(2);
    lost.seeds = vec![Seed::Address(address(9))];
    net.start_as(2, lost);
    net.run(20_000);
    assert!(!net.node(2).is_joined());
    let mut new = as_started(&mut net, 2);
    new.seeds = vec![Seed::Address(address(1))];
    net.reconfigure(2, new).unwrap();
    net.run_until("joined", 5000, |net| net.all_see_up(3));
}

#[test]
fn what_cannot_be_taken_in_changes_nothing() {
    let mut net = Net::settled(8, 2);
    let mut large = as_started(&mut net, 0);
    let names = (0..64).map(|index| format!("application-with-a-long-name-{index}"));
    large.apps = names.map(|name| app(&name, &large.apps[0])).collect();
    large.handlers.clear();
    assert!(matches!(net.reconfigure(0, large), Err(SettingsError::RecordTooLarge(_))));
    net.run(5000);
    assert!(net.all_see_up(2) && net.node(0).status().handlers.len() == 1);
    net.leave(0);
    let new = as_started(&mut net, 1);
    assert_eq!(net.reconfigure(0, new), Err(SettingsError::Leaving));
}

/// What goes wrong at random, and what must hold all the same.
#[test]
fn random_reloads_end_every_delivery_once_and_empty_no_set() {
    const COUNT: usize = 3;
    for seed in seeds(20) {
        let mut net = Net::settled(seed, COUNT);
        let (good, bad) = (AppName::new("good").unwrap(), AppName::new("bad").unwrap());
        net.failing = (0..COUNT).map(|slot| (slot, bad.clone())).collect();
        for _ in 0..60 {
            let slot = net.rng.random_range(0..COUNT);
            match net.rng.random_range(0..6) {
                0 => {
                    if !net.failing.remove(&(slot, www())) {
                        net.failing.insert((slot, www()));
                    }
                }
                1 => {
                    net.run_ends.insert(slot, RunEnd::Retry("refused".into()));
                }
                2 => drop(net.run_ends.remove(&slot)),
                _ => {
                    let new = random_config(&mut net, slot, [&good, &bad]);
                    net.reconfigure(slot, new).unwrap();
                }
            }
            let pause = net.rng.random_range(1..4000);
            net.run(pause);
        }
        // At last all work, and all have the handler.
        net.run_ends.clear();
        net.failing.retain(|(_, app)| *app == bad);
        edit_all(&mut net, COUNT, |_, _| {});
        net.run_until("all is well", 60_000, |net| net.all_see_up(COUNT));
        net.run(130_000);

        assert_eq!(net.record, ["web1", "web2", "web3"]);
        assert_each_ends_once(&net);
        for (at_ms, node, run) in net.runs() {
            let empty = run.snapshot.apps.iter().find(|(_, set)| set.endpoints.is_empty());
            assert_eq!(empty, None, "at {at_ms} ms on {}", node_name(node));
        }
        for (app, state) in verdicts(&net) {
            assert!(app != good || state == AppState::Up, "a bad result of another one's");
            assert!(app != bad || state == AppState::Down, "a good result of another one's");
        }
    }
}

/// Some of three applications and three handlers, in any order, each with anything that can be said of it.
fn random_config(net: &mut Net, slot: usize, others: [&AppName; 2]) -> Reconfiguration {
    let mut new = as_started(net, slot);
    let rng = &mut net.rng;
    let (like, handler_like) = (new.apps[0].clone(), new.handlers[0].clone());
    let names = others.into_iter().cloned().chain([www()]);
    new.apps = names.map(|name| App { name, ..like.clone() }).filter(|_| rng.random_bool(0.7)).collect();
    new.apps.shuffle(rng);
    for app in &mut new.apps {
        (app.rise, app.fall) = (rng.random_range(1..3), rng.random_range(1..3));
        if rng.random_bool(0.3) {
            app.publish.push(format!("192.0.2.{}", rng.random_range(100..200)).parse().unwrap());
        }
    }
    new.handlers = ["dns", "log", "hook"].map(|name| handler(name, &handler_like)).into();
    new.handlers.retain(|_| rng.random_bool(0.7));
    new.handlers.shuffle(rng);
    for handler in &mut new.handlers {
        handler.apps.clear();
        if rng.random_bool(0.5) {
            handler.apps.extend(
                others
                    .into_iter()
                    .cloned()
                    .chain([www()])
                    .filter(|_| rng.random_bool(0.6))
                    .map(|app| Pattern::new(app.as_str())),
            );
        }
        if rng.random_bool(0.2) {
            handler.config.insert("ttl".into(), rng.random_range(1..9).to_string());
        }
        handler.reconcile_every = Duration::from_secs(rng.random_range(10..40));
    }
    new
}

/// Each try ends once, each delivery comes to one last outcome, and none is left.
fn assert_each_ends_once(net: &Net) {
    let mut tries: BTreeMap<_, i32> = BTreeMap::new();
    let mut last: BTreeMap<_, usize> = BTreeMap::new();
    let key = |node: usize, delivery: &Delivery| (node, delivery.id.to_string());
    for (_, node, run) in net.runs() {
        *tries.entry((key(node, &run.delivery), run.delivery.attempt)).or_default() += 1;
        last.entry(key(node, &run.delivery)).or_default();
    }
    for (node, delivery, outcome) in ended(net) {
        if let Some(open) = tries.get_mut(&(key(node, &delivery), delivery.attempt)) {
            *open -= 1;
        }
        *last.entry(key(node, &delivery)).or_default() += usize::from(outcome != Outcome::Retry);
    }
    let wrong: Vec<_> = tries.iter().filter(|(_, open)| **open != 0).collect();
    assert!(wrong.is_empty(), "tries that ended otherwise than once: {wrong:?}");
    let wrong: Vec<_> = last.iter().filter(|(_, count)| **count != 1).collect();
    assert!(wrong.is_empty(), "deliveries that ended otherwise than once: {wrong:?}");
    let pending = |slot: usize| net.node(slot).status().handlers.iter().map(|it| it.pending).sum::<usize>();
    assert_eq!((0..3).map(pending).sum::<usize>(), 0, "none is left");
}
