//! Machines on a network of their own: network namespaces, each joined by a cable to one bridge, so that real processes
//! can be measured alone, cut off, and joined again.
//!
//! The namespaces have no names: they go with the processes that hold them, however those end. Needs root, `unshare`,
//! `nsenter` and `ip`. Used by the footprint's measurement and the tests against real parts.
#![allow(dead_code, reason = "each program that includes it uses its own part")]

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::cluster::CEILING;

/// The bridge, and the cables' ends that are plugged into it.
pub(crate) struct Network {
    bridge: Held,
}

/// A machine's network namespace; it lasts as long as this.
pub(crate) struct Machine {
    holder: Held,
}

/// The bridge's own number.
const BRIDGE: u8 = 254;

/// A machine's address. Numbers are from 1 to 253.
pub(crate) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

impl Network {
    /// A bridge that nothing is plugged into.
    pub(crate) fn new() -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "each machine needs a network of its own, which only root can make: use sudo, or unshare --map-root-user"
        );
        let bridge = namespace()?;
        ip(
            bridge.0.id(),
            &format!(
                "link set lo up\nlink add br0 type bridge mcast_snooping 0\naddr add {}/24 dev br0\nlink set br0 up\n",
                address(BRIDGE)
            ),
        )?;
        Ok(Self { bridge })
    }

    /// The bridge's own place on the network, from which every machine can be reached.
    pub(crate) fn bridge(&self) -> anyhow::Result<Namespace> {
        Ok(Namespace(File::open(format!("/proc/{}/ns/net", self.bridge.0.id()))?))
    }

    /// Pulls a machine's cable out of the bridge, or puts it in again.
    pub(crate) fn plug(&self, number: u8, is_in: bool) -> anyhow::Result<()> {
        ip(self.bridge.0.id(), &format!("link set p{number} {}\n", if is_in { "up" } else { "down" }))
    }

    /// A machine that is plugged in. The hardware addresses of `neighbours` it knows without asking.
    pub(crate) fn machine(&self, number: u8, neighbours: &[u8]) -> anyhow::Result<Machine> {
        let holder = namespace()?;
        let pid = holder.0.id();
        ip(
            self.bridge.0.id(),
            &format!(
                "link add p{number} type veth peer name eth0 address {} netns {pid}\n\
                 link set p{number} master br0\nlink set p{number} up\n",
                mac(number)
            ),
        )?;
        let machine = Machine { holder };
        // IPv6's own greetings would be counted as traffic.
        let silence = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true";
        let quiet = machine.command("sh").args(["-c", silence]).status();
        ensure!(quiet.context("nsenter")?.success(), "the machine's namespace cannot be entered");
        let known: String = neighbours
            .iter()
            .map(|other| format!("neigh add {} lladdr {} dev eth0 nud permanent\n", address(*other), mac(*other)))
            .collect();
        ip(pid, &format!("link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n{known}", address(number)))?;
        Ok(machine)
    }
}

/// A place on the network for threads.
pub(crate) struct Namespace(File);

impl Namespace {
    /// Moves the calling thread there: the sockets that it opens from now on are that place's.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        let network = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(self.0.as_fd(), Some(network)).context("setns")
    }
}

impl Machine {
    /// A process in it, whose namespace is the machine's.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.0.id()
    }

    /// A command that runs on it, as the very process that is started.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = within(self.pid());
        command.arg(program.as_ref());
        command
    }

    /// Has the machine's packet filter be what these chains of `nft` say, and nothing else.
    pub(crate) fn filter(&self, chains: &str) -> anyhow::Result<()> {
        let rules = format!("flush ruleset\ntable inet filter {{\n{chains}}}\n");
        feed(self.command("nft").args(["-f", "-"]), &rules)
    }
}

/// A network namespace, and the process that holds it until its standard input is closed.
fn namespace() -> anyhow::Result<Held> {
    let holder = Held(Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).spawn().context("unshare")?);
    let deadline = Instant::now() + CEILING;
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
    while namespace(&holder.0.id().to_string())? == namespace("self")? {
        ensure!(Instant::now() < deadline, "unshare makes no network namespace");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(holder)
}

fn mac(number: u8) -> String {
    format!("02:77:00:00:00:{number:02x}")
}

/// A command in the network namespace of a process.
fn within(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &pid.to_string()]);
    command
}

/// Has `ip` do what the lines say, in the network namespace of a process.
fn ip(pid: u32, lines: &str) -> anyhow::Result<()> {
    feed(within(pid).args(["ip", "-batch", "-"]), lines)
}

fn feed(command: &mut Command, lines: &str) -> anyhow::Result<()> {
    let mut child = command.stdin(Stdio::piped()).spawn().context("nsenter")?;
    child.stdin.take().context("a pipe was asked for")?.write_all(lines.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} failed ({status}) at:\n{lines}");
    Ok(())
}

/// A process that ends with its owner.
pub(crate) struct Held(pub(crate) Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
