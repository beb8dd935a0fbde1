//! The one loop: sole owner of the [`Node`], the only one who reads the clock for it.
//!
//! Datagrams, ends of tasks, commands, signals and the clock go in; what comes out is sent, started as a task, or logged.
//! Readers get a snapshot through a watch channel. Made and run by the daemon.

mod handlers;
mod kept;
mod manual;
mod reload;
mod runs;
mod versions;
mod watch;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use picored_core::config::{App, Config};
use picored_core::digest::Digest;
use picored_core::event::DeliveryId;
use picored_core::name::HandlerName;
use picored_core::node::{Input, Node, Output};
use picored_core::status::Status;
use picored_core::time::{Instant, Now, Wall};
use picored_core::versions::Takeover;
use tokio::sync::{Semaphore, mpsc, oneshot, watch as watch_channel};
use tokio::task::AbortHandle;

use self::handlers::Handlers;
pub use self::kept::letters;
use self::kept::{Kept, Word};
use self::reload::{Reload, Request};
use self::versions::{Found, Version};
use crate::admin::{Answer, Change, Command, Refusal};
use crate::check::Prober;
use crate::config_file;
use crate::events::Events;
use crate::handler::Host;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::net::{Socket, Streams};
use crate::notices;
use crate::service::Service;
use crate::signals::{Asked, Signals};
use crate::store::StateDir;

/// Ends of tasks that wait to be taken in. Each task has one at most, so this bounds nothing but a burst.
const REPORTS: usize = 256;
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
        Now { at: Instant::from_origin(ORIGIN + self.0.elapsed()), wall: wall() }
    }

    fn to_tokio(&self, at: Instant) -> tokio::time::Instant {
        self.0 + at.since_origin().saturating_sub(ORIGIN)
    }
}

/// The origin of the core's clock lies so long before the start of the process, for what happened before it.
const ORIGIN: Duration = Duration::from_secs(24 * 3600);

/// The wall clock.
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How a task has ended.
enum Report {
    /// With something that the node has to know.
    Node(Input),
    /// With a first version of a handler, or why there is none; and what its source holds, if that is known.
    Loaded { handler: HandlerName, source: Option<Digest>, version: Result<Version, String> },
    /// With another version of a handler, if there is any; `reply` waits to hear of it.
    Prepared {
        handler: HandlerName,
        takeover: Takeover,
        found: Result<Option<Found>, Refusal>,
        reply: Option<oneshot::Sender<Answer>>,
    },
    /// A watched file is another now; `taken` waits to hear whether anybody looks.
    FileChanged { handler: HandlerName, taken: oneshot::Sender<bool> },
}

/// What the driver needs beside the node.
pub struct Parts {
    /// The gossip socket.
    pub socket: Socket,
    /// The connections beside it.
    pub streams: Streams,
    /// Runs the handlers.
    pub host: Host,
    /// Keeps the generation.
    pub state: StateDir,
    /// Keeps retries and dead letters; none if it cannot be used.
    pub journal: Option<Journal>,
    /// What the node was made from.
    pub config: Config,
    /// Where that was read, and is read again.
    pub config_path: PathBuf,
    /// Checks the applications.
    pub prober: Prober,
    /// What asks from outside.
    pub signals: Signals,
    /// For the admin socket.
    pub status: watch_channel::Sender<Arc<Status>>,
    /// Where times are collected.
    pub metrics: Metrics,
    /// From the admin socket.
    pub commands: mpsc::Receiver<Command>,
    /// What happened lately.
    pub events: Events,
    /// Who watches over the daemon.
    pub service: Service,
}

/// The loop and what it holds.
pub struct Driver {
    node: Node,
    clock: Clock,
    socket: Socket,
    streams: Streams,
    state: StateDir,
    kept: Kept,
    prober: Prober,
    reload: Reload,
    signals: Signals,
    handlers: Handlers,
    status: watch_channel::Sender<Arc<Status>>,
    status_at: Instant,
    metrics: Metrics,
    commands: mpsc::Receiver<Command>,
    events: Events,
    service: Service,
    /// When the service manager was last told that the loop goes round.
    told_alive: Instant,
    /// The checks that run, by number.
    checks: HashMap<u64, AbortHandle>,
    /// Who waits for the end of which delivery.
    asked: HashMap<DeliveryId, oneshot::Sender<Answer>>,
    /// One dry run at a time.
    dry_runs: Arc<Semaphore>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    ended: Option<anyhow::Result<()>>,
}

