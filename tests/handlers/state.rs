//! What a guest is told and what it leaves: event, config, snapshot, key-value, failures, code that comes and goes.

use std::time::Duration;

use picored::handler::Limits;
use picored_core::event::RunEnd;

use crate::support::{configured, done, event, fixture, handler, host, run, snapshot};
use crate::wait::{found, until};

#[tokio::test]
async fn a_guest_sees_the_event_its_config_and_the_snapshot() {
    let handler = configured("echo", &[("zone", "example.org")], vec![]);
    let loaded = host(Limits::default()).load(&handler).await.unwrap();
    assert_eq!(loaded.description().name, "echo");
    let said = done(loaded.run(event(), 3, snapshot()).await);
    for part in [
        "event.id=event-1 event.kind=app-down event.app=web event.member=b",
        "event.time=2023-11-14T22:13:20.123Z event.attempt=3 event.payload= ",
        "config.zone=example.org",
        "cluster.node=a/alive/127.0.0.1/",
        "cluster.member=b/down/127.0.0.2/",
        "cluster.web.revision=r1 cluster.web.endpoint=a@192.0.2.1#80",
        "cluster.web.claimed=192.0.2.1 cluster.web.claimed=2001:db8::2",
        "cluster.none.refused=none has nothing to publish",
        "cluster.unknown=\"no such application\" is no application that this handler may see",
        "cluster.revision=s1",
    ] {
        assert!(said.contains(part), "{part:?} is missing in {said:?}");
    }
}

#[tokio::test]
async fn failures_come_back_as_they_are() {
    let failing = async |config: &[(&str, &str)]| {
        run(&host(Limits::default()).load(&configured("fail", config, vec![])).await.unwrap()).await
    };
    assert_eq!(failing(&[("failure", "retry")]).await, RunEnd::Retry("as told, at attempt 1".into()));
    assert_eq!(failing(&[("failure", "permanent")]).await, RunEnd::Permanent("as told, at attempt 1".into()));
    assert_eq!(
        failing(&[("failure", "retry-after"), ("milliseconds", "2500")]).await,
        RunEnd::RetryAfter(Duration::from_millis(2500), "as told, at attempt 1".into())
    );
}

#[tokio::test]
async fn state_outlives_a_run_that_worked_and_no_other() {
    let host = host(Limits::default());
    let loaded = host.load(&configured("state", &[], vec![])).await.unwrap();
    assert_eq!(done(run(&loaded).await), "run 1");
    assert_eq!(done(run(&loaded).await), "run 2");

    let failing = host.load(&configured("state", &[("fail", "after")], vec![])).await.unwrap();
    for _ in 0..2 {
        assert_eq!(run(&failing).await, RunEnd::Permanent("as told, after run 1".into()));
    }
}

#[tokio::test]
async fn code_is_mapped_on_use_and_dropped_when_quiet() {
    let host = host(Limits { quiet: Duration::from_millis(20), ..Limits::default() });
    let loaded = host.load(&handler(fixture("ok"))).await.unwrap();
    assert!(!loaded.is_mapped());
    for _ in 0..2 {
        assert_eq!(done(run(&loaded).await), "done");
        assert!(loaded.is_mapped(), "nothing has had the time to drop it");
        let dropped = found(async || (!loaded.is_mapped()).then_some(()));
        until("quiet code is dropped", String::new, dropped).await;
    }
}

#[tokio::test]
async fn many_runs_at_once_each_end_once() {
    let loaded = host(Limits::default()).load(&handler(fixture("ok"))).await.unwrap();
    let mut runs = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let loaded = loaded.clone();
        runs.spawn(async move { run(&loaded).await });
    }
    let ends = runs.join_all().await;
    assert_eq!(ends.into_iter().map(done).filter(|text| text == "done").count(), 50);
}
