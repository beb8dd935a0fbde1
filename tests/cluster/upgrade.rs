//! Handlers are replaced while their daemon runs: by command, by their file, over restarts and in spite of crashes.

use std::fs;
use std::time::Duration;

use picored::admin::HandlerChange;
use picored::admin::client::{self, ClientError};
use picored_core::name::HandlerName;
use picored_core::status::HandlerStatus;
use ring::digest::{SHA256, digest};
use rustix::process::Signal;

use crate::node::{Node, is};
use crate::site::{Setup, Site, fixture};

/// So many letters has what the fixture `ok` says, and a mark that takes its place.
const MARK: usize = 4;

/// The fixture `ok`, which says `mark` where that one says `done`: a version that can be told by its runs.
pub(crate) fn marked(mark: &str) -> Vec<u8> {
    let mut bytes = fs::read(fixture("ok")).unwrap();
    let places: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"done")).collect();
    assert_eq!((places.len(), mark.len()), (1, MARK), "the one word that it says");
    bytes[places[0]..][..MARK].copy_from_slice(mark.as_bytes());
    bytes
}

/// Another version of a fixture, which does the same: with a section that nobody reads.
pub(crate) fn variant(name: &str, number: u32) -> Vec<u8> {
    let section = [&[0, 6, 1, b'n'], number.to_le_bytes().as_slice()].concat();
    [fs::read(fixture(name)).unwrap(), section].concat()
}

/// A component that exports all that a handler does under another name.
pub(crate) fn exporting_another() -> Vec<u8> {
    let (name, other) = (b"picored:handler/guest@", b"picored:handler/quest@");
    let mut bytes = fs::read(fixture("ok")).unwrap();
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(name) {
            bytes[at..at + other.len()].copy_from_slice(other);
        }
    }
    bytes
}

/// As versions are named.
pub(crate) fn version(component: &[u8]) -> String {
    digest(&SHA256, component).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) async fn upgrade(node: &Node<'_>, handler: &str, component: Vec<u8>) -> Result<HandlerChange, String> {
    refusal(client::upgrade(node.socket(), &HandlerName::new(handler).unwrap(), component).await)
}

pub(crate) async fn rollback(node: &Node<'_>, handler: &str) -> Result<HandlerChange, String> {
    refusal(client::rollback(node.socket(), &HandlerName::new(handler).unwrap()).await)
}

/// The status and the reason of what was refused.
fn refusal(done: Result<HandlerChange, ClientError>) -> Result<HandlerChange, String> {
    done.map_err(|error| match error {
        ClientError::Refused { status, text, .. } => format!("{status} {text}"),
        other => panic!("{other}"),
    })
}

/// A node alone with the handler `told` of this component in a file; `more` are further keys.
fn setup(site: &Site, component: &[u8], more: &str) -> Setup {
    let path = site.path("told.wasm");
    fs::write(&path, component).unwrap();
    site.setup("n1", "127.0.0.1:0").handler("told", &path, more)
}

/// Waits until the handler runs this component.
async fn runs(node: &Node<'_>, component: &[u8]) {
    let version = version(component);
    let is_it = |shown: &HandlerStatus| shown.state == "ready" && shown.version.as_ref() == Some(&version);
    node.shows_handler("told", "the version", is_it).await;
}

async fn said(node: &Node<'_>, text: &str) {
    node.shows_handler("told", text, |shown| shown.last.as_ref().is_some_and(|last| last.text == text)).await;
}

async fn stop(node: Node<'_>) {
    node.signal(Signal::TERM);
    assert_eq!(node.end().await.status.code(), Some(0));
}

