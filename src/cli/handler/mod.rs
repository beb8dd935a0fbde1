//! `picored handler`: what concerns one handler or all of them; a verb is a file here too.

mod list;

use std::process::ExitCode;

use clap::Subcommand;

/// Look at handlers and components
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(list::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::List(args) => list::run(args),
    }
}
