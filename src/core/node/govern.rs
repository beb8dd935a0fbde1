//! What the governor has to know of the cluster, and what follows from what it says.
//!
//! Quorum is a majority of the known size: who was there once and has not left counts, dead or alive, and so do the seeds
//! of the config, so that neither a lone first node nor a part of a split cluster takes the others out. Who is suspected
//! is not seen, and a node that hears from nobody at all sees nobody.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::{Node, Notice};
use crate::claim::{AppStanding, Claim};
use crate::config::TwoNode;
use crate::governor::Conditions;
use crate::message::Message;
use crate::name::{AppName, NodeName};
use crate::record::Record;
use crate::snapshot::MemberState;
use crate::time::{Instant, Now};

/// No removal so soon after this node was away from its cluster.
pub(super) const SETTLE: std::time::Duration = std::time::Duration::from_secs(5);
/// Who is called down and is heard may be there after all, for so many of the shortest suspicions.
const DOUBT: u32 = 2;
/// Nobody heard for so many periods of the probe: each of them asks one member at least.
const SILENT_PROBES: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct State {
    /// How many members the cluster has, dead or alive, as far as this node knows.
    known_size: usize,
    /// Since when more members are seen than not, as far as is known.
    majority_since: Option<Instant>,
    /// When it came to see a majority again, having run handlers before.
    majority_regained: Option<Instant>,
    /// When each member was heard last.
    heard: BTreeMap<NodeName, Instant>,
    /// When any was.
    last_heard: Option<Instant>,
    /// Whether somebody is suspected.
    has_suspects: bool,
    /// When a member was last found to be down.
    last_loss: Option<Instant>,
    /// Whether a removal waits for a quorum.
    awaits_quorum: bool,
    /// When the first of those that are called down and were heard since is believed to be down all the same.
    silent_at: Option<Instant>,
    /// Since when these are called down and were heard.
    doubted: BTreeMap<NodeName, Instant>,
    /// When members were last asked for a sign of life because of that.
    asked: Option<Instant>,
}

impl Node {
    pub(super) fn note_heard(&mut self, now: Instant, member: &NodeName) {
        self.govern.last_heard = Some(now);
        match self.govern.heard.get_mut(member) {
            Some(heard) => *heard = now,
            // Of whom nobody knows anything its word does not count either.
            None if self.view.members().contains_key(member) => drop(self.govern.heard.insert(member.clone(), now)),
            None => {}
        }
    }

    /// Nothing went on here for a while, and what comes in now may have waited since then: nobody has been heard, and
    /// others may have acted. So no handler runs before one of them has told what it holds.
    pub(super) fn note_standstill(&mut self, now: Now) {
        let silence = self.membership.probe_period() * SILENT_PROBES;
        if now.at.since(self.seen.at) <= silence || !self.may_run() {
            return;
        }
        self.seen = now;
        let members: Vec<_> = self.membership.active().map(|member| (member.name.clone(), member.address)).collect();
        if let Some((name, address)) = members.choose(&mut self.rng) {
            self.govern.heard.clear();
            (self.govern.last_heard, self.govern.last_loss) = (None, Some(now.at));
            self.reunite(now.at, name, Some(*address));
        }
    }

    /// Whether this node sees a majority of its cluster. In quiet times it does as long as it hears from anybody. Where
    /// somebody is suspected, or was just lost, those that are not suspected may be cut off from it as well and it has
    /// not noticed yet: then the members of the majority have to have been heard themselves, after the time at which
    /// those fell silent that are given up now.
    pub fn has_quorum(&self, now: Instant) -> bool {
        let silence = self.membership.probe_period() * SILENT_PROBES;
        let is_alone = self.membership.active().next().is_none();
        let hears = is_alone || self.govern.last_heard.is_some_and(|heard| now.since(heard) <= silence);
        self.govern.majority_since.is_some() && hears && (self.is_quiet(now) || self.hears_majority(now))
    }

