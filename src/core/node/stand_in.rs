//! Nodes whose runs fail: the next in rank stands in for them.
//!
//! Its way to the provider may be blocked, its address not be let in, its handler not load: a node that is alive and runs
//! a scope may be the one that cannot. It says so in its record, and for a while it is not asked; all who see the same
//! records come to the same stand-in. When several fail the fault is not theirs, and the first in rank goes on trying.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Node, Tick};
use crate::config::{Handler, RunOn};
use crate::event::{EventKind, RunEnd, StopReason};
use crate::ledger::ScopeKey;
use crate::name::HandlerName;
use crate::record::{MAX_FAILING, ShortDigest};
use crate::status::FailingStatus;
use crate::time::Instant;

/// A node whose run failed is not asked for so long, unless nobody else is left.
const STANDS_BACK: Duration = Duration::from_secs(300);
/// When so many nodes fail in one scope, the fault is not theirs.
pub(super) const MOST_FAILING: usize = 3;

impl Node {
    /// A run in `key` has ended: whether this node is one to ask again.
    pub(super) fn note_end(&mut self, now: Instant, key: &ScopeKey, end: &RunEnd) {
        let has_failed = match end {
            RunEnd::Done { .. } => false,
            // Nothing is known: it was not to act, or the provider has told when it may be asked.
            RunEnd::Stopped(StopReason::Fenced, _) | RunEnd::RetryAfter(..) => return,
            RunEnd::Retry(_) | RunEnd::Permanent(_) | RunEnd::Stopped(..) => true,
        };
        // A stand-in begins with a look at everything; who only hears of single events has to hear of this one here.
        let has_stand_in = |it: &Handler| it.run_on == RunOn::One && it.on.contains(&EventKind::Reconcile);
        if !self.handler(key).is_some_and(has_stand_in) {
            return;
        }
        let changed = if has_failed {
            let until = now + STANDS_BACK;
            self.timers.push(until, Tick::Forgive(key.clone()));
            self.failing.insert(key.clone(), until).is_none()
        } else {
            self.failing.remove(key).is_some()
        };
        if changed {
            self.change_own_record(now);
        }
    }

    /// Its time is over: this node may try again. The last failure counts.
    pub(super) fn forgive(&mut self, now: Instant, key: &ScopeKey) {
        if self.failing.get(key).is_some_and(|until| *until <= now) {
            self.failing.remove(key);
            self.change_own_record(now);
        }
    }

    /// Who says that it fails, and in what.
    pub(super) fn failing_status(&self, handler: &Handler) -> Vec<FailingStatus> {
        let name = ShortDigest::of_name(&handler.name);
        let apps = self.view.apps().filter(|app| handler.sees(app)).map(|app| app.as_str());
        let scopes: Vec<_> = apps.chain([handler.name.as_str()]).collect();
        let members = self.view.members().iter().filter(|(_, member)| member.handler(name).is_some());
        let failing = members.flat_map(|(node, member)| member.failing.iter().map(move |tag| (node, *tag)));
        let status = failing.filter_map(|(node, tag)| {
            let scope = scopes.iter().find(|scope| tag == ShortDigest::of_scope(&handler.name, scope));
            let scope = scope.map(ToString::to_string);
            (scope.is_some() || tag == name).then(|| FailingStatus { node: node.to_string(), scope })
        });
        status.collect()
    }

    /// For this node's record: who fails in more than one scope of a handler is believed to fail in all.
    pub(super) fn failing_tags(&self) -> Vec<ShortDigest> {
        let mut scopes: BTreeMap<&HandlerName, Vec<&ScopeKey>> = BTreeMap::new();
        for key in self.failing.keys() {
            scopes.entry(&key.handler).or_default().push(key);
        }
        let tags = scopes.into_iter().map(|(handler, keys)| match keys[..] {
            [key] => ShortDigest::of_scope(handler, key.scope()),
            _ => ShortDigest::of_name(handler),
        });
        tags.take(MAX_FAILING).collect()
    }
}

/// Whether who says that its runs fail in these has to be passed over in `key`.
pub(super) fn fails_in(failing: &[ShortDigest], key: &ScopeKey) -> bool {
    // Nearly always there are none, and nothing is computed.
    let is_it = |tag: &ShortDigest| {
        *tag == ShortDigest::of_scope(&key.handler, key.scope()) || *tag == ShortDigest::of_name(&key.handler)
    };
    failing.iter().any(is_it)
}
