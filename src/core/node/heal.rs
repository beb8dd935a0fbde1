//! Coming back: a node that was cut off, or taken for dead, finds its way to the cluster and its view at once.
//!
//! Such a node cannot tell its own cable from everybody's death. So whoever hears of a member that it holds for down or
//! suspects says so to it at once, a node that has lost most looks for the others all the time, and while its view is
//! known to be wrong its handlers wait: for as long as it has just lost most others, and from the first word of one of
//! them until one exchange has gone through. All of these waits end by themselves; who is in the majority is not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::exchange::RETRY;
use super::govern::SETTLE;
use super::range::{Range, cover_everything};
use super::{Node, Notice};
use crate::defences::Defence;
use crate::identity::Identity;
use crate::message::Message;
use crate::name::NodeName;
use crate::route::Route;
use crate::stale::Stale;
use crate::time::Instant;

/// Members that were lost within this time were lost at once.
const AT_ONCE: Duration = Duration::from_secs(60);
/// So long handlers wait after most others were lost at once.
const HOLD: Duration = Duration::from_secs(15);
/// An exchange with a member that was heard of again gets so much time.
const REUNION_AT_MOST: Duration = Duration::from_secs(3);
/// Its datagrams may be lost: after this time it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// A member is told what is held against it at most this often.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// Who is cut off for long looks less often, by this part of the time since.
const LOOK_AFTER_PART: u32 = 60;

/// The exchange with the first one that was heard of again.
#[derive(Debug)]
struct Reunion {
    peer: NodeName,
    address: SocketAddr,
    until: Instant,
    ask_again: Instant,
    /// The ranges of names in which the peer holds nothing that this node lacks.
    matched: Vec<Range>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Who is held for down, and has not left.
    down: BTreeSet<NodeName>,
    /// Those among them that this node has seen alive, and when it lost them.
    lost: BTreeMap<NodeName, Instant>,
    /// Since when at least as many are down or suspected as are left, this node among them.
    cut_off_since: Option<Instant>,
    held_until: Option<Instant>,
    reunion: Option<Reunion>,
    /// When this node last came back from such a time.
    back_since: Option<Instant>,
    told: BTreeMap<NodeName, Instant>,
}

impl State {
    /// Whether deliveries wait because the view is known to be unreliable.
    pub(super) fn holds_handlers(&self) -> bool {
        self.held_until.is_some() || self.reunion.is_some()
    }

    pub(super) fn back_since(&self) -> Option<Instant> {
        self.back_since
    }

    /// How long to wait before the next look for those that are missing; nothing if most are there.
    pub(super) fn look_after(&self, now: Instant) -> Option<Duration> {
        self.cut_off_since.map(|since| RETRY.max(now.since(since) / LOOK_AFTER_PART))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let reunion = self.reunion.as_ref().map(|reunion| reunion.until.min(reunion.ask_again));
        [self.held_until, reunion].into_iter().flatten().min()
    }
}

impl Node {
    /// The members are others than before, or may be: is it still the others that are gone, or this node? Asked before the view takes
    /// the change in.
    pub(super) fn note_losses(&mut self, now: Instant) {
        let down =
            self.membership.members().filter(|(identity, standing)| standing.down && !self.records.has_left(identity));
        let down: BTreeSet<_> = down.map(|(identity, _)| identity.name.clone()).collect();
        let was_there = |name: &&NodeName| self.view.members().get(*name).is_some_and(|it| it.state.is_active());
        let newly: Vec<_> = down.difference(&self.heal.down).filter(was_there).cloned().collect();
        // Who is suspected answers as little as who is down.
        let suspects = self.membership.suspects().count();
        let left = self.membership.active().count() + 1 - suspects;
        let heal = &mut self.heal;
        heal.lost.retain(|name, _| down.contains(name));
        heal.lost.extend(newly.into_iter().map(|name| (name, now)));
        heal.down = down;
        let is_cut_off = !heal.down.is_empty() && heal.down.len() + suspects >= left;
        if !is_cut_off {
            heal.cut_off_since = None;
        } else if heal.cut_off_since.is_none() {
            heal.cut_off_since = Some(now);
            self.exchange.contact_soon(now);
        }
        self.membership.set_cut_off(is_cut_off);
        let at_once = heal.lost.values().filter(|lost| now.since(**lost) < AT_ONCE).count();
        let has_lost_most = at_once > 0 && at_once + suspects > left;
        let until = heal.lost.values().max().map(|last| *last + HOLD).filter(|_| has_lost_most);
        let until = until.filter(|until| *until > now);
        let was_held = std::mem::replace(&mut heal.held_until, until).is_some();
        if was_held && until.is_none() {
            heal.back_since = Some(now);
        }
        match (was_held, until) {
            (false, Some(_)) => self.notice(Notice::CutOff { lost: at_once, left }),
            (true, None) => self.notice(Notice::Reunited { members: left }),
            _ => {}
        }
    }

