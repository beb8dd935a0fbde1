//! A peer that has the cluster's key and means harm, or is broken: nobody panics, nobody is stuck, and no storm begins.
//!
//! It can speak for others, since the key is shared; that it cannot do more is what is tested here.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::net::{Net, address, node_name, seeds};
use crate::envelope::{Cluster, ClusterKey, Sealer};
use crate::identity::Identity;
use crate::message::{Digest, DigestLine, Entry, Message, Part, Standing};
use crate::name::{ClusterName, HandlerName, NodeName};
use crate::record::{HandlerTag, Record, ShortDigest};

const NODES: usize = 3;
/// The generation of the first nodes of a settled net.
const BORN: u64 = 1_700_000_000_000;

struct Evil {
    cluster: Cluster,
    sealer: Sealer,
    address: SocketAddr,
    /// Packets of foca's that were overheard.
    gossip: Vec<Vec<u8>>,
}

impl Evil {
    fn new() -> Self {
        let cluster = Cluster::new(ClusterName::new("test").unwrap(), ClusterKey::new([7; 32]));
        let sealer = Sealer::new(&cluster, &name("evil"), 1);
        Self { cluster, sealer, address: "127.0.0.77:7946".parse().unwrap(), gossip: Vec::new() }
    }

    fn say(&mut self, net: &mut Net, slot: usize, message: &Message) {
        let data = self.sealer.seal(&message.encode());
        net.inject(slot, self.address, data);
    }

