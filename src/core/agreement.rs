//! What most nodes hold a handler to be: its config and its component.
//!
//! Two nodes that would write different things for one application would rewrite each other's record for ever. So only
//! nodes that agree with most run a handler. All who see the same members come to the same answer without a word, and
//! the same members give the same answer always. The node asks; nothing here knows who is alive.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::name::NodeName;
use crate::record::{HandlerTag, ShortDigest};

/// What most agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    config: ShortDigest,
    component: Option<ShortDigest>,
}

/// In what a node's handler differs from what most agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// In its config.
    Config,
    /// In its component.
    Component,
    /// In both.
    Both,
}

impl Difference {
    /// The difference's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Component => "component",
            Self::Both => "config and component",
        }
    }
}

/// What most of those who have a handler agree on; nothing if nobody has it.
///
/// First the config that most have, whether they can run it yet or not: one who restarts must not tip the scales for the
/// seconds until it is ready. Then the component that most of these have loaded; none only where nobody has, so that a
/// node whose component cannot be loaded stands aside for one that has it. Where two have equally many, the one on the
/// node with the smallest name.
pub fn agreed<'a>(said: impl Iterator<Item = (&'a NodeName, &'a HandlerTag)> + Clone) -> Option<Agreed> {
    let config = most(said.clone().map(|(node, tag)| (node, tag.config)))?;
    let same = said.filter(|(_, tag)| tag.config == config);
    let component = most(same.filter_map(|(node, tag)| Some((node, tag.component?))));
    Some(Agreed { config, component })
}

fn most<'a>(votes: impl Iterator<Item = (&'a NodeName, ShortDigest)>) -> Option<ShortDigest> {
    let mut groups: BTreeMap<ShortDigest, (usize, Reverse<&NodeName>)> = BTreeMap::new();
    for (node, digest) in votes {
        let (count, smallest) = groups.entry(digest).or_insert((0, Reverse(node)));
        *count += 1;
        *smallest = Reverse(node).max(*smallest);
    }
    groups.into_iter().max_by_key(|(_, group)| *group).map(|(digest, _)| digest)
}

impl Agreed {
    /// Whether who says this may run the handler.
    pub fn includes(&self, tag: &HandlerTag) -> bool {
        (tag.config, tag.component) == (self.config, self.component)
    }

    /// In what `tag` differs. A component that is not loaded is no other one.
    pub fn difference(&self, tag: &HandlerTag) -> Option<Difference> {
        let component = tag.component.is_some_and(|own| self.component.is_some_and(|agreed| own != agreed));
        match (tag.config != self.config, component) {
            (false, false) => None,
            (true, false) => Some(Difference::Config),
            (false, true) => Some(Difference::Component),
            (true, true) => Some(Difference::Both),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::HandlerName;

    fn tag(config: u8, component: u8) -> HandlerTag {
        HandlerTag {
            name: ShortDigest::of_name(&HandlerName::new("dns").unwrap()),
            config: ShortDigest::new(&[config; 32]),
            component: (component > 0).then(|| ShortDigest::new(&[component; 32])),
        }
    }

    /// Config and component; 0: not loaded.
    type Said = (u8, u8);

    /// What nodes `a`, `b`, ... agree on that say this; in either order.
    fn agree(said: &[Said]) -> Option<HandlerTag> {
        let nodes: Vec<_> = said
            .iter()
            .zip('a'..)
            .map(|((config, component), name)| (NodeName::new(&name.to_string()).unwrap(), tag(*config, *component)))
            .collect();
        let forth = agreed(nodes.iter().map(|(node, tag)| (node, tag)));
        assert_eq!(forth, agreed(nodes.iter().rev().map(|(node, tag)| (node, tag))), "{said:?}");
        forth.map(|Agreed { config, component }| HandlerTag { config, component, ..tag(0, 0) })
    }

    #[test]
    fn most_decide_and_the_smallest_name_where_they_do_not() {
        let table: [(&[Said], Said); 12] = [
            (&[(1, 1)], (1, 1)),
            (&[(1, 1), (2, 1), (2, 1)], (2, 1)),
            (&[(9, 1), (2, 1)], (9, 1)),
            (&[(2, 1), (9, 1)], (2, 1)),
            (&[(3, 1), (2, 1), (2, 1), (3, 1)], (3, 1)),
            (&[(1, 1), (1, 2), (1, 2)], (1, 2)),
            (&[(1, 7), (1, 2)], (1, 7)),
            (&[(1, 0), (1, 2)], (1, 2)),
            (&[(1, 0), (1, 0)], (1, 0)),
            // One that has not loaded its component yet has a word on the config all the same.
            (&[(1, 0), (2, 1)], (1, 0)),
            (&[(1, 0), (1, 0), (1, 3), (2, 4), (2, 4)], (1, 3)),
            (&[(1, 1), (1, 2), (2, 3), (2, 3), (2, 1)], (2, 3)),
        ];
        for (said, (config, component)) in table {
            assert_eq!(agree(said), Some(tag(config, component)), "{said:?}");
        }
        assert_eq!(agree(&[]), None);
    }

    #[test]
    fn who_differs_is_told_in_what() {
        let agreed = Agreed { config: tag(1, 1).config, component: tag(1, 1).component };
        let table = [
            ((1, 1), true, None),
            ((2, 1), false, Some(Difference::Config)),
            ((1, 2), false, Some(Difference::Component)),
            ((2, 2), false, Some(Difference::Both)),
            ((1, 0), false, None),
            ((2, 0), false, Some(Difference::Config)),
        ];
        for ((config, component), includes, difference) in table {
            let tag = tag(config, component);
            assert_eq!((agreed.includes(&tag), agreed.difference(&tag)), (includes, difference), "{tag:?}");
        }
        let unloaded = Agreed { component: None, ..agreed };
        assert!(unloaded.includes(&tag(1, 0)) && !unloaded.includes(&tag(1, 1)));
    }
}
