//! Messages, in and out, by datagram or frame: what each does, and to whom it is believed.
//!
//! The envelope and `contacts` say who sealed one and whether it is new; a sender that has not proven yet that it lives is
//! heard on this node's own questions alone. What is refused is counted by reason and told of at most once a minute.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Node, Notice, Output};
use crate::contacts::Opened;
use crate::defences::Defence;
use crate::envelope::{MAX_DATAGRAM, Refusal};
use crate::message::Message;
use crate::name::NodeName;
use crate::route::{Connection, Route};
use crate::time::{Instant, Now};

/// A refused datagram is told of at most this often for each reason.
const TELL_REFUSALS: Duration = Duration::from_secs(60);

impl Node {
    /// Seals and sends what foca wants sent.
    pub(super) fn flush(&mut self) {
        for (to, data) in self.membership.take_sends() {
            self.send(to.address, &Message::Gossip(data));
        }
    }

    pub(super) fn send(&mut self, to: impl Into<Route>, message: &Message) {
        let data = self.sealer.seal(&message.encode());
        self.count("sent");
        self.outputs.push_back(match to.into() {
            Route::Datagram(to) => Output::Send { to, data },
            Route::Stream { connection, .. } => Output::Frame { connection, data },
        });
    }

    pub(super) fn on_datagram(&mut self, now: Now, from: SocketAddr, data: &[u8]) {
        match self.contacts.open(&self.cluster, now.at, data, MAX_DATAGRAM) {
            Ok(Opened::Confirmed(sender, payload)) => self.on_payload(now, from.into(), &sender, &payload),
            Ok(Opened::Stranger(sender, payload)) => self.on_stranger(now, from.into(), &sender, payload),
            Err(refusal) => self.refuse(now.at, from, refusal),
        }
    }

    pub(super) fn refuse(&mut self, now: Instant, from: SocketAddr, refusal: Refusal) {
        let count = self.count(refusal.as_str());
        let told = self.refusals_told.get(&refusal);
        if told.is_none_or(|told| now.since(*told) >= TELL_REFUSALS) {
            self.refusals_told.insert(refusal, now);
            self.notice(Notice::Refused { refusal, from, count });
        }
    }

    /// From a sender that has not yet proven that it lives: only answers to this node's own questions count.
    pub(super) fn on_stranger(&mut self, now: Now, from: Route, sender: &NodeName, payload: Vec<u8>) {
        let kept = match Message::decode(&payload) {
            None => return self.refuse(now.at, from.peer(), Refusal::Malformed),
            Some(Message::Challenge { nonce }) => return self.send(from, &Message::Response { nonce }),
            Some(Message::Response { nonce }) => self.contacts.answer(sender, nonce),
            Some(Message::Welcome { nonce, .. } | Message::NameTaken { nonce, .. })
                if self.exchange.has_greeted(nonce) =>
            {
                let kept = self.contacts.confirm(sender);
                self.on_payload(now, from, sender, &payload);
                kept
            }
            Some(Message::Hello { nonce, ref identity })
                if identity.name == *sender && !self.may_have_name(now.at, from, nonce, identity) =>
            {
                return;
            }
            Some(_) => {
                if let Some(nonce) = self.contacts.keep(now.at, sender, from, payload, &mut self.rng) {
                    self.send(from, &Message::Challenge { nonce });
                }
                None
            }
        };
        let is_confirmed = kept.is_some();
        for (from, payload) in kept.into_iter().flatten() {
            self.on_payload(now, from, sender, &payload);
        }
        if let Route::Datagram(address) = from
            && is_confirmed
            && !self.is_joined()
        {
            // It may have spoken to an earlier life of this node: a member to join by, whoever the seeds are.
            self.greet(now.at, vec![address]);
        }
    }

    pub(super) fn on_payload(&mut self, now: Now, from: Route, sender: &NodeName, payload: &[u8]) {
        let Some(message) = Message::decode(payload) else {
            return self.refuse(now.at, from.peer(), Refusal::Malformed);
        };
        self.count("accepted");
        self.note_heard(now.at, sender);
        // Who answers this node's own question on a connection is about to clear all doubts.
        if !matches!(from.connection(), Some(Connection::Dialed(_))) {
            self.answer_doubts(now.at, from, sender);
        }
        let generation = self.membership.identity().generation;
        match message {
            Message::Gossip(data) => {
                if self.membership.handle_data(now.at, &data).is_err() {
                    self.refuse(now.at, from.peer(), Refusal::Malformed);
                }
            }
            Message::Hello { nonce, identity } => {
                if identity.name == *sender {
                    self.on_hello(from, nonce, &identity);
                }
            }
            Message::Welcome { nonce, identity } => self.on_welcome(now.at, from, nonce, identity),
            Message::NameTaken { nonce, holder } => {
                if self.exchange.has_greeted(nonce) {
                    let joined = self.is_joined();
                    self.notice(Notice::NameTaken { holder, joined });
                }
            }
            Message::Challenge { nonce } => self.send(from, &Message::Response { nonce }),
            Message::Response { nonce } => {
                self.exchange.note_response(sender, nonce);
                self.note_datagrams_pass(from, sender, nonce);
            }
            Message::Digest(digest) => self.on_digest(now.at, from, sender, &digest),
            Message::Entries(entries) => self.take_entries(now.at, from, sender, entries),
            Message::Receipts { told, rest } => self.on_receipts(now.at, sender, told, rest),
            Message::Summary(parts) => self.on_summary(from, &parts),
            Message::Differing(ranges) => self.on_differing(from, ranges),
            Message::Suspected { identity, incarnation } => {
                self.membership.refute(now.at, &identity, incarnation, sender);
                self.answer_suspicion(from, &identity, incarnation);
            }
        }
        if self.membership.identity().generation != generation && self.may_run() {
            self.reunite(now.at, sender, from.dialable());
        }
    }

    pub(super) fn tell_suspects(&mut self) {
        if !self.defences.has(Defence::BuddyNotice) {
            return;
        }
        let suspects: Vec<_> = self.membership.suspects().map(|(id, incarnation)| (id.clone(), incarnation)).collect();
        for (identity, incarnation) in suspects {
            let to = identity.address;
            self.send(to, &Message::Suspected { identity, incarnation });
        }
    }
}
