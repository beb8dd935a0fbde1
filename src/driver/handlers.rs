//! The handlers of this daemon: which version of each runs, what waits for one, and how another takes over.
//!
//! The driver owns it, so "between two deliveries" is between two calls: a run gets its version when it starts and keeps
//! it, and what takes over is of every later run. Components are looked at, compiled and tried in tasks (`versions`),
//! which end in a [`Report`]. Whether a version has failed is the core's to say.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use picored_core::config::{Handler, Source};
use picored_core::digest::Digest;
use picored_core::event::{DeliveryId, RunEnd, StopReason};
use picored_core::name::HandlerName;
use picored_core::node::{Input, Invocation};
use picored_core::versions::Takeover;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::Report;
use super::kept::Word;
use super::runs::Runs;
use super::versions::{self, Found, Origin, Standing, Version};
use super::watch;
use crate::admin::{Answer, HandlerChange, Refusal, Upload};
use crate::handler::{Host, Loaded};
use crate::metrics::Metrics;
use crate::notices;
use crate::store::{Components, Installed, StateDir};

/// All handlers of the config.
pub(super) struct Handlers {
    host: Host,
    slots: BTreeMap<HandlerName, Slot>,
    /// Those that the start has yet to load.
    to_load: VecDeque<HandlerName>,
    is_started: bool,
    metrics: Metrics,
    reports: mpsc::Sender<Report>,
    runs: Runs,
}

/// One of them.
struct Slot {
    config: Handler,
    components: Components,
    /// Runs that start now are its; none before one could be loaded.
    current: Option<Version>,
    /// What ran before, if another took over since the start.
    previous: Option<Version>,
    /// What the source held when it was last looked at.
    source: Option<Digest>,
    is_loading: bool,
    /// An upgrade or a rollback is under way.
    is_changing: bool,
    /// Runs that wait for the first version, and since when. The ledger starts one a scope.
    waiting: Vec<(Invocation, Instant)>,
    /// Watches the file, and ends with this.
    watcher: JoinSet<()>,
}

impl Handlers {
    pub(super) fn new(
        host: Host,
        state: &StateDir,
        handlers: Vec<Handler>,
        metrics: Metrics,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let slots: BTreeMap<_, _> =
            handlers.into_iter().map(|config| (config.name.clone(), Slot::new(state, config))).collect();
        let to_load = slots.keys().cloned().collect();
        let runs = Runs::new(metrics.clone(), reports.clone());
        Self { host, slots, to_load, is_started: false, metrics, reports, runs }
    }

    /// Loads the handlers one after the other, so that none waits for its first event, and watches their files.
    pub(super) fn start(&mut self) {
        for slot in self.slots.values_mut() {
            slot.watch(&self.reports);
        }
        self.load_next();
    }

    fn load_next(&mut self) {
        while let Some(name) = self.to_load.pop_front() {
            if self.slots.get(&name).is_some_and(|slot| slot.current.is_none() && !slot.is_loading) {
                return self.load(&name);
            }
        }
        if !std::mem::replace(&mut self.is_started, true) {
            // What only the start needed can go, handlers or none.
            crate::memory::release();
        }
    }

    /// Who loads them.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// What each handler has now, for a reload to build on.
    pub(super) fn standing(&self) -> BTreeMap<HandlerName, Standing> {
        let standing = |(name, slot): (&HandlerName, &Slot)| {
            let Slot { config, components, current, source, .. } = slot;
            let (config, components, current) = (config.clone(), components.clone(), current.clone());
            (name.clone(), Standing { config, components, current, source: *source })
        };
        self.slots.iter().map(standing).collect()
    }

