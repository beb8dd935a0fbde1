//! TCP on the gossip port: what strangers do there costs a node little, and where datagrams do not pass it is what keeps
//! a healthy node from being taken for dead.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use picored::admin::client;
use picored_core::envelope::{Cluster, ClusterKey, Sealer};
use picored_core::message::Message;
use picored_core::name::{ClusterName, NodeName};
use picored_core::status::Status;
use rustix::process::Signal;

use crate::node::{Node, is, is_event};
use crate::site::{KEY, Site, free_address};

/// What a node may need more than before while strangers do what they can, in bytes.
const MORE: u64 = 4 << 20;

async fn anonymous(node: &Node<'_>) -> u64 {
    client::status(node.socket()).await.unwrap().anonymous_bytes.unwrap()
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Waits for the end of a connection, and gives what came before it.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let read = tokio::task::spawn_blocking(move || {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = stream.read_to_end(&mut rest);
        rest
    });
    read.await.unwrap()
}

fn frame(data: &[u8]) -> Vec<u8> {
    [&(data.len() as u32).to_be_bytes(), data].concat()
}

fn sealer(key: [u8; 32]) -> Sealer {
    let cluster = Cluster::new(ClusterName::new("test").unwrap(), ClusterKey::new(key));
    Sealer::new(&cluster, &NodeName::new("stranger").unwrap(), 1)
}

async fn counts(node: &Node<'_>, reason: &str, at_least: u64) {
    let enough = |status: &Status| status.datagrams.get(reason).is_some_and(|count| *count >= at_least).then_some(());
    node.shows(&format!("{at_least} refused as {reason}"), enough).await;
}

#[tokio::test]
async fn strangers_on_the_tcp_port_cost_little_and_are_cut_off() {
    let site = Site::new();
    let node = site.start(&site.setup("n1", "127.0.7.1:0"));
    let target = node.address().await;
    let second = site.start(&site.setup("n2", "127.0.7.2:0").seed(target));
    node.sees(&["n1", "n2"]).await;
    let before = anonymous(&node).await;

    // Garbage, a request of another protocol, a frame that claims 4 GiB, and frames that do not open.
    let request = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";
    let mut claim = u32::MAX.to_be_bytes().to_vec();
    claim.extend([1; 100]);
    let gossip = Message::Gossip(Vec::new()).encode();
    let wrong_key = frame(&sealer([8; 32]).seal(&gossip));
    for (bytes, reason) in [
        (&request[..], "length"),
        (&claim, "length"),
        (&frame(&[0; 100]), "version"),
        (&frame(&[]), "length"),
        (&wrong_key, "key"),
    ] {
        let count = node.status().await.datagrams.get(reason).copied().unwrap_or_default();
        let mut stream = connect(target);
        stream.write_all(bytes).unwrap();
        assert!(rest(stream).await.is_empty(), "{reason}");
        counts(&node, reason, count + 1).await;
    }

    // One with the key is asked whether it lives, and may say no more than a datagram holds before it has answered.
    let mut sealer = sealer(KEY);
    let mut stream = connect(target);
    stream.write_all(&frame(&sealer.seal(&gossip))).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut challenge = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut challenge).unwrap();
    let count = node.status().await.datagrams.get("length").copied().unwrap_or_default();
    stream.write_all(&frame(&sealer.seal(&Message::Gossip(vec![0; 4000]).encode()))).unwrap();
    assert!(rest(stream).await.is_empty());
    counts(&node, "length", count + 1).await;

    // A thousand that say nothing: those that are too many are cut off at once, the rest soon.
    let silent: Vec<TcpStream> = (0..1000).map(|_| connect(target)).collect();
    counts(&node, "crowded", 500).await;
    counts(&node, "silent", 32).await;
    let during = anonymous(&node).await;
    for stream in silent {
        assert!(rest(stream).await.is_empty());
    }
    assert!(during < before + MORE, "{before} bytes before, {during} meanwhile");

    // Told once a minute for each reason, and nothing has come between the two.
    for reason in ["length", "version", "key", "crowded", "silent"] {
        let about = |line: &_| is(line, "picored::gossip", "datagrams refused") && line["reason"] == reason;
        assert!(node.logged(about).len() <= 2, "{reason}: {:?}", node.logged(about));
    }
    for node in [&node, &second] {
        node.sees(&["n1", "n2"]).await;
        assert!(node.logged(|line| is(line, "picored::event", "member-down")).is_empty());
    }
}

