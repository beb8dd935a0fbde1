//! What the node has to say, as log lines: the fields programs read, in one place.
//!
//! Targets and field names are a promise to whoever collects the log. Called by the driver alone.

use std::path::Path;
use std::time::Duration;

use picored_core::digest::Digest;
use picored_core::event::{Outcome, RunEnd};
use picored_core::ledger::Delivery;
use picored_core::node::Notice;
use picored_core::record::AppState;
use picored_core::reload::{Change, Plan};
use picored_core::status::Status;
use picored_core::versions::Takeover;

/// For people: to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A run begins: of this version, or of none, as none can be loaded.
pub(crate) fn started(delivery: &Delivery, queued: Duration, version: Option<Digest>) {
    tracing::info!(
        target: "picored::delivery",
        handler = %delivery.key.handler,
        delivery = %delivery.id,
        scope = delivery.key.scope(),
        event = %delivery.event.kind,
        event_id = %delivery.event.id,
        attempt = delivery.attempt,
        version = version.map(|version| version.short()),
        queued_ms = milliseconds(queued),
        "started"
    );
}

/// What became of a reload: a line for each change, or one for why there is none.
pub(crate) fn reloaded(path: &Path, done: Result<&Plan, &str>) {
    let config = path.display();
    match done {
        Ok(plan) => {
            for Change { what, name, change, keys } in &plan.changes {
                let (what, name, keys) = (what.as_str(), name.as_deref(), keys.join(", "));
                tracing::info!(target: "picored::config", what, name, keys, "{}", change.as_str());
            }
            let changes = plan.changes.len();
            tracing::info!(target: "picored::config", %config, changes, "reloaded");
        }
        Err(reason) => {
            tracing::error!(target: "picored::config", %config, reason, "not reloaded: the config in force stays");
        }
    }
}

