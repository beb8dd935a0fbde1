//! What was published: who ran a scope last, when, and with which members.
//!
//! Whoever runs a scope gossips a receipt of it, so that all know the last set that was applied. A node that has just
//! started takes it for what stands outside, and so removes nobody whom the others hold on purpose; a run that knows less
//! than a newer receipt is fenced off. Epochs are those of a hybrid clock (Kulkarni et al., 2014): the time of day, pushed
//! on by every later one that is heard of, so that who knows of a receipt writes a later one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{AppName, NodeName};
use crate::record::{MAX_RECORD, ShortDigest};
use crate::time::{Instant, Wall};

/// So many scopes are known at most; each node has a few.
pub const MAX_SCOPES: usize = 1024;
/// So many failures are told, the newest.
const MAX_FAILURES: usize = 32;
/// A weight of one, as it is told.
const WEIGHT: f64 = 16.0;
/// No clock goes so wrong: what claims to be later is no time.
const LAST_EPOCH: u64 = 1 << 46;

/// Which scope: the handler's name and the application.
pub type Scope = (ShortDigest, AppName);

/// Members, in the fewest words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Members {
    /// These.
    These(Vec<ShortDigest>),
    /// All that have the application, except these.
    AllBut(Vec<ShortDigest>),
}

/// A member that was taken out because it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastFailure {
    member: ShortDigest,
    /// In seconds, at the receipt's epoch.
    age: u16,
    /// How much its failures weighed when it was taken out, in sixteenths.
    weight: u8,
}

/// One receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The handler's name.
    pub handler: ShortDigest,
    /// The application.
    pub app: AppName,
    /// Who ran it.
    pub node: NodeName,
    /// When the run read what it wrote: milliseconds of the hybrid clock.
    pub epoch: u64,
    /// The set that was written, as [`crate::plan::revision`] names it.
    pub revision: String,
    /// Whose endpoints those are.
    pub published: Members,
    /// Who of the others failed of late.
    pub failures: Vec<PastFailure>,
}

impl Receipt {
    /// Which scope it is of.
    pub fn scope(&self) -> Scope {
        (self.handler, self.app.clone())
    }

    /// The receipt as bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a receipt has no type that postcard refuses")
    }

    /// Whether it can be passed on, and be meant.
    pub fn is_sound(&self) -> bool {
        self.epoch < LAST_EPOCH && self.encode().len() < MAX_RECORD
    }

    /// Whether the other tells nothing new.
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.node, &self.revision, &self.published) == (&other.node, &other.revision, &other.published)
    }

    /// Whether `member`, which has the application, was published.
    pub fn has_published(&self, member: &NodeName) -> bool {
        let tag = ShortDigest::of_node(member);
        match &self.published {
            Members::These(tags) => tags.contains(&tag),
            Members::AllBut(tags) => !tags.contains(&tag),
        }
    }

    /// How long ago `member` failed, and how much that weighed then; by the time of day, so not to the second.
    pub fn failure(&self, now: Wall, member: &NodeName) -> Option<(Duration, f64)> {
        let tag = ShortDigest::of_node(member);
        let failure = self.failures.iter().find(|failure| failure.member == tag)?;
        let age = now.since(Wall(self.epoch)) + Duration::from_secs(failure.age.into());
        Some((age, f64::from(failure.weight) / WEIGHT))
    }

    /// Tells of these members: the published ones and the others that have the application, and of failures the ages and
    /// weights.
    pub fn tell<'a>(
        &mut self,
        published: impl Iterator<Item = &'a NodeName>,
        others: impl Iterator<Item = &'a NodeName>,
        failures: impl Iterator<Item = (&'a NodeName, Duration, f64)>,
    ) {
        let these: Vec<_> = published.map(ShortDigest::of_node).collect();
        let others: Vec<_> = others.map(ShortDigest::of_node).collect();
        self.published = if others.len() < these.len() { Members::AllBut(others) } else { Members::These(these) };
        let mut failures: Vec<_> = failures.collect();
        failures.sort_by_key(|(_, age, _)| *age);
        let told = failures.into_iter().take(MAX_FAILURES).map(|(member, age, weight)| PastFailure {
            member: ShortDigest::of_node(member),
            age: age.as_secs().try_into().unwrap_or(u16::MAX),
            weight: (weight * WEIGHT).clamp(1.0, 255.0) as u8,
        });
        self.failures = told.collect();
    }
}

