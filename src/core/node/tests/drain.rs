//! Who is to stop goes out of the record first, and stays as long as anybody may be sent to it.

use std::time::Duration;

use super::net::{Net, What, node_name, seeds};
use crate::config::Drain;
use crate::event::{EventKind, RunEnd};
use crate::name::AppName;
use crate::node::Notice;

const RULES: Drain = Drain { timeout: Duration::from_secs(30), wait: Duration::from_secs(20) };

impl Net {
    /// Begins to drain `slot`; which of its applications stay published.
    fn begin_drain(&mut self, slot: usize) -> Vec<AppName> {
        let now = self.now();
        let kept = self.slots[slot].node.as_mut().expect("it runs").drain(now, RULES);
        self.drain(slot);
        kept
    }
}

#[test]
fn a_node_stays_until_it_is_published_nowhere_and_the_record_is_forgotten() {
    for seed in seeds(10) {
        // Who runs the scope itself, and another.
        for step in [0, 1] {
            let mut net = Net::settled(seed, 4);
            let slot = (net.writer.unwrap() + step) % 4;
            let name = node_name(slot).to_string();
            assert_eq!(net.begin_drain(slot), []);
            assert_eq!(net.node(slot).status().state, "draining");
            net.run_until("it is out", 5000, |net| !net.record.contains(&name));
            net.run(19_000);
            assert!(!net.has_left(slot), "some may remember the record");
            net.run_until("it leaves", 8000, |net| net.has_left(slot));
            net.run(30_000);
            let is_down =
                |what: &What| matches!(what, What::Notice(Notice::Event(event)) if event.kind == EventKind::MemberDown);
            assert!(!net.trace.iter().any(|line| is_down(&line.what)), "to leave is no failure");
            assert_eq!(net.record.len(), 3);
        }
    }
}

#[test]
fn who_cannot_be_taken_out_leaves_all_the_same_when_its_time_is_up() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 3);
        let slot = net.writer.unwrap();
        // Nobody can reach the provider.
        net.run_ends.extend((0..3).map(|slot| (slot, RunEnd::Retry("no way there".into()))));
        net.begin_drain(slot);
        net.run(49_000);
        assert!(!net.has_left(slot));
        net.run_until("it leaves", 6000, |net| net.has_left(slot));
        let told = |what: &What| matches!(what, What::Notice(Notice::Drained { is_out: false, .. }));
        assert!(net.trace.iter().any(|line| line.node == slot && told(&line.what)));
    }
}

#[test]
fn the_last_one_up_is_told_that_it_stays_published() {
    let mut net = Net::settled(1, 2);
    net.set_app(1, false);
    net.run(30_000);
    let kept = net.begin_drain(0);
    assert_eq!(kept, [AppName::new("www").unwrap()]);
}
