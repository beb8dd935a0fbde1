//! `picored reload`: a running daemon reads its config anew, or says what that would change.

use std::process::ExitCode;

use anyhow::bail;

use super::ask::Daemon;
use crate::admin::{Reloaded, client};

/// Have a running node read its config anew
///
/// The daemon reads the file that it was started with, compares, and loads all handlers that are new or have changed
/// before it touches anything: a file that cannot be used changes nothing, nor does one with a key that only a restart
/// can take in. SIGHUP does the same without an answer. Exit code 0: it was taken in, or with --dry-run could be; 1: it
/// was refused. With --json: one object with `applied`, `restart` and `changes`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored reload --dry-run\n  picored reload\n  picored reload --json | jq -r \
                        '.changes[] | [.what, .name, .change] | @tsv'")]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
    /// Only say what would change, and whether it can
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let answer = args.daemon.ask(async |socket| client::reload(&socket, args.dry_run).await)?;
    if args.daemon.json {
        super::print_json(&answer)?;
    } else {
        super::print(&text(&answer))?;
    }
    if answer.plan.needs_restart() {
        bail!("this config would be refused: restart the node, or take back {}", answer.plan.restart.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(Reloaded { applied, plan }: &Reloaded) -> String {
    let plan_text: Vec<_> = plan.to_string().lines().map(|line| crate::log::printable(line).into_owned()).collect();
    let end = match (applied, plan.is_empty()) {
        (_, true) => "",
        (true, false) => "\napplied",
        (false, false) => "\nnothing was applied",
    };
    plan_text.join("\n") + end + "\n"
}
