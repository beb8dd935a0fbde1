//! `picored handler list`: the handlers of a running node, how they are, and what they are not granted.

use std::process::ExitCode;

use picored_core::status::HandlerStatus;

use crate::admin::client;
use crate::cli::ask::Daemon;
use crate::log::printable;

/// List the handlers of a running node
///
/// Below the table stands what a handler asks for and is not granted, with the lines that would grant it. With --json: an
/// array of objects as `picored status --json` has them in `handlers`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored handler list\n  picored handler list --json | jq -r '.[] | \
                        select(.missing != []) | .name'")]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let handlers = args.daemon.ask(async |socket| client::handlers(&socket).await)?;
    if args.daemon.json {
        crate::cli::print_json(&handlers)?;
    } else {
        crate::cli::print(&text(&handlers))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(handlers: &[HandlerStatus]) -> String {
    let mut text = crate::cli::table(["HANDLER", "SOURCE", "STATE", "MISSING", "LAST RUN"], handlers.iter().map(row));
    for handler in handlers.iter().filter(|handler| !handler.missing.is_empty()) {
        text += &format!("\n{} asks for what it is not granted:\n", printable(&handler.name));
        for missing in &handler.missing {
            text += &format!("  {}\n{}", printable(&missing.ask), super::indented(&missing.remedy));
        }
    }
    text
}

fn row(handler: &HandlerStatus) -> [String; 5] {
    let last = handler.last.as_ref().map_or_else(|| "-".into(), |last| format!("{}: {}", last.outcome, last.text));
    let missing = if handler.missing.is_empty() { "-".to_owned() } else { handler.missing.len().to_string() };
    [handler.name.clone(), handler.source.clone(), handler.state.clone(), missing, last]
}
