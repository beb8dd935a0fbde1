//! One node: the owner of all machines, and the only thing the shell talks to.
//!
//! Inputs go in by [`Node::handle`], time by [`Node::handle_timeout`] (at [`Node::poll_timeout`]), effects come out of
//! [`Node::poll_output`]. Nothing is called back and nothing is shared. The path of one event runs through this module
//! from top to bottom: a datagram is opened, foca or a record changes, the view is compared with the one before
//! (`deliver`), and what a handler shall hear of leaves as [`Output::Invoke`].

mod agree;
mod beat;
mod boundary;
mod datagram;
mod deliver;
mod drain;
mod evidence;
mod exchange;
mod forget;
mod govern;
mod heal;
mod hold;
mod keep;
mod leave;
mod maintain;
mod manual;
mod missing;
mod range;
mod receipt;
mod reconfigure;
mod stand_in;
mod status;
mod stream;
mod summary;
#[cfg(test)]
mod tests;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::agreement::Difference;
use crate::config::{Check, Handler};
use crate::contacts::Contacts;
use crate::defences::Defences;
use crate::envelope::{self, Cluster, MAX_DATAGRAM, Refusal, Sealer};
use crate::event::DeliveryId;
use crate::governor::Governor;
use crate::health::Health;
use crate::identity::Identity;
use crate::ledger::{Ledger, ScopeKey};
use crate::membership::Membership;
use crate::name::{AppName, HandlerName, NodeName};
use crate::receipt::{Receipt, Receipts};
use crate::record::{AppRecord, AppState, HandlerTag, MAX_RECORD, Record, Records};
use crate::stale::Stale;
use crate::status::{LastRun, LastUpgrade, MissingAsk};
use crate::time::{Instant, Now, TimerQueue};
use crate::versions::Versions;
use crate::view::View;

pub use self::beat::BeatError;
pub use self::boundary::{Input, Invocation, Notice, Output, Settings, SettingsError};
pub use self::forget::ForgetError;
pub use self::hold::{Held, HoldError};
pub use self::maintain::{Maintained, Maintenance, NoSuchApp};
pub use self::manual::ManualError;
pub use self::missing::MAX_REMEMBERED;
pub use self::reconfigure::Reconfiguration;

/// What a message's own tag and length add to a packet of foca's.
const MESSAGE_OVERHEAD: usize = 4;

#[derive(Debug)]
enum Tick {
    /// Suspects are told that they are suspected, and foca's list is looked at for what foca does not tell.
    Look,
    Exchange,
    LookAgain(ScopeKey),
    /// The failures of this node's runs in a scope are forgotten.
    Forgive(ScopeKey),
    SpreadLeave,
    /// A connection that this node opened has had its time.
    HangUp(u64),
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
    /// How many dead letters went because there were too many, or they were too old.
    dead_dropped: u64,
    last: Option<LastRun>,
    versions: Versions,
    upgrade: Option<LastUpgrade>,
}

/// One node.
pub struct Node {
    settings: Settings,
    defences: Defences,
    cluster: Cluster,
    sealer: Sealer,
    contacts: Contacts,
    membership: Membership,
    records: Records,
    /// In the order of the applications in the settings.
    health: Vec<Health>,
    checks_started: u64,
    view: View,
    governor: Governor,
    govern: govern::State,
    ledger: Ledger,
    receipts: Receipts,
    /// What will be told of the runs that go on.
    drafts: BTreeMap<DeliveryId, Receipt>,
    /// Which receipt of each application was taken for what is published, and for which members.
    adopted: BTreeMap<AppName, (u64, BTreeSet<NodeName>)>,
    books: BTreeMap<HandlerName, HandlerBook>,
    /// When this node begins to run handlers; none before it knows enough to do so.
    runs_from: Option<Instant>,
    /// The scopes that this node runs.
    own_scopes: BTreeSet<ScopeKey>,
    /// Those among them that may have had another runner until now, and when its last run is over.
    look_again: BTreeMap<ScopeKey, Instant>,
    /// When the last run in a scope ended that failed, until one is done.
    failed_at: BTreeMap<ScopeKey, Instant>,
    /// The scopes in which the last run of this node failed: until when others run them.
    failing: BTreeMap<ScopeKey, Instant>,
    next_local_event: u64,
    exchange: exchange::State,
    heal: heal::State,
    streams: stream::State,
    leaving: Option<leave::Leaving>,
    draining: Option<drain::Draining>,
    datagrams: BTreeMap<&'static str, u64>,
    refusals_told: HashMap<Refusal, Instant>,
    /// Of whom the view may be wrong.
    stale: Stale,
    /// The time of the last call.
    seen: Now,
    timers: TimerQueue<Tick>,
    outputs: VecDeque<Output>,
    rng: StdRng,
}

