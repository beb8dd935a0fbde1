//! What the checks of an application lead to.

use std::fs;
use std::path::{Path, PathBuf};

use picored_core::status::Status;
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::site::Site;
use crate::wait::found;
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

/// Waits for the id of a process that is written into `file`, and takes that away.
async fn process(site: &Site, file: &Path) -> PathBuf {
    let read = async || fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'));
    let pid = site.until("a command runs", found(read)).await;
    fs::remove_file(file).unwrap();
    Path::new("/proc").join(pid.trim())
}

#[tokio::test]
async fn a_command_decides_and_goes_with_its_check() {
    let site = Site::new();
    let (flag, pid) = (site.path("flag"), site.path("pid"));
    fs::write(&flag, "").unwrap();
    let script = format!("test -e '{}' && exit 0; echo the flag is gone; exit 2", flag.display());
    let quick = "interval = \"100ms\"\ntimeout = \"30s\"\nrise = 1\nfall = 2";
    let checked = |script: &str| {
        let setup = site.setup("n1", "127.0.0.1:0");
        setup.app_checked(&format!("{{ exec = [\"/bin/sh\", \"-c\", \"{script}\"] }}"), quick)
    };
    let node = site.start(&checked(&script));
    node.logs("up", 1, |line| line["target"] == "picored::health" && line["state"] == "up").await;
    fs::remove_file(&flag).unwrap();
    let down = node.logs("down", 1, |line| line["target"] == "picored::health" && line["state"] == "down").await;
    assert_eq!(down[0]["reason"], "exited with 2: the flag is gone");

    // One that runs is killed when its check goes, and when the daemon does.
    let hangs = checked(&format!("echo $$ > '{}'; exec sleep 1000", pid.display()));
    site.write(&hangs);
    assert_eq!(node.reload(&[]).await.0, Some(0));
    let running = process(&site, &pid).await;
    site.write(&site.setup("n1", "127.0.0.1:0"));
    assert_eq!(node.reload(&[]).await.0, Some(0));
    let gone = async || (!running.exists()).then_some(());
    site.until("it is killed and reaped", found(gone)).await;
    let children = format!("/proc/{0}/task/{0}/children", node.pid());
    assert_eq!(fs::read_to_string(children).unwrap_or_default(), "", "none is left, dead or alive");

    site.write(&hangs);
    assert_eq!(node.reload(&[]).await.0, Some(0));
    let running = process(&site, &pid).await;
    node.signal(Signal::TERM);
    assert!(node.end().await.status.success());
    // Who reaps it now is the system's business.
    let killed = async || {
        let stat = fs::read_to_string(running.join("stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    };
    site.until("it is killed", found(killed)).await;
}

#[tokio::test]
async fn an_application_that_beats_is_up_and_says_itself_when_it_fails() {
    let site = Site::new();
    let node = site.start(&site.setup("n1", "127.0.0.1:0").app_checked("{ ttl = \"1s\" }", ""));
    let is = |wanted: &'static str| move |status: &Status| (status.members[0].apps[0].state == wanted).then_some(());
    let late = node.logs("that it is late", 1, |line| line["target"] == "picored::health").await;
    assert_eq!((&late[0]["state"], &late[0]["reason"]), (&Value::from("down"), &Value::from("no beat within 1s")));
    // From here on nobody is late, however slow the machine is.
    site.write(&site.setup("n1", "127.0.0.1:0").app_checked("{ ttl = \"10m\" }", ""));
    assert_eq!(node.reload(&[]).await.0, Some(0));
    let silent = (Some(0), String::new(), String::new());
    assert_eq!(node.told(&["beat", "www"]).await, silent);
    node.logs("up", 1, |line| line["target"] == "picored::health" && line["state"] == "up").await;
    let (code, text, _) = node.told(&["beat", "www", "--fail", "--reason", "a b&\u{1b}c", "--json"]).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, answer), (Some(0), serde_json::json!({ "app": "www", "state": "down" })));
    node.shows("www down", is("down")).await;
    let told = |line: &crate::node::Line| line["reason"].as_str().is_some_and(|reason| reason.starts_with("a b&"));
    let failed = node.logs("why", 1, told).await;
    assert!(!failed[0]["reason"].as_str().unwrap().contains('\u{1b}'), "{failed:?}");

    let (code, _, error) = node.told(&["beat", "shop"]).await;
    assert!(code == Some(1) && error.ends_with("(404): this node has no application shop; it has www\n"), "{error}");
    let asked = "{ tcp = \"127.0.0.1:1\" }";
    site.write(&site.setup("n1", "127.0.0.1:0").app_checked(asked, ""));
    assert_eq!(node.reload(&[]).await.0, Some(0));
    let (code, _, error) = node.told(&["beat", "www"]).await;
    let refusal = "(409): this node checks www itself: beats count where the config has check = { ttl = \"30s\" }\n";
    assert!(code == Some(1) && error.ends_with(refusal), "{error}");
}
