//! Datagrams that no good node sends: a node counts them by reason, tells of each reason once, and goes on.
//!
//! Its one peer reaches it through a relay, which records what it passes on: the material of truncated, altered and
//! repeated datagrams.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use picored_core::envelope::{Cluster, ClusterKey, MAX_DATAGRAM, Sealer, VERSION};
use picored_core::message::Message;
use picored_core::name::{ClusterName, NodeName};
use rustix::process::Signal;

use crate::node::{Node, alive, is, is_event};
use crate::site::{KEY, Site, free_address};

/// Large enough for any datagram.
const BUFFER: usize = 65_536;
/// Where the sender's counter stands in a datagram.
const COUNTER: std::ops::Range<usize> = 17..25;

/// Passes on what comes for `node`, and from it what it answers; what came for it is heard.
fn relay(node: SocketAddr) -> (SocketAddr, Receiver<Vec<u8>>) {
    let socket = UdpSocket::bind((node.ip(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let (record, recorded) = mpsc::channel();
    // It ends with the test's process.
    thread::spawn(move || {
        let (mut peer, mut buffer) = (None, vec![0; BUFFER]);
        loop {
            // What the network says of an earlier datagram is no fault of the socket.
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let data = &buffer[..length];
            let to = if from == node { peer } else { Some(node) };
            if from != node {
                peer = Some(from);
                // The test may have heard enough.
                let _ = record.send(data.to_vec());
            }
            if let Some(to) = to {
                let _ = socket.send_to(data, to);
            }
        }
    });
    (address, recorded)
}

/// The attacker: an address of its own, and how much of what it has sent.
struct Attacker {
    socket: UdpSocket,
    target: SocketAddr,
    sent: BTreeMap<&'static str, u64>,
}

impl Attacker {
    fn send(&mut self, refused_as: &'static str, datagram: &[u8]) {
        assert_eq!(self.socket.send_to(datagram, self.target).unwrap(), datagram.len());
        *self.sent.entry(refused_as).or_default() += 1;
    }

    /// Waits until the node has counted all that was sent and nothing else.
    async fn is_counted(&self, node: &Node<'_>) {
        node.shows(&format!("{:?}", self.sent), |status| {
            let refused = status.datagrams.iter().filter(|(fate, _)| *fate != "sent" && *fate != "accepted");
            let refused: Vec<_> = refused.map(|(reason, count)| (reason.as_str(), *count)).collect();
            self.sent.iter().map(|(reason, count)| (*reason, *count)).eq(refused).then_some(())
        })
        .await;
    }
}

fn sealer(cluster: &str, key: [u8; 32], node: &str) -> Sealer {
    let cluster = Cluster::new(ClusterName::new(cluster).unwrap(), ClusterKey::new(key));
    Sealer::new(&cluster, &NodeName::new(node).unwrap(), 1)
}

/// Bytes that follow no pattern, the same at each run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

async fn accepted(node: &Node<'_>) -> u64 {
    node.status().await.datagrams["accepted"]
}

#[tokio::test]
async fn a_node_stands_what_no_good_node_sends() {
    let site = Site::new();
    let target = free_address("127.0.6.1");
    let (relayed, recorded) = relay(target);
    let mut setup = site.setup("n1", target);
    setup.advertise = Some(relayed);
    let node = site.start(&setup);
    node.address().await;
    let peer = site.setup("n2", "127.0.6.1:0").seed(relayed);
    let second = site.start(&peer);
    for seer in [&node, &second] {
        seer.sees(&["n1", "n2"]).await;
    }
    // Once the peer is known, all that it sends is taken.
    let before = accepted(&node).await;
    node.shows("more accepted", |status| (status.datagrams["accepted"] > before).then_some(())).await;
    let mut good: Vec<Vec<u8>> = recorded.try_iter().collect();
    // The last one may still be under way.
    good.pop();
    assert!(good.len() >= 5, "{} datagrams", good.len());
    let good = &good[..good.len().min(30)];

    let socket = UdpSocket::bind("127.0.6.1:0").unwrap();
    let mut attacker = Attacker { socket, target, sent: BTreeMap::new() };
    for (seed, length) in [0, 1, 25, 26, 64, 600, MAX_DATAGRAM, MAX_DATAGRAM + 1, 9000, 65_000].into_iter().enumerate()
    {
        let mut bytes = noise(seed as u64, length);
        let reason = match bytes.first_mut() {
            None => "length",
            Some(version) => {
                *version = VERSION + 1;
                "version"
            }
        };
        attacker.send(reason, &bytes);
    }
    attacker.is_counted(&node).await;
    for (seed, recording) in good.iter().enumerate() {
        // The version is right and the rest is noise, but for a name's length: then it is some other cluster's.
        let mut bytes = noise(seed as u64, 400);
        (bytes[0], bytes[25]) = (VERSION, 40);
        attacker.send("cluster", &bytes);
        attacker.send("length", &recording[..20]);
        attacker.send("length", &recording[..26 + 2 + 15]);
        attacker.send("length", &[recording.as_slice(), &noise(0, 1500)].concat());
        attacker.send("replay", recording);
        if seed % 10 == 9 {
            attacker.is_counted(&node).await;
        }
        // As if it were far ahead: cut by one byte, altered in one bit, and under no name at all.
        let mut ahead = recording.clone();
        ahead[COUNTER].copy_from_slice(&(1_u64 << 40).to_be_bytes());
        attacker.send("forged", &ahead);
        attacker.send("forged", &ahead[..ahead.len() - 1]);
        ahead[26] = b'/';
        attacker.send("name", &ahead);
    }
    attacker.is_counted(&node).await;

    let payload = Message::Gossip(noise(1, 100)).encode();
    for number in 0..20 {
        let name = format!("ghost{number}");
        attacker.send("key", &sealer("test", [8; 32], &name).seal(&payload));
        attacker.send("cluster", &sealer("other", KEY, &name).seal(&payload));
        // Written with the right key, and yet nonsense: not even its stranger's name is remembered for long.
        attacker.send("malformed", &sealer("test", KEY, &name).seal(&[255; 40]));
    }
    attacker.is_counted(&node).await;

    // A new life of the peer: what its earlier one said is over for good.
    second.signal(Signal::KILL);
    second.end().await;
    let second = site.start(&peer);
    let generation = second.generation().await;
    let is_known = |status: &_| (alive(status, "n2") == Some(generation)).then_some(());
    node.shows("the new n2", is_known).await;
    for recording in good {
        attacker.send("stale", recording);
    }
    attacker.is_counted(&node).await;

    // All of this told in one line for each reason, which names the sender.
    for reason in attacker.sent.keys() {
        let about = |line: &_| is(line, "picored::gossip", "datagrams refused") && line["reason"] == *reason;
        let lines = node.logs(reason, 1, about).await;
        assert_eq!(lines.len(), 1, "{reason}: {lines:?}");
        assert_eq!(lines[0]["from"], attacker.socket.local_addr().unwrap().to_string());
        assert!(lines[0]["hint"].as_str().unwrap().starts_with(reason));
    }
    // And none of it has come between the two.
    for seer in [&node, &second] {
        let before = accepted(seer).await;
        seer.shows("more accepted", |status| (status.datagrams["accepted"] > before).then_some(())).await;
        seer.sees(&["n1", "n2"]).await;
        assert!(
            seer.logged(|line| is_event(line, "member-down", "n1") || is_event(line, "member-down", "n2")).is_empty()
        );
    }
}

#[tokio::test]
async fn a_crowd_of_strangers_does_not_keep_a_good_one_out() {
    let site = Site::new();
    let node = site.start(&site.setup("n1", "127.0.0.1:0"));
    let target = node.address().await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let payload = Message::Gossip(Vec::new()).encode();
    // Insiders: they have the key, but answer no challenge. More of them than are remembered at a time.
    let mut crowd = (0..).map(|number| sealer("test", KEY, &format!("stranger{number}")).seal(&payload));
    let mut sent = 0;
    while !node.status().await.datagrams.contains_key("crowded") {
        assert!(sent < 5000, "{}", site.last_lines());
        for datagram in crowd.by_ref().take(50) {
            socket.send_to(&datagram, target).unwrap();
            sent += 1;
        }
    }
    let second = site.start(&site.setup("n2", "127.0.0.1:0").seed(target));
    for seer in [&node, &second] {
        seer.sees(&["n1", "n2"]).await;
    }
}