    /// The handler among `names` with an upgrade or rollback under way, if there is one. What that is preparing is for
    /// the config that it began with.
    pub(super) fn changing<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
        names.find(|name| self.slots.get(*name).is_some_and(|slot| slot.is_changing))
    }

    /// Has the handlers of another config from now on, with what was prepared for those that are new or have changed.
    /// What the node has to know of it comes back.
    pub(super) fn replace(
        &mut self,
        state: &StateDir,
        handlers: &[Handler],
        mut found: BTreeMap<HandlerName, Found>,
    ) -> Vec<Input> {
        let is_gone = |name: &HandlerName| !handlers.iter().any(|handler| handler.name == *name);
        let gone: Vec<_> = self.slots.keys().filter(|name| is_gone(name)).cloned().collect();
        for name in gone {
            self.start_waiting(&name, Some("the handler was taken out of the config".into()));
            self.slots.remove(&name);
        }
        let mut news = Vec::new();
        for handler in handlers {
            let Some(found) = found.remove(&handler.name) else { continue };
            let name = handler.name.clone();
            let slot = self.slots.entry(name.clone()).or_insert_with(|| Slot::new(state, handler.clone()));
            if slot.config == *handler && slot.current.is_some() {
                // Other bytes alone are an upgrade like any other, with a trial and a way back.
                news.extend(self.finish(name, Takeover::Upgrade, Ok(Some(found)), None));
                continue;
            }
            // The version before was loaded with what the config no longer grants.
            (slot.config, slot.previous) = (handler.clone(), None);
            slot.watch(&self.reports);
            let version = found.version.digest();
            slot.source = found.source.or(slot.source);
            if found.version.origin == Origin::Source
                && let Err(error) = slot.note(&found.version, None)
            {
                let text = "what was installed over the source before cannot be taken off the disk";
                tracing::error!(target: "picored::handler", handler = %name, %error, "{text}");
            }
            slot.current = Some(found.version);
            slot.tidy();
            self.start_waiting(&name, None);
            news.push(Input::HandlerReady { handler: name, version, takeover: Takeover::Load });
        }
        news
    }

    /// What runs now, if anything could be loaded yet.
    pub(super) fn current(&self, name: &HandlerName) -> Option<Arc<Loaded>> {
        Some(self.slots.get(name)?.current.as_ref()?.loaded.clone())
    }

    /// Has another component take a handler over, or, with none, the version before. What the node has to know of it
    /// comes back.
    pub(super) fn change(
        &mut self,
        name: HandlerName,
        component: Option<Upload>,
        reply: oneshot::Sender<Answer>,
    ) -> Option<Input> {
        let refusal = match self.slots.get(&name) {
            None => Some(Refusal::new(StatusCode::NOT_FOUND, format!("this node has no handler {name}"))),
            Some(slot) if slot.is_changing => {
                let reason = format!("another upgrade or rollback of {name} is under way: wait for its end");
                Some(Refusal::new(StatusCode::CONFLICT, reason))
            }
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            answer(Some(reply), Err(refusal));
            return None;
        }
        let slot = self.slots.get_mut(&name)?;
        slot.is_changing = true;
        let (host, components, config) = (self.host.clone(), slot.components.clone(), slot.config.clone());
        let before = slot.current.clone();
        match (component, slot.previous.clone()) {
            (Some(component), _) => {
                let found = versions::of_upload(host, components, config, before, component);
                self.prepare(name, Takeover::Upgrade, Some(reply), async { found.await.map(Some) });
                None
            }
            (None, Some(version)) => {
                let found = Found { version, source: slot.source };
                self.finish(name, Takeover::Rollback, Ok(Some(found)), Some(reply))
            }
            (None, None) => {
                let found = versions::before_installed(host, components, config, before);
                self.prepare(name, Takeover::Rollback, Some(reply), async { found.await.map(Some) });
                None
            }
        }
    }

    /// Starts a run with the version of this moment, or as soon as there is one.
    pub(super) fn invoke(&mut self, run: Invocation) -> Option<Word> {
        let slot = self.slots.get_mut(&run.delivery.key.handler)?;
        if let Some(version) = &slot.current {
            return Some(self.runs.start(version, run, Instant::now()));
        }
        let name = run.delivery.key.handler.clone();
        slot.waiting.push((run, Instant::now()));
        self.load(&name);
        None
    }

    /// Lets a run send nothing more.
    pub(super) fn fence(&self, delivery: &DeliveryId) {
        self.runs.fence(delivery);
    }

    /// The core finds that the version which took over last has failed.
    pub(super) fn roll_back(&mut self, name: &HandlerName) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        let Some(version) = slot.previous.take() else { return };
        if let Err(error) = slot.note(&version, None) {
            let text = "the failed version cannot be taken off the disk: it would run again after a restart";
            tracing::error!(target: "picored::handler", handler = %name, %error, "{text}");
        }
        slot.current = Some(version);
    }

    /// Takes in how a task has ended. What the node has to know of it comes back.
    pub(super) fn take(&mut self, report: Report) -> Option<Input> {
        match report {
            Report::Node(input) => Some(input),
            Report::Loaded { handler, source, version } => self.loaded(handler, source, version),
            Report::Prepared { handler, takeover, found, reply } => self.finish(handler, takeover, found, reply),
            Report::FileChanged { handler, taken } => {
                let slot = self.slots.get_mut(&handler).filter(|slot| slot.config.watch)?;
                // Who asked may ask again.
                let _ = taken.send(!slot.is_changing);
                if !std::mem::replace(&mut slot.is_changing, true) {
                    let found =
                        versions::of_source(self.host.clone(), slot.config.clone(), slot.current.clone(), slot.source);
                    self.prepare(handler, Takeover::Upgrade, None, found);
                }
                None
            }
        }
    }

    /// Loads a handler, unless it is loaded or about to be.
    pub(super) fn load(&mut self, name: &HandlerName) {
        let Some(slot) = self.slots.get_mut(name).filter(|slot| slot.current.is_none()) else { return };
        if !std::mem::replace(&mut slot.is_loading, true) {
            let (host, components, config) = (self.host.clone(), slot.components.clone(), slot.config.clone());
            let handler = name.clone();
            self.report(async move {
                let (source, version) = versions::first(host, components, config).await;
                Report::Loaded { handler, source, version }
            });
        }
    }

    fn loaded(&mut self, name: HandlerName, source: Option<Digest>, version: Result<Version, String>) -> Option<Input> {
        let slot = self.slots.get_mut(&name)?;
        slot.is_loading = false;
        let input = match version {
            // An upgrade was faster: what was to run before it does not run after it.
            _ if slot.current.is_some() => None,
            Ok(version) => {
                slot.source = source;
                let digest = version.digest();
                slot.current = Some(version);
                Some(Input::HandlerReady { handler: name.clone(), version: digest, takeover: Takeover::Load })
            }
            Err(reason) => {
                tracing::error!(target: "picored::handler", handler = %name, %reason, "a handler is not ready");
                Some(Input::HandlerState { handler: name.clone(), state: reason })
            }
        };
        let failed = match &input {
            Some(Input::HandlerState { state, .. }) => Some(state.clone()),
            _ => None,
        };
        self.start_waiting(&name, failed);
        if self.slots.values().all(|slot| !slot.is_loading) {
            self.load_next();
        }
        input
    }

    /// What waited for a version has one, or has `failed`.
    fn start_waiting(&mut self, name: &HandlerName, failed: Option<String>) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        for (run, since) in std::mem::take(&mut slot.waiting) {
            match (&slot.current, &failed) {
                (Some(version), _) => {
                    if let Word::Started(delivery, waited, version) = self.runs.start(version, run, since) {
                        notices::started(&delivery, waited, Some(version));
                    }
                }
                (None, reason) => {
                    let end = RunEnd::Stopped(StopReason::Load, reason.clone().unwrap_or_default());
                    let waited = run.queued + since.elapsed();
                    notices::started(&run.delivery, waited, None);
                    self.metrics.run_began(name.as_str(), waited);
                    self.metrics.run_ended(name.as_str(), Duration::ZERO);
                    let input = Input::RunDone { id: run.delivery.id, end, took: Duration::ZERO, version: None };
                    report(&self.reports, async { Report::Node(input) });
                }
            }
        }
    }

    fn prepare(
        &self,
        handler: HandlerName,
        takeover: Takeover,
        reply: Option<oneshot::Sender<Answer>>,
        found: impl Future<Output = Result<Option<Found>, Refusal>> + Send + 'static,
    ) {
        let found = Box::pin(found);
        self.report(async move { Report::Prepared { handler, takeover, found: found.await, reply } });
    }

    /// What was prepared takes over, or the old version stays.
    fn finish(
        &mut self,
        name: HandlerName,
        takeover: Takeover,
        found: Result<Option<Found>, Refusal>,
        reply: Option<oneshot::Sender<Answer>>,
    ) -> Option<Input> {
        let slot = self.slots.get_mut(&name)?;
        slot.is_changing = false;
        let done = found.and_then(|found| found.map(|found| slot.take_over(found, takeover)).transpose());
        slot.tidy();
        match done {
            Ok(None) => None,
            Ok(Some((version, before))) => {
                self.start_waiting(&name, None);
                let change = HandlerChange {
                    handler: name.to_string(),
                    version: version.to_string(),
                    before: before.map(|before| before.to_string()),
                };
                answer(reply, Ok(serde_json::to_value(change).expect("plain data has a JSON form")));
                let is_another = before != Some(version);
                is_another.then_some(Input::HandlerReady { handler: name, version, takeover })
            }
            Err(refusal) => {
                let reason = refusal.reason.clone();
                answer(reply, Err(refusal));
                // Who cannot go back is told; nothing new was refused.
                (takeover == Takeover::Upgrade).then_some(Input::UpgradeRefused { handler: name, reason })
            }
        }
    }

    fn report(&self, task: impl Future<Output = Report> + Send + 'static) {
        report(&self.reports, task);
    }
}

