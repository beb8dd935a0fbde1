//! Another config for a daemon that runs: by signal and by command, good, bad, and one that needs a restart.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use picored_core::status::{HandlerStatus, Status};
use rustix::process::Signal;
use serde_json::Value;

use crate::node::{Line, Node, has_ended, is, is_event};
use crate::site::{Setup, Site, fixture};
use crate::upgrade::{rollback, upgrade, version};
use crate::website::{Answer, Website};

const APP: &str = "interval = \"100ms\"\ntimeout = \"30s\"\nrise = 1\nfall = 1";

/// One node whose application is published as `address`, and a handler that tells what it was told.
fn told(site: &Site, website: &Website, address: &str, word: &str) -> Setup {
    let config = format!("[handler.config]\nword = \"{word}\"");
    site.setup("n1", "127.0.0.1:0").app(website, address, APP).handler("tell", &fixture("echo"), &config)
}

/// Waits for a run of `tell` that was told all of these.
async fn tells(node: &Node<'_>, words: &[&str]) {
    let is_told = |line: &Line| {
        let text = line["text"].as_str().unwrap_or_default();
        has_ended(line, "tell") && words.iter().all(|word| text.split(' ').any(|found| found == *word))
    };
    node.logs(&format!("a run that was told {words:?}"), 1, is_told).await;
}

fn published(status: &Status) -> Vec<String> {
    let apps = status.members.iter().filter(|member| member.name == status.node).flat_map(|member| &member.apps);
    apps.flat_map(|app| app.publish.iter().map(ToString::to_string)).collect()
}

fn is_reloaded(line: &Line) -> bool {
    is(line, "picored::config", "reloaded")
}

fn is_refused(line: &Line) -> bool {
    is(line, "picored::config", "not reloaded: the config in force stays")
}

fn names(status: &Status) -> Vec<&str> {
    status.handlers.iter().map(|handler: &HandlerStatus| handler.name.as_str()).collect()
}

