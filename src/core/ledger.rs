//! The life of a delivery: from an event that a handler shall hear of to exactly one outcome.
//!
//! A scope of a handler runs one delivery at a time, and what concerns no application overlaps with nothing else of its
//! handler: two runs that write one record would be a race. Behind what runs waits at most one other: every run writes the whole
//! wanted state, so that a newer event makes an older one that still waits superfluous (its outcome is `superseded`).
//! What fails is tried again with exponential backoff and jitter, or when the handler said, [`MAX_ATTEMPTS`] times in all.
//! What a new config has no place for any more ends as `cancelled`, but a run goes on to its end. What is given up stays
//! as a dead letter for a while, the newest [`DEAD_LETTERS`] of each handler.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use crate::event::{DeliveryId, Event, EventKind, Outcome, RunEnd};
use crate::letter::{LastEnd, Letter};
use crate::name::{AppName, HandlerName};
use crate::time::{Instant, Now, Wall};

/// After so many tries a delivery is given up. The next event, or the periodic `reconcile`, begins anew.
pub const MAX_ATTEMPTS: u32 = 10;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A handler may ask for a pause, but not for one without end.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// So many of each handler are kept of those that were given up, the newest.
pub const DEAD_LETTERS: usize = 32;
/// Nor are they kept for longer than this.
pub const DEAD_LETTER_AGE: Duration = Duration::from_secs(72 * 3600);

/// Where order holds: deliveries of one scope of one handler never overlap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeKey {
    /// The handler.
    pub handler: HandlerName,
    /// The application; none for what is about no application.
    pub app: Option<AppName>,
}

impl ScopeKey {
    /// The scope's name: the application's, else the handler's.
    pub fn scope(&self) -> &str {
        self.app.as_ref().map_or(self.handler.as_str(), AppName::as_str)
    }
}

/// Something that a handler shall hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Unique on this node.
    pub id: DeliveryId,
    /// Where it stands in line.
    pub key: ScopeKey,
    /// What happened.
    pub event: Event,
    /// The try, from 1.
    pub attempt: u32,
    /// When the event came, or the retry fell due.
    pub since: Instant,
    /// How the try before ended, or that of the delivery whose place it took. A delivery that has one is kept on the disk:
    /// what was promised to be tried again must not go with what takes its place.
    pub last: Option<Box<LastEnd>>,
}

#[derive(Debug, Default)]
struct Line {
    running: Option<Delivery>,
    /// What runs is not tried again: the handler that it is for has gone.
    is_last_try: bool,
    waiting: Option<(Instant, Delivery)>,
    /// The provider asked for a pause: nothing of this scope runs before.
    paused_until: Instant,
}

/// All deliveries of this node.
#[derive(Debug, Default)]
pub struct Ledger {
    lines: BTreeMap<ScopeKey, Line>,
    next_number: u64,
    /// In the order in which they were given up.
    dead: Vec<Arc<Letter>>,
}

