//! Members die, return, restart and leave, and the others call each by its name.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use picored_core::status::{HandlerStatus, Status};
use rustix::process::Signal;

use crate::node::{Node, alive, is, is_event};
use crate::site::{Setup, Site, fixture};
use crate::website::Website;

/// Three nodes that see each other; n2 and n3 have n1 as seed.
async fn three<'s>(site: &'s Site, prepare: impl Fn(Setup) -> Setup) -> [Node<'s>; 3] {
    let first = site.start(&prepare(site.setup("n1", "127.0.0.1:0")));
    let seed = first.address().await;
    let [second, third] = ["n2", "n3"].map(|name| site.start(&prepare(site.setup(name, "127.0.0.1:0")).seed(seed)));
    for node in [&first, &second, &third] {
        node.sees(&["n1", "n2", "n3"]).await;
    }
    [first, second, third]
}

/// How many deliveries this handler ever had.
fn deliveries(handler: &HandlerStatus) -> u64 {
    handler.outcomes.values().sum::<u64>() + handler.pending as u64
}

#[tokio::test]
async fn a_killed_node_is_down_once_and_returns_as_itself() {
    let site = Site::new();
    let ok = fixture("ok");
    let with_handler = |setup: Setup| setup.handler("told", &ok, "on = [\"member-down\"]");
    let [first, second, third] = three(&site, with_handler).await;
    let (bind, generation, seed) = (third.address().await, third.generation().await, first.address().await);
    third.signal(Signal::KILL);
    third.end().await;
    for node in [&first, &second] {
        node.notices("member-down", "n3").await;
    }
    // Each of the two has decided by now whether the delivery is its own.
    let count = |status: &Status| {
        let known = status.members.iter().any(|member| member.name == "n3" && member.state == "down");
        known.then(|| deliveries(&status.handlers[0]))
    };
    let mut deliveries = 0;
    for node in [&first, &second] {
        deliveries += node.shows("n3 down", count).await;
    }
    assert_eq!(deliveries, 1, "{}", site.last_lines());
    let done = |status: &Status| status.handlers[0].outcomes.get("done").copied();
    let runner = tokio::select! {
        _ = first.shows("the delivery done", done) => &first,
        _ = second.shows("the delivery done", done) => &second,
    };
    let id = format!("member-down/n3/{generation}");
    let started = runner.logs("the start", 1, |line| is(line, "picored::delivery", "started")).await;
    assert_eq!((started.len(), &started[0]["event_id"], &started[0]["attempt"]), (1, &id.into(), &1.into()));

    let third = site.start(&with_handler(site.setup("n3", bind)).seed(seed));
    for node in [&first, &second, &third] {
        let members = node.sees(&["n1", "n2", "n3"]).await;
        assert!(members[2].generation > generation);
        assert_eq!(members[2].generation, third.generation().await);
        assert_eq!(members[2].address, bind.to_string());
    }
    for node in [&first, &second] {
        node.notices("member-up", "n3").await;
        assert_eq!(node.logged(|line| is_event(line, "member-down", "n3")).len(), 1);
    }
}

#[tokio::test]
async fn who_is_dead_counts_until_it_is_forgotten() {
    let site = Site::new();
    let [first, second, third] = three(&site, |setup| setup).await;
    third.signal(Signal::KILL);
    third.end().await;
    for node in [&first, &second] {
        node.notices("member-down", "n3").await;
        let counts = |status: &Status| (status.known_size == 3 && status.quorum).then_some(());
        node.shows("a majority of three", counts).await;
    }
    let forget = async |member: &'static str| first.told(&["forget", member]).await;
    let (code, _, error) = forget("n2").await;
    assert_eq!(code, Some(1));
    assert!(error.contains("n2 is alive: only a member that is down can be forgotten"), "{error}");
    assert_eq!(forget("n3").await, (Some(0), "n3 is forgotten\n".into(), String::new()));
    for node in [&first, &second] {
        let two = |status: &Status| {
            let has_left = status.members.iter().any(|member| member.name == "n3" && member.state == "left");
            (has_left && status.known_size == 2).then_some(())
        };
        node.shows("n3 left, and two known", two).await;
    }
}

