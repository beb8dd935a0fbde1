//! The life of a delivery: from an event that a handler shall hear of to exactly one outcome.
//!
//! A scope of a handler runs one delivery at a time, and what concerns no application overlaps with nothing else of its
//! handler: two runs that write one record would be a race. Behind what runs waits at most one other: every run writes the whole
//! wanted state, so that a newer event makes an older one that still waits superfluous (its outcome is `superseded`).
//! What fails is tried again with exponential backoff and jitter, or when the handler said, [`MAX_ATTEMPTS`] times in all.
//! What a new config has no place for any more ends as `cancelled`, but a run goes on to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;

use crate::event::{DeliveryId, Event, EventKind, RunEnd};
use crate::name::{AppName, HandlerName};
use crate::time::Instant;

/// After so many tries a delivery is given up. The next event, or the periodic `reconcile`, begins anew.
pub const MAX_ATTEMPTS: u32 = 10;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A handler may ask for a pause, but not for one without end.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

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
}

/// How a delivery, or one try of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The handler did it.
    Done,
    /// It will be tried again.
    Retry,
    /// Given up after [`MAX_ATTEMPTS`] tries.
    Dead,
    /// The handler says that it cannot be done.
    Permanent,
    /// A newer event took its place before it ran.
    Superseded,
    /// Another node runs it now.
    HandedOver,
    /// A new config has no handler for it: it did not run, or failed and is not tried again.
    Cancelled,
}

impl Outcome {
    /// The outcome's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::Permanent => "permanent",
            Self::Superseded => "superseded",
            Self::HandedOver => "handed-over",
            Self::Cancelled => "cancelled",
        }
    }
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
        let delivery = Delivery { id: id.clone(), key: key.clone(), event, attempt: 1, since: now };
        let line = self.lines.entry(key).or_default();
        (id, line.waiting.replace((due, delivery)).map(|(_, old)| old))
    }

    /// How many deliveries of `handler` run or wait.
    pub fn pending(&self, handler: &HandlerName) -> usize {
        let lines = self.lines.iter().filter(|(key, _)| key.handler == *handler).map(|(_, line)| line);
        lines.map(|line| usize::from(line.running.is_some()) + usize::from(line.waiting.is_some())).sum()
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
        if let Some((due, _)) = &mut self.waiting {
            *due = Instant::max(*due, self.paused_until);
            return Outcome::Superseded;
        }
        if self.is_last_try {
            return Outcome::Cancelled;
        }
        if delivery.attempt >= MAX_ATTEMPTS {
            return Outcome::Dead;
        }
        self.waiting = Some((now + wait, Delivery { attempt: delivery.attempt + 1, ..delivery.clone() }));
        Outcome::Retry
    }
}

