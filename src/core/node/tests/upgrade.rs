//! Another version of a handler takes over while its node runs; and when it fails, the one before does.

use super::net::{Line, Net, What};
use super::{Input, Notice};
use crate::digest::Digest;
use crate::event::{EventKind, Outcome, RunEnd, StopReason};
use crate::name::HandlerName;
use crate::versions::Takeover;

const OLD: Digest = Digest::new([1; 32]);
const NEW: Digest = Digest::new([2; 32]);

/// A node alone, on which the old version has run.
fn settled() -> Net {
    let mut net = Net::new(7);
    let mut settings = net.settings(0);
    settings.seeds.clear();
    net.start_as(0, settings);
    net.run_until("it has run", 60_000, |net| net.outcomes().contains(&Outcome::Done));
    net.run(30_000);
    net.trace.clear();
    net
}

fn handler(net: &Net) -> HandlerName {
    HandlerName::new(&net.node(0).status().handlers[0].name).unwrap()
}

fn take_over(net: &mut Net, version: Digest, takeover: Takeover) {
    net.versions.entry(0).or_default().insert(0, version);
    let handler = handler(net);
    net.handle(0, Input::HandlerReady { handler, version, takeover });
}

/// Version, outcome of the last upgrade, and its reason, as the status has them.
fn shown(net: &Net) -> (String, String, String) {
    let handler = net.node(0).status().handlers.remove(0);
    let upgrade = handler.upgrade.unwrap();
    (handler.version.unwrap(), upgrade.outcome, upgrade.reason)
}

#[test]
fn a_new_version_looks_at_once_and_is_shown() {
    let mut net = settled();
    take_over(&mut net, NEW, Takeover::Upgrade);
    net.run(1000);
    assert_eq!(net.outcomes(), [Outcome::Done]);
    assert_eq!(shown(&net), (NEW.to_string(), "upgraded".into(), String::new()));
    let told =
        |line: &&Line| matches!(&line.what, What::Notice(Notice::Takeover { version: NEW, before: Some(OLD), .. }));
    assert_eq!(net.trace.iter().filter(told).count(), 1);
}

#[test]
fn a_new_version_that_fails_three_times_gives_way_and_its_last_delivery_is_done() {
    let mut net = settled();
    net.bad_version = Some((NEW, RunEnd::Stopped(StopReason::Trap, "unreachable".into())));
    take_over(&mut net, NEW, Takeover::Upgrade);
    net.run_until("the old one is back", 60_000, |net| net.versions[&0] == [OLD]);
    net.run(20_000);
    assert_eq!(net.outcomes()[..4], [Outcome::Retry, Outcome::Retry, Outcome::Retry, Outcome::Done]);
    let runs = net.runs();
    assert!(runs[..4].iter().all(|(_, _, run)| run.delivery.id == runs[0].2.delivery.id), "one delivery in four tries");
    // What a failed run has asked for may be done late.
    assert_eq!((runs.len(), runs[4].2.delivery.event.kind), (5, EventKind::Reconcile));
    assert_eq!(shown(&net), (OLD.to_string(), "rolled-back".into(), "trap: unreachable".into()));
    let told = |line: &&Line| {
        matches!(&line.what, What::Notice(Notice::RolledBack { version: OLD, failed: NEW, reason, .. })
            if reason == "trap: unreachable")
    };
    assert_eq!(net.trace.iter().filter(told).count(), 1);
}

#[test]
fn what_a_failed_version_ended_for_good_is_looked_at_again_by_the_one_that_comes_back() {
    let mut net = settled();
    net.bad_version = Some((NEW, RunEnd::Permanent("no such zone".into())));
    take_over(&mut net, NEW, Takeover::Upgrade);
    for good in [false, true] {
        net.run(20_000);
        assert_eq!(net.versions[&0], [NEW, OLD]);
        net.set_app(0, good);
    }
    net.run_until("the old one is back", 20_000, |net| net.versions[&0] == [OLD]);
    net.run(1000);
    assert_eq!(net.outcomes(), [Outcome::Permanent, Outcome::Permanent, Outcome::Permanent, Outcome::Done]);
    assert_eq!(net.runs()[3].2.delivery.event.kind, EventKind::Reconcile);
}

#[test]
fn what_is_refused_is_shown_and_changes_nothing() {
    let mut net = settled();
    let handler = handler(&net);
    net.handle(0, Input::UpgradeRefused { handler, reason: "it is empty".into() });
    net.run(1000);
    assert_eq!(shown(&net), (OLD.to_string(), "refused".into(), "it is empty".into()));
    assert_eq!(net.node(0).status().handlers[0].state, "ready");
    assert_eq!(net.outcomes(), []);
}

#[test]
fn what_the_operator_goes_back_to_runs_from_then_on() {
    let mut net = settled();
    take_over(&mut net, NEW, Takeover::Upgrade);
    net.run(1000);
    take_over(&mut net, OLD, Takeover::Rollback);
    net.run(1000);
    assert_eq!(net.outcomes(), [Outcome::Done, Outcome::Done]);
    assert_eq!(shown(&net), (OLD.to_string(), "rolled-back".into(), String::new()));
}
