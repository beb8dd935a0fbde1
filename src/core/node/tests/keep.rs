//! What of a node's deliveries outlives its process.

use std::time::Duration;

use super::super::{ManualError, Notice};
use super::net::{Net, What, seeds, www};
use crate::config::Pattern;
use crate::event::{DeliveryId, EventKind, Outcome, RunEnd};
use crate::ledger::MAX_ATTEMPTS;
use crate::name::HandlerName;

fn dns() -> HandlerName {
    HandlerName::new("dns").unwrap()
}

/// One node that is alone, with its handler failing, and what its disk has.
fn alone(seed: u64) -> Net {
    let mut net = Net::new(seed);
    start(&mut net);
    net.run_until("its application is up", 60_000, |net| net.all_see_up(1));
    net.run(30_000);
    assert!(net.letters.values().all(|letters| letters.is_empty()), "what works is not kept");
    net
}

fn start(net: &mut Net) {
    let mut settings = net.settings(0);
    settings.seeds.clear();
    net.start_as(0, settings);
}

fn kept(net: &Net) -> Vec<(DeliveryId, Outcome, u32)> {
    let letters = net.letters.get(&0).into_iter().flatten();
    letters.map(|(id, letter)| (id.clone(), letter.outcome, letter.attempt)).collect()
}

fn fail(net: &mut Net) -> DeliveryId {
    net.run_ends.insert(0, RunEnd::Retry("busy".into()));
    let id = net.run_now(0, &dns(), EventKind::Reconcile).unwrap();
    net.run_until("it failed", 1000, |net| !kept(net).is_empty());
    id
}

#[test]
fn what_the_disk_keeps_comes_before_what_is_told() {
    let mut net = alone(1);
    net.trace.clear();
    let id = fail(&mut net);
    assert_eq!(kept(&net), [(id.clone(), Outcome::Retry, 2)]);
    let told = net.trace.iter().rposition(|line| matches!(&line.what, What::Notice(Notice::Ended { .. })));
    let written = net.trace.iter().position(|line| matches!(&line.what, What::Kept(kept) if *kept == id));
    assert!(written.unwrap() < told.unwrap(), "{:?}", net.trace);
    net.run_ends.clear();
    net.run(5000);
    assert_eq!(net.outcomes().last(), Some(&Outcome::Done));
    assert_eq!(kept(&net), []);
}

#[test]
fn a_retry_is_made_after_a_crash_by_its_name_and_number() {
    for seed in seeds(10) {
        let mut net = alone(seed);
        let id = fail(&mut net);
        net.run_until("two more failed", 20_000, |net| kept(net)[0].2 == 4);
        let due = net.letters[&0][&id].time;
        net.kill(0);
        net.run(100 * (seed % 7));
        net.run_ends.clear();
        net.trace.clear();
        start(&mut net);
        net.run(90_000);
        let runs = net.runs();
        let (at, again) = runs.iter().map(|run| (run.0, &run.2.delivery)).find(|(_, run)| run.id == id).unwrap();
        assert_eq!(again.attempt, 4);
        assert!(at >= net.since_epoch(due), "not before its time");
        assert_eq!(kept(&net), []);
    }
}

#[test]
fn what_was_given_up_outlives_a_crash_and_is_delivered_again() {
    let mut net = alone(1);
    let id = fail(&mut net);
    net.run_until("it is given up", 900_000, |net| kept(net).iter().any(|(_, outcome, _)| *outcome == Outcome::Dead));
    let dead = (id.clone(), Outcome::Dead, MAX_ATTEMPTS);
    assert!(kept(&net).contains(&dead), "{:?}", kept(&net));
    net.kill(0);
    net.run_ends.clear();
    start(&mut net);
    let early = net.redeliver(0, &id);
    assert!(matches!(early, Err(ManualError::NotReady(_))), "{early:?}");
    net.run_until("its application is up", 60_000, |net| net.all_see_up(1));
    net.run(30_000);
    assert_eq!(
        net.node(0).status().dead.iter().map(|letter| letter.id()).collect::<Vec<_>>(),
        std::slice::from_ref(&id)
    );
    net.trace.clear();
    net.redeliver(0, &id).unwrap();
    assert!(kept(&net).contains(&(id.clone(), Outcome::Retry, 1)), "a crash now would not lose it");
    assert!(matches!(net.redeliver(0, &id), Err(ManualError::NotDead(_))));
    net.run(1000);
    assert_eq!((net.outcomes(), kept(&net)), (vec![Outcome::Done], vec![]));
}

#[test]
fn a_retry_without_a_place_in_the_config_is_cancelled() {
    let mut net = alone(1);
    let id = fail(&mut net);
    net.kill(0);
    net.trace.clear();
    let mut settings = net.settings(0);
    settings.handlers[0].apps = vec![Pattern::new("other")];
    net.start_as(0, settings);
    assert_eq!((net.outcomes(), kept(&net)), (vec![Outcome::Cancelled], vec![]));
    assert!(net.node(0).status().deliveries.is_empty(), "{id}");
}

#[test]
fn a_retry_goes_to_the_node_that_runs_the_scope_now() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        (0..3).for_each(|slot| {
            drop(net.run_ends.insert(slot, RunEnd::RetryAfter(Duration::from_secs(60), "busy".into())));
        });
        net.set_app(2, false);
        net.run_until("it failed somewhere", 60_000, |net| net.letters.values().any(|letters| !letters.is_empty()));
        let (runner, id) =
            net.letters.iter().find_map(|(slot, all)| Some((*slot, all.keys().next()?.clone()))).unwrap();
        net.kill(runner);
        net.run_ends.clear();
        // It comes back with another component, so that it is not the one to run it.
        net.components.insert(runner, 9);
        net.trace.clear();
        net.start(runner);
        net.run(150_000);
        let ended = net.trace.iter().find_map(|line| match &line.what {
            What::Notice(Notice::Ended { delivery, outcome, .. }) if line.node == runner && delivery.id == id => {
                Some(*outcome)
            }
            _ => None,
        });
        assert_eq!(ended, Some(Outcome::HandedOver));
        assert!(net.letters[&runner].is_empty());
        assert!(!net.record.is_empty() && net.node(0).status().deliveries.is_empty(), "{}", www());
    }
}