impl Slot {
    fn new(state: &StateDir, config: Handler) -> Self {
        Self {
            components: state.components(&config.name),
            current: None,
            previous: None,
            source: None,
            is_loading: false,
            is_changing: false,
            waiting: Vec::new(),
            watcher: JoinSet::new(),
            config,
        }
    }

    /// Watches what the config says, and nothing that it said before.
    fn watch(&mut self, reports: &mpsc::Sender<Report>) {
        self.watcher = JoinSet::new();
        if let Source::File(path) = &self.config.source
            && self.config.watch
        {
            self.watcher.spawn(watch::watch(path.clone(), self.config.name.clone(), reports.clone()));
        }
    }

    /// The version that runs from now on, and the one that ran until now.
    fn take_over(&mut self, found: Found, takeover: Takeover) -> Result<(Digest, Option<Digest>), Refusal> {
        let Found { version, source } = found;
        let (digest, before) = (version.digest(), self.current.as_ref().map(Version::digest));
        if self.current.as_ref().is_some_and(|now| now.digest() == digest && now.origin == version.origin) {
            return Ok((digest, before));
        }
        let goes_back = takeover == Takeover::Rollback;
        let old = self.current.clone().filter(|old| !goes_back && old.digest() != digest);
        let installed = old.as_ref().filter(|old| old.origin == Origin::Installed).map(Version::digest);
        self.source = source.or(self.source);
        self.note(&version, installed).map_err(|error| {
            let reason = format!("cannot write down the version, so the old one stays: {error}");
            Refusal::new(StatusCode::INSUFFICIENT_STORAGE, reason)
        })?;
        self.current = Some(version);
        self.previous = old;
        Ok((digest, before))
    }

