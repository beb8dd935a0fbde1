//! The memory of a node right after its handlers ran: three nodes, five handlers, one application whose checks go down
//! and up again on the other nodes until the first node has run a hundred deliveries, or as many as is said, and twenty more, each of them a
//! sample.
//!
//! The application's name is chosen so that the first node is the one to run all five handlers. The same deliveries to
//! one handler in JavaScript tell what a script engine costs.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use picored_core::name::{HandlerName, NodeName};
use picored_core::plan;

use crate::cluster::{CEILING, Cluster, local_addresses, name};
use crate::process::{Mappings, Memory, mappings, peak, sum};

const NODES: usize = 3;
const HANDLERS: [&str; 5] = ["dns", "echo", "fetch", "ok", "state"];
const JAVASCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/dns-powerdns-js/dist/dns-powerdns-js.wasm");
const SAMPLES: usize = 20;
const ANONYMOUS_WANTED: u64 = 2 << 10;
const RESIDENT_WANTED: u64 = 10 << 10;
/// What is smaller is not listed, in KiB.
const LISTED: u64 = 64;
/// A while in which a node that has fallen quiet does nothing but gossip.
const SETTLE: Duration = Duration::from_secs(1);
/// No node's application is down.
const NONE_DOWN: usize = usize::MAX;

/// What was found on the first node.
struct Found {
    /// Right after each of the last runs.
    samples: Vec<Mappings>,
    /// What each run took, in milliseconds, in order of size.
    run_ms: Vec<f64>,
    /// The largest resident size since the start, in KiB.
    peak: u64,
    /// Once no handler's code is mapped.
    idle: Memory,
}

/// Measures five handlers and prints; whether it is within what is wanted.
pub(crate) fn measure(picored: &Path, deliveries: usize) -> anyhow::Result<bool> {
    let found = deliver(picored, &HANDLERS, deliveries)?;
    let anonymous = found.samples.iter().map(|sample| sum(sample).anonymous).max().unwrap_or_default();
    let largest = found.samples.iter().max_by_key(|sample| sum(sample).resident).context("there are samples")?;
    let resident = sum(largest).resident;
    println!("KiB of a node of {NODES} with {} handlers, after {deliveries} deliveries:\n", HANDLERS.len());
    println!("{:<44}{:>9}{:>10}", "", "anonymous", "resident");
    row(&format!("right after a run, the largest of {SAMPLES}"), anonymous, resident);
    row("  wanted at most", ANONYMOUS_WANTED, RESIDENT_WANTED);
    row("once the handlers' code is unmapped", found.idle.anonymous, found.idle.resident);
    println!("\nOf what the largest sample consists:\n");
    let mut parts: Vec<_> = largest.iter().filter(|(_, memory)| memory.resident >= LISTED).collect();
    parts.sort_by_key(|(_, memory)| std::cmp::Reverse(memory.resident));
    for (what, memory) in parts {
        row(&format!("{what:.42}"), memory.anonymous, memory.resident);
    }
    println!();
    Ok(anonymous <= ANONYMOUS_WANTED && resident <= RESIDENT_WANTED)
}

/// Measures one handler in JavaScript, and the same in Rust beside it; whether the node is within what is wanted once
/// it is quiet again.
pub(crate) fn measure_javascript(picored: &Path, deliveries: usize) -> anyhow::Result<bool> {
    println!(
        "{:<16}{:>12}{:>12}{:>12}{:>18}{:>17}",
        "one handler", "run p50, ms", "run p99, ms", "peak, KiB", "anonymous, quiet", "resident, quiet"
    );
    let mut is_good = true;
    for handler in ["dns", "javascript"] {
        let Found { run_ms, peak, idle, .. } = deliver(picored, &[handler], deliveries)?;
        let (p50, p99) = (run_ms[run_ms.len() / 2], run_ms[run_ms.len() * 99 / 100]);
        println!("{handler:<16}{p50:>12.2}{p99:>12.2}{peak:>12}{:>18}{:>17}", idle.anonymous, idle.resident);
        is_good &= idle.anonymous <= ANONYMOUS_WANTED && idle.resident <= RESIDENT_WANTED;
    }
    println!("{:<52}{ANONYMOUS_WANTED:>18}{RESIDENT_WANTED:>17}\n", "  wanted at most");
    Ok(is_good)
}

fn row(what: &str, anonymous: u64, resident: u64) {
    println!("{what:<44}{anonymous:>9}{resident:>10}");
}

/// Has the first node run `handlers`, `deliveries` times in all and then [`SAMPLES`] times more.
fn deliver(picored: &Path, handlers: &[&str], deliveries: usize) -> anyhow::Result<Found> {
    // The kernel maps around an access what it has in its cache. That may be little of a program that nobody has read for
    // a while; here it is to be all of it, which is the most that it can come to.
    std::fs::read(picored).with_context(|| picored.display().to_string())?;
    let dns = Dns::start(picored)?;
    let apps = Apps::start()?;
    let app = app_of_first_node(handlers)?;
    let more = |node| config(node, handlers, &app, &apps, &dns);
    let mut cluster = Cluster::new(picored, &local_addresses::<NODES>()?, more)?;
    for node in 0..NODES {
        let mut command = Command::new(picored);
        command.env("API_KEY", API_KEY);
        cluster.start_by(node, command)?;
    }
    cluster.wait_until_whole()?;
    let pid = cluster.process(0)?.id();
    let (mut run_ms, mut samples) = (Vec::new(), Vec::new());
    while samples.len() < SAMPLES {
        // Down on the second node, up, down on the third, up.
        for down in [1, NONE_DOWN, 2, NONE_DOWN] {
            cluster.skip_lines();
            apps.down.store(down, Ordering::Relaxed);
            let kind = if down == NONE_DOWN { "app-up" } else { "app-down" };
            let mut left = handlers.len();
            cluster.find("the ends of the handlers' runs", |line| {
                if line.node != 0 || !line.is_run("ended") || line.text("event") != kind {
                    return None;
                }
                run_ms.push(line.fields["run_ms"].as_f64().unwrap_or(f64::NAN));
                left -= 1;
                if run_ms.len() > deliveries {
                    samples.push(mappings(pid));
                }
                match line.text("outcome") {
                    "done" if left > 0 => None,
                    "done" => Some(Ok(())),
                    outcome => Some(Err(anyhow!("a run ended as {outcome}: {}", line.text("text")))),
                }
            })??;
        }
    }
    let samples = samples.into_iter().take(SAMPLES).collect::<Result<_, _>>()?;
    run_ms.sort_by(f64::total_cmp);
    let idle = sum(&once_unmapped(pid)?);
    Ok(Found { samples, run_ms, peak: peak(pid)?, idle })
}

