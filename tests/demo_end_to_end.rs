//! `picored demo` as a person runs it: the real program, whole, with its signals and what it leaves behind.
//!
//! Each demo gets a folder of its own for temporary files, which also tells its processes from all others: they have it
//! in their environment. Demos take turns here but where two at once are the point, for a machine's cores are few.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod wait;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// What any of this may take. A demo takes less than half a minute.
const CEILING: Duration = Duration::from_secs(420);
const STEPS: [&str; 7] =
    ["nodes-joined", "three-addresses", "web-stopped", "web-back", "node-killed", "node-back", "client"];

fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running `picored demo`.
struct Demo {
    folder: TempDir,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_picored"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.path().with_extension("stderr")).unwrap())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { folder, child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "ended too soon, after {line:?}: {}", self.stderr());
        line
    }

    fn step(&mut self) -> Value {
        let line = self.line();
        let step: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(step["ok"], true, "{step}\n{}", self.stderr());
        step
    }

    fn steps_until(&mut self, last: &str) -> Vec<Value> {
        let mut steps = vec![self.step()];
        while steps[steps.len() - 1]["step"] != last {
            steps.push(self.step());
        }
        steps
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().with_extension("stderr")).unwrap()
    }

    /// Waits for the end: how it ended and what else it printed.
    fn end(&mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }

    /// The ids of the processes that have this demo's folder in their environment.
    fn processes(&self) -> Vec<String> {
        let mark = format!("TMPDIR={}", self.folder.path().display()).into_bytes();
        let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        ids.filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()))
            .filter(|id| {
                let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == mark)
            })
            .collect()
    }

    fn files(&self) -> usize {
        fs::read_dir(self.folder.path()).unwrap().count()
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        assert_eq!(self.files(), 0, "in {}", self.folder.path().display());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(self.folder.path().with_extension("stderr"));
    }
}

fn until(what: &str, done: impl FnMut() -> bool) {
    wait::until_done(CEILING, what, done);
}

fn seconds(step: &Value, key: &str) -> f64 {
    step[key].as_f64().unwrap_or_else(|| panic!("no {key} in {step}"))
}

#[test]
fn two_at_once_tell_the_whole_story_and_leave_nothing() {
    let _turn = my_turn();
    let mut demos = [Demo::start(&["--json"]), Demo::start(&["--json"])];
    for demo in &mut demos {
        let steps = demo.steps_until("client");
        let (status, rest) = demo.end();
        assert!(status.success(), "{status}");
        assert_eq!((rest.as_str(), demo.stderr().as_str()), ("", ""), "nothing but the steps");
        assert_eq!(steps.iter().map(|step| step["step"].as_str().unwrap()).collect::<Vec<_>>(), STEPS);
        let counts =
            [("three-addresses", 3), ("web-stopped", 2), ("web-back", 3), ("node-killed", 2), ("node-back", 3)];
        for (name, count) in counts {
            let step = steps.iter().find(|step| step["step"] == name).unwrap();
            assert_eq!(step["addresses"].as_array().unwrap().len(), count, "{step}");
            if name != "three-addresses" {
                let parts = ["detect_seconds", "deliver_seconds", "record_seconds"].map(|key| seconds(step, key));
                assert!((parts.iter().sum::<f64>() - seconds(step, "seconds")).abs() < 0.001, "{step}");
                assert!(seconds(step, "handler_seconds") > 0.0, "{step}");
            }
        }
        let killed = &steps[4];
        assert_ne!(killed["handler_node"], killed["node"], "the dead run no handlers: {killed}");
        assert_eq!(killed["node"], steps[5]["node"], "who was killed came back");
        assert_eq!(steps[2]["node"], steps[3]["node"], "what was stopped was started");
        assert_ne!(killed["node"], steps[2]["node"], "two sites were lost");
        let client = &steps[6];
        let [requests, failures] = ["requests", "failures"].map(|key| client[key].as_u64().unwrap());
        assert!(requests > failures, "{client}");
        assert_eq!(seconds(client, "longest_outage_seconds") > 0.0, failures > 0, "{client}");
        demo.assert_nothing_is_left();
    }
}

#[test]
fn without_json_it_is_a_story_for_people() {
    let _turn = my_turn();
    let mut demo = Demo::start(&[]);
    let (status, text) = demo.end();
    assert!(status.success(), "{text}\n{}", demo.stderr());
    assert_eq!(text.matches(" ok ").count(), STEPS.len(), "{text}");
    assert_eq!(text.matches("detect ").count(), 4, "{text}");
    assert!(text.contains("longest outage") && !text.contains('\x1b') && !text.contains('\r'), "{text}");
    demo.assert_nothing_is_left();
}

