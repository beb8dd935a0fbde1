//! How long the others take to notice a killed node and to start a handler: three nodes on the defaults of the `lan`
//! profile, one at a time killed by SIGKILL at a random moment, and brought back.
//!
//! `cargo bench --bench failover` prints each round, the median and the largest. It fails above 6 s in the median
//! or 10 s in any round. `-- --rounds 5` is quicker, `-- --picored FILE` measures another binary.

mod cluster;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Parser;
use ring::rand::{SecureRandom, SystemRandom};

use cluster::{Cluster, local_addresses, name};

const NODES: usize = 3;
const MEDIAN_WANTED: f64 = 6.0;
const LARGEST_WANTED: f64 = 10.0;
/// A probe period of the profile: so long the kill is put off at most, so that it hits any part of one.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
const DAY: f64 = 86_400.0;

#[derive(Parser)]
struct Args {
    /// How many nodes are killed
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// What is measured
    #[arg(long, default_value = env!("CARGO_BIN_EXE_picored"))]
    picored: PathBuf,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let handler = concat!(env!("CARGO_MANIFEST_DIR"), "/handlers-wasm/dist/fixtures/ok.wasm");
    let more = |_| format!("[[handler]]\nname = \"ok\"\nsource = \"file:{handler}\"\non = [\"member-*\"]\n");
    let mut cluster = Cluster::new(&args.picored, &local_addresses::<NODES>()?, more)?;
    for node in 0..NODES {
        cluster.start(node)?;
    }
    println!("{:>5}  {:<6}  {:<10}  {:>7}  {:>12}", "round", "killed", "handler on", "seconds", "by its clock");
    let mut all = Vec::new();
    for round in 1..=args.rounds {
        cluster.wait_until_whole()?;
        let [victim, delay] = [random()?, random()?];
        std::thread::sleep(PROBE_PERIOD.mul_f64(delay));
        cluster.skip_lines();
        let victim = (victim * NODES as f64) as usize;
        let process = cluster.process(victim)?;
        let (killed, killed_by_clock) = (Instant::now(), SystemTime::now());
        process.kill()?;
        process.wait()?;
        let (runner, seconds, by_clock) = cluster.find("the start of a handler", |line| {
            let is_it = line.node != victim && line.is_run("started") && line.text("event") == "member-down";
            is_it.then(|| (line.node, killed.elapsed().as_secs_f64(), second_of_day(line.text("timestamp"))))
        })?;
        let by_clock = by_clock.context("a log line without a time")?;
        let killed_at = killed_by_clock.duration_since(UNIX_EPOCH)?.as_secs_f64() % DAY;
        let by_clock = (by_clock - killed_at).rem_euclid(DAY);
        println!("{round:>5}  {:<6}  {:<10}  {seconds:>7.3}  {by_clock:>12.3}", name(victim), name(runner));
        all.push(seconds);
        cluster.start(victim)?;
    }
    all.sort_unstable_by(f64::total_cmp);
    let (Some(largest), middle) = (all.last(), all.len() / 2) else { anyhow::bail!("--rounds 0 measures nothing") };
    let median = f64::midpoint(all[(all.len() - 1) / 2], all[middle]);
    println!("\nSIGKILL to handler started, {} rounds: median {median:.3} s, largest {largest:.3} s", all.len());
    if median <= MEDIAN_WANTED && *largest <= LARGEST_WANTED {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("above {MEDIAN_WANTED} s in the median or {LARGEST_WANTED} s in a round");
    Ok(ExitCode::FAILURE)
}

/// From 0 up to 1.
fn random() -> anyhow::Result<f64> {
    let mut bytes = [0; 4];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(f64::from(u32::from_le_bytes(bytes)) / 2_f64.powi(32))
}

/// The time of day of a log line's `2026-01-31T12:00:00.000000Z`, in seconds.
fn second_of_day(timestamp: &str) -> Option<f64> {
    let mut parts = timestamp.strip_suffix('Z')?.split_once('T')?.1.split(':').map(str::parse::<f64>);
    let (hour, minute, second) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some(hour * 3600.0 + minute * 60.0 + second)
}