/// The newest receipt of each scope, and when it came.
#[derive(Debug, Default)]
pub struct Receipts {
    by_scope: BTreeMap<Scope, (Instant, Receipt)>,
    epoch: u64,
}

impl Receipts {
    /// An epoch later than all that was heard of.
    pub fn next_epoch(&mut self, now: Wall) -> u64 {
        self.epoch = (self.epoch + 1).max(now.0.min(LAST_EPOCH - 1));
        self.epoch
    }

    /// Takes a receipt if it is news.
    pub fn take(&mut self, now: Instant, receipt: Receipt) -> bool {
        let scope = receipt.scope();
        let held = self.by_scope.get(&scope).map(|(_, held)| held);
        let is_news = held.is_none_or(|held| (held.epoch, &held.node) < (receipt.epoch, &receipt.node));
        let is_crowded = held.is_none() && self.by_scope.len() >= MAX_SCOPES;
        if !is_news || is_crowded || !receipt.is_sound() {
            return false;
        }
        self.epoch = self.epoch.max(receipt.epoch);
        self.by_scope.insert(scope, (now, receipt));
        true
    }

    /// The newest of a scope.
    pub fn get(&self, scope: &Scope) -> Option<&Receipt> {
        self.by_scope.get(scope).map(|(_, receipt)| receipt)
    }

    /// Of how many scopes there is one.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.by_scope.len()
    }

    /// All, by scope.
    pub fn iter(&self) -> impl Iterator<Item = &Receipt> {
        self.by_scope.values().map(|(_, receipt)| receipt)
    }

    /// The newest of an application, whichever handler it is of.
    pub fn of_app(&self, app: &AppName) -> Option<&Receipt> {
        self.iter().filter(|receipt| receipt.app == *app).max_by_key(|receipt| (receipt.epoch, &receipt.node))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::name::HandlerName;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    pub(crate) fn receipt(node: &str, epoch: u64) -> Receipt {
        Receipt {
            handler: ShortDigest::of_name(&HandlerName::new("dns").unwrap()),
            app: AppName::new("www").unwrap(),
            node: name(node),
            epoch,
            revision: "0123456789abcdef".into(),
            published: Members::These(vec![ShortDigest::of_node(&name("web1"))]),
            failures: Vec::new(),
        }
    }

    #[test]
    fn members_are_told_in_the_fewest_words() {
        let all: Vec<_> = (0..300).map(|number| name(&format!("web{number}"))).collect();
        for out in [0, 1, 150, 299] {
            let mut receipt = receipt("web1", 1000);
            let failures = all[..out].iter().map(|member| (member, Duration::from_secs(70), 1.5));
            receipt.tell(all[out..].iter(), all[..out].iter(), failures);
            assert!(all.iter().enumerate().all(|(index, member)| receipt.has_published(member) == (index >= out)));
            assert_eq!(receipt.is_sound(), out != 150, "half of 300 does not fit: {}", receipt.encode().len());
            let told = all.iter().filter_map(|member| receipt.failure(Wall(3000), member)).collect::<Vec<_>>();
            assert_eq!(told.len(), out.min(MAX_FAILURES));
            assert!(told.iter().all(|told| *told == (Duration::from_secs(72), 1.5)));
        }
    }

    #[test]
    fn the_newest_counts_and_who_knows_of_it_is_later() {
        let (mut receipts, now) = (Receipts::default(), Instant::default());
        assert!(receipts.take(now, receipt("a", 5000)));
        assert!(!receipts.take(now, receipt("a", 5000)) && !receipts.take(now, receipt("b", 4000)));
        assert!(receipts.take(now, receipt("b", 5000)), "one of two of the same time, the same everywhere");
        assert_eq!(receipts.next_epoch(Wall(10)), 5001, "the time of day was set back");
        assert_eq!(receipts.next_epoch(Wall(7000)), 7000);
        assert!(!receipts.take(now, receipt("c", LAST_EPOCH)), "no clock says so");
        assert_eq!(receipts.of_app(&AppName::new("www").unwrap()).map(|held| held.epoch), Some(5000));
    }
}
