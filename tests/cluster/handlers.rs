//! Handlers that are broken, greedy or stuck: the daemon names the fault, tries again, and everything else goes on.

use std::fs;
use std::sync::atomic::Ordering;

use picored_core::name::{HandlerName, NodeName};
use picored_core::plan;
use rustix::process::Signal;
use serde_json::Value;

use crate::node::{has_ended, is, is_event};
use crate::site::{Site, fixture};
use crate::website::{Answer, Website};

const APP: &str = "interval = \"100ms\"\ntimeout = \"30s\"\nrise = 1\nfall = 1";
const APP_EVENTS: &str = "on = [\"app-up\", \"app-down\"]";
/// An application that is up before its node has joined is no event; the node looks once when it joins.
const APP_EVENTS_OR_LOOK: &str = "on = [\"app-up\", \"app-down\", \"reconcile\"]";

/// The name of a second member that none of the runs about `www` falls to.
fn witness(runner: &str, handlers: &[&str]) -> String {
    let falls_to_runner = |name: &String, handler: &&str| {
        let members = [NodeName::new(runner).unwrap(), NodeName::new(name).unwrap()];
        plan::runner(&HandlerName::new(handler).unwrap(), "www", members.iter()) == Some(&members[0])
    };
    let mut names = (0..).map(|number| format!("witness{number}"));
    names.find(|name| handlers.iter().all(|handler| falls_to_runner(name, handler))).unwrap()
}

#[tokio::test]
async fn broken_handlers_are_named_and_tried_again_and_hurt_nobody() {
    let site = Site::new();
    let handlers = ["spin", "trap", "ok", "broken", "hollow", "absent"];
    let witness = witness("n1", &handlers);
    let other = site.start(&site.setup(&witness, "127.0.0.1:0"));
    let website = Website::start(|_| Answer::Good).await;
    let (broken, hollow) = (site.path("broken.wasm"), site.path("hollow.wasm"));
    fs::write(&broken, "#!/bin/sh\n").unwrap();
    // A component that exports nothing.
    fs::write(&hollow, b"\0asm\x0d\0\x01\0").unwrap();
    let setup = ["spin", "trap", "ok"].iter().fold(
        site.setup("n1", "127.0.0.1:0").seed(other.address().await).app(&website, "192.0.2.1", APP),
        |setup, name| setup.handler(name, &fixture(name), APP_EVENTS_OR_LOOK),
    );
    let setup = setup
        .handler("broken", &broken, APP_EVENTS_OR_LOOK)
        .handler("hollow", &hollow, APP_EVENTS_OR_LOOK)
        .handler("absent", &site.path("absent.wasm"), APP_EVENTS_OR_LOOK);
    let node = site.start(&setup);
    other.sees(&["n1", &witness]).await;

    for (handler, why) in [
        ("broken", "it is not WebAssembly"),
        ("hollow", "is no handler: it does not export picored:handler/guest@0.1.0; it exports nothing"),
        ("absent", "No such file"),
    ] {
        node.shows_handler(handler, why, |shown| shown.state.contains(why)).await;
    }
    let ended = [("broken", "load"), ("hollow", "load"), ("absent", "load"), ("spin", "cpu"), ("trap", "trap")];
    for (handler, reason) in ended {
        node.shows_handler(handler, reason, |shown| shown.last.as_ref().is_some_and(|last| last.outcome == reason))
            .await;
        let ends = node.logs("the end of a run", 1, |line| has_ended(line, handler)).await;
        let first = &ends[0];
        assert_eq!((&first["outcome"], &first["ended_as"]), (&Value::from("retry"), &Value::from(reason)));
        assert_eq!((&first["attempt"], &first["level"]), (&1.into(), &"WARN".into()));
        let again = |line: &_| is(line, "picored::delivery", "started") && line["handler"] == handler;
        let starts = node.logs("another try", 2, again).await;
        assert_eq!(
            (&starts[1]["attempt"], &starts[1]["delivery"]),
            (&2.into(), &starts[0]["delivery"]),
            "the same delivery again"
        );
    }
    node.shows_handler("ok", "done", |shown| shown.state == "ready" && shown.outcomes["done"] >= 1).await;

    fs::copy(fixture("ok"), &broken).unwrap();
    node.shows_handler("broken", "done", |shown| shown.state == "ready" && shown.outcomes.contains_key("done")).await;
    let ends = node.logs("the good end", 1, |line| has_ended(line, "broken") && line["ended_as"] == "done").await;
    assert!(ends[0]["attempt"].as_u64().unwrap() > 1, "{}", ends[0]);

    for (node, peer) in [(&node, witness.as_str()), (&other, "n1")] {
        node.sees(&["n1", &witness]).await;
        assert!(node.logged(|line| is_event(line, "member-down", peer)).is_empty(), "{}", site.last_lines());
    }
    node.signal(Signal::TERM);
    assert_eq!(node.end().await.status.code(), Some(0));
}

#[tokio::test]
async fn a_handler_that_hangs_holds_up_itself_alone() {
    let site = Site::new();
    let (website, switch) = Website::switched().await;
    let stuck = format!("{APP_EVENTS}\ntimeout = \"600s\"");
    let setup = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", APP);
    let setup = setup.handler("a-stuck", &fixture("sleep"), &stuck).handler("told", &fixture("ok"), APP_EVENTS);
    let node = site.start(&setup);
    node.joined().await;
    node.logs("that it is up", 1, |line| is(line, "picored::health", "checked") && line["state"] == "up").await;
    for round in 1..=4 {
        switch.store(round % 2 == 0, Ordering::SeqCst);
        node.logs("the end of a run", round, |line| has_ended(line, "told")).await;
        // The first one runs, and all that came after is one that waits.
        let pending = round.min(2);
        node.shows_handler("a-stuck", "waiting", |shown| shown.pending == pending).await;
    }
    let outcomes = node.logged(|line| has_ended(line, "a-stuck"));
    assert!(outcomes.iter().all(|line| line["outcome"] == "superseded"), "{outcomes:?}");
    let started = |line: &_| is(line, "picored::delivery", "started") && line["handler"] == "a-stuck";
    assert_eq!(node.logs("the start", 1, started).await.len(), 1);
    // Nor does it hold up the end.
    node.signal(Signal::TERM);
    assert_eq!(node.end().await.status.code(), Some(0));
}
