//! `picored maintenance`: an operator takes this node's applications out of what is published, and back in.

use std::process::ExitCode;
use std::time::Duration;

use picored_core::config::parse_duration;
use picored_core::name::AppName;

use super::ask::Daemon;
use crate::admin::{Maintained, client};

/// Take this node's applications out of what is published, or back in
///
/// Whatever their checks say, applications in maintenance are in no set that handlers publish, unless they are up nowhere
/// else. It takes effect at once, and outlives a restart.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored maintenance on www --for 1h\n  picored maintenance on\n  picored maintenance \
                        off"
)]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
    /// Whether it begins or ends
    #[arg(value_enum)]
    switch: Switch,
    /// The application; all of this node's if left out
    app: Option<AppName>,
    /// End by itself after this time, such as 30m or 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    limit: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let limit = parse_duration(text).filter(|limit| !limit.is_zero());
    limit.ok_or("write whole numbers with d, h, m, s or ms, the longer unit first: 1h30m")
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.switch == Switch::Off && args.limit.is_some() {
        anyhow::bail!("--for says when maintenance ends: leave it out with `off`");
    }
    let on = args.switch == Switch::On;
    let ask = async |socket: std::path::PathBuf| client::maintenance(&socket, args.app.as_ref(), on, args.limit).await;
    let answer = args.daemon.ask(ask)?;
    if args.daemon.json {
        super::print_json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for Maintained { app, until, kept } in &answer {
        let until =
            until.as_ref().map_or_else(|| "until `picored maintenance off`".to_owned(), |time| format!("until {time}"));
        let kept = if *kept { "; it is up nowhere else, so its addresses stay published" } else { "" };
        text += &format!("{app} is in maintenance {until}{kept}\n");
    }
    if answer.is_empty() {
        text += "nothing is in maintenance\n";
    }
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
