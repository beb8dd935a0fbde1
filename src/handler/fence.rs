//! Whether a run may still act on what it saw: asked before each of its requests is dialed, and again before it is sent.
//!
//! A run acts on one snapshot. When its deadline has passed, on a clock that goes on while the machine sleeps and the
//! process stands still, or when the node no longer sees a majority of its cluster, somebody else may have written what
//! is newer; when a newer receipt is known, somebody has. What the run would write then is refused, and its end is called
//! `fenced`. Made by `loaded` for each run, asked by `http`; the node's part of it comes from the driver.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// A deadline that is noticed so late was passed while the process stood still.
const OVERSLEPT: Duration = Duration::from_secs(1);
const STOOD_STILL: &str = "its deadline passed while it stood still";

/// One run's right to act.
#[derive(Debug)]
pub(crate) struct Fence {
    /// Until when the run goes on.
    pub(crate) until: Instant,
    deadline: Duration,
    may_act: Arc<AtomicBool>,
    is_newest: Arc<AtomicBool>,
    struck: OnceLock<&'static str>,
}

impl Fence {
    /// Of a run that begins now and may take so long, while the node `may_act` and nobody has published what is newer.
    pub(crate) fn new(wall: Duration, may_act: Arc<AtomicBool>, is_newest: Arc<AtomicBool>) -> Self {
        let (until, deadline) = (Instant::now() + wall, now() + wall);
        Self { until, deadline, may_act, is_newest, struck: OnceLock::new() }
    }

    /// Why the run may not go on, if it may not; and from then on it never may.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let reason = if now() > self.deadline {
            STOOD_STILL
        } else if !self.may_act.load(Ordering::Relaxed) {
            "this node sees no majority of its cluster"
        } else if !self.is_newest.load(Ordering::Relaxed) {
            "another node has published what is newer"
        } else {
            return self.struck().map_or(Ok(()), Err);
        };
        Err(self.struck.get_or_init(|| reason))
    }

    /// Why the run was stopped from acting, if it was.
    pub(crate) fn struck(&self) -> Option<&'static str> {
        self.struck.get().copied()
    }

    /// Why a run that took too long did so, if the reason is that nothing went on here at all.
    pub(crate) fn stood_still(&self) -> Option<&'static str> {
        (now() > self.deadline + OVERSLEPT).then_some(STOOD_STILL)
    }
}

/// Since the machine was started, the time included in which it was suspended.
fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_act_once_never_may_again() {
        let yes = || Arc::new(AtomicBool::new(true));
        let reasons = ["this node sees no majority of its cluster", "another node has published what is newer"];
        for (which, reason) in reasons.into_iter().enumerate() {
            let flags = [yes(), yes()];
            let fence = Fence::new(Duration::from_secs(3600), flags[0].clone(), flags[1].clone());
            assert_eq!((fence.check(), fence.struck(), fence.stood_still()), (Ok(()), None, None));
            flags[which].store(false, Ordering::Relaxed);
            assert_eq!((fence.check(), fence.struck()), (Err(reason), Some(reason)));
            flags[which].store(true, Ordering::Relaxed);
            assert_eq!(fence.check(), Err(reason), "another may have written meanwhile");
        }
    }

    #[test]
    fn a_run_that_is_late_may_not_act() {
        let mut fence = Fence::new(Duration::ZERO, Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        fence.deadline = Duration::ZERO;
        assert_eq!((fence.check(), fence.stood_still()), (Err(STOOD_STILL), Some(STOOD_STILL)));
    }
}
