//! Who is there: foca (SWIM with suspicion), and what picored adds to it from outside.
//!
//! Foca's timers live in one ordered queue here, its packets leave through [`Membership::take_sends`], and what it says
//! of members is read from its list, never counted from its notifications: those are only a hint to look. What is added:
//! no word of death to a member that has refuted in time, at least ten transmissions of every update,
//! a suspicion time that follows the cluster's size, and no verdict right after this process itself stood still.

mod tempo;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use foca::{AccumulatingRuntime, Codec, Foca, Member, Message, OwnedNotification, PostcardCodec, State};
use rand::rngs::StdRng;

use self::tempo::{Tempo, config, suspicion, tempo};
use crate::config::Profile;
use crate::identity::Identity;
use crate::message::Standing;
use crate::name::NodeName;
use crate::record::{Broadcasts, Record};
use crate::time::{Instant, TimerQueue};

/// A member that is held for dead is told so at most this often.
const TELL_THE_DEAD: Duration = Duration::from_secs(1);
/// A verdict that comes due so much too late was held up by this process; it is postponed by another suspicion time.
const STALLED: Duration = Duration::from_secs(2);

/// What has changed since it was last asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The list of members, or the state of one, may be another.
    pub members: bool,
    /// These members came up or have a new identity: ask them for what they say of themselves.
    pub returned: Vec<Identity>,
    /// This node was taken for dead and took a new identity.
    pub rejoined: bool,
}

/// This node's view of the members.
pub struct Membership {
    foca: Foca<Identity, PostcardCodec, StdRng, Broadcasts>,
    runtime: AccumulatingRuntime<Identity>,
    timers: TimerQueue<foca::Timer<Identity>>,
    /// The next round of gossip, if foca keeps any. Where there is nothing to tell nobody wakes up for it, and the ones
    /// that pass are left out.
    round: Option<(Instant, foca::Timer<Identity>)>,
    has_gossip: bool,
    news: mpsc::Receiver<Record>,
    sends: Vec<(Identity, Vec<u8>)>,
    /// Whom this node told lately that it is dead.
    obituaries: BTreeMap<NodeName, Instant>,
    changes: Changes,
    tempo: Tempo,
    max_packet: usize,
    sized_for: usize,
}

impl Membership {
    /// A node alone. `max_packet` is what the envelope leaves of a datagram, in bytes.
    pub fn new(identity: Identity, profile: Profile, max_packet: usize, rng: StdRng) -> Self {
        let tempo = tempo(profile);
        let (broadcasts, news) = Broadcasts::new(identity.name.clone());
        let config = config(&tempo, 1, max_packet);
        Self {
            foca: Foca::with_custom_broadcast(identity, config, rng, PostcardCodec, broadcasts),
            runtime: AccumulatingRuntime::new(),
            timers: TimerQueue::default(),
            round: None,
            has_gossip: false,
            news,
            sends: Vec::new(),
            obituaries: BTreeMap::new(),
            changes: Changes::default(),
            tempo,
            max_packet,
            sized_for: 1,
        }
    }

    /// Who this node is now; the generation grows when it has to refute its own death.
    pub fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// All members that foca remembers, the dead among them, without this node.
    pub fn members(&self) -> impl Iterator<Item = (&Identity, Standing)> {
        // Word of an earlier life of this node makes foca keep that as a dead member.
        let own = &self.identity().name;
        let others = self.foca.iter_membership_state().filter(move |member| member.id().name != *own);
        others.map(|member| (member.id(), standing(member)))
    }

    /// The active members.
    pub fn active(&self) -> impl Iterator<Item = &Identity> {
        self.foca.iter_members().map(Member::id)
    }

    /// The suspects, and the incarnation that is suspected.
    pub fn suspects(&self) -> impl Iterator<Item = (&Identity, u16)> {
        self.foca
            .iter_members()
            .filter(|member| member.state() == State::Suspect)
            .map(|member| (member.id(), member.incarnation()))
    }

    /// A packet of foca's came in. An error means that it was malformed or not meant for this node.
    pub fn handle_data(&mut self, now: Instant, data: &[u8]) -> Result<(), foca::Error> {
        let result = self.foca.handle_data(data, &mut self.runtime);
        self.collect(now);
        result
    }

