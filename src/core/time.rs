//! Time as the core sees it: an argument, never a clock.
//!
//! The driver (or the simulator) reads a clock and hands [`Now`] to every call. Timers are kept here, in one ordered
//! queue; nobody outside is ever handed a timer, only asked to come back at an [`Instant`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on the caller's monotonic clock: the time since an origin of its choice (usually the process's start).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The instant `since_origin` after the clock's origin.
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// How far this is from the clock's origin.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The point so long before; the clock's origin if that came later.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }

    /// How long ago `earlier` was; zero if it has not been yet.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}

/// Wall-clock time, in milliseconds since the Unix epoch. For people and for generations, never for ordering events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Wall(pub u64);

impl Wall {
    /// The time that is `duration` later.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time that is `duration` earlier.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` it is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 in UTC with milliseconds, as events carry it.
    pub fn rfc3339(self) -> String {
        let (days, ms) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
    }
}

/// Days since 1970-01-01 to a date of the proleptic Gregorian calendar, counted in 400-year eras that begin in March,
/// so that the leap day comes last.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// What the driver knows of the time at one call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Monotonic: all decisions use this.
    pub at: Instant,
    /// Wall clock: for timestamps in events and logs.
    pub wall: Wall,
}

/// One ordered queue of things to do later. Equal deadlines keep the order they were set in.
#[derive(Debug)]
pub struct TimerQueue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    next_seq: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: Instant,
    seq: u64,
    item: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

impl<T> Default for TimerQueue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), next_seq: 0 }
    }
}

impl<T> TimerQueue<T> {
    /// Adds `item`, due at `at`.
    pub fn push(&mut self, at: Instant, item: T) {
        self.heap.push(Reverse(Entry { at, seq: self.next_seq, item }));
        self.next_seq += 1;
    }

    /// The earliest deadline, if anything waits.
    pub fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// The first item that is due at `now`, in deadline order.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        if self.next_at()? <= now { self.heap.pop().map(|Reverse(entry)| entry.item) } else { None }
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_prints_known_dates() {
        assert_eq!(Wall(0).rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Wall(951_782_400_000).rfc3339(), "2000-02-29T00:00:00.000Z");
        assert_eq!(Wall(1_700_000_000_123).rfc3339(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Wall(4_102_444_799_999).rfc3339(), "2099-12-31T23:59:59.999Z");
    }

    #[test]
    fn timers_come_in_deadline_order_and_ties_in_order_of_setting() {
        let at = |ms| Instant::from_origin(Duration::from_millis(ms));
        let mut queue = TimerQueue::default();
        for (ms, name) in [(30, "d"), (10, "a"), (20, "b"), (20, "c")] {
            queue.push(at(ms), name);
        }
        assert_eq!(queue.next_at(), Some(at(10)));
        assert_eq!(queue.pop_due(at(5)), None);
        let mut order = Vec::new();
        while let Some(name) = queue.pop_due(at(30)) {
            order.push(name);
        }
        assert_eq!(order, ["a", "b", "c", "d"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn instants_never_underflow() {
        let early = Instant::from_origin(Duration::from_secs(1));
        let late = early + Duration::from_secs(2);
        assert_eq!(late - early, Duration::from_secs(2));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!(early + Duration::MAX, Instant::from_origin(Duration::MAX));
    }
}
