//! A cluster of whole nodes on a virtual clock and a seeded network: loss, delay, cuts, crashes, restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::{
    Held, Input, Invocation, Maintained, Node, Notice, Output, Reconfiguration, Settings, SettingsError,
};
use crate::config::{App, Check, GovernorRules, Handler, Pattern, Profile, RunOn, Seed, Source, TcpCheck, TwoNode};
use crate::digest::Digest;
use crate::envelope::ClusterKey;
use crate::event::{DeliveryId, Event, EventKind, Outcome, RunEnd, StopReason};
use crate::letter::Letter;
use crate::name::{AppName, ClusterName, HandlerName, NodeName};
use crate::time::{Instant, Now, TimerQueue, Wall};
use crate::versions::Takeover;

use super::tcp::Tcp;

const EPOCH_MS: u64 = 1_700_000_000_000;

/// The seeds of a test: so many, or as many as the long run asks for, or the one to replay.
#[expect(clippy::disallowed_methods, reason = "the one way to replay a seed, and to try more")]
pub(super) fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("PICORED_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("PICORED_SEEDS").map_or(count, |asked| asked.max(count))).collect(),
    }
}

enum Arrival {
    Datagram { to: SocketAddr, from: SocketAddr, data: Vec<u8> },
    CheckDone { node: usize, life: u32, number: u64, good: bool },
    Stream { node: usize, life: u32, input: Input },
    RunDone { node: usize, life: u32, run: Box<Invocation>, version: Option<Digest> },
}

pub(super) struct Slot {
    pub(super) node: Option<Node>,
    pub(super) life: u32,
    pub(super) address: SocketAddr,
    app_good: bool,
    left: bool,
}

/// One thing that a node did or said.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) at_ms: u64,
    pub(super) node: usize,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Notice(Notice),
    /// A run, and the addresses that it saw as wanted.
    Run(Box<Invocation>),
    /// The disk was given this.
    Kept(DeliveryId),
    /// This run may send nothing more.
    Fenced(DeliveryId),
}

pub(super) struct Net {
    seed: u64,
    pub(super) rng: StdRng,
    now: Instant,
    pub(super) slots: Vec<Slot>,
    arrivals: TimerQueue<Arrival>,
    pub(super) loss: f64,
    /// Pairs of slots that cannot reach each other.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// How much longer all takes that a slot sends, and all that is sent to it.
    pub(super) delays: BTreeMap<usize, Duration>,
    /// Slots that get no CPU until then: what comes for them waits.
    stalled: BTreeMap<usize, Instant>,
    /// Nodes to and from which no datagram comes through.
    pub(super) no_datagrams: BTreeSet<usize>,
    pub(super) tcp: Tcp,
    /// How the runs of a node end; default: done.
    pub(super) run_ends: BTreeMap<usize, RunEnd>,
    pub(super) run_takes: Duration,
    /// The version of the handler that runs on a node, then the one before.
    pub(super) versions: BTreeMap<usize, Vec<Digest>>,
    /// What each disk keeps of maintenance.
    maintained: BTreeMap<usize, Vec<Maintained>>,
    /// What each disk keeps of holds.
    held: BTreeMap<usize, Vec<Held>>,
    /// What each disk keeps of deliveries.
    pub(super) letters: BTreeMap<usize, BTreeMap<DeliveryId, Letter>>,
    /// The checks that a node wanted ended: the node, the check's number.
    pub(super) ended_checks: Vec<(usize, u64)>,
    /// What each disk keeps of the members.
    pub(super) remembered: BTreeMap<usize, Vec<SocketAddr>>,
    /// How all runs of this version end.
    pub(super) bad_version: Option<(Digest, RunEnd)>,
    /// Nodes whose runs take nine seconds.
    pub(super) slow: BTreeSet<usize>,
    fenced: BTreeSet<(usize, DeliveryId)>,
    pub(super) trace: Vec<Line>,
    /// What the last run that worked has written: the members in the record of `www`.
    pub(super) record: Vec<String>,
    /// Applications, by node, whose checks fail whatever else is said.
    pub(super) failing: BTreeSet<(usize, AppName)>,
    /// Which node that run was on.
    pub(super) writer: Option<usize>,
    /// The first byte of a node's components, 0 if they cannot be loaded; else 1.
    pub(super) components: BTreeMap<usize, u8>,
    /// Nodes whose application answers well and badly in turn.
    pub(super) flapping: BTreeSet<usize>,
    /// How many checks each node has begun.
    pub(super) checks: BTreeMap<usize, u64>,
    /// How many datagrams were sent.
    pub(super) sent: u64,
    /// How many names were looked up.
    pub(super) lookups: u64,
    /// Every datagram that was sent, when recording.
    pub(super) recorded: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
}

