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
    /// An operator wants it to stay.
    Operator,
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
    pub const ALL: [Self; 7] =
        [Self::NeverEmpty, Self::Operator, Self::Quorum, Self::Settle, Self::Flap, Self::Budget, Self::Panic];

    /// The hold's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeverEmpty => "never-empty",
            Self::Operator => "operator",
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
            Self::Operator => "stays published: an operator holds it",
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
                let is_held = claims.get(member).is_some_and(|claim| claim.is_held);
                let hold = match standing(member) {
                    AppStanding::TakenOut => None,
                    AppStanding::Unknown | AppStanding::Up => {
                        published.insert(member.clone(), endpoints.clone());
                        continue;
                    }
                    _ if is_held => Some(Hold::Operator),
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
            Hold::NeverEmpty | Hold::Operator | Hold::Quorum | Hold::Panic => None,
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
mod tests;
