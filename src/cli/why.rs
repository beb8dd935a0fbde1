//! `picored why`: why an application's record is as it is, or what became of a node, from what one node knows.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use picored_core::governor::Hold;
use picored_core::name::NameError;
use picored_core::status::{AppStatus, DeliveryStatus, FailingStatus, HoldStatus, MemberStatus, ReceiptStatus, Status};
use serde::Serialize;

use super::ask::Daemon;
use crate::admin::client;
use crate::events::{Happening, Wanted};
use crate::log::printable;

/// So many things that happened are shown, the newest.
const EVENTS: usize = 20;
/// Nothing older is.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Show why an application's record is as it is, or what became of a node
///
/// For each member that has the application: how it stands and who says so, the gate that holds it published or out of
/// the record, what was published last and by whom, what still waits, and what happened within seven days. All as the node sees it
/// that is asked; who ran a handler remembers the most of its runs.
///
/// With --json: an object with `members` (each with `member`, `state`, `app`, `app_state`, `publish`, `published`, `hold`,
/// `explanation` and `evidence`), `receipts`, `failing`, `deliveries` and `events`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored why www\n  picored why web3\n  picored why www --json | jq '.members[] | \
                        select(.hold)'"
)]
pub(super) struct Args {
    /// An application or a node
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    #[command(flatten)]
    daemon: Daemon,
}

fn name(text: &str) -> Result<String, NameError> {
    picored_core::name::AppName::new(text).map(|_| text.to_owned())
}

/// The answer.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Why {
    members: Vec<Standing>,
    receipts: Vec<ReceiptStatus>,
    /// By handler.
    failing: BTreeMap<String, Vec<FailingStatus>>,
    deliveries: Vec<DeliveryStatus>,
    events: Vec<Happening>,
}

