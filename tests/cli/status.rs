//! The verbs that ask a daemon how it is: `members`, `status`, `events`. What they print for people and for programs, and
//! what they say where no daemon is.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use picored_core::status::Status;

use crate::check::Site;
use crate::node::{Node, status};
use crate::{command, complaint, said};

#[test]
fn members_is_a_table_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    assert_eq!(
        said(&["members", "--socket", &node.socket]),
        "\
NAME  ADDRESS             STATE  GENERATION  APPS
web1  [2001:db8::7]:7946  alive  7           www up (203.0.113.5 2001:db8::5)
web2  [2001:db8::8]:7946  down   8
"
    );
    assert!(said(&["members", "--verbose", "--socket", &node.socket]).ends_with(
        "
web2 down: suspected since 2026-01-31T12:00:00.000Z by web1 (direct), web3 (indirect, 2 asked), for 4.1 s; this node gave \
         up waiting
"
    ));
}

#[test]
fn members_is_json_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    let value: serde_json::Value =
        serde_json::from_str(&said(&["members", "--socket", &node.socket, "--json"])).unwrap();
    assert_eq!(
        value,
        serde_json::json!([
            {
                "name": "web1", "address": "[2001:db8::7]:7946", "state": "alive", "generation": 7,
                "apps": [{ "name": "www", "state": "up", "publish": ["203.0.113.5", "2001:db8::5"] }],
            },
            {
                "name": "web2", "address": "[2001:db8::8]:7946", "state": "down", "generation": 8, "apps": [],
                "evidence": {
                    "suspected_since": "2026-01-31T12:00:00.000Z",
                    "accusers": [
                        { "name": "web1", "since": "2026-01-31T12:00:00.000Z", "probe": "direct", "asked": 0 },
                        { "name": "web3", "since": "2026-01-31T12:00:00.000Z", "probe": "indirect", "asked": 2 },
                    ],
                    "down_since": "2026-01-31T12:00:04.120Z", "suspected_ms": 4120, "verdict": "own",
                },
            },
        ])
    );
}

#[test]
fn members_finds_the_socket_through_the_config() {
    let site = Site::new();
    let _node = Node::start(site.at("picored.sock"));
    let config = site.config(&site.good());
    assert!(said(&["members", "--config", &config]).contains("web2"));
}

#[test]
fn status_tells_people_what_the_node_does() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    let text = said(&["status", "--socket", &node.socket]);
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start).unwrap();
    assert_eq!(line("node"), "web1 of cluster example, joined");
    assert_eq!(line("process"), format!("{}, picored {}", std::process::id(), env!("CARGO_PKG_VERSION")));
    assert_eq!(line("members"), "1 alive, 1 down");
    assert_eq!((line("quorum"), line("held")), ("seen, of 3 known", "www on web2: budget"));
    assert_eq!(line("datagrams"), "10 accepted, 12 sent");
    assert!(cfg!(not(target_os = "linux")) || line("memory").contains(" MiB resident, "), "{text}");
    assert_eq!(
        line("dns"),
        "builtin:dns-powerdns  0123456789ab, unpinned, rolled-back 2026-01-31T11:00:00.000Z: trap: unreachable  ready, 1 \
         not granted (see `picored handler list`)  1        3 done, 1 retry  2026-01-31T12:00:00.000Z app-down www: done \
         in 12.3 ms, \
         try 2: published 1 address\\nforged  line"
    );
    assert_eq!(line("config-mismatch:"), "web2 does not run dns, its config differs from most nodes'");
}

#[test]
fn status_tells_programs_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    let text = said(&["status", "--socket", &node.socket, "--json"]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "anonymous_bytes",
        "cluster",
        "datagrams",
        "handlers",
        "holds",
        "known_size",
        "members",
        "node",
        "operator_holds",
        "pid",
        "quorum",
        "receipts",
        "resident_bytes",
        "state",
        "version",
    ];
    assert_eq!(keys, expected);
    assert_eq!(serde_json::from_value::<Status>(value.clone()).unwrap(), status());
    assert_eq!(value["pid"], std::process::id());
    if cfg!(target_os = "linux") {
        assert!(value["resident_bytes"].as_u64() >= value["anonymous_bytes"].as_u64());
        assert!(value["anonymous_bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    let mut child =
        command(&["status", "--socket", &node.socket]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_daemon_that_is_not_there_is_told_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picored.sock");
    let shown = path.to_str().unwrap();
    for verb in ["members", "status"] {
        let error = complaint(1, &[verb, "--socket", shown]);
        assert!(error.contains(shown) && error.contains("picored run"), "{error}");
    }

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(complaint(1, &["members", "--socket", shown]).contains("no daemon listens"));

    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    assert!(complaint(1, &["members", "--socket", shown]).contains("is not a socket"));
}

#[test]
fn events_are_lines_for_people_and_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    assert_eq!(
        said(&["events", "--socket", &node.socket]),
        "\
2026-01-31T12:00:00.000Z held        www on web1 never-empty: up nowhere: the last set stays published
2026-01-31T12:00:00.000Z held        api on web1 never-empty: up nowhere: the last set stays published
"
    );
    let lines = said(&["events", "--socket", &node.socket, "--json"]);
    let numbers = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].clone());
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn who_follows_gets_what_was_and_ends_with_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    let mut follower = command(&["events", "--follow", "--socket", &node.socket])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("www"));
    assert!(lines.next().unwrap().unwrap().contains("api"));
    drop(node);
    let output = follower.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has ended"), "{output:?}");
}
