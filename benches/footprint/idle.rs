//! What a node costs with nothing to do: three nodes, each with an application checked every 10 s, over a minute.
//!
//! Each node is in a network namespace of its own, joined to the others by a bridge, so that what its interface counts
//! is what it sends to other nodes, and that alone. The namespaces have no names: they go with the processes in them,
//! however those end. Needs root, `unshare`, `nsenter` and `ip`.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::cluster::{Cluster, name};
use crate::process::{mappings, processor_time, sent, sum};

const NODES: u8 = 3;
const SETTLE: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_secs(60);
/// Seconds of processor time in a minute.
const PROCESSOR_WANTED: f64 = 0.05;
/// Headers of Ethernet, IPv4 and UDP, in bytes.
const HEADERS: f64 = 42.0;

/// Measures and prints; whether it is within what is wanted.
pub(crate) fn measure(picored: &Path) -> anyhow::Result<bool> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "each node needs a network of its own, which only root can make: use sudo, or unshare --map-root-user"
    );
    // It lives until its standard input is closed.
    let bridge = Held(Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).spawn().context("unshare")?);
    wait_for_namespace(bridge.0.id())?;
    ip(bridge.0.id(), "link add br0 type bridge mcast_snooping 0\nlink set br0 up\n")?;

    let address = |node: u8| Ipv4Addr::new(10, 77, 0, node + 1);
    let addresses: Vec<SocketAddr> = (0..NODES).map(|node| (address(node), 7946).into()).collect();
    let app = |node: usize| {
        format!(
            "[[app]]\nname = \"www\"\npublish = [\"192.0.2.{}\"]\n\
             check = {{ http = \"http://127.0.0.1:8080/health\" }}\ninterval = \"10s\"\n",
            node + 1
        )
    };
    let mut cluster = Cluster::new(picored, &addresses, app)?;
    let (mut pids, mut sites) = (Vec::new(), Vec::new());
    for node in 0..NODES {
        // The namespace is there before the node: it is made up, and only then picored takes the shell's place.
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "read -r _ && exec \"$0\" \"$@\""]).arg(picored).stdin(Stdio::piped());
        cluster.start_by(node.into(), command)?;
        let process = cluster.process(node.into())?;
        let pid = process.id();
        wait_for_namespace(pid)?;
        ip(
            bridge.0.id(),
            &format!(
                "link add p{node} type veth peer name eth0 address {} netns {pid}\n\
                 link set p{node} master br0\nlink set p{node} up\n",
                mac(node)
            ),
        )?;
        // Without ARP and IPv6's own greetings, what is sent is gossip.
        run(within(pid).args(["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true"]))?;
        let others = (0..NODES).filter(|other| *other != node);
        let neighbours: String =
            others.map(|o| format!("neigh add {} lladdr {} dev eth0 nud permanent\n", address(o), mac(o))).collect();
        ip(pid, &format!("link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n{neighbours}", address(node)))?;
        let mut site = within(pid);
        site.arg(picored).args(["demo", "web", "--listen", "127.0.0.1:8080", "--name", &name(node.into())]);
        sites.push(Held(site.stdout(Stdio::null()).spawn().context("nsenter")?));
        process.stdin.take().context("a pipe was asked for")?.write_all(b"go\n")?;
        pids.push(pid);
    }
    cluster.wait_until_whole()?;
    std::thread::sleep(SETTLE);

    let read = || pids.iter().map(|pid| Ok((processor_time(*pid)?, sent(*pid)?))).collect::<anyhow::Result<Vec<_>>>();
    let (begin, before) = (Instant::now(), read()?);
    std::thread::sleep(WINDOW);
    let (seconds, after) = (begin.elapsed().as_secs_f64(), read()?);

    println!("A node of {NODES} with nothing to do but a check every 10 s, over {seconds:.0} s:\n");
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

fn mac(node: u8) -> String {
    format!("02:77:00:00:00:{:02x}", node + 1)
}

/// A command in the network namespace of a process.
fn within(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &pid.to_string()]);
    command
}

/// Waits until the process has left this process's own network namespace.
fn wait_for_namespace(pid: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + crate::cluster::CEILING;
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
    while namespace(&pid.to_string())? == namespace("self")? {
        ensure!(Instant::now() < deadline, "unshare makes no network namespace");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Has `ip` do what the lines say, in the network namespace of a process.
fn ip(pid: u32, lines: &str) -> anyhow::Result<()> {
    let mut command = within(pid);
    let mut child = command.args(["ip", "-batch", "-"]).stdin(Stdio::piped()).spawn().context("nsenter")?;
    child.stdin.take().context("a pipe was asked for")?.write_all(lines.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "ip failed ({status}) at:\n{lines}");
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// A process that ends with its owner.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
