//! The journal: small values by key that outlive the process, on the disk before anybody builds on them.
//!
//! Who writes gets a receipt and goes on; a thread of its own waits for the disk, and what comes in meanwhile is written
//! together with one sync. No value is ever half there. A disk that is full, slow or broken is told of and holds nobody
//! up: what could not be written goes with the next write. Read once, at the start, by the daemon; written by the driver
//! (deliveries) and the handler host (what handlers keep). What keys and values mean is theirs.

mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::file::Log;
pub use self::file::{Changes, Values, decode, encode};

/// A disk that takes longer holds nobody up: what waits for a receipt goes on without.
const PATIENCE: Duration = Duration::from_secs(5);
/// At most so often is said that nothing can be kept.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Why a journal cannot be used. Its file is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A later picored wrote it.
    #[error(
        "{} has version {found}, and this picored knows versions up to {known}: run the newer picored again, or move the \
         file away to begin without what it keeps", .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The last one that is known here.
        known: u32,
    },
    /// The system refused.
    #[error("cannot use {}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The way to the journal. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Whoever writes has it, so it is only ever waited for by a thread that may wait.
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Queue {
    /// What is to be written. A newer value of a key takes the place of one that was not written yet.
    changes: Changes,
    receipts: Vec<oneshot::Sender<()>>,
    is_writing: bool,
    complained: Option<Instant>,
}

/// Resolves once the disk has what was written, or has refused, or takes too long.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<()>);

impl Receipt {
    /// Waits for it. Whether the disk could keep it is said in the log, once for all who wait.
    pub async fn wait(self) {
        if tokio::time::timeout(PATIENCE, self.0).await.is_err() {
            tracing::warn!(target: "picored::store", "the disk takes more than {PATIENCE:?} to keep anything; not waiting");
        }
    }
}

impl Journal {
    /// The journal at `path` and what it keeps. No file is made before there is something to keep; a torn end is cut off,
    /// and what is damaged in its midst is left out, with a word in the log and a copy beside the file. `key` vouches for
    /// what is in it: what a handler keeps cannot pass for a record, wherever a write was cut off.
    pub fn open(path: &Path, key: &[u8; 32]) -> Result<(Self, Values), JournalError> {
        let (log, values) = Log::open(path, key)?;
        let (queue, log) = (Mutex::default(), Mutex::new(log));
        Ok((Self(Arc::new(Shared { queue, log })), values))
    }

    /// Has the disk keep `value` under `key`, or nothing any more. Needs a tokio runtime.
    pub fn write(&self, key: String, value: Option<Vec<u8>>) -> Receipt {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.0.queue();
        queue.changes.insert(key, value);
        queue.receipts.push(sender);
        if !std::mem::replace(&mut queue.is_writing, true) {
            let shared = self.0.clone();
            tokio::task::spawn_blocking(move || shared.write_all());
        }
        Receipt(receiver)
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until nothing is left to write.
    fn write_all(&self) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut queue = self.queue();
            if queue.receipts.is_empty() {
                queue.is_writing = false;
                return;
            }
            let (changes, receipts) = (std::mem::take(&mut queue.changes), std::mem::take(&mut queue.receipts));
            drop(queue);
            let written = log.write(&changes);
            let mut queue = self.queue();
            match written {
                Ok(()) => {
                    if queue.complained.take().is_some() {
                        tracing::info!(target: "picored::store", file = %log.path().display(), "is kept again");
                    }
                }
                Err(error) => {
                    // For the next write; there are no more than there are keys.
                    for (key, value) in changes {
                        queue.changes.entry(key).or_insert(value);
                    }
                    if queue.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                        queue.complained = Some(Instant::now());
                        let text = "retries, dead letters and what handlers keep would be lost with this process: make \
                                    room, or see to the disk. Handlers run on";
                        tracing::error!(target: "picored::store", file = %log.path().display(), %error, text, "cannot be kept");
                    }
                }
            }
            drop(queue);
            for receipt in receipts {
                // Who waited may have gone.
                let _ = receipt.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
