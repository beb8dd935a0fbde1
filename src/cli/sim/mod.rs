//! `picored sim`: hours of a cluster's life in seconds, on a virtual network, to see what membership makes of it.
//!
//! What is simulated is the core that the daemon runs, in `picored_sim`; here are its command line and what is printed.

mod fault;
mod print;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use picored_core::config::Spoken;
use picored_sim::{Conditions, Fault, Progress, Scenario, ScenarioError, System, Template};
use ring::rand::SecureRandom;

use self::fault::parse_hours;

/// So many nodes are simulated at most: each of them holds a view of all.
const MAX_NODES: u16 = 1000;
/// A simulation that takes longer says how far it is, so often.
const TELL_PROGRESS: Duration = Duration::from_secs(5);

/// Simulate a cluster: what is called down that is up, what is noticed how soon, what heals
///
/// Whole nodes of picored, as many as are asked for, live for hours on a virtual network and clock; that takes seconds.
/// The config says what all of them are: profile, applications, checks, handlers. Names, addresses and seeds are made up;
/// no file beside it is read, no handler is run, nothing is sent. One seed is one history: the same command with the same
/// seed prints the same.
///
/// Nodes are counted from 1, and times from the start of the first node, as durations: 30s, 1h30m.
///
/// With --json: an object with `false_downs` (verdicts on nodes that were up), `detect_p50_s`, `detect_p99_s` (from a
/// crash until another node called it down), `undetected`, `heal_max_s` (from the end of a split until all see each other),
/// `unhealed`, `wrong_removals` (runs of a handler that took an address out that was up, where the network does not
/// explain it), `empty_records`, `writes` (how often a record changed), `dead_published_max_s` (the longest time in which
/// the address of a node that was down was in a record), `renewals`, `bytes_per_node_s`, `packets_offered`, `packets_dropped`, `packets_delivered`, `nodes`,
/// `hours`, `baseline` and `seed`. What there was nothing to measure of is null.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored sim --config picored.toml --nodes 5 --loss 10% --hours 10\n  picored sim \
                        --nodes 5 --kill 1@30s --partition '2|3@60s..120s'\n  picored sim --loss 10% --hours 10 \
                        --baseline foca --json"
)]
pub(super) struct Args {
    /// What all nodes are configured as [default: a website with one application and one handler]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How many nodes
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: u16,
    /// How many of the datagrams are lost
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = fault::parse_share)]
    loss: f64,
    /// Kill a node, and start it again if an end is given
    #[arg(long, value_name = "NODE@FROM[..TO]", value_parser = fault::parse_kill)]
    kill: Vec<Fault>,
    /// Let a node stand still
    #[arg(long, value_name = "NODE@FROM[..TO]", value_parser = fault::parse_pause)]
    pause: Vec<Fault>,
    /// Hold a node's datagrams up for three seconds, each way
    #[arg(long, value_name = "NODE@FROM[..TO]", value_parser = fault::parse_slow)]
    slow: Vec<Fault>,
    /// Split the network into groups of so many nodes
    #[arg(long, value_name = "COUNT|COUNT@FROM[..TO]", value_parser = fault::parse_partition)]
    partition: Vec<Fault>,
    /// How long the cluster lives
    #[arg(long, value_name = "HOURS", default_value = "1", value_parser = parse_hours)]
    hours: Duration,
    /// Where all randomness comes from; drawn and printed if it is not given
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Simulate another system on the same network instead
    #[arg(long, value_name = "SYSTEM")]
    baseline: Option<Baseline>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Baseline {
    /// The library under picored's membership, with its own settings and nothing around it
    Foca,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let template = match &args.config {
        Some(path) => Template::of(&crate::config_file::read(path)?),
        None => Template::website(),
    };
    let seed = args.seed.map_or_else(drawn, Ok)?;
    let faults = [&args.kill, &args.pause, &args.slow, &args.partition].into_iter().flatten().cloned();
    let scenario = Scenario {
        seed,
        system: args.baseline.map_or(System::Picored, |Baseline::Foca| System::Foca),
        template,
        nodes: args.nodes.into(),
        stagger: Duration::from_millis(100),
        conditions: Conditions { loss: args.loss, ..Conditions::default() },
        length: args.hours,
        faults: faults.collect(),
    };
    let mut told = Instant::now();
    let tell = |progress: Progress| {
        if told.elapsed() >= TELL_PROGRESS {
            told = Instant::now();
            let Progress { elapsed, length, false_downs } = progress;
            let (elapsed, length) = (Spoken(whole_seconds(elapsed)), Spoken(length));
            // Who closed standard error does not want to know.
            let _ = writeln!(io::stderr(), "{elapsed} of {length}, false downs: {false_downs}");
        }
    };
    let (report, simulation) = match scenario.run(tell) {
        Ok(done) => done,
        Err(error) => bail!("{}", complaint(&error, &scenario)),
    };
    if args.json {
        super::print_json(&print::as_json(scenario.system, args.hours, &report))?;
    } else {
        super::print(&print::as_text(scenario.system, args.hours, args.loss, &report, &simulation))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A seed that is another each time, short enough to be typed.
fn drawn() -> anyhow::Result<u64> {
    let mut bytes = [0; 4];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| anyhow!("the system gives no randomness: choose a --seed"))?;
    Ok(u32::from_be_bytes(bytes).into())
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

fn complaint(error: &ScenarioError, scenario: &Scenario) -> String {
    let (nodes, length) = (scenario.nodes, Spoken(scenario.length));
    match error {
        ScenarioError::NoMachine(machine) => {
            format!("there is no node {}: --nodes is {nodes}, and the first is 1", machine + 1)
        }
        ScenarioError::Groups(sum) => {
            format!("--partition has to name every node: its groups have {sum} in all, and --nodes is {nodes}")
        }
        ScenarioError::Time(fault) => {
            let until = fault.until.map(|until| format!("..{}", Spoken(until))).unwrap_or_default();
            let from = Spoken(fault.from);
            format!(
                "nothing can happen at @{from}{until}: a time ends after it begins, and all ends after {length} (--hours)"
            )
        }
    }
}
