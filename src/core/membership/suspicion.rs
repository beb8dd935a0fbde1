//! Who is suspected, by whom, since when, and until when it may refute.
//!
//! Lifeguard's rule (see [`super::local_health`]): a suspicion that this node alone holds waits long, and each further
//! member that found the suspect silent by a probe of its own shortens the wait. In a cluster too small for confirmations
//! the shortest holds from the start. Foca's own timer for a verdict is never used: [`Membership`](super::Membership) asks
//! here what is due, and tells foca then. What led to a verdict is kept with it, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::broadcast::{Accusation, MAX_ACCUSERS, Probe};
use crate::identity::Identity;
use crate::name::NodeName;
use crate::time::Instant;

/// A suspicion that nobody confirms waits so many times the shortest wait.
const UNCONFIRMED: f64 = 2.0;
/// Who is heard, or slow to refute, gets so many times the shortest wait at most.
const LONGEST: f64 = 3.0;
/// A member that took so long to refute is given half as much again the next time.
const MARGIN: f64 = 1.5;
/// How long it is remembered that a member is slow.
const REMEMBER_SLOW: Duration = Duration::from_secs(600);
/// So many confirmations shorten the wait all the way.
const CONFIRMATIONS: usize = 2;

/// A member whose own probe of the suspect failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accuser {
    /// Its name.
    pub name: NodeName,
    /// When this node learnt of it.
    pub since: Instant,
    /// How it found out.
    pub probe: Probe,
}

/// What is held against a member in one incarnation of one life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// Who is suspected.
    pub identity: Identity,
    /// In which incarnation. A higher one refutes it.
    pub incarnation: u16,
    /// When this node first knew.
    pub since: Instant,
    /// Since when it may refute; later than `since` if this node stood still meanwhile.
    waits_since: Instant,
    /// When this node last heard from the suspect, if it did since.
    pub heard: Option<Instant>,
    /// By whom, as far as this node knows, the first first.
    pub accusers: Vec<Accuser>,
    question: Question,
    /// Whether its answer came by another way than gossip's.
    answered_otherwise: bool,
}

/// What became of the question before the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Due,
    /// The answer may take until then.
    Asked(Instant),
    /// None is waited for.
    Over,
}

impl Suspicion {
    fn is_of(&self, identity: &Identity, incarnation: u16) -> bool {
        self.identity == *identity && self.incarnation == incarnation
    }
}

/// How long a suspect may refute that so many members accuse, in a cluster of `nodes`, the suspect included.
/// `shortest` is the wait of a suspicion that is confirmed.
pub(super) fn wait(shortest: Duration, nodes: usize, accusers: usize) -> Duration {
    // The suspect cannot confirm, nor can this node confirm its own word.
    if nodes < CONFIRMATIONS + 2 {
        return shortest;
    }
    let confirmations = accusers.saturating_sub(1).min(CONFIRMATIONS) as f64;
    let confirmed = (confirmations + 1.0).ln() / (CONFIRMATIONS as f64 + 1.0).ln();
    shortest.mul_f64(UNCONFIRMED - (UNCONFIRMED - 1.0) * confirmed)
}

/// All suspicions of this node.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    by_name: BTreeMap<NodeName, Suspicion>,
    /// Who took how long to refute, and when.
    slow: BTreeMap<NodeName, (Duration, Instant)>,
}

impl Suspicions {
    /// Notes that a member is suspected, if that is not known yet.
    pub(super) fn hold(&mut self, now: Instant, identity: &Identity, incarnation: u16) -> &mut Suspicion {
        let new = || Suspicion {
            identity: identity.clone(),
            incarnation,
            since: now,
            waits_since: now,
            heard: None,
            accusers: Vec::new(),
            question: Question::Due,
            answered_otherwise: false,
        };
        let held = self.by_name.entry(identity.name.clone()).or_insert_with(new);
        if !held.is_of(identity, incarnation) {
            *held = new();
        }
        held
    }

