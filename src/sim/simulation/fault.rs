//! What may be done to the machines of a simulation and to the network between them.
//!
//! Each is noted in the trace, and the measures are told what is true from then on.

use std::net::SocketAddr;
use std::time::Duration;

use picored_core::digest::Digest;
use picored_core::node::{Input, Settings};
use picored_core::versions::Takeover;
use rand::RngExt;

use super::Simulation;
use crate::machine::Machine;
use crate::measure::Truth;
use crate::network::CutId;
use crate::program::Program;
use crate::template::address;

impl Simulation {
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
        let Machine { name, address, durable_generation, remembered, .. } = &self.machines[machine];
        Settings {
            name: name.clone(),
            cluster: self.template.cluster.clone(),
            key: self.template.key.clone(),
            boot: (durable_generation + 1).max(self.now_on(machine).wall.0),
            advertise: *address,
            seeds: self.template.seeds(),
            remembered: remembered.clone(),
            profile: self.template.profile,
            expect: self.template.expect,
            two_node: self.template.two_node,
            governor: self.template.governor,
            apps: self.template.apps_of(machine),
            maintained: Default::default(),
            held: Default::default(),
            letters: Vec::new(),
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
        self.note_dead();
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

    pub(super) fn end(&mut self, machine: usize, crashed: bool) {
        let state = &mut self.machines[machine];
        if state.program.take().is_none() {
            return;
        }
        if state.held.take().is_none() {
            state.turn(self.now, false);
        }
        state.life += 1;
        self.rewake(machine);
        self.end_streams(machine);
        let truth = Truth { now: self.now, machines: &self.machines, network: &self.network };
        self.measures.on_gone(&truth, machine, crashed);
        self.note_dead();
    }

    fn note_dead(&mut self) {
        let truth = Truth { now: self.now, machines: &self.machines, network: &self.network };
        self.measures.note_dead(&truth);
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
            self.note_dead();
        }
    }

    /// SIGCONT: what waited and what is due come at once, in either order.
    pub fn resume(&mut self, machine: usize) {
        self.fault(Some(machine), "goes on");
        let Some(held) = self.machines[machine].held.take() else { return };
        self.machines[machine].turn(self.now, true);
        self.note_dead();
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
}
