//! Who is there: foca (SWIM with suspicion), and what picored adds to it from outside.
//!
//! Foca's timers live in one ordered queue here, its packets leave through [`Membership::take_sends`], and what it says
//! of members is read from its list, never counted from its notifications: those are only a hint to look. What is added:
//! no word of death to a member that has refuted in time, at least `MIN_TRANSMISSIONS` transmissions of every update,
//! a suspicion time that follows the cluster's size, and no verdict right after this process itself stood still.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::mpsc;
use std::time::Duration;

use foca::{
    AccumulatingRuntime, Codec, Foca, Member, Message, OwnedNotification, PeriodicParams, PostcardCodec, State,
};
use rand::rngs::StdRng;

use crate::config::Profile;
use crate::identity::Identity;
use crate::message::Standing;
use crate::name::NodeName;
use crate::record::{Broadcasts, Record};
use crate::time::{Instant, TimerQueue};

/// Every update is sent this often at least. Foca's own formula gives 1 for two nodes: one lost datagram and the news is
/// gone.
const MIN_TRANSMISSIONS: u8 = 10;
/// A member that is down is forgotten after this time.
const FORGET_AFTER: Duration = Duration::from_secs(72 * 3600);
/// A member that is held for dead is told so at most this often.
const TELL_THE_DEAD: Duration = Duration::from_secs(1);
/// A verdict that comes due so much too late was held up by this process; it is postponed by another suspicion time.
const STALLED: Duration = Duration::from_secs(2);

/// What one profile sets.
struct Tempo {
    probe_period: Duration,
    probe_rtt: Duration,
    suspicion_multiplier: f64,
    gossip_period: Duration,
    gossip_members: usize,
}

const fn tempo(profile: Profile) -> Tempo {
    match profile {
        Profile::Lan => Tempo {
            probe_period: Duration::from_secs(1),
            probe_rtt: Duration::from_millis(500),
            suspicion_multiplier: 4.0,
            gossip_period: Duration::from_millis(200),
            gossip_members: 3,
        },
        Profile::Wan => Tempo {
            probe_period: Duration::from_secs(5),
            probe_rtt: Duration::from_secs(3),
            suspicion_multiplier: 6.0,
            gossip_period: Duration::from_millis(500),
            gossip_members: 4,
        },
    }
}

/// How long a suspect has to refute, in a cluster of `nodes`: memberlist's lower bound, `multiplier * max(1, log10 n)`
/// probe periods.
fn suspicion(tempo: &Tempo, nodes: usize) -> Duration {
    tempo.probe_period.mul_f64(tempo.suspicion_multiplier * f64::max(1.0, (nodes.max(1) as f64).log10()))
}

