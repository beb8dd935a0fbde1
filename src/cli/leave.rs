//! `picored leave`: this node takes its applications out of what is published, waits for its visitors to go, and stops.

use std::process::ExitCode;
use std::time::Duration;

use super::ask::Daemon;
use crate::admin::Leaving;
use crate::admin::client::{self, ClientError};

/// How often it is looked whether the node has gone.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Take this node out of its cluster without sending anybody to a server that is gone, and stop it
///
/// Its applications leave what handlers publish, as in maintenance. When that is done the node waits for as long as
/// resolvers may remember the record (`drain_wait` in [node], 60 s), and stops. The command ends when it has stopped; the
/// website on this machine can be stopped then.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored leave && systemctl stop nginx\n  picored leave --now")]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
    /// Wait for nothing but the other members, at most three seconds, as on SIGTERM
    #[arg(long)]
    now: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.daemon
        .ask(async |socket| {
            let answer = client::leave(&socket, args.now).await?;
            if !args.daemon.json {
                print(&answer);
            }
            // It ends the connection, or the socket is not there any more: it has gone.
            while client::status(&socket).await.is_ok() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok::<_, ClientError>(answer)
        })
        .and_then(|answer| {
            if args.daemon.json {
                super::print_json(&answer)
            } else {
                super::print(&format!("{} has left\n", answer.node))
            }
        })?;
    Ok(ExitCode::SUCCESS)
}

fn print(answer: &Leaving) {
    for app in &answer.kept {
        // Who reads may have gone; the node leaves all the same.
        let _ = super::print(&format!("{app} is up nowhere else, so its addresses stay published\n"));
    }
    if let Some(wait) = answer.drain_wait_ms {
        let wait = Duration::from_millis(wait);
        let _ = super::print(&format!("{} is draining: it leaves {wait:?} after its addresses\n", answer.node));
    }
}
