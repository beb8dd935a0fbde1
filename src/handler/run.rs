//! One run: a fresh store, the call, and the one name for how it ended.
//!
//! A run is bounded in wall time by its deadline and in CPU time by what its task used of the daemon's thread. It is a
//! task of its own, so that a fault in the host while it runs is its own end and nobody else's.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use picored_core::event::StopReason;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;
use wasmtime::component::ResourceTableError;
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;

use crate::handler::bindings::{Sandbox, SandboxPre};
use crate::handler::engine::Ticker;
use crate::handler::store::{Overrun, State};
use crate::handler::text::{SHORT, clean};

/// The host ended a run.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) reason: StopReason,
    pub(crate) text: String,
}

impl Stop {
    pub(crate) fn new(reason: StopReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

/// How long a run may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// Instantiates the component in `store` and makes one call.
pub(crate) async fn call<T>(
    pre: &SandboxPre<State>,
    store: &mut Store<State>,
    ticker: &Ticker,
    bounds: Bounds,
    call: impl AsyncFnOnce(&mut Store<State>, &Sandbox) -> wasmtime::Result<T>,
) -> Result<T, Stop> {
    let _ticking = ticker.run();
    let work = async {
        let instance = pre.instantiate_async(&mut *store).await.map_err(|error| (StopReason::Load, error))?;
        call(&mut *store, &instance).await.map_err(|error| (StopReason::Trap, error))
    };
    let ended = tokio::time::timeout(bounds.wall, metered(work, bounds.cpu)).await;
    match ended {
        Ok(Some(Ok(value))) => Ok(value),
        Ok(Some(Err((otherwise, error)))) => Err(stop(otherwise, &error, store.data())),
        Ok(None) => Err(Stop::new(StopReason::Cpu, format!("used more than {:?} of CPU time", bounds.cpu))),
        Err(_) => Err(Stop::new(StopReason::Timeout, format!("took longer than {:?}", bounds.wall))),
    }
}

/// Runs `work` as a task of its own: a panic in it is the end of that run alone. Dropped, the task goes with it.
pub(crate) async fn contained<T: Send + 'static>(
    work: impl Future<Output = Result<T, Stop>> + Send + 'static,
) -> Result<T, Stop> {
    let mut task = JoinSet::new();
    task.spawn(work);
    match task.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(fault)) => Err(Stop::new(StopReason::Host, clean(&fault.to_string(), SHORT))),
        None => Err(Stop::new(StopReason::Host, "the run was lost")),
    }
}

/// Runs `work` until it has used `budget` of this thread's CPU time; `None` if it wants more. Time in which it waits,
/// or in which the machine does something else, does not count. It must give way now and then: guests do at every tick.
async fn metered<T>(work: impl Future<Output = T>, budget: Duration) -> Option<T> {
    let mut work = pin!(work);
    let mut used = Duration::ZERO;
    poll_fn(|context| {
        let before = thread_time();
        let polled = work.as_mut().poll(context);
        used += thread_time().saturating_sub(before);
        match polled {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if used > budget => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The name of what went wrong. What the host itself refused comes first: a guest whose memory was refused traps a
/// little later, of its own doing.
fn stop(otherwise: StopReason, error: &wasmtime::Error, state: &State) -> Stop {
    let root = clean(&state.authority.secrets.scrub(&error.root_cause().to_string()), SHORT);
    if let Some(overrun) = error.downcast_ref::<Overrun>() {
        return Stop::new(StopReason::Limit, overrun.to_string());
    }
    if let Some(refusal) = state.limiter.refusal() {
        return Stop::new(StopReason::Memory, refusal);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => return Stop::new(StopReason::Stack, "ran out of stack"),
        Some(_) => return Stop::new(otherwise, with_stderr(root, state)),
        None => {}
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Stop::new(StopReason::Trap, with_stderr(format!("exited with code {code}"), state));
    }
    if matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full)) {
        return Stop::new(StopReason::Limit, "holds too many of the host's resources");
    }
    // wasmtime has no types for these.
    let says = |words: &str| root.contains(words);
    if says("fuel allocated for hostcalls") || says("handle limit exceeded") || says("exceeds limit") {
        return Stop::new(StopReason::Limit, root);
    }
    if says("resource limit exceeded") || says("exceeds memory limits") || says("exceeds table limits") {
        return Stop::new(StopReason::Memory, root);
    }
    Stop::new(otherwise, with_stderr(root, state))
}

/// A panic's message, a traceback: what a guest's author wants to see.
fn with_stderr(root: String, state: &State) -> String {
    match clean(&state.stderr.text(&state.authority.secrets), SHORT).as_str() {
        "" => root,
        tail => format!("{root}; stderr: {tail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_in_the_host_is_the_end_of_that_run_alone() {
        let end = contained::<()>(async { panic!("for the test") }).await.unwrap_err();
        assert_eq!(end.reason, StopReason::Host);
        assert!(end.text.contains("for the test"), "{}", end.text);
    }

    #[tokio::test]
    async fn only_cpu_time_is_metered() {
        let spin = async {
            loop {
                std::hint::black_box(std::iter::repeat_n(1u64, 10_000).sum::<u64>());
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(metered::<()>(spin, Duration::from_millis(5)).await, None);
        let wait = tokio::time::sleep(Duration::from_millis(20));
        assert_eq!(metered(wait, Duration::from_millis(10)).await, Some(()));
    }
}