/// An application on a member; or a member that has none.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Standing {
    member: String,
    /// The member's.
    state: String,
    app: Option<String>,
    /// What its owner says of it.
    app_state: Option<String>,
    publish: Vec<String>,
    /// Whether it was in the set that was written last; none if nobody has heard of one.
    published: Option<bool>,
    hold: Option<String>,
    explanation: Option<String>,
    evidence: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut events = Vec::new();
    let wanted = Wanted { since: Some(super::events::ago(LONGEST)), ..Wanted::default() };
    let (status, deliveries) = args.daemon.ask(async |socket| {
        let take = |line: &str| {
            // What was overwritten is no happening.
            events.extend(serde_json::from_str::<Happening>(line).ok().filter(|it| !it.kind.is_empty()));
            ControlFlow::Continue(())
        };
        client::events(&socket, &wanted, take).await?;
        Ok((client::status(&socket).await?.status, client::deliveries(&socket).await?))
    })?;
    let why = Why::of(&args.name, &status, deliveries.pending.into_iter().chain(deliveries.dead), events);
    if why.members.is_empty() {
        let (apps, nodes) = known(&status);
        anyhow::bail!(
            "{} is no application and no node that {} knows: there are {apps}; {nodes}",
            args.name,
            status.node
        );
    }
    if args.daemon.json {
        super::print_json(&why)?;
    } else {
        super::print(&why.text(&status.node))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn known(status: &Status) -> (String, String) {
    let apps = status.members.iter().flat_map(|member| &member.apps).map(|app| app.name.as_str());
    let apps: std::collections::BTreeSet<_> = apps.collect();
    let nodes: Vec<_> = status.members.iter().map(|member| member.name.as_str()).collect();
    (apps.into_iter().collect::<Vec<_>>().join(", "), nodes.join(", "))
}

impl Why {
    fn of(
        name: &str,
        status: &Status,
        deliveries: impl Iterator<Item = DeliveryStatus>,
        events: Vec<Happening>,
    ) -> Self {
        let mut members = Vec::new();
        for member in &status.members {
            let apps = member.apps.iter().filter(|app| app.name == name || member.name == name);
            members.extend(apps.map(|app| Standing::of(member, Some(app), status)));
            if member.apps.is_empty() && member.name == name {
                members.push(Standing::of(member, None, status));
            }
        }
        let has_app = |app: &str| members.iter().any(|it| it.app.as_deref() == Some(app));
        let has_member = |member: &str| members.iter().any(|it| it.member == member);
        let concerns = |event: &Happening| match (&event.app, &event.member) {
            (Some(app), Some(member)) => has_app(app) && has_member(member),
            (Some(app), None) => has_app(app),
            (None, Some(member)) => has_member(member),
            (None, None) => matches!(event.kind.as_str(), "joined" | "cut-off" | "reunited" | "rejoined"),
        };
        let events: Vec<_> = events.into_iter().filter(concerns).collect();
        let receipts = status.receipts.iter().filter(|receipt| has_app(&receipt.app)).cloned().collect();
        let deliveries = deliveries.filter(|delivery| has_app(&delivery.scope)).collect();
        let events = events[events.len().saturating_sub(EVENTS)..].to_vec();
        let failing = status.handlers.iter().map(|handler| {
            let concerns = |it: &&FailingStatus| it.scope.as_ref().is_none_or(|scope| has_app(scope));
            (handler.name.clone(), handler.failing.iter().filter(concerns).cloned().collect::<Vec<_>>())
        });
        let failing = failing.filter(|(_, nodes)| !nodes.is_empty() && !members.is_empty()).collect();
        Self { members, receipts, failing, deliveries, events }
    }

    fn text(&self, asked: &str) -> String {
        let mut text = String::new();
        let mut line = |words: &str| writeln!(text, "{}", printable(words)).expect("a string takes all text");
        for it in &self.members {
            let app = it.app.as_ref().map_or_else(|| "no application".into(), |app| format!("{app} on {}", it.member));
            let published = match it.published {
                Some(true) => "published",
                Some(false) => "not published",
                None => "nobody has told what is published",
            };
            line(&format!("{app} ({}): {published}; {}", it.publish.join(" "), it.reason()));
            if let (Some(hold), Some(explanation)) = (&it.hold, &it.explanation) {
                line(&format!("  held by {hold}: {explanation}"));
            }
            if let Some(evidence) = &it.evidence {
                line(&format!("  {} {}: {evidence}", it.member, it.state));
            }
        }
        for ReceiptStatus { handler, app, node, time, revision, published } in &self.receipts {
            line(&format!("{handler} wrote {app} on {node} at {time}: {} ({revision})", published.join(" ")));
        }
        for (handler, nodes) in &self.failing {
            nodes.iter().for_each(|node| line(&stands_in(handler, node)));
        }
        for DeliveryStatus { delivery, scope, event, state, attempt, time, last, .. } in &self.deliveries {
            let last = last.as_ref().map_or_else(String::new, |last| format!(": {}: {}", last.ended_as, last.text));
            line(&format!("{delivery} for {scope} ({event}) is {state} since or until {time}, try {attempt}{last}"));
        }
        if !self.events.is_empty() {
            line(&format!("\nWhat {asked} saw of it:"));
            self.events.iter().for_each(|event| line(&super::events::happening(event.clone())));
        }
        text
    }
}

/// Why a node is passed over that would run a handler.
pub(super) fn stands_in(handler: &str, FailingStatus { node, scope }: &FailingStatus) -> String {
    let scope = scope.as_ref().map_or_else(String::new, |scope| format!(" for {scope}"));
    format!("failing: {node}'s last run of {handler}{scope} failed, another node stands in for five minutes")
}

impl Standing {
    fn of(member: &MemberStatus, app: Option<&AppStatus>, status: &Status) -> Self {
        let name = app.map(|app| &app.name);
        let hold = status.holds.iter().find(|hold| Some(&hold.app) == name && hold.member == member.name);
        let receipts = status.receipts.iter().filter(|receipt| Some(&receipt.app) == name);
        let newest = receipts.max_by(|a, b| a.time.cmp(&b.time));
        let gate = |hold: &HoldStatus| Hold::ALL.into_iter().find(|it| it.as_str() == hold.reason);
        Self {
            member: member.name.clone(),
            state: member.state.clone(),
            app: name.cloned(),
            app_state: app.map(|app| app.state.clone()),
            publish: app.into_iter().flat_map(|app| &app.publish).map(ToString::to_string).collect(),
            published: newest.map(|receipt| receipt.published.contains(&member.name)),
            hold: hold.map(|hold| hold.reason.clone()),
            explanation: hold.and_then(gate).map(|gate| gate.explanation().into()),
            evidence: member.evidence.as_ref().map(ToString::to_string),
        }
    }

    fn reason(&self) -> String {
        match (self.state.as_str(), self.app_state.as_deref()) {
            ("left", _) => "its node has left".into(),
            ("down", _) => "its node is down".into(),
            (_, Some("up")) => format!("{} says that it is up", self.member),
            (_, Some("down")) => format!("{} says that its checks fail", self.member),
            (_, Some("maintenance")) => format!("in maintenance on {}", self.member),
            (_, Some(_)) => format!("{} does not know yet, so it stays as it was", self.member),
            (state, None) => format!("the node is {state}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, state: &str, app_state: &str) -> MemberStatus {
        let publish = vec!["192.0.2.1".parse().unwrap()];
        let app = AppStatus { name: "www".into(), state: app_state.into(), publish };
        MemberStatus { name: name.into(), state: state.into(), apps: vec![app], ..MemberStatus::default() }
    }

    fn status() -> Status {
        let hold = |member: &str, reason: Hold| HoldStatus {
            app: "www".into(),
            member: member.into(),
            reason: reason.as_str().into(),
        };
        let receipt = ReceiptStatus {
            handler: "dns".into(),
            app: "www".into(),
            node: "web2".into(),
            time: "T1".into(),
            revision: "8b86".into(),
            published: vec!["web1".into(), "web3".into()],
        };
        Status {
            node: "web1".into(),
            members: vec![member("web1", "alive", "up"), member("web2", "alive", "down"), member("web3", "down", "up")],
            holds: vec![hold("web3", Hold::Budget)],
            receipts: vec![receipt],
            ..Status::default()
        }
    }

    #[test]
    fn each_member_has_its_reason_and_the_gate_is_named() {
        let event = |kind: &str, app: Option<&str>, member: Option<&str>| Happening {
            kind: kind.into(),
            time: "T".into(),
            app: app.map(Into::into),
            member: member.map(Into::into),
            ..Happening::default()
        };
        let events = vec![
            event("app-down", Some("www"), Some("web2")),
            event("app-down", Some("api"), Some("web2")),
            event("verdict", None, Some("web3")),
        ];
        let why = Why::of("www", &status(), std::iter::empty(), events.clone());
        let text = why.text("web1");
        let expected = [
            "www on web1 (192.0.2.1): published; web1 says that it is up",
            "www on web2 (192.0.2.1): not published; web2 says that its checks fail",
            "www on web3 (192.0.2.1): published; its node is down",
            "  held by budget: stays published: too many others were removed in the last five minutes",
            "dns wrote www on web2 at T1: web1 web3 (8b86)",
        ];
        assert!(text.starts_with(&(expected.join("\n") + "\n")), "{text}");
        assert_eq!(why.events.len(), 2, "{text}");
        let node = Why::of("web3", &status(), std::iter::empty(), events);
        assert_eq!((node.members.len(), node.events.len()), (1, 1));
        assert_eq!(Why::of("nobody", &status(), std::iter::empty(), Vec::new()), Why::default());
    }
}
