//! What the simulations here have in common: their seeds, how long they take, and a cluster that has come to rest.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use picored_sim::{Conditions, Simulation, System, Template};

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Another number each time: the keys of a hash map's state come from the system.
fn drawn() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The seeds of a test: so many, or as many as the long run asks for, or the one to replay.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    match (number("PICORED_SEED"), number("PICORED_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(asked)) => (0..asked.max(count)).map(|_| drawn()).collect(),
        (None, None) => (1..=count).collect(),
    }
}

/// How long a cluster of `nodes` lives in a test that takes `node_hours`, if the long run does not ask for more.
pub(crate) fn length(nodes: usize, node_hours: u64) -> Duration {
    Duration::from_secs(number("PICORED_HOURS").unwrap_or(node_hours).max(1) * 3600) / nodes as u32
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn lossy(loss: f64) -> Conditions {
    Conditions { loss, ..Conditions::default() }
}

/// `count` machines that found each other.
pub(crate) fn settled(seed: u64, system: System, template: Template, count: usize) -> Simulation {
    let mut simulation = Simulation::new(seed, system, template, count);
    for _ in 0..count {
        simulation.add();
        simulation.run(Duration::from_millis(100));
    }
    simulation.settle(secs(30)).expect("they find each other");
    // What the start brought about has been told and told again.
    simulation.run(secs(15));
    simulation
}

pub(crate) fn nodes(seed: u64, count: usize) -> Simulation {
    settled(seed, System::Picored, Template::website(), count)
}