/// The name of an application whose events the first node handles, whichever handler it is.
fn app_of_first_node(handlers: &[&str]) -> anyhow::Result<String> {
    let nodes = (0..NODES).map(|node| NodeName::new(&name(node))).collect::<Result<Vec<_>, _>>()?;
    let handlers = handlers.iter().map(|handler| HandlerName::new(handler)).collect::<Result<Vec<_>, _>>()?;
    let first_runs =
        |app: &String| handlers.iter().all(|handler| plan::runner(handler, app, nodes.iter()) == nodes.first());
    (0..).map(|number| format!("www{number}")).find(first_runs).context("every number was tried")
}

/// The application and the handlers of a node.
fn config(node: usize, handlers: &[&str], app: &str, apps: &Apps, dns: &Dns) -> String {
    let (site, api) = (apps.address, &dns.api);
    let mut config = format!(
        "[secrets]\napi = {{ env = \"API_KEY\" }}\n\n[[app]]\nname = \"{app}\"\npublish = [\"192.0.2.{}\"]\ncheck = {{ http = \"http://{site}/{node}\" }}\n\
         interval = \"100ms\"\nrise = 1\nfall = 1\n",
        node + 1
    );
    for handler in handlers {
        let fixture = format!("file:{}/handlers-wasm/dist/fixtures/{handler}.wasm", env!("CARGO_MANIFEST_DIR"));
        let (source, more) = match *handler {
            "dns" | "javascript" => (
                if *handler == "dns" { "builtin:dns-powerdns".into() } else { format!("file:{JAVASCRIPT}") },
                format!(
                    "api = \"http://{api}\"\nzone = \"{ZONE}\"\nrecord = \"www.{ZONE}\"\n{}\
                     auth = {{ header = \"X-API-Key\", secret = \"api\" }}\n",
                    grant(api, "\"GET\", \"PATCH\"")
                ),
            ),
            "fetch" => (fixture, format!("url = \"http://{site}/\"\n{}", grant(&site.to_string(), "\"GET\""))),
            _ => (fixture, String::new()),
        };
        config += &format!(
            "\n[[handler]]\nname = \"{handler}\"\nsource = \"{source}\"\non = [\"app-*\"]\n\n[handler.config]\n{more}"
        );
    }
    config
}

fn grant(address: &str, methods: &str) -> String {
    format!(
        "\n[[handler.http]]\nallow = \"http://{address}\"\nmethods = [{methods}]\nallow_private = [\"127.0.0.1/32\"]\n"
    )
}

/// What is mapped as soon as no handler's code is.
fn once_unmapped(pid: u32) -> anyhow::Result<Mappings> {
    let deadline = Instant::now() + CEILING;
    loop {
        if !mappings(pid)?.keys().any(|what| what.ends_with(".code")) {
            // While that was read the process may still have been about to give back more.
            std::thread::sleep(SETTLE);
            return mappings(pid);
        }
        ensure!(Instant::now() < deadline, "the handlers' code is still mapped after {CEILING:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The application of all nodes: node N is checked at `/N`.
struct Apps {
    address: SocketAddr,
    /// The node where it is down.
    down: Arc<AtomicUsize>,
}

impl Apps {
    /// Answers until the process ends.
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, down) = (listener.local_addr()?, Arc::new(AtomicUsize::new(NONE_DOWN)));
        let seen = down.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut path = String::new();
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                if let Some(first) = lines.next() {
                    first.split(' ').nth(1).unwrap_or_default().clone_into(&mut path);
                }
                // All of the head is read, or closing would break the connection off.
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let is_down = path.trim_start_matches('/').parse() == Ok(seen.load(Ordering::Relaxed));
                let status = if is_down { "503 Service Unavailable" } else { "200 OK" };
                // Who asked may have gone.
                let _ = write!(&stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Ok(Self { address, down })
    }
}

const ZONE: &str = "demo.example.";
const API_KEY: &str = "key-of-the-bench";

/// The demo's DNS server, for its API.
struct Dns {
    child: Child,
    api: String,
}

impl Dns {
    fn start(picored: &Path) -> anyhow::Result<Self> {
        let local = "127.0.0.1:0";
        let mut command = Command::new(picored);
        command.args(["demo", "dns", "--listen", local, "--api", local, "--api-key", API_KEY, "--zone", ZONE]);
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
        let mut lines = BufReader::new(child.stdout.take().context("a pipe was asked for")?).lines();
        let mut dns = Self { child, api: String::new() };
        let said = lines.next().context("the DNS server ended")??;
        said.rsplit_once("http://")
            .context("the DNS server did not tell its API's address")?
            .1
            .clone_into(&mut dns.api);
        // It goes on telling what the zone holds, and would end if nobody listened.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(dns)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
