//! How tests wait: for an event, or by looking again and again where nothing tells of it, and never for longer than a
//! ceiling that is far above what anything takes. Who gives up says what was waited for.
//!
//! Test programs include it as a module; it knows none of them. What is measured is not waited for with this.
#![allow(dead_code, reason = "each program that includes it uses its own part")]

use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything is waited for. Most things take a moment, the death of a node some seconds.
pub(crate) const CEILING: Duration = Duration::from_secs(60);
/// Between two looks: what they look at may cost a connection or a file, and changes within moments.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits for `what`; where it does not happen the test ends, with what is `known` by then.
pub(crate) async fn until<T>(what: &str, known: impl Fn() -> String, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(CEILING, happens).await {
        Ok(value) => value,
        Err(_) => panic!("not within {CEILING:?}: {what}{}", known()),
    }
}

/// Looks until there is something; under [`until`], for it has no end of its own.
pub(crate) async fn found<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks until `done`, on a thread without a runtime.
pub(crate) fn until_done(ceiling: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < ceiling, "not within {ceiling:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}
