//! Clusters of real `picored run` processes on loopback addresses: what they do when others come, go, die, hang and lie.
//!
//! Each test has a cluster of its own, and waits for what the nodes log and what their admin sockets say. What one
//! function or one node does is tested beside it, in `src`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod cache;
mod connections;
mod durable;
mod failure;
mod fence;
mod handlers;
mod health;
mod hostile;
mod join;
mod node;
mod operator;
mod record;
mod refusal;
mod reload;
mod secrets;
mod site;
mod swaps;
mod upgrade;
#[path = "../wait/mod.rs"]
mod wait;
mod website;
mod why;
