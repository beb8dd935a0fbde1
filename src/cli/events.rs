//! `picored events`: what happened lately on a running node, and what happens.

use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use super::ask::Daemon;
use super::maintenance::duration;
use crate::admin::client;
use crate::driver::wall;
use crate::events::{Happening, Lost, REMEMBERED, Wanted};
use crate::log::printable;

/// Show what happened lately on a running node
///
/// Members and applications that come and go, this node's own checks that changed their verdict, how handlers' runs
/// ended, and sets that were held because nothing is up. Of those the last 128 since the start of the node; with --since
/// also what its history on the disk has, which is the last megabyte or two.
///
/// With --json: one object a line, with `number`, `time`, `kind` and what else there is to say of that kind. A reader
/// that is too slow finds {"lost": N} in place of what it missed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored events\n  picored events --since 1h --kind app-down --kind app-up\n  picored events --follow --json | jq -c 'select(.kind == \
                        \"ended\" and .outcome != \"done\")'\n  curl -N --unix-socket /run/picored/picored.sock \
                        'http://picored/v1/events?follow'"
)]
pub(super) struct Args {
    /// Go on with what happens, until the daemon ends or Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Begin so long ago, such as 1h or 2d
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    /// Show this kind alone, such as app-down; may be given more than once
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    #[command(flatten)]
    daemon: Daemon,
}

const _: () = assert!(REMEMBERED == 128, "the help says so");

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let json = args.daemon.json;
    let mut failure = None;
    let wanted = Wanted { follow: args.follow, since: args.since.map(ago), kinds: args.kinds.clone() };
    let take = |line: &str| {
        let line = if json { line.to_owned() } else { text(line) };
        let mut out = io::stdout().lock();
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    args.daemon.ask(async |socket| client::events(&socket, &wanted, take).await)?;
    match failure {
        // A reader that has gone has had enough.
        Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The time of day so long ago, as happenings have it.
pub(super) fn ago(long: Duration) -> String {
    wall().before(long).rfc3339()
}

/// One line for people.
fn text(line: &str) -> String {
    if let Ok(Lost { lost }) = serde_json::from_str(line) {
        return format!("... {lost} lost: this reader was too slow ...");
    }
    let Ok(happening) = serde_json::from_str::<Happening>(line) else {
        return printable(line).into_owned();
    };
    self::happening(happening)
}

/// Something that happened, in one line for people.
pub(super) fn happening(happening: Happening) -> String {
    let Happening { time, kind, app, member, state, handler, event, attempt, outcome, ended_as, run_ms, text, .. } =
        happening;
    let mut words = vec![time, format!("{kind:<11}")];
    words.extend(handler);
    words.extend(app);
    words.extend(member.map(|member| format!("on {member}")));
    words.extend(state);
    words.extend(event.map(|event| format!("({event})")));
    let mut said: Vec<String> = outcome.clone().into_iter().collect();
    said.extend(ended_as.filter(|end| outcome.as_ref() != Some(end)));
    said.extend(run_ms.map(|ms| format!("in {ms:.1} ms")));
    said.extend(attempt.filter(|attempt| *attempt > 1).map(|attempt| format!("try {attempt}")));
    said.extend(text.filter(|text| !text.is_empty()));
    let line = if said.is_empty() { words.join(" ") } else { format!("{}: {}", words.join(" "), said.join(", ")) };
    printable(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people() {
        for (json, expected) in [
            (
                r#"{"number":1,"time":"T","kind":"app-down","id":"x","app":"www","member":"web2"}"#,
                "T app-down    www on web2",
            ),
            (
                r#"{"number":2,"time":"T","kind":"ended","app":"www","handler":"dns","event":"app-down","attempt":2,
                "outcome":"retry","ended_as":"cpu","changed":false,"run_ms":12.34,"text":"too\nlong"}"#,
                "T ended       dns www (app-down): retry, cpu, in 12.3 ms, try 2, too\\nlong",
            ),
            (
                r#"{"number":3,"time":"T","kind":"ended","handler":"dns","event":"reconcile","outcome":"done",
                "ended_as":"done","run_ms":1.0,"text":""}"#,
                "T ended       dns (reconcile): done, in 1.0 ms",
            ),
            (r#"{"lost":7}"#, "... 7 lost: this reader was too slow ..."),
        ] {
            assert_eq!(text(json), expected);
        }
    }
}