/// A delivery that runs or waits.
#[derive(Debug)]
pub enum Pending<'l> {
    /// It runs.
    Running(&'l Delivery),
    /// It runs when it is due then, and its line is free.
    Waiting(&'l Delivery, Instant),
}

impl Ledger {
    /// Puts `event` in line. What it takes the place of is returned: it ended as superseded.
    ///
    /// A `reconcile` adds nothing to a delivery that waits already, and is dropped.
    pub fn offer(&mut self, now: Instant, key: ScopeKey, event: Event) -> Option<Delivery> {
        let line = self.lines.entry(key.clone()).or_default();
        if event.kind == EventKind::Reconcile && line.waiting.is_some() {
            return None;
        }
        let due = Instant::max(now, line.paused_until);
        self.put(now, due, key, event).1
    }

    /// Puts `event` in line for somebody who waits to see it run: at once when the line is free, whatever waited there,
    /// and whatever pause was asked for. Names the delivery, and gives back what it takes the place of.
    pub fn offer_at_once(&mut self, now: Instant, key: ScopeKey, event: Event) -> (DeliveryId, Option<Delivery>) {
        self.put(now, now, key, event)
    }

    fn put(&mut self, now: Instant, due: Instant, key: ScopeKey, event: Event) -> (DeliveryId, Option<Delivery>) {
        self.next_number += 1;
        let id = DeliveryId { handler: key.handler.clone(), number: self.next_number };
        let line = self.lines.entry(key.clone()).or_default();
        let before = line.waiting.take().map(|(_, before)| before);
        let last = before.as_ref().and_then(|before| before.last.clone());
        line.waiting = Some((due, Delivery { id: id.clone(), key, event, attempt: 1, since: now, last }));
        (id, before)
    }

    /// How many deliveries of `handler` run or wait.
    pub fn pending(&self, handler: &HandlerName) -> usize {
        let lines = self.lines.iter().filter(|(key, _)| key.handler == *handler).map(|(_, line)| line);
        lines.map(|line| usize::from(line.running.is_some()) + usize::from(line.waiting.is_some())).sum()
    }

    /// All that runs or waits, by scope.
    pub fn all_pending(&self) -> impl Iterator<Item = Pending<'_>> {
        self.lines.values().flat_map(|line| {
            let waiting = line.waiting.as_ref().map(|(due, delivery)| Pending::Waiting(delivery, *due));
            line.running.as_ref().map(Pending::Running).into_iter().chain(waiting)
        })
    }

    /// What waits in a line.
    pub fn waiting(&self, key: &ScopeKey) -> Option<&Delivery> {
        self.lines.get(key)?.waiting.as_ref().map(|(_, delivery)| delivery)
    }

    /// When the next delivery falls due that could start.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let free = self.lines.iter().filter(|(key, _)| self.is_free(key));
        free.filter_map(|(_, line)| line.waiting.as_ref().map(|(due, _)| *due)).min()
    }

    /// Whether nothing runs that `key` must not overlap with.
    fn is_free(&self, key: &ScopeKey) -> bool {
        let overlaps = |other: &ScopeKey| {
            other.handler == key.handler && (other.app == key.app || other.app.is_none() || key.app.is_none())
        };
        !self.lines.iter().any(|(other, line)| line.running.is_some() && overlaps(other))
    }

    /// The next delivery to start, if one is due. It runs until [`Ledger::finish`] is told of its end, or
    /// [`Ledger::hand_over`].
    pub fn start(&mut self, now: Instant) -> Option<Delivery> {
        let waiting = self.lines.iter().filter_map(|(key, line)| {
            let (due, delivery) = line.waiting.as_ref().filter(|(due, _)| *due <= now)?;
            Some((*due, delivery.id.number, key))
        });
        let (_, _, key) = waiting.filter(|(_, _, key)| self.is_free(key)).min()?;
        let key = key.clone();
        let line = self.lines.get_mut(&key)?;
        let (due, mut delivery) = line.waiting.take()?;
        delivery.since = due;
        line.is_last_try = false;
        line.running = Some(delivery.clone());
        Some(delivery)
    }

    /// A delivery that was started and turned out to be another node's.
    pub fn hand_over(&mut self, delivery: &Delivery) {
        if let Some(line) = self.lines.get_mut(&delivery.key) {
            line.running = None;
        }
    }

    /// Takes those out of line that `is_gone` says a new config has no place for. What waits there is returned, and ended
    /// as cancelled; what runs there ends by itself, and order holds until it has.
    pub fn cancel(&mut self, is_gone: impl Fn(&ScopeKey) -> bool) -> Vec<Delivery> {
        let mut cancelled = Vec::new();
        for (_, line) in self.lines.iter_mut().filter(|(key, _)| is_gone(key)) {
            cancelled.extend(line.waiting.take().map(|(_, delivery)| delivery));
            line.is_last_try = true;
        }
        self.lines.retain(|key, line| line.running.is_some() || !is_gone(key));
        cancelled
    }

    /// `handler` is configured anew, so what waits for another try may work now. A pause that was asked for still holds.
    pub fn hurry(&mut self, now: Instant, handler: &HandlerName) {
        for (_, line) in self.lines.iter_mut().filter(|(key, _)| key.handler == *handler) {
            if let Some((due, _)) = &mut line.waiting {
                *due = Instant::min(*due, Instant::max(now, line.paused_until));
            }
        }
    }

    /// A run has ended. The delivery and what became of it; `None` if no such run is known.
    pub fn finish(
        &mut self,
        now: Instant,
        id: &DeliveryId,
        end: &RunEnd,
        rng: &mut impl RngExt,
    ) -> Option<(Delivery, Outcome)> {
        let line = self.lines.values_mut().find(|line| line.running.as_ref().is_some_and(|run| run.id == *id))?;
        let delivery = line.running.take()?;
        let outcome = line.after(now, &delivery, end, rng);
        if line.is_last_try && line.waiting.is_none() {
            self.lines.remove(&delivery.key);
        }
        Some((delivery, outcome))
    }

    /// What the disk shall keep of the delivery that waits in a line for another try.
    pub fn letter(&self, now: Now, key: &ScopeKey) -> Option<Letter> {
        let line = self.lines.get(key)?;
        let (due, delivery) = line.waiting.as_ref()?;
        let last = LastEnd::clone(delivery.last.as_ref()?);
        let time = now.wall.after(due.since(now.at));
        let paused = line.paused_until >= *due && *due > now.at;
        Some(Letter { time, paused, ..letter(delivery, Outcome::Retry, last) })
    }

    /// Keeps what was given up as a dead letter: as what, and how its last try ended.
    pub fn bury(&mut self, now: Wall, delivery: &Delivery, outcome: Outcome, end: &RunEnd) -> Arc<Letter> {
        let letter = Arc::new(Letter { time: now, ..letter(delivery, outcome, LastEnd::new(end)) });
        self.dead.push(letter.clone());
        letter
    }

    /// Forgets the dead letters that are too old, or too many, and names them.
    pub fn expire(&mut self, now: Wall) -> Vec<DeliveryId> {
        let mut kept: BTreeMap<HandlerName, usize> = BTreeMap::new();
        for letter in &self.dead {
            *kept.entry(letter.handler.clone()).or_default() += 1;
        }
        let goes = |letter: &mut Arc<Letter>| {
            let kept = kept.entry(letter.handler.clone()).or_default();
            let goes = *kept > DEAD_LETTERS || now.since(letter.time) >= DEAD_LETTER_AGE;
            *kept -= usize::from(goes);
            goes
        };
        self.dead.extract_if(.., goes).map(|letter| letter.id()).collect()
    }

    /// What was given up, the oldest first.
    pub fn dead(&self) -> &[Arc<Letter>] {
        &self.dead
    }

    /// Puts a dead letter in line again, with all its tries, and due at once. Only where nothing waits already: that would
    /// be newer.
    pub fn redeliver(&mut self, now: Instant, id: &DeliveryId) -> Option<ScopeKey> {
        let place = self.dead.iter().position(|letter| letter.id() == *id)?;
        let delivery = Delivery { attempt: 1, ..delivery(now, &self.dead[place]) };
        let key = delivery.key.clone();
        let line = self.lines.entry(key.clone()).or_default();
        if line.waiting.is_some() {
            return None;
        }
        line.waiting = Some((now, delivery));
        self.dead.remove(place);
        Some(key)
    }

    /// Takes in what an earlier life of this node has left. A retry waits for its time again, and what waited in its place
    /// is given back. The time of day says when: it may be set, so a retry waits no longer than any pause lasts.
    pub fn restore(&mut self, now: Now, letter: Letter) -> Option<Delivery> {
        self.next_number = self.next_number.max(letter.number);
        if letter.outcome != Outcome::Retry {
            self.dead.push(Arc::new(letter));
            return None;
        }
        let due = now.at + letter.time.since(now.wall).min(MAX_RETRY_AFTER);
        let delivery = delivery(now.at, &letter);
        let line = self.lines.entry(delivery.key.clone()).or_default();
        if letter.paused {
            line.paused_until = due;
        }
        line.waiting.replace((due, delivery)).map(|(_, old)| old)
    }
}

