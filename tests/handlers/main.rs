//! The handler host against real components, most of them hostile: one fixture guest for each behaviour.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests, which clippy.toml cannot know.

mod cloudflare;
#[path = "../debian_powerdns/mod.rs"]
mod debian_powerdns;
mod dns_cloudflare;
mod dns_powerdns;
mod hostile;
mod http;
mod load;
mod powerdns;
mod secrets;
mod server;
mod state;
mod support;
#[path = "../wait/mod.rs"]
mod wait;
mod webhook;
mod weight;
