//! `picored forget`: a member that is down counts no more.

use std::process::ExitCode;

use picored_core::name::NodeName;

use super::ask::Daemon;
use crate::admin::client;

/// Have the cluster forget a member that is down
///
/// A member that is down still counts for the majority without which nobody is taken out of a record; by itself it is
/// forgotten after 72 hours. What it had goes from every set at once. Should it return, it is a member again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  picored members && picored forget web3")]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
    /// The member, as `picored members` names it
    member: NodeName,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let answer = args.daemon.ask(async |socket| client::forget(&socket, &args.member).await)?;
    if args.daemon.json {
        super::print_json(&answer)?;
    } else {
        super::print(&format!("{} is forgotten\n", answer.member))?;
    }
    Ok(ExitCode::SUCCESS)
}
