//! `picored hold` and `picored release`: what fails is not taken out as long as an operator says so.

use std::process::ExitCode;
use std::time::Duration;

use picored_core::name::HoldName;

use super::ask::Daemon;
use super::maintenance::duration;
use crate::admin::Held;
use crate::admin::client;

/// Keep an application, or a member, in what is published, though it fails
///
/// No node of the cluster takes it out because of a check or a failure, until it is released on this node or the time is
/// over; a restart does not end it. What is wanted out goes all the same: maintenance, a leave, `picored forget`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored hold www --for 2h    all addresses of the application\n  picored hold web3           \
                        those of one member\n  picored release www"
)]
pub(super) struct HoldArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// The application, or the member
    name: HoldName,
    /// End by itself after this time, such as 30m or 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    limit: Option<Duration>,
}

/// End what `picored hold` began
///
/// On the node where it was said. What fails then is taken out by the rules that always hold.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  picored status && picored release www")]
pub(super) struct ReleaseArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// The application, or the member
    name: HoldName,
}

pub(super) fn hold(args: &HoldArgs) -> anyhow::Result<ExitCode> {
    let answer = args.daemon.ask(async |socket| client::hold(&socket, &args.name, args.limit).await)?;
    tell(&args.daemon, &answer)
}

pub(super) fn release(args: &ReleaseArgs) -> anyhow::Result<ExitCode> {
    let answer = args.daemon.ask(async |socket| client::release(&socket, &args.name).await)?;
    tell(&args.daemon, &answer)
}

fn tell(daemon: &Daemon, held: &[Held]) -> anyhow::Result<ExitCode> {
    if daemon.json {
        super::print_json(&held)?;
        return Ok(ExitCode::SUCCESS);
    }
    let line = |Held { name, until }: &Held| match until {
        Some(until) => format!("{name} is held until {until}\n"),
        None => format!("{name} is held until `picored release {name}`\n"),
    };
    let text: String = held.iter().map(line).collect();
    super::print(if text.is_empty() { "nothing is held on this node\n" } else { &text })?;
    Ok(ExitCode::SUCCESS)
}
