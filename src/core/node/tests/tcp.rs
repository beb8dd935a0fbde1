//! TCP on the virtual network: connections that are made, refused or swallowed, and frames that come in order or not at
//! all. It keeps to the limits that a node sets, as the shell does.

use std::net::SocketAddr;

use super::super::{Input, Output};
use super::net::Net;
use crate::envelope::{MAX_DATAGRAM, MAX_FRAME, Refusal};
use crate::route::Connection;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    #[default]
    Made,
    Refused,
    /// A firewall says nothing.
    Swallowed,
    /// The shell has no TCP.
    Unknown,
}

struct Link {
    dialer: usize,
    number: u64,
    acceptor: usize,
    to: SocketAddr,
    /// What the acceptor reads at most.
    at_most: usize,
}

#[derive(Default)]
pub(super) struct Tcp {
    pub(super) fate: Fate,
    links: Vec<Option<Link>>,
    /// How many connections were asked for.
    pub(super) dialed: u64,
    /// How many frames went over them.
    pub(super) frames: u64,
}

impl Net {
    pub(super) fn on_stream(&mut self, slot: usize, output: Output) {
        match output {
            Output::Dial { connection, to } => self.dial(slot, connection, to),
            Output::Frame { connection, data } => self.frame(slot, connection, data),
            Output::Listen { connection: Connection::Accepted(number), at_most } => {
                if let Some(link) = &mut self.tcp.links[number as usize] {
                    link.at_most = at_most;
                }
            }
            Output::Close { connection } => {
                let Some(index) = self.link(slot, connection) else { return };
                let link = self.tcp.links[index].take();
                if let Some(link) = link.filter(|link| link.acceptor == slot) {
                    self.tell_later(link.dialer, Input::Closed { connection: Connection::Dialed(link.number) });
                }
            }
            _ => {}
        }
    }

    /// The kernel of a node that is gone ends its connections.
    pub(super) fn end_connections(&mut self, slot: usize) {
        for index in 0..self.tcp.links.len() {
            let ended = self.tcp.links[index].take_if(|link| link.acceptor == slot || link.dialer == slot);
            if let Some(link) = ended.filter(|link| link.acceptor == slot) {
                self.tell_later(link.dialer, Input::Closed { connection: Connection::Dialed(link.number) });
            }
        }
    }

    fn link(&self, slot: usize, connection: Connection) -> Option<usize> {
        let links = self.tcp.links.iter().enumerate();
        links.filter_map(|(index, link)| Some((index, link.as_ref()?))).find_map(|(index, link)| {
            let is_it = match connection {
                Connection::Dialed(number) => link.dialer == slot && link.number == number,
                Connection::Accepted(number) => index as u64 == number,
            };
            is_it.then_some(index)
        })
    }

    fn dial(&mut self, slot: usize, connection: Connection, to: SocketAddr) {
        let Connection::Dialed(number) = connection else { panic!("{connection:?} cannot be dialed") };
        self.tcp.dialed += 1;
        let target = self.slots.iter().rposition(|slot| slot.address == to);
        let is_cut = target.is_some_and(|target| self.cut.contains(&(slot.min(target), slot.max(target))));
        match self.tcp.fate {
            Fate::Unknown | Fate::Swallowed => {}
            Fate::Made if is_cut => {}
            Fate::Made if target.is_some_and(|target| self.slots[target].node.is_some()) => {
                let acceptor = target.unwrap();
                self.tcp.links.push(Some(Link { dialer: slot, number, acceptor, to, at_most: MAX_DATAGRAM }));
            }
            _ => self.tell_later(slot, Input::Closed { connection }),
        }
    }

    fn frame(&mut self, slot: usize, connection: Connection, data: Vec<u8>) {
        assert!(data.len() <= MAX_FRAME);
        self.tcp.frames += 1;
        let Some(index) = self.link(slot, connection) else { return };
        let link = self.tcp.links[index].as_ref().unwrap();
        let (dialer, acceptor) = (link.dialer, link.acceptor);
        if self.cut.contains(&(dialer.min(acceptor), dialer.max(acceptor))) {
            return;
        }
        if slot == acceptor {
            let connection = Connection::Dialed(link.number);
            let from = link.to;
            self.tell_later(dialer, Input::Frame { connection, from, data });
            return;
        }
        let from = SocketAddr::new(self.slots[dialer].address.ip(), 50_000);
        if data.len() > link.at_most {
            let connection = Connection::Dialed(link.number);
            self.tell_later(acceptor, Input::FrameRefused { from, refusal: Refusal::Length });
            self.tell_later(dialer, Input::Closed { connection });
            self.tcp.links[index] = None;
            return;
        }
        let connection = Connection::Accepted(index as u64);
        self.tell_later(acceptor, Input::Frame { connection, from, data });
    }
}
