//! `picored run`: the daemon in the foreground, its log on standard output.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::log;

/// Run this machine's node until it is told to stop
///
/// Stays in the foreground and logs to standard output. SIGTERM or SIGINT (Ctrl-C) makes it leave the cluster and end.
/// Paths in the config are relative to the current directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  picored run --config /etc/picored.toml --log-format json")]
pub(super) struct Args {
    /// The node's config
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How the log looks
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: log::Format,
    /// The least severe events that are logged
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    log_level: log::MinLevel,
}

#[inline(never)]
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = crate::config_file::read(&args.config)?;
    log::init(args.log_format, args.log_level)?;
    crate::memory::forbid_core_dumps();
    crate::memory::prepare();
    let runtime = super::runtime()?;
    let ended = runtime.block_on(crate::daemon::run(config, args.config));
    // A lookup that still waits for its resolver shall not hold up the end.
    runtime.shutdown_background();
    if args.log_format == log::Format::Json {
        // Who collects the log may not collect standard error.
        let _ = ended.as_ref().inspect_err(|error| tracing::error!(error = format!("{error:#}"), "picored has failed"));
    }
    ended.map(|()| ExitCode::SUCCESS)
}
