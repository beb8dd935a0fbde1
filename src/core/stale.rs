//! Of whom to look again: what changed since the view last took it in.

use std::collections::BTreeSet;

use crate::name::NodeName;

/// Of whom a view may be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Of these.
    These(BTreeSet<NodeName>),
    /// Of anybody.
    All,
}

impl Default for Stale {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Stale {
    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::These(names) if names.is_empty())
    }

    /// Whether this member is to be looked at.
    pub fn includes(&self, name: &NodeName) -> bool {
        match self {
            Self::These(names) => names.contains(name),
            Self::All => true,
        }
    }

    /// Adds a member.
    pub fn add(&mut self, name: &NodeName) {
        if let Self::These(names) = self {
            names.insert(name.clone());
        }
    }

    /// Adds those of `other`.
    pub fn join(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::These(names), Self::These(more)) => names.extend(more),
            (_, Self::All) => *self = Self::All,
            (Self::All, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_more_than_some() {
        let (a, b) = (NodeName::new("a").unwrap(), NodeName::new("b").unwrap());
        let mut stale = Stale::default();
        assert!(stale.is_empty() && !stale.includes(&a));
        stale.add(&a);
        assert!(!stale.is_empty() && stale.includes(&a) && !stale.includes(&b));
        stale.join(Stale::These([b.clone()].into()));
        assert!(stale.includes(&a) && stale.includes(&b));
        stale.join(Stale::All);
        stale.join(Stale::default());
        stale.add(&a);
        assert_eq!(stale, Stale::All);
        assert!(!stale.is_empty() && stale.includes(&b));
    }
}