impl Node {
    /// A node that begins to look for its cluster at once.
    pub fn new(now: Now, mut settings: Settings) -> Result<Self, SettingsError> {
        let letters = std::mem::take(&mut settings.letters);
        let mut rng = StdRng::from_seed(settings.random);
        let cluster = Cluster::new(settings.cluster.clone(), settings.key.clone());
        let identity = Identity { name: settings.name.clone(), generation: settings.boot, address: settings.advertise };
        let max_packet = MAX_DATAGRAM - envelope::overhead(&settings.name) - MESSAGE_OVERHEAD;
        let foca_rng = StdRng::from_rng(&mut rng);
        let mut node = Self {
            sealer: Sealer::new(&cluster, &settings.name, settings.boot),
            defences: Defences::default(),
            cluster,
            contacts: Contacts::default(),
            membership: Membership::new(identity, settings.profile, max_packet, foca_rng),
            records: Records::default(),
            health: settings.apps.iter().map(|app| Health::new(now.at, &app.check)).collect(),
            checks_started: 0,
            view: View::default(),
            governor: Governor::default(),
            govern: govern::State::default(),
            ledger: Ledger::default(),
            receipts: Receipts::default(),
            drafts: BTreeMap::new(),
            adopted: BTreeMap::new(),
            books: settings.handlers.iter().map(|h| (h.name.clone(), HandlerBook::default())).collect(),
            runs_from: None,
            own_scopes: Default::default(),
            look_again: BTreeMap::new(),
            failed_at: BTreeMap::new(),
            failing: BTreeMap::new(),
            next_local_event: 0,
            exchange: exchange::State::new(now.at, &settings),
            heal: heal::State::default(),
            streams: stream::State::default(),
            leaving: None,
            draining: None,
            datagrams: BTreeMap::new(),
            refusals_told: HashMap::new(),
            stale: Stale::All,
            seen: now,
            timers: TimerQueue::default(),
            outputs: VecDeque::new(),
            rng,
            settings,
        };
        let record = node.own_record(1);
        record_fits(&record, node.handler_tags())?;
        node.membership.broadcast(now.at, &record);
        node.records.take(record);
        node.timers.push(node.membership.next_look(now.at), Tick::Look);
        node.timers.push(now.at + exchange::PERIOD, Tick::Exchange);
        for handler in node.settings.handlers.clone() {
            node.schedule_reconcile(now.at, &handler);
        }
        node.restore(now, letters);
        Ok(node)
    }

    /// Whether this node has found its cluster. Before that it decides nothing.
    pub fn is_joined(&self) -> bool {
        self.exchange.is_joined()
    }

    /// Only these of its defences stand from now on.
    #[cfg(feature = "controls")]
    pub fn set_defences(&mut self, defences: Defences) {
        self.defences = defences;
        self.membership.set_defences(defences);
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.note_standstill(now);
        match input {
            Input::Datagram { from, data } => self.on_datagram(now, from, &data),
            Input::Frame { connection, from, data } => self.on_frame(now, connection, from, &data),
            Input::FrameRefused { from, refusal } => self.refuse(now.at, from, refusal),
            Input::Closed { connection } => self.on_closed(connection),
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
        self.note_standstill(now);
        self.membership.handle_timeout(now.at);
        if self.leaving.is_none() {
            self.start_checks(now.at);
            self.look_for_beats(now.at);
        }
        if self.leaving.is_none() && self.exchange.next_contact() <= now.at {
            self.contact(now.at);
        }
        self.heal_due(now.at);
        self.maintenance_due(now);
        self.holds_due(now);
        self.reconcile_due(now);
        while let Some(tick) = self.timers.pop_due(now.at) {
            match tick {
                Tick::Look => {
                    self.membership.look_at_suspects(now.at);
                    self.note_losses(now.at);
                    self.tell_suspects();
                    self.ask_for_quorum(now.at);
                    self.look_at_degraded();
                    // Until it runs handlers it waits for a time that may come without any change.
                    if self.runs_from.is_none() {
                        self.stale = Stale::All;
                    }
                    self.timers.push(self.membership.next_look(now.at), Tick::Look);
                }
                Tick::Exchange => {
                    self.exchange_with_somebody(now.at);
                    self.remember(now.at);
                    self.expire_letters(now.wall);
                }
                Tick::LookAgain(key) => self.on_look_again(now, &key),
                Tick::Forgive(key) => self.forgive(now.at, &key),
                Tick::SpreadLeave => self.spread_leave(now.at),
                Tick::HangUp(number) => self.hang_up(number),
            }
        }
        self.settle(now);
    }

    /// When to come back, at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let health = self.health.iter().filter(|_| self.leaving.is_none()).filter_map(Health::poll_timeout).min();
        let ledger = self
            .runs_from
            .filter(|_| self.may_start() && self.has_quorum(self.seen.at))
            .and_then(|from| Some(self.ledger.poll_timeout()?.max(from)));
        let contact = Some(self.exchange.next_contact()).filter(|_| self.leaving.is_none());
        let reconcile = self.books.values().map(|book| book.reconcile_at).min();
        let timers = [
            self.timers.next_at(),
            self.membership.poll_timeout(),
            self.govern_timeout(),
            self.maintenance_ends(),
            self.hold_ends(),
            self.drain_ends(),
        ];
        let own = timers.into_iter().chain([contact, health, self.heal.poll_timeout(), ledger, reconcile]);
        own.flatten().min()
    }

