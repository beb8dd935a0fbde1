//! A node whose runs fail is passed over for a while, unless too many fail for it to be theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::net::{Net, node_name, seeds};
use super::reload::as_started;
use crate::event::RunEnd;

fn retry() -> RunEnd {
    RunEnd::Retry("no way there".into())
}

#[test]
fn another_stands_in_for_a_runner_whose_runs_fail_until_it_may_try_again() {
    for seed in seeds(10) {
        for end in [retry(), RunEnd::Permanent("403".into())] {
            let mut net = Net::settled(seed, 5);
            let runner = net.writer.unwrap();
            let other = (runner + 1) % 5;
            net.run_ends.insert(runner, end);
            net.set_app(other, false);
            net.run_until("another takes it out", 30_000, |net| !net.record.contains(&node_name(other).to_string()));
            let stand_in = net.writer.unwrap();
            assert_ne!(stand_in, runner);
            let failing = &net.node(stand_in).status().handlers[0].failing;
            assert_eq!(
                (failing[0].node.as_str(), failing[0].scope.as_deref()),
                (node_name(runner).as_str(), Some("www"))
            );
            net.run(100_000);
            net.set_app(other, true);
            net.run(20_000);
            assert_eq!((net.writer, net.record.len()), (Some(stand_in), 5), "it is not asked again so soon");
            // It has its way back, of which nobody tells it.
            net.run_ends.clear();
            net.run(200_000);
            assert_eq!(net.writer, Some(runner), "it takes its scope over again");
        }
    }
}

#[test]
fn a_reload_lets_it_try_again_at_once() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 5);
        let runner = net.writer.unwrap();
        let other = (runner + 1) % 5;
        net.run_ends.insert(runner, retry());
        net.set_app(other, false);
        net.run_until("another takes it out", 30_000, |net| net.record.len() == 4);
        net.run(5000);
        net.run_ends.clear();
        let config = as_started(&mut net, runner);
        net.reconfigure(runner, config).unwrap();
        net.run_until("it takes its scope over again", 5000, |net| net.writer == Some(runner));
    }
}

#[test]
fn where_several_fail_the_first_goes_on_trying() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 9);
        let runner = net.writer.unwrap();
        net.run_ends.extend((0..9).map(|slot| (slot, retry())));
        net.set_app((runner + 1) % 9, false);
        net.trace.clear();
        net.run(60_000);
        let tried: BTreeSet<_> = net.runs().iter().map(|(_, node, _)| *node).collect();
        assert!(tried.len() == 3 && tried.contains(&runner), "{tried:?}");
        net.run_ends.clear();
        net.run(120_000);
        assert_eq!((net.writer, net.record.len()), (Some(runner), 8));
    }
}

#[test]
fn who_is_told_when_to_come_again_waits_for_it_himself() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 5);
        let runner = net.writer.unwrap();
        net.run_ends.insert(runner, RunEnd::RetryAfter(Duration::from_secs(20), "429".into()));
        net.set_app((runner + 1) % 5, false);
        net.run(10_000);
        assert_eq!(net.record.len(), 5, "another would be told the same");
        net.run_ends.clear();
        net.run(20_000);
        assert_eq!((net.writer, net.record.len()), (Some(runner), 4));
    }
}
