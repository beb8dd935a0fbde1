//! Which daemon is asked, and how: the flags and the runtime that all verbs need that ask one.

use std::path::PathBuf;

use picored_core::config::DEFAULT_ADMIN_SOCKET;

use crate::admin::client::ClientError;

/// Where the daemon is, and what its answer shall look like.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Daemon {
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    #[arg(help = format!("The admin socket of the node to ask [default: {DEFAULT_ADMIN_SOCKET}]"))]
    socket: Option<PathBuf>,
    /// Ask the node that runs with this config
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

impl Daemon {
    /// Asks with `question`, which gets the socket's path.
    pub(in crate::cli) fn ask<T>(
        &self,
        question: impl AsyncFnOnce(PathBuf) -> Result<T, ClientError>,
    ) -> anyhow::Result<T> {
        let socket = match (&self.socket, &self.config) {
            (Some(socket), _) => socket.clone(),
            (None, Some(config)) => crate::config_file::read(config)?.node.admin_socket,
            (None, None) => DEFAULT_ADMIN_SOCKET.into(),
        };
        Ok(super::runtime()?.block_on(question(socket))?)
    }
}
