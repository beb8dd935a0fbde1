//! What is said over the admin socket and has an answer: runs by hand, in the handler's line or dry beside it, beats,
//! maintenance, holds, members to forget.
//!
//! A run in the line is a delivery like any other, whose end is the answer. A dry one reads what a run would read and
//! writes nothing. Part of the driver.

use std::time::Duration;

use hyper::StatusCode;
use picored_core::event::{DeliveryId, EventKind, RunEnd};
use picored_core::name::{AppName, HandlerName, HoldName, NodeName};
use picored_core::node::{BeatError, Held, HoldError, Input, Maintenance, ManualError, Notice};
use tokio::sync::oneshot;

use super::Driver;
use crate::admin::{self, Answer, Refusal};
use crate::notices;

impl Driver {
    pub(super) fn run_by_hand(
        &mut self,
        handler: &HandlerName,
        kind: EventKind,
        app: Option<&AppName>,
        dry_run: bool,
        reply: oneshot::Sender<Answer>,
    ) {
        if dry_run {
            return self.dry_run(handler, kind, app, reply);
        }
        match self.node.run_now(self.clock.now(), handler, kind, app) {
            Ok(delivery) => drop(self.asked.insert(delivery, reply)),
            // Who asked may have gone.
            Err(error) => drop(reply.send(Err(not_run(&error)))),
        }
    }

    /// Puts a delivery that was given up in line again. The disk keeps it meanwhile, so the answer waits for nothing.
    pub(super) fn redeliver(&mut self, delivery: &DeliveryId, reply: oneshot::Sender<Answer>) {
        let done = self.node.redeliver(self.clock.now(), delivery);
        let done =
            done.map(|key| json(&admin::Redelivered { delivery: delivery.to_string(), scope: key.scope().to_owned() }));
        let _ = reply.send(done.map_err(|error| not_run(&error)));
    }

    /// Has a member that is down forgotten.
    pub(super) fn forget(&mut self, member: &NodeName, reply: oneshot::Sender<Answer>) {
        let done = self.node.forget(self.clock.now(), member);
        let done = done.map(|()| json(&admin::Forgotten { member: member.to_string() }));
        // Who asked may have gone.
        let _ = reply.send(done.map_err(|error| Refusal::new(StatusCode::CONFLICT, error.to_string())));
    }

    /// An application says how it is.
    pub(super) fn beat(&mut self, app: &AppName, result: &Result<(), String>, reply: oneshot::Sender<Answer>) {
        let done = self.node.beat(self.clock.now(), app, result);
        let done = done.map(|state| json(&admin::Beaten { app: app.to_string(), state: state.as_str().to_owned() }));
        let refused = |error: BeatError| {
            let code = match error {
                BeatError::NoSuchApp(_) => StatusCode::NOT_FOUND,
                BeatError::IsChecked(_) => StatusCode::CONFLICT,
            };
            Refusal::new(code, error.to_string())
        };
        let _ = reply.send(done.map_err(refused));
    }

    /// Has this node leave: at once, or when its visitors have gone.
    pub(super) fn leave(&mut self, now: bool, reply: oneshot::Sender<Answer>) {
        let kept = if now {
            // Not told while it drains: it would have no longer for that than it has to stop.
            self.service.stopping();
            self.node.handle(self.clock.now(), Input::Leave);
            Vec::new()
        } else {
            self.drain()
        };
        let wait = self.reload.config().node.drain.wait.as_millis();
        let leaving = admin::Leaving {
            node: self.reload.config().node.name.to_string(),
            drain_wait_ms: (!now).then(|| u64::try_from(wait).unwrap_or(u64::MAX)),
            kept: kept.iter().map(ToString::to_string).collect(),
        };
        let _ = reply.send(Ok(json(&leaving)));
    }

    /// Begins to drain; the applications that stay published.
    pub(super) fn drain(&mut self) -> Vec<AppName> {
        tracing::info!(target: "picored::node", "draining");
        self.node.drain(self.clock.now(), self.reload.config().node.drain)
    }

    /// Begins or ends maintenance.
    pub(super) fn maintain(
        &mut self,
        app: Option<&AppName>,
        on: bool,
        limit: Option<Duration>,
        reply: oneshot::Sender<Answer>,
    ) {
        let done = self.node.maintain(self.clock.now(), app, on, limit);
        let done = done.map(|Maintenance { apps, kept }| {
            let maintained = apps.into_iter().map(|(app, until)| admin::Maintained {
                kept: kept.contains(&app),
                until: until.map(|until| until.rfc3339()),
                app: app.to_string(),
            });
            json(&maintained.collect::<Vec<_>>())
        });
        let _ = reply.send(done.map_err(|error| Refusal::new(StatusCode::NOT_FOUND, error.to_string())));
    }

