//! A cluster of whole machines on a virtual clock: the loop that lets time pass, and what may be done to the machines.
//!
//! Whatever comes next in time happens next: a datagram or an answer arrives, or a program wants to be called. Nobody else
//! is asked, so that a thousand machines cost what they do, not what they are. All randomness is drawn from one seed.

mod fault;
mod stream;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use picored_core::digest::Digest;
use picored_core::event::{DeliveryId, Outcome, RunEnd, StopReason};
use picored_core::name::{AppName, NodeName};
use picored_core::node::{Input, Node, Notice, Output};
use picored_core::record::AppState;
use picored_core::time::{Instant, Now, TimerQueue, Wall};
use picored_core::versions::Takeover;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::machine::{Arrival, Machine};
use crate::measure::{Measures, Truth};
use crate::network::{Kind, Network};
use crate::program::{Program, System};
use crate::provider::{self, Mood};
use crate::report::Report;
use crate::template::Template;
use crate::trace::{Line, Trace, What, wanted};

pub(crate) use self::stream::Turn;

/// The wall clock's time at the simulation's start, in milliseconds since the Unix epoch.
pub const EPOCH_MS: u64 = 1_700_000_000_000;
/// A check that is answered well takes this time.
const GOOD_CHECK: Duration = Duration::from_millis(5);

/// One cluster, one seed, one history.
pub struct Simulation {
    seed: u64,
    rng: StdRng,
    now: Instant,
    /// The network between the machines.
    pub network: Network,
    system: System,
    template: Template,
    /// The size that foca is told to expect.
    size: usize,
    machines: Vec<Machine>,
    names: HashMap<NodeName, usize>,
    addresses: HashMap<SocketAddr, usize>,
    arrivals: TimerQueue<Arrival>,
    streams: stream::Streams,
    wakes: BTreeSet<(Instant, usize)>,
    measures: Measures,
    trace: Trace,
    /// How long a run of a handler takes.
    pub run_takes: Duration,
    /// How the runs on a machine end, which write nothing then; else the provider says.
    pub run_ends: BTreeMap<usize, RunEnd>,
    /// What the provider is like, half of the time; if empty it is well.
    pub moods: Vec<Mood>,
    /// The deliveries that have ended, of which machine and life.
    ended: BTreeSet<(usize, u32, DeliveryId)>,
    /// Which defences the nodes have that start from now on.
    #[cfg(feature = "controls")]
    pub defences: picored_core::defences::Defences,
}

