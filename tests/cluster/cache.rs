//! Compiled handlers outlive the daemon, and damage to them does not outlive the next start.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::node::Line;
use crate::site::{Setup, Site, fixture};

/// The one entry of the cache.
fn entry(setup: &Setup) -> PathBuf {
    let listing = fs::read_dir(setup.state_dir.join("cache")).unwrap();
    let paths: Vec<_> = listing.map(|item| item.unwrap().path()).collect();
    assert_eq!(paths.len(), 1, "{paths:?}");
    paths.into_iter().next().unwrap()
}

fn stamp(path: &Path) -> (u64, u64, i64, i64) {
    let found = fs::metadata(path).unwrap();
    (found.ino(), found.size(), found.mtime(), found.mtime_nsec())
}

/// What the node logs while it makes its handler ready.
async fn start_once(site: &Site, setup: &Setup) -> Vec<String> {
    let node = site.start(setup);
    node.shows_handler("told", "ready", |handler| handler.state == "ready").await;
    node.signal(Signal::TERM);
    let ended = node.end().await;
    assert_eq!(ended.status.code(), Some(0));
    let message = |line: &Line| line["message"].as_str().unwrap_or_default().to_owned();
    ended.lines.iter().map(message).filter(|text| text.contains("compiled") || text.contains("cache")).collect()
}

#[tokio::test]
async fn code_is_compiled_once_and_again_when_it_is_damaged() {
    let site = Site::new();
    let setup = site.setup("n1", "127.0.0.1:0").handler("told", &fixture("ok"), "");
    assert_eq!(start_once(&site, &setup).await, ["handler compiled"]);
    let path = entry(&setup);
    let fresh = stamp(&path);

    assert_eq!(start_once(&site, &setup).await, [""; 0]);
    assert_eq!(stamp(&path), fresh);

    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(fresh.1 / 2).unwrap();
    let said = start_once(&site, &setup).await;
    assert!(said[0].contains("cut short") && said[1..] == ["handler compiled"], "{said:?}");
    assert_eq!((entry(&setup), stamp(&path).1), (path.clone(), fresh.1));
    assert_eq!(start_once(&site, &setup).await, [""; 0]);

    // A bit within the code, where only its seal tells.
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let said = start_once(&site, &setup).await;
    assert!(said[0].contains("MAC is wrong") && said[1..] == ["handler compiled"], "{said:?}");
    assert_eq!(start_once(&site, &setup).await, [""; 0]);
}
