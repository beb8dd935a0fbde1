//! The health of this node's own applications: when to check, and what the answers mean.
//!
//! `rise` good checks in a row make an application up, `fall` bad ones make it down (HAProxy's words and rule). While
//! the last answer contradicts the state, the next check does not wait for the whole interval but starts one `timeout`
//! after the last one started: so an application that accepts and hangs is down within `timeout * fall` of the first
//! check that it swallowed.
//!
//! An application with a `ttl` is not asked: its beats are waited for, and count as good checks; one that is late, or
//! says that it fails, is down at once.

use std::time::Duration;

use rand::RngExt;

use crate::config::{App, Check, Spoken};
use crate::record::AppState;
use crate::time::Instant;

/// Whoever looks for a beat so much after its time has slept itself, and what came meanwhile may not be read yet.
const OVERSLEPT: Duration = Duration::from_millis(100);
/// Time for reading that.
const TO_READ: Duration = Duration::from_secs(1);

/// One application.
#[derive(Debug)]
pub struct Health {
    state: AppState,
    in_a_row: u32,
    last_was_good: Option<bool>,
    reason: String,
    started: Instant,
    turn: Turn,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The next check starts then.
    Due(Instant),
    /// The check of this number runs.
    Running(u64),
    /// The application's own: it beats by then, or is late.
    Beat(Instant),
    /// The same, after this node has slept over the time before.
    LastCall(Instant),
    /// The application's own, however long it takes.
    Late,
}

impl Turn {
    fn first(now: Instant, check: &Check) -> Self {
        match check {
            Check::Http(_) | Check::Tcp(_) | Check::Exec(_) => Self::Due(now),
            Check::Ttl(ttl) => Self::Beat(now + *ttl),
        }
    }
}

impl Health {
    /// An application of which nothing is known; its first check is due at once, its first beat within one `ttl`.
    pub fn new(now: Instant, check: &Check) -> Self {
        Self {
            state: AppState::Unknown,
            in_a_row: 0,
            last_was_good: None,
            reason: String::new(),
            started: now,
            turn: Turn::first(now, check),
        }
    }

    /// The check is another from now on, and due as with [`Self::new`]. The verdict stays until the new one has said
    /// enough for another (a wrong removal is worse than a late one); what the old one said, or may yet say, no longer
    /// counts.
    pub fn begin_anew(&mut self, now: Instant, check: &Check) {
        (self.in_a_row, self.last_was_good, self.turn) = (0, None, Turn::first(now, check));
    }

    /// The verdict.
    pub fn state(&self) -> AppState {
        self.state
    }

    /// What the last bad check said.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The check that runs.
    pub fn running(&self) -> Option<u64> {
        match self.turn {
            Turn::Running(number) => Some(number),
            _ => None,
        }
    }