impl Simulation {
    /// A network without machines. They will be about `size`.
    pub fn new(seed: u64, system: System, template: Template, size: usize) -> Self {
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            now: Instant::default(),
            network: Network::default(),
            system,
            template,
            size,
            machines: Vec::new(),
            names: HashMap::new(),
            addresses: HashMap::new(),
            arrivals: TimerQueue::default(),
            streams: Default::default(),
            wakes: BTreeSet::new(),
            measures: Measures::default(),
            trace: Trace::default(),
            run_takes: Duration::from_millis(20),
            run_ends: BTreeMap::new(),
            moods: Vec::new(),
            ended: BTreeSet::new(),
            #[cfg(feature = "controls")]
            defences: Default::default(),
        }
    }

    /// The time that has passed.
    pub fn elapsed(&self) -> Duration {
        self.now.since_origin()
    }

    /// How many machines there are, up or down.
    pub fn len(&self) -> usize {
        self.machines.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    /// Draws from the simulation's own randomness, so that a test's choices belong to the seed.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// The node on a machine, if it runs and is picored's.
    pub fn node(&self, machine: usize) -> Option<&Node> {
        self.machines.get(machine)?.program.as_ref()?.node()
    }

    #[cfg(feature = "controls")]
    fn node_mut(&mut self, machine: usize) -> Option<&mut Node> {
        self.machines.get_mut(machine)?.program.as_mut()?.node_mut()
    }

    /// Whether a program runs on the machine.
    pub fn runs(&self, machine: usize) -> bool {
        self.machines[machine].runs()
    }

    /// What happened of late, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.trace.lines.iter()
    }

    /// What led to the first mistake, if there was one.
    pub fn first_mistake(&self) -> Option<String> {
        let lines = &self.trace.first_mistake;
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// What led to the first mistake, if there was one, and the last that happened.
    pub fn trace(&self) -> String {
        self.trace.text()
    }

    /// The members in the record of an application, as the last run that was done wrote it.
    pub fn record(&self, app: &AppName) -> Option<&BTreeSet<NodeName>> {
        self.measures.record(app)
    }

    /// The figures until now.
    pub fn report(&self) -> Report {
        self.measures.report(self.seed, &self.truth())
    }

    /// How often a node was called down that was up.
    pub fn false_downs(&self) -> u64 {
        self.measures.false_downs()
    }

    fn truth(&self) -> Truth<'_> {
        Truth { now: self.now, machines: &self.machines, network: &self.network }
    }

    fn now_on(&self, machine: usize) -> Now {
        let behind = self.machines[machine].clock_behind;
        let wall = EPOCH_MS + self.now.since_origin().as_millis() as u64;
        Now { at: self.now, wall: Wall(wall.saturating_sub(behind.as_millis() as u64)) }
    }

    fn note(&mut self, machine: Option<usize>, what: What) {
        self.trace.push(Line { at: self.now, machine, what });
    }

    fn fault(&mut self, machine: Option<usize>, text: impl Into<String>) {
        self.note(machine, What::Fault(text.into()));
    }

    /// Whether all that run hold all that run, and nobody else, to be there.
    pub fn all_see_each_other(&self) -> bool {
        let there: BTreeSet<&str> =
            self.machines.iter().filter(|machine| machine.is_up()).map(|machine| machine.name.as_str()).collect();
        self.machines.iter().filter(|machine| machine.is_up()).all(|machine| {
            let own = machine.name.as_str();
            let seen = machine.program.as_ref().map(|program| program.sees(own)).unwrap_or_default();
            seen.len() + 1 == there.len() && seen.iter().all(|name| there.contains(name.as_str()))
        })
    }

    /// Whether everybody has called down who crashed.
    pub fn all_detected(&self) -> bool {
        self.measures.all_detected()
    }

    /// Whether all hold each other to be up that a cut kept apart.
    pub fn is_healed(&self) -> bool {
        self.measures.is_healed()
    }

    /// Whether all have heard of the last verdict on every application.
    pub fn all_told(&self) -> bool {
        self.measures.all_told()
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until something is so, at most for `limit`. How long it took; none if it was not so in time.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let (start, end) = (self.now, self.now + limit);
        while !done(self) {
            if !self.step(end) {
                self.now = end;
                return done(self).then_some(limit);
            }
        }
        Some(self.now - start)
    }

    /// Lets time pass until all see each other, looking ten times a second, at most for `limit`. How long it took.
    pub fn settle(&mut self, limit: Duration) -> Option<Duration> {
        let (start, pause) = (self.now, Duration::from_millis(100));
        while !self.all_see_each_other() {
            if self.now - start + pause > limit {
                return None;
            }
            self.run(pause);
        }
        Some(self.now - start)
    }

    fn step(&mut self, end: Instant) -> bool {
        let wake = self.wakes.first().copied();
        let arrival = self.arrivals.next_at();
        let Some(next) = [wake.map(|(at, _)| at), arrival].into_iter().flatten().min().filter(|next| *next <= end)
        else {
            return false;
        };
        self.now = self.now.max(next);
        match wake {
            Some((at, machine)) if arrival.is_none_or(|arrival| at < arrival) => self.call(machine),
            _ => {
                if let Some(arrival) = self.arrivals.pop_due(self.now) {
                    self.arrive(arrival);
                }
            }
        }
        true
    }

    /// Calls a program that wanted to be.
    fn call(&mut self, machine: usize) {
        let now = self.now_on(machine);
        if let Some(program) = &mut self.machines[machine].program {
            program.handle_timeout(now);
            let again = program.poll_timeout();
            assert!(again.is_none_or(|at| at > now.at), "what is due was done, and time moves on");
            self.after(machine);
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let (machine, life) = match &arrival {
            Arrival::Datagram { to, .. } => match self.addresses.get(to) {
                Some(machine) if self.machines[*machine].runs() && self.machines[*machine].address == *to => {
                    (*machine, self.machines[*machine].life)
                }
                _ => return self.network.packets.unclaimed += 1,
            },
            Arrival::CheckDone { machine, life, .. }
            | Arrival::Told { machine, life, .. }
            | Arrival::RunDone { machine, life, .. } => (*machine, *life),
            Arrival::Stream { id, turn } => return self.on_turn(*id, *turn),
            Arrival::Late { wanted } => return self.write(None, wanted, 1.0),
        };
        if self.machines[machine].life != life {
            return;
        }
        if self.machines[machine].held.is_some() {
            let is_datagram = matches!(arrival, Arrival::Datagram { .. });
            let is_kept = self.machines[machine].hold(arrival);
            self.network.packets.dropped += u64::from(is_datagram && !is_kept);
            return;
        }
        match arrival {
            Arrival::Datagram { from, data, .. } => {
                self.network.packets.delivered += 1;
                let now = self.now_on(machine);
                if let Some(program) = &mut self.machines[machine].program {
                    program.handle_datagram(now, from, data);
                }
                self.after(machine);
            }
            Arrival::CheckDone { number, good, .. } => {
                let result = if good { Ok(()) } else { Err("no answer".into()) };
                self.tell(machine, Input::CheckDone { number, result });
            }
            Arrival::Told { input, .. } => self.tell(machine, *input),
            // These go on without a program.
            Arrival::Stream { .. } | Arrival::Late { .. } => {}
            Arrival::RunDone { run, answer, .. } => {
                let stopped = || RunEnd::Stopped(StopReason::Fenced, "another has written what is newer".into());
                let is_fenced = self.machines[machine].fenced.take_if(|id| *id == run.delivery.id).is_some();
                let forced = if is_fenced { Some(stopped()) } else { self.run_ends.get(&machine).cloned() };
                if forced.is_none() && answer.late.is_none() {
                    self.write(Some(machine), &provider::wanted(&run), answer.share);
                }
                let (id, version) = (run.delivery.id.clone(), Some(Digest::new([1; 32])));
                let end = forced.unwrap_or(answer.end);
                self.tell(machine, Input::RunDone { id, end, took: answer.takes, version });
            }
        }
    }

    /// The provider does that share of what was asked for; nothing if there is none.
    fn write(&mut self, machine: Option<usize>, wanted: &provider::Sets, share: f64) {
        if share == 0.0 {
            return;
        }
        let mut sets = wanted.clone();
        if share < 1.0 {
            for (app, set) in &mut sets {
                let before = self.measures.record(app).cloned().unwrap_or_default();
                set.extend(before.into_iter().filter(|_| !self.rng.random_bool(share)));
            }
        }
        let truth = Truth { now: self.now, machines: &self.machines, network: &self.network };
        if let Some(mistake) = self.measures.on_written(&truth, sets) {
            self.note(machine, mistake);
        }
    }

    /// Does what a program wants done, and notes when it wants to be called.
    fn after(&mut self, machine: usize) {
        while let Some(output) = self.machines[machine].program.as_mut().and_then(Program::poll_output) {
            self.effect(machine, output);
        }
        self.rewake(machine);
    }

    fn rewake(&mut self, machine: usize) {
        let state = &mut self.machines[machine];
        let wake = state.program.as_ref().filter(|_| state.held.is_none()).and_then(Program::poll_timeout);
        if wake != state.wake {
            if let Some(before) = std::mem::replace(&mut state.wake, wake) {
                self.wakes.remove(&(before, machine));
            }
            self.wakes.extend(wake.map(|wake| (wake, machine)));
        }
    }

    fn effect(&mut self, machine: usize, output: Output) {
        let Machine { life, address: from, app_answers, .. } = self.machines[machine];
        match output {
            Output::Send { to, data } => {
                let target = self.addresses.get(&to).copied();
                let arrivals =
                    self.network.carry(self.now, &mut self.rng, (machine, target), Kind::Datagram, data.len());
                for at in arrivals.into_iter().flatten() {
                    self.arrivals.push(at, Arrival::Datagram { to, from, data: data.clone() });
                }
            }
            Output::Check { number, app } => {
                let took = if app_answers { GOOD_CHECK } else { app.timeout };
                let done = Arrival::CheckDone { machine, life, number, good: app_answers };
                self.arrivals.push(self.now + took, done);
            }
            Output::Invoke(run) => {
                self.note(Some(machine), What::Run(wanted(&run)));
                let truth = Truth { now: self.now, machines: &self.machines, network: &self.network };
                if let Some(mistake) = self.measures.on_run(&truth, machine, &run) {
                    self.note(Some(machine), mistake);
                }
                let answer = provider::answer(&self.moods, &mut self.rng, self.run_takes);
                if let Some(after) = answer.late.filter(|_| !self.run_ends.contains_key(&machine)) {
                    self.arrivals.push(self.now + after, Arrival::Late { wanted: provider::wanted(&run) });
                }
                self.arrivals.push(self.now + answer.takes, Arrival::RunDone { machine, life, run, answer });
            }
            Output::Notice(notice) => self.notice(machine, notice),
            Output::Left => {
                self.fault(Some(machine), "has left");
                self.end(machine, false);
            }
            Output::RaiseGeneration(generation) => {
                let durable = &mut self.machines[machine].durable_generation;
                *durable = generation.max(*durable);
            }
            // No operator is simulated.
            Output::Maintain(_) | Output::Hold(_) | Output::EndCheck { .. } | Output::Keep(_) | Output::Settled(_) => {}
            Output::Fence(delivery) => self.machines[machine].fenced = Some(delivery),
            Output::Remember(members) => self.machines[machine].remembered = members,
            Output::Load(handler) => {
                let version = Digest::new([1; 32]);
                self.tell(machine, Input::HandlerReady { handler, version, takeover: Takeover::Load });
            }
            Output::Dial { .. } | Output::Frame { .. } | Output::Listen { .. } | Output::Close { .. } => {
                self.on_stream(machine, output);
            }
            // Seeds are addresses here, and every version is the same.
            Output::Resolve { .. } | Output::RollBack { .. } => {}
        }
    }

    fn notice(&mut self, machine: usize, notice: Notice) {
        let truth = Truth { now: self.now, machines: &self.machines, network: &self.network };
        let mut mistake = None;
        match &notice {
            Notice::Event(event) => {
                let subject = event.member.as_ref().and_then(|name| self.names.get(name));
                if let Some(subject) = subject {
                    mistake = self.measures.on_event(&truth, machine, *subject, event);
                }
            }
            Notice::Rejoined { .. } => self.measures.on_renewal(),
            Notice::Health { app, state, .. } => {
                let is_down = *state == AppState::Down;
                // The first verdict of a life is news to nobody who has only just come.
                if is_down != self.machines[machine].calls_app_down {
                    self.measures.on_verdict(&truth, machine, app, *state);
                }
                self.machines[machine].calls_app_down = is_down;
            }
            Notice::Ended { delivery, outcome, .. } if *outcome != Outcome::Retry => {
                let life = self.machines[machine].life;
                if !self.ended.insert((machine, life, delivery.id.clone())) {
                    self.measures.on_double_outcome();
                    mistake = Some(What::Wrong(format!("{} ends for the second time", delivery.id)));
                }
            }
            _ => {}
        }
        if !matches!(notice, Notice::Ended { .. }) {
            self.note(Some(machine), What::Notice(Box::new(notice)));
        }
        if let Some(mistake) = mistake {
            self.note(Some(machine), mistake);
        }
    }
}

impl Drop for Simulation {
    /// A failing test says what happened, and how to see it again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            // Cargo names a test's program by its target and a hash.
            let program = std::env::current_exe().unwrap_or_default();
            let stem = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let target = stem.rsplit_once('-').map_or(stem.as_str(), |(target, _)| target);
            let replay = format!("replay: PICORED_SEED={} cargo test -p picored-sim --test {target} {test}", self.seed);
            let text = format!("{}\n{replay}\n", self.trace());
            // Who closed standard error does not want to know.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        }
    }
}
