//! What shall be published: where an application is up, less what must not be taken out yet.
//!
//! A wrong removal is worse than a late one, so each removal passes the gates in the order of [`Hold`], and the first that
//! is shut keeps the endpoints published. What an operator wants (a leave, an application that its owner's config no
//! longer has) passes them all but the first. Additions pass at once, except for a member that has just failed again and
//! again. Every hold ends by itself when its cause does.
//!
//! The gates are those of others who do this for a living: never an empty answer (external-dns once deleted a whole zone),
//! a budget for removals (octoDNS refuses plans over 30%), a panic floor (Envoy, gdnsd), and slower back than out for who
//! flaps (gdnsd). The unit is the member: its addresses go and come together.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::claim::{AppStanding, Claim};
use crate::config::{GovernorRules, LONGEST_FLAP_HOLD};
use crate::name::{AppName, NodeName};
use crate::snapshot::Endpoint;
use crate::time::Instant;

/// A removal weighs on the budget for so long, unless the member is back before.
const BUDGET_WINDOW: Duration = Duration::from_secs(300);
/// With fewer members there is no panic: one or two bad checks would be one.
const PANIC_FROM: usize = 6;
/// Half of what a member's failures weigh is forgiven in this time.
const FORGIVEN: Duration = Duration::from_secs(600);
/// Who has failed so often, as it weighs now, has to be up for a while before it is published again.
const FLAPS: f64 = 1.5;

/// Why a set is not as it looks from what is up now: the gate that is shut. In order; the first one that is shut counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// Nothing is up: the last set stays.
    NeverEmpty,
    /// No majority of the cluster is seen.
    Quorum,
    /// This node has just started, or come back.
    Settle,
    /// It failed more than once lately: not published before it was up for a while without a break.
    Flap,
    /// Too many were removed lately.
    Budget,
    /// Too many checks fail at once.
    Panic,
}

impl Hold {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [Self::NeverEmpty, Self::Quorum, Self::Settle, Self::Flap, Self::Budget, Self::Panic];

    /// The hold's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeverEmpty => "never-empty",
            Self::Quorum => "quorum",
            Self::Settle => "settle",
            Self::Flap => "flap",
            Self::Budget => "budget",
            Self::Panic => "panic",
        }
    }

    /// What it means, for people.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::NeverEmpty => "up nowhere: the last set stays published",
            Self::Quorum => "stays published: no majority of the cluster is seen",
            Self::Settle => "stays published: this node has just started, or come back",
            Self::Flap => "not published: it failed again and again, and is not up for long enough yet",
            Self::Budget => "stays published: too many others were removed in the last five minutes",
            Self::Panic => "stays published: too many checks fail at once to be believed",
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What holds for all applications.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// Now.
    pub now: Instant,
    /// Whether a majority of the cluster is seen.
    pub has_quorum: bool,
    /// No removal before; none if the time is not known yet.
    pub settled_at: Option<Instant>,
    /// How careful removals are.
    pub rules: GovernorRules,
}

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Whether the wanted set is another now.
    pub changed: bool,
    /// Whose holds have begun, or have another reason now.
    pub held: Vec<(NodeName, Hold)>,
    /// Whose holds are over.
    pub released: Vec<(NodeName, Hold)>,
}

/// A member that was removed because of a failure.
#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Instant,
    /// How much its failures weigh at that time: one each, halved every [`FORGIVEN`].
    weight: f64,
    /// Since when it is up again, as long as it is not published.
    up_since: Option<Instant>,
}

impl Failure {
    fn weight(&self, now: Instant) -> f64 {
        self.weight * 0.5_f64.powf(now.since(self.at).as_secs_f64() / FORGIVEN.as_secs_f64())
    }

    /// When it may be published again, if it stays up.
    fn returns_at(&self, rules: &GovernorRules) -> Option<Instant> {
        Some(self.up_since? + self.penance(rules))
    }

    /// How long it has to be up before it is published again.
    fn penance(&self, rules: &GovernorRules) -> Duration {
        if self.weight < FLAPS {
            return Duration::ZERO;
        }
        let doublings = (self.weight - FLAPS).floor().clamp(0.0, 16.0) as u32;
        rules.flap_hold.saturating_mul(1 << doublings).min(LONGEST_FLAP_HOLD)
    }
}

/// The members that are published, and with what.
type Published = BTreeMap<NodeName, Vec<Endpoint>>;

#[derive(Debug, Default)]
struct Governed {
    published: Published,
    failures: BTreeMap<NodeName, Failure>,
    holds: BTreeMap<NodeName, Hold>,
    wanted: Vec<Endpoint>,
}

/// The governed sets of all applications.
#[derive(Debug, Default)]
pub struct Governor {
    apps: BTreeMap<AppName, Governed>,
    /// When a hold may end by the passing of time alone.
    next: Option<Instant>,
}

