//! A cluster of picored processes for the measurements: it writes their configs, starts and kills them, and reads their
//! JSON logs line by line.
//!
//! Everything is in a temporary folder; processes end with the [`Cluster`]. It measures and judges nothing itself.
#![allow(dead_code, reason = "each program that includes it uses its own part")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use picored::admin::client;
use picored_core::status::MemberStatus;
use serde_json::Value;

/// Nothing is waited for longer.
pub(crate) const CEILING: Duration = Duration::from_secs(60);
/// Log lines that wait to be read; a node that logs more is held up.
const WAITING_LINES: usize = 4096;
/// How often a node is asked whether it sees all others.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A line of a node's log.
pub(crate) struct Line {
    /// The node's index.
    pub(crate) node: usize,
    /// What it says, by name.
    pub(crate) fields: Value,
    /// When it was read.
    pub(crate) at: Instant,
}

impl Line {
    /// A field's text; empty if it has none.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap_or_default()
    }

    /// The node and all that it wrote.
    pub(crate) fn shown(&self) -> String {
        format!("{} {}", name(self.node), self.fields)
    }

    /// Whether it says `message` of a handler's run: `started` or `ended`.
    pub(crate) fn is_run(&self, message: &str) -> bool {
        self.text("target") == "picored::delivery" && self.text("message") == message
    }
}

/// The nodes, by index; node 0 is called `web1`.
pub(crate) struct Cluster {
    picored: PathBuf,
    nodes: Vec<Option<Child>>,
    lines: Receiver<Line>,
    writer: SyncSender<Line>,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Writes the configs of as many nodes as there are addresses, each a seed of the others, with what `more` adds to
    /// one: its apps and handlers. Starts nothing.
    pub(crate) fn new(
        picored: &Path,
        addresses: &[SocketAddr],
        more: impl Fn(usize) -> String,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder can be made")?;
        let key = Command::new(picored).arg("keygen").output();
        let key = key.with_context(|| format!("{} cannot be run", picored.display()))?;
        ensure!(key.status.success(), "picored keygen failed");
        let key_file = folder.path().join("key");
        fs::write(&key_file, key.stdout)?;
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600))?;
        for (index, address) in addresses.iter().enumerate() {
            let others = addresses.iter().filter(|other| *other != address);
            let seeds: Vec<_> = others.map(|other| format!("{:?}", other.to_string())).collect();
            let (name, folder) = (name(index), folder.path().display());
            let config = format!(
                "[node]\nname = \"{name}\"\nbind = \"{address}\"\nstate_dir = \"{folder}/{name}\"\n\
                 admin_socket = \"{folder}/{name}.sock\"\n\n\
                 [cluster]\nname = \"bench\"\nseeds = [{}]\nkey_file = \"{folder}/key\"\n\n{}",
                seeds.join(", "),
                more(index)
            );
            fs::write(format!("{folder}/{name}.toml"), config)?;
        }
        let (writer, lines) = sync_channel(WAITING_LINES);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let nodes = addresses.iter().map(|_| None).collect();
        Ok(Self { picored: picored.to_owned(), nodes, lines, writer, runtime, folder })
    }

    /// Starts a node.
    pub(crate) fn start(&mut self, node: usize) -> anyhow::Result<()> {
        let program = self.picored.clone();
        self.start_by(node, Command::new(program))
    }

    /// Starts a node by a command that runs picored with the arguments that are added to it, as the same process.
    pub(crate) fn start_by(&mut self, node: usize, mut command: Command) -> anyhow::Result<()> {
        let config = self.folder.path().join(format!("{}.toml", name(node)));
        command.args(["run", "--log-format", "json", "--config"]).arg(config);
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
        let stdout = child.stdout.take().context("a pipe was asked for")?;
        self.nodes[node] = Some(child);
        let writer = self.writer.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let at = Instant::now();
                let Ok(fields) = serde_json::from_str(&line) else { continue };
                if writer.send(Line { node, fields, at }).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// The process of a node that was started.
    pub(crate) fn process(&mut self, node: usize) -> anyhow::Result<&mut Child> {
        self.nodes[node].as_mut().with_context(|| format!("{} was not started", name(node)))
    }

    /// The next line of any node for which `wanted` has an answer.
    pub(crate) fn find<T>(&self, what: &str, mut wanted: impl FnMut(&Line) -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + CEILING;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("no node logged {what} within {CEILING:?}"),
                Err(RecvTimeoutError::Disconnected) => unreachable!("this holds a sender"),
            }
        }
    }

    /// A line that has been logged and not looked at yet, if there is one.
    pub(crate) fn next_line(&self) -> Option<Line> {
        self.lines.try_recv().ok()
    }

    /// Where a node's admin socket is.
    pub(crate) fn admin_socket(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("{}.sock", name(node)))
    }

    /// Waits for what is asked over an admin socket.
    pub(crate) fn ask<T>(&self, asking: impl Future<Output = T>) -> T {
        self.runtime.block_on(asking)
    }

    /// Forgets what was logged so far.
    pub(crate) fn skip_lines(&self) {
        while self.next_line().is_some() {}
    }

    /// Waits until every node sees every node alive, with each application up, and has its handlers ready.
    pub(crate) fn wait_until_whole(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + CEILING;
        for node in 0..self.nodes.len() {
            while !self.sees_all(node) {
                ensure!(Instant::now() < deadline, "{} does not see all alive within {CEILING:?}", name(node));
                std::thread::sleep(ASK_EVERY);
            }
        }
        Ok(())
    }

    fn sees_all(&self, node: usize) -> bool {
        let socket = self.admin_socket(node);
        // Not listening yet is one more reason to ask again.
        let Ok(status) = self.ask(client::status(&socket)) else { return false };
        let well = |member: &&MemberStatus| member.state == "alive" && member.apps.iter().all(|app| app.state == "up");
        let seen = status.status.members.iter().filter(well).count();
        seen == self.nodes.len() && status.status.handlers.iter().all(|handler| handler.state == "ready")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A node's name.
pub(crate) fn name(node: usize) -> String {
    format!("web{}", node + 1)
}

/// Addresses of this machine's own whose ports are free.
pub(crate) fn local_addresses<const N: usize>() -> anyhow::Result<Vec<SocketAddr>> {
    // All are bound before one is let go, so that no two are the same.
    let sockets: Vec<_> = (0..N).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(sockets.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?)
}
