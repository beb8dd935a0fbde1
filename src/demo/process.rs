//! One process of the demo: a node or a web server, both of this very binary.
//!
//! No process outlives the demo: each is the head of a group that is killed as one, dies with its owner (also if that
//! panics), and is killed by the kernel if the demo itself is killed. What it prints goes to the [`Journal`].

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::journal::Journal;

/// The longest line taken as one, in bytes.
const LINE_LIMIT: u64 = 64 * 1024;
/// How long the last lines of a killed process are waited for.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    output: JoinHandle<()>,
    journal: watch::Sender<Journal>,
}

impl Process {
    /// Starts this binary with `arguments`, as `name` in the journal.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        arguments: impl IntoIterator<Item = A>,
        journal: &watch::Sender<Journal>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: Ctrl-C in the terminal reaches the demo alone, which then ends its processes in order.
        command.process_group(0).kill_on_drop(true);
        #[cfg(target_os = "linux")]
        die_with_parent(&mut command);
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the new process has no id")?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        journal.send_modify(|journal| journal.begin(name));
        let (writer, process) = (journal.clone(), name.to_owned());
        let output = tokio::spawn(async move {
            tokio::join!(copy_lines(stdout, &process, &writer), copy_lines(stderr, &process, &writer));
            writer.send_modify(|journal| journal.end(&process));
        });
        Ok(Self { name: name.into(), child, pid, output, journal: journal.clone() })
    }

    /// The process's id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Kills it and all that it started, at once, and waits until it is gone and its last lines are read.
    pub async fn kill(mut self) {
        self.journal.send_modify(|journal| journal.expect_end(&self.name));
        self.kill_group();
        // Nothing to be done about a process that cannot be waited for.
        let _ = self.child.wait().await;
        let _ = timeout(LAST_LINES, &mut self.output).await;
    }

    fn kill_group(&self) {
        // Until the child has been waited for, its id cannot be another's.
        if self.child.id().is_some() {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Has the kernel kill the process once its parent is gone, however that went.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let tie = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have gone before the tie was made.
        match rustix::process::getppid() {
            Some(now) if now == parent => Ok(()),
            _ => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    };
    // SAFETY: `tie` runs between fork and exec; it makes two system calls, takes no lock and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

async fn copy_lines(stream: Option<impl AsyncRead + Unpin>, process: &str, journal: &watch::Sender<Journal>) {
    let Some(stream) = stream else { return };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => journal.send_modify(|journal| journal.line(process, String::from_utf8_lossy(&line).trim_end())),
        }
    }
}
