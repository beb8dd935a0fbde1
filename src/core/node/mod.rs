//! One node: the owner of all machines, and the only thing the shell talks to.
//!
//! Inputs go in by [`Node::handle`], time by [`Node::handle_timeout`] (at [`Node::poll_timeout`]), effects come out of
//! [`Node::poll_output`]. Nothing is called back and nothing is shared. The path of one event runs through this module
//! from top to bottom: a datagram is opened, foca or a record changes, the view is compared with the one before
//! (`deliver`), and what a handler shall hear of leaves as [`Output::Invoke`].

mod agree;
mod deliver;
mod exchange;
mod leave;
mod manual;
mod reconfigure;
mod status;
#[cfg(test)]
mod tests;
mod upgrade;

pub use manual::ManualError;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::agreement::Difference;
use crate::config::{App, Handler, Profile, Seed};
use crate::contacts::{Contacts, Opened};
use crate::digest::Digest;
use crate::envelope::{self, Cluster, ClusterKey, MAX_DATAGRAM, Refusal, Sealer};
use crate::event::{DeliveryId, Event, RunEnd};
use crate::health::Health;
use crate::identity::Identity;
use crate::ledger::{Delivery, Ledger, Outcome, ScopeKey};
use crate::membership::Membership;
use crate::message::Message;
use crate::name::{AppName, ClusterName, HandlerName, NodeName};
use crate::plan::Plan;
use crate::record::{AppRecord, AppState, HandlerTag, MAX_RECORD, Record, Records};
use crate::snapshot::Snapshot;
use crate::status::{LastRun, LastUpgrade, MissingAsk};
use crate::time::{Instant, Now, TimerQueue};
use crate::versions::{Takeover, Versions};
use crate::view::View;

pub use self::reconfigure::Reconfiguration;

/// What a message's own tag and length add to a packet of foca's.
const MESSAGE_OVERHEAD: usize = 4;
/// How often suspects are told that they are suspected, and the view is compared with foca's list.
const LOOK: Duration = Duration::from_secs(1);
/// A refused datagram is told of at most this often for each reason.
const TELL_REFUSALS: Duration = Duration::from_secs(60);

/// What a node starts with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Unique in the cluster.
    pub name: NodeName,
    /// The cluster.
    pub cluster: ClusterName,
    /// Its key.
    pub key: ClusterKey,
    /// Higher than at any start before, and durable before the first datagram is sent.
    pub boot: u64,
    /// What others dial.
    pub advertise: SocketAddr,
    /// Where to look for members.
    pub seeds: Vec<Seed>,
    /// The gossip's tempo.
    pub profile: Profile,
    /// This node's applications.
    pub apps: Vec<App>,
    /// Its handlers.
    pub handlers: Vec<Handler>,
    /// Where all of its randomness comes from.
    pub random: [u8; 32],
}

/// Why a node cannot start, or cannot take another config in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// What the node would say of itself does not fit into a datagram.
    #[error(
        "the applications and handlers of this node take {0} bytes on the wire, {MAX_RECORD} are possible: use shorter \
         names, fewer of them or fewer publish addresses"
    )]
    RecordTooLarge(usize),
    /// It ends, and nothing else.
    #[error("this node is leaving its cluster")]
    Leaving,
}

/// What happened outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// A datagram came in.
    Datagram {
        /// From where.
        from: SocketAddr,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// A seed's name was looked up; no address if that failed.
    Resolved {
        /// The name.
        name: String,
        /// The port that came with it.
        port: u16,
        /// Its addresses.
        addresses: Vec<SocketAddr>,
    },
    /// A check has ended; if it was bad, with the reason.
    CheckDone {
        /// The check's number. A result that nobody waits for any more is not taken.
        number: u64,
        /// How.
        result: Result<(), String>,
    },
    /// A run has ended.
    RunDone {
        /// Which.
        id: DeliveryId,
        /// How.
        end: RunEnd,
        /// After how long.
        took: Duration,
        /// Of which version; none if none could be loaded.
        version: Option<Digest>,
    },
    /// A handler cannot be loaded.
    HandlerState {
        /// Which.
        handler: HandlerName,
        /// Why, to be shown.
        state: String,
    },
    /// A handler was loaded: what it asks for and is not granted.
    HandlerAsks {
        /// Which.
        handler: HandlerName,
        /// What is missing.
        missing: Vec<MissingAsk>,
    },
    /// A version of a handler takes over: every run that starts from now on is its.
    HandlerReady {
        /// Which handler.
        handler: HandlerName,
        /// Which version.
        version: Digest,
        /// How it comes.
        takeover: Takeover,
    },
    /// A new version of a handler cannot be used; the old one stays.
    UpgradeRefused {
        /// Which handler.
        handler: HandlerName,
        /// Why.
        reason: String,
    },
    /// Leave the cluster. [`Output::Left`] follows when all members know, or at the latest after three seconds.
    Leave,
}

