//! `picored beat`: an application says that it is well, or that it is not.

use std::process::ExitCode;

use picored_core::name::AppName;

use super::ask::Daemon;
use crate::admin::client;

/// Say that an application of this node is well, or that it fails
///
/// For applications with a `ttl` in their check: such a one is up while this is said at least once in that time, and down
/// when it is late or fails. Says nothing itself when all is well, so that cron has no mail to send.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored beat backup\n  picored beat queue --fail --reason \"4012 messages wait\"\n  \
                        /usr/local/bin/work && picored beat work || picored beat work --fail"
)]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
    /// The application
    app: AppName,
    /// It fails: it is down at once, until it beats again
    #[arg(long)]
    fail: bool,
    /// Why it fails, for people; the first 200 characters
    #[arg(long, value_name = "TEXT", requires = "fail")]
    reason: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let beaten =
        args.daemon.ask(async |socket| client::beat(&socket, &args.app, args.fail, args.reason.as_deref()).await)?;
    if args.daemon.json {
        super::print_json(&beaten)?;
    }
    Ok(ExitCode::SUCCESS)
}