    /// Keeps an application or a member in what is published.
    pub(super) fn hold(&mut self, name: &HoldName, limit: Option<Duration>, reply: oneshot::Sender<Answer>) {
        let done = self.node.hold(self.clock.now(), name, limit);
        let _ = reply.send(held(done));
    }

    /// Does so no longer.
    pub(super) fn release(&mut self, name: &HoldName, reply: oneshot::Sender<Answer>) {
        let done = self.node.release(self.clock.now(), name);
        let _ = reply.send(held(done));
    }

    /// Tells who asked for a delivery how it ended.
    pub(super) fn answer_asked(&mut self, notice: &Notice) {
        let Notice::Ended { delivery, outcome, end, took } = notice else { return };
        let Some(reply) = self.asked.remove(&delivery.id) else { return };
        let run = admin::HandlerRun {
            handler: delivery.key.handler.to_string(),
            event: delivery.event.kind.to_string(),
            scope: delivery.key.scope().to_owned(),
            delivery: Some(delivery.id.to_string()),
            outcome: Some(outcome.as_str().to_owned()),
            ..run_end(end.as_ref(), *took)
        };
        let _ = reply.send(Ok(json(&run)));
    }

    /// Runs a handler beside the line, which is sound as long as nothing of it gets out that writes.
    fn dry_run(
        &mut self,
        handler: &HandlerName,
        kind: EventKind,
        app: Option<&AppName>,
        reply: oneshot::Sender<Answer>,
    ) {
        let prepared = self.node.dry_run(self.clock.now(), handler, kind, app);
        let prepared = prepared.map_err(|error| not_run(&error)).and_then(|(event, snapshot)| {
            let conflict = |reason: &str| Refusal::new(StatusCode::CONFLICT, reason);
            let loaded = self.handlers.current(handler).ok_or_else(|| conflict("the handler is not ready"))?;
            let place = self.dry_runs.clone().try_acquire_owned();
            Ok((event, snapshot, place.map_err(|_| conflict("another dry run is under way"))?, loaded))
        });
        let (event, snapshot, place, loaded) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let _place = place;
            let begun = tokio::time::Instant::now();
            let scope = event.app.as_ref().map_or_else(|| handler.to_string(), ToString::to_string);
            let (end, requests) = loaded.dry_run(event, snapshot).await;
            let run = admin::HandlerRun {
                handler: handler.to_string(),
                event: kind.to_string(),
                scope,
                requests,
                ..run_end(Some(&end), begun.elapsed())
            };
            let _ = reply.send(Ok(json(&run)));
        });
    }
}

fn held(done: Result<Vec<Held>, HoldError>) -> Answer {
    let told = |held: Vec<Held>| {
        let held = held.into_iter();
        json(&held.map(|(name, until)| admin::Held::new(&name, until)).collect::<Vec<_>>())
    };
    let refused = |error: HoldError| {
        let code = match error {
            HoldError::Unknown(_) | HoldError::NotHeld(_) => StatusCode::NOT_FOUND,
            HoldError::TooMany | HoldError::HeldElsewhere { .. } => StatusCode::CONFLICT,
        };
        Refusal::new(code, error.to_string())
    };
    done.map(told).map_err(refused)
}

fn not_run(error: &ManualError) -> Refusal {
    let code = match error {
        ManualError::NoHandler(_) | ManualError::NoApp(..) | ManualError::NotDead(_) => StatusCode::NOT_FOUND,
        ManualError::WhichApp(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::CONFLICT,
    };
    Refusal::new(code, error.to_string())
}

/// The part of an answer that a run's end gives.
fn run_end(end: Option<&RunEnd>, took: Duration) -> admin::HandlerRun {
    admin::HandlerRun {
        ended_as: end.map(|end| end.word().to_owned()),
        changed: matches!(end, Some(RunEnd::Done { changed: true, .. })),
        text: end.map(|end| end.text().to_owned()).unwrap_or_default(),
        run_ms: notices::milliseconds(took),
        ..admin::HandlerRun::default()
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("plain data has a JSON form")
}
