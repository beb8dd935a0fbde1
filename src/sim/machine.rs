//! One machine of a simulation: what runs on it, and what is true of it whatever anybody says.

use std::net::SocketAddr;
use std::time::Duration;

use picored_core::name::NodeName;
use picored_core::node::{Input, Invocation};
use picored_core::time::Instant;

use crate::network::{BEARABLE, GRACE};
use crate::program::Program;
use crate::provider::{Answer, Sets};
use crate::simulation::Turn;
use crate::template::{address, node_name};

/// So many datagrams wait for a program that stands still, as in a socket's buffer.
const BUFFERED: usize = 256;

/// What is on its way, or goes on outside of the nodes.
pub(crate) enum Arrival {
    Datagram {
        to: SocketAddr,
        from: SocketAddr,
        data: Vec<u8>,
    },
    CheckDone {
        machine: usize,
        life: u32,
        number: u64,
        good: bool,
    },
    /// Something of a connection that its program has to know.
    Told {
        machine: usize,
        life: u32,
        input: Box<Input>,
    },
    /// A connection goes on.
    Stream {
        id: u64,
        turn: Turn,
    },
    RunDone {
        machine: usize,
        life: u32,
        run: Box<Invocation>,
        answer: Answer,
    },
    /// The provider does what a run had asked for, whatever has become of that.
    Late {
        wanted: Sets,
    },
}

pub(crate) struct Machine {
    pub(crate) name: NodeName,
    pub(crate) address: SocketAddr,
    pub(crate) moves: u8,
    /// None while it is down.
    pub(crate) program: Option<Program>,
    /// Grows with each start and each end, so that an answer finds its question's life or nobody.
    pub(crate) life: u32,
    /// The highest generation in use, as it stands on the disk.
    pub(crate) durable_generation: u64,
    /// The addresses of members that its disk keeps.
    pub(crate) remembered: Vec<SocketAddr>,
    /// The run that may send nothing more.
    pub(crate) fenced: Option<picored_core::event::DeliveryId>,
    /// How far its wall clock is behind.
    pub(crate) clock_behind: Duration,
    /// What waits while the program stands still.
    pub(crate) held: Option<Vec<Arrival>>,
    /// Whether its applications answer.
    pub(crate) app_answers: bool,
    /// Whether it calls an application of its own down.
    pub(crate) calls_app_down: bool,
    pub(crate) leaves: bool,
    /// Since when it is there, or is not.
    pub(crate) since: Instant,
    /// How long it was away before.
    pub(crate) away: Duration,
    /// How long it was up in all, before `since`.
    pub(crate) was_up: Duration,
    /// When its program wants to be called.
    pub(crate) wake: Option<Instant>,
}

impl Machine {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            name: node_name(number),
            address: address(number, 0),
            moves: 0,
            program: None,
            life: 0,
            durable_generation: 0,
            remembered: Vec::new(),
            fenced: None,
            clock_behind: Duration::ZERO,
            held: None,
            app_answers: true,
            calls_app_down: false,
            leaves: false,
            since: Instant::default(),
            away: Duration::ZERO,
            was_up: Duration::ZERO,
            wake: None,
        }
    }

    /// Whether a program runs on it, be it that it stands still.
    pub(crate) fn runs(&self) -> bool {
        self.program.is_some()
    }

    /// Whether it is there for its cluster: runs, does not stand still, does not leave.
    pub(crate) fn is_up(&self) -> bool {
        self.runs() && self.held.is_none() && !self.leaves
    }

    /// Whether it was away of late for longer than a cluster has to bear.
    pub(crate) fn was_away(&self, now: Instant) -> bool {
        self.away > BEARABLE && now.since(self.since) <= GRACE
    }

    /// It is there from now on, or from now on it is not.
    pub(crate) fn turn(&mut self, now: Instant, up: bool) {
        let passed = now.since(self.since);
        if up {
            self.away = passed;
        } else {
            self.was_up += passed;
        }
        self.since = now;
    }

    /// For how long it was up until now.
    pub(crate) fn up_in_all(&self, now: Instant) -> Duration {
        let is_up = self.runs() && self.held.is_none();
        self.was_up + if is_up { now.since(self.since) } else { Duration::ZERO }
    }

    /// Keeps what arrives while the program stands still; whether there was room.
    pub(crate) fn hold(&mut self, arrival: Arrival) -> bool {
        let Some(held) = &mut self.held else { return false };
        let is_datagram = |arrival: &Arrival| matches!(arrival, Arrival::Datagram { .. });
        if is_datagram(&arrival) && held.iter().filter(|arrival| is_datagram(arrival)).count() >= BUFFERED {
            return false;
        }
        held.push(arrival);
        true
    }
}
