//! Draining: a node that is to stop takes its applications out first, and stays until no visitor is sent to it any more.
//!
//! They count as in maintenance, so that their removal passes every gate but the one that keeps a set from being empty.
//! Meanwhile it is a member like any other, and runs what it runs. When the receipts say that it is published nowhere it
//! waits for as long as resolvers may remember the record, and then it leaves.

use super::{Node, Notice};
use crate::config::{Drain, Handler, RunOn};
use crate::name::AppName;
use crate::record::ShortDigest;
use crate::time::{Instant, Now};

#[derive(Debug)]
pub(super) struct Draining {
    rules: Drain,
    /// It waits no longer to hear that it is published nowhere.
    deadline: Instant,
    /// When it leaves, once that is known or waited for in vain.
    leaves_at: Option<Instant>,
}

impl Node {
    /// Begins to drain this node, which leaves by itself afterwards. The applications that stay published, as they are up
    /// nowhere else.
    pub fn drain(&mut self, now: Now, rules: Drain) -> Vec<AppName> {
        if self.leaving.is_none() && self.draining.is_none() {
            self.draining = Some(Draining { rules, deadline: now.at + rules.timeout, leaves_at: None });
            self.change_own_record(now.at);
            self.settle(now);
        }
        let apps = self.settings.apps.iter().map(|app| &app.name);
        apps.filter(|app| self.is_kept(app)).cloned().collect()
    }

    pub(super) fn drain_due(&mut self, now: Instant) {
        let Some(draining) = self.draining.as_ref().filter(|_| self.leaving.is_none()) else { return };
        match draining.leaves_at {
            Some(at) if at <= now => self.leave(now),
            Some(_) => {}
            None => {
                let is_out = !self.is_published();
                if is_out || draining.deadline <= now {
                    // Where no handler tells anybody of them nobody has to forget.
                    let wait = if self.handled().next().is_some() { draining.rules.wait } else { Default::default() };
                    self.draining = Some(Draining { leaves_at: Some(now + wait), ..*draining });
                    self.notice(Notice::Drained { is_out, wait });
                }
            }
        }
    }

    pub(super) fn drain_ends(&self) -> Option<Instant> {
        let draining = self.draining.as_ref().filter(|_| self.leaving.is_none())?;
        Some(draining.leaves_at.unwrap_or(draining.deadline))
    }

    /// This node's applications, with the handlers that see them.
    fn handled(&self) -> impl Iterator<Item = (&Handler, &AppName)> {
        let apps = self.settings.apps.iter().map(|app| &app.name);
        apps.flat_map(|app| {
            let handlers = self.settings.handlers.iter().filter(move |handler| handler.sees(app));
            handlers.map(move |handler| (handler, app))
        })
    }

    /// Whether any receipt says that this node is published.
    fn is_published(&self) -> bool {
        let mut scopes = self.handled().filter(|(handler, _)| handler.run_on == RunOn::One);
        scopes.any(|(handler, app)| {
            let receipt = self.receipts.get(&(ShortDigest::of_name(&handler.name), app.clone()));
            receipt.is_some_and(|receipt| receipt.has_published(&self.settings.name))
        })
    }
}