    /// Writes down what a restart shall run. Waits for the disk, on the driver's thread: no other version can take over
    /// between this and what follows, and it is a note of some hundred bytes, once an upgrade.
    fn note(&self, version: &Version, previous: Option<Digest>) -> std::io::Result<()> {
        match version.origin {
            Origin::Source => self.components.clear(),
            Origin::Installed => self.components.install(&Installed {
                source: self.config.source.to_string(),
                replaced: self.source,
                current: version.digest(),
                previous,
            }),
        }
    }

    /// Removes the components that nothing can go back to.
    fn tidy(&self) {
        let known = [&self.current, &self.previous].into_iter().flatten();
        let installed = known.filter(|version| version.origin == Origin::Installed).map(Version::digest);
        let noted = self.components.installed().ok().flatten();
        let noted = noted.into_iter().flat_map(|note| [Some(note.current), note.previous]).flatten();
        self.components.tidy(&installed.chain(noted).collect::<Vec<_>>());
    }
}

/// Starts a task whose end is a report.
pub(super) fn report(
    reports: &mpsc::Sender<Report>,
    task: impl Future<Output = Report> + Send + 'static,
) -> AbortHandle {
    let reports = reports.clone();
    // What is awaited by value is in the waiting future twice, and that is on the stack more than once.
    let task = Box::pin(task);
    let task = tokio::spawn(async move {
        // Only a driver that has ended takes nothing any more.
        let _ = reports.send(task.await).await;
    });
    task.abort_handle()
}

/// Who asked may have gone.
fn answer(reply: Option<oneshot::Sender<Answer>>, answer: Answer) {
    if let Some(reply) = reply {
        let _ = reply.send(answer);
    }
}

#[cfg(test)]
mod tests;
