//! `picored handler`: what concerns one handler or all of them; a verb is a file here too.

mod inspect;
mod list;
mod run;

use std::process::ExitCode;

use clap::Subcommand;

/// Look at components, and at the handlers of a running node
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(list::Args),
    Inspect(inspect::Args),
    Run(run::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::List(args) => list::run(args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Run(args) => run::run(args),
    }
}

/// Lines of a config, under something that needs them.
fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("      {line}\n")).collect()
}