fn letter(delivery: &Delivery, outcome: Outcome, last: LastEnd) -> Letter {
    let Delivery { id, event, attempt, .. } = delivery;
    Letter {
        handler: id.handler.clone(),
        number: id.number,
        event: event.kind,
        event_id: event.id.clone(),
        app: delivery.key.app.clone(),
        member: event.member.clone(),
        happened: event.time,
        attempt: *attempt,
        time: Wall::default(),
        paused: false,
        outcome,
        last,
    }
}

/// The delivery that a letter was written of.
pub fn delivery(since: Instant, letter: &Letter) -> Delivery {
    let key = ScopeKey { handler: letter.handler.clone(), app: letter.app.clone() };
    let (attempt, last) = (letter.attempt, Some(Box::new(letter.last.clone())));
    Delivery { id: letter.id(), key, event: letter.to_event(), attempt, since, last }
}

impl Line {
    /// What becomes of a delivery whose run ended like this; it waits again if that is another try.
    fn after(&mut self, now: Instant, delivery: &Delivery, end: &RunEnd, rng: &mut impl RngExt) -> Outcome {
        let wait = match end {
            RunEnd::Done { .. } => return Outcome::Done,
            RunEnd::Permanent(_) => return Outcome::Permanent,
            RunEnd::RetryAfter(wait, _) => {
                let wait = Duration::min(*wait, MAX_RETRY_AFTER);
                self.paused_until = now + wait;
                wait
            }
            RunEnd::Retry(_) | RunEnd::Stopped(..) => backoff(delivery.attempt).mul_f64(rng.random_range(0.8..=1.2)),
        };
        if let Some((due, newer)) = &mut self.waiting {
            *due = Instant::max(*due, self.paused_until);
            newer.last = Some(Box::new(LastEnd::new(end)));
            return Outcome::Superseded;
        }
        if self.is_last_try {
            return Outcome::Cancelled;
        }
        if delivery.attempt >= MAX_ATTEMPTS {
            return Outcome::Dead;
        }
        let (attempt, last) = (delivery.attempt + 1, Some(Box::new(LastEnd::new(end))));
        self.waiting = Some((now + wait, Delivery { attempt, last, ..delivery.clone() }));
        Outcome::Retry
    }
}

fn backoff(attempt: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << (attempt - 1).min(16)).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests;
