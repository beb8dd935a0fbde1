//! `picored status`: what one node is doing, what its handlers did last, and what it costs.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::process::ExitCode;

use picored_core::status::{HandlerStatus, HoldStatus, LastUpgrade, OperatorHoldStatus};

use super::ask::Daemon;
use crate::admin::{NodeStatus, client};
use crate::log::printable;

/// Show what a running node is doing
///
/// With --json: one object with `version`, `pid`, `node`, `cluster`, `state`, `members`, `quorum`, `known_size`, `holds`,
/// `receipts` (what was published last), `handlers`, `datagrams`, `resident_bytes` and `anonymous_bytes` (null where the
/// system does not tell).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored status\n  picored status --json | jq '.handlers[] | {name, state, \
                        last}'\n  curl --unix-socket /run/picored/picored.sock http://picored/v1/status")]
pub(super) struct Args {
    #[command(flatten)]
    daemon: Daemon,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let status = args.daemon.ask(async |socket| client::status(&socket).await)?;
    if args.daemon.json {
        super::print_json(&status)?;
    } else {
        super::print(&text(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(node: &NodeStatus) -> String {
    let status = &node.status;
    let mut states = BTreeMap::new();
    for member in &status.members {
        *states.entry(&member.state).or_insert(0) += 1;
    }
    let rows = [
        ("node", format!("{} of cluster {}, {}", status.node, status.cluster, status.state)),
        ("process", format!("{}, picored {}", node.pid, node.version)),
        ("memory", format!("{} resident, {} anonymous", size(node.resident_bytes), size(node.anonymous_bytes))),
        ("members", counts(&states)),
        ("quorum", format!("{}, of {} known", if status.quorum { "seen" } else { "not seen" }, status.known_size)),
        ("datagrams", counts(&status.datagrams)),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        writeln!(text, "{name:<10} {}", printable(&value)).expect("a string takes all text");
    }
    for HoldStatus { app, member, reason } in &status.holds {
        writeln!(text, "held       {}", printable(&format!("{app} on {member}: {reason}")))
            .expect("a string takes all text");
    }
    for OperatorHoldStatus { name, node, until } in &status.operator_holds {
        let until = until.as_ref().map_or_else(String::new, |time| format!(" until {time}"));
        writeln!(text, "held       {}", printable(&format!("{name} by an operator on {node}{until}")))
            .expect("a string takes all text");
    }
    if !status.handlers.is_empty() {
        text.push('\n');
        text += &super::table(
            ["HANDLER", "SOURCE", "VERSION", "STATE", "PENDING", "ENDED", "LAST RUN"],
            status.handlers.iter().map(handler),
        );
        for handler in &status.handlers {
            for odd in &handler.mismatches {
                let (name, node, differs) = (&handler.name, &odd.node, &odd.differs);
                let line =
                    format!("config-mismatch: {node} does not run {name}, its {differs} differs from most nodes'");
                writeln!(text, "{}", printable(&line)).expect("a string takes all text");
            }
            for failing in &handler.failing {
                let line = super::why::stands_in(&handler.name, failing);
                writeln!(text, "{}", printable(&line)).expect("a string takes all text");
            }
        }
    }
    text
}

fn handler(handler: &HandlerStatus) -> [String; 7] {
    let last = handler.last.as_ref().map_or_else(
        || "-".into(),
        |last| {
            format!(
                "{} {} {}: {} in {:.1} ms, try {}: {}",
                last.time, last.event, last.scope, last.outcome, last.run_ms, last.attempt, last.text
            )
        },
    );
    let state = match handler.missing.len() {
        0 => handler.state.clone(),
        missing => format!("{}, {missing} not granted (see `picored handler list`)", handler.state),
    };
    [
        handler.name.clone(),
        handler.source.clone(),
        version(handler),
        state,
        handler.pending.to_string(),
        counts(&handler.outcomes),
        last,
    ]
}

/// What runs, and what became of the last upgrade.
fn version(handler: &HandlerStatus) -> String {
    // Enough of the digest to tell the versions of one handler apart.
    let mut text: String =
        handler.version.as_ref().map_or_else(|| "-".into(), |digest| digest.chars().take(12).collect());
    if handler.watched {
        text += ", unpinned";
    }
    if let Some(LastUpgrade { outcome, reason, time }) = &handler.upgrade {
        text.extend([", ", outcome, " ", time]);
        if !reason.is_empty() {
            text.extend([": ", reason]);
        }
    }
    text
}

/// `2 alive, 1 down`
fn counts<K: Display, V: Display>(counts: &BTreeMap<K, V>) -> String {
    if counts.is_empty() {
        return "none".into();
    }
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

fn size(bytes: Option<u64>) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a tenth of a MiB is shown")]
    bytes.map_or_else(|| "unknown".into(), |bytes| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)))
}
