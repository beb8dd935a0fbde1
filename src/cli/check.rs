//! `picored check`: reads a config as the daemon would, with the files that it names, and changes nothing.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use picored_core::config::Config;

use crate::check::Prober;
use crate::handler::{self, Secrets};
use crate::store::{self, StateDir};

/// Read a config as the daemon would, and say all that is wrong with it
///
/// Looks at the files that the config names as well (the key, CA certificates, handlers from files, the state
/// directory), so run it as the user that the daemon runs as. Changes nothing, and a running daemon does not mind.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  picored check --config picored.toml && systemctl restart picored")]
pub(super) struct Args {
    /// The config to check
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = crate::config_file::read(&args.config)?;
    let problems = surroundings(&config);
    if !problems.is_empty() {
        bail!("the config {} is well formed but cannot be used\n{}", args.config.display(), problems.join("\n"));
    }
    if let Some(advice) = config.advice() {
        let _ = writeln!(std::io::stderr(), "warning: {advice}");
    }
    super::print(&summary(&config))?;
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with the files around a config that is good in itself.
fn surroundings(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(error) = StateDir::check(&config.node.state_dir) {
        problems.push(error.to_string());
    }
    if let Some(path) = &config.cluster.key_file
        && let Err(error) = store::read_key(path)
    {
        problems.push(error.to_string());
    }
    match Secrets::read(&config.secrets, &config.handlers) {
        Ok(secrets) => {
            for warning in secrets.warnings() {
                // Who closed standard error does not want to know.
                let _ = writeln!(std::io::stderr(), "warning: {warning}");
            }
        }
        Err(errors) => problems.extend(errors.iter().map(ToString::to_string)),
    }
    if let Err(errors) = Prober::new(&config.apps, Arc::default()) {
        problems.extend(errors.iter().map(ToString::to_string));
    }
    for declared in &config.handlers {
        if let Err(error) = handler::look(&declared.source) {
            problems.push(format!("handler {}: {error}", declared.name));
        }
    }
    problems
}

fn summary(config: &Config) -> String {
    let count = |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    format!(
        "ok: node {} of cluster {}, {}, {}, {}\n",
        config.node.name,
        config.cluster.name,
        count(config.cluster.seeds.len(), "seed"),
        count(config.apps.len(), "app"),
        count(config.handlers.len(), "handler"),
    )
}
