//! A file that was sent along with a command: streamed to the disk, never held in memory, gone when nobody keeps it.
//!
//! Who asks sends the bytes and not a path: the daemon may have no right to read that file, and it may change meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;

use super::commands::Refusal;

/// A file (0600) in the folder for uploads. Dropped, it is removed, unless it was moved away.
#[derive(Debug)]
pub struct Upload {
    path: PathBuf,
}

impl Drop for Upload {
    fn drop(&mut self) {
        // After it was moved there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}

impl Upload {
    /// Takes charge of the file at `path`.
    pub fn of(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `body` to a new file in `folder`.
    ///
    /// # Errors
    /// If it is longer than `largest` bytes, breaks off, or cannot be written.
    pub(super) async fn receive(folder: &Path, largest: u64, mut body: Incoming) -> Result<Self, Refusal> {
        let failed = |error: io::Error| {
            let reason = format!("cannot write to {}: {error}", folder.display());
            Refusal::new(StatusCode::INSUFFICIENT_STORAGE, reason)
        };
        let (upload, mut file) = Self::create(folder).map_err(failed)?;
        let mut left = largest;
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("what was sent broke off: {error}")))?;
            let Some(bytes) = frame.data_ref() else { continue };
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                let reason = format!("this takes {} MiB at most", largest >> 20);
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
            })?;
            // Some KiB into the system's cache: no reason to leave the thread.
            file.write_all(bytes).map_err(failed)?;
        }
        Ok(upload)
    }

    fn create(folder: &Path) -> io::Result<(Self, File)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = folder.join(format!("upload-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((Self::of(path), file))
    }
}
