//! TCP beside UDP: conversations that this node opens, and frames on any connection.
//!
//! Two things are worth a connection: comparing views, since nothing of that may get lost, and asking a suspect before
//! the verdict on it, since a network may drop datagrams and nothing else. The question is of the application, not of the
//! kernel: a connection to a process that stands still is made, and never answered. Where TCP cannot be had, all goes on
//! by datagrams. A conversation ends when it has its answer, at the latest after `AT_MOST`, whatever the shell does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;

use super::range::{Range, cover_everything};
use super::{Node, Notice, Output, Tick};
use crate::contacts::Opened;
use crate::defences::Defence;
use crate::envelope::{MAX_DATAGRAM, MAX_FRAME};
use crate::identity::Identity;
use crate::membership::own_standing;
use crate::message::{Entry, Message, Standing};
use crate::name::NodeName;
use crate::route::{Connection, Route};
use crate::time::{Instant, Now};

/// A conversation has ended by then.
const AT_MOST: Duration = Duration::from_secs(5);
/// So many connections are open from here at once.
const CONVERSATIONS: usize = 64;
/// A member that answered over TCP has missed so many questions by datagram before it is shown as degraded.
const MISSED: u8 = 3;

/// What a conversation is for.
#[derive(Debug)]
pub(super) enum About {
    /// To find the cluster by a seed.
    Greeting,
    /// To compare views; with the ranges that were compared.
    Exchange(Vec<Range>),
    /// To hear whether a suspect is there.
    Verdict(NodeName),
}

#[derive(Debug)]
struct Conversation {
    to: SocketAddr,
    about: About,
}

/// A member that has answered over TCP while it was suspected.
#[derive(Debug)]
struct ByStream {
    generation: u64,
    /// The question that goes by datagram; its answer ends this.
    nonce: u64,
    missed: u8,
}

#[derive(Debug, Default)]
pub(super) struct State {
    opened: u64,
    conversations: BTreeMap<u64, Conversation>,
    by_stream: BTreeMap<NodeName, ByStream>,
}

impl State {
    pub(super) fn is_degraded(&self, identity: &Identity) -> bool {
        let held = self.by_stream.get(&identity.name);
        held.is_some_and(|held| held.missed >= MISSED && held.generation == identity.generation)
    }
}

impl Node {
    /// Opens a connection; none if too many are open.
    pub(super) fn dial(&mut self, now: Instant, to: SocketAddr, about: About) -> Option<Route> {
        if self.streams.conversations.len() >= CONVERSATIONS || self.leaving.is_some() {
            return None;
        }
        self.streams.opened += 1;
        let number = self.streams.opened;
        self.streams.conversations.insert(number, Conversation { to, about });
        self.timers.push(now + AT_MOST, Tick::HangUp(number));
        let connection = Connection::Dialed(number);
        self.outputs.push_back(Output::Dial { connection, to });
        Some(Route::Stream { connection, peer: to })
    }

    /// Begins to compare views with the node at `to`. Whether that could be tried; if it fails it goes on by datagrams.
    pub(super) fn exchange_by_stream(&mut self, now: Instant, to: SocketAddr) -> bool {
        let route = self.dial(now, to, About::Exchange(Vec::new()));
        if let Some(route) = route {
            self.send_summary(route);
        }
        route.is_some()
    }

    /// A seed that was greeted on a connection is known now: views are compared on the same one.
    pub(super) fn go_on_to_exchange(&mut self, route: Route) {
        if let Some(conversation) = self.conversation(route) {
            conversation.about = About::Exchange(Vec::new());
            self.send_digest(route, None, None, true);
        }
    }

    fn conversation(&mut self, route: Route) -> Option<&mut Conversation> {
        match route.connection()? {
            Connection::Dialed(number) => self.streams.conversations.get_mut(&number),
            Connection::Accepted(_) => None,
        }
    }

    pub(super) fn on_frame(&mut self, now: Now, connection: Connection, from: SocketAddr, data: &[u8]) {
        let is_open = |node: &Self| match connection {
            Connection::Dialed(number) => node.streams.conversations.contains_key(&number),
            Connection::Accepted(_) => true,
        };
        if !is_open(self) {
            return;
        }
        let route = Route::Stream { connection, peer: from };
        let is_confirmed = match self.contacts.open(&self.cluster, now.at, data, MAX_FRAME) {
            Ok(Opened::Confirmed(sender, payload)) => {
                self.on_payload(now, route, &sender, &payload);
                true
            }
            Ok(Opened::Stranger(sender, payload)) => {
                self.on_stranger(now, route, &sender, payload);
                false
            }
            Err(refusal) => {
                self.refuse(now.at, from, refusal);
                self.outputs.push_back(Output::Close { connection });
                return self.on_closed(connection);
            }
        };
        if is_open(self) {
            // Whom this node dialed has no more than the one connection that was opened for it.
            let is_trusted = is_confirmed || matches!(connection, Connection::Dialed(_));
            let at_most = if is_trusted { MAX_FRAME } else { MAX_DATAGRAM };
            self.outputs.push_back(Output::Listen { connection, at_most });
        }
    }