    /// Answers what it was asked, and learns from what was sent.
    fn listen(&mut self, net: &mut Net) {
        for (from, to, data) in net.recorded.replace(Vec::new()).into_iter().flatten() {
            let envelope = self.cluster.read(&data).unwrap();
            let payload = envelope.open(&self.cluster.boot_key(&envelope.sender, envelope.boot)).unwrap();
            match Message::decode(&payload) {
                Some(Message::Challenge { nonce }) if to == self.address => {
                    let slot = (0..NODES).find(|slot| address(*slot) == from).unwrap();
                    self.say(net, slot, &Message::Response { nonce });
                }
                Some(Message::Gossip(data)) => self.gossip.push(data),
                _ => {}
            }
        }
        self.gossip.drain(..self.gossip.len().saturating_sub(50));
    }
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn any_name(rng: &mut StdRng) -> NodeName {
    match rng.random_range(0..6) {
        0..3 => node_name(rng.random_range(0..NODES)),
        3 => name("evil"),
        _ => name(&format!("nobody{}", rng.random_range(0..50))),
    }
}

fn any_number(rng: &mut StdRng) -> u64 {
    *[0, 1, BORN, BORN + 1, BORN + 2, u64::MAX - 1, u64::MAX].choose(rng).unwrap()
}

fn any_identity(rng: &mut StdRng) -> Identity {
    Identity { name: any_name(rng), generation: any_number(rng), address: address(rng.random_range(0..5)) }
}

fn any_standing(rng: &mut StdRng) -> Standing {
    let incarnation = *[0, 1, u16::MAX - 1, u16::MAX].choose(rng).unwrap();
    Standing { generation: any_number(rng), down: rng.random(), incarnation, suspect: rng.random() }
}

fn any_record(rng: &mut StdRng) -> Record {
    Record {
        failing: vec![],
        holding: some(rng, |rng| ShortDigest::new(&rng.random())),
        node: any_name(rng),
        boot: any_number(rng),
        sequence: any_number(rng),
        leaving: maybe(rng, any_number),
        apps: vec![],
        ready: rng.random(),
        handlers: vec![any_tag(rng)],
    }
}

fn any_tag(rng: &mut StdRng) -> HandlerTag {
    let name = ShortDigest::of_name(&HandlerName::new("dns").unwrap());
    let component = maybe(rng, |rng| ShortDigest::new(&rng.random()));
    HandlerTag { name, config: ShortDigest::new(&rng.random()), component }
}

fn maybe<T>(rng: &mut StdRng, any: impl Fn(&mut StdRng) -> T) -> Option<T> {
    rng.random::<bool>().then(|| any(rng))
}

fn some<T>(rng: &mut StdRng, any: impl Fn(&mut StdRng) -> T) -> Vec<T> {
    (0..rng.random_range(0..8)).map(|_| any(rng)).collect()
}

fn any_message(rng: &mut StdRng, overheard: &[Vec<u8>]) -> Message {
    match rng.random_range(0..10) {
        8 => Message::Summary(some(rng, |rng| Part { to: maybe(rng, any_name), hash: rng.random() })),
        9 => Message::Differing(some(rng, |rng| (maybe(rng, any_name), maybe(rng, any_name)))),
        0 => Message::Hello { nonce: rng.random(), identity: any_identity(rng) },
        1 => Message::Welcome { nonce: rng.random(), identity: any_identity(rng) },
        2 => Message::Suspected { identity: any_identity(rng), incarnation: any_standing(rng).incarnation },
        3 => Message::Digest(Digest {
            from: maybe(rng, any_name),
            to: maybe(rng, any_name),
            reply: rng.random(),
            joined: rng.random(),
            lines: some(rng, |rng| DigestLine {
                node: any_name(rng),
                standing: maybe(rng, any_standing),
                record: maybe(rng, |rng| (any_number(rng), any_number(rng))),
            }),
        }),
        4 | 5 => Message::Entries(some(rng, |rng| Entry {
            member: maybe(rng, |rng| (any_identity(rng), any_standing(rng))),
            record: maybe(rng, any_record),
        })),
        _ => {
            let mut data = overheard.choose(rng).cloned().unwrap_or_default();
            for _ in 0..rng.random_range(0..4) {
                if let Some(at) = (0..data.len()).collect::<Vec<_>>().choose(rng) {
                    data[*at] = rng.next_u32() as u8;
                }
            }
            if rng.random_bool(0.1) {
                data.truncate(rng.random_range(0..=data.len()));
            }
            Message::Gossip(data)
        }
    }
}

#[test]
fn whatever_a_peer_says_nobody_panics_and_time_moves_on() {
    for seed in seeds(3) {
        let mut net = Net::settled(seed, NODES);
        let mut evil = Evil::new();
        net.recorded = Some(Vec::new());
        for round in 0..500 {
            evil.listen(&mut net);
            let message = any_message(&mut net.rng, &evil.gossip);
            evil.say(&mut net, round % NODES, &message);
            net.run([0, 1, 10, 200][round % 4]);
        }
        net.recorded = None;
        net.sent = 0;
        net.run(20_000);
        let rate = net.sent / 20;
        assert!(rate < 200, "{rate} datagrams a second");
    }
}

#[test]
fn two_that_hold_each_other_for_dead_do_not_shout_it_without_end() {
    let mut net = Net::settled(1, NODES);
    let mut evil = Evil::new();
    net.recorded = Some(Vec::new());
    // A life of web2 that web2 can never outlive.
    let last = Identity { name: node_name(1), generation: u64::MAX, address: address(1) };
    let standing = Standing { generation: u64::MAX, down: false, incarnation: 0, suspect: false };
    let entry = Entry { member: Some((last, standing)), record: None };
    for slot in 0..NODES {
        evil.say(&mut net, slot, &Message::Entries(vec![entry.clone()]));
        evil.listen(&mut net);
    }
    net.recorded = None;
    net.sent = 0;
    net.run(60_000);
    assert!(net.sent / 60 < 100, "{} datagrams in a minute", net.sent);
}

#[test]
fn who_hears_a_member_does_not_go_on_without_it() {
    let mut net = Net::settled(1, NODES);
    let mut evil = Evil::new();
    net.recorded = Some(Vec::new());
    (1..3).for_each(|slot| net.kill(slot));
    net.cut = [(0, 1), (0, 2)].into();
    (1..3).for_each(|slot| net.start(slot));
    // A member that holds what they lack, and never gets it across.
    let standing = Standing { generation: BORN, down: false, incarnation: 0, suspect: false };
    let lines = vec![DigestLine { node: name("nobody"), standing: Some(standing), record: None }];
    let digest = Message::Digest(Digest { from: None, to: None, reply: false, joined: true, lines });
    for _ in 0..20 {
        for slot in 1..3 {
            evil.say(&mut net, slot, &digest);
            evil.listen(&mut net);
        }
        net.run(1000);
    }
    assert!(!net.node(1).is_joined() && !net.node(2).is_joined());
    net.run_until("it has been silent for long enough", 20_000, |net| net.node(1).is_joined());
}