    /// The next effect, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Brings everything in line after an input: the one place where consequences are drawn.
    fn settle(&mut self, now: Now) {
        self.seen = now;
        for record in self.membership.take_news() {
            if record.node == self.settings.name {
                self.outdo(now.at, &record);
            } else {
                self.take_record(record);
            }
        }
        let receipts = self.membership.take_receipts();
        self.take_receipts(now.at, receipts);
        let changes = self.membership.take_changes();
        if !changes.members.is_empty() {
            self.note_losses(now.at);
            self.stale.join(changes.members);
        }
        if changes.rejoined {
            let generation = self.membership.identity().generation;
            self.outputs.push_back(Output::RaiseGeneration(generation));
            self.notice(Notice::Rejoined { generation });
            self.exchange.contact_soon(now.at);
            // What was to be spread may be forgotten.
            if let Some(record) = self.records.get(&self.settings.name) {
                self.membership.broadcast(now.at, record);
            }
            if self.leaving.is_some() {
                // Who leaves says which life of it does.
                self.change_own_record(now.at);
            }
        }
        for identity in changes.returned {
            self.meet(now.at, &identity);
        }
        self.ask_suspects(now.at);
        self.drain_due(now.at);
        let stale = std::mem::take(&mut self.stale);
        if !stale.is_empty() {
            self.refresh(now, &stale);
        }
        if self.govern_due(now.at) {
            let changed = self.govern(now);
            self.reconcile_apps(now, &changed);
        }
        self.dispatch(now);
        self.flush();
    }

    fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }

    fn count(&mut self, what: &'static str) -> u64 {
        let count = self.datagrams.entry(what).or_default();
        *count += 1;
        *count
    }

    fn start_checks(&mut self, now: Instant) {
        for (app, health) in self.settings.apps.iter().zip(&mut self.health) {
            let number = self.checks_started + 1;
            if health.start_check(now, number) {
                self.checks_started = number;
                self.outputs.push_back(Output::Check { number, app: Box::new(app.clone()) });
            }
        }
    }

    fn on_check_done(&mut self, now: Instant, number: u64, result: Result<(), String>) {
        let (mut apps, rng) = (self.settings.apps.iter().zip(&mut self.health), &mut self.rng);
        if let Some(index) = apps.position(|(app, health)| health.finish_check(now, number, app, &result, rng)) {
            self.verdict_changed(now, index);
        }
    }

    /// Tells of the verdict on the application at `index`, which is another now.
    fn verdict_changed(&mut self, now: Instant, index: usize) {
        let (app, health) = (self.settings.apps[index].name.clone(), &self.health[index]);
        let state = health.state();
        let reason = if state == AppState::Down { health.reason().to_owned() } else { String::new() };
        self.notice(Notice::Health { app, state, reason });
        self.change_own_record(now);
    }

    /// Writes this node's record anew and spreads it.
    fn change_own_record(&mut self, now: Instant) {
        let sequence = self.records.get(&self.settings.name).map_or(1, |record| record.sequence + 1);
        let record = self.own_record(sequence);
        self.membership.broadcast(now, &record);
        self.take_record(record);
        self.membership.gossip(now);
    }

    fn take_record(&mut self, record: Record) {
        let name = record.node.clone();
        if self.records.take(record) {
            self.stale.add(&name);
        }
    }

    fn own_record(&self, sequence: u64) -> Record {
        let before = self.records.get(&self.settings.name);
        let apps = self.settings.apps.iter().zip(&self.health).map(|(app, health)| {
            let is_maintained = self.draining.is_some() || self.settings.maintained.contains_key(&app.name);
            let state = if is_maintained { AppState::Maintenance } else { health.state() };
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
            failing: self.failing_tags(),
            holding: self.holding_tags(),
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
