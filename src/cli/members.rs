//! `picored members`: who is in the cluster, as one node sees it.

use std::process::ExitCode;

use picored_core::status::{AppStatus, MemberStatus};

use super::ask::Daemon;
use crate::admin::client;
use crate::log::printable;

/// List the members that a running node knows
///
/// With --verbose also why a member is suspected or down: by whom, since when and by which probe, as far as this node
/// knows.
///
/// With --json: an array of objects with `name`, `address`, `state`, `generation`, `apps`, and `evidence` where there is
/// any.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored members\n  picored members --verbose\n  picored members --json | jq -r '.[] | select(.state == \
                        \"alive\") | .name'\n  curl --unix-socket /run/picored/picored.sock http://picored/v1/members"
)]
pub(super) struct Args {
    /// Say why members are suspected or down
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    daemon: Daemon,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let members = args.daemon.ask(async |socket| client::members(&socket).await)?;
    if args.daemon.json {
        super::print_json(&members)?;
    } else {
        super::print(&table(&members))?;
        if args.verbose {
            super::print(&reasons(&members))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(members: &[MemberStatus]) -> String {
    let rows = members.iter().map(|member| {
        let apps = member.apps.iter().map(app).collect::<Vec<_>>().join(", ");
        [member.name.clone(), member.address.clone(), member.state.clone(), member.generation.to_string(), apps]
    });
    super::table(["NAME", "ADDRESS", "STATE", "GENERATION", "APPS"], rows)
}

/// A line for each member against which something is held.
fn reasons(members: &[MemberStatus]) -> String {
    let lines = members.iter().filter_map(|it| Some(format!("{} {}: {}", it.name, it.state, it.evidence.as_ref()?)));
    lines.map(|line| printable(&line).into_owned() + "\n").collect()
}

fn app(app: &AppStatus) -> String {
    let publish: Vec<_> = app.publish.iter().map(ToString::to_string).collect();
    format!("{} {} ({})", app.name, app.state, publish.join(" "))
}
