//! TCP on the virtual network: what is lost is sent again, frames come in order, and a connection that gets nowhere ends.
//!
//! Each piece of a frame travels as the network carries datagrams, and is counted as one. As the kernel does for a daemon, a
//! machine whose program stands still takes connections, and one whose program is gone refuses them. The limits that a node
//! sets are kept as the shell keeps them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use picored_core::envelope::{MAX_DATAGRAM, MAX_FRAME, Refusal};
use picored_core::node::{Input, Output};
use picored_core::route::Connection;
use picored_core::time::Instant;

use super::{Arrival, Simulation};
use crate::network::Kind;

/// What one piece holds at most, in bytes.
const PIECE: usize = 1400;
/// An empty piece with its headers, beyond those of a datagram, in bytes.
const HEADER: usize = 32;
/// What was lost is sent again after this time, and then after twice that.
const AGAIN: Duration = Duration::from_millis(200);
/// A request for a connection is sent again after this time.
const KNOCK_AGAIN: Duration = Duration::from_secs(1);
/// A connection that is not made by then is given up, as in the shell.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection lasts no longer, as in the shell.
const AT_MOST: Duration = Duration::from_secs(10);

/// The two ends of a connection.
const DIALER: usize = 0;
const ACCEPTOR: usize = 1;

/// What a connection waits for.
#[derive(Clone, Copy)]
pub(crate) enum Turn {
    /// Ask once more.
    Knock,
    /// It is made, or refused.
    Answer(bool),
    /// Send the first frame of this end again, for the so-many-th time.
    Again(usize, u32),
    /// The first frame of this end has arrived.
    Arrived(usize),
    /// Its time is over.
    Over,
}

struct Link {
    ends: [usize; 2],
    /// The dialer's own number for it.
    number: u64,
    to: SocketAddr,
    since: Instant,
    is_made: bool,
    /// What each end has to send, the first of it being under way.
    queues: [VecDeque<Vec<u8>>; 2],
    /// What has arrived at each end and was not read.
    arrived: [VecDeque<Vec<u8>>; 2],
    /// How much each end reads next; nothing before it says so.
    reads: [Option<usize>; 2],
    closes: [bool; 2],
    /// Whether it is over once the dialer has read what has arrived.
    is_over: bool,
}

#[derive(Default)]
pub(super) struct Streams {
    links: BTreeMap<u64, Link>,
    last: u64,
}

impl Simulation {
    pub(super) fn on_stream(&mut self, machine: usize, output: Output) {
        match output {
            Output::Dial { connection: Connection::Dialed(number), to } => self.dial(machine, number, to),
            Output::Frame { connection, data } => {
                let Some((id, end)) = self.link(machine, connection) else { return };
                let Some(link) = self.streams.links.get_mut(&id) else { return };
                link.queues[end].push_back(data);
                if link.is_made && link.queues[end].len() == 1 {
                    self.transmit(id, end, 0);
                }
            }
            Output::Listen { connection, at_most } => {
                let Some((id, end)) = self.link(machine, connection) else { return };
                let Some(link) = self.streams.links.get_mut(&id) else { return };
                link.reads[end] = Some(at_most);
                self.read(id, end);
            }
            Output::Close { connection } => {
                let Some((id, end)) = self.link(machine, connection) else { return };
                let Some(link) = self.streams.links.get_mut(&id) else { return };
                link.closes[end] = true;
                if link.queues[end].is_empty() {
                    self.hang_up(id, end);
                }
            }
            _ => {}
        }
    }

    fn link(&self, machine: usize, connection: Connection) -> Option<(u64, usize)> {
        match connection {
            Connection::Accepted(id) => Some((id, ACCEPTOR)),
            Connection::Dialed(number) => {
                let is_it = |link: &Link| link.ends[DIALER] == machine && link.number == number;
                let (id, _) = self.streams.links.iter().find(|(_, link)| is_it(link))?;
                Some((*id, DIALER))
            }
        }
    }

    fn dial(&mut self, machine: usize, number: u64, to: SocketAddr) {
        self.streams.last += 1;
        let id = self.streams.last;
        // Where nobody is, nobody answers: as if it dialed into a cable that is out.
        let acceptor = self.addresses.get(&to).copied().filter(|other| self.machines[*other].address == to);
        let link = Link {
            ends: [machine, acceptor.unwrap_or(usize::MAX)],
            number,
            to,
            since: self.now,
            is_made: false,
            queues: Default::default(),
            arrived: Default::default(),
            reads: [Some(MAX_FRAME), Some(MAX_DATAGRAM)],
            closes: [false; 2],
            is_over: false,
        };
        self.streams.links.insert(id, link);
        self.arrivals.push(self.now + AT_MOST, Arrival::Stream { id, turn: Turn::Over });
        self.knock(id);
    }