impl Governor {
    /// What shall be published for `app`, in order of member and address; none if it was never up.
    pub fn wanted(&self, app: &AppName) -> Option<&[Endpoint]> {
        self.apps.get(app).map(|governed| &*governed.wanted).filter(|wanted| !wanted.is_empty())
    }

    /// What is held for `app`: whose endpoints are in the set, or not in it, against how they look.
    pub fn holds(&self, app: &AppName) -> impl Iterator<Item = (&NodeName, Hold)> {
        self.apps.get(app).into_iter().flat_map(|governed| &governed.holds).map(|(member, hold)| (member, *hold))
    }

    /// Whose endpoints are in the set of `app`.
    pub fn published(&self, app: &AppName) -> impl Iterator<Item = &NodeName> {
        self.apps.get(app).into_iter().flat_map(|governed| governed.published.keys())
    }

    /// Who was removed from `app` because of a failure and is not back: how long ago, and how much its failures weighed.
    pub fn failures(&self, app: &AppName, now: Instant) -> impl Iterator<Item = (&NodeName, Duration, f64)> {
        let governed = self.apps.get(app).into_iter();
        let out = governed.flat_map(|governed| {
            governed.failures.iter().filter(|(member, _)| !governed.published.contains_key(*member))
        });
        out.map(move |(member, failure)| (member, now.since(failure.at), failure.weight))
    }

    /// Takes for published what others have published, whatever this node has seen of it so far: to be called before the
    /// first removal. `failed` tells of whom that is not published how long ago it failed, and what that weighed.
    pub fn adopt(
        &mut self,
        now: Instant,
        app: &AppName,
        claims: &BTreeMap<NodeName, Claim>,
        is_published: impl Fn(&NodeName) -> bool,
        failed: impl Fn(&NodeName) -> Option<(Duration, f64)>,
    ) {
        let governed = self.apps.entry(app.clone()).or_default();
        for (member, claim) in claims {
            if is_published(member) {
                governed.published.entry(member.clone()).or_insert_with(|| claim.endpoints.clone());
            } else if let Some((age, weight)) = failed(member) {
                governed.published.remove(member);
                let failure = Failure { at: now.before(age), weight, up_since: None };
                governed.failures.entry(member.clone()).or_insert(failure);
            }
        }
        governed.set_wanted();
    }

    /// Whether a removal waits for a quorum.
    pub fn awaits_quorum(&self) -> bool {
        self.apps.values().any(|governed| governed.holds.values().any(|hold| *hold == Hold::Quorum))
    }

    /// When to look again though nothing happened.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Looks at all applications: what is seen of each, on every member that has it.
    pub fn update(
        &mut self,
        conditions: &Conditions,
        seen: impl Iterator<Item = (AppName, BTreeMap<NodeName, Claim>)>,
    ) -> Vec<(AppName, Update)> {
        self.next = None;
        let updates = seen.map(|(app, claims)| {
            let governed = self.apps.entry(app.clone()).or_default();
            let update = governed.update(conditions, &claims);
            self.next = [self.next, governed.next(conditions)].into_iter().flatten().min();
            (app, update)
        });
        updates.filter(|(_, update)| *update != Update::default()).collect()
    }
}

impl Governed {
    fn update(&mut self, conditions: &Conditions, claims: &BTreeMap<NodeName, Claim>) -> Update {
        let now = conditions.now;
        self.note_who_is_up(now, claims);
        let standing = |member: &NodeName| claims.get(member).map_or(AppStanding::TakenOut, |claim| claim.standing);
        let mut holds = BTreeMap::new();
        let mut published = Published::new();
        for (member, claim) in claims.iter().filter(|(_, claim)| claim.standing == AppStanding::Up) {
            if self.published.contains_key(member) || self.may_return(conditions, member) {
                published.insert(member.clone(), claim.endpoints.clone());
            } else {
                holds.insert(member.clone(), Hold::Flap);
            }
        }
        if published.is_empty() {
            // Better one that may fail again than none.
            holds.clear();
            let up = claims.iter().filter(|(_, claim)| claim.standing == AppStanding::Up);
            published.extend(up.map(|(member, claim)| (member.clone(), claim.endpoints.clone())));
        }
        let mut removed = Vec::new();
        if published.is_empty() {
            let down = self.published.keys().filter(|member| standing(member) != AppStanding::Unknown);
            holds.extend(down.map(|member| (member.clone(), Hold::NeverEmpty)));
            published = self.published.clone();
        } else {
            let mut budget = self.budget(conditions, claims, &published);
            let mut left = published.len() + self.published.keys().filter(|it| !published.contains_key(*it)).count();
            for (member, endpoints) in self.published.iter().filter(|(member, _)| standing(member) != AppStanding::Up) {
                let hold = match standing(member) {
                    AppStanding::TakenOut => None,
                    AppStanding::Unknown | AppStanding::Up => {
                        published.insert(member.clone(), endpoints.clone());
                        continue;
                    }
                    _ if !conditions.has_quorum => Some(Hold::Quorum),
                    _ if conditions.settled_at.is_none_or(|at| now < at) => Some(Hold::Settle),
                    _ if budget == 0 => Some(Hold::Budget),
                    AppStanding::CheckFailed if is_panic(&conditions.rules, size(claims), left - 1) => {
                        Some(Hold::Panic)
                    }
                    AppStanding::CheckFailed | AppStanding::MemberDown => {
                        budget -= 1;
                        removed.push(member.clone());
                        None
                    }
                };
                match hold {
                    None => left -= 1,
                    Some(hold) => {
                        holds.insert(member.clone(), hold);
                        published.insert(member.clone(), endpoints.clone());
                    }
                }
            }
        }
        for member in removed {
            let before = self.failures.get(&member).map_or(0.0, |failure| failure.weight(now));
            self.failures.insert(member, Failure { at: now, weight: before + 1.0, up_since: None });
        }
        self.take(published, holds)
    }

