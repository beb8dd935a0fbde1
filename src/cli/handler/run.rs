//! `picored handler run`: tells a handler of a running node something, once.

use std::process::ExitCode;

use picored_core::event::EventKind;
use picored_core::name::{AppName, HandlerName};
use picored_core::status::RecordedRequest;

use crate::admin::{HandlerRun, client};
use crate::cli::ask::Daemon;
use crate::log::printable;

/// Run a handler of a running node once, against the live view
///
/// A real run stands in line with the deliveries of its scope and never overlaps with one; it has to be asked for on the
/// node that runs the scope. It is an ordinary delivery: if it fails, it is tried again as the handler says.
///
/// With --dry-run nothing that writes leaves this machine, and any node can be asked: requests that read (GET, HEAD,
/// OPTIONS) are sent, as what would be written depends on them; all others are printed instead, and the handler is told
/// that they succeeded (204, without a body). What it stores in wasi:keyvalue is dropped.
///
/// With --json: an object with `handler`, `event`, `scope`, `delivery`, `outcome`, `ended_as`, `changed`, `text`, `run_ms` and
/// `requests`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored handler run dns --dry-run\n  picored handler run dns --app www --event \
                        app-down\n\nExit code 1 if the run did not end as done.")]
pub(super) struct Args {
    /// The handler
    name: HandlerName,
    /// What it is told of; no member is named
    #[arg(long, value_name = "KIND", default_value = "reconcile")]
    event: EventKind,
    /// About which application; may be left out where the handler sees one only
    #[arg(long, value_name = "NAME")]
    app: Option<AppName>,
    /// Print what would be written instead of writing it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    daemon: Daemon,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { name, event, app, dry_run, daemon } = args;
    let ran = daemon.ask(async |socket| client::run(&socket, name, *event, app.as_ref(), *dry_run).await)?;
    if daemon.json {
        crate::cli::print_json(&ran)?;
    } else {
        crate::cli::print(&text(&ran, *dry_run))?;
    }
    Ok(if ran.ended_as.as_deref() == Some("done") { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(run: &HandlerRun, dry_run: bool) -> String {
    let mut text: String = run.requests.iter().map(request).collect();
    let line = match (&run.ended_as, &run.outcome) {
        (Some(end), outcome) => {
            let retry = outcome.as_deref() == Some("retry");
            let again = if retry && end != "retry" { ", and will be tried again" } else { "" };
            format!("{end} in {:.1} ms{again}: {}", run.run_ms, run.text)
        }
        (None, outcome) => format!("did not run: {}", outcome.as_deref().unwrap_or("no reason given")),
    };
    let mode = if dry_run { "dry run of " } else { "" };
    text += &format!("{mode}{} for {} ({}): {}\n", run.handler, run.scope, run.event, printable(&line));
    text
}

fn request(request: &RecordedRequest) -> String {
    let RecordedRequest { method, url, body, body_bytes, sent, answer } = request;
    let fate = match (sent, answer.parse::<u16>()) {
        (true, _) => "sent",
        (false, Ok(_)) => "not sent",
        (false, Err(_)) => "refused",
    };
    let mut text = format!("{fate}: {} {} -> {}\n", printable(method), printable(url), printable(answer));
    if *body_bytes > 0 {
        let more = body_bytes.saturating_sub(body.len());
        let more = if more > 0 { format!(" ... and {more} bytes more") } else { String::new() };
        text += &format!("    {}{more}\n", printable(body));
    }
    text
}
