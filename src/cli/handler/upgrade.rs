//! `picored handler upgrade`: another component for a handler of a running node.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use picored_core::name::HandlerName;

use crate::admin::client;
use crate::cli::ask::Daemon;
use crate::handler::MAX_COMPONENT_BYTES;

/// Have a handler of a running node run another component
///
/// FILE is sent to the node, checked, compiled and asked to describe itself there, and takes over between two runs. If
/// anything of that fails the old component stays, and the reason is shown. It holds over restarts, until the config's
/// source holds another component. If its first three runs fail where the old one's last worked, the old one takes over
/// again. With --json: an object with `handler`, `version` and `before`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  picored handler upgrade dns ./dns-powerdns.wasm")]
pub(super) struct Args {
    /// The handler's name in the config
    name: HandlerName,
    /// The component
    file: PathBuf,
    #[command(flatten)]
    daemon: Daemon,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let shown = args.file.display();
    let mut component = Vec::new();
    File::open(&args.file)
        .and_then(|file| file.take(MAX_COMPONENT_BYTES + 1).read_to_end(&mut component))
        .with_context(|| format!("cannot read {shown}"))?;
    if component.len() as u64 > MAX_COMPONENT_BYTES {
        bail!("{shown} is larger than {} MiB: is it the right file?", MAX_COMPONENT_BYTES >> 20);
    }
    let change = args.daemon.ask(async |socket| client::upgrade(&socket, &args.name, component).await)?;
    if args.daemon.json {
        crate::cli::print_json(&change)?;
    } else {
        crate::cli::print(&super::changed(&change))?;
    }
    Ok(ExitCode::SUCCESS)
}