fn config(tempo: &Tempo, nodes: usize, max_packet: usize) -> foca::Config {
    let log = 4.0 * ((nodes + 1) as f64).log10();
    let transmissions = (log as u8).max(MIN_TRANSMISSIONS);
    foca::Config {
        probe_period: tempo.probe_period,
        probe_rtt: tempo.probe_rtt,
        num_indirect_probes: NonZeroUsize::new(3).expect("not zero"),
        max_transmissions: NonZeroU8::new(transmissions).expect("not zero"),
        suspect_to_down_after: suspicion(tempo, nodes),
        remove_down_after: Some(FORGET_AFTER),
        max_packet_size: NonZeroUsize::new(max_packet).expect("an envelope leaves room"),
        notify_down_members: true,
        // Foca answers each announce with all that it knows; the node itself asks, and only where it helps.
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams {
            frequency: tempo.gossip_period,
            num_members: NonZeroUsize::new(tempo.gossip_members).expect("not zero"),
        }),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn identity(name: &str, generation: u64) -> Identity {
        let port = 7000 + name.bytes().map(u16::from).sum::<u16>();
        Identity {
            name: NodeName::new(name).unwrap(),
            generation,
            address: std::net::SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }

    fn node(name: &str) -> Membership {
        Membership::new(identity(name, 1), Profile::Lan, 1000, StdRng::seed_from_u64(1))
    }

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    fn alive(name: &str, generation: u64) -> (Identity, Standing) {
        (identity(name, generation), Standing { generation, down: false, incarnation: 0, suspect: false })
    }

    #[test]
    fn small_clusters_repeat_every_update() {
        for nodes in [1, 2, 3, 5, 300] {
            let config = config(&tempo(Profile::Lan), nodes, 1000);
            assert!(config.max_transmissions.get() >= MIN_TRANSMISSIONS, "{nodes}");
        }
    }

    #[test]
    fn suspicion_grows_with_the_cluster() {
        let lan = tempo(Profile::Lan);
        assert_eq!(suspicion(&lan, 3), Duration::from_secs(4));
        assert_eq!(suspicion(&lan, 10), Duration::from_secs(4));
        assert_eq!(suspicion(&lan, 100), Duration::from_secs(8));
        assert_eq!(suspicion(&tempo(Profile::Wan), 3), Duration::from_secs(30));
    }

    #[test]
    fn an_announce_makes_both_sides_members() {
        let (mut a, mut b) = (node("a"), node("b"));
        a.announce(at(0), identity("b", 1));
        for round in 0..4 {
            for (to, data) in a.take_sends() {
                assert_eq!(to.name.as_str(), "b");
                b.handle_data(at(round), &data).unwrap();
            }
            for (_, data) in b.take_sends() {
                a.handle_data(at(round), &data).unwrap();
            }
        }
        assert_eq!(a.active().collect::<Vec<_>>(), [&identity("b", 1)]);
        assert_eq!(b.active().collect::<Vec<_>>(), [&identity("a", 1)]);
        let changes = b.take_changes();
        assert!(changes.members && changes.returned == [identity("a", 1)]);
        assert_eq!(b.take_changes(), Changes::default());
    }

    #[test]
    fn a_silent_member_is_suspected_and_then_down() {
        let mut a = node("a");
        a.apply(at(0), vec![alive("b", 1)]);
        let mut suspected = None;
        for ms in (0..12_000).step_by(50) {
            a.handle_timeout(at(ms));
            if suspected.is_none() && a.suspects().count() == 1 {
                suspected = Some(ms);
            }
            if a.active().count() == 0 {
                let suspected = suspected.expect("a suspicion comes first");
                assert!((4000..4500).contains(&(ms - suspected)), "{suspected} {ms}");
                return;
            }
        }
        panic!("never declared down");
    }

    #[test]
    fn a_round_of_gossip_waits_for_something_to_tell() {
        let (mut a, mut b) = (node("a"), node("b"));
        a.announce(at(0), identity("b", 1));
        let mut now = at(0);
        let mut pass = |a: &mut Membership, b: &mut Membership, until: Instant| {
            let (mut wakes, mut gossip) = (0, 0);
            loop {
                for (_, mut data) in a.take_sends().iter().map(|(to, data)| (to, data.as_slice())) {
                    b.handle_data(now, data).unwrap();
                    let header = <PostcardCodec as Codec<Identity>>::decode_header(&mut PostcardCodec, &mut data);
                    gossip += u32::from(header.unwrap().message == Message::Gossip);
                }
                for (_, data) in b.take_sends() {
                    a.handle_data(now, &data).unwrap();
                }
                let next = [a.poll_timeout(), b.poll_timeout()].into_iter().flatten().min().unwrap().max(now);
                if next > until {
                    return (wakes, gossip);
                }
                now = next;
                wakes += u32::from(a.poll_timeout().is_some_and(|due| due <= now));
                a.handle_timeout(now);
                b.handle_timeout(now);
            }
        };
        pass(&mut a, &mut b, at(30_000));
        assert_eq!(a.active().count(), 1);
        // Told often enough: what is left is one probe a period, with its timers.
        let (wakes, gossip) = pass(&mut a, &mut b, at(40_000));
        assert!(wakes <= 30 && gossip == 0, "{wakes} {gossip}");
        a.apply(at(40_000), vec![alive("c", 1)]);
        let (_, gossip) = pass(&mut a, &mut b, at(40_000) + tempo(Profile::Lan).gossip_period);
        assert!(gossip > 0, "news do not wait longer than a round");
    }

    #[test]
    fn a_suspect_has_more_time_in_a_larger_cluster() {
        let mut a = node("a");
        a.apply(at(0), (0..99).map(|i| alive(&format!("n{i}"), 1)).collect());
        let mut ms = 0;
        while a.suspects().count() == 0 {
            a.handle_timeout(at(ms));
            ms += 50;
        }
        (ms..ms + 7900).step_by(50).for_each(|ms| a.handle_timeout(at(ms)));
        assert_eq!(a.active().count(), 99);
    }

    #[test]
    fn a_process_that_stood_still_gives_no_verdict_at_once() {
        let mut a = node("a");
        a.apply(at(0), vec![alive("b", 1), alive("c", 1)]);
        let mut ms = 0;
        while a.suspects().count() == 0 {
            a.handle_timeout(at(ms));
            ms += 50;
        }
        // Ten minutes of sleep; the first thing after it must not be a death sentence.
        let woken = ms + 600_000;
        a.handle_timeout(at(woken));
        assert_eq!(a.active().count(), 2);
        for later in (woken..woken + 15_000).step_by(50) {
            a.handle_timeout(at(later));
        }
        assert_eq!(a.active().count(), 0, "the verdict is postponed, not dropped");
    }

    #[test]
    fn no_obituary_goes_to_a_member_that_refuted() {
        let mut a = node("a");
        a.apply(at(0), vec![alive("b", 1)]);
        let mut ms = 0;
        while a.suspects().count() == 0 {
            a.handle_timeout(at(ms));
            ms += 50;
        }
        let (_, mut refuted) = alive("b", 1);
        refuted.incarnation = 1;
        a.apply(at(ms), vec![(identity("b", 1), refuted)]);
        assert_eq!(a.suspects().count(), 0);
        a.take_sends();
        // The old suspicion's timer fires; nothing may tell b that it is dead while a holds it alive.
        let deadline = ms + 4_100;
        let mut obituaries = 0;
        while ms < deadline {
            a.handle_timeout(at(ms));
            obituaries += a.take_sends().iter().filter(|(_, data)| is_obituary(data)).count();
            ms += 50;
        }
        assert_eq!(obituaries, 0);
    }

    #[test]
    fn a_suspected_node_refutes() {
        let mut a = node("a");
        a.apply(at(0), vec![alive("b", 1)]);
        a.take_sends();
        a.refute(at(1), &identity("a", 1), 0);
        assert!(!a.take_sends().is_empty(), "the refutal is spread at once");
        a.refute(at(2), &identity("a", 9), 0);
        assert!(a.take_sends().is_empty(), "another life is not this one's to refute");
    }

    #[test]
    fn a_restart_is_a_new_life_of_the_same_member() {
        let mut a = node("a");
        a.apply(at(0), vec![alive("b", 1)]);
        a.take_changes();
        a.apply(at(1), vec![alive("b", 2)]);
        assert_eq!(a.take_changes().returned, [identity("b", 2)]);
        assert_eq!(a.active().collect::<Vec<_>>(), [&identity("b", 2)]);
        a.apply(at(2), vec![alive("b", 1)]);
        assert_eq!(a.active().collect::<Vec<_>>(), [&identity("b", 2)], "the earlier life is over");
    }

    #[test]
    fn nodes_that_heard_of_a_death_in_different_ways_hold_the_same() {
        let standings = [0, 7].map(|incarnation| {
            let mut a = node("a");
            let dead = Standing { generation: 1, down: true, incarnation, suspect: false };
            a.apply(at(0), vec![alive("b", 1)]);
            a.apply(at(1), vec![(identity("b", 1), dead)]);
            a.members().map(|(_, standing)| standing).collect::<Vec<_>>()
        });
        assert_eq!(standings[0], standings[1]);
    }

    #[test]
    fn an_earlier_life_of_this_node_is_no_member() {
        let mut a = Membership::new(identity("a", 5), Profile::Lan, 1000, StdRng::seed_from_u64(1));
        a.apply(at(0), vec![alive("b", 1), alive("a", 4)]);
        assert_eq!(a.members().map(|(identity, _)| identity.name.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_node_taken_for_dead_takes_a_new_identity() {
        let mut a = node("a");
        a.apply(at(0), vec![alive("b", 1)]);
        a.take_changes();
        let (own, mut standing) = (identity("a", 1), own_standing(&identity("a", 1)));
        standing.down = true;
        a.apply(at(1), vec![(own, standing)]);
        assert!(a.take_changes().rejoined);
        assert_eq!(a.identity().generation, 2);
    }
}