impl Drop for Net {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let seed = self.seed;
            let lines: Vec<String> = self.trace.iter().rev().take(60).rev().map(|line| format!("{line:?}")).collect();
            let replay = format!("replay: PICORED_SEED={seed} cargo test -p picored-core {test}");
            std::io::Write::write_all(&mut std::io::stderr(), format!("{}\n{replay}\n", lines.join("\n")).as_bytes())
                .expect("stderr");
        }
    }
}

pub(super) fn address(slot: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, slot as u8 + 1], 7946))
}

pub(super) fn node_name(slot: usize) -> NodeName {
    NodeName::new(&format!("web{}", slot + 1)).unwrap()
}

pub(super) fn names(slots: impl IntoIterator<Item = usize>) -> Vec<String> {
    slots.into_iter().map(|slot| node_name(slot).to_string()).collect()
}

pub(super) fn www() -> AppName {
    AppName::new("www").unwrap()
}

impl Net {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            now: Instant::default(),
            slots: Vec::new(),
            arrivals: TimerQueue::default(),
            loss: 0.0,
            cut: BTreeSet::new(),
            delays: BTreeMap::new(),
            stalled: BTreeMap::new(),
            no_datagrams: BTreeSet::new(),
            tcp: Tcp::default(),
            run_ends: BTreeMap::new(),
            run_takes: Duration::from_millis(20),
            versions: BTreeMap::new(),
            maintained: BTreeMap::new(),
            held: BTreeMap::new(),
            letters: BTreeMap::new(),
            ended_checks: Vec::new(),
            remembered: BTreeMap::new(),
            bad_version: None,
            slow: BTreeSet::new(),
            fenced: BTreeSet::new(),
            trace: Vec::new(),
            record: Vec::new(),
            failing: BTreeSet::new(),
            writer: None,
            components: BTreeMap::new(),
            flapping: BTreeSet::new(),
            checks: BTreeMap::new(),
            sent: 0,
            lookups: 0,
            recorded: None,
        }
    }

    /// `count` nodes that joined and whose applications are up.
    pub(super) fn settled(seed: u64, count: usize) -> Self {
        let mut net = Self::new(seed);
        for slot in 0..count {
            net.start(slot);
        }
        net.run_until("all are joined and up", 30_000, |net| net.all_see_up(count));
        // What the start brought about has been delivered, and looked at again.
        net.run(12_000);
        net.trace.clear();
        net
    }

    pub(super) fn settings(&mut self, slot: usize) -> Settings {
        let text = |text: &str| text.to_owned();
        Settings {
            name: node_name(slot),
            cluster: ClusterName::new("test").unwrap(),
            key: ClusterKey::new([7; 32]),
            boot: EPOCH_MS + self.ms(),
            advertise: address(slot),
            seeds: vec![Seed::Address(address(0)), Seed::Address(address(1))],
            remembered: self.remembered.get(&slot).cloned().unwrap_or_default(),
            profile: Profile::Lan,
            expect: 1,
            two_node: TwoNode::Hold,
            governor: GovernorRules::default(),
            apps: vec![App {
                name: www(),
                publish: vec![SocketAddr::from(([192, 0, 2, slot as u8 + 1], 80)).ip()],
                check: Check::Tcp(TcpCheck { host: "127.0.0.1".into(), port: 80 }),
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(2),
                rise: 2,
                fall: 3,
            }],
            maintained: self.maintained.get(&slot).cloned().unwrap_or_default().into_iter().collect(),
            held: self.held.get(&slot).cloned().unwrap_or_default().into_iter().collect(),
            handlers: vec![Handler {
                name: HandlerName::new("dns").unwrap(),
                source: Source::Builtin(text("ok")),
                on: EventKind::ALL.to_vec(),
                apps: vec![Pattern::new("www")],
                run_on: RunOn::One,
                watch: false,
                reconcile_every: Duration::from_secs(300),
                timeout: Duration::from_secs(10),
                config: BTreeMap::new(),
                http: Vec::new(),
            }],
            letters: self.letters.get(&slot).into_iter().flat_map(BTreeMap::values).cloned().collect(),
            random: self.rng.random(),
        }
    }

    /// Starts a node, or starts it again.
    pub(super) fn start(&mut self, slot: usize) {
        let settings = self.settings(slot);
        self.start_as(slot, settings);
    }

    pub(super) fn start_as(&mut self, slot: usize, settings: Settings) {
        let life = self.slots.get(slot).map_or(0, |slot| slot.life) + 1;
        let address = settings.advertise;
        let node = Some(Node::new(self.now(), settings).unwrap());
        let slot_state = Slot { node, life, address, app_good: true, left: false };
        if slot < self.slots.len() {
            self.slots[slot] = slot_state;
        } else {
            assert_eq!(slot, self.slots.len());
            self.slots.push(slot_state);
        }
        self.drain(slot);
        self.load_missing(slot);
    }

    fn load_missing(&mut self, slot: usize) {
        for handler in self.node(slot).status().handlers.into_iter().filter(|handler| handler.version.is_none()) {
            self.load(slot, HandlerName::new(&handler.name).unwrap());
        }
    }

    /// A node's handler is loaded, or cannot be.
    pub(super) fn load(&mut self, slot: usize, handler: HandlerName) {
        let component = Some(self.components.get(&slot).copied().unwrap_or(1)).filter(|first| *first > 0);
        let Some(first) = component else {
            return self.handle(slot, Input::HandlerState { handler, state: "broken".into() });
        };
        let version = Digest::new([first; 32]);
        let shown = self.node(slot).status().handlers;
        let is_first = shown.iter().any(|it| it.name == handler.as_str() && it.version.is_none());
        let takeover = if is_first { Takeover::Load } else { Takeover::Upgrade };
        let versions = self.versions.entry(slot).or_default();
        if versions.first() != Some(&version) {
            versions.insert(0, version);
        }
        self.handle(slot, Input::HandlerReady { handler, version, takeover });
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, slot: usize) {
        self.slots[slot].node = None;
        self.slots[slot].life += 1;
        self.end_connections(slot);
    }

    pub(super) fn set_app(&mut self, slot: usize, good: bool) {
        self.slots[slot].app_good = good;
    }

    pub(super) fn leave(&mut self, slot: usize) {
        self.handle(slot, Input::Leave);
    }

    /// A time of day, in milliseconds of the net's own clock.
    pub(super) fn since_epoch(&self, wall: Wall) -> u64 {
        wall.0 - EPOCH_MS
    }

    pub(super) fn has_left(&self, slot: usize) -> bool {
        self.slots[slot].left
    }

    pub(super) fn node(&self, slot: usize) -> &Node {
        self.slots[slot].node.as_ref().expect("a running node")
    }

    pub(super) fn ms(&self) -> u64 {
        self.now.since_origin().as_millis() as u64
    }

    pub(super) fn now(&self) -> Now {
        Now { at: self.now, wall: Wall(EPOCH_MS + self.ms()) }
    }

    pub(super) fn handle(&mut self, slot: usize, input: Input) {
        let now = self.now();
        if let Some(node) = &mut self.slots[slot].node {
            node.handle(now, input);
        }
        self.drain(slot);
    }

    /// Gives a running node another config.
    pub(super) fn reconfigure(&mut self, slot: usize, new: Reconfiguration) -> Result<(), SettingsError> {
        let now = self.now();
        let node = self.slots[slot].node.as_mut().expect("a running node");
        let taken = node.reconfigure(now, new);
        self.drain(slot);
        self.load_missing(slot);
        taken
    }

    /// Cuts a slot off from all others.
    pub(super) fn isolate(&mut self, slot: usize) {
        let others = (0..self.slots.len()).filter(|other| *other != slot);
        self.cut = others.map(|other| (slot.min(other), slot.max(other))).collect();
    }

    /// Gives a slot no CPU for so long.
    pub(super) fn stall(&mut self, slot: usize, ms: u64) {
        self.stalled.insert(slot, self.now + Duration::from_millis(ms));
    }

    /// Until when this slot gets no CPU, if it gets none now.
    fn stalled_until(&self, slot: usize) -> Option<Instant> {
        self.stalled.get(&slot).copied().filter(|until| *until > self.now)
    }

    /// Delivers bytes as they are.
    pub(super) fn inject(&mut self, to: usize, from: SocketAddr, data: Vec<u8>) {
        self.handle(to, Input::Datagram { from, data });
    }

    pub(super) fn drain(&mut self, slot: usize) {
        let at_ms = self.ms();
        loop {
            let (life, from) = (self.slots[slot].life, self.slots[slot].address);
            let Some(output) = self.slots[slot].node.as_mut().and_then(Node::poll_output) else { return };
            match output {
                Output::Send { to, data } => {
                    self.sent += 1;
                    assert!(data.len() <= crate::envelope::MAX_DATAGRAM);
                    if let Some(recorded) = &mut self.recorded {
                        recorded.push((from, to, data.clone()));
                    }
                    let mut delay = Duration::from_micros(self.rng.random_range(100..3000));
                    for (slow, more) in &self.delays {
                        delay += if *slow == slot || address(*slow) == to { *more } else { Duration::ZERO };
                    }
                    if !self.rng.random_bool(self.loss) {
                        self.arrivals.push(self.now + delay, Arrival::Datagram { to, from, data });
                    }
                }
                Output::Check { number, app } => {
                    *self.checks.entry(slot).or_default() += 1;
                    self.slots[slot].app_good ^= self.flapping.contains(&slot);
                    let good = self.slots[slot].app_good && !self.failing.contains(&(slot, app.name));
                    let took = Duration::from_millis(if good { 5 } else { 2000 });
                    self.arrivals.push(self.now + took, Arrival::CheckDone { node: slot, life, number, good });
                }
                Output::Invoke(run) => {
                    self.trace.push(Line { at_ms, node: slot, what: What::Run(run.clone()) });
                    let takes = if self.slow.contains(&slot) { Duration::from_secs(9) } else { self.run_takes };
                    let version = self.versions.get(&slot).and_then(|versions| versions.first().copied());
                    self.arrivals.push(self.now + takes, Arrival::RunDone { node: slot, life, run, version });
                }
                Output::RollBack { .. } => drop(self.versions.get_mut(&slot).expect("it has versions").remove(0)),
                Output::Notice(notice) => self.trace.push(Line { at_ms, node: slot, what: What::Notice(notice) }),
                Output::Left => {
                    self.slots[slot].left = true;
                    self.kill(slot);
                }
                Output::Load(handler) => self.load(slot, handler),
                Output::Dial { .. } | Output::Frame { .. } | Output::Listen { .. } | Output::Close { .. } => {
                    self.on_stream(slot, output);
                }
                Output::Resolve { .. } => self.lookups += 1,
                Output::RaiseGeneration(_) => {}
                Output::EndCheck { number } => self.ended_checks.push((slot, number)),
                Output::Maintain(apps) => drop(self.maintained.insert(slot, apps)),
                Output::Hold(held) => drop(self.held.insert(slot, held)),
                Output::Keep(letter) => {
                    self.trace.push(Line { at_ms, node: slot, what: What::Kept(letter.id()) });
                    let letters = self.letters.entry(slot).or_default();
                    letters.insert(letter.id(), Letter::clone(&letter));
                }
                Output::Settled(id) => drop(self.letters.entry(slot).or_default().remove(&id)),
                Output::Fence(id) => {
                    self.trace.push(Line { at_ms, node: slot, what: What::Fenced(id.clone()) });
                    self.fenced.insert((slot, id));
                }
                Output::Remember(members) => drop(self.remembered.insert(slot, members)),
            }
        }
    }

    /// Hands a node something about a connection, after a moment.
    pub(super) fn tell_later(&mut self, node: usize, input: Input) {
        let life = self.slots[node].life;
        self.arrivals.push(self.now + Duration::from_millis(2), Arrival::Stream { node, life, input });
    }

    /// Lets `ms` of virtual time pass.
    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.step(end) {}
        self.now = end;
    }

    pub(super) fn run_until(&mut self, what: &str, ms: u64, mut done: impl FnMut(&Self) -> bool) {
        let end = self.now + Duration::from_millis(ms);
        while !done(self) {
            assert!(self.step(end), "not within {ms} ms: {what}");
        }
    }

    fn step(&mut self, end: Instant) -> bool {
        // What has come in counts before what is overdue, as the driver has it: who gets CPU again looks at that first.
        let woken = |slot: usize, at: Instant| {
            self.stalled_until(slot).map_or(at, |until| at.max(until + Duration::from_millis(1)))
        };
        let timeouts = self.slots.iter().enumerate();
        let timeouts =
            timeouts.filter_map(|(index, slot)| Some(woken(index, slot.node.as_ref()?.poll_timeout()?))).min();
        let Some(next) = [timeouts, self.arrivals.next_at()].into_iter().flatten().min() else { return false };
        if next > end {
            return false;
        }
        self.now = self.now.max(next);
        for slot in 0..self.slots.len() {
            let now = self.now();
            if self.stalled_until(slot).is_some() {
                continue;
            }
            if let Some(node) = &mut self.slots[slot].node
                && node.poll_timeout().is_some_and(|at| at <= now.at)
            {
                // What is done may make something else due at once, but not for ever.
                let is_done = (0..3).any(|_| {
                    node.handle_timeout(now);
                    node.poll_timeout().is_none_or(|at| at > now.at)
                });
                assert!(is_done, "what is due was done, and time moves on");
                self.drain(slot);
            }
        }
        while let Some(arrival) = self.arrivals.pop_due(self.now) {
            self.arrive(arrival);
        }
        true
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Datagram { to, from, data } => {
                let slot_of = |address| self.slots.iter().rposition(|slot| slot.address == address);
                let Some(target) = slot_of(to) else { return };
                if let Some(until) = self.stalled_until(target) {
                    return self.arrivals.push(until, Arrival::Datagram { to, from, data });
                }
                let source = slot_of(from).unwrap_or(usize::MAX);
                let pair = (target.min(source), target.max(source));
                let passes = ![target, source].iter().any(|end| self.no_datagrams.contains(end));
                if passes && !self.cut.contains(&pair) {
                    self.handle(target, Input::Datagram { from, data });
                }
            }
            Arrival::Stream { node, life, input } => {
                if let Some(until) = self.stalled_until(node) {
                    return self.arrivals.push(until, Arrival::Stream { node, life, input });
                }
                if self.slots[node].life == life {
                    self.handle(node, input);
                }
            }
            Arrival::CheckDone { node, life, number, good } => {
                if self.slots[node].life == life {
                    let result = if good { Ok(()) } else { Err("timed out".into()) };
                    self.handle(node, Input::CheckDone { number, result });
                }
            }
            Arrival::RunDone { node, life, run, version } => {
                if self.slots[node].life == life {
                    let done = RunEnd::Done { changed: true, text: String::new() };
                    let stopped = || RunEnd::Stopped(StopReason::Fenced, "another has written".into());
                    let end = match &self.bad_version {
                        _ if self.fenced.remove(&(node, run.delivery.id.clone())) => stopped(),
                        Some((bad, end)) if version == Some(*bad) => end.clone(),
                        _ => self.run_ends.get(&node).cloned().unwrap_or(done),
                    };
                    if matches!(end, RunEnd::Done { .. }) && run.snapshot.apps.contains_key(&www()) {
                        self.record = wanted(&run);
                        self.writer = Some(node);
                    }
                    let id = run.delivery.id.clone();
                    self.handle(node, Input::RunDone { id, end, took: self.run_takes, version });
                }
            }
        }
    }

    /// The running nodes whose application answers.
    pub(super) fn healthy(&self) -> Vec<String> {
        let good = self.running().filter(|slot| self.slots[*slot].app_good);
        let mut names: Vec<_> = good.map(|slot| node_name(slot).to_string()).collect();
        names.sort();
        names
    }

    pub(super) fn is_running(&self, slot: usize) -> bool {
        self.slots[slot].node.is_some()
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(|slot| self.slots[*slot].node.is_some())
    }

    /// Whether every running node is joined and sees `count` members alive with their application up.
    pub(super) fn all_see_up(&self, count: usize) -> bool {
        self.running().all(|slot| {
            let status = self.node(slot).status();
            let up = status.members.iter().filter(|member| {
                member.state == "alive" && member.apps.iter().all(|app| app.state == "up") && !member.apps.is_empty()
            });
            status.state == "joined" && up.count() == count
        })
    }

    /// How `slot` sees `other`.
    pub(super) fn sees(&self, slot: usize, other: usize) -> Option<String> {
        let name = node_name(other).to_string();
        self.node(slot).status().members.into_iter().find(|member| member.name == name).map(|member| member.state)
    }

    /// The events that were told of, as (node, kind, member).
    pub(super) fn events(&self, kind: EventKind) -> Vec<(usize, String)> {
        let member = |event: &Event| event.member.as_ref().map(ToString::to_string).unwrap_or_default();
        let events = self.trace.iter().filter_map(|line| match &line.what {
            What::Notice(Notice::Event(event)) if event.kind == kind => Some((line.node, member(event))),
            _ => None,
        });
        events.collect()
    }

    /// All runs: when, on which node, for what.
    pub(super) fn runs(&self) -> Vec<(u64, usize, &Invocation)> {
        let runs = self.trace.iter().filter_map(|line| match &line.what {
            What::Run(run) => Some((line.at_ms, line.node, &**run)),
            _ => None,
        });
        runs.collect()
    }

    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        let ended = self.trace.iter().filter_map(|line| match &line.what {
            What::Notice(Notice::Ended { outcome, .. }) => Some(*outcome),
            _ => None,
        });
        ended.collect()
    }
}

/// The members whose addresses a run saw as wanted.
pub(super) fn wanted(run: &Invocation) -> Vec<String> {
    run.snapshot.apps[&www()].endpoints.iter().map(|endpoint| endpoint.member.to_string()).collect()
}