    /// Runs all that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(due) = self.timers.next_at().filter(|due| *due <= now) {
            let Some(timer) = self.timers.pop_due(now) else { break };
            if matches!(timer, foca::Timer::ChangeSuspectToDown { .. }) && now.since(due) > STALLED {
                self.timers.push(now + suspicion(&self.tempo, self.sized_for), timer);
                continue;
            }
            self.fire(now, timer);
        }
        if let Some((_, timer)) = self.round.take_if(|(due, _)| self.has_gossip && *due <= now) {
            self.fire(now, timer);
        }
    }

    fn fire(&mut self, now: Instant, timer: foca::Timer<Identity>) {
        // A timer of a state that is over is an error to foca, and nothing to anybody.
        let _ = self.foca.handle_timer(timer, &mut self.runtime);
        self.collect(now);
    }

    /// Sees whether there is something to tell. If that is new, the rounds go on as if they had never ceased: telling it
    /// at once, and again and again, would tell it to those alone whom a newcomer happens to know first.
    fn look_for_gossip(&mut self, now: Instant) {
        let had = self.has_gossip;
        self.has_gossip = self.foca.updates_backlog() > 0 || self.foca.custom_broadcast_backlog() > 0;
        if let Some((due, _)) = &mut self.round
            && self.has_gossip
            && !had
        {
            let period = self.tempo.gossip_period;
            let passed = now.since(*due).as_nanos().div_ceil(period.as_nanos());
            *due = *due + period.saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX));
        }
    }

    /// When to come back.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let round = self.round.as_ref().filter(|_| self.has_gossip).map(|(due, _)| *due);
        [self.timers.next_at(), round].into_iter().flatten().min()
    }

    /// Asks `peer` to take this node in.
    pub fn announce(&mut self, now: Instant, peer: Identity) {
        let _ = self.foca.announce(peer, &mut self.runtime);
        self.collect(now);
    }

    /// Takes over what a peer knows. Foca's own rules decide what is news.
    pub fn apply(&mut self, now: Instant, members: Vec<(Identity, Standing)>) {
        let members = members.into_iter().map(|(identity, standing)| member(identity, standing));
        let _ = self.foca.apply_many(members, true, &mut self.runtime);
        self.collect(now);
    }

    /// Somebody suspects this node: refute.
    pub fn refute(&mut self, now: Instant, identity: &Identity, incarnation: u16) {
        if identity == self.foca.identity() {
            let suspected = Member::new(identity.clone(), incarnation, State::Suspect);
            let _ = self.foca.apply_many(std::iter::once(suspected), true, &mut self.runtime);
            self.collect(now);
        }
    }

    /// Spreads this node's own record, or notes one that an exchange brought.
    pub fn broadcast(&mut self, now: Instant, record: &Record) {
        let _ = self.foca.add_broadcast(&record.encode());
        self.look_for_gossip(now);
    }

    /// Sends what waits to be spread to a few members at once, instead of with the next round.
    pub fn gossip(&mut self, now: Instant) {
        let _ = self.foca.gossip(&mut self.runtime);
        self.collect(now);
    }

    /// The packets to send, oldest first.
    pub fn take_sends(&mut self) -> Vec<(Identity, Vec<u8>)> {
        std::mem::take(&mut self.sends)
    }

    /// The records that came with packets.
    pub fn take_news(&mut self) -> Vec<Record> {
        self.news.try_iter().collect()
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn collect(&mut self, now: Instant) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            match timer {
                // The newest is the one that counts; an earlier one belongs to a state that is over.
                foca::Timer::PeriodicGossip(_) => self.round = Some((now + after, timer)),
                _ => self.timers.push(now + after, timer),
            }
        }
        while let Some(notification) = self.runtime.to_notify() {
            self.changes.members = true;
            match notification {
                OwnedNotification::MemberUp(identity) | OwnedNotification::Rename(_, identity) => {
                    self.changes.returned.retain(|known| known.name != identity.name);
                    self.changes.returned.push(identity);
                }
                OwnedNotification::Rejoin(_) => self.changes.rejoined = true,
                _ => {}
            }
        }
        while let Some((to, data)) = self.runtime.to_send() {
            if !is_obituary(&data) || self.is_due_obituary(now, &to) {
                self.sends.push((to, data.into()));
            }
        }
        let nodes = self.foca.num_members() + 1;
        if nodes != self.sized_for {
            self.sized_for = nodes;
            // Refused only for settings that are not touched here.
            let _ = self.foca.set_config(config(&self.tempo, nodes, self.max_packet));
        }
        self.look_for_gossip(now);
    }

    /// Foca tells a suspect that its time is over even where it has refuted in time; such a word makes a healthy member
    /// renew itself, and others see it die. It also answers each packet of one that it holds for dead with that word; where
    /// two do so to each other, neither would ever stop.
    fn is_due_obituary(&mut self, now: Instant, to: &Identity) -> bool {
        self.obituaries.retain(|_, told| now.since(*told) < TELL_THE_DEAD);
        let is_alive = self.foca.iter_members().any(|member| member.id() == to);
        let is_due = !is_alive && !self.obituaries.contains_key(&to.name);
        if is_due {
            self.obituaries.insert(to.name.clone(), now);
        }
        is_due
    }
}

/// Whether a packet of foca's tells its receiver that it is dead.
fn is_obituary(mut data: &[u8]) -> bool {
    let header = <PostcardCodec as Codec<Identity>>::decode_header(&mut PostcardCodec, &mut data);
    matches!(header, Ok(header) if header.message == Message::TurnUndead)
}

fn standing(member: &Member<Identity>) -> Standing {
    let down = member.state() == State::Down;
    Standing {
        generation: member.id().generation,
        down,
        // Foca keeps the incarnation with which it first heard of the death, and that is another on each node: told as it
        // is, those nodes would never agree.
        incarnation: if down { 0 } else { member.incarnation() },
        suspect: member.state() == State::Suspect,
    }
}

fn member(identity: Identity, standing: Standing) -> Member<Identity> {
    let state = match standing {
        Standing { down: true, .. } => State::Down,
        Standing { suspect: true, .. } => State::Suspect,
        _ => State::Alive,
    };
    Member::new(identity, standing.incarnation, state)
}

/// The standing of this node itself, as it would tell others.
pub fn own_standing(identity: &Identity) -> Standing {
    Standing { generation: identity.generation, down: false, incarnation: 0, suspect: false }
}