    /// A connection has ended. What was to be compared on it goes by datagrams.
    pub(super) fn on_closed(&mut self, connection: Connection) {
        let Connection::Dialed(number) = connection else { return };
        let ended = self.streams.conversations.remove(&number);
        match ended.map(|ended| (ended.to, ended.about)) {
            Some((to, About::Exchange(_))) if self.leaving.is_none() => self.send_summary(to),
            Some((_, About::Verdict(suspect))) => self.membership.stop_waiting(&suspect),
            _ => {}
        }
    }

    /// A conversation has had its time.
    pub(super) fn hang_up(&mut self, number: u64) {
        if self.streams.conversations.contains_key(&number) {
            let connection = Connection::Dialed(number);
            self.outputs.push_back(Output::Close { connection });
            self.on_closed(connection);
        }
    }

    fn close(&mut self, route: Route) {
        if let Some(connection @ Connection::Dialed(number)) = route.connection() {
            self.streams.conversations.remove(&number);
            self.outputs.push_back(Output::Close { connection });
        }
    }

    /// A peer has told what it holds of a range, and before that all that this node lacked of it.
    pub(super) fn note_range(&mut self, route: Route, range: Range) {
        if let Some(Conversation { about: About::Exchange(compared), .. }) = self.conversation(route) {
            compared.push(range);
            if cover_everything(compared) {
                self.close(route);
            }
        }
    }

    /// Asks those over TCP on whom this node may soon give a verdict.
    pub(super) fn ask_suspects(&mut self, now: Instant) {
        for (identity, incarnation) in self.membership.take_questions() {
            let about = About::Verdict(identity.name.clone());
            let may_ask = self.defences.has(Defence::Question);
            match may_ask.then(|| self.dial(now, identity.address, about)).flatten() {
                Some(route) => self.send(route, &Message::Suspected { identity, incarnation }),
                None => self.membership.stop_waiting(&identity.name),
            }
        }
    }

    /// Who asks over TCP gets its answer the same way, whatever becomes of the gossip: an incarnation that refutes.
    pub(super) fn answer_suspicion(&mut self, route: Route, asked: &Identity, incarnation: u16) {
        if route.connection().is_none() {
            return;
        }
        let mut entry = self.own_entry();
        if let Some((own, standing)) = &mut entry.member
            && own == asked
        {
            // Refuted already: this node's own counter is that high by now, or higher.
            *standing = Standing { incarnation: incarnation.saturating_add(1), ..own_standing(own) };
        }
        self.send_entries(route, vec![entry]);
    }

    /// Takes entries in. Where they clear a suspect, and came on a connection, datagrams may not reach it: it is asked by
    /// them as well.
    pub(super) fn take_entries(&mut self, now: Instant, route: Route, sender: &NodeName, entries: Vec<Entry>) {
        let is_suspect = |node: &Self| node.membership.suspects().any(|(suspect, _)| suspect.name == *sender);
        let was_suspect = route.connection().is_some() && is_suspect(self);
        if was_suspect {
            self.membership.answered_otherwise(sender);
        }
        self.on_entries(now, entries);
        if matches!(self.conversation(route), Some(Conversation { about: About::Verdict(name), .. }) if name == sender)
        {
            self.close(route);
        }
        let member = self.membership.active().find(|member| member.name == *sender);
        let Some(member) = member.filter(|_| was_suspect && !is_suspect(self)).cloned() else { return };
        let held = self.streams.by_stream.get(sender).is_some_and(|held| held.generation == member.generation);
        if !held {
            let nonce = self.rng.random();
            let new = ByStream { generation: member.generation, nonce, missed: 0 };
            self.streams.by_stream.insert(member.name, new);
            self.send(member.address, &Message::Challenge { nonce });
        }
    }

    /// Asks by datagram those that were reached over TCP.
    pub(super) fn look_at_degraded(&mut self) {
        if self.streams.by_stream.is_empty() {
            return;
        }
        let active: BTreeMap<_, _> =
            self.membership.active().map(|member| (&member.name, (member.generation, member.address))).collect();
        let mut gone = Vec::new();
        let mut questions = Vec::new();
        let mut degraded = Vec::new();
        for (name, held) in &mut self.streams.by_stream {
            let Some((_, address)) = active.get(name).filter(|(generation, _)| *generation == held.generation) else {
                gone.push(name.clone());
                continue;
            };
            held.missed = held.missed.saturating_add(1);
            if held.missed == MISSED {
                degraded.push(name.clone());
            }
            questions.push((*address, held.nonce));
        }
        self.streams.by_stream.retain(|name, _| !gone.contains(name));
        gone.iter().chain(&degraded).for_each(|name| self.stale.add(name));
        for (to, nonce) in questions {
            self.send(to, &Message::Challenge { nonce });
        }
        for member in degraded {
            self.notice(Notice::Degraded { member, recovered: false });
        }
    }

    /// A challenge that went by datagram was answered the same way.
    pub(super) fn note_datagrams_pass(&mut self, route: Route, sender: &NodeName, nonce: u64) {
        let held = self.streams.by_stream.get(sender).filter(|held| held.nonce == nonce);
        if let (Route::Datagram(_), Some(held)) = (route, held) {
            let was_degraded = held.missed >= MISSED;
            self.streams.by_stream.remove(sender);
            if was_degraded {
                self.stale.add(sender);
                self.notice(Notice::Degraded { member: sender.clone(), recovered: true });
            }
        }
    }
}
