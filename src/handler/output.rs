//! A guest's stdout and stderr: the last part is kept, for the reason of a trap; all of it counts as log text.
//!
//! Nothing of it is written anywhere by itself; there is no stdin.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::handler::secrets::Secrets;
use crate::handler::store::Overrun;

/// So much of the end is kept, in bytes. A Python traceback or a panic's message fits.
const TAIL: usize = 2 << 10;
/// A guest may hand over so much in one write.
const CHUNK: usize = 8 << 10;

/// What a run may still write, as log lines or to stdout and stderr.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    pub(crate) fn take(&self, bytes: usize) -> Result<(), Overrun> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used > self.limit { Err(Overrun::new("bytes of log text", self.limit)) } else { Ok(()) }
    }
}

/// The end of a stream.
#[derive(Debug, Default)]
struct Kept {
    end: VecDeque<u8>,
    /// There was more before it.
    is_cut: bool,
}

/// One of the two streams.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    kept: Arc<Mutex<Kept>>,
    budget: Arc<Budget>,
}

impl Tail {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { kept: Arc::default(), budget }
    }

    /// The end of what was written, without any of `secrets`.
    pub(crate) fn text(&self, secrets: &Secrets) -> String {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_cut = kept.is_cut;
        let end = kept.end.make_contiguous();
        let clean = if is_cut { Some(secrets.scrub_end(end)) } else { secrets.scrub_bytes(end) };
        String::from_utf8_lossy(clean.as_deref().unwrap_or(end)).into_owned()
    }
}

impl IsTerminal for Tail {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Tail {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Tail {
    async fn ready(&mut self) {}
}

impl OutputStream for Tail {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.budget.take(bytes.len()).map_err(|overrun| StreamError::Trap(overrun.into()))?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = &bytes[bytes.len().saturating_sub(TAIL)..];
        let surplus = (kept.end.len() + fresh.len()).saturating_sub(TAIL);
        kept.is_cut |= surplus > 0 || fresh.len() < bytes.len();
        kept.end.drain(..surplus);
        kept.end.extend(fresh);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_all_is_counted() {
        let mut tail = Tail::new(Budget::new(10_000));
        tail.write(Bytes::from_static(b"begin")).unwrap();
        tail.write(Bytes::from(vec![b'x'; TAIL - 3])).unwrap();
        tail.write(Bytes::from_static(b"end")).unwrap();
        let text = tail.text(&Secrets::none());
        assert_eq!(text.len(), TAIL);
        assert!(text.ends_with("xend") && text.starts_with('x'));
        tail.write(Bytes::from(vec![b'y'; 2 * TAIL])).unwrap();
        assert_eq!(tail.text(&Secrets::none()), "y".repeat(TAIL));
        assert!(matches!(tail.write(Bytes::from(vec![b'z'; 10_000])), Err(StreamError::Trap(_))));
    }
}