/// What the shell shall do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a datagram. It may be lost; it is never owed.
    Send {
        /// To whom.
        to: SocketAddr,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// Look up a seed's name, and answer with [`Input::Resolved`].
    Resolve {
        /// The name.
        name: String,
        /// The port that comes with it.
        port: u16,
    },
    /// Check an application, and answer with [`Input::CheckDone`].
    Check {
        /// Unlike that of any other check of this node's.
        number: u64,
        /// The application, as it is configured now.
        app: Box<App>,
    },
    /// Load a handler that could not be loaded, and answer with [`Input::HandlerReady`] or [`Input::HandlerState`].
    Load(HandlerName),
    /// Run a handler, and answer with [`Input::RunDone`].
    Invoke(Box<Invocation>),
    /// The version of this handler that took over last has failed: the one before runs again, from the next
    /// [`Output::Invoke`] on.
    RollBack {
        /// Which handler.
        handler: HandlerName,
    },
    /// This generation is in use: the next start's boot must be higher.
    RaiseGeneration(u64),
    /// Something that a person may want to know.
    Notice(Notice),
    /// The cluster knows that this node has left: the process may end.
    Left,
}

/// One run to do.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// For what.
    pub delivery: Delivery,
    /// What the run sees.
    pub snapshot: Arc<Snapshot>,
    /// How long the delivery was due before it started.
    pub queued: Duration,
}

/// What a person may want to know.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A seed has answered and its view was taken over.
    Joined {
        /// How many members are active, this one included.
        members: usize,
    },
    /// Something happened in the cluster.
    Event(Event),
    /// This node's own verdict on an application changed.
    Health {
        /// Which.
        app: AppName,
        /// The verdict.
        state: AppState,
        /// What the last bad check said, if it is down.
        reason: String,
    },
    /// A delivery, or one try of it, has ended.
    Ended {
        /// Which.
        delivery: Box<Delivery>,
        /// How it counts.
        outcome: Outcome,
        /// What the run said; none if it did not run.
        end: Option<RunEnd>,
        /// How long the run took.
        took: Duration,
    },
    /// Another version of a handler runs from now on.
    Takeover {
        /// Which handler.
        handler: HandlerName,
        /// How it comes.
        takeover: Takeover,
        /// Which version.
        version: Digest,
        /// The one until now.
        before: Option<Digest>,
    },
    /// A new version of a handler failed, and the one before runs again.
    RolledBack {
        /// Which handler.
        handler: HandlerName,
        /// The one that runs.
        version: Digest,
        /// The one that failed.
        failed: Digest,
        /// How its last run ended.
        reason: String,
    },
    /// A new version of a handler cannot be used.
    UpgradeRefused {
        /// Which handler.
        handler: HandlerName,
        /// Why.
        reason: String,
    },
    /// A node's handler differs from what most nodes hold it to be, and is not run there; or this is over.
    Mismatch {
        /// Which.
        handler: HandlerName,
        /// The odd node.
        node: NodeName,
        /// In what; `None` when it is over, because they agree or the node is gone.
        differs: Option<Difference>,
    },
    /// Nothing is up for an application: the last set stays published.
    Held {
        /// Which.
        app: AppName,
    },
    /// Datagrams were refused.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Where the last one came from.
        from: SocketAddr,
        /// How many in all, for this reason.
        count: u64,
    },
    /// The cluster took this node for dead; it has a new identity now.
    Rejoined {
        /// The new one.
        generation: u64,
    },
    /// Another live node has this node's name.
    NameTaken {
        /// Where it is.
        holder: SocketAddr,
        /// Whether this node was a member already; if not, it cannot join.
        joined: bool,
    },
}

#[derive(Debug)]
enum Tick {
    Look,
    Exchange,
    LookAgain(ScopeKey),
    SpreadLeave,
}

#[derive(Debug, Default)]
struct HandlerBook {
    state: String,
    missing: Vec<MissingAsk>,
    /// When it is told to look again.
    reconcile_at: Instant,
    /// The nodes that differ from most in it.
    mismatches: BTreeMap<NodeName, Difference>,
    outcomes: BTreeMap<&'static str, u64>,
    last: Option<LastRun>,
    versions: Versions,
    upgrade: Option<LastUpgrade>,
}

