//! The decisions of picored, without I/O.
//!
//! Everything that decides is here: who is a member, what is healthy, what happened, what a handler shall be told, and
//! what it may reach. Nothing here reads a clock, a file or a socket, starts a thread, or prints: time comes in as
//! [`time::Now`], randomness from a seed, and effects leave as values. `Cargo.toml` is the wall (what is not listed there
//! cannot be reached), `clippy.toml` the lock.
//!
//! Floors, from the ground up; none imports one above it:
//! 1. values: [`time`], [`name`], [`event`], [`snapshot`], [`policy`], [`config`]
//! 2. machines, which never import each other

pub mod agreement;
pub mod ask;
pub mod broadcast;
pub mod claim;
pub mod config;
pub mod contacts;
pub mod defences;
pub mod digest;
pub mod envelope;
pub mod event;
pub mod governor;
pub mod health;
pub mod identity;
pub mod ledger;
pub mod letter;
pub mod membership;
pub mod message;
pub mod name;
pub mod node;
pub mod plan;
pub mod policy;
pub mod receipt;
pub mod record;
pub mod reload;
pub mod route;
pub mod snapshot;
pub mod stale;
pub mod status;
pub mod time;
pub mod versions;
pub mod view;
