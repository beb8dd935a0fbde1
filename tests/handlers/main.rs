//! The handler host against real components, most of them hostile: one fixture guest for each behaviour.

mod hostile;
mod http;
mod load;
mod server;
mod state;
mod support;
