//! TCP beside UDP: each alone is enough to join and to compare, and who answers on either is not down.

use std::net::SocketAddr;

use super::super::{Input, Notice, Output};
use super::net::{Net, What, seeds};
use super::tcp::Fate;
use crate::envelope::{Cluster, ClusterKey, MAX_DATAGRAM, MAX_FRAME, Sealer};
use crate::event::EventKind;
use crate::message::Message;
use crate::name::{ClusterName, NodeName};
use crate::route::Connection;

/// Longer than any suspicion lasts.
const LONG: u64 = 120_000;

#[test]
fn a_node_that_no_datagram_reaches_is_degraded_and_never_down() {
    for seed in seeds(2) {
        for count in [2, 3, 5] {
            let mut net = Net::settled(seed, count);
            net.no_datagrams = [0].into();
            // Who hears nobody waits for longer: it may be its own fault, and here it is.
            net.run_until("all tell of it", 300_000, |net| degraded(net, false).len() == 2 * (count - 1));
            for _ in 0..20 {
                net.run(LONG / 20);
                for other in 1..count {
                    for (seer, seen) in [(0, other), (other, 0)] {
                        assert_eq!(net.sees(seer, seen).as_deref(), Some("degraded"), "{seer} {seen}");
                    }
                }
            }
            for kind in [EventKind::MemberDown, EventKind::AppDown] {
                assert_eq!(net.events(kind), []);
            }
            // What changes on it is known to all, and what changes elsewhere to it.
            net.set_app(0, false);
            net.set_app(1, false);
            net.run_until("all know both", 60_000, |net| net.events(EventKind::AppDown).len() == 2 * count);
            net.set_app(0, true);
            net.set_app(1, true);
            net.no_datagrams.clear();
            net.run_until("all is well again", 60_000, |net| net.all_see_up(count));
            assert_eq!(degraded(&net, true).len(), degraded(&net, false).len());
        }
    }
}

/// Who told that a member answers over TCP alone, or no longer alone.
fn degraded(net: &Net, over: bool) -> Vec<usize> {
    let told = net
        .trace
        .iter()
        .filter(|line| matches!(&line.what, What::Notice(Notice::Degraded { recovered, .. }) if *recovered == over));
    told.map(|line| line.node).collect()
}

#[test]
fn a_degraded_node_that_dies_is_down() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        net.no_datagrams = [0].into();
        net.run(60_000);
        net.kill(0);
        // Who has a member that does not answer its probes is slower to judge: it may be its own fault.
        net.run_until("both know", 40_000, |net| net.events(EventKind::MemberDown).len() == 2);
    }
}

#[test]
fn a_node_that_stands_still_is_down_in_time_though_connections_to_it_are_made() {
    for seed in seeds(10) {
        let mut net = Net::settled(seed, 3);
        net.stall(2, 3_600_000);
        net.run_until("both know", 10_000, |net| net.events(EventKind::MemberDown).len() == 2);
        assert!(net.tcp.dialed > 0);
    }
}

#[test]
fn a_question_does_not_hold_a_verdict_up() {
    for seed in seeds(10) {
        let known = [Fate::Made, Fate::Refused, Fate::Swallowed, Fate::Unknown].map(|fate| {
            let mut net = Net::settled(seed, 3);
            net.tcp.fate = fate;
            let start = net.ms();
            net.kill(2);
            net.run_until("both know", 10_000, |net| net.events(EventKind::MemberDown).len() == 2);
            net.ms() - start
        });
        assert_eq!(known, [known[0]; 4], "the connection makes no difference");
    }
}

#[test]
fn a_lost_datagram_makes_nobody_degraded() {
    for seed in seeds(3) {
        let mut net = Net::settled(seed, 5);
        net.loss = 0.1;
        net.run(600_000);
        assert_eq!(net.events(EventKind::MemberDown), []);
        assert_eq!(degraded(&net, false), [0; 0]);
    }
}

#[test]
fn connections_alone_are_enough_to_join() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 3);
        net.no_datagrams = [3].into();
        net.start(3);
        net.run_until("joined", 10_000, |net| net.node(3).is_joined());
        let known = net.node(3).status().members.iter().filter(|member| member.apps.len() == 1).count();
        assert_eq!(known, 4);
        net.run(LONG);
        assert_eq!(net.events(EventKind::MemberDown), []);
        assert_eq!(net.sees(0, 3).as_deref(), Some("degraded"));
    }
}

#[test]
fn datagrams_alone_are_enough_to_join_and_to_compare() {
    for fate in [Fate::Refused, Fate::Swallowed, Fate::Unknown] {
        for seed in seeds(3) {
            let mut net = Net::new(seed);
            net.tcp.fate = fate;
            for slot in 0..3 {
                net.start(slot);
            }
            net.run_until("all see all up", 10_000, |net| net.all_see_up(3));
            let sent = compared_by_datagram(&mut net, 120_000);
            assert!(sent >= 3 * 3, "{fate:?}: {sent} in two minutes");
        }
    }
}

