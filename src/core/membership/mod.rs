//! Who is there: foca (SWIM with suspicion), and what picored adds to it from outside.
//!
//! Foca's timers live in one ordered queue here, its packets leave through [`Membership::take_sends`], and what it says
//! of members is read from its list, never counted from its notifications: those are only a hint to look. What is added:
//! no word of death to a member that has refuted in time, at least ten transmissions of every update, verdicts by
//! Lifeguard's rules (`doubt`, `suspicion`, `local_health`), and a way back for a node that was cut off (`anew`).

mod anew;
mod doubt;
mod local_health;
mod suspicion;
mod tempo;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use foca::{AccumulatingRuntime, Codec, Foca, Member, Message, OwnedNotification, PostcardCodec, State};
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::doubt::ProbeUnderWay;
use self::local_health::LocalHealth;
use self::suspicion::Suspicions;
pub use self::suspicion::{Accuser, Suspicion, Verdict};
pub use self::tempo::FORGET_AFTER;
use self::tempo::{Tempo, config, tempo};
use crate::broadcast::{Broadcasts, News};
use crate::config::Profile;
use crate::defences::{Defence, Defences};
use crate::identity::Identity;
use crate::message::Standing;
use crate::name::NodeName;
use crate::receipt::Receipt;
use crate::record::Record;
use crate::stale::Stale;
use crate::time::{Instant, TimerQueue};

/// A member that is held for dead is told so at most this often.
const TELL_THE_DEAD: Duration = Duration::from_secs(1);

/// What has changed since it was last asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Who may be in another state.
    pub members: Stale,
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
    /// What was due by then is done.
    done_until: Instant,
    /// The end of the probe that is under way, which begins the next one.
    probe: Option<(Instant, foca::Timer<Identity>)>,
    under_way: Option<ProbeUnderWay>,
    /// Whose probe has just failed, in which incarnation.
    failed: Option<(Identity, u16)>,
    /// Marks those of foca's timers that still count.
    token: foca::TimerToken,
    local_health: LocalHealth,
    suspicions: Suspicions,
    /// Those on foca's list that are suspected or down, as they were seen last, in order of names.
    not_alive: Vec<Member<Identity>>,
    /// Why those are down that are.
    verdicts: BTreeMap<NodeName, Verdict>,
    /// This node's own.
    incarnation: u16,
    /// Members that this node has taken for dead while it was itself cut off, and does not know any better of yet.
    unsure: Vec<Identity>,
    /// Suspects that the node shall ask.
    questions: Vec<(Identity, u16)>,
    /// Whether this node holds most others for dead, and so tells nobody of it.
    is_cut_off: bool,
    /// Foca has taken a new identity, and what it was about to spread is not to be.
    shall_begin_anew: bool,
    /// Where the randomness of the next foca comes from.
    rng: StdRng,
    news: mpsc::Receiver<News>,
    records: Vec<Record>,
    receipts: Vec<Receipt>,
    sends: Vec<(Identity, Vec<u8>)>,
    /// Whom this node told lately that it is dead.
    obituaries: BTreeMap<NodeName, Instant>,
    changes: Changes,
    defences: Defences,
    tempo: Tempo,
    max_packet: usize,
    sized_for: usize,
}

impl Membership {
    /// A node alone. `max_packet` is what the envelope leaves of a datagram, in bytes.
    pub fn new(identity: Identity, profile: Profile, max_packet: usize, mut rng: StdRng) -> Self {
        let own_rng = StdRng::from_rng(&mut rng);
        let tempo = tempo(profile);
        let (broadcasts, news) = Broadcasts::new(identity.name.clone());
        let config = config(&tempo, 1, max_packet);
        Self {
            foca: Foca::with_custom_broadcast(identity, config, rng, PostcardCodec, broadcasts),
            runtime: AccumulatingRuntime::new(),
            timers: TimerQueue::default(),
            round: None,
            has_gossip: false,
            done_until: Instant::default(),
            probe: None,
            under_way: None,
            failed: None,
            token: foca::TimerToken::default(),
            local_health: LocalHealth::default(),
            suspicions: Suspicions::default(),
            not_alive: Vec::new(),
            verdicts: BTreeMap::new(),
            incarnation: 0,
            unsure: Vec::new(),
            questions: Vec::new(),
            is_cut_off: false,
            shall_begin_anew: false,
            rng: own_rng,
            news,
            records: Vec::new(),
            receipts: Vec::new(),
            sends: Vec::new(),
            obituaries: BTreeMap::new(),
            changes: Changes::default(),
            defences: Defences::default(),
            tempo,
            max_packet,
            sized_for: 1,
        }
    }

    /// Only these of its defences stand from now on.
    #[cfg(feature = "controls")]
    pub fn set_defences(&mut self, defences: Defences) {
        self.defences = defences;
        let _ = self.foca.set_config(self.foca_config(self.sized_for));
    }

    /// How often a member is probed.
    pub fn probe_period(&self) -> Duration {
        self.tempo.probe_period
    }

    /// Who this node is now; the generation grows when it has to refute its own death.
    pub fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// All members that this node remembers, the dead among them, without this node itself.
    pub fn members(&self) -> impl Iterator<Item = (&Identity, Standing)> {
        let down = |identity: &Identity| Standing { down: true, ..own_standing(identity) };
        self.listed().chain(self.unsure().map(move |identity| (identity, down(identity))))
    }

