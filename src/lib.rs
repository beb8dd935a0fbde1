//! picored: keeps a site's DNS in line with the servers that are up.
//!
//! The shell around [`picored_core`], which decides: sockets, probes, the Wasm host, files, the CLI. ARCHITECTURE.md is
//! the map.

mod accept;
pub mod admin;
pub mod check;
pub mod cli;
mod config_file;
pub mod daemon;
pub mod demo;
pub mod driver;
pub mod events;
pub mod handler;
mod http;
pub mod journal;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod net;
mod notices;
pub mod service;
mod signals;
mod stamp;
pub mod store;
pub mod tls;
