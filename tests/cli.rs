//! The real program from outside: exit codes, output, files. Verbs that ask a daemon ask an admin socket with a status
//! made by hand, so that what is printed can be compared whole.

#![allow(clippy::unwrap_used, reason = "clippy knows tests, not the functions that they share")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use picored_core::name::AppName;
use picored_core::node::Notice;
use picored_core::status::{
    AccuserStatus, AppStatus, Evidence, HandlerStatus, LastRun, LastUpgrade, MemberStatus, MismatchStatus, MissingAsk,
    Status,
};
use picored_core::time::Wall;
use tokio::sync::{oneshot, watch};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_picored"));
    command.args(args).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

fn picored(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// What a run that must succeed says.
fn said(args: &[&str]) -> String {
    let output = picored(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a run that must fail with this code complains of; it prints nothing else.
fn complaint(code: i32, args: &[&str]) -> String {
    let output = picored(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn help_names_the_verbs_and_each_has_an_example() {
    let help = said(&["--help"]);
    for verb in [
        "run",
        "demo",
        "init",
        "check",
        "keygen",
        "members",
        "reload",
        "status",
        "events",
        "handler",
        "completions",
        "man",
    ] {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb} in {help}");
    }
    assert!(help.contains("Exit codes:"), "{help}");
    assert!(!help.contains("compile-component"), "an inner matter: {help}");
    for verb in ["run", "init", "check", "keygen", "members", "reload", "status", "events", "completions", "man"] {
        let help = said(&[verb, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("  picored {verb}")), "{help}");
    }
    for verb in ["list", "inspect", "run"] {
        let help = said(&["handler", verb, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("  picored handler {verb}")), "{help}");
    }
}

#[test]
fn version_is_the_packages() {
    assert_eq!(said(&["--version"]), format!("picored {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_command_lines_end_with_2_and_the_right_usage() {
    for args in [
        &[][..],
        &["walk"],
        &["run"],
        &["check"],
        &["run", "--config", "x", "--log-format", "xml"],
        &["run", "--config", "x", "--log-level", "loud"],
        &["members", "--socket", "x", "--config", "y"],
        &["keygen", "extra"],
        &["handler"],
        &["handler", "inspect"],
        &["handler", "inspect", "x.wasm", "--config", "y"],
        &["handler", "inspect", "--handler", "dns"],
        &["handler", "run"],
        &["handler", "run", "dns", "--event", "app-*"],
        &["completions", "tcsh"],
    ] {
        assert!(complaint(2, args).contains("Usage:") || complaint(2, args).contains("--help"), "{args:?}");
    }
    assert!(complaint(2, &["mebmers"]).contains("members"), "it suggests what was meant");
}

#[test]
fn keygen_makes_another_key_each_time() {
    let (first, second) = (said(&["keygen"]), said(&["keygen"]));
    assert_ne!(first, second);
    for key in [first, second] {
        // 32 bytes are 43 characters of base64 and one of padding.
        assert!(key.len() == 45 && key.ends_with("=\n"), "{key:?}");
        assert!(key[..43].chars().all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '/'), "{key:?}");
    }
}

#[test]
fn keygen_writes_a_private_file_and_never_over_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let shown = path.to_str().unwrap();
    assert_eq!(said(&["keygen", "--out", shown]), "");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    let written = fs::read(&path).unwrap();
    picored::store::read_key(&path).unwrap();

    let error = complaint(1, &["keygen", "--out", shown]);
    assert!(error.contains(shown) && error.contains("stays as it is"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), written);

    let nowhere = dir.path().join("none/key");
    assert!(complaint(1, &["keygen", "--out", nowhere.to_str().unwrap()]).contains(nowhere.to_str().unwrap()));
}

/// A directory with all that a good config needs.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        picored::store::create_key_file(&site.at("key"), &[7; 32]).unwrap();
        // The preamble of a component, and nothing in it.
        fs::write(site.at("dns.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
        site
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn good(&self) -> String {
        format!(
            r#"
[node]
name = "web1"
bind = "127.0.0.1:7946"
state_dir = "{0}/state"
admin_socket = "{0}/picored.sock"

[cluster]
name = "example"
seeds = ["127.0.0.2:7946"]
key_file = "{0}/key"

[[app]]
name = "www"
publish = ["127.0.0.1"]
check = {{ http = "http://127.0.0.1:8080/health" }}

[[handler]]
name = "dns"
source = "file:{0}/dns.wasm"
on = ["app-*"]
"#,
            self.dir.path().display()
        )
    }

    fn config(&self, text: &str) -> String {
        let path = self.at("picored.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn check_says_ok_and_what_it_saw() {
    let site = Site::new();
    let config = site.config(&site.good());
    let before = names(site.dir.path());
    assert_eq!(said(&["check", "--config", &config]), "ok: node web1 of cluster example, 1 seed, 1 app, 1 handler\n");
    assert_eq!(names(site.dir.path()), before, "it leaves no trace");
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn check_takes_relative_paths_from_the_current_directory() {
    let site = Site::new();
    let relative = site.good().replace(&format!("{}/", site.dir.path().display()), "");
    site.config(&relative);
    let output = command(&["check", "--config", "picored.toml"]).current_dir(site.dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let elsewhere = command(&["check", "--config", &site.config(&relative)]).current_dir("/").output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");
}

#[test]
fn check_tells_all_that_is_wrong_with_the_text() {
    let site = Site::new();
    let bad = site.good().replace("publish =", "pubish =").replace("[\"app-*\"]", "[\"app-upp\"]");
    let config = site.config(&bad);
    let error = complaint(1, &["check", "--config", &config]);
    for part in [config.as_str(), "pubish", "publish", "app-upp", "line 15", "line 21"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    // The daemon itself says the same and does not start.
    assert_eq!(complaint(1, &["run", "--config", &config]), error);
}

#[test]
fn check_tells_all_that_is_wrong_around_the_text() {
    let site = Site::new();
    let config = site.config(&site.good());
    fs::write(site.at("state"), "a file").unwrap();
    fs::set_permissions(site.at("key"), PermissionsExt::from_mode(0o644)).unwrap();
    fs::remove_file(site.at("dns.wasm")).unwrap();
    let error = complaint(1, &["check", "--config", &config]);
    for part in ["state is not a directory", "key is open to every user", "handler dns", "dns.wasm"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
}

#[test]
fn a_ca_file_that_is_none_is_told_by_check_and_ends_the_start() {
    let site = Site::new();
    let check = format!("http = \"https://127.0.0.1/\", ca_file = \"{}\"", site.at("ca.pem").display());
    let config = site.config(&site.good().replace("http = \"http://127.0.0.1:8080/health\"", &check));
    let said = |error: &str| {
        for verb in ["check", "run"] {
            let complaint = complaint(1, &[verb, "--config", &config]);
            assert!(complaint.contains(&format!("ca.pem of app www {error}")), "{verb}: {complaint}");
        }
    };
    said("cannot be read: No such file");
    fs::write(site.at("ca.pem"), "hello").unwrap();
    said("has no certificate");
}

#[test]
fn configs_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    let error = complaint(1, &["check", "--config", missing.to_str().unwrap()]);
    assert!(error.contains("none.toml") && error.contains("No such file"), "{error}");

    let huge = dir.path().join("huge.toml");
    fs::write(&huge, "#".repeat(2 << 20)).unwrap();
    assert!(complaint(1, &["check", "--config", huge.to_str().unwrap()]).contains("larger than"));

    let binary = dir.path().join("binary.toml");
    fs::write(&binary, b"\xff\xfe").unwrap();
    assert!(complaint(1, &["check", "--config", binary.to_str().unwrap()]).contains("binary.toml is not UTF-8"));
}

/// An admin socket that answers with [`status`].
struct Node {
    socket: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    fn start(socket: PathBuf) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, bound) = mpsc::channel();
        let path = socket.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = picored::admin::Server::bind(&path).unwrap();
                let (commands, _taken) = picored::admin::Commands::channel(path.with_extension("uploads"), 0);
                ready.send(()).unwrap();
                let events = picored::events::Events::default();
                for app in ["www", "api"] {
                    events.note(&Notice::Held { app: AppName::new(app).unwrap() }, Wall(1_769_860_800_000));
                }
                let publish = watch::Sender::new(Arc::new(status()));
                tokio::select! {
                    () = server.serve(publish.subscribe(), Default::default(), events, commands) => {}
                    _ = stopped => {}
                }
            });
        });
        bound.recv().unwrap();
        Self { socket: socket.to_str().unwrap().to_owned(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn status() -> Status {
    let member = |name: &str, state: &str, generation, apps| MemberStatus {
        name: name.into(),
        address: format!("[2001:db8::{generation}]:7946"),
        state: state.into(),
        generation,
        apps,
        evidence: None,
    };
    let publish = vec!["203.0.113.5".parse().unwrap(), "2001:db8::5".parse().unwrap()];
    let last = LastRun {
        event: "app-down".into(),
        scope: "www".into(),
        outcome: "done".into(),
        text: "published 1 address\nforged  line".into(),
        time: "2026-01-31T12:00:00.000Z".into(),
        attempt: 2,
        run_ms: 12.34,
    };
    let accuser = |name: &str, probe: &str, asked| AccuserStatus {
        name: name.into(),
        since: "2026-01-31T12:00:00.000Z".into(),
        probe: probe.into(),
        asked,
    };
    let evidence = Evidence {
        suspected_since: Some("2026-01-31T12:00:00.000Z".into()),
        accusers: vec![accuser("web1", "direct", 0), accuser("web3", "indirect", 2)],
        down_since: Some("2026-01-31T12:00:04.120Z".into()),
        suspected_ms: Some(4120),
        verdict: Some("own".into()),
    };
    Status {
        node: "web1".into(),
        cluster: "example".into(),
        state: "joined".into(),
        members: vec![
            member("web1", "alive", 7, vec![AppStatus { name: "www".into(), state: "up".into(), publish }]),
            MemberStatus { evidence: Some(evidence), ..member("web2", "down", 8, Vec::new()) },
        ],
        handlers: vec![HandlerStatus {
            name: "dns".into(),
            source: "builtin:dns-powerdns".into(),
            state: "ready".into(),
            version: Some("0123456789abcdef".repeat(4)),
            watched: true,
            upgrade: Some(LastUpgrade {
                outcome: "rolled-back".into(),
                reason: "trap: unreachable".into(),
                time: "2026-01-31T11:00:00.000Z".into(),
            }),
            run_on: "one".into(),
            mismatches: vec![MismatchStatus { node: "web2".into(), differs: "config".into() }],
            pending: 1,
            outcomes: BTreeMap::from([("done".into(), 3), ("retry".into(), 1)]),
            missing: vec![MissingAsk {
                ask: "http PATCH {api}/zones".into(),
                remedy: "[[handler.http]]\nallow = \"http://127.0.0.1:8081\"".into(),
            }],
            last: Some(last),
        }],
        datagrams: BTreeMap::from([("accepted".into(), 10), ("sent".into(), 12)]),
    }
}

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
            { "name": "web2", "address": "[2001:db8::8]:7946", "state": "down", "generation": 8, "apps": [] },
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
        "members",
        "node",
        "pid",
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
fn handlers_are_listed_with_what_they_are_not_granted() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    assert_eq!(
        said(&["handler", "list", "--socket", &node.socket]),
        "\
HANDLER  SOURCE                STATE  MISSING  LAST RUN
dns      builtin:dns-powerdns  ready  1        done: published 1 address\\nforged  line

dns asks for what it is not granted:
  http PATCH {api}/zones
      [[handler.http]]
      allow = \"http://127.0.0.1:8081\"
"
    );
    let json = said(&["handler", "list", "--socket", &node.socket, "--json"]);
    assert_eq!(serde_json::from_str::<Vec<HandlerStatus>>(&json).unwrap(), status().handlers);
}

#[test]
fn events_are_lines_for_people_and_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    assert_eq!(
        said(&["events", "--socket", &node.socket]),
        "\
2026-01-31T12:00:00.000Z held        www: up nowhere: the last set stays published
2026-01-31T12:00:00.000Z held        api: up nowhere: the last set stays published
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

fn dist(name: &str) -> String {
    format!("{}/handlers-wasm/dist/{name}.wasm", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn inspect_shows_what_a_component_is_and_asks_for() {
    let component = dist("dns-powerdns");
    let text = said(&["handler", "inspect", &component]);
    for part in
        ["exports     picored:handler/guest@0.1.0", "  picored:handler/http@0.1.0", "wit-component", "dns-powerdns"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&said(&["handler", "inspect", &component, "--json"])).unwrap();
    let bytes = fs::read(&component).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    assert_eq!(json["size"], bytes.len());
    assert_eq!(json["sha256"], digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    assert!(json["asks"].as_array().unwrap().iter().any(|ask| ask["kind"] == "http" && ask.get("standing").is_none()));
    let same: serde_json::Value =
        serde_json::from_str(&said(&["handler", "inspect", "builtin:dns-powerdns", "--json"])).unwrap();
    assert_eq!((&same["sha256"], &same["asks"]), (&json["sha256"], &json["asks"]));
}

#[test]
fn inspect_holds_asks_against_a_handlers_grants() {
    let site = Site::new();
    let grant = "[handler.config]\napi = \"http://127.0.0.1:8081\"\nzone = \"example.org.\"\n[[handler.http]]\nallow = \
                 \"http://127.0.0.1:8081\"\nallow_private = [\"127.0.0.1/32\"]\n";
    let section = site.good().replace(&format!("file:{}/dns.wasm", site.dir.path().display()), "builtin:dns-powerdns");
    let config = site.config(&(section + grant));
    let text = said(&["handler", "inspect", "--config", &config, "--handler", "dns"]);
    for part in [
        "  granted event app-* ",
        "  missing event member-* ",
        "      on = [\"app-up\", \"app-down\", \"member-*\"]\n",
        "  granted http GET {api}/",
        "  missing http PATCH {api}/",
        "      methods = [\"PATCH\"]\n      paths = [\"/api/v1/servers/{server}/zones/example.org.\"]\n",
        "  unset   config record ",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let error = complaint(1, &["handler", "inspect", "--config", &config, "--handler", "nobody"]);
    assert!(error.contains("has no handler nobody; it has: dns"), "{error}");
}

#[test]
fn inspect_says_why_a_hostile_component_would_not_load() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.wasm");
    fs::write(&broken, [b"\0asm\x0d\0\x01\0".as_slice(), &[0xff; 300]].concat()).unwrap();
    for (component, reason) in [
        (dist("fixtures/describe-lies"), "cannot describe itself (trap)"),
        (broken.to_str().unwrap().to_owned(), "the compiler refused it"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let output = command(&["handler", "inspect", &component]).env("TMPDIR", temp.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("sha256 "), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{output:?}");
        assert_eq!(names(temp.path()), Vec::<std::ffi::OsString>::new(), "nothing is left");
    }
    assert!(complaint(1, &["handler", "inspect", "/no/such.wasm"]).contains("cannot read file:/no/such.wasm"));
    assert!(complaint(1, &["handler", "inspect", "builtin:nobody"]).contains("there are: "));
}

/// Runs `init` in `dir` with these lines on its standard input.
fn init(dir: &Path, answers: &str, args: &[&str]) -> Output {
    let mut child = command(&[&["init", "--out", "p.toml", "--key", "etc/key"], args].concat())
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(answers.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn init_asks_four_questions_and_what_it_writes_passes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let output = init(dir.path(), "web9\n203.0.113.9 2001:db8::9\n\nhttp://127.0.0.1:8080/health\n", &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("made the cluster's key etc/key"), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.ends_with(": ")).count(), 4);
    assert_eq!(fs::metadata(dir.path().join("etc/key")).unwrap().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(dir.path().join("p.toml")).unwrap();
    for line in
        ["name = \"web9\"", "bind = \"0.0.0.0:7946\"", "advertise = \"203.0.113.9:7946\"", "# Unique in the cluster."]
    {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    // The state directory's default is not for every user to write.
    let text = text.replace("# state_dir = \"/var/lib/picored\"", "state_dir = \"state\"");
    fs::write(dir.path().join("q.toml"), text).unwrap();
    let checked = command(&["check", "--config", "q.toml"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "ok: node web9 of cluster site, 0 seeds, 1 app, 0 handlers\n");

    let again = init(dir.path(), "", &["--yes"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("p.toml is there already and stays as it is"), "{again:?}");
}

#[test]
fn init_takes_flags_for_answers_and_makes_no_key_beside_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--yes", "--name", "web1", "--publish", "2001:db8::5", "--seed", "2001:db8::6", "--seed", "web3"];
    let output = init(dir.path(), "", &flags);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("copy that of another node"), "{output:?}");
    assert!(!dir.path().join("etc").exists());
    let text = fs::read_to_string(dir.path().join("p.toml")).unwrap();
    for line in ["bind = \"[::]:7946\"", "seeds = [\"[2001:db8::6]:7946\", \"web3:7946\"]"] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[test]
fn init_refuses_bad_answers_and_writes_nothing() {
    for (answers, args, reason) in [
        ("-bad-\n", &[][..], "a name has"),
        ("web1\nnowhere\n", &[], "is no IP address"),
        ("web1\n", &[], "standard input has ended: answer with --publish"),
        ("", &["--yes", "--publish", "x"], "--publish: `x` is no IP address"),
        ("", &["--yes", "--publish", "203.0.113.5", "--seed", "a b:c"], "no good config"),
        ("", &["--yes", "--publish", "203.0.113.5", "--check", "ping"], "neither a URL"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let output = init(dir.path(), answers, args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{reason} in {output:?}");
        assert_eq!(names(dir.path()), Vec::<std::ffi::OsString>::new(), "{reason}");
    }
}

#[test]
fn completions_are_scripts_that_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&["completions", shell]);
        for word in ["inspect", "--dry-run", "--follow"] {
            let word = if shell == "fish" { word.trim_start_matches('-') } else { word };
            assert!(script.contains(word), "{word} in {shell}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("picored"), said(&["completions", "bash"])).unwrap();
    let parsed = Command::new("bash").arg("-n").arg(dir.path().join("picored")).output();
    // Where there is no bash, nobody needs its completions.
    assert!(parsed.is_err() || parsed.as_ref().is_ok_and(|parsed| parsed.status.success()), "{parsed:?}");
}

#[test]
fn the_manual_page_has_every_verb_and_renders() {
    let page = said(&["man"]);
    for section in ["PICORED RUN", "PICORED HANDLER INSPECT", "PICORED EVENTS"] {
        assert!(page.contains(section), "{section} in {page}");
    }
    assert!(!page.contains("COMPILE"), "an inner matter");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("picored.1"), page).unwrap();
    let Ok(shown) = Command::new("man").args(["--warnings", "-l"]).arg(dir.path().join("picored.1")).output() else {
        return;
    };
    assert!(shown.status.success() && shown.stderr.is_empty(), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("--dry-run"));
}

#[test]
fn the_service_manager_is_told_of_the_start_the_loop_and_the_end() {
    let site = Site::new();
    let config = site.config(&site.good().replace("127.0.0.1:7946", "127.0.0.1:0"));
    let manager = UnixDatagram::bind(site.at("notify")).unwrap();
    let mut daemon = command(&["run", "--config", &config])
        .env("NOTIFY_SOCKET", site.at("notify"))
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let hear = || {
        let mut buffer = [0; 64];
        manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let length = manager.recv(&mut buffer).expect("the manager is told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!([hear(), hear(), hear()], ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM).unwrap();
    while hear() != "STOPPING=1" {}
    assert!(daemon.wait().unwrap().success());
}
