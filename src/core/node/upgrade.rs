//! A handler's versions, as far as the node is concerned: what takes over, what it is told of, what is taken back.
//!
//! A new version looks at every scope at once, so that what is wrong with it shows while its operator looks on; so does
//! one that comes back, for a delivery that the failed one ended for good would not be tried again. Called by the node.

use super::{Node, Notice, Output};
use crate::digest::Digest;
use crate::event::RunEnd;
use crate::name::HandlerName;
use crate::status::LastUpgrade;
use crate::time::Now;
use crate::versions::Takeover;

impl Node {
    pub(super) fn on_ready(&mut self, now: Now, handler: &HandlerName, version: Digest, takeover: Takeover) {
        let Some(book) = self.books.get_mut(handler) else { return };
        book.state = "ready".to_owned();
        let before = book.versions.current();
        book.versions.take_over(version, takeover);
        let outcome = match takeover {
            Takeover::Load => None,
            Takeover::Upgrade => Some("upgraded"),
            Takeover::Rollback => Some("rolled-back"),
        };
        if let Some(outcome) = outcome {
            let (outcome, time) = (outcome.into(), now.wall.rfc3339());
            book.upgrade = Some(LastUpgrade { outcome, reason: String::new(), time });
            self.notice(Notice::Takeover { handler: handler.clone(), takeover, version, before });
        }
        self.failing.retain(|key, _| key.handler != *handler);
        // What this node runs decides whether it may, here and in the eyes of others.
        self.change_own_record(now.at);
        if takeover != Takeover::Load {
            self.reconcile(now, handler);
        }
    }

    pub(super) fn on_upgrade_refused(&mut self, now: Now, handler: HandlerName, reason: String) {
        if let Some(book) = self.books.get_mut(&handler) {
            let (outcome, time) = ("refused".into(), now.wall.rfc3339());
            book.upgrade = Some(LastUpgrade { outcome, reason: reason.clone(), time });
            self.notice(Notice::UpgradeRefused { handler, reason });
        }
    }

    /// Looks whether with this end of a run its version has failed.
    pub(super) fn judge_version(&mut self, now: Now, handler: &HandlerName, version: Digest, end: &RunEnd) {
        let Some(book) = self.books.get_mut(handler) else { return };
        let Some(back) = book.versions.ended(version, end) else { return };
        let reason = format!("{}: {}", end.word(), end.text());
        let (outcome, time) = ("rolled-back".into(), now.wall.rfc3339());
        book.upgrade = Some(LastUpgrade { outcome, reason: reason.clone(), time });
        self.outputs.push_back(Output::RollBack { handler: handler.clone() });
        self.notice(Notice::RolledBack { handler: handler.clone(), version: back, failed: version, reason });
        self.change_own_record(now.at);
        self.reconcile(now, handler);
    }
}
