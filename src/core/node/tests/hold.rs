//! What an operator holds stays in every record, and no restart ends it.

use std::time::Duration;

use super::net::{Net, node_name, seeds};
use crate::name::HoldName;
use crate::node::HoldError;
use crate::record::MAX_HOLDING;

fn name(text: &str) -> HoldName {
    HoldName::new(text).unwrap()
}

fn hold(net: &mut Net, slot: usize, text: &str, limit: Option<Duration>) -> Result<usize, HoldError> {
    let now = net.now();
    let held = net.slots[slot].node.as_mut().unwrap().hold(now, &name(text), limit);
    net.drain(slot);
    held.map(|held| held.len())
}

fn release(net: &mut Net, slot: usize, text: &str) -> Result<usize, HoldError> {
    let now = net.now();
    let held = net.slots[slot].node.as_mut().unwrap().release(now, &name(text));
    net.drain(slot);
    held.map(|held| held.len())
}

#[test]
fn nobody_takes_out_what_is_held_until_it_is_released() {
    for seed in seeds(5) {
        for text in ["www", "web3"] {
            let mut net = Net::settled(seed, 4);
            assert_eq!(hold(&mut net, 0, text, None), Ok(1));
            net.run(1000);
            net.set_app(2, false);
            net.run(30_000);
            assert_eq!(net.record.len(), 4, "{text} is held");
            net.kill(0);
            net.run(20_000);
            let held = if text == "www" { 4 } else { 3 };
            assert_eq!(net.record.len(), held, "who held it is down, and has not changed its mind");
            net.start(0);
            net.run(30_000);
            assert_eq!(net.record.len(), 4, "{text}: a restart does not end it");
            let status = net.node(1).status();
            assert_eq!(status.operator_holds[0].node, node_name(0).as_str());
            let holders = "web1".to_owned();
            assert_eq!(release(&mut net, 1, text), Err(HoldError::HeldElsewhere { name: name(text), holders }));
            assert_eq!(release(&mut net, 0, text), Ok(0));
            net.run(10_000);
            assert_eq!(net.record, net.healthy());
            assert_eq!(net.node(1).status().operator_holds, []);
            assert_eq!(release(&mut net, 0, text), Err(HoldError::NotHeld(name(text))));
        }
    }
}

#[test]
fn a_hold_ends_by_itself_and_there_are_few() {
    let mut net = Net::settled(1, 6);
    assert_eq!(hold(&mut net, 1, "nobody", None), Err(HoldError::Unknown(name("nobody"))));
    for number in 1..=MAX_HOLDING {
        assert_eq!(hold(&mut net, 1, &format!("web{number}"), Some(Duration::from_secs(40))), Ok(number));
    }
    assert_eq!(hold(&mut net, 1, "www", None), Err(HoldError::TooMany));
    assert_eq!(hold(&mut net, 1, "web1", Some(Duration::from_secs(40))), Ok(MAX_HOLDING), "anew");
    net.set_app(3, false);
    net.run(30_000);
    assert_eq!(net.record.len(), 6);
    net.run(20_000);
    assert_eq!(net.record, net.healthy());
    assert!(net.node(0).status().operator_holds.is_empty() && net.node(1).status().operator_holds.is_empty());
}