    fn is_quiet(&self, now: Instant) -> bool {
        let patience = self.membership.shortest_suspicion();
        !self.govern.has_suspects && self.govern.last_loss.is_none_or(|loss| now.since(loss) >= patience)
    }

    fn hears_majority(&self, now: Instant) -> bool {
        let patience = self.membership.shortest_suspicion();
        let is_heard = |name: &NodeName| self.govern.heard.get(name).is_some_and(|at| now.since(*at) < patience);
        let members = self.view.members().iter().filter(|(name, _)| **name != self.settings.name);
        let heard = members.filter(|(name, member)| match member.state {
            MemberState::Alive => is_heard(name),
            // It was asked over TCP.
            MemberState::Degraded => true,
            MemberState::Suspect | MemberState::Down | MemberState::Left => false,
        });
        self.is_majority(heard.count() + 1)
    }

    /// Who may have to decide on a removal asks those that it has not heard of late, so that it knows when the time
    /// comes whether there is a majority.
    pub(super) fn ask_for_quorum(&mut self, now: Instant) {
        if self.own_scopes.is_empty() || self.is_quiet(now) && !self.govern.awaits_quorum {
            return;
        }
        let period = self.membership.probe_period();
        if self.govern.asked.is_some_and(|asked| now.since(asked) < period / 2) {
            return;
        }
        self.govern.asked = Some(now);
        let is_silent = |name: &NodeName| self.govern.heard.get(name).is_none_or(|at| now.since(*at) >= period);
        let members = self.view.members().iter().filter(|(name, member)| {
            **name != self.settings.name && member.state == MemberState::Alive && is_silent(name)
        });
        let silent: Vec<_> = members.map(|(_, member)| member.address).collect();
        for address in silent {
            let nonce = self.rng.random();
            self.send(address, &Message::Challenge { nonce });
        }
    }

    /// How many members there are, dead or alive, as far as this node knows.
    pub(super) fn known_size(&self) -> usize {
        self.govern.known_size.max(self.settings.expect)
    }

    /// Whether so many are more than half of them.
    fn is_majority(&self, seen: usize) -> bool {
        let size = self.known_size();
        seen * 2 > size || (size == 2 && self.settings.two_node == TwoNode::TrustSurvivor)
    }

    /// Since when this node has sought its way into the cluster in vain no longer: it is joined, and sees a majority.
    pub(super) fn there_since(&self) -> Option<Instant> {
        Some(self.exchange.joined_at()?.max(self.govern.majority_since?))
    }

    /// Whether more members are seen than not, as far as this node knows.
    pub(super) fn sees_majority(&self) -> bool {
        self.govern.majority_since.is_some()
    }

    fn count_majority(&mut self, now: Instant) {
        let (mut seen, mut size, mut suspects) = (0, 0, 0);
        let (mut known, mut left) = (BTreeSet::new(), BTreeSet::new());
        for member in self.view.members().values() {
            known.insert(member.address);

            match member.state {
                MemberState::Alive | MemberState::Degraded => seen += 1,
                MemberState::Suspect => suspects += 1,
                MemberState::Down => {}
                MemberState::Left => drop(left.insert(member.address)),
            }
            size += usize::from(member.state != MemberState::Left);
        }
        let seeds = self.exchange.count_seeds(self.settings.advertise, |address| left.contains(&address));
        let unseen = self.exchange.count_unseen(now, |address| known.contains(address));
        self.govern.known_size = (size + unseen.max(self.count_hidden(now))).max(seeds + 1);
        self.govern.has_suspects = suspects > 0;
        let has_majority = self.is_majority(seen);
        if has_majority && self.govern.majority_since.is_none() && self.runs_from.is_some() {
            self.govern.majority_regained = Some(now);
        }
        self.govern.majority_since =
            self.govern.majority_since.filter(|_| has_majority).or(has_majority.then_some(now));
        if self.govern.heard.len() > self.view.members().len() {
            self.govern.heard.retain(|name, _| self.view.members().contains_key(name));
        }
    }

