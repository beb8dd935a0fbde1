//! Probes that fail, suspicions that come of it, and the verdict: when foca is told that a suspect is down.
//!
//! Foca probes and keeps the list. That one of its probes has failed shows in the verdict that it wants to be reminded of;
//! that reminder is dropped, and the verdict is timed by [`Suspicions`](super::suspicion), for suspicions that this node
//! has only heard of as well, so that no verdict hangs on one node's life.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use foca::{Codec, Header, Member, Message, PostcardCodec, ProbeNumber, State, Timer};

use super::suspicion::{Suspicion, Verdict};
use super::tempo::suspicion;
use super::{Membership, config};
use crate::broadcast::{Accusation, News, Probe};
use crate::defences::Defence;
use crate::identity::Identity;
use crate::name::NodeName;
use crate::record::RENEWALS;
use crate::stale::Stale;
use crate::time::Instant;

/// A process that comes so much too late stood still: all suspects get their whole time anew. Half of that time if that
/// is less.
const STALLED: Duration = Duration::from_secs(2);
/// Suspects are looked at this often, or four times while they may refute.
const LOOK: Duration = Duration::from_secs(1);
/// Right before the verdict on one of them they are told at most this often.
const LAST_CALLS: Duration = Duration::from_millis(50);

/// A probe that waits for its answer.
#[derive(Debug)]
pub(super) struct ProbeUnderWay {
    target: Identity,
    /// What foca calls it, once it is sent.
    number: Option<ProbeNumber>,
    /// When others are asked to reach it as well.
    ask_others: Option<(Instant, Timer<Identity>)>,
    /// So many were.
    asked: u8,
}

impl Membership {
    /// What is held against a member that is suspected.
    pub fn suspicion(&self, name: &NodeName) -> Option<&Suspicion> {
        self.suspicions.get(name)
    }

    /// Why a member is down.
    pub fn verdict(&self, name: &NodeName) -> Option<&Verdict> {
        self.verdicts.get(name)
    }

    /// A datagram of this member's came in. Whether it is suspected.
    pub fn heard(&mut self, now: Instant, name: &NodeName) -> bool {
        self.suspicions.hear(now, name)
    }

    /// When to call [`Self::look_at_suspects`] again, and to tell those that are suspected: the more often the nearer a
    /// verdict is, as a suspect whose cable is in again may know nothing of it. Else with the next probe, if that is early
    /// enough, so that one wake-up does for both.
    pub fn next_look(&self, now: Instant) -> Instant {
        let every = LOOK.min(suspicion(&self.tempo, 1) / 4);
        let probe = self.next_probe().filter(|at| *at > now);
        let last_calls = self.next_verdict().map(|at| now + LAST_CALLS.max(at.since(now) / 2));
        [probe, last_calls].into_iter().flatten().fold(now + every, Instant::min)
    }

    /// Who was given up was silent for so long at least, in this node's eyes or in another's.
    pub fn shortest_suspicion(&self) -> Duration {
        suspicion(&self.tempo, self.sized_for)
    }

    /// Puts one of foca's timers where it belongs. The worse this node does, the longer it waits for answers.
    pub(super) fn schedule(&mut self, now: Instant, after: Duration, timer: Timer<Identity>) {
        let patient = now + after * self.patience();
        match timer {
            // The newest is the one that counts; an earlier one belongs to a state that is over.
            Timer::PeriodicGossip(token) => {
                self.token = token;
                self.round = Some((now + after, timer));
            }
            Timer::ProbeRandomMember(token) => {
                self.token = token;
                self.probe = Some((patient, timer));
            }
            Timer::SendIndirectProbe { ref probed_id, .. } => {
                let target = probed_id.clone();
                let ask_others = Some((patient, timer));
                self.under_way = Some(ProbeUnderWay { target, number: None, ask_others, asked: 0 });
            }
            Timer::ChangeSuspectToDown { ref member_id, incarnation, .. } => {
                self.failed = Some((member_id.clone(), incarnation));
                if !self.defences.has(Defence::ObituaryFilter) {
                    self.timers.push(now + after, timer);
                }
            }
            _ => self.timers.push(now + after, timer),
        }
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        [self.timers.next_at(), self.asks_others_at(), self.next_probe()].into_iter().flatten().min()
    }

