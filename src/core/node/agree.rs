//! Who may run a handler: those that are there, are ready, and agree with most on what it is.
//!
//! Of what [`agreement`](crate::agreement) says this draws the consequences: who runs which scope, and what people are
//! told of those that differ. `deliver` asks before it puts an event in line and again before it starts a run.

use std::collections::BTreeMap;

use super::stand_in::{MOST_FAILING, fails_in};
use super::{Node, Notice};
use crate::agreement::{Agreed, Difference, agreed};
use crate::config::RunOn;
use crate::ledger::ScopeKey;
use crate::name::{HandlerName, NodeName};
use crate::plan;
use crate::record::{HandlerTag, ShortDigest};

/// What a live node says of a handler that it has.
#[derive(Clone, Copy)]
struct Claim<'a> {
    node: &'a NodeName,
    tag: &'a HandlerTag,
    ready: bool,
    failing: &'a [ShortDigest],
}

impl Node {
    fn claims(&self, handler: &HandlerName) -> impl Iterator<Item = Claim<'_>> + Clone {
        let (own, name) = (&self.settings.name, ShortDigest::of_name(handler));
        self.view.members().iter().filter_map(move |(node, member)| {
            // Of itself this node knows sooner than its view.
            let (tag, ready, failing) = if node == own {
                let record = self.records.get(own)?;
                (record.handler(name)?, self.is_ready(), &record.failing)
            } else {
                (member.handler(name)?, member.ready, &member.failing)
            };
            Some(Claim { node, tag, ready, failing })
        })
    }

    fn agreed(&self, handler: &HandlerName) -> Option<Agreed> {
        agreed(self.claims(handler).map(|claim| (claim.node, claim.tag)))
    }

    /// The node that runs a scope; this one if it is one of several.
    ///
    /// Who differs from most runs nothing, whatever `run_on` says: where each node writes, one that writes something else
    /// is the same trouble as two runners of one scope.
    pub(super) fn runner(&self, key: &ScopeKey) -> Option<&NodeName> {
        let run_on = self.handler(key)?.run_on;
        let agreed = self.agreed(&key.handler)?;
        let may_run = self.claims(&key.handler).filter(|claim| claim.ready && agreed.includes(claim.tag));
        let mut nodes = may_run.clone().map(|claim| claim.node);
        match run_on {
            RunOn::One => {
                let able = may_run.clone().filter(|claim| !fails_in(claim.failing, key));
                let failing = may_run.clone().count() - able.clone().count();
                let first = plan::runner(&key.handler, key.scope(), able.map(|claim| claim.node));
                first.filter(|_| failing < MOST_FAILING).or_else(|| plan::runner(&key.handler, key.scope(), nodes))
            }
            RunOn::Every | RunOn::Subject => nodes.find(|node| **node == self.settings.name),
        }
    }

    /// Whether this node runs `key` for an event about `member`; for one about none, such as `reconcile`, the subjects
    /// are those that have the application.
    pub(super) fn runs(&self, key: &ScopeKey, member: Option<&NodeName>) -> bool {
        let own = &self.settings.name;
        let is_subject = || match (member, &key.app) {
            (Some(member), _) => member == own,
            (None, Some(app)) => self.view.members().get(own).is_some_and(|own| own.apps.contains_key(app)),
            (None, None) => true,
        };
        let concerns = self.handler(key).is_some_and(|handler| handler.run_on != RunOn::Subject || is_subject());
        concerns && self.runner(key) == Some(own)
    }

    /// Tells of those that begin to differ from most, and of those that no longer do.
    pub(super) fn tell_mismatches(&mut self) {
        for index in 0..self.settings.handlers.len() {
            let handler = self.settings.handlers[index].name.clone();
            let now = self.find_mismatches(&handler);
            let Some(book) = self.books.get_mut(&handler) else { continue };
            let before = std::mem::replace(&mut book.mismatches, now.clone());
            let over = before.keys().filter(|node| !now.contains_key(*node)).map(|node| (node.clone(), None));
            let begun = now.iter().filter(|(node, differs)| before.get(*node) != Some(*differs));
            let begun = begun.map(|(node, differs)| (node.clone(), Some(*differs)));
            for (node, differs) in over.chain(begun).collect::<Vec<_>>() {
                self.notice(Notice::Mismatch { handler: handler.clone(), node, differs });
            }
        }
    }

    fn find_mismatches(&self, handler: &HandlerName) -> BTreeMap<NodeName, Difference> {
        let Some(agreed) = self.agreed(handler) else { return BTreeMap::new() };
        self.claims(handler).filter_map(|claim| Some((claim.node.clone(), agreed.difference(claim.tag)?))).collect()
    }
}
