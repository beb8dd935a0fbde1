//! `picored handler rollback`: the component before the last upgrade, for a handler of a running node.

use std::process::ExitCode;

use picored_core::name::HandlerName;

use crate::admin::client;
use crate::cli::ask::Daemon;

/// Have a handler of a running node run the component from before its last upgrade
///
/// One component before is kept; once more goes back to what the config's source holds. With --json: an object with
/// `handler`, `version` and `before`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  picored handler rollback dns")]
pub(super) struct Args {
    /// The handler's name in the config
    name: HandlerName,
    #[command(flatten)]
    daemon: Daemon,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let change = args.daemon.ask(async |socket| client::rollback(&socket, &args.name).await)?;
    if args.daemon.json {
        crate::cli::print_json(&change)?;
    } else {
        crate::cli::print(&super::changed(&change))?;
    }
    Ok(ExitCode::SUCCESS)
}
