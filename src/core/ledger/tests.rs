//! The ledger's rules, one by one.

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
    let asked = |ledger: &mut Ledger, ms| ledger.offer_at_once(at(ms), key("www"), event(EventKind::Reconcile, "m"));
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
    assert_eq!(ledger.finish(at(1), &run.id, &RunEnd::Retry("no".into()), &mut rng()).unwrap().1, Outcome::Cancelled);
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

fn now(ms: u64, wall: u64) -> Now {
    Now { at: at(ms), wall: Wall(wall) }
}

/// Runs what is due until it is given up.
fn bury(ledger: &mut Ledger, scope: &str, wall: u64) -> (Arc<Letter>, Option<DeliveryId>) {
    offer(ledger, 0, scope, "e");
    let run = ledger.start(at(0)).unwrap();
    let end = RunEnd::Permanent("no such zone".into());
    let (delivery, outcome) = ledger.finish(at(0), &run.id, &end, &mut rng()).unwrap();
    let letter = ledger.bury(Wall(wall), &delivery, outcome, &end);
    (letter, ledger.expire(Wall(wall)).pop())
}

#[test]
fn a_retry_comes_back_in_another_life_at_its_time() {
    let mut ledger = Ledger::default();
    offer(&mut ledger, 0, "www", "e0");
    let run = ledger.start(at(0)).unwrap();
    assert_eq!(ledger.letter(now(0, 1000), &key("www")), None, "what was not tried yet is not kept");
    ledger.finish(at(0), &run.id, &RunEnd::Retry("refused".into()), &mut rng()).unwrap();
    let due = ledger.poll_timeout().unwrap();
    let letter = ledger.letter(now(100, 5000), &key("www")).unwrap();
    assert_eq!((letter.attempt, letter.paused, letter.last.text.as_str()), (2, false, "refused"));
    assert_eq!(letter.time, Wall(5000).after(due.since(at(100))));

    // The process was down for 300 ms, and its clock begins anew.
    let mut next = Ledger::default();
    assert_eq!(next.restore(now(7, 5300), letter.clone()), None);
    let wait = letter.time.since(Wall(5300));
    assert_eq!(next.poll_timeout(), Some(at(7) + wait));
    let again = next.start(at(7) + wait).unwrap();
    assert_eq!((again.id.clone(), again.attempt, again.event.id.as_str()), (run.id, 2, "e0"));
    assert_eq!(next.finish(at(9999), &again.id, &done(), &mut rng()).unwrap().1, Outcome::Done);
    offer(&mut next, 9999, "www", "e1");
    assert_eq!(next.start(at(9999)).unwrap().id.number, 2, "no number is given twice");

    // What fell due meanwhile is due at once, and a clock that was set back keeps nothing for ever.
    for (wall, wait) in [(1_000_000, Duration::ZERO), (0, letter.time.since(Wall(0))), (0, MAX_RETRY_AFTER)] {
        let time = if wait == MAX_RETRY_AFTER { Wall(u64::MAX) } else { letter.time };
        let mut next = Ledger::default();
        next.restore(now(7, wall), Letter { time, ..letter.clone() });
        assert_eq!(next.poll_timeout(), Some(at(7) + wait));
    }
}

#[test]
fn a_pause_comes_back_and_holds_for_newer_events_too() {
    let mut ledger = Ledger::default();
    offer(&mut ledger, 0, "www", "e0");
    let run = ledger.start(at(0)).unwrap();
    let end = RunEnd::RetryAfter(Duration::from_secs(30), "429".into());
    ledger.finish(at(0), &run.id, &end, &mut rng()).unwrap();
    let letter = ledger.letter(now(0, 1000), &key("www")).unwrap();
    assert!(letter.paused);
    let mut next = Ledger::default();
    next.restore(now(0, 11_000), letter);
    assert_eq!(offer(&mut next, 5, "www", "e1"), Some("e0".into()));
    assert_eq!(next.poll_timeout(), Some(at(20_000)));
}

#[test]
fn the_newest_dead_letters_of_each_handler_are_kept_and_none_for_ever() {
    let mut ledger = Ledger::default();
    let other = ScopeKey { handler: HandlerName::new("other").unwrap(), app: None };
    ledger.offer(at(0), other.clone(), event(EventKind::MemberUp, "e"));
    let run = ledger.start(at(0)).unwrap();
    ledger.bury(Wall(0), &run, Outcome::Dead, &RunEnd::Retry("no".into()));
    for number in 0..DEAD_LETTERS as u64 {
        assert_eq!(bury(&mut ledger, "www", 10 + number).1, None);
    }
    let first = ledger.dead()[1].id();
    assert_eq!(bury(&mut ledger, "www", 100).1, Some(first));
    assert_eq!(ledger.dead().len(), DEAD_LETTERS + 1);
    assert_eq!(ledger.dead()[0].handler, other.handler, "another's stays");

    let age = DEAD_LETTER_AGE.as_millis() as u64;
    assert_eq!(ledger.expire(Wall(age - 1)), []);
    assert_eq!(ledger.expire(Wall(age)).len(), 1);
    assert_eq!(ledger.expire(Wall(age + 99)).len(), DEAD_LETTERS - 1);
    assert_eq!((ledger.dead().len(), ledger.dead()[0].time), (1, Wall(100)));
}

#[test]
fn a_dead_letter_is_delivered_again_with_all_its_tries_unless_something_newer_waits() {
    let mut ledger = Ledger::default();
    let letter = bury(&mut ledger, "www", 7).0;
    assert_eq!((letter.outcome, letter.attempt, letter.last.ended_as.as_str()), (Outcome::Permanent, 1, "permanent"));
    offer(&mut ledger, 1, "www", "newer");
    assert_eq!(ledger.redeliver(at(1), &letter.id()), None);
    let newer = ledger.start(at(1)).unwrap();
    assert_eq!(ledger.redeliver(at(2), &letter.id()), Some(key("www")));
    assert_eq!((ledger.redeliver(at(2), &letter.id()), ledger.dead().len()), (None, 0), "once");
    let kept = ledger.letter(now(2, 9), &key("www")).unwrap();
    assert_eq!((kept.id(), kept.outcome, kept.attempt, kept.time), (letter.id(), Outcome::Retry, 1, Wall(9)));
    assert_eq!(ledger.start(at(2)), None, "order holds");
    ledger.finish(at(3), &newer.id, &done(), &mut rng()).unwrap();
    let run = ledger.start(at(3)).unwrap();
    assert_eq!((run.id.clone(), run.attempt), (letter.id(), 1));
    let end = RunEnd::Retry("again".into());
    assert_eq!(ledger.finish(at(4), &run.id, &end, &mut rng()).unwrap().1, Outcome::Retry);
}