impl Driver {
    /// A driver of `node`, whose clock is `clock`.
    pub fn new(node: Node, clock: Clock, parts: Parts) -> Self {
        let Parts {
            socket,
            streams,
            host,
            state,
            journal,
            config,
            config_path,
            prober,
            signals,
            status,
            metrics,
            commands,
            events,
            service,
        } = parts;
        let reports = mpsc::channel(REPORTS);
        let handlers = Handlers::new(host, &state, config.handlers.clone(), metrics.clone(), reports.0.clone());
        Self {
            node,
            clock,
            socket,
            streams,
            state,
            kept: Kept::new(journal),
            prober,
            handlers,
            reload: Reload::new(config_path, config),
            signals,
            status,
            status_at: Instant::default(),
            metrics,
            commands,
            events,
            service,
            told_alive: Instant::default(),
            checks: HashMap::new(),
            asked: HashMap::new(),
            dry_runs: Arc::new(Semaphore::new(1)),
            reports,
            ended: None,
        }
    }

    /// Runs until the node has left, or cannot stay.
    ///
    /// # Errors
    /// If the node's name is another's, or the socket fails for good.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        self.handlers.start();
        let mut told_to_stop = 0;
        loop {
            self.do_outputs();
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            let wake = [self.node.poll_timeout(), self.tell_alive()].into_iter().flatten().min();
            let wake = wake.map(|at| self.clock.to_tokio(at));
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
                input = self.streams.next() => self.node.handle(self.clock.now(), input),
                Some(report) = self.reports.1.recv() => {
                    let news = self.handlers.take(report);
                    self.tell(news);
                }
                Some(number) = self.kept.more() => {
                    for (word, time) in self.kept.release(number) {
                        self.tell_people(&word, time);
                    }
                }
                Some(command) = self.commands.recv() => self.command(command),
                () = sleep => {
                    // What has come in counts before what is overdue: after a stall the refutal of a suspicion may lie
                    // in the socket while its deadline has passed.
                    self.take_datagrams();
                    self.take_frames();
                    self.node.handle_timeout(self.clock.now());
                }
                prepared = self.reload.prepared() => self.take_in(prepared),
                asked = self.signals.next() => match asked {
                    Asked::Reload => self.reload(Request { dry_run: false, reply: None }),
                    Asked::Stop => {
                        told_to_stop += 1;
                        if told_to_stop > 1 {
                            return Ok(());
                        }
                        if self.reload.config().node.drain_on_term {
                            drop(self.drain());
                        } else {
                            self.service.stopping();
                            tracing::info!(target: "picored::node", "leaving");
                            self.node.handle(self.clock.now(), Input::Leave);
                        }
                    }
                },
            }
        }
    }

    /// Feeds the watchdog if it is time to; when it will be again.
    fn tell_alive(&mut self) -> Option<Instant> {
        let every = self.service.alive_every()?;
        let now = self.clock.now().at;
        if self.told_alive == Instant::default() || now.since(self.told_alive) >= every {
            self.told_alive = now;
            self.service.alive();
        }
        Some(self.told_alive + every)
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

    fn take_frames(&mut self) {
        while let Some(input) = self.streams.ready() {
            self.node.handle(self.clock.now(), input);
        }
    }

    fn do_outputs(&mut self) {
        let now = self.clock.now();
        self.handlers.host().may_act(self.node.has_quorum(now.at));
        let mut news = false;
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { to, data } => {
                    if let Err(error) = self.socket.send(to, &data) {
                        tracing::debug!(%to, %error, "sending");
                    }
                }
                Output::Dial { connection, to } => self.streams.dial(connection, to),
                Output::Frame { connection, data } => self.streams.send(connection, data),
                Output::Listen { connection, at_most } => self.streams.listen(connection, at_most),
                Output::Close { connection } => self.streams.close(connection),
                Output::Resolve { name, port } => self.resolve(name, port),
                Output::Check { number, app } => self.check(number, *app),
                Output::EndCheck { number } => {
                    if let Some(check) = self.checks.remove(&number) {
                        check.abort();
                    }
                }
                Output::Load(handler) => self.handlers.load(&handler),
                Output::Invoke(run) => {
                    if let Some(word) = self.handlers.invoke(*run) {
                        self.say(word, now.wall);
                    }
                }
                Output::RollBack { handler } => {
                    self.handlers.roll_back(&handler);
                    self.tell_asks(handler);
                }
                Output::RaiseGeneration(generation) => {
                    if let Err(error) = self.state.raise_generation(generation) {
                        tracing::error!(%error, "the generation cannot be kept");
                    }
                }
                Output::Remember(members) => {
                    if let Err(error) = self.state.remember(&members) {
                        tracing::warn!(%error, "the members cannot be kept for the next start");
                    }
                }
                Output::Maintain(apps) => {
                    if let Err(error) = self.state.keep_maintenance(&apps) {
                        tracing::error!(%error, "what is in maintenance cannot be kept for the next start");
                    }
                }
                Output::Hold(held) => {
                    if let Err(error) = self.state.keep_holds(&held) {
                        tracing::error!(%error, "what is held cannot be kept for the next start");
                    }
                }
                Output::Fence(delivery) => self.handlers.fence(&delivery),
                Output::Keep(letter) => self.kept.keep(&letter),
                Output::Settled(id) => self.kept.settle(&id),
                Output::Notice(notice) => {
                    news = true;
                    self.say(Word::Notice(notice), now.wall);
                }
                Output::Left => self.ended = Some(Ok(())),
            }
        }
        if self.ended.is_some() {
            for (word, time) in self.kept.rest() {
                self.tell_people(&word, time);
            }
        }
        if news || now.at.since(self.status_at) >= STATUS_AGE {
            self.status_at = now.at;
            self.status.send_replace(Arc::new(self.node.status()));
        }
    }

    fn say(&mut self, word: Word, time: Wall) {
        if let Some((word, time)) = self.kept.hold(word, time) {
            self.tell_people(&word, time);
        }
    }

    fn tell_people(&mut self, word: &Word, time: Wall) {
        let notice = match word {
            Word::Notice(notice) => notice,
            Word::Started(delivery, waited, version) => return notices::started(delivery, *waited, Some(*version)),
        };
        notices::log(notice);
        self.events.note(notice, time);
        self.answer_asked(notice);
        if let Some(error) = notices::fatal(notice, &self.node.status()) {
            self.ended = Some(Err(error));
        }
    }

    fn tell(&mut self, news: Option<Input>) {
        let Some(input) = news else { return };
        let ready = match &input {
            Input::HandlerReady { handler, .. } => Some(handler.clone()),
            Input::CheckDone { number, .. } => {
                self.checks.remove(number);
                None
            }
            _ => None,
        };
        self.node.handle(self.clock.now(), input);
        if let Some(handler) = ready {
            self.tell_asks(handler);
        }
    }

    /// What the version that runs now asks for and is not granted.
    fn tell_asks(&mut self, handler: HandlerName) {
        let missing = self.handlers.current(&handler).map(|loaded| loaded.missing()).unwrap_or_default();
        for ask in &missing {
            tracing::warn!(target: "picored::handler", %handler, ask = ask.ask, remedy = ask.remedy, "is not granted");
        }
        self.node.handle(self.clock.now(), Input::HandlerAsks { handler, missing });
    }

    /// Does what the admin socket was told.
    fn command(&mut self, Command { change, reply }: Command) {
        match change {
            Change::Run { handler, event, app, dry_run } => {
                self.run_by_hand(&handler, event, app.as_ref(), dry_run, reply);
            }
            Change::Maintenance { app, on, limit } => self.maintain(app.as_ref(), on, limit, reply),
            Change::Hold { name, limit } => self.hold(&name, limit, reply),
            Change::Release { name } => self.release(&name, reply),
            Change::Redeliver { delivery } => self.redeliver(&delivery, reply),
            Change::Beat { app, result } => self.beat(&app, &result, reply),
            Change::Leave { now } => self.leave(now, reply),
            Change::Forget { member } => self.forget(&member, reply),
            Change::Reload { dry_run } => self.reload(Request { dry_run, reply: Some(reply) }),
            Change::Upgrade { handler, component } => {
                let news = self.handlers.change(handler, Some(component), reply);
                self.tell(news);
            }
            Change::Rollback { handler } => {
                let news = self.handlers.change(handler, None, reply);
                self.tell(news);
            }
        }
    }

    /// Starts a task whose result comes in as an input.
    fn start(&self, task: impl Future<Output = Input> + Send + 'static) -> AbortHandle {
        handlers::report(&self.reports.0, async { Report::Node(task.await) })
    }

    fn resolve(&self, name: String, port: u16) {
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
            Input::Resolved { name, port, addresses }
        });
    }

    fn check(&mut self, number: u64, app: App) {
        let (prober, metrics) = (self.prober.clone(), self.metrics.clone());
        let check = self.start(async move {
            let begun = tokio::time::Instant::now();
            let result = prober.probe(&app).await;
            metrics.checked(app.name.as_str(), begun.elapsed());
            Input::CheckDone { number, result }
        });
        self.checks.insert(number, check);
    }
}
