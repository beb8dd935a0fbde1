//! Guests that take what they were not given. Each ends with its named reason, and other work goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use picored::handler::{Limits, Loaded};
use picored_core::event::{RunEnd, StopReason};

use crate::support::{configured, done, fixture, handler, host, run, run_fixture};
use crate::wait::{found, until};

/// A runtime like the daemon's: one thread for everything.
macro_rules! one_thread {
    ($(async fn $name:ident() $body:block)*) => {
        $(#[tokio::test(flavor = "current_thread")]
        async fn $name() $body)*
    };
}

/// Runs it beside a task that wakes every millisecond, and counts how often it got to.
async fn beside(loaded: &Arc<Loaded>) -> (RunEnd, u64) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    let other = tokio::spawn(async move {
        let mut interval = tokio::time::interval(Duration::from_millis(1));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let end = run(loaded).await;
    other.abort();
    (end, count.load(Ordering::Relaxed))
}

#[track_caller]
fn stopped(end: &RunEnd, wanted: StopReason, words: &str) {
    match end {
        RunEnd::Stopped(reason, text) => {
            assert_eq!(*reason, wanted, "{text}");
            assert!(text.contains(words), "{text:?} should speak of {words:?}");
        }
        other => panic!("should have been stopped for {wanted}: {other:?}"),
    }
}

/// Little CPU time, so that the tests do not wait long.
fn short() -> Limits {
    Limits { cpu: Duration::from_millis(300), ..Limits::default() }
}

one_thread! {
    async fn an_endless_loop_ends_at_its_cpu_time() {
        let loaded = host(short()).load(&handler(fixture("spin"))).await.unwrap();
        let (end, other) = beside(&loaded).await;
        stopped(&end, StopReason::Cpu, "300ms of CPU time");
        assert!(other >= 10, "other work ran {other} times");
    }

    async fn an_endless_loop_ends_at_its_deadline_too() {
        let limited = picored_core::config::Handler {
            timeout: Duration::from_millis(100),
            ..handler(fixture("spin"))
        };
        let loaded = host(Limits { cpu: Duration::from_secs(60), ..Limits::default() }).load(&limited).await.unwrap();
        let (end, other) = beside(&loaded).await;
        stopped(&end, StopReason::Timeout, "100ms");
        assert!(other >= 3, "other work ran {other} times");
    }

    async fn a_guest_that_sleeps_ends_at_its_deadline_and_uses_no_cpu_time() {
        let limited = picored_core::config::Handler {
            timeout: Duration::from_millis(500),
            ..handler(fixture("sleep"))
        };
        let loaded = host(short()).load(&limited).await.unwrap();
        let (end, other) = beside(&loaded).await;
        stopped(&end, StopReason::Timeout, "500ms");
        assert!(other >= 10, "other work ran {other} times");
    }

    async fn a_guest_that_asks_the_host_over_and_over_pays_with_cpu_time() {
        let loaded = host(short()).load(&configured("sleep", &[("how", "poll")], vec![])).await.unwrap();
        let (end, other) = beside(&loaded).await;
        stopped(&end, StopReason::Cpu, "CPU time");
        assert!(other >= 10, "other work ran {other} times");
    }

    async fn memory_is_bounded() {
        let loaded = host(Limits::default()).load(&handler(fixture("bomb-memory"))).await.unwrap();
        stopped(&beside(&loaded).await.0, StopReason::Memory, "bytes of memory; the limit is 67108864");
    }

    async fn tables_are_bounded() {
        let loaded = host(Limits::default()).load(&handler(fixture("bomb-table"))).await.unwrap();
        stopped(&beside(&loaded).await.0, StopReason::Memory, "table");
    }

    async fn deep_recursion_runs_out_of_stack() {
        stopped(&run_fixture("recurse", &[], vec![], Limits::default()).await, StopReason::Stack, "stack");
    }

    async fn handles_are_bounded() {
        stopped(&run_fixture("bomb-handles", &[], vec![], Limits::default()).await, StopReason::Limit, "");
        let few = Limits { component_handles: 100, ..Limits::default() };
        stopped(&run_fixture("bomb-handles", &[], vec![], few).await, StopReason::Limit, "handle limit");
        let few = Limits { resources: 100, ..Limits::default() };
        stopped(&run_fixture("bomb-handles", &[], vec![], few).await, StopReason::Limit, "resources");
    }

    async fn what_one_call_hands_over_is_bounded() {
        for to in ["log", "url", "body", "headers", "key", "value", "text", "attributes", "reason"] {
            let end = run_fixture("bomb-string", &[("to", to)], vec![], Limits::default()).await;
            stopped(&end, StopReason::Limit, "hostcall");
        }
    }

    async fn a_long_text_within_the_bounds_is_cut() {
        let end = run_fixture("bomb-string", &[("to", "text"), ("bytes", "100000")], vec![], Limits::default()).await;
        let text = done(end);
        assert!(text.len() < 2000 && text.ends_with('…'), "{}", text.len());
    }

    async fn a_flood_of_log_lines_ends_the_run() {
        let loaded = host(Limits::default()).load(&handler(fixture("flood-log"))).await.unwrap();
        stopped(&beside(&loaded).await.0, StopReason::Limit, "log text than the 65536");
        let little = &[("lines", "10"), ("bytes", "100")];
        assert_eq!(done(run_fixture("flood-log", little, vec![], Limits::default()).await), "logged 10 lines");
    }

    async fn a_flood_of_keys_ends_the_run_and_leaves_nothing() {
        let flood = configured("flood-keyvalue", &[("bytes", "0")], vec![]);
        let loaded = host(Limits::default()).load(&flood).await.unwrap();
        for _ in 0..2 {
            stopped(&run(&loaded).await, StopReason::Limit, "key-value bytes than the 65536");
        }
        let little = &[("keys", "3"), ("bytes", "100")];
        assert_eq!(done(run_fixture("flood-keyvalue", little, vec![], Limits::default()).await), "wrote 3 keys");
    }

    async fn a_trap_comes_with_what_the_guest_said_last() {
        let end = run_fixture("trap", &[], vec![], Limits::default()).await;
        stopped(&end, StopReason::Trap, "unreachable");
        stopped(&end, StopReason::Trap, "told to trap by event-1");
    }

    async fn after_a_hostile_run_the_next_one_works() {
        let host = host(short());
        let good = host.load(&handler(fixture("ok"))).await.unwrap();
        for name in ["spin", "bomb-memory", "recurse", "trap"] {
            let bad = host.load(&handler(fixture(name))).await.unwrap();
            let (bad, good) = tokio::join!(run(&bad), run(&good));
            assert!(matches!(bad, RunEnd::Stopped(..)), "{name}: {bad:?}");
            assert_eq!(done(good), "done");
        }
    }

    async fn a_run_that_is_dropped_is_over() {
        let loaded = host(Limits { cpu: Duration::from_secs(60), ..Limits::default() });
        let loaded = loaded.load(&handler(fixture("spin"))).await.unwrap();
        let dropped = tokio::time::timeout(Duration::from_millis(50), run(&loaded)).await;
        assert!(dropped.is_err());
        // Its hold on the code goes with it.
        let freed = found(async || (!loaded.is_mapped()).then_some(()));
        until("a dropped run lets go of the code", String::new, freed).await;
    }
}
