//! Applications that say themselves how they are: what their beats, and the lack of them, lead to in the cluster.

use std::time::Duration;

use super::super::BeatError;
use super::net::{Net, names, seeds, www};
use crate::config::{Check, TwoNode};
use crate::name::AppName;
use crate::node::Reconfiguration;
use crate::record::AppState;

/// Within this time `www` on the first node has to beat.
const TTL: Duration = Duration::from_secs(30);

/// Three nodes that are settled; from now on the application of the first is not asked.
fn beating(seed: u64) -> Net {
    let mut net = Net::settled(seed, 3);
    let settings = net.settings(0);
    let mut app = settings.apps[0].clone();
    (app.check, app.rise) = (Check::Ttl(TTL), 1);
    let (handlers, seeds, governor) = (settings.handlers, settings.seeds, settings.governor);
    let new = Reconfiguration { apps: vec![app], handlers, seeds, expect: 1, two_node: TwoNode::Hold, governor };
    net.reconfigure(0, new).unwrap();
    net
}

/// The application `app` of `slot` says how it is.
fn beat(net: &mut Net, slot: usize, app: &AppName, result: Result<(), String>) -> Result<AppState, BeatError> {
    let now = net.now();
    let done = net.slots[slot].node.as_mut().expect("it runs").beat(now, app, &result);
    net.drain(slot);
    done
}

fn well(net: &mut Net) -> Result<AppState, BeatError> {
    beat(net, 0, &www(), Ok(()))
}

#[test]
fn who_beats_stays_who_stops_goes_and_a_beat_brings_it_back() {
    for seed in seeds(5) {
        let mut net = beating(seed);
        let checks = net.checks[&0];
        for _ in 0..20 {
            net.run(29_000);
            assert_eq!(well(&mut net), Ok(AppState::Up));
        }
        net.run(29_900);
        assert_eq!((net.record.clone(), net.checks[&0]), (names(0..3), checks), "it is not asked");
        net.run_until("it is late", 2000, |net| net.record == names([1, 2]));
        net.run(600_000);
        assert_eq!(net.record, names([1, 2]));
        assert_eq!(well(&mut net), Ok(AppState::Up));
        net.run_until("it is back", 2000, |net| net.record == names(0..3));
    }
}

#[test]
fn a_failure_that_is_told_counts_at_once() {
    for seed in seeds(5) {
        let mut net = beating(seed);
        assert_eq!(beat(&mut net, 0, &www(), Err("disk full".into())), Ok(AppState::Down));
        net.run_until("it is out", 2000, |net| net.record == names([1, 2]));
    }
}

#[test]
fn a_restart_leaves_one_ttl_for_the_first_beat() {
    for seed in seeds(5) {
        for beats in [true, false] {
            let mut net = beating(seed);
            assert_eq!(well(&mut net), Ok(AppState::Up));
            net.run(3000);
            net.kill(0);
            net.run(1000);
            let mut settings = net.settings(0);
            (settings.apps[0].check, settings.apps[0].rise) = (Check::Ttl(TTL), 1);
            net.start_as(0, settings);
            for _ in 0..29 {
                net.run(1000);
                assert_eq!(net.record, names(0..3), "as it was before");
            }
            if beats {
                assert_eq!(well(&mut net), Ok(AppState::Up));
            }
            net.run(5000);
            assert_eq!(net.record, if beats { names(0..3) } else { names([1, 2]) });
        }
    }
}

#[test]
fn beats_count_where_they_are_waited_for() {
    let mut net = beating(1);
    let shop = AppName::new("shop").unwrap();
    let unknown = beat(&mut net, 0, &shop, Ok(())).unwrap_err();
    assert_eq!(unknown.to_string(), "this node has no application shop; it has www");
    assert_eq!(beat(&mut net, 1, &www(), Ok(())), Err(BeatError::IsChecked(www())));
    net.maintain(0, true, None).unwrap();
    assert_eq!(well(&mut net), Ok(AppState::Maintenance));
}
