//! `examples/three-nodes` as its README has it typed: every `picored` command of it, in order, in a copy of the folder, and the
//! one that writes the secret.
//!
//! Only the ports are other ones, so that this can run beside whatever else runs on the machine.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/three-nodes");
const HOSTS: [&str; 4] = ["127.0.0.1", "127.0.0.11", "127.0.0.12", "127.0.0.13"];

/// What the record's next change may take. It takes seconds.
const CEILING: Duration = Duration::from_secs(60);

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    receiver
}

/// A port that is free on all of the example's addresses, for UDP and TCP, and is none of `taken`.
fn free_port(taken: &[(&str, u16)]) -> u16 {
    let free = |port: u16| {
        HOSTS.iter().all(|host| TcpListener::bind((*host, port)).is_ok() && UdpSocket::bind((*host, port)).is_ok())
    };
    (0..1000)
        .map(|_| TcpListener::bind((HOSTS[0], 0)).unwrap().local_addr().unwrap().port())
        .find(|port| free(*port) && taken.iter().all(|(_, taken)| taken != port))
        .unwrap()
}

fn with_ports(text: &str, ports: &[(&str, u16)]) -> String {
    ports.iter().fold(text.into(), |text, (from, to)| text.replace(&format!(":{from}"), &format!(":{to}")))
}

fn copy(folder: &Path, ports: &[(&str, u16)]) {
    for name in ["web1.toml", "web2.toml", "web3.toml"] {
        let text = fs::read_to_string(format!("{FOLDER}/{name}")).unwrap();
        fs::write(folder.join(name), with_ports(&text, ports)).unwrap();
    }
}

#[test]
fn the_readme_is_what_works() {
    let mut ports = Vec::new();
    for used in ["5300", "8081", "8080", "7946"] {
        ports.push((used, free_port(&ports)));
    }
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path(), &ports);
    let readme = fs::read_to_string(format!("{FOLDER}/README.md")).unwrap();
    let secret = readme.lines().find_map(|line| line.strip_prefix("$ ").filter(|line| line.contains("> api.key")));
    let written = Command::new("sh").args(["-c", secret.unwrap()]).current_dir(folder.path()).status().unwrap();
    assert!(written.success());
    let commands =
        readme.lines().filter_map(|line| line.strip_prefix("$ picored ")).map(|line| with_ports(line, &ports));

    let (mut running, mut zone, mut seen) = (Vec::new(), None, BTreeSet::new());
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let log = folder.path().join(format!("{}.log", running.len()));
        let mut process = Command::new(env!("CARGO_BIN_EXE_picored"));
        process.args(&words).current_dir(folder.path()).stdin(Stdio::null());
        match words[0] {
            "demo" | "run" => {
                let zone_server = words.get(1) == Some(&"dns");
                let output = if zone_server { Stdio::piped() } else { File::create(&log).unwrap().into() };
                let mut child = process.stdout(output).spawn().unwrap();
                if zone_server {
                    let lines = lines(child.stdout.take().unwrap());
                    assert!(lines.recv_timeout(CEILING).unwrap().starts_with("DNS for example.org. on "));
                    zone = Some(lines);
                }
                running.push(Running(child));
            }
            verb => {
                if running.len() == 7 && !seen.contains("members") {
                    // The README says next that the record has all three: the test waits for it as a reader would.
                    let all = "  www.example.org. 30 A 127.0.0.11 127.0.0.12 127.0.0.13";
                    while zone.as_ref().unwrap().recv_timeout(CEILING).unwrap() != all {}
                }
                let output = process.output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
                assert!(verb == "keygen" || text.contains("web1"), "{command}: {text}");
            }
        }
        seen.insert(words[0].to_owned());
    }
    assert_eq!(running.len(), 7, "a DNS server, three websites, three nodes");
    assert_eq!(seen.iter().collect::<Vec<_>>(), ["check", "demo", "keygen", "members", "run", "status"]);
}
