//! One `picored run`: started with its log in JSON, watched line by line, asked over its admin socket, and killed when it
//! is dropped or when its test dies.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use picored::admin::client;
use picored_core::status::{HandlerStatus, MemberStatus, Status};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::watch;

use crate::site::{Setup, Site};
use crate::wait::found;

/// A line that a node logged; what is no JSON, such as the last words on standard error, is a string.
pub(crate) type Line = Value;

/// Whether a line has this target and message.
pub(crate) fn is(line: &Line, target: &str, message: &str) -> bool {
    line["target"] == target && line["message"] == message
}

/// Whether a line tells of an event of this kind about this member.
pub(crate) fn is_event(line: &Line, kind: &str, member: &str) -> bool {
    is(line, "picored::event", kind) && line["member"] == member
}

/// Whether a line tells that a run of `handler` ended.
pub(crate) fn has_ended(line: &Line, handler: &str) -> bool {
    is(line, "picored::delivery", "ended") && line["handler"] == handler
}

/// The generation of `name`, if it is alive.
pub(crate) fn alive(status: &Status, name: &str) -> Option<u64> {
    status.members.iter().find(|member| member.name == name && member.state == "alive").map(|member| member.generation)
}

/// How a node ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) lines: Vec<Line>,
    pub(crate) stderr: String,
}

/// A running node.
pub(crate) struct Node<'s> {
    site: &'s Site,
    name: String,
    socket: PathBuf,
    child: Child,
    lines: watch::Receiver<Vec<Line>>,
    stderr: Option<thread::JoinHandle<String>>,
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'s> Node<'s> {
    pub(crate) fn start(site: &'s Site, setup: &Setup, config: &Path) -> Self {
        // The long run takes a release build.
        let program = std::env::var_os("PICORED").unwrap_or_else(|| env!("CARGO_BIN_EXE_picored").into());
        let mut command = Command::new(program);
        command.args(["run", "--log-format", "json", "--config"]).arg(config).env_remove("NO_COLOR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        die_with_test(&mut command);
        let mut child = command.spawn().unwrap();
        let (stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (writer, lines) = watch::channel(Vec::new());
        thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&text).unwrap_or(Value::String(text));
                writer.send_modify(|lines: &mut Vec<Line>| lines.push(line));
            }
        });
        let stderr = Some(thread::spawn(move || {
            let mut text = String::new();
            // What is not UTF-8 is no word of picored's.
            let _ = stderr.read_to_string(&mut text);
            text
        }));
        Self { site, name: setup.name.clone(), socket: setup.socket.clone(), child, lines, stderr }
    }

    /// All that it logs.
    pub(crate) fn log(&self) -> watch::Receiver<Vec<Line>> {
        self.lines.clone()
    }

    /// The lines so far that `is`.
    pub(crate) fn logged(&self, is: impl Fn(&Line) -> bool) -> Vec<Line> {
        self.lines.borrow().iter().filter(|line| is(line)).cloned().collect()
    }

    /// Waits until it has logged `count` lines that `is`, and gives these.
    pub(crate) async fn logs(&self, what: &str, count: usize, is: impl Fn(&Line) -> bool) -> Vec<Line> {
        let found = |lines: &Vec<Line>| lines.iter().filter(|line| is(line)).count() >= count;
        let mut log = self.lines.clone();
        let what = format!("{} logs {what}", self.name);
        // The log's end fails at once, as nothing more can come.
        let open = self.site.until(&what, log.wait_for(found)).await.is_ok();
        assert!(open, "the node ended before this: {what}{}", self.site.last_lines());
        self.logged(is)
    }

    /// Waits until it has found its cluster.
    pub(crate) async fn joined(&self) -> Line {
        self.logs("that it joined", 1, |line| is(line, "picored::node", "joined")).await.remove(0)
    }

    /// Waits for the event of this kind about this member.
    pub(crate) async fn notices(&self, kind: &str, member: &str) {
        self.logs(&format!("{kind} of {member}"), 1, |line| is_event(line, kind, member)).await;
    }

    /// Where it gossips, once it does.
    pub(crate) async fn address(&self) -> SocketAddr {
        let lines = self.logs("that it listens", 1, |line| is(line, "picored::node", "listening")).await;
        lines[0]["address"].as_str().unwrap().parse().unwrap()
    }

    /// Its generation, once it listens.
    pub(crate) async fn generation(&self) -> u64 {
        let lines = self.logs("that it listens", 1, |line| is(line, "picored::node", "listening")).await;
        lines[0]["generation"].as_u64().unwrap()
    }

    /// What it says of itself now.
    pub(crate) async fn status(&self) -> Status {
        let asked = client::status(&self.socket).await;
        asked.unwrap_or_else(|error| panic!("{}: {error}{}", self.name, self.site.last_lines())).status
    }

    /// What it says to `picored reload` with these flags: exit code, standard output, standard error.
    pub(crate) async fn reload(&self, flags: &[&str]) -> (Option<i32>, String, String) {
        self.told(&[&["reload"], flags].concat()).await
    }

    /// What it says to `picored` with these arguments: exit code, standard output, standard error.
    pub(crate) async fn told(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_picored"));
        command.args(arguments).arg("--socket").arg(&self.socket).stdin(Stdio::null()).kill_on_drop(true);
        let said = self.site.until(&format!("picored {arguments:?} ends"), command.output()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (said.status.code(), text(said.stdout), text(said.stderr))
    }

    /// Asks until it shows what `look` looks for.
    pub(crate) async fn shows<T>(&self, what: &str, look: impl Fn(&Status) -> Option<T>) -> T {
        // Until it has its socket it cannot be asked.
        let ask = async || client::status(&self.socket).await.ok().and_then(|answer| look(&answer.status));
        self.site.until(&format!("{} shows {what}", self.name), found(ask)).await
    }

    /// Waits until it has joined and sees exactly these members, all alive.
    pub(crate) async fn sees(&self, members: &[&str]) -> Vec<MemberStatus> {
        let all = |status: &Status| {
            let alive = status.members.iter().all(|member| member.state == "alive");
            let names: Vec<_> = status.members.iter().map(|member| member.name.as_str()).collect();
            (status.state == "joined" && alive && names == members).then(|| status.members.clone())
        };
        self.shows(&format!("{members:?}"), all).await
    }

    /// Waits until `look` likes what it says of `handler`.
    pub(crate) async fn shows_handler(&self, handler: &str, what: &str, look: impl Fn(&HandlerStatus) -> bool) {
        let find = |status: &Status| status.handlers.iter().any(|it| it.name == handler && look(it)).then_some(());
        self.shows(&format!("{handler}: {what}"), find).await;
    }

    /// Its admin socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself, or by a signal.
    pub(crate) async fn end(mut self) -> Ended {
        let mut log = self.lines.clone();
        let closed = log.wait_for(|_| false);
        let _ = self.site.until(&format!("{} ends", self.name), closed).await;
        let status = self.child.wait().unwrap();
        let stderr = self.stderr.take().map(|reader| reader.join().unwrap()).unwrap_or_default();
        Ended { status, lines: self.logged(|_| true), stderr }
    }
}

/// Has the kernel kill the process when the test's thread is gone, however that went.
#[allow(unsafe_code)]
pub(crate) fn die_with_test(command: &mut Command) {
    let test = rustix::process::getpid();
    let tie = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The test may have gone before the tie was made.
        match rustix::process::getppid() {
            Some(now) if now == test => Ok(()),
            _ => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    };
    // SAFETY: `tie` runs between fork and exec; it makes two system calls, takes no lock and allocates nothing.
    unsafe { command.pre_exec(tie) };
}