#[test]
fn a_signal_in_the_middle_ends_everything() {
    let _turn = my_turn();
    for (signal, code, after) in
        [(Signal::INT, 130, "three-addresses"), (Signal::TERM, 143, "nodes-joined"), (Signal::HUP, 129, "nodes-joined")]
    {
        let mut demo = Demo::start(&["--json"]);
        demo.steps_until(after);
        assert_eq!(demo.files(), 1);
        // A process that is just being started has no environment yet.
        until("the demo, three nodes, three web servers", || demo.processes().len() >= 7);
        demo.signal(signal);
        let (status, _) = demo.end();
        assert_eq!(status.code(), Some(code), "{signal:?}: {}", demo.stderr());
        demo.assert_nothing_is_left();
    }
}

#[test]
fn no_process_outlives_a_demo_that_is_killed() {
    let _turn = my_turn();
    let mut demo = Demo::start(&["--json"]);
    demo.steps_until("three-addresses");
    demo.signal(Signal::KILL);
    let (status, _) = demo.end();
    assert!(!status.success());
    until("no process outlives a demo that was killed", || demo.processes().is_empty());
}

#[test]
fn an_output_that_is_closed_ends_everything() {
    let _turn = my_turn();
    let mut demo = Demo::start(&["--json"]);
    demo.step();
    // As `| head -n 1` does it. What stands in its place is read by nobody.
    let (reader, _writer) = std::io::pipe().unwrap();
    let closed =
        std::mem::replace(&mut demo.output, BufReader::new(ChildStdout::from(std::os::fd::OwnedFd::from(reader))));
    drop(closed);
    let status = demo.child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{}", demo.stderr());
    demo.assert_nothing_is_left();
}

#[test]
fn kept_it_goes_on_until_it_is_told_to_end() {
    let _turn = my_turn();
    let mut demo = Demo::start(&["--json", "--keep"]);
    demo.steps_until("client");
    until("it says what to try", || demo.stderr().ends_with("--name web3\n\n"));
    let text = demo.stderr();
    for try_this in
        ["dig @127.0.0.1 -p ", "members --socket ", "run --config ", "kill -9 ", "demo web --listen 127.0.0.11:"]
    {
        assert!(text.contains(try_this), "{try_this}: {text}");
    }
    assert!(demo.child.try_wait().unwrap().is_none(), "it goes on");
    until("all of it runs", || demo.processes().len() >= 7);
    demo.signal(Signal::INT);
    let (status, rest) = demo.end();
    assert_eq!((status.code(), rest.as_str()), (Some(0), ""), "{}", demo.stderr());
    demo.assert_nothing_is_left();
}

#[test]
fn its_servers_run_alone_and_on_loopback_only() {
    let mut web = Demo::start(&["web", "--listen", "127.0.0.1:0", "--name", "web7"]);
    let line = web.line();
    let address: SocketAddr = line.trim().strip_prefix("web7 on http://").unwrap().parse().unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("OK web7\n"), "{answer}");
    web.signal(Signal::TERM);
    assert!(web.end().0.success());

    let dns_arguments =
        ["dns", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--api-key", "k", "--zone", "a.example."];
    let mut dns = Demo::start(&dns_arguments);
    let line = dns.line();
    assert!(line.starts_with("DNS for a.example. on 127.0.0.1:"), "{line}");
    let api: SocketAddr = line.trim().rsplit_once("http://").unwrap().1.parse().unwrap();
    let set = r#""name":"w.a.example.","type":"A","ttl":5,"changetype":"REPLACE","records":[{"content":"10.0.0.1"}]"#;
    let body = format!(r#"{{"rrsets":[{{{set}}}]}}"#);
    let mut stream = std::net::TcpStream::connect(api).unwrap();
    let request = format!(
        "PATCH /api/v1/servers/localhost/zones/a.example. HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let change: Vec<String> = (0..3).map(|_| dns.line()).collect();
    assert_eq!(change, ["serial 2\n", "  ns.a.example. 60 A 127.0.0.1\n", "  w.a.example. 5 A 10.0.0.1\n"]);
    dns.signal(Signal::INT);
    assert!(dns.end().0.success());

    for (arguments, word) in [
        (&["web", "--listen", "0.0.0.0:0", "--name", "x"][..], "loopback"),
        (&["dns", "--listen", "127.0.0.1:0", "--api", "192.0.2.1:80", "--api-key", "k"], "loopback"),
        (&["dns", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--api-key", "k", "--zone", "example.org"], "dot"),
    ] {
        let mut refused = Demo::start(arguments);
        let (status, output) = refused.end();
        assert!(!status.success() && output.is_empty(), "{arguments:?}");
        assert!(refused.stderr().contains(word), "{arguments:?}: {}", refused.stderr());
    }
}
