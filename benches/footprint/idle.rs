//! What a node costs with nothing to do: three nodes, each with three handlers and two applications checked every 10 s,
//! over a minute.
//!
//! Each node is on a machine of its own, so that what its interface counts is what it sends to other nodes, and that
//! alone.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::cluster::{Cluster, name};
use crate::network::{Held, Network, address};
use crate::process::{mappings, processor_time, sent, sum};

const NODES: u8 = 3;
const HANDLERS: [&str; 3] = ["ok", "echo", "state"];
const SETTLE: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_secs(60);
/// Seconds of processor time in a minute.
const PROCESSOR_WANTED: f64 = 0.05;
/// Headers of Ethernet, IPv4 and UDP, in bytes.
const HEADERS: f64 = 42.0;

/// Measures and prints; whether it is within what is wanted.
pub(crate) fn measure(picored: &Path) -> anyhow::Result<bool> {
    let network = Network::new()?;
    let addresses: Vec<SocketAddr> = (1..=NODES).map(|node| (address(node), 7946).into()).collect();
    let handlers = HANDLERS.map(|handler| {
        let fixture = format!("{}/handlers-wasm/dist/fixtures/{handler}.wasm", env!("CARGO_MANIFEST_DIR"));
        format!("[[handler]]\nname = \"{handler}\"\nsource = \"file:{fixture}\"\non = [\"app-*\"]\n\n")
    });
    let handlers = handlers.concat();
    let app = |node: usize| {
        format!(
            "[[app]]\nname = \"www\"\npublish = [\"192.0.2.{}\"]\n\
             check = {{ http = \"http://127.0.0.1:8080/health\" }}\ninterval = \"10s\"\n\n\
             [[app]]\nname = \"port\"\npublish = [\"192.0.2.{}\"]\ncheck = {{ tcp = \"127.0.0.1:8080\" }}\n\
             interval = \"10s\"\n\n{handlers}",
            node + 1,
            node + 1
        )
    };
    let mut cluster = Cluster::new(picored, &addresses, app)?;
    let (mut pids, mut sites, mut machines) = (Vec::new(), Vec::new(), Vec::new());
    for node in 0..NODES {
        // Without ARP, what is sent is gossip.
        let others: Vec<u8> = (1..=NODES).filter(|other| *other != node + 1).collect();
        let machine = network.machine(node + 1, &others)?;
        let mut site = machine.command(picored);
        site.args(["demo", "web", "--listen", "127.0.0.1:8080", "--name", &name(node.into())]);
        sites.push(Held(site.stdout(Stdio::null()).spawn().context("nsenter")?));
        cluster.start_by(node.into(), machine.command(picored))?;
        pids.push(cluster.process(node.into())?.id());
        machines.push(machine);
    }
    cluster.wait_until_whole()?;
    std::thread::sleep(SETTLE);

    let read = || pids.iter().map(|pid| Ok((processor_time(*pid)?, sent(*pid)?))).collect::<anyhow::Result<Vec<_>>>();
    let (begin, before) = (Instant::now(), read()?);
    std::thread::sleep(WINDOW);
    let (seconds, after) = (begin.elapsed().as_secs_f64(), read()?);

    println!("A node of {NODES} with nothing to do but two checks every 10 s, over {seconds:.0} s:\n");
    println!(
        "{:<6}{:>16}{:>16}{:>16}{:>16}{:>15}{:>14}",
        "", "processor s/min", "datagrams/s", "bytes/s of UDP", "on Ethernet", "anonymous KiB", "resident KiB"
    );
    let mut largest: f64 = 0.0;
    for (node, (pid, (old, new))) in pids.iter().zip(before.iter().zip(&after)).enumerate() {
        let processor = (new.0 - old.0).as_secs_f64() / seconds * 60.0;
        let [bytes, packets] = [new.1.0 - old.1.0, new.1.1 - old.1.1].map(|count| count as f64 / seconds);
        let memory = sum(&mappings(*pid)?);
        let payload = bytes - HEADERS * packets;
        println!(
            "{:<6}{processor:>16.4}{packets:>16.2}{payload:>16.0}{bytes:>16.0}{:>15}{:>14}",
            name(node),
            memory.anonymous,
            memory.resident
        );
        largest = largest.max(processor);
    }
    println!("wanted at most {PROCESSOR_WANTED} s of processor time a minute\n");
    Ok(largest <= PROCESSOR_WANTED)
}
