//! A whole simulation as a value: how many machines, which network, what goes wrong and when. `picored sim` makes one of
//! its command line.

use std::time::Duration;

use crate::network::{Conditions, CutId};
use crate::program::System;
use crate::report::Report;
use crate::simulation::Simulation;
use crate::template::Template;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// All randomness comes from it.
    pub seed: u64,
    /// What the machines run.
    pub system: System,
    /// What they are configured as.
    pub template: Template,
    /// How many there are, from 1.
    pub nodes: usize,
    /// From the start of one to the start of the next.
    pub stagger: Duration,
    /// The network.
    pub conditions: Conditions,
    /// How long.
    pub length: Duration,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// Something that goes wrong for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, from the start of the simulation.
    pub from: Duration,
    /// When it ends; `None`: never.
    pub until: Option<Duration>,
    /// What.
    pub kind: FaultKind,
}

/// What may go wrong. Machines are numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The machine's program is killed; at the end, it is started again.
    Kill(usize),
    /// It stands still.
    Pause(usize),
    /// Its datagrams take so much longer, each way.
    Slow(usize, Duration),
    /// Its applications do not answer.
    Apps(usize),
    /// The network splits into groups of so many machines, in order.
    Partition(Vec<usize>),
}

/// Why there is no such simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScenarioError {
    /// There is no machine with this number, from 0.
    NoMachine(usize),
    /// The groups of a partition have so many machines, in all.
    Groups(usize),
    /// It begins only when all is over, or ends before it begins.
    Time(Fault),
}

/// How far a simulation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// How much time has passed.
    pub elapsed: Duration,
    /// Of how much.
    pub length: Duration,
    /// How many false verdicts there were.
    pub false_downs: u64,
}

/// A fault begins or ends.
enum Turn {
    Begin(usize),
    End(usize),
}

impl Scenario {
    /// Whether the faults fit the machines and the time.
    ///
    /// # Errors
    /// The first fault that does not.
    pub fn check(&self) -> Result<(), ScenarioError> {
        for fault in &self.faults {
            match &fault.kind {
                FaultKind::Kill(machine)
                | FaultKind::Pause(machine)
                | FaultKind::Apps(machine)
                | FaultKind::Slow(machine, _)
                    if *machine >= self.nodes =>
                {
                    return Err(ScenarioError::NoMachine(*machine));
                }
                FaultKind::Partition(groups) if groups.iter().sum::<usize>() != self.nodes => {
                    return Err(ScenarioError::Groups(groups.iter().sum()));
                }
                _ => {}
            }
            if fault.from >= self.length || fault.until.is_some_and(|until| until <= fault.from) {
                return Err(ScenarioError::Time(fault.clone()));
            }
        }
        Ok(())
    }

    /// Lets all of it happen, and tells now and then how far it is. What came of it.
    ///
    /// # Errors
    /// See [`Scenario::check`].
    pub fn run(&self, mut progress: impl FnMut(Progress)) -> Result<(Report, Simulation), ScenarioError> {
        self.check()?;
        let mut simulation = Simulation::new(self.seed, self.system, self.template.clone(), self.nodes);
        simulation.network.conditions = self.conditions.clone();
        let mut turns: Vec<(Duration, Turn)> = Vec::new();
        for (index, fault) in self.faults.iter().enumerate() {
            turns.push((fault.from, Turn::Begin(index)));
            turns.extend(fault.until.map(|until| (until, Turn::End(index))));
        }
        // A stable order: what was named first happens first.
        turns.sort_by_key(|(at, _)| *at);
        let mut turns = turns.into_iter().peekable();
        let mut cuts: Vec<Vec<CutId>> = vec![Vec::new(); self.faults.len()];
        let starts = |machine: usize| self.stagger.saturating_mul(u32::try_from(machine).unwrap_or(u32::MAX));
        // Small steps: a large cluster takes long for each.
        let step = Duration::from_secs((600 / self.nodes as u64).clamp(1, 60));
        loop {
            let elapsed = simulation.elapsed();
            while simulation.len() < self.nodes && starts(simulation.len()) <= elapsed {
                simulation.add();
            }
            while let Some((_, turn)) = turns.next_if(|(at, _)| *at <= elapsed) {
                self.turn(&mut simulation, &turn, &mut cuts);
            }
            if elapsed >= self.length {
                break;
            }
            let start = Some(starts(simulation.len())).filter(|_| simulation.len() < self.nodes);
            let turn = turns.peek().map(|(at, _)| *at);
            let next = [start, turn].into_iter().flatten().fold(self.length.min(elapsed + step), Duration::min);
            simulation.run(next - elapsed);
            let (elapsed, false_downs) = (simulation.elapsed(), simulation.false_downs());
            progress(Progress { elapsed, length: self.length, false_downs });
        }
        Ok((simulation.report(), simulation))
    }

    fn turn(&self, simulation: &mut Simulation, turn: &Turn, cuts: &mut [Vec<CutId>]) {
        let (index, begins) = match turn {
            Turn::Begin(index) => (*index, true),
            Turn::End(index) => (*index, false),
        };
        match (&self.faults[index].kind, begins) {
            // One that has not been started yet, or has left, cannot be hurt.
            (FaultKind::Kill(machine) | FaultKind::Pause(machine), _) if *machine >= simulation.len() => {}
            (FaultKind::Kill(machine), true) => simulation.kill(*machine),
            (FaultKind::Kill(machine), false) => simulation.start(*machine),
            (FaultKind::Pause(machine), true) => simulation.pause(*machine),
            (FaultKind::Pause(machine), false) => simulation.resume(*machine),
            (FaultKind::Apps(machine), begins) if *machine < simulation.len() => simulation.set_apps(*machine, !begins),
            (FaultKind::Apps(_), _) => {}
            (FaultKind::Slow(machine, by), true) => {
                simulation.network.slow.insert(*machine, *by);
            }
            (FaultKind::Slow(machine, _), false) => {
                simulation.network.slow.remove(machine);
            }
            (FaultKind::Partition(sizes), true) => {
                let mut first = 0;
                let groups: Vec<Vec<usize>> = sizes
                    .iter()
                    .map(|size| {
                        first += size;
                        (first - size..first).collect()
                    })
                    .collect();
                cuts[index] = simulation.partition(&groups);
            }
            (FaultKind::Partition(_), false) => simulation.mend(&std::mem::take(&mut cuts[index])),
        }
    }
}
