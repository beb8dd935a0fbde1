//! Deliveries on the disk: handed to the journal when the node says so, and read from it for the next node.
//!
//! The loop goes on meanwhile. Only words wait: nobody is told how a delivery ended before what the disk has to keep of it
//! is there, or cannot be kept; nor, before that, of the handler's next runs and versions. Part of the driver.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use picored_core::digest::Digest;
use picored_core::event::DeliveryId;
use picored_core::ledger::Delivery;
use picored_core::letter::Letter;
use picored_core::name::HandlerName;
use picored_core::node::Notice;
use picored_core::time::Wall;
use tokio::task::JoinSet;

use crate::journal::{Journal, Values};

const PREFIX: &str = "delivery/";
/// So many words wait at most; with more the first goes on unkept.
const HELD: usize = 1024;

/// The deliveries that a journal has kept.
pub fn letters(journal: &Journal, values: &Values) -> Vec<Letter> {
    let kept = values.iter().filter(|(key, _)| key.starts_with(PREFIX));
    let read = kept.filter_map(|(key, value)| match serde_json::from_slice::<Letter>(value) {
        Ok(letter) => Some(letter),
        Err(error) => {
            tracing::error!(target: "picored::store", key, %error, "a delivery cannot be read and is forgotten");
            drop(journal.write(key.clone(), None));
            None
        }
    });
    read.collect()
}

fn key(id: &DeliveryId) -> String {
    format!("{PREFIX}{id}")
}

/// Something that people are told.
pub(super) enum Word {
    Notice(Notice),
    /// A run has started: of what, after how long, with which version.
    Started(Box<Delivery>, Duration, Digest),
}

impl Word {
    /// The delivery that it is about.
    fn delivery(&self) -> Option<&Delivery> {
        match self {
            Self::Notice(Notice::Ended { delivery, .. }) | Self::Started(delivery, ..) => Some(delivery),
            Self::Notice(_) => None,
        }
    }

    /// The handler whose runs, or the version of whose runs, it is about.
    fn handler(&self) -> Option<&HandlerName> {
        match self {
            Self::Notice(Notice::Takeover { handler, .. } | Notice::RolledBack { handler, .. }) => Some(handler),
            _ => self.delivery().map(|delivery| &delivery.key.handler),
        }
    }
}

pub(super) struct Kept {
    /// None where it cannot be used.
    journal: Option<Journal>,
    /// How much was handed over, and up to what the disk has it.
    written: u64,
    durable: u64,
    /// What was handed over last of a delivery, where the disk has not got it yet.
    open: BTreeMap<DeliveryId, u64>,
    waits: JoinSet<u64>,
    /// What is told when the disk has so much.
    held: VecDeque<(u64, Word, Wall)>,
}

impl Kept {
    pub(super) fn new(journal: Option<Journal>) -> Self {
        let (open, waits, held) = Default::default();
        Self { journal, written: 0, durable: 0, open, waits, held }
    }

    pub(super) fn keep(&mut self, letter: &Letter) {
        let value = serde_json::to_vec(letter).expect("plain data has a JSON form");
        self.write(letter.id(), Some(value));
    }

    pub(super) fn settle(&mut self, id: &DeliveryId) {
        self.write(id.clone(), None);
    }

    fn write(&mut self, id: DeliveryId, value: Option<Vec<u8>>) {
        let Some(journal) = &self.journal else { return };
        let receipt = journal.write(key(&id), value);
        self.written += 1;
        let number = self.written;
        self.open.insert(id, number);
        self.waits.spawn(async move {
            receipt.wait().await;
            number
        });
    }

    /// What may be told now: this, nothing yet, or, where too much waits, what has waited longest.
    pub(super) fn hold(&mut self, word: Word, time: Wall) -> Option<(Word, Wall)> {
        let is_open = word.delivery().is_some_and(|delivery| self.open.contains_key(&delivery.id));
        let is_behind =
            || word.handler().is_some_and(|it| self.held.iter().any(|(_, word, _)| word.handler() == Some(it)));
        if !is_open && !is_behind() {
            return Some((word, time));
        }
        self.held.push_back((self.written, word, time));
        if self.held.len() <= HELD {
            return None;
        }
        self.held.pop_front().map(|(_, word, time)| (word, time))
    }

    /// Waits until the disk has more than before; none if nothing is under way.
    pub(super) async fn more(&mut self) -> Option<u64> {
        self.waits.join_next().await.map(|number| number.unwrap_or(self.written))
    }

    /// What may be told as the disk has so much.
    pub(super) fn release(&mut self, number: u64) -> Vec<(Word, Wall)> {
        // What was handed over before was written before.
        self.durable = self.durable.max(number);
        self.open.retain(|_, number| *number > self.durable);
        let some = self.held.iter().take_while(|(wanted, ..)| *wanted <= self.durable).count();
        self.held.drain(..some).map(|(_, word, time)| (word, time)).collect()
    }

    /// What was not told yet. The process ends only when the disk has all that was handed over.
    pub(super) fn rest(&mut self) -> Vec<(Word, Wall)> {
        self.release(self.written)
    }
}