    fn take(&mut self, published: Published, holds: BTreeMap<NodeName, Hold>) -> Update {
        let held = holds.iter().filter(|(member, hold)| self.holds.get(*member) != Some(*hold));
        let held = held.map(|(member, hold)| (member.clone(), *hold)).collect();
        let released = self.holds.iter().filter(|(member, _)| !holds.contains_key(*member));
        let released = released.map(|(member, hold)| (member.clone(), *hold)).collect();
        let changed = published != self.published;
        (self.published, self.holds) = (published, holds);
        if changed {
            self.set_wanted();
        }
        Update { changed, held, released }
    }

    fn set_wanted(&mut self) {
        self.wanted = self.published.values().flatten().cloned().collect();
        self.wanted.sort();
    }

    fn note_who_is_up(&mut self, now: Instant, claims: &BTreeMap<NodeName, Claim>) {
        self.failures.retain(|member, failure| {
            let is_up = claims.get(member).is_some_and(|claim| claim.standing == AppStanding::Up);
            failure.up_since = failure.up_since.filter(|_| is_up).or(is_up.then_some(now));
            // What weighs next to nothing and no longer counts for the budget is forgotten.
            failure.weight(now) >= 0.1
        });
    }

    fn may_return(&self, conditions: &Conditions, member: &NodeName) -> bool {
        let returns_at = self.failures.get(member).and_then(|failure| failure.returns_at(&conditions.rules));
        returns_at.is_none_or(|at| at <= conditions.now)
    }

    /// How many more members may be removed, where those in `published` stay.
    fn budget(&self, conditions: &Conditions, claims: &BTreeMap<NodeName, Claim>, published: &Published) -> usize {
        let at_once = ((size(claims) as f64 * conditions.rules.budget_ratio) as usize).max(1);
        at_once
            .saturating_sub(self.spent(conditions.now).filter(|(member, _)| !published.contains_key(*member)).count())
    }

    /// The removals that weigh on the budget: of those that are not back.
    fn spent(&self, now: Instant) -> impl Iterator<Item = (&NodeName, Instant)> {
        let out = self.failures.iter().filter(|(member, _)| !self.published.contains_key(*member));
        out.map(|(member, failure)| (member, failure.at)).filter(move |(_, at)| now.since(*at) < BUDGET_WINDOW)
    }

    /// When a hold may end though nothing happens.
    fn next(&self, conditions: &Conditions) -> Option<Instant> {
        let ends = self.holds.iter().filter_map(|(member, hold)| match hold {
            Hold::Settle => conditions.settled_at,
            Hold::Flap => self.failures.get(member)?.returns_at(&conditions.rules),
            Hold::Budget => self.spent(conditions.now).map(|(_, at)| at + BUDGET_WINDOW).min(),
            Hold::NeverEmpty | Hold::Quorum | Hold::Panic => None,
        });
        ends.min()
    }
}

/// On how many members there is the application.
fn size(claims: &BTreeMap<NodeName, Claim>) -> usize {
    claims.values().filter(|claim| claim.standing != AppStanding::TakenOut).count()
}

/// Whether so few of so many are left that checks that all failed say more about the checks.
fn is_panic(rules: &GovernorRules, size: usize, left: usize) -> bool {
    size >= PANIC_FROM && (left as f64) < size as f64 * rules.panic_ratio
}

#[cfg(test)]
mod tests {
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
                (member, Claim { standing: *standing, endpoints })
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
        let claims = BTreeMap::from([(member, Claim { standing: Up, endpoints: endpoints.clone() })]);
        let conditions = Conditions { now: at(1), has_quorum: false, settled_at: None, rules: site.rules };
        let updates = site.governor.update(&conditions, std::iter::once((www(), claims)));
        assert!(updates[0].1.changed);
        // The other one's owner no longer has it: its wish.
        assert_eq!(site.governor.wanted(&www()), Some(&endpoints[..]));
    }
}
