//! `picored members`: who is in the cluster, as one node sees it.

use std::process::ExitCode;

use picored_core::status::{AppStatus, MemberStatus};

use super::ask::Daemon;
use crate::admin::client;

/// List the members that a running node knows
///
/// With --json: an array of objects with `name`, `address`, `state`, `generation` and `apps`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored members\n  picored members --json | jq -r '.[] | select(.state == \
                        \"alive\") | .name'\n  curl --unix-socket /run/picored/picored.sock http://picored/v1/members")]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let members = args.daemon.ask(async |socket| client::members(&socket).await)?;
    if args.daemon.json {
        super::print_json(&members)?;
    } else {
        super::print(&table(&members))?;
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

fn app(app: &AppStatus) -> String {
    let publish: Vec<_> = app.publish.iter().map(ToString::to_string).collect();
    format!("{} {} ({})", app.name, app.state, publish.join(" "))
}
