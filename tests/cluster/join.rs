//! Nodes find each other, whatever the family of their addresses and however the seed is written.

use serde_json::Value;

use crate::node::Node;
use crate::site::Site;
use crate::website::{Answer, Website};

async fn join_three(ips: [&str; 3]) {
    let site = Site::new();
    let first = site.start(&site.setup("n1", ips[0]));
    let seed = first.address().await;
    let others = [("n2", ips[1]), ("n3", ips[2])];
    let others = others.map(|(name, bind)| site.start(&site.setup(name, bind).seed(seed)));
    let nodes: Vec<&Node<'_>> = std::iter::once(&first).chain(&others).collect();
    for node in &nodes {
        let members = node.sees(&["n1", "n2", "n3"]).await;
        for (member, node) in members.iter().zip(&nodes) {
            assert_eq!(member.address, node.address().await.to_string());
            assert_eq!(member.generation, node.generation().await);
        }
    }
    for node in others {
        node.joined().await;
    }
}

#[tokio::test]
async fn three_nodes_join_over_ipv4() {
    join_three(["127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0"]).await;
}

#[tokio::test]
async fn three_nodes_join_over_ipv6() {
    join_three(["[::1]:0"; 3]).await;
}

#[tokio::test]
async fn a_seed_may_be_a_name() {
    let site = Site::new();
    let first = site.start(&site.setup("n1", "127.0.0.1:0"));
    let seed = format!("localhost:{}", first.address().await.port());
    let second = site.start(&site.setup("n2", "127.0.0.1:0").seed(seed));
    for node in [&first, &second] {
        node.sees(&["n1", "n2"]).await;
    }
}

#[tokio::test]
async fn without_a_key_loopback_is_enough() {
    let site = Site::new();
    let without_key = |name| {
        let mut setup = site.setup(name, "127.0.0.1:0");
        setup.key = None;
        setup
    };
    let first = site.start(&without_key("n1"));
    let second = site.start(&without_key("n2").seed(first.address().await));
    for node in [&first, &second] {
        node.sees(&["n1", "n2"]).await;
    }
}

#[tokio::test]
async fn who_has_joined_knows_what_runs_where() {
    const APP: &str = "interval = \"100ms\"\ntimeout = \"10s\"\nrise = 1";
    let site = Site::new();
    let [good, bad] = [Website::start(|_| Answer::Good).await, Website::start(|_| Answer::Bad).await];
    let first = site.start(&site.setup("n1", "127.0.0.1:0").app(&good, "192.0.2.1", APP));
    let seed = first.address().await;
    let second = site.start(&site.setup("n2", "127.0.0.1:0").seed(seed).app(&bad, "192.0.2.2", APP));
    for node in [&first, &second] {
        node.shows("both applications' states", |status| {
            let states: Vec<_> = status.members.iter().flat_map(|member| &member.apps).map(|app| &app.state).collect();
            (states == ["up", "down"]).then_some(())
        })
        .await;
    }

    let late = site.start(&site.setup("n3", "127.0.0.1:0").seed(seed));
    assert_eq!(late.joined().await["members"], 3);
    let status = late.status().await;
    assert_eq!(status.state, "joined");
    let known: Vec<_> = status
        .members
        .iter()
        .map(|member| {
            let apps: Vec<_> = member.apps.iter().map(|app| (app.state.as_str(), app.publish.clone())).collect();
            (member.name.as_str(), member.state.as_str(), apps)
        })
        .collect();
    let app = |state, address: &str| vec![(state, vec![address.parse().unwrap()])];
    let expected =
        [("n1", "alive", app("up", "192.0.2.1")), ("n2", "alive", app("down", "192.0.2.2")), ("n3", "alive", vec![])];
    assert_eq!(known, expected);

    // Nothing of it came after it had joined: that would have been an event. The first one is what happens now.
    second.signal(rustix::process::Signal::TERM);
    late.notices("member-left", "n2").await;
    let events = late.logged(|line| line["target"] == "picored::event");
    let told: Vec<_> = events.iter().map(|line| (&line["message"], &line["member"])).collect();
    assert_eq!(told, [(&Value::from("member-left"), &Value::from("n2"))]);
}
