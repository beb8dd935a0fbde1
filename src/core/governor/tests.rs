//! Each gate, and their order.

use super::*;
use AppStanding::{CheckFailed, MemberDown, TakenOut, Unknown, Up};

/// One application, and a clock.
#[derive(Default)]
struct Site {
    governor: Governor,
    seconds: u64,
    no_quorum: bool,
    settled_at: u64,
    rules: GovernorRules,
    /// Whom an operator holds.
    held: &'static str,
}

fn at(seconds: u64) -> Instant {
    Instant::from_origin(Duration::from_secs(seconds))
}

fn www() -> AppName {
    AppName::new("www").unwrap()
}

impl Site {
    /// So many members on which it is up.
    fn of(count: usize) -> Self {
        let mut site = Self::default();
        site.see(&vec![Up; count]);
        site
    }

    /// Looks: how it stands on members `a`, `b`, ...; who is published.
    fn see(&mut self, standings: &[AppStanding]) -> String {
        self.update(standings);
        let wanted = self.governor.wanted(&www()).unwrap_or_default();
        wanted.iter().map(|endpoint| endpoint.member.as_str()).collect()
    }

    fn update(&mut self, standings: &[AppStanding]) -> Update {
        let claims = standings.iter().zip('a'..).map(|(standing, name)| {
            let member = NodeName::new(&name.to_string()).unwrap();
            let address = [192, 0, 2, name as u8].into();
            let endpoints = vec![Endpoint { member: member.clone(), address, port: 80 }];
            (member, Claim { standing: *standing, is_held: self.held.contains(name), endpoints })
        });
        let conditions = Conditions {
            now: at(self.seconds),
            has_quorum: !self.no_quorum,
            settled_at: Some(at(self.settled_at)),
            rules: self.rules,
        };
        let updates = self.governor.update(&conditions, std::iter::once((www(), claims.collect())));
        updates.into_iter().next().map(|(_, update)| update).unwrap_or_default()
    }

    fn after(&mut self, seconds: u64) -> &mut Self {
        self.seconds += seconds;
        self
    }

    /// Who is held, and why.
    fn held(&self) -> String {
        let www = www();
        let holds = self.governor.holds(&www).map(|(member, hold)| format!("{member} {hold}"));
        holds.collect::<Vec<_>>().join(", ")
    }

    fn next(&self) -> Option<u64> {
        Some(self.governor.poll_timeout()?.since(at(self.seconds)).as_secs())
    }
}

#[test]
fn what_fails_goes_and_what_returns_comes_back_at_once() {
    for failed in [CheckFailed, MemberDown, TakenOut] {
        let mut site = Site::of(3);
        assert_eq!(site.see(&[Up, failed, Up]), "ac", "{failed:?}");
        assert_eq!(site.after(20).see(&[Up, Up, Up]), "abc", "{failed:?}");
        assert_eq!((site.held().as_str(), site.next()), ("", None));
    }
}

#[test]
fn nobody_knows_is_no_reason_to_remove_or_to_add() {
    let mut site = Site::of(2);
    assert_eq!(site.see(&[Up, Unknown, Unknown]), "ab");
    assert_eq!(site.see(&[Up, CheckFailed, Unknown]), "a");
    assert_eq!(site.see(&[Up, Unknown, Unknown]), "a");
}

#[test]
fn a_set_is_never_empty_whatever_is_wanted() {
    for standings in [[CheckFailed; 2], [MemberDown; 2], [TakenOut; 2], [CheckFailed, TakenOut]] {
        let mut site = Site::of(2);
        assert_eq!(site.see(&standings), "ab", "{standings:?}");
        assert_eq!(site.held(), "a never-empty, b never-empty");
        assert_eq!(site.see(&[CheckFailed, Up]), "b", "one is there again");
    }
    let mut never_up = Site::default();
    assert_eq!(never_up.see(&[CheckFailed, Unknown]), "");
    assert_eq!(never_up.governor.wanted(&www()), None);
}

#[test]
fn the_gates_in_their_order_and_intent_passes_them() {
    // Of ten members the first two are gone, and three may go at a time.
    let seen = |first: AppStanding| [&[first, first][..], &[Up; 8]].concat();
    for (no_quorum, settled_at, hold) in [(true, 9, "quorum"), (false, 9, "settle"), (false, 0, "")] {
        for (failed, passes) in [(CheckFailed, false), (MemberDown, false), (TakenOut, true)] {
            let mut site = Site { no_quorum, settled_at, ..Site::of(10) };
            let is_out = passes || hold.is_empty();
            assert_eq!(site.see(&seen(failed)).starts_with("ab"), !is_out, "{hold} {failed:?}");
            let held = if is_out { String::new() } else { format!("a {hold}, b {hold}") };
            assert_eq!(site.held(), held, "{failed:?}");
            assert_eq!(site.next(), (hold == "settle" && !passes).then_some(9));
            site.no_quorum = false;
            assert_eq!(site.after(9).see(&seen(failed)), "cdefghij", "it ends with its cause");
            assert_eq!(site.held(), "");
        }
    }
}

#[test]
fn a_third_at_most_goes_within_five_minutes() {
    let mut site = Site::of(10);
    let seen = |gone: usize| [vec![MemberDown; gone], vec![Up; 10 - gone]].concat();
    assert_eq!(site.see(&seen(2)), "cdefghij");
    assert_eq!(site.after(100).see(&seen(5)), "defghij");
    assert_eq!((site.held().as_str(), site.next()), ("d budget, e budget", Some(200)));
    // The first two weigh no longer; the third does.
    assert_eq!(site.after(200).see(&seen(5)), "fghij");
    assert_eq!(site.after(1).see(&seen(6)), "fghij");
    assert_eq!(site.held(), "f budget", "three of them do");
    assert_eq!(
        site.see(&[&seen(3)[..3], &[Up, MemberDown, MemberDown, Up, Up, Up, Up]].concat()),
        "dghij",
        "d is back"
    );
}