    /// Notes who says so. Whether that is news.
    pub(super) fn accuse(&mut self, now: Instant, accusation: &Accusation) -> bool {
        let held = self.hold(now, &accusation.suspect, accusation.incarnation);
        let is_known = held.accusers.iter().any(|accuser| accuser.name == accusation.accuser);
        if is_known || held.accusers.len() >= MAX_ACCUSERS {
            return false;
        }
        held.accusers.push(Accuser { name: accusation.accuser.clone(), since: now, probe: accusation.probe });
        true
    }

    /// Notes that something of a member's came in. Whether it is suspected.
    pub(super) fn hear(&mut self, now: Instant, name: &NodeName) -> bool {
        let held = self.by_name.get_mut(name);
        held.map(|suspicion| suspicion.heard = Some(now)).is_some()
    }

    pub(super) fn get(&self, name: &NodeName) -> Option<&Suspicion> {
        self.by_name.get(name)
    }

    pub(super) fn remove(&mut self, name: &NodeName) -> Option<Suspicion> {
        self.by_name.remove(name)
    }

    /// Forgets those for which this does not hold: they have refuted, or are not there any more.
    pub(super) fn retain(&mut self, is_suspect: impl Fn(&Suspicion) -> bool) -> Vec<Suspicion> {
        self.by_name.extract_if(.., |_, suspicion| !is_suspect(suspicion)).map(|(_, suspicion)| suspicion).collect()
    }

    /// A suspicion was wrong: its answer has come now. A slow member needs its time to refute, each time anew.
    pub(super) fn was_wrong(&mut self, now: Instant, suspicion: &Suspicion) {
        if suspicion.answered_otherwise {
            return;
        }
        self.slow.retain(|_, (_, learnt)| now.since(*learnt) < REMEMBER_SLOW);
        self.slow.insert(suspicion.identity.name.clone(), (now.since(suspicion.since), now));
    }

    /// When a suspicion's wait is over. Who is heard speaks, however late: its refutal may be under way.
    fn over(&self, suspicion: &Suspicion, shortest: Duration, nodes: usize) -> Instant {
        let took = self.slow.get(&suspicion.identity.name).map_or(Duration::ZERO, |(took, _)| *took);
        let needs = suspicion.waits_since + took.mul_f64(MARGIN);
        let quiet = suspicion.heard.map_or(Instant::default(), |heard| heard + shortest);
        let longest = suspicion.waits_since + shortest.mul_f64(LONGEST);
        let over = suspicion.waits_since + wait(shortest, nodes, suspicion.accusers.len());
        let asked = match suspicion.question {
            Question::Asked(until) => until,
            _ => Instant::default(),
        };
        over.max(quiet.max(needs).min(longest)).max(asked)
    }

    /// The first one that was not asked, and when its wait is over if it is confirmed in time.
    pub(super) fn next_unasked(&self, shortest: Duration) -> Option<(Instant, &Suspicion)> {
        let unasked = self.by_name.values().filter(|it| it.question == Question::Due);
        unasked.map(|it| (it.waits_since + shortest, it)).min_by_key(|(at, _)| *at)
    }

    /// A suspect was asked; the answer may take until then.
    pub(super) fn ask(&mut self, name: &NodeName, until: Instant) {
        if let Some(held) = self.by_name.get_mut(name) {
            held.question = Question::Asked(until);
        }
    }

    /// No answer will come.
    pub(super) fn stop_waiting(&mut self, name: &NodeName) {
        if let Some(held) = self.by_name.get_mut(name).filter(|held| matches!(held.question, Question::Asked(_))) {
            held.question = Question::Over;
        }
    }

    /// The answer has come.
    pub(super) fn answered_otherwise(&mut self, name: &NodeName) {
        if let Some(held) = self.by_name.get_mut(name) {
            held.answered_otherwise = true;
        }
    }