/// One node.
pub struct Node {
    settings: Settings,
    cluster: Cluster,
    sealer: Sealer,
    contacts: Contacts,
    membership: Membership,
    records: Records,
    /// In the order of the applications in the settings.
    health: Vec<Health>,
    checks_started: u64,
    view: View,
    plan: Plan,
    ledger: Ledger,
    books: BTreeMap<HandlerName, HandlerBook>,
    /// When this node begins to run handlers; none before it knows enough to do so.
    runs_from: Option<Instant>,
    /// The scopes that this node runs.
    own_scopes: std::collections::BTreeSet<ScopeKey>,
    /// Those among them that may have had another runner until now, and when its last run is over.
    look_again: BTreeMap<ScopeKey, Instant>,
    held: std::collections::BTreeSet<AppName>,
    next_local_event: u64,
    exchange: exchange::State,
    leaving: Option<leave::Leaving>,
    datagrams: BTreeMap<&'static str, u64>,
    refusals_told: HashMap<Refusal, Instant>,
    dirty: bool,
    timers: TimerQueue<Tick>,
    outputs: VecDeque<Output>,
    rng: StdRng,
}

impl Node {
    /// A node that begins to look for its cluster at once.
    pub fn new(now: Now, settings: Settings) -> Result<Self, SettingsError> {
        let mut rng = StdRng::from_seed(settings.random);
        let cluster = Cluster::new(settings.cluster.clone(), settings.key.clone());
        let identity = Identity { name: settings.name.clone(), generation: settings.boot, address: settings.advertise };
        let max_packet = MAX_DATAGRAM - envelope::overhead(&settings.name) - MESSAGE_OVERHEAD;
        let foca_rng = StdRng::from_rng(&mut rng);
        let mut node = Self {
            sealer: Sealer::new(&cluster, &settings.name, settings.boot),
            cluster,
            contacts: Contacts::default(),
            membership: Membership::new(identity, settings.profile, max_packet, foca_rng),
            records: Records::default(),
            health: settings.apps.iter().map(|_| Health::new(now.at)).collect(),
            checks_started: 0,
            view: View::default(),
            plan: Plan::default(),
            ledger: Ledger::default(),
            books: settings.handlers.iter().map(|h| (h.name.clone(), HandlerBook::default())).collect(),
            runs_from: None,
            own_scopes: Default::default(),
            look_again: BTreeMap::new(),
            held: Default::default(),
            next_local_event: 0,
            exchange: exchange::State::new(now.at, &settings),
            leaving: None,
            datagrams: BTreeMap::new(),
            refusals_told: HashMap::new(),
            dirty: true,
            timers: TimerQueue::default(),
            outputs: VecDeque::new(),
            rng,
            settings,
        };
        let record = node.own_record(1);
        record_fits(&record, node.handler_tags())?;
        node.membership.broadcast(now.at, &record);
        node.records.take(record);
        node.timers.push(now.at + LOOK, Tick::Look);
        node.timers.push(now.at + exchange::PERIOD, Tick::Exchange);
        for handler in node.settings.handlers.clone() {
            node.schedule_reconcile(now.at, &handler);
        }
        Ok(node)
    }

    /// Whether this node has found its cluster. Before that it decides nothing.
    pub fn is_joined(&self) -> bool {
        self.exchange.is_joined()
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Datagram { from, data } => self.on_datagram(now, from, &data),
            Input::Resolved { name, port, addresses } => self.on_resolved(now.at, name, port, addresses),
            Input::CheckDone { number, result } => self.on_check_done(now.at, number, result),
            Input::RunDone { id, end, took, version } => self.on_run_done(now, &id, end, took, version),
            Input::HandlerState { handler, state } => {
                if let Some(book) = self.books.get_mut(&handler) {
                    book.state = state;
                }
            }
            Input::HandlerAsks { handler, missing } => {
                if let Some(book) = self.books.get_mut(&handler) {
                    book.missing = missing;
                }
            }
            Input::HandlerReady { handler, version, takeover } => self.on_ready(now, &handler, version, takeover),
            Input::UpgradeRefused { handler, reason } => self.on_upgrade_refused(now, handler, reason),
            Input::Leave => self.leave(now.at),
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.membership.handle_timeout(now.at);
        for (app, health) in self.settings.apps.iter().zip(&mut self.health) {
            let number = self.checks_started + 1;
            if self.leaving.is_none() && health.start_check(now.at, number) {
                self.checks_started = number;
                self.outputs.push_back(Output::Check { number, app: Box::new(app.clone()) });
            }
        }
        if self.leaving.is_none() && self.exchange.next_contact() <= now.at {
            self.contact(now.at);
        }
        self.reconcile_due(now);
        while let Some(tick) = self.timers.pop_due(now.at) {
            match tick {
                Tick::Look => {
                    self.tell_suspects();
                    self.dirty = true;
                    self.timers.push(now.at + LOOK, Tick::Look);
                }
                Tick::Exchange => self.exchange_with_somebody(now.at),
                Tick::LookAgain(key) => self.on_look_again(now, &key),
                Tick::SpreadLeave => self.spread_leave(now.at),
            }
        }
        self.settle(now);
    }

