//! The one loop: sole owner of the [`Node`], the only one who reads the clock for it.
//!
//! Datagrams, ends of tasks, signals and the clock go in; what comes out is sent, started as a task, or logged. Readers
//! get a snapshot through a watch channel. Made and run by the daemon.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use picored_core::config::{App, Handler, Seed};
use picored_core::event::{DeliveryId, EventKind, RunEnd, StopReason};
use picored_core::name::{AppName, HandlerName};
use picored_core::node::{Input, Invocation, ManualError, Node, Notice, Output};
use picored_core::status::Status;
use picored_core::time::{Instant, Now, Wall};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};

use crate::admin::{self, Answer, Change, Command, Refusal};
use crate::check::Prober;
use crate::events::Events;
use crate::handler::{self, Host, LoadError, Loaded};
use crate::metrics::Metrics;
use crate::net::Socket;
use crate::notices;
use crate::signals;
use crate::store::StateDir;

/// Ends of tasks that wait to be taken in. Each task has one at most, so this bounds nothing but a burst.
const INPUTS: usize = 256;
/// So many datagrams are taken in before the rest gets its turn.
const DATAGRAMS_AT_ONCE: usize = 64;
/// A resolver that does not answer must not hold a name's next lookup up.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How old the snapshot for readers may be when nothing worth a word has happened.
const STATUS_AGE: Duration = Duration::from_secs(1);

/// The clocks. The origin of the core's time is the start of the process.
pub struct Clock(tokio::time::Instant);

impl Clock {
    /// A clock that begins now.
    #[expect(clippy::new_without_default, reason = "when it is made matters")]
    pub fn new() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// The time, for the core.
    pub fn now(&self) -> Now {
        Now { at: Instant::from_origin(self.0.elapsed()), wall: wall() }
    }

    fn to_tokio(&self, at: Instant) -> tokio::time::Instant {
        self.0 + at.since_origin()
    }
}

/// The wall clock.
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A handler of the config: loaded when it is first needed, and again when that failed.
struct Slot {
    config: Handler,
    loaded: Mutex<Option<Arc<Loaded>>>,
}

impl Slot {
    async fn load(&self, host: &Host) -> Result<Arc<Loaded>, LoadError> {
        let mut loaded = self.loaded.lock().await;
        if let Some(loaded) = &*loaded {
            return Ok(loaded.clone());
        }
        let fresh = host.load(&self.config).await?;
        *loaded = Some(fresh.clone());
        Ok(fresh)
    }
}

/// What the driver needs beside the node.
pub struct Parts {
    /// The gossip socket.
    pub socket: Socket,
    /// Runs the handlers.
    pub host: Host,
    /// Keeps the generation.
    pub state: StateDir,
    /// Where to look for members.
    pub seeds: Vec<Seed>,
    /// What is checked.
    pub apps: Vec<App>,
    /// Checks it.
    pub prober: Prober,
    /// The handlers.
    pub handlers: Vec<Handler>,
    /// For the admin socket.
    pub status: watch::Sender<Arc<Status>>,
    /// Where times are collected.
    pub metrics: Metrics,
    /// From the admin socket.
    pub commands: mpsc::Receiver<Command>,
    /// What happened lately.
    pub events: Events,
}

/// The loop and what it holds.
pub struct Driver {
    node: Node,
    clock: Clock,
    socket: Socket,
    host: Host,
    state: StateDir,
    seeds: Vec<Seed>,
    apps: Vec<App>,
    prober: Prober,
    slots: HashMap<HandlerName, Arc<Slot>>,
    status: watch::Sender<Arc<Status>>,
    status_at: Instant,
    metrics: Metrics,
    commands: mpsc::Receiver<Command>,
    events: Events,
    /// Who waits for the end of which delivery.
    asked: HashMap<DeliveryId, oneshot::Sender<Answer>>,
    /// One dry run at a time.
    dry_runs: Arc<Semaphore>,
    inputs: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    ended: Option<anyhow::Result<()>>,
}

impl Driver {
    /// A driver of `node`, whose clock is `clock`.
    pub fn new(node: Node, clock: Clock, parts: Parts) -> Self {
        let Parts { socket, host, state, seeds, apps, prober, handlers, status, metrics, commands, events } = parts;
        let slot = |config: Handler| (config.name.clone(), Arc::new(Slot { config, loaded: Mutex::default() }));
        Self {
            node,
            clock,
            socket,
            host,
            state,
            seeds,
            apps,
            prober,
            slots: handlers.into_iter().map(slot).collect(),
            status,
            status_at: Instant::default(),
            metrics,
            commands,
            events,
            asked: HashMap::new(),
            dry_runs: Arc::new(Semaphore::new(1)),
            inputs: mpsc::channel(INPUTS),
            ended: None,
        }
    }

