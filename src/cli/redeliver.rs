//! `picored redeliver`: a delivery that was given up is tried again.

use std::process::ExitCode;

use picored_core::event::DeliveryId;

use super::ask::Daemon;
use crate::admin::client;

/// Put a delivery that was given up in line again
///
/// It is tried as often as a new one. How it ends, `picored events` tells. It is refused while a newer delivery waits for
/// the same application: that one writes all that is wanted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  picored deliveries --dead && picored redeliver dns/12")]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
    /// The delivery, as `picored deliveries --dead` names it
    #[arg(value_name = "ID")]
    delivery: DeliveryId,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let answer = args.daemon.ask(async |socket| client::redeliver(&socket, &args.delivery).await)?;
    if args.daemon.json {
        super::print_json(&answer)?;
    } else {
        super::print(&format!("{} is in line again for {}\n", answer.delivery, answer.scope))?;
    }
    Ok(ExitCode::SUCCESS)
}