    /// When to come back, at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let health = self.health.iter().filter(|_| self.leaving.is_none()).filter_map(Health::poll_timeout).min();
        let ledger =
            self.runs_from.filter(|_| self.may_run()).and_then(|from| Some(self.ledger.poll_timeout()?.max(from)));
        let contact = Some(self.exchange.next_contact()).filter(|_| self.leaving.is_none());
        let reconcile = self.books.values().map(|book| book.reconcile_at).min();
        let own = [self.timers.next_at(), self.membership.poll_timeout(), contact, health, ledger, reconcile];
        own.into_iter().flatten().min()
    }

    /// The next effect, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Brings everything in line after an input: the one place where consequences are drawn.
    fn settle(&mut self, now: Now) {
        for record in self.membership.take_news() {
            self.dirty |= self.records.take(record);
        }
        let changes = self.membership.take_changes();
        self.dirty |= changes.members;
        if changes.rejoined {
            let generation = self.membership.identity().generation;
            self.outputs.push_back(Output::RaiseGeneration(generation));
            self.notice(Notice::Rejoined { generation });
            self.exchange.contact_soon(now.at);
            if self.leaving.is_some() {
                // Who leaves says which life of it does.
                self.change_own_record(now.at);
            }
        }
        for identity in changes.returned {
            self.ask_about(&identity);
        }
        if std::mem::take(&mut self.dirty) {
            self.refresh(now);
        }
        self.dispatch(now);
        self.flush();
    }

    /// Seals and sends what foca wants sent.
    fn flush(&mut self) {
        for (to, data) in self.membership.take_sends() {
            self.send(to.address, &Message::Gossip(data));
        }
    }

    fn send(&mut self, to: SocketAddr, message: &Message) {
        let data = self.sealer.seal(&message.encode());
        self.count("sent");
        self.outputs.push_back(Output::Send { to, data });
    }

    fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }

    fn count(&mut self, what: &'static str) -> u64 {
        let count = self.datagrams.entry(what).or_default();
        *count += 1;
        *count
    }

    fn on_datagram(&mut self, now: Now, from: SocketAddr, data: &[u8]) {
        match self.contacts.open(&self.cluster, now.at, data) {
            Ok(Opened::Confirmed(sender, payload)) => self.on_payload(now, from, &sender, &payload),
            Ok(Opened::Stranger(sender, payload)) => self.on_stranger(now, from, &sender, payload),
            Err(refusal) => self.refuse(now.at, from, refusal),
        }
    }

    fn refuse(&mut self, now: Instant, from: SocketAddr, refusal: Refusal) {
        let count = self.count(refusal.as_str());
        let told = self.refusals_told.get(&refusal);
        if told.is_none_or(|told| now.since(*told) >= TELL_REFUSALS) {
            self.refusals_told.insert(refusal, now);
            self.notice(Notice::Refused { refusal, from, count });
        }
    }

    /// From a sender that has not yet proven that it lives: only answers to this node's own questions count.
    fn on_stranger(&mut self, now: Now, from: SocketAddr, sender: &NodeName, payload: Vec<u8>) {
        let kept = match Message::decode(&payload) {
            None => return self.refuse(now.at, from, Refusal::Malformed),
            Some(Message::Challenge { nonce }) => return self.send(from, &Message::Response { nonce }),
            Some(Message::Response { nonce }) => self.contacts.answer(sender, nonce),
            Some(Message::Welcome { nonce, .. } | Message::NameTaken { nonce, .. })
                if self.exchange.has_greeted(nonce) =>
            {
                let kept = self.contacts.confirm(sender);
                self.on_payload(now, from, sender, &payload);
                kept
            }
            Some(Message::Hello { nonce, ref identity })
                if identity.name == *sender && !self.may_have_name(now.at, from, nonce, identity) =>
            {
                return;
            }
            Some(_) => {
                if let Some(nonce) = self.contacts.keep(now.at, sender, from, payload, &mut self.rng) {
                    self.send(from, &Message::Challenge { nonce });
                }
                None
            }
        };
        let is_confirmed = kept.is_some();
        for (from, payload) in kept.into_iter().flatten() {
            self.on_payload(now, from, sender, &payload);
        }
        if is_confirmed && !self.is_joined() {
            // It may have spoken to an earlier life of this node: a member to join by, whoever the seeds are.
            self.greet(now.at, vec![from]);
        }
    }

    fn on_payload(&mut self, now: Now, from: SocketAddr, sender: &NodeName, payload: &[u8]) {
        let Some(message) = Message::decode(payload) else {
            return self.refuse(now.at, from, Refusal::Malformed);
        };
        self.count("accepted");
        match message {
            Message::Gossip(data) => {
                if self.membership.handle_data(now.at, &data).is_err() {
                    self.refuse(now.at, from, Refusal::Malformed);
                }
            }
            Message::Hello { nonce, identity } => {
                if identity.name == *sender {
                    self.on_hello(from, nonce, &identity);
                }
            }
            Message::Welcome { nonce, identity } => self.on_welcome(now.at, nonce, identity),
            Message::NameTaken { nonce, holder } => {
                if self.exchange.has_greeted(nonce) {
                    let joined = self.is_joined();
                    self.notice(Notice::NameTaken { holder, joined });
                }
            }
            Message::Challenge { nonce } => self.send(from, &Message::Response { nonce }),
            Message::Response { nonce } => self.exchange.note_response(sender, nonce),
            Message::Digest(digest) => self.on_digest(now.at, from, sender, &digest),
            Message::Entries(entries) => self.on_entries(now.at, entries),
            Message::Suspected { identity, incarnation } => self.membership.refute(now.at, &identity, incarnation),
        }
    }

    fn tell_suspects(&mut self) {
        let suspects: Vec<_> = self.membership.suspects().map(|(id, incarnation)| (id.clone(), incarnation)).collect();
        for (identity, incarnation) in suspects {
            let to = identity.address;
            self.send(to, &Message::Suspected { identity, incarnation });
        }
    }

    fn on_check_done(&mut self, now: Instant, number: u64, result: Result<(), String>) {
        let (mut apps, rng) = (self.settings.apps.iter().zip(&mut self.health), &mut self.rng);
        let changed = apps
            .find_map(|(app, health)| health.finish_check(now, number, app, &result, rng).then_some((app, &*health)));
        let Some((app, health)) = changed else { return };
        let (name, state) = (app.name.clone(), health.state());
        let reason = if state == AppState::Down { health.reason().to_owned() } else { String::new() };
        self.notice(Notice::Health { app: name, state, reason });
        self.change_own_record(now);
    }

    /// Writes this node's record anew and spreads it.
    fn change_own_record(&mut self, now: Instant) {
        let sequence = self.records.get(&self.settings.name).map_or(1, |record| record.sequence + 1);
        let record = self.own_record(sequence);
        self.membership.broadcast(now, &record);
        self.records.take(record);
        self.membership.gossip(now);
        self.dirty = true;
    }

    fn own_record(&self, sequence: u64) -> Record {
        let before = self.records.get(&self.settings.name);
        let apps = self.settings.apps.iter().zip(&self.health).map(|(app, health)| {
            let state = health.state();
            let before = before.and_then(|record| record.apps.iter().find(|known| known.name == app.name));
            AppRecord {
                name: app.name.clone(),
                state,
                changed: before.filter(|known| known.state == state).map_or(sequence, |known| known.changed),
                port: app.check.port(),
                publish: app.publish.clone(),
            }
        });
        Record {
            node: self.settings.name.clone(),
            boot: self.settings.boot,
            sequence,
            leaving: self.leaving.as_ref().map(|_| self.membership.identity().generation),
            apps: apps.collect(),
            ready: self.is_ready(),
            handlers: self.handler_tags(),
        }
    }

    fn handler_tags(&self) -> Vec<HandlerTag> {
        let component = |handler: &Handler| self.books.get(&handler.name).and_then(|book| book.versions.current());
        self.settings.handlers.iter().map(|handler| HandlerTag::new(handler, component(handler))).collect()
    }

    fn jittered(&mut self, period: Duration) -> Duration {
        period.mul_f64(self.rng.random_range(0.8..=1.2))
    }
}

/// Whether `record` fits into a datagram even when it names all `handlers`.
fn record_fits(record: &Record, handlers: Vec<HandlerTag>) -> Result<(), SettingsError> {
    let handlers = handlers.into_iter().map(HandlerTag::largest).collect();
    let size = Record { handlers, ..record.clone() }.encode().len();
    if size > MAX_RECORD { Err(SettingsError::RecordTooLarge(size)) } else { Ok(()) }
}
