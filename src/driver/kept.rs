//! Deliveries on the disk: handed to the journal when the node says so, and read from it for the next node.
//!
//! The loop goes on meanwhile. Only words wait: nobody is told how a delivery ended before all that the disk had to keep
//! until then is there, or cannot be kept. Part of the driver.

use std::collections::VecDeque;

use picored_core::event::DeliveryId;
use picored_core::letter::Letter;
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

pub(super) struct Kept {
    /// None where it cannot be used.
    journal: Option<Journal>,
    /// How much was handed over, and up to what the disk has it.
    written: u64,
    durable: u64,
    waits: JoinSet<u64>,
    /// What is told when the disk has so much.
    held: VecDeque<(u64, Notice, Wall)>,
}

impl Kept {
    pub(super) fn new(journal: Option<Journal>) -> Self {
        Self { journal, written: 0, durable: 0, waits: JoinSet::new(), held: VecDeque::new() }
    }

    pub(super) fn keep(&mut self, letter: &Letter) {
        let value = serde_json::to_vec(letter).expect("plain data has a JSON form");
        self.write(key(&letter.id()), Some(value));
    }

    pub(super) fn settle(&mut self, id: &DeliveryId) {
        self.write(key(id), None);
    }

    fn write(&mut self, key: String, value: Option<Vec<u8>>) {
        let Some(journal) = &self.journal else { return };
        let receipt = journal.write(key, value);
        self.written += 1;
        let number = self.written;
        self.waits.spawn(async move {
            receipt.wait().await;
            number
        });
    }

    /// What may be told now: this, nothing yet, or, where too much waits, what has waited longest.
    pub(super) fn hold(&mut self, notice: Notice, time: Wall) -> Option<(Notice, Wall)> {
        let may_wait = matches!(notice, Notice::Ended { .. });
        if !may_wait || (self.durable >= self.written && self.held.is_empty()) {
            return Some((notice, time));
        }
        self.held.push_back((self.written, notice, time));
        if self.held.len() <= HELD {
            return None;
        }
        self.held.pop_front().map(|(_, notice, time)| (notice, time))
    }

    /// Waits until the disk has more than before; none if nothing is under way.
    pub(super) async fn more(&mut self) -> Option<u64> {
        self.waits.join_next().await.map(|number| number.unwrap_or(self.written))
    }

    /// What may be told as the disk has so much.
    pub(super) fn release(&mut self, number: u64) -> Vec<(Notice, Wall)> {
        // What was handed over before was written before.
        self.durable = self.durable.max(number);
        let some = self.held.iter().take_while(|(wanted, ..)| *wanted <= self.durable).count();
        self.held.drain(..some).map(|(_, notice, time)| (notice, time)).collect()
    }

    /// What was not told yet. The process ends only when the disk has all that was handed over.
    pub(super) fn rest(&mut self) -> Vec<(Notice, Wall)> {
        self.release(self.written)
    }
}
