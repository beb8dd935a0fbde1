//! `picored handler list`: the handlers of a running node, and how they are.

use std::process::ExitCode;

use picored_core::status::HandlerStatus;

use crate::admin::client;
use crate::cli::ask::Daemon;

/// List the handlers of a running node
///
/// With --json: an array of objects as `picored status --json` has them in `handlers`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored handler list\n  picored handler list --json | jq -r '.[] | \
                        select(.state != \"ready\") | .name'")]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let status = args.daemon.ask(async |socket| client::status(&socket).await)?;
    let handlers = &status.status.handlers;
    if args.daemon.json {
        crate::cli::print_json(handlers)?;
    } else {
        crate::cli::print(&crate::cli::table(["HANDLER", "SOURCE", "STATE", "LAST"], handlers.iter().map(row)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(handler: &HandlerStatus) -> [String; 4] {
    let last = handler.last.as_ref().map_or_else(|| "-".into(), |last| format!("{} {}", last.outcome, last.text));
    [handler.name.clone(), handler.source.clone(), handler.state.clone(), last]
}
