//! `picored deliveries`: what runs, waits or was given up on a running node.

use std::process::ExitCode;

use picored_core::ledger::DEAD_LETTERS;
use picored_core::status::DeliveryStatus;

use super::ask::Daemon;
use crate::admin::{Deliveries, client};

/// Show the deliveries of a running node that run, wait or were given up
///
/// What failed waits for its next try, also over a restart. After ten tries, or when the handler says that it cannot be
/// done, a delivery is given up: it is dead. Of these the newest 32 of each handler are kept for 72 hours.
///
/// With --json: an array of objects with `delivery`, `handler`, `scope`, `event`, `event_id`, `member`, `state` (`running`
/// or `waiting`; with --dead `dead` or `permanent`), `attempt`, `time` (since when it runs or when it is due, or when it
/// was given up) and `last` (how the try before ended).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored deliveries\n  picored deliveries --dead --json | jq -r \
                        '.[].delivery'")]
pub(super) struct Args {
    /// Those that were given up: see `picored redeliver`
    #[arg(long)]
    dead: bool,
    #[command(flatten)]
    daemon: Daemon,
}

const _: () = assert!(DEAD_LETTERS == 32, "the help says so");

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let answer = args.daemon.ask(async |socket| client::deliveries(&socket).await)?;
    if args.daemon.json {
        super::print_json(if args.dead { &answer.dead } else { &answer.pending })?;
    } else {
        super::print(&text(&answer, args.dead))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(Deliveries { pending, dead }: &Deliveries, of_dead: bool) -> String {
    let shown = if of_dead { dead } else { pending };
    let time = if of_dead { "GIVEN UP" } else { "SINCE OR DUE" };
    let mut text =
        super::table(["DELIVERY", "SCOPE", "EVENT", "STATE", "TRY", time, "LAST END"], shown.iter().map(row));
    if !of_dead && !dead.is_empty() {
        text += &format!("\n{} given up: see `picored deliveries --dead`\n", dead.len());
    }
    text
}

fn row(delivery: &DeliveryStatus) -> [String; 7] {
    let DeliveryStatus { delivery, scope, event, state, attempt, time, last, .. } = delivery.clone();
    let last = last.map_or_else(|| "-".into(), |last| format!("{}: {}", last.ended_as, last.text));
    [delivery, scope, event, state, attempt.to_string(), time, last]
}

#[cfg(test)]
mod tests {
    use picored_core::letter::LastEnd;

    use super::*;

    #[test]
    fn what_was_given_up_is_pointed_to() {
        let last = LastEnd { ended_as: "retry".into(), text: "busy".into() };
        let delivery = DeliveryStatus {
            delivery: "dns/3".into(),
            handler: "dns".into(),
            scope: "www".into(),
            event: "app-down".into(),
            event_id: "e".into(),
            member: None,
            state: "waiting".into(),
            attempt: 2,
            time: "T".into(),
            last: Some(last),
        };
        let dead = DeliveryStatus { state: "dead".into(), attempt: 10, ..delivery.clone() };
        let all = Deliveries { pending: vec![delivery], dead: vec![dead] };
        assert_eq!(
            text(&all, false),
            "DELIVERY  SCOPE  EVENT     STATE    TRY  SINCE OR DUE  LAST END\n\
             dns/3     www    app-down  waiting  2    T             retry: busy\n\n\
             1 given up: see `picored deliveries --dead`\n"
        );
        assert!(text(&all, true).ends_with("\ndns/3     www    app-down  dead   10   T         retry: busy\n"));
    }
}
