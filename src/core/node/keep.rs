//! What of this node's deliveries outlives the process: retries and dead letters.
//!
//! The disk is told before anybody hears how a try ended. It is not waited for by what runs: an event that comes to this
//! node starts its handlers whatever the disk does.

use std::sync::Arc;
use std::time::Duration;

use super::reconfigure::has_place;
use super::{Node, Output};
use crate::event::{Outcome, RunEnd};
use crate::ledger::{self, Delivery, ScopeKey};
use crate::letter::Letter;
use crate::time::{Now, Wall};

impl Node {
    /// Goes on with what an earlier life has left. A retry that the config has no place for any more is cancelled; a dead
    /// letter stays, as its handler may return.
    pub(super) fn restore(&mut self, now: Now, mut letters: Vec<Letter>) {
        letters.sort_by_key(|letter| letter.number);
        for letter in letters {
            let key = ScopeKey { handler: letter.handler.clone(), app: letter.app.clone() };
            let ended = if letter.outcome == Outcome::Retry && !has_place(&self.settings.handlers, &key) {
                Some((ledger::delivery(now.at, &letter), Outcome::Cancelled))
            } else {
                self.ledger.restore(now, letter).map(|before| (before, Outcome::Superseded))
            };
            if let Some((delivery, outcome)) = ended {
                self.end(delivery, outcome, None, Duration::ZERO);
            }
        }
        self.expire_letters(now.wall);
    }

    /// Has the disk keep what is owed to a delivery that a run of its has ended like this.
    pub(super) fn keep(&mut self, now: Now, delivery: &Delivery, outcome: Outcome, end: &RunEnd) {
        let letter = match outcome {
            Outcome::Retry | Outcome::Superseded => self.ledger.letter(now, &delivery.key).map(Arc::new),
            Outcome::Dead | Outcome::Permanent => Some(self.ledger.bury(now.wall, delivery, outcome, end)),
            _ => None,
        };
        self.outputs.extend(letter.map(Output::Keep));
        self.expire_letters(now.wall);
    }

    /// Ends a delivery that a newer one took the place of. What was owed to it is owed to that one.
    pub(super) fn supersede(&mut self, now: Now, before: Delivery) {
        let newer = self.ledger.letter(now, &before.key).map(Arc::new);
        self.outputs.extend(newer.map(Output::Keep));
        self.end(before, Outcome::Superseded, None, Duration::ZERO);
    }

    /// Nothing is owed to a delivery any more that was kept.
    pub(super) fn settle_letter(&mut self, delivery: &Delivery, outcome: Outcome) {
        let is_kept = matches!(outcome, Outcome::Retry | Outcome::Dead | Outcome::Permanent);
        if delivery.last.is_some() && !is_kept {
            self.outputs.push_back(Output::Settled(delivery.id.clone()));
        }
    }

    /// Forgets the dead letters that are too old, or too many.
    pub(super) fn expire_letters(&mut self, now: Wall) {
        for id in self.ledger.expire(now) {
            if let Some(book) = self.books.get_mut(&id.handler) {
                book.dead_dropped += 1;
            }
            self.outputs.push_back(Output::Settled(id));
        }
    }
}