#[tokio::test]
async fn a_changed_config_is_taken_in_by_signal_and_by_command() {
    let site = Site::new();
    let (good, bad) = (Website::start(|_| Answer::Good).await, Website::start(|_| Answer::Bad).await);
    let node = site.start(&told(&site, &good, "192.0.2.1", "one"));
    tells(&node, &["config.word=one", &format!("cluster.www.endpoint=n1@192.0.2.1#{}", good.address().port())]).await;

    site.write(&told(&site, &good, "192.0.2.9", "two"));
    let plan = "app www: changed publish\nhandler tell: changed config.word\n";
    let tried = node.reload(&["--dry-run"]).await;
    assert_eq!(tried, (Some(0), format!("{plan}nothing was applied\n"), String::new()));
    assert_eq!(published(&node.status().await), ["192.0.2.1"]);
    node.signal(Signal::HUP);
    tells(&node, &["config.word=two", &format!("cluster.www.endpoint=n1@192.0.2.9#{}", good.address().port())]).await;
    let lines = node.logs("the reload", 1, is_reloaded).await;
    assert_eq!(lines[0]["changes"], 2);
    let changed = node.logged(|line| is(line, "picored::config", "changed"));
    let keys: Vec<_> = changed.iter().map(|line| (line["what"].as_str(), line["keys"].as_str())).collect();
    assert_eq!(keys, [(Some("app"), Some("publish")), (Some("handler"), Some("config.word"))]);
    assert_eq!(node.reload(&[]).await, (Some(0), "nothing has changed\n".into(), String::new()));

    // Another check has another opinion.
    site.write(&told(&site, &bad, "192.0.2.9", "two"));
    let done = node.reload(&[]).await;
    assert_eq!(done, (Some(0), "app www: changed check\napplied\n".into(), String::new()));
    node.logs("that it is down", 1, |line| line["target"] == "picored::health" && line["state"] == "down").await;

    // What is gone is gone, what is new runs.
    site.write(&site.setup("n1", "127.0.0.1:0").handler("new", &fixture("ok"), ""));
    let (code, json, _) = node.reload(&["--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["applied"], &json["restart"]), (Some(0), &Value::Bool(true), &Value::Array(vec![])));
    let changes = json["changes"].as_array().unwrap();
    let changes: Vec<_> =
        changes.iter().map(|it| [&it["what"], &it["name"], &it["change"]].map(|it| it.as_str())).collect();
    let some = |words: [&'static str; 3]| words.map(Some);
    assert_eq!(
        changes,
        [["app", "www", "removed"], ["handler", "new", "added"], ["handler", "tell", "removed"]].map(some)
    );
    node.shows_handler("new", "a run", |shown| shown.state == "ready" && shown.outcomes.contains_key("done")).await;
    let status = node.status().await;
    assert_eq!((names(&status), published(&status)), (vec!["new"], vec![]));
    node.signal(Signal::TERM);
    assert_eq!(node.end().await.status.code(), Some(0));
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing_and_says_why() {
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    let node = site.start(&told(&site, &website, "192.0.2.1", "one"));
    tells(&node, &["config.word=one"]).await;
    let broken = site.path("broken.wasm");
    fs::write(&broken, "#!/bin/sh\n").unwrap();
    let file = site.path("n1.toml");

    fs::write(&file, "[node]\nname = \"n1\nstate_dir = 7\n").unwrap();
    node.signal(Signal::HUP);
    let lines = node.logs("that it was refused", 1, is_refused).await;
    assert!(lines[0]["reason"].as_str().unwrap().contains("line 2, column"), "{}", lines[0]);
    for flags in [&["--dry-run"][..], &[]] {
        let (code, said, complaint) = node.reload(flags).await;
        assert_eq!((code, said.as_str()), (Some(1), ""));
        assert!(complaint.contains("\nline 2, column") && complaint.contains("\nhelp: "), "{complaint}");
    }

    let other = told(&site, &website, "192.0.2.9", "two");
    site.write(&other.clone().handler("new", &fixture("ok"), "").handler("broken", &broken, ""));
    for flags in [&["--dry-run"][..], &[]] {
        let (code, _, complaint) = node.reload(flags).await;
        assert_eq!(code, Some(1));
        assert!(complaint.contains("handler broken: ") && complaint.contains("it is not WebAssembly"), "{complaint}");
    }
    let status = node.status().await;
    assert_eq!((names(&status), published(&status)), (vec!["tell"], vec!["192.0.2.1".to_owned()]));

    fs::remove_file(&file).unwrap();
    let (code, _, complaint) = node.reload(&[]).await;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("n1.toml") && complaint.contains("No such file"), "{complaint}");
    assert_eq!(node.logged(is_reloaded).len(), 0);

    site.write(&other);
    node.signal(Signal::HUP);
    tells(&node, &["config.word=two"]).await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_nothing_of_the_rest_is_applied() {
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    let node = site.start(&told(&site, &website, "192.0.2.1", "one"));
    tells(&node, &["config.word=one"]).await;
    let mut other = told(&site, &website, "192.0.2.9", "two");
    (other.bind, other.state_dir) = ("127.0.0.2:0".into(), site.path("elsewhere"));
    site.write(&other);

    let (code, said, complaint) = node.reload(&["--dry-run"]).await;
    assert_eq!((code, said.lines().next()), (Some(1), Some("needs a restart: node.bind, node.state_dir")));
    assert!(said.contains("app www: changed publish\n"), "{said}");
    assert!(complaint.contains("restart the node, or take back node.bind, node.state_dir"), "{complaint}");
    let (code, said, complaint) = node.reload(&[]).await;
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(
        complaint.contains("nothing was changed") && complaint.contains("node.bind, node.state_dir"),
        "{complaint}"
    );
    node.signal(Signal::HUP);
    let lines = node.logs("both refusals", 2, is_refused).await;
    assert!(lines.iter().all(|line| line["reason"].as_str().unwrap().contains("node.bind, node.state_dir")));
    assert_eq!(published(&node.status().await), ["192.0.2.1"]);
    assert_eq!(
        node.logged(|line| has_ended(line, "tell") && line["text"].as_str().unwrap().contains("word=two")),
        [Value::Null; 0]
    );
}

#[tokio::test]
async fn another_component_in_the_same_file_is_a_change() {
    let site = Site::new();
    let file = site.path("handler.wasm");
    fs::copy(fixture("ok"), &file).unwrap();
    let website = Website::start(|_| Answer::Good).await;
    let setup = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", APP);
    let node = site.start(&setup.handler("tell", &file, "[handler.config]\nword = \"one\""));
    node.shows_handler("tell", "a run", |shown| shown.outcomes.contains_key("done")).await;
    fs::copy(fixture("echo"), &file).unwrap();
    let done = node.reload(&[]).await;
    assert_eq!(done, (Some(0), "handler tell: changed component\napplied\n".into(), String::new()));
    tells(&node, &["config.word=one"]).await;
    assert_eq!(node.reload(&["--dry-run"]).await.1, "nothing has changed\n");
}

#[tokio::test]
async fn a_storm_of_signals_does_no_harm_and_the_last_file_counts() {
    const ROUNDS: usize = 20;
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    let other = site.start(&site.setup("n2", "127.0.0.1:0"));
    let setup = |round: usize| {
        let setup = told(&site, &website, &format!("192.0.2.{round}"), &format!("round{round}"));
        // A handler that comes and goes.
        if round.is_multiple_of(2) { setup } else { setup.handler("odd", &fixture("ok"), "") }
    };
    let seed = other.address().await;
    let node = site.start(&setup(1).seed(seed));
    node.sees(&["n1", "n2"]).await;
    tells(&node, &["config.word=round1"]).await;
    for round in 2..=ROUNDS {
        site.write(&setup(round).seed(seed));
        node.signal(Signal::HUP);
    }
    tells(&node, &[&format!("config.word=round{ROUNDS}")]).await;
    let last = format!("192.0.2.{ROUNDS}");
    let sees_last = |status: &Status| {
        let n1 = status.members.iter().find(|member| member.name == "n1")?;
        let publish = n1.apps.first()?.publish.first()?.to_string();
        (publish == last && n1.state == "alive").then_some(())
    };
    other.shows("the last address", sees_last).await;
    node.shows_handler("tell", "nothing left to do", |shown| shown.pending == 0).await;
    assert_eq!(names(&node.status().await), ["tell"]);
    assert!(other.logged(|line| is_event(line, "member-down", "n1")).is_empty(), "{}", site.last_lines());
    assert!(node.logged(is_refused).is_empty(), "{}", site.last_lines());

    // Every delivery that started came to one last outcome.
    node.signal(Signal::TERM);
    let ended = node.end().await;
    assert_eq!(ended.status.code(), Some(0));
    let mut open: BTreeMap<&str, i32> = BTreeMap::new();
    for line in ended.lines.iter().filter(|line| line["target"] == "picored::delivery") {
        let change = if line["message"] == "started" { 1 } else { -i32::from(line["ended_as"] != Value::Null) };
        *open.entry(line["delivery"].as_str().unwrap()).or_default() += change;
    }
    assert!(open.len() > 1 && open.values().all(|count| *count == 0), "{open:?}");
}

#[tokio::test]
async fn what_was_installed_stays_under_another_config_and_goes_with_its_source() {
    let site = Site::new();
    let (file, installed) = (site.path("handler.wasm"), fs::read(fixture("echo")).unwrap());
    fs::copy(fixture("ok"), &file).unwrap();
    let website = Website::start(|_| Answer::Good).await;
    let setup = |word: &str, source: &Path| {
        let config = format!("[handler.config]\nword = \"{word}\"");
        site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", APP).handler("tell", source, &config)
    };
    let node = site.start(&setup("one", &file));
    node.shows_handler("tell", "a run", |shown| shown.outcomes.contains_key("done")).await;
    upgrade(&node, "tell", installed.clone()).await.unwrap();
    tells(&node, &["config.word=one"]).await;

    site.write(&setup("two", &file));
    assert_eq!(node.reload(&[]).await.1, "handler tell: changed config.word\napplied\n");
    tells(&node, &["config.word=two"]).await;
    let is_installed = |shown: &HandlerStatus| shown.version.as_ref() == Some(&version(&installed));
    node.shows_handler("tell", "the installed version", is_installed).await;
    // What ran under the config before does not come back with it.
    rollback(&node, "tell").await.unwrap();
    let is_source = |shown: &HandlerStatus| !is_installed(shown) && shown.state == "ready";
    node.shows_handler("tell", "the source's version", is_source).await;
    upgrade(&node, "tell", installed.clone()).await.unwrap();

    let other = site.path("other.wasm");
    fs::copy(fixture("state"), &other).unwrap();
    site.write(&setup("two", &other));
    assert_eq!(node.reload(&[]).await.1, "handler tell: changed source\napplied\n");
    let is_other = |shown: &HandlerStatus| shown.version.as_ref() == Some(&version(&fs::read(&other).unwrap()));
    node.shows_handler("tell", "the other source's version", is_other).await;
    node.signal(Signal::TERM);
    assert_eq!(node.end().await.status.code(), Some(0));
}

#[tokio::test]
async fn secrets_come_with_the_config_that_uses_them() {
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    let node = site.start(&told(&site, &website, "192.0.2.1", "one"));
    tells(&node, &["config.word=one"]).await;
    let key = site.path("api.key");
    let grant = format!(
        "[[handler.http]]\nallow = \"http://{0}\"\nallow_private = [\"127.0.0.1/32\"]\nauth = {{ scheme = \"bearer\", \
         secret = \"key\" }}\n[handler.config]\nurl = \"http://{0}/health\"\n[secrets]\nkey = {{ file = {key:?} }}",
        website.address()
    );
    site.write(&told(&site, &website, "192.0.2.1", "one").handler("ask", &fixture("fetch"), &grant));
    let (code, _, complaint) = node.reload(&[]).await;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("api.key"), "{complaint}");
    assert_eq!(names(&node.status().await), ["tell"]);

    picored::store::create_key_file(&key, &[9; 32]).unwrap();
    let done = node.reload(&[]).await;
    assert_eq!(done, (Some(0), "handler ask: added\nsecret key: added\napplied\n".into(), String::new()));
    let is_answered =
        |shown: &HandlerStatus| shown.last.as_ref().is_some_and(|last| last.text.starts_with("status 200"));
    node.shows_handler("ask", "a run whose request went out", is_answered).await;
}
