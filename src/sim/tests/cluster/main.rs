//! Whole clusters, lived through in seconds: what picored promises of its membership, under every trouble a network has.
//!
//! A failing test prints what happened, and the command that replays its seed. `PICORED_SEEDS` tries so many seeds, drawn
//! when the test runs, and `PICORED_HOURS` lets the long ones take so many node-hours a seed.

#![allow(clippy::unwrap_used, reason = "clippy knows tests, not the functions that they share")]

mod accuracy;
mod controls;
mod governor;
mod healing;
mod scale;
mod setting;
mod world;