    /// Who is in a part of a split cluster tells newcomers of none that it holds for dead, since it may be wrong; but it
    /// passes on what those have said of themselves.
    fn count_hidden(&self, now: Instant) -> usize {
        if self.records.len() <= self.view.members().len() || !self.exchange.is_recent(now) {
            return 0;
        }
        let hidden = |record: &&Record| record.leaving.is_none() && !self.view.has_seen(&record.node);
        self.records.iter().filter(hidden).count()
    }

    /// Whether there may be more to the wanted sets than at the last look, though nothing happened.
    pub(super) fn govern_due(&self, now: Instant) -> bool {
        let is_due = self.govern_timeout().is_some_and(|due| due <= now);
        is_due || (self.govern.awaits_quorum && self.has_quorum(now))
    }

    /// When to look at the wanted sets though nothing happened.
    pub(super) fn govern_timeout(&self) -> Option<Instant> {
        [self.governor.poll_timeout(), self.govern.silent_at].into_iter().flatten().min()
    }

    /// How an application stands on its members. A node that was cut off may call those down that were there all the
    /// time, until they have told it better: who was heard just now is not taken out because of what another says. But who
    /// has not told it better for a while, though it talks, hears nothing itself.
    fn app_claims(&mut self, now: Instant, app: &AppName) -> BTreeMap<NodeName, Claim> {
        let patience = self.membership.shortest_suspicion();
        let mut claims = self.view.claims(app);
        for (member, claim) in claims.iter_mut().filter(|(_, claim)| claim.standing == AppStanding::MemberDown) {
            let heard = self.govern.heard.get(member).filter(|heard| now.since(**heard) < patience);
            let Some(heard) = heard else { continue };
            let since = *self.govern.doubted.entry(member.clone()).or_insert(now);
            let until = (*heard + patience).min(since + patience * DOUBT);
            if now < until {
                claim.standing = AppStanding::Unknown;
                self.govern.silent_at = Some(self.govern.silent_at.map_or(until, |other| other.min(until)));
            }
        }
        claims
    }

    /// Members were found to be down.
    pub(super) fn note_loss(&mut self, now: Instant) {
        self.govern.last_loss = Some(now);
    }

    /// Takes the view into the wanted sets; those that are others now.
    pub(super) fn govern(&mut self, time: Now) -> Vec<AppName> {
        let now = time.at;
        self.count_majority(now);
        let away_until = self.heal.back_since().max(self.govern.majority_regained).map(|back| back + SETTLE);
        let settled_at = self.runs_from.filter(|_| !self.heal.holds_handlers());
        let settled_at = settled_at.map(|from| away_until.map_or(from, |until| until.max(from)));
        if settled_at.is_none_or(|at| now < at) {
            self.adopt_receipts(time);
        }
        let conditions =
            Conditions { now, has_quorum: self.has_quorum(now), settled_at, rules: self.settings.governor };
        self.govern.silent_at = None;
        let is_down = |name: &NodeName| self.view.members().get(name).is_some_and(|it| it.state == MemberState::Down);
        self.govern.doubted.retain(|name, _| is_down(name));
        let apps: Vec<_> = self.view.apps().cloned().collect();
        let claims: Vec<_> = apps.into_iter().map(|app| (app.clone(), self.app_claims(now, &app))).collect();
        let updates = self.governor.update(&conditions, claims.into_iter());
        self.govern.awaits_quorum = self.governor.awaits_quorum();
        let mut changed = Vec::new();
        for (app, update) in updates {
            for (member, reason) in update.held {
                self.notice(Notice::Held { app: app.clone(), member, reason });
            }
            for (member, reason) in update.released {
                self.notice(Notice::Released { app: app.clone(), member, reason });
            }
            if update.changed {
                changed.push(app);
            }
        }
        changed
    }
}
