//! The runs of handlers that go on: each a task of its own, which ends in a report.
//!
//! One that knows less than what another node has published may send nothing more; the node says which. Part of the
//! driver.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use picored_core::event::DeliveryId;
use picored_core::node::{Input, Invocation};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Report;
use super::handlers::report;
use super::kept::Word;
use super::versions::Version;
use crate::metrics::Metrics;

pub(super) struct Runs {
    metrics: Metrics,
    reports: mpsc::Sender<Report>,
    /// What each may still do. One that has ended leaves nothing.
    going: Vec<(DeliveryId, Weak<AtomicBool>)>,
}

impl Runs {
    pub(super) fn new(metrics: Metrics, reports: mpsc::Sender<Report>) -> Self {
        Self { metrics, reports, going: Vec::new() }
    }

    /// Starts a run that was due at `since`, and gives what is to be told of it.
    pub(super) fn start(&mut self, version: &Version, run: Invocation, since: Instant) -> Word {
        let (loaded, version, metrics) = (Arc::clone(&version.loaded), version.digest(), self.metrics.clone());
        let Invocation { delivery, snapshot, queued } = run;
        let waited = queued + since.elapsed();
        let word = Word::Started(Box::new(delivery.clone()), waited, version);
        metrics.run_began(delivery.key.handler.as_str(), waited);
        let may_act = Arc::new(AtomicBool::new(true));
        self.going.retain(|(_, run)| run.strong_count() > 0);
        self.going.push((delivery.id.clone(), Arc::downgrade(&may_act)));
        report(&self.reports, async move {
            let begun = Instant::now();
            let end = loaded.run_while(delivery.event, delivery.attempt, snapshot, may_act).await;
            let took = begun.elapsed();
            metrics.run_ended(delivery.key.handler.as_str(), took);
            Report::Node(Input::RunDone { id: delivery.id, end, took, version: Some(version) })
        });
        word
    }

    /// Lets a run send nothing more.
    pub(super) fn fence(&self, delivery: &DeliveryId) {
        let run = self.going.iter().find(|(id, _)| id == delivery).and_then(|(_, run)| run.upgrade());
        if let Some(may_act) = run {
            may_act.store(false, Ordering::Relaxed);
        }
    }
}
