//! `picored handler`: what concerns one handler or all of them; a verb is a file here too.

mod inspect;
mod list;
mod rollback;
mod run;
mod upgrade;

use std::process::ExitCode;

use clap::Subcommand;

use crate::admin::HandlerChange;

/// Look at components, and at the handlers of a running node
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(list::Args),
    Upgrade(upgrade::Args),
    Rollback(rollback::Args),
    Inspect(inspect::Args),
    Run(run::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::List(args) => list::run(args),
        Verb::Upgrade(args) => upgrade::run(args),
        Verb::Rollback(args) => rollback::run(args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Run(args) => run::run(args),
    }
}

/// What runs now, in a line.
fn changed(change: &HandlerChange) -> String {
    let HandlerChange { handler, version, before } = change;
    match before {
        Some(before) if before == version => format!("{handler} runs {version} already\n"),
        Some(before) => format!("{handler} runs {version}, until now {before}\n"),
        None => format!("{handler} runs {version}, until now nothing\n"),
    }
}

/// Lines of a config, under something that needs them.
fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("      {line}\n")).collect()
}
