//! Those that were there and are not seen: who they are outlives the process, and they count for the majority, so that a
//! part of a cluster that starts anew does not take itself for the whole.
//!
//! A node that remembers nobody, as it is new or its disk was, learns from the others whom they miss before it is joined.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::exchange::State;
use super::{Node, Output};
use crate::membership::FORGET_AFTER;
use crate::time::Instant;

/// So many members are remembered for the next start.
pub const MAX_REMEMBERED: usize = 64;
/// So many are told of in one message, beside what was published.
const MAX_TOLD: usize = 24;

impl State {
    /// Whether this node started so lately that who was dead then is not forgotten.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        now.since(self.started) < FORGET_AFTER
    }

    /// How many of those that were there when this node last ran it has not seen since. After [`FORGET_AFTER`] it waits
    /// for none of them.
    pub(super) fn count_unseen(&mut self, now: Instant, is_known: impl Fn(&SocketAddr) -> bool) -> usize {
        let is_recent = self.is_recent(now);
        self.unseen.retain(|address| is_recent && !is_known(address));
        self.unseen.len()
    }

    /// Another node misses these.
    pub(super) fn miss(&mut self, addresses: Vec<SocketAddr>, own: SocketAddr) {
        let room = MAX_REMEMBERED.saturating_sub(self.unseen.len());
        self.unseen.extend(addresses.into_iter().filter(|address| *address != own).take(room));
    }
}

impl Node {
    /// Has the members kept for the next start, if they are others than before. Who has just lost most keeps what
    /// it had.
    pub(super) fn remember(&mut self, now: Instant) {
        if !self.is_joined() || self.leaving.is_some() || self.heal.look_after(now).is_some() {
            return;
        }
        // Who is dead may return, and counts meanwhile; so does who was not seen since the start.
        let there = self.membership.members().filter(|(identity, _)| !self.records.has_left(identity));
        let there = there.map(|(identity, _)| identity.address).chain(self.exchange.unseen.iter().copied());
        let there: BTreeSet<_> = there.collect();
        let (known, new) = (there.intersection(&self.exchange.remembered), there.difference(&self.exchange.remembered));
        let members: BTreeSet<_> = known.chain(new).copied().take(MAX_REMEMBERED).collect();
        if members != self.exchange.remembered {
            self.outputs.push_back(Output::Remember(members.iter().copied().collect()));
            self.exchange.remembered = members;
        }
    }

    /// Whom this node misses, as others shall hear. Where a majority is seen it does without them, and so may others.
    pub(super) fn missed(&self) -> Vec<SocketAddr> {
        if self.sees_majority() {
            return Vec::new();
        }
        self.exchange.unseen.iter().copied().take(MAX_TOLD).collect()
    }
}