#[tokio::test]
async fn a_port_that_is_taken_for_tcp_is_named_with_the_remedy() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.7.3:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ended = site.start(&site.setup("n1", address)).end().await;
    assert_eq!(ended.status.code(), Some(1));
    for part in [&format!("node.bind {address} (TCP)"), "choose another port", "UDP and TCP"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

/// What stands between two nodes: what comes at its address goes to `node`, and back what that answers. Datagrams pass
/// while it says so, connections always.
fn between(ip: &str, node: SocketAddr, datagrams: &Arc<AtomicBool>) -> SocketAddr {
    let address = free_address(ip);
    let (socket, listener) = (UdpSocket::bind(address).unwrap(), std::net::TcpListener::bind(address).unwrap());
    let pass = Arc::clone(datagrams);
    // They end with the test's process.
    thread::spawn(move || {
        let (mut peer, mut buffer) = (None, vec![0; 2000]);
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let to = if from == node { peer } else { Some(node) };
            if from != node {
                peer = Some(from);
            }
            if let Some(to) = to.filter(|_| pass.load(Ordering::Relaxed)) {
                let _ = socket.send_to(&buffer[..length], to);
            }
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), Ok(behind)) = (stream, TcpStream::connect(node)) else { continue };
            for (mut from, mut to) in [(stream.try_clone().unwrap(), behind.try_clone().unwrap()), (behind, stream)] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    address
}

#[tokio::test]
async fn a_node_that_no_datagram_reaches_is_degraded_and_not_down_until_it_dies() {
    let site = Site::new();
    let datagrams = Arc::new(AtomicBool::new(true));
    let [one, two] = ["127.0.7.5", "127.0.7.6"].map(free_address);
    let mut setups = [site.setup("n1", one), site.setup("n2", two)];
    for (setup, (ip, behind)) in setups.iter_mut().zip([("127.0.7.7", one), ("127.0.7.8", two)]) {
        setup.advertise = Some(between(ip, behind, &datagrams));
    }
    let seed = setups[0].advertise.unwrap();
    let [first, second] = [setups[0].clone(), setups[1].clone().seed(seed)].map(|setup| site.start(&setup));
    for node in [&first, &second] {
        node.sees(&["n1", "n2"]).await;
    }
    datagrams.store(false, Ordering::Relaxed);
    for (node, other) in [(&first, "n2"), (&second, "n1")] {
        let told = |line: &_| is(line, "picored::gossip", "degraded") && line["member"] == other;
        node.logs("that the other is degraded", 1, told).await;
        node.shows("it", |status| {
            status.members.iter().any(|member| member.name == other && member.state == "degraded").then_some(())
        })
        .await;
    }
    // It goes on so: each would have been taken for dead several times over.
    for node in [&first, &second] {
        let accepted = |status: &Status| status.datagrams["accepted"];
        let before = accepted(&node.status().await);
        node.shows("several more frames", |status| (accepted(status) >= before + 4).then_some(())).await;
        assert!(node.logged(|line| is(line, "picored::event", "member-down")).is_empty(), "{}", site.last_lines());
    }
    datagrams.store(true, Ordering::Relaxed);
    for node in [&first, &second] {
        node.sees(&["n1", "n2"]).await;
    }
    datagrams.store(false, Ordering::Relaxed);
    // Connections to it are still made, and nobody is there to answer.
    second.signal(Signal::STOP);
    first.notices("member-down", "n2").await;
    assert_eq!(first.logged(|line| is_event(line, "member-down", "n2")).len(), 1);
    second.signal(Signal::KILL);
}