#[test]
fn views_are_compared_on_connections_alone_where_these_can_be_made() {
    let mut net = Net::settled(1, 3);
    let before = net.tcp.dialed;
    assert_eq!(compared_by_datagram(&mut net, 120_000), 0);
    assert!(net.tcp.dialed - before >= 3 * 3);
}

/// How many datagrams in so many milliseconds begin to compare whole views.
fn compared_by_datagram(net: &mut Net, ms: u64) -> usize {
    net.recorded = Some(Vec::new());
    net.run(ms);
    let cluster = cluster();
    let whole = |data: &[u8]| {
        let envelope = cluster.read(data).unwrap();
        let payload = envelope.open(&cluster.boot_key(&envelope.sender, envelope.boot)).unwrap();
        matches!(Message::decode(&payload), Some(Message::Digest(digest)) if digest.reply && digest.to.is_none())
    };
    net.recorded.take().unwrap().iter().filter(|(.., data)| whole(data)).count()
}

fn cluster() -> Cluster {
    Cluster::new(ClusterName::new("test").unwrap(), ClusterKey::new([7; 32]))
}

fn stranger() -> Sealer {
    Sealer::new(&cluster(), &NodeName::new("stranger").unwrap(), 1)
}

/// What a node wants done about a connection that a stranger made, after this frame.
fn after(net: &mut Net, number: u64, data: Vec<u8>) -> Vec<Output> {
    let from: SocketAddr = "127.0.0.99:50000".parse().unwrap();
    let now = net.now();
    let node = net.slots[0].node.as_mut().unwrap();
    while node.poll_output().is_some() {}
    node.handle(now, Input::Frame { connection: Connection::Accepted(number), from, data });
    let outputs = std::iter::from_fn(|| node.poll_output());
    outputs
        .filter(|output| matches!(output, Output::Frame { .. } | Output::Listen { .. } | Output::Close { .. }))
        .collect()
}

#[test]
fn who_does_not_have_the_key_is_cut_off_at_the_first_frame_and_who_has_it_is_asked_first() {
    let mut net = Net::settled(1, 2);
    let hello = stranger().seal(&Message::Response { nonce: 1 }.encode());
    let mut broken: Vec<Vec<u8>> = (0..hello.len()).map(|len| hello[..len].to_vec()).collect();
    broken.extend((0..hello.len()).map(|at| {
        let mut bent = hello.clone();
        bent[at] ^= 1;
        bent
    }));
    broken.extend([vec![0; MAX_FRAME], vec![1; MAX_FRAME], vec![0xff; MAX_FRAME + 1], vec![]]);
    let started = broken.len();
    for (number, frame) in broken.into_iter().enumerate() {
        let outputs = after(&mut net, number as u64, frame);
        assert!(matches!(outputs[..], [Output::Close { .. }]), "{outputs:?}");
    }
    let digest = Message::Gossip(Vec::new());
    let mut sealer = stranger();
    let first = sealer.seal(&digest.encode());
    let outputs = after(&mut net, started as u64, first.clone());
    assert!(
        matches!(outputs[..], [Output::Frame { .. }, Output::Listen { at_most: MAX_DATAGRAM, .. }]),
        "a challenge, and no more than a datagram's worth until it is answered: {outputs:?}"
    );
    let outputs = after(&mut net, started as u64 + 1, first);
    assert!(matches!(outputs[..], [Output::Close { .. }]), "a recording: {outputs:?}");
    let told = net.node(0).status().datagrams;
    for reason in ["length", "version", "cluster", "key", "forged", "replay"] {
        assert!(told[reason] > 0, "{reason}: {told:?}");
    }
}

#[test]
fn a_newcomer_is_known_to_all_at_once() {
    for seed in seeds(5) {
        let mut net = Net::settled(seed, 30);
        let start = net.ms();
        net.start(30);
        let knows = |net: &Net, slot| net.sees(slot, 30).as_deref() == Some("alive");
        net.run_until("all know it", 5000, |net| (0..30).all(|slot| knows(net, slot)));
        assert!(net.node(30).is_joined() && net.ms() - start <= 200, "{} ms", net.ms() - start);
    }
}

#[test]
fn members_that_are_long_gone_do_not_delay_a_start_over_tcp() {
    for seed in seeds(20) {
        let mut net = Net::settled(seed, 3);
        net.kill(2);
        let gone = (0..crate::node::MAX_REMEMBERED as u16).map(|i| SocketAddr::from(([198, 51, 100, 1], 1000 + i)));
        net.remembered.insert(2, gone.collect());
        net.no_datagrams.insert(2);
        net.start(2);
        net.run_until("a seed is asked as soon as without them", 5_000, |net| net.node(2).is_joined());
    }
}