fn backoff(attempt: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << (attempt - 1).min(16)).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::StopReason;
    use crate::time::Wall;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn key(scope: &str) -> ScopeKey {
        ScopeKey { handler: HandlerName::new("dns").unwrap(), app: Some(AppName::new(scope).unwrap()) }
    }
    fn event(kind: EventKind, id: &str) -> Event {
        Event { id: id.into(), kind, app: None, member: None, time: Wall(0) }
    }
    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }
    fn done() -> RunEnd {
        RunEnd::Done { changed: true, text: String::new() }
    }
    fn rng() -> StdRng {
        StdRng::seed_from_u64(1)
    }
    fn offer(ledger: &mut Ledger, ms: u64, scope: &str, id: &str) -> Option<String> {
        ledger.offer(at(ms), key(scope), event(EventKind::AppDown, id)).map(|old| old.event.id)
    }

    #[test]
    fn nothing_stands_between_an_event_and_its_start() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 5, "www", "e1");
        assert_eq!(ledger.poll_timeout(), Some(at(5)));
        assert_eq!(ledger.start(at(5)).unwrap().event.id, "e1");
    }

    #[test]
    fn a_scope_never_runs_twice_at_once_and_others_do_not_wait() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let first = ledger.start(at(0)).unwrap();
        offer(&mut ledger, 1, "www", "e2");
        assert_eq!(ledger.start(at(1)), None);
        assert_eq!(ledger.poll_timeout(), None, "nothing can start before the run ends");
        offer(&mut ledger, 1, "api", "e3");
        assert_eq!(ledger.start(at(1)).unwrap().event.id, "e3");
        assert_eq!(ledger.finish(at(2), &first.id, &done(), &mut rng()).unwrap().1, Outcome::Done);
        assert_eq!(ledger.start(at(2)).unwrap().event.id, "e2");
    }

    #[test]
    fn what_concerns_no_application_overlaps_with_nothing_of_its_handler() {
        let mut ledger = Ledger::default();
        let own = ScopeKey { app: None, ..key("www") };
        ledger.offer(at(0), own.clone(), event(EventKind::MemberUp, "e1"));
        let running = ledger.start(at(0)).unwrap();
        offer(&mut ledger, 1, "www", "e2");
        assert_eq!((ledger.start(at(1)), ledger.poll_timeout()), (None, None));
        ledger.finish(at(2), &running.id, &done(), &mut rng()).unwrap();
        assert_eq!(ledger.start(at(2)).unwrap().event.id, "e2");
        ledger.offer(at(3), own, event(EventKind::MemberUp, "e3"));
        assert_eq!(ledger.start(at(3)), None);
    }

    #[test]
    fn newer_supersedes_what_waits_and_every_delivery_ends_once() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let running = ledger.start(at(0)).unwrap();
        assert_eq!(offer(&mut ledger, 1, "www", "e2"), None);
        assert_eq!(offer(&mut ledger, 2, "www", "e3"), Some("e2".into()));
        ledger.finish(at(3), &running.id, &done(), &mut rng()).unwrap();
        assert_eq!(ledger.finish(at(3), &running.id, &done(), &mut rng()), None, "once");
        assert_eq!(ledger.start(at(3)).unwrap().event.id, "e3");
    }

    #[test]
    fn reconcile_adds_nothing_to_what_waits() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        assert_eq!(ledger.offer(at(0), key("www"), event(EventKind::Reconcile, "r")), None);
        assert_eq!(ledger.start(at(0)).unwrap().event.id, "e1");
        assert_eq!(ledger.pending(&key("www").handler), 1);
    }

    #[test]
    fn failures_back_off_up_to_a_minute_and_end_dead() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let (mut now, mut waits) = (at(0), Vec::new());
        for attempt in 1..=MAX_ATTEMPTS {
            let run = ledger.start(now).unwrap();
            assert_eq!(run.attempt, attempt);
            let end = RunEnd::Stopped(StopReason::Trap, "unreachable".into());
            let (_, outcome) = ledger.finish(now, &run.id, &end, &mut rng()).unwrap();
            if attempt == MAX_ATTEMPTS {
                assert_eq!(outcome, Outcome::Dead);
                break;
            }
            assert_eq!(outcome, Outcome::Retry);
            let due = ledger.poll_timeout().unwrap();
            assert_eq!(ledger.start(now), None, "not before its time");
            waits.push(due.since(now).as_secs_f64());
            now = due;
        }
        for (i, wait) in waits.iter().enumerate() {
            let ideal = f64::min(60.0, f64::from(1 << i));
            assert!((ideal * 0.79..ideal * 1.21).contains(wait), "{waits:?}");
        }
        assert_eq!(ledger.pending(&key("www").handler), 0);
    }

    #[test]
    fn a_pause_that_was_asked_for_holds_for_newer_events_too() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let run = ledger.start(at(0)).unwrap();
        let end = RunEnd::RetryAfter(Duration::from_secs(30), "429".into());
        assert_eq!(ledger.finish(at(0), &run.id, &end, &mut rng()).unwrap().1, Outcome::Retry);
        assert_eq!(offer(&mut ledger, 1000, "www", "e2"), Some("e1".into()));
        assert_eq!(ledger.poll_timeout(), Some(at(30_000)));
        let second = ledger.start(at(30_000)).unwrap();
        assert_eq!((second.event.id.as_str(), second.attempt), ("e2", 1));
    }

    #[test]
    fn a_pause_asked_for_while_another_waits_holds_that_one() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let run = ledger.start(at(0)).unwrap();
        offer(&mut ledger, 1, "www", "e2");
        let end = RunEnd::RetryAfter(Duration::MAX, "never".into());
        assert_eq!(ledger.finish(at(2), &run.id, &end, &mut rng()).unwrap().1, Outcome::Superseded);
        assert_eq!(ledger.poll_timeout(), Some(at(2) + MAX_RETRY_AFTER));
    }

    #[test]
    fn a_newer_event_does_not_wait_for_a_retry() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let run = ledger.start(at(0)).unwrap();
        ledger.finish(at(0), &run.id, &RunEnd::Retry("refused".into()), &mut rng()).unwrap();
        assert_eq!(offer(&mut ledger, 10, "www", "e2"), Some("e1".into()));
        assert_eq!(ledger.start(at(10)).unwrap().event.id, "e2");
    }

    #[test]
    fn what_somebody_waits_to_see_run_heeds_the_line_and_no_pause() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let run = ledger.start(at(0)).unwrap();
        let asked =
            |ledger: &mut Ledger, ms| ledger.offer_at_once(at(ms), key("www"), event(EventKind::Reconcile, "m"));
        let (first, nothing) = asked(&mut ledger, 1);
        assert_eq!((nothing, ledger.start(at(1))), (None, None), "the line is taken");
        let wait = RunEnd::RetryAfter(Duration::from_secs(100), "busy".into());
        assert_eq!(ledger.finish(at(2), &run.id, &wait, &mut rng()).unwrap().1, Outcome::Superseded);
        let (second, before) = asked(&mut ledger, 3);
        assert_eq!(before.unwrap().id, first, "its outcome is known");
        assert_eq!(ledger.start(at(3)).unwrap().id, second);
        assert_eq!(ledger.start(at(4)), None);
    }

    #[test]
    fn permanent_is_not_tried_again() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let run = ledger.start(at(0)).unwrap();
        let end = RunEnd::Permanent("no such zone".into());
        assert_eq!(ledger.finish(at(0), &run.id, &end, &mut rng()).unwrap().1, Outcome::Permanent);
        assert!(ledger.pending(&key("www").handler) == 0 && ledger.poll_timeout().is_none());
    }
    #[test]
    fn what_waits_for_a_handler_that_goes_is_cancelled_and_what_runs_ends_by_itself() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let run = ledger.start(at(0)).unwrap();
        offer(&mut ledger, 1, "www", "e2");
        offer(&mut ledger, 1, "api", "e3");
        let gone: Vec<_> = ledger.cancel(|_| true).into_iter().map(|delivery| delivery.event.id).collect();
        assert_eq!(gone, ["e3", "e2"], "in the order of their scopes");
        assert_eq!((ledger.pending(&key("www").handler), ledger.poll_timeout()), (1, None));
        assert_eq!(ledger.finish(at(2), &run.id, &done(), &mut rng()).unwrap().1, Outcome::Done);
        assert_eq!(ledger.finish(at(2), &run.id, &done(), &mut rng()), None, "once");
    }

    #[test]
    fn a_handler_that_goes_is_not_tried_again_and_one_that_returns_waits_for_its_last_run() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, 0, "www", "e1");
        let run = ledger.start(at(0)).unwrap();
        assert_eq!(ledger.cancel(|key| key.app.is_some()), []);
        assert_eq!(
            ledger.finish(at(1), &run.id, &RunEnd::Retry("no".into()), &mut rng()).unwrap().1,
            Outcome::Cancelled
        );
        assert_eq!(ledger.poll_timeout(), None);

        offer(&mut ledger, 2, "www", "e2");
        let run = ledger.start(at(2)).unwrap();
        ledger.cancel(|_| true);
        offer(&mut ledger, 3, "www", "e3");
        assert_eq!(ledger.start(at(3)), None, "two runs that write one record would be a race");
        let failed = RunEnd::Retry("no".into());
        assert_eq!(ledger.finish(at(4), &run.id, &failed, &mut rng()).unwrap().1, Outcome::Superseded);
        let next = ledger.start(at(4)).unwrap();
        assert_eq!(ledger.finish(at(5), &next.id, &failed, &mut rng()).unwrap().1, Outcome::Retry, "tried as ever");
    }

    #[test]
    fn a_new_config_is_tried_at_once_unless_a_pause_was_asked_for() {
        let mut ledger = Ledger::default();
        let ends =
            [("www", RunEnd::Retry("no".into())), ("api", RunEnd::RetryAfter(Duration::from_secs(30), "429".into()))];
        for (scope, end) in ends {
            offer(&mut ledger, 0, scope, scope);
            let run = ledger.start(at(0)).unwrap();
            ledger.finish(at(0), &run.id, &end, &mut rng()).unwrap();
        }
        assert_eq!(ledger.start(at(10)), None);
        ledger.hurry(at(10), &key("www").handler);
        let run = ledger.start(at(10)).unwrap();
        assert_eq!((run.event.id.as_str(), run.attempt), ("www", 2));
        assert_eq!(ledger.poll_timeout(), Some(at(30_000)));
    }
}
