//! Many versions of handlers, good and bad, under a steady stream of deliveries: each delivery ends once, in order, by the
//! version that ought to run it, and the daemon is as small afterwards as it was before.
//!
//! `PICORED_SWAPS` makes it long: so many swaps, at 500 deliveries a second or more, and with the memory compared. That is
//! for a release build, which `PICORED` names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use picored::admin::client;
use rustix::process::Signal;

use crate::node::{Line, Node, is};
use crate::site::{Site, fixture};
use crate::upgrade::{exporting_another, marked, rollback, upgrade, variant, version};
use crate::wait::found;
use crate::website::{Answer, Website};

const HANDLERS: [&str; 3] = ["left", "middle", "right"];
/// As many as fit into a record.
const APPS: usize = 24;
/// How much more anonymous memory there may be at the end.
const MEMORY: u64 = 1 << 20;
const RATE: f64 = 500.0;
/// Digits that the log shows of a version.
const SHORT: usize = 12;

/// Numbers that are the same for the same seed (Knuth's generator, its high bits).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// An application that is up and down in turn while `flaps`, and else up.
/// A website, and how often it was asked since it is well for good.
async fn flapping(flaps: &Arc<AtomicBool>) -> (Website, Arc<AtomicUsize>) {
    let (flaps, calm) = (flaps.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = calm.clone();
    let website = Website::start(move |request| match (flaps.load(Ordering::SeqCst), request % 2) {
        (true, 1) => Answer::Bad,
        (is_flapping, _) => {
            counted.fetch_add(usize::from(!is_flapping), Ordering::SeqCst);
            Answer::Good
        }
    });
    (website.await, calm)
}

/// Whether nothing waits and nothing more will come: the checks that may have found something bad are over.
async fn is_at_rest(node: &Node<'_>, websites: &[(Website, Arc<AtomicUsize>)]) -> bool {
    let checked_again = websites.iter().all(|(_, calm)| calm.load(Ordering::SeqCst) >= 2);
    let apps = node.status().await.members.into_iter().flat_map(|member| member.apps);
    checked_again && apps.map(|app| app.state).all(|state| state == "up") && pending(node).await == 0
}

async fn pending(node: &Node<'_>) -> usize {
    node.status().await.handlers.iter().map(|handler| handler.pending).sum()
}

async fn anonymous(node: &Node<'_>) -> u64 {
    client::status(node.socket()).await.unwrap().anonymous_bytes.unwrap()
}

#[tokio::test]
async fn versions_are_swapped_under_load_and_every_delivery_ends_once() {
    let long = std::env::var("PICORED_SWAPS").ok().map(|swaps| swaps.parse::<usize>().unwrap());
    let seed = std::env::var("PICORED_SEED").map_or(1, |seed| seed.parse().unwrap());
    let (mut dice, site, flaps) = (Dice(seed), Site::new(), Arc::new(AtomicBool::new(false)));
    let apps = if long.is_some() { APPS } else { 6 };
    let (mut setup, mut websites) = (site.setup("n1", "127.0.0.1:0"), Vec::new());
    for number in 0..apps {
        let website = flapping(&flaps).await;
        let keys = "interval = \"100ms\"\ntimeout = \"30s\"\nrise = 1\nfall = 1";
        setup = setup.app_called(&format!("a{number}"), &website.0, "192.0.2.1", keys);
        websites.push(website);
    }
    for name in HANDLERS {
        setup = setup.handler(name, &fixture("ok"), "on = [\"app-*\", \"reconcile\"]\nreconcile_every = \"24h\"");
    }
    let node = site.start(&setup);
    node.joined().await;
    for name in HANDLERS {
        let all = apps as u64;
        node.shows_handler(name, "first runs", |shown| shown.outcomes.get("done").is_some_and(|done| *done >= all))
            .await;
    }
    let before = anonymous(&node).await;

    // What the runs of a version say, and those that say nothing.
    let mut marks = BTreeMap::from([(version(&std::fs::read(fixture("ok")).unwrap()), Some("done".to_owned()))]);
    flaps.store(true, Ordering::SeqCst);
    let begun = std::time::Instant::now();
    let (mut refused, mut failed, mut back) = (0, 0, 0);
    let swaps = long.unwrap_or(40);
    for number in 0..swaps {
        let handler = HANDLERS[dice.below(HANDLERS.len())];
        let mark = format!("{number:04}");
        let good = marked(&mark);
        match dice.below(10) {
            0 => {
                let cut = good[..1 + dice.below(good.len() - 1)].to_vec();
                assert!(upgrade(&node, handler, cut).await.unwrap_err().starts_with("422 "));
                refused += 1;
            }
            1 => {
                let other = [exporting_another(), vec![0, 6, 1, b'n', 0, 0, 0, number as u8]].concat();
                assert!(upgrade(&node, handler, other).await.unwrap_err().contains("is no handler"));
                refused += 1;
            }
            2 | 3 => {
                let bad = variant("trap", number as u32);
                marks.insert(version(&bad), None);
                upgrade(&node, handler, bad).await.unwrap();
                failed += 1;
                if dice.below(2) == 0 {
                    let gave_way = |last: &picored_core::status::LastUpgrade| last.outcome == "rolled-back";
                    node.shows_handler(handler, "the failure", |shown| shown.upgrade.as_ref().is_some_and(gave_way))
                        .await;
                } else {
                    marks.insert(version(&good), Some(mark));
                    upgrade(&node, handler, good).await.unwrap();
                }
            }
            4 => {
                // Where nothing was installed there is nothing to go back to.
                let done = rollback(&node, handler).await;
                match &done {
                    Ok(_) => back += 1,
                    Err(error) => assert!(error.starts_with("409 "), "{error}"),
                }
            }
            _ => {
                marks.insert(version(&good), Some(mark));
                assert_eq!(upgrade(&node, handler, good.clone()).await.unwrap().version, version(&good));
            }
        }
    }
    let took = begun.elapsed();
    flaps.store(false, Ordering::SeqCst);
    websites.iter().for_each(|(_, calm)| calm.store(0, Ordering::SeqCst));
    let ends = found(async || is_at_rest(&node, &websites).await.then_some(()));
    site.until("everything has ended", ends).await;
    if long.is_some() {
        let shrinks = found(async || (anonymous(&node).await <= before + MEMORY).then_some(()));
        site.until(&format!("no more than 1 MiB above the {before} bytes from before"), shrinks).await;
    }
    let after = anonymous(&node).await;
    node.signal(Signal::TERM);
    let ended = node.end().await;
    assert_eq!(ended.status.code(), Some(0));

    let marks = marks.into_iter().map(|(version, mark)| (version[..SHORT].to_owned(), mark)).collect();
    let sum = Books::new(marks).read(&ended.lines);
    let rate = sum.ended as f64 / took.as_secs_f64();
    println!(
        "seed {seed}: {swaps} swaps ({refused} refused, {failed} failing, {back} back) in {took:.1?}, {} deliveries \
         ({rate:.0} a second), {} versions, {} gave way, {} tries again; anonymous memory {before} to {after} bytes",
        sum.ended, sum.versions, sum.gave_way, sum.retries
    );
    assert!(sum.gave_way > 0 && sum.versions > swaps / 3, "there was something to see");
    assert!(long.is_none() || rate >= RATE, "{rate} deliveries a second");
}

/// What the log has to show, held against it line by line.
struct Books {
    /// What each good version says.
    marks: BTreeMap<String, Option<String>>,
    /// What runs of each handler that start now have to be of.
    current: BTreeMap<String, String>,
    /// What runs in each scope: delivery and version.
    running: BTreeMap<(String, String), (u64, String)>,
    /// The last delivery and try that was started in each scope.
    last: BTreeMap<(String, String), (u64, u64)>,
    outcomes: BTreeMap<u64, String>,
    seen: BTreeSet<String>,
    sum: Sum,
}

#[derive(Default)]
struct Sum {
    ended: usize,
    versions: usize,
    gave_way: usize,
    retries: usize,
}

impl Books {
    fn new(marks: BTreeMap<String, Option<String>>) -> Self {
        let first = marks.iter().find(|(_, mark)| mark.as_deref() == Some("done")).unwrap().0.clone();
        let current = HANDLERS.iter().map(|name| ((*name).to_owned(), first.clone())).collect();
        let (running, last, outcomes, seen) = Default::default();
        Self { marks, current, running, last, outcomes, seen, sum: Sum::default() }
    }

    fn read(mut self, lines: &[Line]) -> Sum {
        for line in lines {
            if is(line, "picored::handler", "upgraded") || is(line, "picored::handler", "rolled-back") {
                self.takeover(line);
            } else if is(line, "picored::delivery", "started") {
                self.started(line);
            } else if is(line, "picored::delivery", "ended") {
                self.ended(line);
            }
        }
        assert_eq!(self.running, BTreeMap::new(), "all runs have ended");
        let last = self.outcomes.keys().last().copied().unwrap();
        assert!(self.outcomes.keys().copied().eq(1..=last), "every delivery has an outcome");
        Sum { ended: self.outcomes.len(), versions: self.seen.len(), ..self.sum }
    }

    fn takeover(&mut self, line: &Line) {
        let (handler, version) = (text(line, "handler"), text(line, "version"));
        assert!(self.marks.contains_key(&version), "a version that was refused: {line}");
        if line["before"].is_string() {
            assert_eq!(text(line, "before"), self.current[&handler], "{line}");
        }
        self.sum.gave_way += usize::from(line["reason"].is_string());
        self.current.insert(handler, version);
    }

    fn started(&mut self, line: &Line) {
        let (handler, version) = (text(line, "handler"), text(line, "version"));
        assert_eq!(version, self.current[&handler], "a run of another version than the current one: {line}");
        let scope = (handler, text(line, "scope"));
        let this = (number(line), line["attempt"].as_u64().unwrap());
        let last = self.last.insert(scope.clone(), this).unwrap_or_default();
        assert!(this > last && (this.0 > last.0 || this.1 == last.1 + 1), "out of order after {last:?}: {line}");
        self.seen.insert(version.clone());
        let overlapping = self.running.insert(scope, (this.0, version));
        assert_eq!(overlapping, None, "two at once: {line}");
    }

    fn ended(&mut self, line: &Line) {
        let (scope, outcome) = ((text(line, "handler"), text(line, "scope")), text(line, "outcome"));
        if line["ended_as"].is_string() {
            let (started, version) = self.running.remove(&scope).unwrap();
            assert_eq!(started, number(line), "{line}");
            let said = (line["ended_as"] == "done").then(|| text(line, "text"));
            assert_eq!(said, self.marks[&version], "another version than {version} ran: {line}");
        } else {
            assert_eq!(outcome, "superseded", "what waited and did not run: {line}");
        }
        if outcome == "retry" {
            self.sum.retries += 1;
        } else if let Some(earlier) = self.outcomes.insert(number(line), outcome) {
            panic!("it had ended as {earlier}: {line}");
        }
    }
}

fn text(line: &Line, key: &str) -> String {
    line[key].as_str().unwrap_or_else(|| panic!("no {key}: {line}")).to_owned()
}

fn number(line: &Line) -> u64 {
    text(line, "delivery").rsplit_once('/').unwrap().1.parse().unwrap()
}
