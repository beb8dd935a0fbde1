//! `picored maintenance`: an operator takes this node's applications out of what is published, and back in.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use picored_core::config::parse_duration;
use picored_core::name::AppName;

use super::ask::Daemon;
use crate::admin::Maintained;
use crate::admin::client::{self, ClientError};

/// Take this node's applications out of what is published, or back in
///
/// Whatever their checks say, applications in maintenance are in no set that handlers publish, unless they are up nowhere
/// else. It takes effect at once, and outlives a restart. With --wait the command ends when nobody is sent here any more:
/// the receipts of all handlers are without this node, and resolvers have forgotten the record.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored maintenance on www --for 1h\n  picored maintenance on --wait && systemctl restart \
                        nginx\n  picored maintenance off"
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
    /// Wait until nothing of it is published, at most 30 s, and then for the record's time to live: 60s if left out
    #[arg(long, value_name = "TIME", value_parser = duration, num_args = 0..=1, default_missing_value = "60s")]
    wait: Option<Duration>,
}

/// So long the receipts are waited for.
const RECEIPTS_AT_MOST: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    let limit = parse_duration(text).filter(|limit| !limit.is_zero());
    limit.ok_or("write whole numbers with d, h, m, s or ms, the longer unit first: 1h30m")
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.switch == Switch::Off && args.limit.is_some() {
        anyhow::bail!("--for says when maintenance ends: leave it out with `off`");
    }
    if args.switch == Switch::Off && args.wait.is_some() {
        anyhow::bail!("--wait is for those who are sent here no more: leave it out with `off`");
    }
    let on = args.switch == Switch::On;
    let ask = async |socket: std::path::PathBuf| client::maintenance(&socket, args.app.as_ref(), on, args.limit).await;
    let answer = args.daemon.ask(ask)?;
    if let Some(wait) = args.wait {
        let apps: Vec<_> = answer.iter().filter(|it| !it.kept).map(|it| it.app.as_str()).collect();
        args.daemon.ask(async |socket| wait_until_gone(&socket, &apps, wait).await)??;
    }
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

/// Waits until no receipt has this node for `apps`, and then for as long as the record may be remembered.
async fn wait_until_gone(socket: &Path, apps: &[&str], wait: Duration) -> Result<anyhow::Result<()>, ClientError> {
    let deadline = Instant::now() + RECEIPTS_AT_MOST;
    loop {
        let status = client::status(socket).await?.status;
        let still = status
            .receipts
            .iter()
            .find(|receipt| apps.contains(&receipt.app.as_str()) && receipt.published.contains(&status.node));
        let Some(receipt) = still else { break };
        if Instant::now() >= deadline {
            let (handler, app, node) = (&receipt.handler, &receipt.app, &receipt.node);
            return Ok(Err(anyhow::anyhow!(
                "{app} is in maintenance, but {handler} on {node} still publishes it here: see `picored why {app}`"
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tokio::time::sleep(wait).await;
    Ok(Ok(()))
}