/// One line for what happened.
pub(crate) fn log(notice: &Notice) {
    match notice {
        Notice::Joined { members } => tracing::info!(target: "picored::node", members, "joined"),
        Notice::Event(event) => {
            let (app, member) = (event.app.as_ref().map(|name| name.as_str()), event.member.as_ref());
            let member = member.map(|name| name.as_str());
            tracing::info!(target: "picored::event", id = %event.id, app, member, "{}", event.kind);
        }
        Notice::Verdict { member, evidence } => {
            let by = evidence.accusers.iter().map(|accuser| accuser.name.as_str()).collect::<Vec<_>>().join(", ");
            let (verdict, suspected_ms, text) =
                (evidence.verdict.as_deref(), evidence.suspected_ms, evidence.to_string());
            tracing::warn!(target: "picored::event", %member, suspected_by = by, suspected_ms, verdict, text, "verdict");
        }
        Notice::Health { app, state: AppState::Down, reason } => {
            tracing::warn!(target: "picored::health", app = %app, state = "down", reason = %reason, "checked");
        }
        Notice::Health { app, state, .. } => {
            tracing::info!(target: "picored::health", app = %app, state = state.as_str(), "checked");
        }
        Notice::Ended { delivery, outcome, end, took } => ended(delivery, *outcome, end.as_ref(), *took),
        Notice::Takeover { handler, takeover, version, before } => {
            let (version, before) = (version.short(), before.map(|before| before.short()));
            let done = if *takeover == Takeover::Rollback { "rolled-back" } else { "upgraded" };
            tracing::info!(target: "picored::handler", %handler, version, before, "{done}");
        }
        Notice::RolledBack { handler, version, failed, reason } => {
            let (version, before) = (version.short(), failed.short());
            let text = "the new version failed where the one before worked, which runs again";
            tracing::error!(target: "picored::handler", %handler, version, before, reason, text, "rolled-back");
        }
        Notice::UpgradeRefused { handler, reason } => {
            let text = "the new version cannot be used; the old one stays";
            tracing::error!(target: "picored::handler", %handler, reason, text, "refused");
        }
        Notice::Mismatch { handler, node, differs: Some(differs) } => {
            let (differs, text) = (differs.as_str(), "it differs from most nodes', and is not run there");
            tracing::warn!(target: "picored::handler", %handler, member = %node, differs, text, "config-mismatch");
        }
        Notice::Mismatch { handler, node, differs: None } => {
            tracing::info!(target: "picored::handler", %handler, member = %node, "config-agreed");
        }
        Notice::Degraded { member, recovered: false } => {
            let text = "it answers over TCP alone: no datagram comes through";
            tracing::warn!(target: "picored::gossip", member = %member, text, "degraded");
        }
        Notice::Degraded { member, recovered: true } => {
            tracing::info!(target: "picored::gossip", member = %member, "recovered");
        }
        Notice::Drained { is_out: true, wait } => {
            let text = "it is published nowhere, and stays until that is known to all";
            tracing::info!(target: "picored::node", wait_ms = wait.as_millis() as u64, text, "drained");
        }
        Notice::Drained { is_out: false, wait } => {
            let text =
                "it may be published still, as it is up nowhere else or its handlers fail, and leaves all the same";
            tracing::warn!(target: "picored::node", wait_ms = wait.as_millis() as u64, text, "drained");
        }
        Notice::Held { app, member, reason } => {
            let text = reason.explanation();
            tracing::warn!(target: "picored::governor", app = %app, member = %member, reason = %reason, text, "held");
        }
        Notice::Released { app, member, reason } => {
            tracing::info!(target: "picored::governor", app = %app, member = %member, reason = %reason, "released");
        }
        Notice::Refused { refusal, from, count } => {
            let (reason, hint) = (refusal.as_str(), refusal.to_string());
            tracing::warn!(target: "picored::gossip", reason, %from, count, hint, "datagrams refused");
        }
        Notice::CutOff { lost, left } => {
            let text = "most members are gone at once, as if this node were cut off: its handlers wait for a while";
            tracing::warn!(target: "picored::node", lost, left, text, "cut-off");
        }
        Notice::Reunited { members } => tracing::info!(target: "picored::node", members, "reunited"),
        Notice::Rejoined { generation } => {
            tracing::warn!(target: "picored::node", generation, "was taken for dead and joined again");
        }
        Notice::NameTaken { holder, joined } => {
            tracing::error!(target: "picored::node", %holder, joined, "another live node has this node's name");
        }
    }
}

fn ended(delivery: &Delivery, outcome: Outcome, end: Option<&RunEnd>, took: Duration) {
    let changed = matches!(end, Some(RunEnd::Done { changed: true, .. }));
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "picored::delivery",
                handler = %delivery.key.handler,
                delivery = %delivery.id,
                scope = delivery.key.scope(),
                event = %delivery.event.kind,
                event_id = %delivery.event.id,
                attempt = delivery.attempt,
                outcome = outcome.as_str(),
                ended_as = end.map(RunEnd::word),
                changed,
                text = end.map(RunEnd::text),
                run_ms = milliseconds(took),
                "ended"
            )
        };
    }
    match outcome {
        Outcome::Done | Outcome::Superseded | Outcome::HandedOver | Outcome::Cancelled => line!(info),
        Outcome::Retry => line!(warn),
        Outcome::Dead | Outcome::Permanent => line!(error),
    }
}

/// The error that ends the process, if this notice does.
pub(crate) fn fatal(notice: &Notice, status: &Status) -> Option<anyhow::Error> {
    let Notice::NameTaken { holder, joined: false } = notice else { return None };
    let own = status.members.iter().find(|member| member.name == status.node);
    let own = own.map_or("this address", |member| member.address.as_str());
    Some(anyhow::anyhow!(
        "the name {:?} belongs to a live node at {holder}, so this one at {own} cannot join: give one of them another \
         node.name",
        status.node
    ))
}