    fn next_probe(&self) -> Option<Instant> {
        self.probe.as_ref().map(|(due, _)| *due)
    }

    fn asks_others_at(&self) -> Option<Instant> {
        self.under_way.as_ref()?.ask_others.as_ref().map(|(due, _)| *due)
    }

    pub(super) fn next_verdict(&self) -> Option<Instant> {
        self.suspicions.next(self.shortest_wait(), self.sized_for).map(|(due, _)| due)
    }

    pub(super) fn shortest_wait(&self) -> Duration {
        suspicion(&self.tempo, self.sized_for) * self.patience()
    }

    fn patience(&self) -> u32 {
        if self.defences.has(Defence::LocalHealth) { self.local_health.multiplier() } else { 1 }
    }

    /// A loop that comes late may have answers lying about that it has not read, and was not heard itself.
    pub(super) fn note_lateness(&mut self, now: Instant) {
        let late = self.next_timer().map_or(Duration::ZERO, |due| now.since(due));
        let too_late = self.tempo.probe_rtt / 2;
        if late >= too_late {
            self.local_health.worse();
        }
        // Others that are asked only now to reach a member need their time to answer.
        if self.asks_others_at().is_some_and(|due| now.since(due) >= too_late) {
            let answers_by = now + (self.tempo.probe_period - self.tempo.probe_rtt);
            if let Some((due, _)) = &mut self.probe {
                *due = answers_by.max(*due);
            }
        }
        let is_stalled = late >= STALLED.min(suspicion(&self.tempo, 1) / 2);
        if is_stalled && self.defences.has(Defence::StallPostponement) {
            self.suspicions.wait_anew(now);
        }
    }

    /// Asks others to reach the member that is probed, if it was given its time.
    pub(super) fn ask_others(&mut self, now: Instant) {
        let ask = self.under_way.as_mut().and_then(|probe| probe.ask_others.take_if(|(due, _)| *due <= now));
        if let Some((_, timer)) = ask {
            self.fire(now, timer);
        }
    }

    /// The answer to a probe spares this node the wake-up for asking others. Foca has to hear that it was time, and asks
    /// nobody then.
    pub(super) fn note_answer(&mut self, now: Instant, mut data: &[u8]) {
        let Ok(Header { src, message: Message::Ack(number), .. }) = PostcardCodec.decode_header(&mut data) else {
            return;
        };
        let is_answered = |probe: &&mut ProbeUnderWay| probe.target == src && probe.number == Some(number);
        if let Some((_, timer)) = self.under_way.as_mut().filter(is_answered).and_then(|probe| probe.ask_others.take())
        {
            self.fire(now, timer);
        }
    }

    /// A probe's time is over; the next begins.
    pub(super) fn end_probe(&mut self, now: Instant, timer: Timer<Identity>) {
        let ended = self.under_way.take();
        let is_accused = |name: &NodeName| {
            let own = &self.identity().name;
            self.suspicions.get(name).is_some_and(|held| held.accusers.iter().any(|accuser| accuser.name == *own))
        };
        let was_accused = ended.as_ref().is_some_and(|probe| is_accused(&probe.target.name));
        self.fire(now, timer);
        match (self.failed.take(), ended) {
            (Some((suspect, incarnation)), probe) => {
                // That one who is suspected still does not answer says nothing new of this node.
                if !was_accused {
                    self.local_health.worse();
                }
                let probe = Probe { asked: probe.map_or(0, |probe| probe.asked) };
                let accuser = self.identity().name.clone();
                self.accuse(now, &Accusation { suspect, incarnation, accuser, probe });
            }
            (None, Some(probe)) if self.active().any(|active| *active == probe.target) => self.local_health.better(),
            (None, _) => {}
        }
    }