    /// This node stood still, and may have missed their refutals: all may wait as if they had just been suspected.
    pub(super) fn wait_anew(&mut self, now: Instant) {
        for suspicion in self.by_name.values_mut() {
            (suspicion.waits_since, suspicion.question) = (now, Question::Due);
        }
    }

    /// The first one whose wait is over, and when that is or was; `shortest` as in [`wait`], this node's own part in it.
    pub(super) fn next(&self, shortest: Duration, nodes: usize) -> Option<(Instant, &Suspicion)> {
        self.by_name.values().map(|it| (self.over(it, shortest, nodes), it)).min_by_key(|(at, _)| *at)
    }
}

/// That a member is down, and what is known of how that came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Who is down.
    pub identity: Identity,
    /// Since when, for this node.
    pub since: Instant,
    /// Whether this node itself gave up waiting; else another member did, and foca does not say which.
    pub is_own: bool,
    /// What this node knew against it before; nothing if it only heard of the end.
    pub suspicion: Option<Suspicion>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_shorten_the_wait_where_there_is_somebody_to_confirm() {
        let shortest = Duration::from_secs(4);
        for nodes in [2, 3] {
            assert!((0..4).all(|accusers| wait(shortest, nodes, accusers) == shortest), "{nodes}");
        }
        for nodes in [4, 5, 100] {
            let waits: Vec<_> = (0..6).map(|accusers| wait(shortest, nodes, accusers).as_millis()).collect();
            assert_eq!(waits, [8_000, 8_000, 5_476, 4_000, 4_000, 4_000], "{nodes}");
        }
    }

    #[test]
    fn each_accuser_counts_once_and_a_refutal_begins_anew() {
        let name = |text: &str| NodeName::new(text).unwrap();
        let at = |s| Instant::from_origin(Duration::from_secs(s));
        let suspect = Identity { name: name("a"), generation: 1, address: "127.0.0.1:1".parse().unwrap() };
        let accusation = |accuser, incarnation| Accusation {
            suspect: suspect.clone(),
            incarnation,
            accuser: name(accuser),
            probe: Probe { asked: 3 },
        };
        let mut suspicions = Suspicions::default();
        assert!(suspicions.accuse(at(1), &accusation("b", 0)));
        assert!(!suspicions.accuse(at(2), &accusation("b", 0)));
        assert!(suspicions.accuse(at(3), &accusation("c", 0)));
        let shortest = Duration::from_secs(4);
        assert_eq!(suspicions.next(shortest, 5).unwrap().0, at(1) + wait(shortest, 5, 2));
        suspicions.wait_anew(at(9));
        assert_eq!(suspicions.next(shortest, 5).unwrap().0, at(9) + wait(shortest, 5, 2));
        assert_eq!(suspicions.get(&name("a")).unwrap().since, at(1), "that it stood still changes nothing of the past");
        assert!(suspicions.hear(at(15), &name("a")) && !suspicions.hear(at(15), &name("b")));
        assert_eq!(suspicions.next(shortest, 5).unwrap().0, at(19), "who was just heard is not down yet");
        assert!(suspicions.hear(at(19), &name("a")));
        assert_eq!(suspicions.next(shortest, 5).unwrap().0, at(21), "but that does not go on for ever");
        suspicions.hold(at(20), &suspect, 1);
        assert_eq!(suspicions.next(shortest, 5).unwrap().0, at(20) + wait(shortest, 5, 0));
        ["b", "c", "d"].iter().for_each(|by| assert!(suspicions.accuse(at(20), &accusation(by, 1))));
        assert_eq!(suspicions.next(shortest, 5).unwrap().0, at(24));
        let refuted = suspicions.retain(|_| false).remove(0);
        suspicions.was_wrong(at(26), &refuted);
        suspicions.hold(at(30), &suspect, 2);
        assert_eq!(suspicions.next(shortest, 2).unwrap().0, at(39), "who took six seconds gets nine");
    }
}
