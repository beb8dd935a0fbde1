//! A cluster of whole machines on a virtual clock: the loop that lets time pass, and what may be done to the machines.
//!
//! Whatever comes next in time happens next: a datagram or an answer arrives, or a program wants to be called. Nobody else
//! is asked, so that a thousand machines cost what they do, not what they are. All randomness is drawn from one seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use picored_core::digest::Digest;
use picored_core::event::RunEnd;
use picored_core::name::{AppName, NodeName};
use picored_core::node::{Input, Node, Notice, Output, Settings};
use picored_core::record::AppState;
use picored_core::time::{Instant, Now, TimerQueue, Wall};
use picored_core::versions::Takeover;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::machine::{Arrival, Machine};
use crate::measure::{Measures, Truth};
use crate::network::{CutId, Network};
use crate::program::{Program, System};
use crate::report::Report;
use crate::template::{Template, address};
use crate::trace::{Line, Trace, What, wanted};

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
    wakes: BTreeSet<(Instant, usize)>,
    measures: Measures,
    trace: Trace,
    /// How long a run of a handler takes.
    pub run_takes: Duration,
    /// How the runs on a machine end; else they are done.
    pub run_ends: BTreeMap<usize, RunEnd>,
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
            wakes: BTreeSet::new(),
            measures: Measures::default(),
            trace: Trace::default(),
            run_takes: Duration::from_millis(20),
            run_ends: BTreeMap::new(),
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

    // What may be done to machines.

    /// Another machine, and a program on it. Its number: the first is 0.
    pub fn add(&mut self) -> usize {
        let machine = self.machines.len();
        self.machines.push(Machine::new(machine));
        self.names.insert(self.machines[machine].name.clone(), machine);
        self.start(machine);
        machine
    }

    /// What a program on this machine would start with now.
    pub fn settings(&mut self, machine: usize) -> Settings {
        let Machine { name, address, durable_generation, .. } = &self.machines[machine];
        Settings {
            name: name.clone(),
            cluster: self.template.cluster.clone(),
            key: self.template.key.clone(),
            boot: (durable_generation + 1).max(self.now_on(machine).wall.0),
            advertise: *address,
            seeds: self.template.seeds(),
            profile: self.template.profile,
            apps: self.template.apps_of(machine),
            handlers: self.template.handlers.clone(),
            random: self.rng.random(),
        }
    }

    /// Starts the program of a machine, or starts it again: what ran before is gone.
    pub fn start(&mut self, machine: usize) {
        let settings = self.settings(machine);
        self.start_as(machine, settings);
    }

    /// Starts the program of a machine with settings of the caller's.
    pub fn start_as(&mut self, machine: usize, settings: Settings) {
        if self.machines[machine].runs() {
            self.kill(machine);
        }
        self.fault(Some(machine), format!("starts at {} as #{}", settings.advertise, settings.boot));
        let (now, at) = (self.now_on(machine), self.now);
        #[cfg(feature = "controls")]
        let defences = self.defences;
        self.addresses.insert(settings.advertise, machine);
        let state = &mut self.machines[machine];
        (state.durable_generation, state.address) = (settings.boot, settings.advertise);
        state.turn(at, true);
        state.life += 1;
        (state.held, state.leaves, state.calls_app_down) = (None, false, false);
        state.program = Some(Program::start(self.system, now, settings, self.size));
        #[cfg(feature = "controls")]
        if let Some(node) = self.node_mut(machine) {
            node.set_defences(defences);
        }
        self.measures.on_start(at, machine);
        self.after(machine);
        self.load_handlers(machine);
    }

    fn load_handlers(&mut self, machine: usize) {
        let names: Vec<_> = self.template.handlers.iter().map(|handler| handler.name.clone()).collect();
        for handler in names {
            let version = Digest::new([1; 32]);
            self.tell(machine, Input::HandlerReady { handler, version, takeover: Takeover::Load });
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, machine: usize) {
        self.fault(Some(machine), "is killed");
        self.end(machine, true);
    }

    fn end(&mut self, machine: usize, crashed: bool) {
        let state = &mut self.machines[machine];
        if state.program.take().is_none() {
            return;
        }
        if state.held.take().is_none() {
            state.turn(self.now, false);
        }
        state.life += 1;
        self.rewake(machine);
        let truth = Truth { now: self.now, machines: &self.machines, network: &self.network };
        self.measures.on_gone(&truth, machine, crashed);
    }

    /// SIGSTOP: the program stands still, and what arrives waits as far as there is room.
    pub fn pause(&mut self, machine: usize) {
        self.fault(Some(machine), "stands still");
        let state = &mut self.machines[machine];
        if state.runs() && state.held.is_none() {
            state.held = Some(Vec::new());
            state.turn(self.now, false);
            self.rewake(machine);
            let truth = Truth { now: self.now, machines: &self.machines, network: &self.network };
            self.measures.on_gone(&truth, machine, false);
        }
    }

    /// SIGCONT: what waited and what is due come at once, in either order.
    pub fn resume(&mut self, machine: usize) {
        self.fault(Some(machine), "goes on");
        let Some(held) = self.machines[machine].held.take() else { return };
        self.machines[machine].turn(self.now, true);
        let timers_first = self.rng.random_bool(0.5);
        if timers_first {
            self.call(machine);
        }
        for arrival in held {
            self.arrive(arrival);
        }
        self.rewake(machine);
    }

    /// The operator has the node leave.
    pub fn leave(&mut self, machine: usize) {
        self.fault(Some(machine), "is told to leave");
        self.machines[machine].leaves = true;
        self.tell(machine, Input::Leave);
    }

    /// Whether the applications of a machine answer.
    pub fn set_apps(&mut self, machine: usize, answer: bool) {
        self.fault(Some(machine), if answer { "its applications answer" } else { "its applications fail" });
        self.machines[machine].app_answers = answer;
    }

    /// Gives a machine another address. A program that runs goes on at the old one until it is started again.
    pub fn move_address(&mut self, machine: usize) {
        let state = &mut self.machines[machine];
        state.moves = state.moves.checked_add(1).expect("a machine moves at most 255 times");
        state.address = address(machine, state.moves);
    }

    /// Sets the wall clock of a machine back.
    pub fn set_clock_back(&mut self, machine: usize, by: Duration) {
        self.fault(Some(machine), format!("its clock is set back by {by:?}"));
        self.machines[machine].clock_behind += by;
    }

    /// Nothing gets from one of the groups to another, until it is mended.
    pub fn partition(&mut self, groups: &[Vec<usize>]) -> Vec<CutId> {
        self.fault(None, format!("the network splits: {groups:?}"));
        let now = self.now;
        let others = |group: &Vec<usize>| groups.iter().filter(|other| *other != group).flatten().copied().collect();
        let sides: Vec<(Vec<usize>, Vec<usize>)> = groups.iter().map(|group| (group.clone(), others(group))).collect();
        sides.into_iter().map(|(from, to)| self.network.cut(now, from, to)).collect()
    }

    /// Cuts one machine off from all others.
    pub fn cut_off(&mut self, machine: usize) -> Vec<CutId> {
        let others = (0..self.len()).filter(|other| *other != machine).collect();
        self.partition(&[vec![machine], others])
    }

    /// Nothing gets from the one machine to the other; the way back is open.
    pub fn cut_one_way(&mut self, from: usize, to: usize) -> CutId {
        self.fault(None, format!("nothing gets from {from} to {to}"));
        self.network.cut(self.now, [from], [to])
    }

    /// Ends cuts.
    pub fn mend(&mut self, cuts: &[CutId]) {
        self.fault(None, "the network is whole again");
        self.network.mend(self.now, cuts);
        let truth = Truth { now: self.now, machines: &self.machines, network: &self.network };
        self.measures.on_mended(&truth);
    }

    /// Gives a node a datagram that nobody sent.
    pub fn inject(&mut self, machine: usize, from: SocketAddr, data: Vec<u8>) {
        self.tell(machine, Input::Datagram { from, data });
    }

    /// Tells a node of picored's something.
    pub fn tell(&mut self, machine: usize, input: Input) {
        let now = self.now_on(machine);
        if let Some(node) = self.machines[machine].program.as_mut().and_then(Program::node_mut) {
            node.handle(now, input);
            self.after(machine);
        }
    }

    // What may be asked.

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

    // Time.

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
            | Arrival::Closed { machine, life, .. }
            | Arrival::RunDone { machine, life, .. } => (*machine, *life),
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
            Arrival::Closed { connection, .. } => self.tell(machine, Input::Closed { connection }),
            Arrival::RunDone { run, .. } => {
                let done = RunEnd::Done { changed: true, text: String::new() };
                let end = self.run_ends.get(&machine).cloned().unwrap_or(done);
                if matches!(end, RunEnd::Done { .. }) {
                    self.measures.on_written(&run);
                }
                let (id, version) = (run.delivery.id.clone(), Some(Digest::new([1; 32])));
                self.tell(machine, Input::RunDone { id, end, took: self.run_takes, version });
            }
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
                let arrivals = self.network.carry(self.now, &mut self.rng, (machine, target), data.len());
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
                self.arrivals.push(self.now + self.run_takes, Arrival::RunDone { machine, life, run });
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
            Output::Load(handler) => {
                let version = Digest::new([1; 32]);
                self.tell(machine, Input::HandlerReady { handler, version, takeover: Takeover::Load });
            }
            Output::Dial { connection, .. } => {
                self.arrivals.push(self.now, Arrival::Closed { machine, life, connection });
            }
            Output::Frame { .. } | Output::Listen { .. } | Output::Close { .. } => {}
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