    /// Those among [`Self::members`] of which this node tells others: not who is down while it may itself be cut off.
    pub fn told(&self) -> impl Iterator<Item = (&Identity, Standing)> {
        self.listed().filter(|(_, standing)| !(standing.down && self.is_cut_off))
    }

    fn listed(&self) -> impl Iterator<Item = (&Identity, Standing)> {
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
        let sent = self.sends.len();
        let result = self.foca.handle_data(data, &mut self.runtime);
        self.collect(now);
        self.note_answer(now, data);
        self.take_in_news(now);
        if self.not_alive.iter().any(|member| member.state() == State::Suspect) {
            // It may have refuted.
            self.look_at_suspects(now);
        }
        self.begin_anew_if_needed(now, sent);
        result
    }

    /// Runs all that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.note_lateness(now);
        while let Some(timer) = self.timers.pop_due(now) {
            self.fire(now, timer);
        }
        self.ask_others(now);
        if let Some((_, timer)) = self.probe.take_if(|(due, _)| *due <= now) {
            self.end_probe(now, timer);
        }
        self.give_up(now);
        if let Some((_, timer)) = self.round.take_if(|(due, _)| self.has_gossip && *due <= now) {
            self.fire(now, timer);
        }
        self.done_until = now;
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
            let late = now.since(*due).as_nanos();
            // The one of this very moment is over if what was due has been done.
            let is_over = self.done_until == now && *due <= now;
            let passed = if is_over { late / period.as_nanos() + 1 } else { late.div_ceil(period.as_nanos()) };
            *due = *due + period.saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX));
        }
    }

    /// When to come back.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let round = self.round.as_ref().filter(|_| self.has_gossip).map(|(due, _)| *due);
        [self.next_timer(), self.next_verdict(), self.next_question(), round].into_iter().flatten().min()
    }

    /// Asks `peer` to take this node in.
    pub fn announce(&mut self, now: Instant, peer: Identity) {
        let _ = self.foca.announce(peer, &mut self.runtime);
        self.collect(now);
    }

    /// Takes over what a peer knows. Foca's own rules decide what is news.
    pub fn apply(&mut self, now: Instant, members: Vec<(Identity, Standing)>) {
        let members = members.into_iter().map(|(identity, standing)| member(identity, standing));
        let sent = self.sends.len();
        let _ = self.foca.apply_many(members, true, &mut self.runtime);
        self.collect(now);
        self.begin_anew_if_needed(now, sent);
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
        std::mem::take(&mut self.records)
    }

    /// The receipts that came with packets.
    pub fn take_receipts(&mut self) -> Vec<Receipt> {
        std::mem::take(&mut self.receipts)
    }

    /// Spreads this node's own receipt; of another's it is noted that it is known.
    pub fn broadcast_receipt(&mut self, now: Instant, receipt: &Receipt) {
        let _ = self.foca.add_broadcast(&receipt.to_broadcast());
        self.look_for_gossip(now);
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn collect(&mut self, now: Instant) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.schedule(now, after, timer);
        }
        let mut has_changed = false;
        while let Some(notification) = self.runtime.to_notify() {
            has_changed = true;
            match &notification {
                OwnedNotification::MemberUp(identity) | OwnedNotification::MemberDown(identity) => {
                    self.changes.members.add(&identity.name);
                }
                _ => self.changes.members = Stale::All,
            }
            match notification {
                OwnedNotification::MemberUp(identity) | OwnedNotification::Rename(_, identity) => {
                    self.changes.returned.retain(|known| known.name != identity.name);
                    self.changes.returned.push(identity);
                }
                OwnedNotification::Rejoin(_) => {
                    self.changes.rejoined = true;
                    self.incarnation = 0;
                    self.shall_begin_anew |= self.is_cut_off;
                }
                _ => {}
            }
        }
        while let Some((to, data)) = self.runtime.to_send() {
            if self.may_send(now, &to, &data) {
                self.sends.push((to, data.into()));
            }
        }
        self.resize();
        if has_changed {
            self.look_at_suspects(now);
        }
        self.look_for_gossip(now);
    }

    /// Looks at what foca wants sent: it tells of this node as well.
    fn may_send(&mut self, now: Instant, to: &Identity, mut data: &[u8]) -> bool {
        let Ok(header) = PostcardCodec.decode_header(&mut data) else { return true };
        self.note_own(&header);
        let is_told = header.message != Message::TurnUndead || !self.defences.has(Defence::ObituaryFilter);
        is_told || self.is_due_obituary(now, to)
    }

    /// Foca tells a suspect that its time is over even where it has refuted in time; such a word makes a healthy member
    /// renew itself, and others see it die. It also answers each packet of one that it holds for dead with that word; where
    /// two do so to each other, neither would ever stop. Who was cut off itself holds the living for dead.
    fn is_due_obituary(&mut self, now: Instant, to: &Identity) -> bool {
        self.obituaries.retain(|_, told| now.since(*told) < TELL_THE_DEAD);
        let is_alive = self.foca.iter_members().any(|member| member.id() == to);
        let is_due = !self.is_cut_off && !is_alive && !self.obituaries.contains_key(&to.name);
        if is_due {
            self.obituaries.insert(to.name.clone(), now);
        }
        is_due
    }
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
