//! Which daemon `members` and `status` ask, and how: the flags and the runtime that both need.

use std::path::PathBuf;

use crate::admin::client::ClientError;

/// Where a daemon's socket is that nobody told us about.
const DEFAULT_SOCKET: &str = "/run/picored.sock";

#[derive(Debug, clap::Args)]
pub(super) struct Daemon {
    /// The admin socket of the node to ask [default: /run/picored.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Ask the node that runs with this config
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

impl Daemon {
    /// Asks with `question`, which gets the socket's path.
    pub(super) fn ask<T>(&self, question: impl AsyncFnOnce(PathBuf) -> Result<T, ClientError>) -> anyhow::Result<T> {
        let socket = match (&self.socket, &self.config) {
            (Some(socket), _) => socket.clone(),
            (None, Some(config)) => super::config_file::read(config)?.node.admin_socket,
            (None, None) => DEFAULT_SOCKET.into(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(question(socket))?)
    }
}