    pub(super) fn on_turn(&mut self, id: u64, turn: Turn) {
        let Some(link) = self.streams.links.get_mut(&id) else { return };
        match turn {
            Turn::Knock if self.now.since(link.since) >= CONNECT => self.disconnect(id, true),
            Turn::Knock => self.knock(id),
            Turn::Over | Turn::Answer(false) => self.disconnect(id, true),
            Turn::Answer(true) => {
                link.is_made = true;
                for end in [DIALER, ACCEPTOR] {
                    self.transmit(id, end, 0);
                }
            }
            Turn::Again(end, times) => self.transmit(id, end, times),
            Turn::Arrived(end) => {
                let frame = link.queues[end].pop_front();
                link.arrived[1 - end].extend(frame);
                let is_last = link.queues[end].is_empty() && link.closes[end];
                self.read(id, 1 - end);
                if is_last {
                    self.hang_up(id, end);
                } else {
                    self.transmit(id, end, 0);
                }
            }
        }
    }

    /// Asks for a connection, and has the other machine answer.
    fn knock(&mut self, id: u64) {
        let Some(Link { ends: [dialer, acceptor], .. }) = self.streams.links.get(&id) else { return };
        let (dialer, acceptor) = (*dialer, *acceptor);
        let there = (acceptor != usize::MAX).then(|| self.carry_piece(dialer, acceptor, 0)).flatten();
        let back = there.and_then(|there| Some(self.carry_piece(acceptor, dialer, 0)? + (there - self.now)));
        let (at, turn) = match back {
            Some(at) => (at, Turn::Answer(self.machines[acceptor].runs())),
            None => (self.now + KNOCK_AGAIN, Turn::Knock),
        };
        self.arrivals.push(at, Arrival::Stream { id, turn });
    }

    /// Sends the first frame of this end, if there is one.
    fn transmit(&mut self, id: u64, end: usize, times: u32) {
        let Some(link) = self.streams.links.get(&id) else { return };
        let Some(len) = link.queues[end].front().map(Vec::len) else { return };
        let (from, to) = (link.ends[end], link.ends[1 - end]);
        let mut last = Some(self.now);
        for start in (0..len.max(1)).step_by(PIECE) {
            let arrival = self.carry_piece(from, to, PIECE.min(len - start));
            last = last.and_then(|last| Some(arrival?.max(last)));
        }
        let (at, turn) = match last {
            Some(at) => (at, Turn::Arrived(end)),
            None => (self.now + AGAIN * 2_u32.pow(times.min(5)), Turn::Again(end, times + 1)),
        };
        self.arrivals.push(at, Arrival::Stream { id, turn });
    }

    /// When a piece arrives that is sent now, if it does.
    fn carry_piece(&mut self, from: usize, to: usize, len: usize) -> Option<Instant> {
        let arrivals = self.network.carry(self.now, &mut self.rng, (from, Some(to)), Kind::Stream, len + HEADER);
        // The kernel takes it, and drops what comes twice.
        self.network.packets.delivered += arrivals.into_iter().flatten().count() as u64;
        arrivals[0]
    }

    /// Gives an end the next frame, if it reads one.
    fn read(&mut self, id: u64, end: usize) {
        let Some(link) = self.streams.links.get_mut(&id) else { return };
        let Some(at_most) = link.reads[end] else { return };
        let Some(data) = link.arrived[end].pop_front() else { return };
        link.reads[end] = None;
        let (machine, dialer, number, to) = (link.ends[end], link.ends[DIALER], link.number, link.to);
        let caller = SocketAddr::new(self.machines[dialer].address.ip(), 50_000);
        let is_dialer = end == DIALER;
        if data.len() > at_most {
            if !is_dialer {
                self.hand(machine, Input::FrameRefused { from: caller, refusal: Refusal::Length });
            }
            return self.disconnect(id, true);
        }
        let (connection, from) =
            if is_dialer { (Connection::Dialed(number), to) } else { (Connection::Accepted(id), caller) };
        self.hand(machine, Input::Frame { connection, from, data });
        if self.streams.links.get(&id).is_some_and(|link| link.is_over && link.arrived[DIALER].is_empty()) {
            self.disconnect(id, true);
        }
    }

    /// An end has sent all that it wanted to. What has arrived is read before the dialer hears of it.
    fn hang_up(&mut self, id: u64, end: usize) {
        let Some(link) = self.streams.links.get_mut(&id) else { return };
        link.is_over = end == ACCEPTOR && !link.arrived[DIALER].is_empty();
        if !link.is_over {
            self.disconnect(id, end == ACCEPTOR);
        }
    }

    /// Ends a connection. The dialer is told, unless it has ended it itself.
    fn disconnect(&mut self, id: u64, is_told: bool) {
        if let Some(link) = self.streams.links.remove(&id).filter(|_| is_told) {
            self.hand(link.ends[DIALER], Input::Closed { connection: Connection::Dialed(link.number) });
        }
    }

    /// The kernel of a machine ends the connections of a program that is gone.
    pub(super) fn end_streams(&mut self, machine: usize) {
        let ended: Vec<_> = self.streams.links.extract_if(.., |_, link| link.ends.contains(&machine)).collect();
        for (_, link) in ended {
            let [dialer, acceptor] = link.ends;
            if acceptor == machine && self.network.reaches(machine, dialer) {
                self.hand(dialer, Input::Closed { connection: Connection::Dialed(link.number) });
            }
        }
    }

    /// Tells a program something of a connection, as soon as it looks.
    fn hand(&mut self, machine: usize, input: Input) {
        let life = self.machines[machine].life;
        self.arrivals.push(self.now, Arrival::Told { machine, life, input: Box::new(input) });
    }
}
