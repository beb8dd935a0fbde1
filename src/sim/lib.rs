//! Whole nodes of picored on a seeded virtual network and clock: hours of a cluster's life in seconds.
//!
//! A [`Simulation`] has machines, each running the core as the daemon does (membership, records, view, plan,
//! deliveries), and a [`Network`] between them that loses, delays, repeats, reorders and cuts. What the nodes say is held
//! against what is true, at the moment when they say it ([`Report`]). Nothing here reads a clock or draws randomness of its
//! own: one seed is one history. The tests beside it use it, and `picored sim` ships it.
//!
//! The same network carries foca as it comes ([`System::Foca`]): a simulator in which nothing ever fails proves nothing.

mod bare;
mod machine;
mod measure;
mod network;
mod program;
mod provider;
mod report;
mod scenario;
mod simulation;
mod template;
mod trace;

pub use network::{Conditions, CutId, Network, Packets};
pub use program::System;
pub use provider::{LATE_AT_MOST, Mood, RUN_TIMEOUT};
pub use report::Report;
pub use scenario::{Fault, FaultKind, Progress, Scenario, ScenarioError};
pub use simulation::{EPOCH_MS, Simulation};
pub use template::{Template, node_name};
pub use trace::{Line, What};