    /// Runs until the node has left, or cannot stay.
    ///
    /// # Errors
    /// If the node's name is another's, or the socket fails for good.
    pub async fn run(mut self) -> anyhow::Result<()> {
        self.load_handlers();
        let mut stop = signals::Stop::new()?;
        let mut told_to_stop = 0;
        loop {
            self.do_outputs();
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            let wake = self.node.poll_timeout().map(|at| self.clock.to_tokio(at));
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                readable = self.socket.readable() => {
                    readable?;
                    self.take_datagrams();
                }
                Some(input) = self.inputs.1.recv() => self.node.handle(self.clock.now(), input),
                Some(command) = self.commands.recv() => self.command(command),
                () = sleep => {
                    // What has come in counts before what is overdue: after a stall the refutal of a suspicion may lie
                    // in the socket while its deadline has passed.
                    self.take_datagrams();
                    self.node.handle_timeout(self.clock.now());
                }
                () = stop.next() => {
                    told_to_stop += 1;
                    if told_to_stop > 1 {
                        return Ok(());
                    }
                    tracing::info!(target: "picored::node", "leaving");
                    self.node.handle(self.clock.now(), Input::Leave);
                }
            }
        }
    }

    fn take_datagrams(&mut self) {
        for _ in 0..DATAGRAMS_AT_ONCE {
            match self.socket.take() {
                Ok((from, data)) => self.node.handle(self.clock.now(), Input::Datagram { from, data }),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // What the network says of an earlier datagram (nobody listens there) is no fault of the socket.
                Err(error) => tracing::debug!(%error, "receiving"),
            }
        }
    }

    fn do_outputs(&mut self) {
        let now = self.clock.now();
        let mut news = false;
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { to, data } => {
                    if let Err(error) = self.socket.send(to, &data) {
                        tracing::debug!(%to, %error, "sending");
                    }
                }
                Output::Resolve { seed } => self.resolve(seed),
                Output::Check { app } => self.check(app),
                Output::Invoke(run) => self.invoke(*run),
                Output::RaiseGeneration(generation) => {
                    if let Err(error) = self.state.raise_generation(generation) {
                        tracing::error!(%error, "the generation cannot be kept");
                    }
                }
                Output::Notice(notice) => {
                    news = true;
                    notices::log(&notice);
                    self.events.note(&notice, now.wall);
                    self.answer_asked(&notice);
                    if let Some(error) = notices::fatal(&notice, &self.node.status()) {
                        self.ended = Some(Err(error));
                    }
                }
                Output::Left => self.ended = Some(Ok(())),
            }
        }
        if news || now.at.since(self.status_at) >= STATUS_AGE {
            self.status_at = now.at;
            self.status.send_replace(Arc::new(self.node.status()));
        }
    }

    /// Does what the admin socket was told.
    fn command(&mut self, Command { change, reply }: Command) {
        let answer = match change {
            Change::Upgrade { handler, .. } | Change::Rollback { handler } if !self.slots.contains_key(&handler) => {
                Err(Refusal::new(StatusCode::NOT_FOUND, format!("this node has no handler {handler}")))
            }
            Change::Upgrade { .. } | Change::Rollback { .. } => {
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "handlers cannot be changed yet"))
            }
            Change::Run { handler, event, app, dry_run: true } => {
                return self.dry_run(&handler, event, app.as_ref(), reply);
            }
            Change::Run { handler, event, app, dry_run: false } => {
                match self.node.run_now(self.clock.now(), &handler, event, app.as_ref()) {
                    Ok(delivery) => return drop(self.asked.insert(delivery, reply)),
                    Err(error) => Err(not_run(&error)),
                }
            }
        };
        // Who asked may have gone.
        let _ = reply.send(answer);
    }

    /// Tells who asked for a delivery how it ended.
    fn answer_asked(&mut self, notice: &Notice) {
        let Notice::Ended { delivery, outcome, end, took } = notice else { return };
        let Some(reply) = self.asked.remove(&delivery.id) else { return };
        let run = admin::HandlerRun {
            handler: delivery.key.handler.to_string(),
            event: delivery.event.kind.to_string(),
            scope: delivery.key.scope().to_owned(),
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
            let place = self.dry_runs.clone().try_acquire_owned();
            let place = place.map_err(|_| Refusal::new(StatusCode::CONFLICT, "another dry run is under way"))?;
            Ok((event, snapshot, place, self.slots[handler].clone()))
        });
        let (event, snapshot, place, slot) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let host = self.host.clone();
        tokio::spawn(async move {
            let _place = place;
            let begun = tokio::time::Instant::now();
            let scope = event.app.as_ref().map_or_else(|| slot.config.name.to_string(), ToString::to_string);
            let (end, requests) = match loading(&host, &slot).await {
                Ok(loaded) => loaded.dry_run(event, snapshot).await,
                Err(reason) => (RunEnd::Stopped(StopReason::Load, reason), Vec::new()),
            };
            let run = admin::HandlerRun {
                handler: slot.config.name.to_string(),
                event: kind.to_string(),
                scope,
                requests: requests.into_iter().map(recorded).collect(),
                ..run_end(Some(&end), begun.elapsed())
            };
            let _ = reply.send(Ok(json(&run)));
        });
    }

    /// Starts a task whose result comes in as an input.
    fn start(&self, task: impl Future<Output = Input> + Send + 'static) {
        let inputs = self.inputs.0.clone();
        tokio::spawn(async move {
            // Only a driver that has ended takes nothing any more.
            let _ = inputs.send(task.await).await;
        });
    }

    fn resolve(&self, seed: usize) {
        let Some(Seed::Name(name, port)) = self.seeds.get(seed).cloned() else { return };
        self.start(async move {
            let lookup = tokio::net::lookup_host((name.as_str(), port));
            let addresses: Vec<SocketAddr> = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
                Ok(Ok(addresses)) => addresses.collect(),
                Ok(Err(error)) => {
                    tracing::warn!(seed = %name, %error, "a seed's name cannot be resolved; it will be tried again");
                    Vec::new()
                }
                Err(_) => {
                    tracing::warn!(seed = %name, "a seed's name is not resolved in time; it will be tried again");
                    Vec::new()
                }
            };
            Input::Resolved { seed, addresses }
        });
    }

    fn check(&self, index: usize) {
        let Some(app) = self.apps.get(index).cloned() else { return };
        let (prober, metrics) = (self.prober.clone(), self.metrics.clone());
        self.start(async move {
            let begun = tokio::time::Instant::now();
            let result = prober.probe(&app.check, app.timeout).await;
            metrics.checked(app.name.as_str(), begun.elapsed());
            Input::CheckDone { app: index, result }
        });
    }

    /// Loads the handlers one after the other, so that none waits for its first event.
    fn load_handlers(&self) {
        let (host, inputs) = (self.host.clone(), self.inputs.0.clone());
        let mut slots: Vec<_> = self.slots.values().cloned().collect();
        slots.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        tokio::spawn(async move {
            for slot in slots {
                let loaded = loading(&host, &slot).await;
                for input in loaded_inputs(&slot.config.name, &loaded) {
                    let _ = inputs.send(input).await;
                }
            }
            // The start is over: what only it needed can go, handlers or none.
            crate::memory::release();
        });
    }

    fn invoke(&self, run: Invocation) {
        let Some(slot) = self.slots.get(&run.delivery.key.handler).cloned() else { return };
        let (host, inputs, metrics) = (self.host.clone(), self.inputs.0.clone(), self.metrics.clone());
        let due = tokio::time::Instant::now();
        self.start(async move {
            let Invocation { delivery, snapshot, queued } = run;
            let id = delivery.id.clone();
            let was_ready = slot.loaded.lock().await.is_some();
            let loaded = loading(&host, &slot).await;
            if !was_ready {
                for input in loaded_inputs(&id.handler, &loaded) {
                    let _ = inputs.send(input).await;
                }
            }
            let waited = queued + due.elapsed();
            notices::started(&delivery, waited);
            metrics.run_began(id.handler.as_str(), waited);
            let begun = tokio::time::Instant::now();
            let end = match loaded {
                Ok(loaded) => loaded.run(delivery.event, delivery.attempt, snapshot).await,
                Err(reason) => RunEnd::Stopped(StopReason::Load, reason),
            };
            let took = begun.elapsed();
            metrics.run_ended(id.handler.as_str(), took);
            Input::RunDone { id, end, took }
        });
    }
}