#[test]
fn of_few_members_one_may_go() {
    let mut site = Site::of(3);
    assert_eq!(site.see(&[MemberDown, MemberDown, Up]), "bc");
    assert_eq!(site.held(), "b budget");
    assert_eq!(site.after(299).see(&[MemberDown, MemberDown, Up]), "bc");
    assert_eq!(site.after(1).see(&[MemberDown, MemberDown, Up]), "c");
}

#[test]
fn checks_that_all_fail_are_not_believed_and_the_loss_of_members_is() {
    for failed in [CheckFailed, MemberDown] {
        let mut site = Site::of(6);
        let seen = |gone: usize| [vec![failed; gone], vec![Up; 6 - gone]].concat();
        for gone in 1..=3 {
            site.see(&seen(gone));
            site.after(300);
        }
        assert_eq!(site.see(&seen(3)), "def", "half may go");
        let after = site.see(&seen(4));
        let (expected, hold) = if failed == CheckFailed { ("def", "d panic") } else { ("ef", "") };
        assert_eq!((after.as_str(), site.held().as_str()), (expected, hold));
    }
    // With five there is no such floor.
    let mut site = Site::of(5);
    for gone in 1..=4 {
        site.after(300).see(&[vec![CheckFailed; gone], vec![Up; 5 - gone]].concat());
    }
    assert_eq!(site.held(), "");
}

#[test]
fn who_fails_again_and_again_has_to_be_up_for_longer_each_time() {
    let mut site = Site::of(3);
    let mut penances = Vec::new();
    for _ in 0..8 {
        assert_eq!(site.see(&[MemberDown, Up, Up]), "bc");
        site.after(10).see(&[Up; 3]);
        penances.push(site.next().unwrap_or(0));
        let wait = *penances.last().unwrap();
        if wait > 0 {
            assert_eq!(site.held(), "a flap");
            assert_eq!(site.after(wait - 1).see(&[Up; 3]), "bc");
            site.after(1);
        }
        assert_eq!(site.see(&[Up; 3]), "abc");
        site.after(1);
    }
    assert_eq!(penances[..4], [0, 30, 60, 120]);
    assert!(penances.iter().all(|wait| *wait <= 600), "{penances:?}");
    assert_eq!(site.after(7200).see(&[MemberDown, Up, Up]), "bc");
    assert_eq!(site.after(10).see(&[Up; 3]), "abc", "all is forgiven");
}

#[test]
fn a_break_begins_the_penance_anew() {
    let mut site = Site::of(3);
    site.see(&[MemberDown, Up, Up]);
    site.after(10).see(&[Up; 3]);
    site.after(10).see(&[MemberDown, Up, Up]);
    for _ in 0..60 {
        assert_eq!(site.after(10).see(&[Up; 3]), "bc");
        assert_eq!(site.after(10).see(&[CheckFailed, Up, Up]), "bc");
    }
}

#[test]
fn better_one_that_flaps_than_none() {
    let mut site = Site::of(2);
    site.see(&[MemberDown, Up]);
    site.after(10).see(&[Up; 2]);
    site.after(10).see(&[MemberDown, Up]);
    assert_eq!(site.after(10).see(&[Up; 2]), "b");
    assert_eq!(site.after(1).see(&[Up, MemberDown]), "a");
}

#[test]
fn each_gate_can_be_left_open() {
    let rules = GovernorRules { budget_ratio: 1.0, panic_ratio: 0.0, flap_hold: Duration::ZERO };
    let mut site = Site { rules, ..Site::of(6) };
    for _ in 0..5 {
        assert_eq!(site.see(&[Up, CheckFailed, CheckFailed, CheckFailed, CheckFailed, CheckFailed]), "a");
        assert_eq!(site.after(1).see(&[Up; 6]), "abcdef");
        site.after(1);
    }
}

#[test]
fn an_address_that_moves_is_no_removal() {
    let mut site = Site { no_quorum: true, ..Site::of(2) };
    let member = NodeName::new("a").unwrap();
    let endpoints = vec![Endpoint { member: member.clone(), address: [198, 51, 100, 1].into(), port: 80 }];
    let claims = BTreeMap::from([(member, Claim { standing: Up, is_held: false, endpoints: endpoints.clone() })]);
    let conditions = Conditions { now: at(1), has_quorum: false, settled_at: None, rules: site.rules };
    let updates = site.governor.update(&conditions, std::iter::once((www(), claims)));
    assert!(updates[0].1.changed);
    // The other one's owner no longer has it: its wish.
    assert_eq!(site.governor.wanted(&www()), Some(&endpoints[..]));
}

#[test]
fn what_an_operator_holds_stays_unless_an_operator_takes_it_out() {
    let mut site = Site { held: "ab", no_quorum: true, ..Site::of(4) };
    assert_eq!(site.see(&[CheckFailed, MemberDown, Up, Up]), "abcd");
    assert_eq!(site.held(), "a operator, b operator", "before any other reason");
    site.no_quorum = false;
    assert_eq!(site.after(9999).see(&[CheckFailed, TakenOut, Up, Up]), "acd");
    assert_eq!(site.see(&[Up, Up, CheckFailed, Up]), "abd", "others go, and who returns comes back");
    site.held = "";
    assert_eq!(site.after(9999).see(&[CheckFailed, Up, Up, Up]), "bcd", "it ends with its cause");
    site.held = "abcd";
    site.see(&[TakenOut; 4]);
    assert_eq!(site.held(), "b never-empty, c never-empty, d never-empty");
}
