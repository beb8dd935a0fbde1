//! The site on real parts: five servers with picored and a web server each, in network namespaces, and PowerDNS as it
//! comes with Debian. In every round servers crash, are cut off, one way or both, hang, leave, have their clocks set, lose
//! the provider's API and come back, at random, and now and then PowerDNS hangs; after every round the record has to be
//! right, and every node to tell why it is. All the while a visitor resolves and fetches, and the record may never be empty.
//!
//! Run by name, as root: `cargo test --test real_parts`. `PICORED_ROUNDS` says how many rounds (20), `PICORED_SEED` which
//! (drawn and printed), `PICORED` tests another binary.
#![cfg(target_os = "linux")]

#[path = "../../benches/cluster.rs"]
mod cluster;
#[path = "../debian_powerdns/mod.rs"]
mod debian_powerdns;
mod metrics;
#[path = "../../benches/network.rs"]
mod network;
mod powerdns;
mod site;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use site::{SERVERS, Site, Trouble};

/// For so long the record has to be right at the end of a round.
const HOLD: Duration = Duration::from_millis(1500);
/// PowerDNS stands still for so long at times: longer than a run may take.
const DNS_HANGS: Duration = Duration::from_secs(4);

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("web") {
        return site::web(&arguments.next().context("web NAME")?);
    }
    let rounds = number("PICORED_ROUNDS")?.unwrap_or(20);
    let seed = match number("PICORED_SEED")? {
        Some(seed) => seed,
        None => rand::random_range(0..1_000_000),
    };
    println!("{rounds} rounds; again with the same troubles: PICORED_SEED={seed} PICORED_ROUNDS={rounds}");
    let mut site = Site::start()?;
    let result = play(&mut site, rounds, &mut StdRng::seed_from_u64(seed));
    if result.is_err() {
        site.print_log();
    }
    result
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable}={text} is no number"))
}

fn play(site: &mut Site, rounds: u64, rng: &mut StdRng) -> anyhow::Result<()> {
    let begun = Instant::now();
    let whole = site.wait_until_right(HOLD)?;
    println!("all {SERVERS} in the record after {:.1} s", whole.as_secs_f64());
    metrics::are_good(site)?;
    println!("promtool finds no fault in the metrics");
    let mut times = Vec::new();
    for round in 1..=rounds {
        let said = disturb(site, rng)?;
        let before = site.watch().seen().missing;
        let took = site.wait_until_right(HOLD).with_context(|| format!("round {round}: {said}"))?;
        site.wait_until_explained().with_context(|| format!("round {round}: {said}"))?;
        let missing = (site.watch().seen().missing - before).as_secs_f64();
        let missing = if missing > 0.0 { format!("; missing for {missing:.2} s") } else { String::new() };
        println!("{round:>4}  {:>5.1} s  {:<40} {said}{missing}", took.as_secs_f64(), site.shown());
        times.push(took);
    }
    site.repair_all()?;
    site.wait_until_right(HOLD).context("after all was repaired")?;
    let visits = site.watch().visits();
    let seen = site.watch().seen().clone();
    times.sort_unstable();
    let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
    println!(
        "\n{rounds} rounds in {:.0} s; record right after a round's troubles: median {:.1} s, longest {:.1} s",
        begun.elapsed().as_secs_f64(),
        seconds(times.get(times.len() / 2)),
        seconds(times.last())
    );
    println!(
        "visitor without a memory: {} requests, {} failed, longest outage {:.2} s",
        visits.requests,
        visits.failures,
        visits.longest_outage.as_secs_f64()
    );
    println!(
        "addresses of servers that nothing ailed, missing from the record: {} times, {:.2} s in all",
        seen.removals,
        seen.missing.as_secs_f64()
    );
    ensure!(seen.empty == 0, "the record was empty {} times", seen.empty);
    ensure!(seen.strange.is_empty(), "the record had addresses of no server: {:?}", seen.strange);
    ensure!(visits.requests > rounds, "the visitor made {} requests", visits.requests);
    site.powerdns().others_are_untouched()
}

/// One or two servers get into trouble or out of it. At least one stays well, and nothing ails it in this round.
fn disturb(site: &mut Site, rng: &mut StdRng) -> anyhow::Result<String> {
    let mut servers: Vec<usize> = (0..SERVERS).collect();
    let spared = *site.well().choose(rng).context("one is always well")?;
    servers.retain(|server| *server != spared);
    let mut touched = Vec::new();
    for _ in 0..rng.random_range(1..=2) {
        let at = rng.random_range(0..servers.len());
        touched.push(servers.swap_remove(at));
    }
    site.leave_alone_all_but(&touched);
    let mut said = Vec::new();
    if rng.random_bool(0.1) {
        site.powerdns().hang(DNS_HANGS)?;
        said.push(format!("PowerDNS hangs for {DNS_HANGS:?}"));
    }
    for server in touched {
        said.push(if site.is_well(server) {
            let bearable: Vec<_> = Trouble::ALL.into_iter().filter(|trouble| site.keeps_quorum(*trouble)).collect();
            let trouble = *bearable.choose(rng).context("there is some")?;
            site.trouble(server, trouble)?;
            format!("{} {}", cluster::name(server), trouble.as_str())
        } else {
            site.repair(server)?;
            format!("{} is back", cluster::name(server))
        });
    }
    Ok(said.join(", "))
}