/// Loads the handler if it is not loaded yet; why it cannot be, as text.
async fn loading(host: &Host, slot: &Slot) -> Result<Arc<Loaded>, String> {
    slot.load(host).await.map_err(|error| {
        let reason = error.to_string();
        tracing::error!(target: "picored::handler", handler = %slot.config.name, %reason, "a handler is not ready");
        reason
    })
}

/// What the node is told of a handler that was, or could not be, loaded.
fn loaded_inputs(handler: &HandlerName, loaded: &Result<Arc<Loaded>, String>) -> [Input; 2] {
    let state = loaded.as_ref().map_or_else(Clone::clone, |_| "ready".to_owned());
    let missing = loaded.as_ref().map_or_else(|_| Vec::new(), |loaded| loaded.missing());
    for ask in &missing {
        tracing::warn!(target: "picored::handler", %handler, ask = ask.ask, remedy = ask.remedy, "is not granted");
    }
    [Input::HandlerState { handler: handler.clone(), state }, Input::HandlerAsks { handler: handler.clone(), missing }]
}

fn not_run(error: &ManualError) -> Refusal {
    let code = match error {
        ManualError::NoHandler(_) | ManualError::NoApp(..) => StatusCode::NOT_FOUND,
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

fn recorded(request: handler::Recorded) -> admin::Recorded {
    let handler::Recorded { method, url, body, body_bytes, sent, answer } = request;
    admin::Recorded { method, url, body, body_bytes, sent, answer }
}

fn json(value: &admin::HandlerRun) -> serde_json::Value {
    serde_json::to_value(value).expect("plain data has a JSON form")
}