    /// Something came in from a member that is held for down or suspected: it shall know at once. Who holds most for down
    /// asks first, as it may be wrong.
    pub(super) fn answer_doubts(&mut self, now: Instant, from: Route, sender: &NodeName) {
        let is_suspect = self.membership.heard(now, sender);
        let is_down = self.heal.down.contains(sender);
        if !(is_suspect || is_down) || !self.may_run() {
            return;
        }
        self.heal.told.retain(|_, told| now.since(*told) < TELL_AGAIN);
        if self.heal.told.contains_key(sender) {
            return;
        }
        self.heal.told.insert(sender.clone(), now);
        if is_down && self.heal.cut_off_since.is_some() {
            self.greet(now, from.dialable().into_iter().collect());
        } else if is_down {
            let verdict = self.entry(sender, true, false);
            self.send_entries(from, vec![verdict]);
        } else if let Some(held) = self.membership.suspicion(sender).filter(|_| self.defences.has(Defence::BuddyNotice))
        {
            let (identity, incarnation) = (held.identity.clone(), held.incarnation);
            self.send(from, &Message::Suspected { identity, incarnation });
        }
    }

    /// One that is held for down has just answered. If that is the same life, the verdict was wrong, and it was this
    /// node's if most others are down as well.
    pub(super) fn note_answer(&mut self, now: Instant, identity: &Identity) {
        let is_wrong = |member: &Identity| member.name == identity.name && member.generation == identity.generation;
        let mut down = self.membership.members().filter(|(_, standing)| standing.down);
        if self.heal.cut_off_since.is_none() || !down.any(|(member, _)| is_wrong(member)) {
            return;
        }
        drop(down);
        self.membership.begin_anew(now);
    }

    /// This node was away and has a new identity: what `peer` holds is what it has to know before it does anything.
    pub(super) fn reunite(&mut self, now: Instant, peer: &NodeName, address: Option<SocketAddr>) {
        let known = || self.membership.active().find(|member| member.name == *peer).map(|member| member.address);
        let Some(address) = address.or_else(known) else { return };
        let until = now + REUNION_AT_MOST;
        let (peer, ask_again) = (peer.clone(), now + ASK_AGAIN);
        self.heal.reunion = Some(Reunion { peer, address, until, ask_again, matched: Vec::new() });
        self.send_digest(address, None, None, true);
    }

    /// A member has told all that it holds in a range of names, and this node lacks nothing of it.
    pub(super) fn note_match(&mut self, now: Instant, sender: &NodeName, range: Range) {
        let Some(reunion) = self.heal.reunion.as_mut().filter(|reunion| reunion.peer == *sender) else { return };
        reunion.matched.push(range);
        if cover_everything(&reunion.matched) {
            self.end_reunion(now);
        }
    }

    fn end_reunion(&mut self, now: Instant) {
        self.heal.reunion = None;
        self.heal.back_since = Some(now);
        self.membership.end_doubt(now);
        // Others have run its scopes meanwhile, without it: it takes them over, as one that comes. Whom it has heard may
        // have been away as well, so it hears more of them first.
        self.own_scopes.clear();
        self.runs_from = self.runs_from.map(|from| from.max(now + SETTLE));
        self.stale = Stale::All;
    }

    /// Whether a member was cut off together with this node: what the others say of its death is as wrong as what they say
    /// of this node's.
    pub(super) fn is_with_me(&self, identity: &Identity) -> bool {
        let is_away = self.heal.cut_off_since.is_some() || self.heal.reunion.is_some();
        is_away && self.membership.active().any(|active| active == identity)
    }

    /// Asks again, and ends the waits whose time is over.
    pub(super) fn heal_due(&mut self, now: Instant) {
        if self.heal.held_until.take_if(|until| *until <= now).is_some() {
            self.heal.back_since = Some(now);
            self.stale = Stale::All;
        }
        let Some(reunion) = &mut self.heal.reunion else { return };
        if reunion.until <= now {
            self.end_reunion(now);
        } else if reunion.ask_again <= now {
            reunion.ask_again = now + ASK_AGAIN;
            reunion.matched.clear();
            let address = reunion.address;
            self.send_digest(address, None, None, true);
        }
    }
}