#[tokio::test]
async fn an_upgrade_runs_at_once_and_a_rollback_ends_it() {
    let site = Site::new();
    let (old, new, newest) = (marked("old."), marked("new."), marked("next"));
    let node = site.start(&setup(&site, &old, ""));
    runs(&node, &old).await;
    said(&node, "old.").await;
    assert!(rollback(&node, "told").await.unwrap_err().starts_with("409 there is nothing to go back to"));

    let change = upgrade(&node, "told", new.clone()).await.unwrap();
    assert_eq!((change.version, change.before), (version(&new), Some(version(&old))));
    said(&node, "new.").await;
    upgrade(&node, "told", newest.clone()).await.unwrap();
    said(&node, "next").await;
    let again = upgrade(&node, "told", newest.clone()).await.unwrap();
    assert_eq!(again.before, Some(again.version), "nothing had to be done");

    // Back to the one before, then to the source's, then no further.
    for (back, mark) in [(&new, "new."), (&old, "old.")] {
        assert_eq!(rollback(&node, "told").await.unwrap().version, version(back));
        said(&node, mark).await;
    }
    assert!(rollback(&node, "told").await.unwrap_err().starts_with("409 "));
    assert!(upgrade(&node, "other", new).await.unwrap_err().starts_with("404 this node has no handler other"));
    stop(node).await;
}

#[tokio::test]
async fn what_cannot_run_changes_nothing_and_is_told_why() {
    let site = Site::new();
    let old = marked("old.");
    let node = site.start(&setup(&site, &old, ""));
    runs(&node, &old).await;
    let cut = old[..old.len() / 2].to_vec();
    for (component, why) in [
        (Vec::new(), "422 the component is no component: it is empty"),
        (b"#!/bin/sh\n".to_vec(), "422 the component is no component: it is not WebAssembly"),
        (cut, "422 the component cannot be compiled: the compiler refused it: "),
        (exporting_another(), "422 the component is no handler: it does not export picored:handler/guest@0.1.0"),
        (fs::read(fixture("describe-lies")).unwrap(), "422 the component cannot describe itself (trap): "),
    ] {
        let refusal = upgrade(&node, "told", component).await.unwrap_err();
        assert!(refusal.starts_with(why), "{refusal}");
        let reason = refusal.strip_prefix("422 ").unwrap().to_owned();
        node.shows_handler("told", "the reason", |shown| {
            shown.upgrade.as_ref().is_some_and(|last| last.outcome == "refused" && last.reason == reason)
        })
        .await;
        runs(&node, &old).await;
    }
    let kept = fs::read_dir(site.path("n1.state/handlers/told")).unwrap();
    assert_eq!(kept.count(), 0, "what was refused is not kept");
    stop(node).await;
}

#[tokio::test]
async fn what_was_installed_outlives_the_process_until_the_source_is_another() {
    let site = Site::new();
    let (old, new, newest, source) = (marked("old."), marked("new."), marked("next"), marked("conf"));
    let setup = setup(&site, &old, "");
    let node = site.start(&setup);
    runs(&node, &old).await;
    upgrade(&node, "told", new.clone()).await.unwrap();
    upgrade(&node, "told", newest.clone()).await.unwrap();
    stop(node).await;

    let node = site.start(&setup);
    runs(&node, &newest).await;
    said(&node, "next").await;
    assert_eq!(rollback(&node, "told").await.unwrap().version, version(&new));
    stop(node).await;

    // A source that is gone is no newer one.
    fs::remove_file(site.path("told.wasm")).unwrap();
    let node = site.start(&setup);
    runs(&node, &new).await;
    stop(node).await;

    fs::write(site.path("told.wasm"), &source).unwrap();
    let node = site.start(&setup);
    runs(&node, &source).await;
    let dropped = |line: &_| {
        is(line, "picored::handler", "the source is another since this version was installed over it: the source runs")
    };
    node.logs("that it was dropped", 1, dropped).await;
    upgrade(&node, "told", new.clone()).await.unwrap();
    let kept = site.path("n1.state/handlers/told").join(format!("{}.wasm", version(&new)));
    stop(node).await;

    fs::write(&kept, &old).unwrap();
    let node = site.start(&setup);
    runs(&node, &source).await;
    node.logs("the damage", 1, |line| {
        is(line, "picored::handler", "the installed version is damaged: the source runs")
    })
    .await;
    stop(node).await;
}

