//! What the checks of an application lead to.

use picored_core::status::Status;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::site::Site;
use crate::website::{Answer, Website};

#[tokio::test]
async fn an_application_that_accepts_and_hangs_goes_down_within_fall_checks() {
    const FALL: usize = 3;
    let site = Site::new();
    // Good at first, then it hangs for as many checks as may be needed and not one more.
    let hangs = 2..2 + FALL;
    let website = Website::start(move |n| if hangs.contains(&n) { Answer::Never } else { Answer::Good }).await;
    let more = format!("interval = \"200ms\"\ntimeout = \"1s\"\nrise = 2\nfall = {FALL}");
    let node = site.start(&site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", &more));
    let verdicts = node.logs("up, down and up", 3, |line| line["target"] == "picored::health").await;
    let states: Vec<_> = verdicts.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["up", "down", "up"]);
    assert_eq!(verdicts[1]["reason"], Value::from("timed out after 1s waiting for the response"));
    assert_eq!(website.swallowed(), FALL);
}

#[tokio::test]
async fn applications_of_one_node_go_down_and_return_each_by_itself() {
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    // A database and a mail server: all that is looked at is whether a connection is taken.
    let database = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mail = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (database_at, mail_at) = (database.local_addr().unwrap(), mail.local_addr().unwrap());
    let quick = "interval = \"200ms\"\ntimeout = \"5s\"\nrise = 1\nfall = 2";
    let owner = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", quick);
    let owner = owner.tcp_app("db", database_at, quick).tcp_app("mail", mail_at, quick);
    let owner = site.start(&owner);
    let peer = site.start(&site.setup("n2", "127.0.0.1:0").seed(owner.address().await));

    // The peer holds what the owner says of each.
    let states = |expected: [(&'static str, &'static str); 3]| {
        move |status: &Status| {
            let owner = status.members.iter().find(|member| member.name == "n1")?;
            let held: Vec<_> = owner.apps.iter().map(|app| (app.name.as_str(), app.state.as_str())).collect();
            (held == expected).then_some(())
        }
    };
    peer.shows("all up", states([("db", "up"), ("mail", "up"), ("www", "up")])).await;
    drop(database);
    peer.shows("db down", states([("db", "down"), ("mail", "up"), ("www", "up")])).await;
    drop(mail);
    peer.shows("mail down too", states([("db", "down"), ("mail", "down"), ("www", "up")])).await;
    let _database = TcpListener::bind(database_at).await.unwrap();
    peer.shows("db up again", states([("db", "up"), ("mail", "down"), ("www", "up")])).await;

    let verdicts = owner.logged(|line| line["target"] == "picored::health");
    let downs: Vec<_> = verdicts.iter().filter(|line| line["state"] == "down").collect();
    assert_eq!(downs.len(), 2, "{verdicts:?}");
    assert!(downs.iter().all(|line| line["reason"] == "connection refused"), "{downs:?}");
}