#[tokio::test]
async fn maintenance_outlives_a_crash() {
    let (site, (website, _)) = (Site::new(), Website::switched().await);
    let setup = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", "interval = \"100ms\"\nrise = 1");
    let state_is = |wanted: &'static str| {
        move |status: &Status| (status.members.first()?.apps.first()?.state == wanted).then_some(())
    };
    let node = site.start(&setup);
    node.shows("www up", state_is("up")).await;
    let (code, _, error) = node.told(&["maintenance", "on", "shop"]).await;
    assert!(code == Some(1) && error.ends_with(": this node has no application shop; it has www\n"), "{error}");
    let (code, text, _) = node.told(&["maintenance", "on", "www"]).await;
    assert_eq!(code, Some(0));
    let kept = "www is in maintenance until `picored maintenance off`; it is up nowhere else, so its addresses stay published\n";
    assert_eq!(text, kept);
    node.signal(Signal::KILL);
    node.end().await;
    let node = site.start(&setup);
    node.shows("www in maintenance", state_is("maintenance")).await;
    let (code, text, _) = node.told(&["maintenance", "off"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "nothing is in maintenance\n"));
    node.shows("www up", state_is("up")).await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_and_a_quick_restart_do_no_harm() {
    let site = Site::new();
    let first = site.start(&site.setup("n1", "127.0.0.1:0"));
    let seed = first.address().await;
    // As after a life whose clock was a day ahead.
    let tomorrow = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 + 86_400_000;
    let mut setup = site.setup("n2", "127.0.0.1:0").seed(seed);
    fs::create_dir(&setup.state_dir).unwrap();
    fs::write(setup.state_dir.join("generation"), format!("{tomorrow}\n")).unwrap();

    first.joined().await;
    let second = site.start(&setup);
    first.sees(&["n1", "n2"]).await;
    let mut generation = second.generation().await;
    assert!(generation > tomorrow);
    setup.bind = second.address().await.to_string();
    second.signal(Signal::KILL);
    second.end().await;
    for _ in 0..2 {
        let second = site.start(&setup);
        let next = second.generation().await;
        assert!(next > generation);
        generation = next;
        let current = |status: &Status| (alive(status, "n2") == Some(next)).then_some(status.members.len());
        assert_eq!(first.shows("the new n2", current).await, 2);
        assert_eq!(second.sees(&["n1", "n2"]).await.len(), 2);
        second.signal(Signal::KILL);
        second.end().await;
    }
    // It was never gone for long enough to be missed, but now it is: the first and only such event.
    first.notices("member-down", "n2").await;
    assert_eq!(first.logged(|line| is_event(line, "member-down", "n2")).len(), 1);
    assert_eq!(first.logged(|line| is_event(line, "member-up", "n2")).len(), 1);
}

#[tokio::test]
async fn who_is_told_to_end_leaves() {
    let site = Site::new();
    let [first, second, third] = three(&site, |setup| setup).await;
    third.signal(Signal::TERM);
    let ended = third.end().await;
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
    assert!(is(ended.lines.last().unwrap(), "picored::node", "stopped"), "{:?}", ended.lines);
    assert!(!site.path("n3.sock").exists());
    for node in [&first, &second] {
        node.notices("member-left", "n3").await;
    }
    // Another one's death takes as long as n3's would have, so that would be known before.
    second.signal(Signal::KILL);
    let second = second.end().await;
    first.notices("member-down", "n2").await;
    for lines in [second.lines, first.logged(|_| true)] {
        assert!(!lines.iter().any(|line| is_event(line, "member-down", "n3")), "{}", site.last_lines());
        assert_eq!(lines.iter().filter(|line| is_event(line, "member-left", "n3")).count(), 1);
    }
    // Nobody is left to be told, and it still ends well; SIGINT does the same.
    first.signal(Signal::INT);
    assert_eq!(first.end().await.status.code(), Some(0));
}