#[tokio::test]
async fn a_version_that_fails_gives_way_by_itself_for_good() {
    let site = Site::new();
    let (old, bad) = (marked("old."), variant("trap", 1));
    let setup = setup(&site, &old, "");
    let node = site.start(&setup);
    said(&node, "old.").await;
    upgrade(&node, "told", bad.clone()).await.unwrap();
    node.shows_handler("told", "that it failed", |shown| {
        shown.upgrade.as_ref().is_some_and(|last| last.outcome == "rolled-back" && last.reason.starts_with("trap: "))
    })
    .await;
    runs(&node, &old).await;
    said(&node, "old.").await;
    let ended = |line: &_| is(line, "picored::delivery", "ended");
    let tries = node.logs("the last try", 5, ended).await;
    let words: Vec<_> = tries.iter().map(|line| line["ended_as"].as_str().unwrap()).collect();
    assert_eq!(words, ["done", "trap", "trap", "trap", "done"]);
    assert_eq!(tries[4]["delivery"], tries[1]["delivery"], "the old one does what the new one could not");
    stop(node).await;

    let node = site.start(&setup);
    runs(&node, &old).await;
    stop(node).await;
}

#[tokio::test]
async fn what_a_handler_remembers_is_its_next_versions_too() {
    let site = Site::new();
    let node = site.start(&setup(&site, &variant("state", 1), ""));
    said(&node, "run 1").await;
    upgrade(&node, "told", variant("state", 2)).await.unwrap();
    said(&node, "run 2").await;
    rollback(&node, "told").await.unwrap();
    said(&node, "run 3").await;
    stop(node).await;
}

#[tokio::test]
async fn a_watched_file_takes_over_when_it_is_whole() {
    let site = Site::new();
    let (old, new, newest, path) = (marked("old."), marked("new."), marked("next"), site.path("told.wasm"));
    // Until it is repaired there is nothing to run.
    let node = site.start(&setup(&site, b"", "watch = true"));
    node.shows_handler("told", "the fault", |shown| shown.watched && shown.state.contains("it is empty")).await;
    fs::write(&path, &old).unwrap();
    runs(&node, &old).await;

    fs::write(&path, &new[..new.len() / 2]).unwrap();
    node.shows_handler("told", "the fault", |shown| {
        shown.upgrade.as_ref().is_some_and(|last| last.outcome == "refused" && last.reason.contains("told.wasm"))
    })
    .await;
    runs(&node, &old).await;
    fs::write(&path, &new).unwrap();
    runs(&node, &new).await;
    said(&node, "new.").await;

    // What was sent holds until the file is another.
    upgrade(&node, "told", marked("sent")).await.unwrap();
    said(&node, "sent").await;
    let beside = site.path("beside.wasm");
    fs::write(&beside, &newest).unwrap();
    fs::rename(&beside, &path).unwrap();
    runs(&node, &newest).await;
    assert_eq!(rollback(&node, "told").await.unwrap().version, version(&marked("sent")));
    stop(node).await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_an_upgrade_leaves_the_old_or_the_new() {
    let site = Site::new();
    let mut before = marked("0000");
    let setup = setup(&site, &before, "");
    for (number, milliseconds) in [0, 2, 5, 15, 40, 90, 180, 300].into_iter().enumerate() {
        let node = site.start(&setup);
        runs(&node, &before).await;
        let new = marked(&format!("{:04}", number + 1));
        let (socket, sent, name) = (node.socket().to_owned(), new.clone(), HandlerName::new("told").unwrap());
        let upgrading = tokio::spawn(async move { client::upgrade(&socket, &name, sent).await });
        // Not to wait for anything, but to be at another point each time. An instant rather than a stage: what a kill
        // could tear, a write or a rename, lies between the stages that can be seen from here.
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        node.signal(Signal::KILL);
        node.end().await;
        let was_told = upgrading.await.unwrap().is_ok();

        let node = site.start(&setup);
        let both = [version(&before), version(&new)];
        let find = |shown: &HandlerStatus| {
            shown.state == "ready" && shown.version.as_ref().is_some_and(|version| both.contains(version))
        };
        node.shows_handler("told", "the old or the new", find).await;
        let is_new = node.status().await.handlers[0].version.as_ref() == Some(&both[1]);
        assert!(is_new || !was_told, "what was said to run runs");
        if is_new {
            before = new;
        }
        stop(node).await;
    }
}