    /// This node's own probe of a member has failed: others that find the same shall know.
    fn accuse(&mut self, now: Instant, accusation: &Accusation) {
        if self.suspicions.accuse(now, accusation) {
            // Refused only if others have said enough.
            let _ = self.foca.add_broadcast(&accusation.encode());
            self.look_for_gossip(now);
        }
    }

    /// What came along with a packet.
    pub(super) fn take_in_news(&mut self, now: Instant) {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Record(record) => self.records.push(record),
                News::Receipt(receipt) => self.receipts.push(receipt),
                News::Accusation(accusation) => self.hear(now, &accusation),
            }
        }
    }

    fn hear(&mut self, now: Instant, accusation: &Accusation) {
        let Accusation { suspect, incarnation, accuser, .. } = accusation;
        if suspect == self.identity() {
            if *incarnation >= self.incarnation {
                self.suspect(now, suspect.clone(), *incarnation);
            }
            return;
        }
        let is_open = |member: &Member<Identity>| member.id() == suspect && member.incarnation() <= *incarnation;
        if *accuser == self.identity().name || *accuser == suspect.name || !self.foca.iter_members().any(is_open) {
            return;
        }
        // The word of it may come before foca's own.
        self.suspect(now, suspect.clone(), *incarnation);
        self.suspicions.accuse(now, accusation);
    }

    fn suspect(&mut self, now: Instant, identity: Identity, incarnation: u16) {
        let suspected = Member::new(identity, incarnation, State::Suspect);
        let _ = self.foca.apply_many(std::iter::once(suspected), true, &mut self.runtime);
        self.collect(now);
    }

    /// Somebody suspects this node: refute, and tell whoever asks first of all.
    pub fn refute(&mut self, now: Instant, identity: &Identity, incarnation: u16, asker: &NodeName) {
        if identity != self.identity() {
            return;
        }
        self.suspect(now, identity.clone(), incarnation);
        let asker = self.active().find(|active| active.name == *asker).cloned();
        let Some(dst) = asker.filter(|asker| !self.sends.iter().any(|(to, _)| to == asker)) else { return };
        let (src, src_incarnation) = (self.identity().clone(), self.incarnation);
        let header = Header { src, src_incarnation, dst: dst.clone(), message: Message::Gossip };
        let mut data = Vec::new();
        if PostcardCodec.encode_header(&header, &mut data).is_ok() {
            self.sends.push((dst, data));
        }
    }

    /// Each packet says in which incarnation this node is: a higher one means that it had to refute.
    pub(super) fn note_own(&mut self, header: &Header<Identity>) {
        if header.src_incarnation > self.incarnation {
            self.incarnation = header.src_incarnation;
            self.local_health.worse();
        }
        match (&header.message, &mut self.under_way) {
            (Message::Ping(number), Some(probe)) if probe.target == header.dst => probe.number = Some(*number),
            (Message::PingReq { .. }, Some(probe)) => probe.asked = probe.asked.saturating_add(1),
            _ => {}
        }
    }

    /// Notes whose state on foca's list is another than when it was looked at last.
    pub fn note_states(&mut self) {
        let not_alive = self.foca.iter_membership_state().filter(|member| member.state() != State::Alive);
        let mut not_alive: Vec<_> = not_alive.cloned().collect();
        // In order of names, so that those of a large cluster that are long dead cost little.
        not_alive.sort_unstable_by(|one, other| one.id().name.cmp(&other.id().name));
        let differing = |these: &[Member<Identity>], those: &[Member<Identity>]| {
            let is_among_those = |member: &Member<Identity>| {
                let at = those.binary_search_by(|other| other.id().name.cmp(&member.id().name));
                at.is_ok_and(|at| those[at] == *member)
            };
            these.iter().filter(|member| !is_among_those(member)).map(|member| member.id().name.clone()).collect()
        };
        for (these, those) in [(&not_alive, &self.not_alive), (&self.not_alive, &not_alive)] {
            self.changes.members.join(Stale::These(differing(these, those)));
        }
        self.not_alive = not_alive;
    }

    /// Brings the suspicions in line with foca's list, once in a while and when it has changed: foca does not tell that a
    /// member is suspected, nor that it has refuted or is forgotten.
    pub fn look_at_suspects(&mut self, now: Instant) {
        self.note_states();
        let suspects: Vec<_> = self.suspects().map(|(identity, incarnation)| (identity.clone(), incarnation)).collect();
        for (identity, incarnation) in &suspects {
            self.suspicions.hold(now, identity, *incarnation);
        }
        for identity in self.not_alive.iter().filter(|member| member.state() == State::Down).map(Member::id) {
            if self.verdicts.get(&identity.name).is_none_or(|verdict| verdict.identity != *identity) {
                let suspicion = self.suspicions.remove(&identity.name).filter(|held| held.identity == *identity);
                let verdict = Verdict { identity: identity.clone(), since: now, is_own: false, suspicion };
                self.verdicts.insert(identity.name.clone(), verdict);
            }
        }
        let suspected: BTreeSet<_> =
            suspects.iter().map(|(identity, incarnation)| (&identity.name, *incarnation)).collect();
        let over = self.suspicions.retain(|held| suspected.contains(&(&held.identity.name, held.incarnation)));
        if over.is_empty() && self.verdicts.is_empty() {
            return;
        }
        let active: BTreeMap<_, _> = self.active().map(|active| (active.name.clone(), active.generation)).collect();
        let has_returned = |name: &NodeName| active.contains_key(name);
        for wrong in over.into_iter().filter(|held| has_returned(&held.identity.name)) {
            self.suspicions.was_wrong(now, &wrong);
        }
        for verdict in self.verdicts.extract_if(.., |name, _| has_returned(name)).map(|(_, verdict)| verdict) {
            // One of the next generations is the same process, which had to prove that it lives.
            let returned = active.get(&verdict.identity.name).copied().unwrap_or_default();
            let is_renewed = returned.saturating_sub(verdict.identity.generation) <= RENEWALS;
            if let Some(wrong) = verdict.suspicion.filter(|_| is_renewed) {
                self.suspicions.was_wrong(now, &wrong);
            }
        }
    }

    /// Tells foca that those are down whose time is over.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.ask_suspects(now);
        while let Some((due, held)) = self.suspicions.next(self.shortest_wait(), self.sized_for) {
            if due > now {
                return;
            }
            let (member_id, incarnation) = (held.identity.clone(), held.incarnation);
            let suspicion = self.suspicions.remove(&member_id.name);
            // It may have refuted since the last look.
            let still = |member: &Member<Identity>| {
                *member.id() == member_id && member.state() == State::Suspect && member.incarnation() == incarnation
            };
            if self.foca.iter_members().any(still) {
                let name = member_id.name.clone();
                let verdict = Verdict { identity: member_id.clone(), since: now, is_own: true, suspicion };
                self.verdicts.insert(name, verdict);
                self.fire(now, Timer::ChangeSuspectToDown { member_id, incarnation, token: self.token });
            }
        }
    }

    /// Foca's config follows the cluster's size.
    pub(super) fn resize(&mut self) {
        let nodes = self.foca.num_members() + 1;
        if nodes != self.sized_for {
            self.sized_for = nodes;
            // Refused only for settings that are not touched here.
            let _ = self.foca.set_config(self.foca_config(nodes));
        }
    }

    pub(super) fn foca_config(&self, nodes: usize) -> foca::Config {
        let mut config = config(&self.tempo, nodes, self.max_packet);
        if !self.defences.has(Defence::Transmissions) {
            let size = NonZeroU32::MIN.saturating_add(u32::try_from(nodes).unwrap_or(u32::MAX) - 1);
            config.max_transmissions = foca::Config::new_lan(size).max_transmissions;
        }
        config
    }
}