    /// When the next check is due, or a beat will be late; none while a check runs, or a beat is late already.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.turn {
            Turn::Due(next) | Turn::Beat(next) | Turn::LastCall(next) => Some(next),
            Turn::Running(_) | Turn::Late => None,
        }
    }

    /// Starts the check that is due as `number`, which no other check has. False if none is due.
    pub fn start_check(&mut self, now: Instant, number: u64) -> bool {
        let due = matches!(self.turn, Turn::Due(next) if next <= now);
        if due {
            self.turn = Turn::Running(number);
            self.started = now;
        }
        due
    }

    /// Check `number` has ended; nothing happens if it is not the one that is waited for. True if the verdict changed.
    pub fn finish_check(
        &mut self,
        now: Instant,
        number: u64,
        app: &App,
        result: &Result<(), String>,
        rng: &mut impl RngExt,
    ) -> bool {
        if self.turn != Turn::Running(number) {
            return false;
        }
        let changed = self.count(result, app.rise, app.fall);
        let says = if result.is_ok() { AppState::Up } else { AppState::Down };
        let wait = if self.state == says {
            app.interval.mul_f64(rng.random_range(0.9..=1.1))
        } else {
            Duration::min(app.interval, app.timeout)
        };
        self.turn = Turn::Due(Instant::max(now, self.started + wait));
        changed
    }

    /// The application, which has this `ttl`, says how it is. True if the verdict changed.
    pub fn beat(&mut self, now: Instant, app: &App, ttl: Duration, result: &Result<(), String>) -> bool {
        self.turn = Turn::Beat(now + ttl);
        self.count(result, app.rise, 1)
    }

    /// Looks whether the application, which has this `ttl`, is late. Where this node itself has slept over the time, so
    /// may its machine have: it gets that time again, once. True if the verdict changed.
    pub fn look_for_beat(&mut self, now: Instant, app: &App, ttl: Duration) -> bool {
        match self.turn {
            Turn::Beat(by) if now.since(by) > OVERSLEPT => {
                self.turn = Turn::LastCall(now + Duration::min(now.since(by) + TO_READ, ttl));
                false
            }
            Turn::Beat(by) | Turn::LastCall(by) if by <= now => {
                self.turn = Turn::Late;
                self.count(&Err(format!("no beat within {}", Spoken(ttl))), app.rise, 1)
            }
            _ => false,
        }
    }

    /// Counts one word on the application. True if the verdict changed.
    fn count(&mut self, result: &Result<(), String>, rise: u32, fall: u32) -> bool {
        let good = result.is_ok();
        self.in_a_row = if self.last_was_good == Some(good) { self.in_a_row.saturating_add(1) } else { 1 };
        self.last_was_good = Some(good);
        if let Err(reason) = result {
            self.reason.clone_from(reason);
        }
        let (verdict, needed) = if good { (AppState::Up, rise) } else { (AppState::Down, fall) };
        let changed = self.state != verdict && self.in_a_row >= needed;
        if changed {
            self.state = verdict;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TcpCheck;
    use crate::name::AppName;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn app() -> App {
        App {
            name: AppName::new("www").unwrap(),
            publish: vec![],
            check: Check::Tcp(TcpCheck { host: "127.0.0.1".into(), port: 80 }),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        }
    }

    /// Runs checks on a virtual clock, each taking `took` and ending as `answer` says for the time it started at, until
    /// `until`. The times of verdicts, in ms.
    fn run(until_ms: u64, mut answer: impl FnMut(u64) -> (bool, u64)) -> Vec<(u64, AppState)> {
        let (app, mut rng) = (app(), StdRng::seed_from_u64(3));
        let mut health = Health::new(Instant::default(), &app.check);
        let mut verdicts = Vec::new();
        while let Some(due) = health.poll_timeout() {
            let start = due.since_origin().as_millis() as u64;
            if start >= until_ms {
                break;
            }
            assert!(health.start_check(due, start));
            assert!(!health.start_check(due, start + 1), "never two at once");
            let (good, took) = answer(start);
            let end = due + Duration::from_millis(took);
            if health.finish_check(end, start, &app, &if good { Ok(()) } else { Err("bad".into()) }, &mut rng) {
                verdicts.push((end.since_origin().as_millis() as u64, health.state()));
            }
        }
        verdicts
    }

    #[test]
    fn it_starts_unknown_and_rises_quickly() {
        assert_eq!(Health::new(Instant::default(), &app().check).state(), AppState::Unknown);
        assert_eq!(run(20_000, |_| (true, 10)), [(2010, AppState::Up)]);
    }

    #[test]
    fn from_unknown_it_falls_as_well() {
        assert_eq!(run(20_000, |_| (false, 10)), [(4010, AppState::Down)]);
    }

    #[test]
    fn a_hanging_application_is_down_within_timeout_times_fall() {
        let mut first_swallowed = None;
        let verdicts = run(40_000, |start| {
            if start < 15_000 {
                (true, 10)
            } else {
                first_swallowed.get_or_insert(start);
                (false, 2000)
            }
        });
        let (down, state) = verdicts[1];
        assert_eq!(state, AppState::Down);
        assert_eq!(down - first_swallowed.unwrap(), 6000);
    }

    #[test]
    fn one_bad_answer_changes_nothing() {
        let mut n = 0;
        let verdicts = run(120_000, |_| {
            n += 1;
            (n % 4 != 0, 10)
        });
        assert_eq!(verdicts, [(2010, AppState::Up)]);
        let mut n = 0;
        let verdicts = run(120_000, |_| {
            n += 1;
            (n % 2 == 0, 10)
        });
        assert_eq!(verdicts, [], "never two in a row: nothing is known");
    }

    #[test]
    fn settled_checks_keep_the_interval_with_a_tenth_of_jitter() {
        let mut starts = Vec::new();
        run(100_000, |start| {
            starts.push(start);
            (true, 10)
        });
        let gaps: Vec<_> = starts[2..].windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.iter().all(|gap| (4499..=5501).contains(gap)), "{gaps:?}");
        assert!(gaps.windows(2).any(|w| w[0] != w[1]), "jittered");
    }

    #[test]
    fn an_answer_nobody_asked_for_is_ignored() {
        let mut health = Health::new(Instant::default(), &app().check);
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..9 {
            assert!(!health.finish_check(Instant::default(), 0, &app(), &Ok(()), &mut rng));
        }
        assert_eq!(health.state(), AppState::Unknown);
    }

    #[test]
    fn another_check_begins_anew_and_the_verdict_stays_until_it_has_spoken() {
        let (mut rng, app) = (StdRng::seed_from_u64(3), app());
        let mut health = Health::new(Instant::default(), &app.check);
        let mut number = 0;
        let mut check = |health: &mut Health, good: bool| {
            number += 1;
            let due = health.poll_timeout().unwrap();
            assert!(health.start_check(due, number));
            health.finish_check(due, number, &app, &if good { Ok(()) } else { Err("bad".into()) }, &mut rng);
            (due, health.state())
        };
        for _ in 0..2 {
            check(&mut health, true);
        }
        for _ in 0..2 {
            assert_eq!(check(&mut health, false).1, AppState::Up);
        }
        // One bad check of the old kind is under way when the check changes.
        let due = health.poll_timeout().unwrap();
        assert!(health.start_check(due, 99));
        health.begin_anew(due, &app.check);
        let mut other = StdRng::seed_from_u64(4);
        assert!(!health.finish_check(due, 99, &app, &Err("bad".into()), &mut other));
        let states: Vec<_> = (0..3).map(|_| check(&mut health, false)).collect();
        assert_eq!(states[0], (due, AppState::Up), "at once, and with a clean slate");
        assert_eq!((states[1].1, states[2].1), (AppState::Up, AppState::Down));
    }

    const TTL: Duration = Duration::from_secs(30);

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    fn beating(rise: u32) -> (App, Health) {
        let app = App { check: Check::Ttl(TTL), rise, ..app() };
        let health = Health::new(at(0), &app.check);
        (app, health)
    }

    #[test]
    fn who_beats_in_time_is_up_and_down_at_once_when_late() {
        let (app, mut health) = beating(1);
        assert!(!health.start_check(at(5000), 1), "nobody asks it");
        assert!(health.beat(at(5000), &app, TTL, &Ok(())));
        for beat in [34_999, 64_998] {
            assert!(!health.look_for_beat(at(beat), &app, TTL));
            assert!(!health.beat(at(beat), &app, TTL, &Ok(())));
        }
        assert_eq!((health.state(), health.poll_timeout()), (AppState::Up, Some(at(94_998))));
        assert!(!health.look_for_beat(at(94_997), &app, TTL));
        assert!(health.look_for_beat(at(94_998), &app, TTL));
        assert_eq!((health.state(), health.reason()), (AppState::Down, "no beat within 30s"));
        assert_eq!(health.poll_timeout(), None, "it is down until it says otherwise");
        assert!(!health.look_for_beat(at(200_000), &app, TTL));
        assert!(health.beat(at(200_000), &app, TTL, &Ok(())));
        assert_eq!((health.state(), health.poll_timeout()), (AppState::Up, Some(at(230_000))));
    }

    #[test]
    fn who_never_beats_is_down_after_one_ttl() {
        let (app, mut health) = beating(1);
        assert_eq!((health.state(), health.poll_timeout()), (AppState::Unknown, Some(at(30_000))));
        assert!(health.look_for_beat(at(30_000), &app, TTL));
        assert_eq!(health.state(), AppState::Down);
    }

    #[test]
    fn a_failure_that_is_told_counts_at_once_and_beats_in_time_add_up_to_rise() {
        let (app, mut health) = beating(2);
        let failure = Err("disk full".to_owned());
        assert!(!health.beat(at(0), &app, TTL, &Ok(())));
        assert!(health.beat(at(1000), &app, TTL, &Ok(())));
        assert!(health.beat(at(2000), &app, TTL, &failure));
        assert_eq!((health.state(), health.reason()), (AppState::Down, "disk full"));
        assert!(!health.beat(at(3000), &app, TTL, &Ok(())));
        assert!(!health.look_for_beat(at(33_000), &app, TTL));
        assert!(!health.beat(at(40_000), &app, TTL, &Ok(())), "that was too late to be the second in a row");
        assert!(health.beat(at(69_999), &app, TTL, &Ok(())));
        assert_eq!(health.state(), AppState::Up);
    }

    #[test]
    fn who_slept_itself_gives_the_time_back_once() {
        let (app, mut health) = beating(1);
        health.beat(at(0), &app, TTL, &Ok(()));
        assert!(!health.look_for_beat(at(34_000), &app, TTL));
        assert_eq!((health.state(), health.poll_timeout()), (AppState::Up, Some(at(39_000))));
        // However late it is this time.
        assert!(health.look_for_beat(at(50_000), &app, TTL));

        let (app, mut health) = beating(1);
        health.beat(at(0), &app, TTL, &Ok(()));
        assert!(!health.look_for_beat(at(3_600_000), &app, TTL));
        assert_eq!(health.poll_timeout(), Some(at(3_630_000)), "one ttl at most");
        assert!(!health.beat(at(3_630_000), &app, TTL, &Ok(())));
        assert_eq!((health.state(), health.poll_timeout()), (AppState::Up, Some(at(3_660_000))));
    }

    #[test]
    fn a_check_that_becomes_a_beat_keeps_the_verdict_until_it_is_late() {
        let (app, mut health) = beating(1);
        health.beat(at(0), &app, TTL, &Ok(()));
        let asked = self::app();
        health.begin_anew(at(1000), &asked.check);
        assert_eq!((health.state(), health.poll_timeout()), (AppState::Up, Some(at(1000))));
        assert!(health.start_check(at(1000), 7));
        assert_eq!(health.running(), Some(7));
        health.begin_anew(at(2000), &app.check);
        assert_eq!((health.running(), health.state(), health.poll_timeout()), (None, AppState::Up, Some(at(32_000))));
        assert!(health.look_for_beat(at(32_000), &app, TTL));
    }
}
