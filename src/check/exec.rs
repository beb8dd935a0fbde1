//! An exec check: a local command, run without a shell, in a process group of its own and with nothing of the daemon's
//! but the right to be its child.
//!
//! The command's own end is the end of the run, whoever still holds its output. Then, or when nobody waits for the run any
//! more (it took too long, its check is gone, the daemon ends), all of the group is killed. A run has a task of its own,
//! which stays until the command is reaped, and no other run begins before. Called by the prober.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::future::pending;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use picored_core::config::ExecCheck;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::account::Account;

/// So much of what a command writes is kept, in bytes; the rest is read and dropped.
const OUTPUT_LIMIT: usize = 4 << 10;
/// So much of its first line is told, in characters.
const LINE_LIMIT: usize = 200;
/// Where commands look for others if the daemon itself was not told.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

type Verdict = Result<(), String>;

/// What the runs of one check share.
#[derive(Debug)]
pub(super) struct Runs {
    /// As whom they run, if not as the daemon's user.
    account: Option<Account>,
    /// One at a time, until it is reaped.
    turn: Arc<Semaphore>,
}

impl Runs {
    pub(super) fn new(account: Option<Account>) -> Self {
        Self { account, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Runs the command once. The caller's patience is the limit: when this is dropped, the run is killed.
    pub(super) async fn ask(&self, check: &ExecCheck, doing: &mut &'static str) -> Verdict {
        *doing = "waiting for the end of the run before, which was killed";
        let turn = self.turn.clone().acquire_owned().await.expect("nobody closes it");
        *doing = "running the command";
        let (asker, verdict) = oneshot::channel();
        tokio::spawn(run(command(check, self.account), turn, asker));
        // Without an answer the runtime has ended, and who asked with it.
        verdict.await.unwrap_or_else(|_| Err("the run was given up".into()))
    }
}

fn command(check: &ExecCheck, account: Option<Account>) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(PATH));
    let mut command = Command::new(&check.program);
    command.args(&check.arguments).env_clear().env("PATH", path).env("LANG", "C").envs(&check.env);
    command.current_dir("/").stdin(Stdio::null()).process_group(0);
    if let Some(Account { user, group }) = account {
        // This takes the groups of the daemon's user from it as well.
        command.uid(user).gid(group);
    }
    command
}

async fn run(command: Command, turn: OwnedSemaphorePermit, mut asker: oneshot::Sender<Verdict>) {
    let program = command.get_program().to_owned();
    let verdict = follow(command, &mut asker).await.unwrap_or_else(|error| {
        let what = match error.kind() {
            io::ErrorKind::NotFound if std::path::Path::new(&program).exists() => {
                "what its first line or its header names as interpreter is not there".to_owned()
            }
            _ => error.to_string(),
        };
        Err(format!("cannot run {}: {what}", program.display()))
    });
    drop(turn);
    // Who asked may have lost patience.
    let _ = asker.send(verdict);
}

/// From the start of the command until nothing is left of it.
async fn follow(mut command: Command, asker: &mut oneshot::Sender<Verdict>) -> io::Result<Verdict> {
    // Before there is a child, so that its end is not missed.
    let mut ends = signal(SignalKind::child())?;
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut output = Output { pipe: Some(pipe::Receiver::from_owned_fd(reader.into())?), kept: Vec::new() };
    // Whoever starts a program waits for the disk that it is on: not in the daemon's one thread. The command goes with
    // its end of the pipe.
    let started = tokio::task::spawn_blocking(move || command.spawn().map(Group::new)).await;
    let mut group = started.map_err(io::Error::other)??;
    tokio::select! {
        ended = group.ended(&mut ends) => ended?,
        () = asker.closed() => {}
        never = output.take_in() => match never {},
    }
    // Its number is not another's yet, as the command was not reaped.
    group.kill();
    output.take_rest();
    group.ended(&mut ends).await?;
    Ok(verdict(group.reap()?, &output.first_line()))
}

fn verdict(status: ExitStatus, line: &str) -> Verdict {
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    };
    Err(if line.is_empty() { how } else { format!("{how}: {line}") })
}

/// A command that was started, and all in its group. Killed when dropped.
struct Group {
    leader: Child,
    is_reaped: bool,
}

impl Group {
    fn new(leader: Child) -> Self {
        Self { leader, is_reaped: false }
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.leader)
    }

    /// Waits for the end of the command, and leaves it to be reaped. `ends` are those of all children, from before its
    /// start on.
    async fn ended(&self, ends: &mut Arrivals) -> io::Result<()> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(self.id()), look)?.is_none() {
            ends.recv().await;
        }
        Ok(())
    }

    fn kill(&self) {
        // It fails where none of them is left to be killed, or may be: what was started with another's rights.
        let _ = kill_process_group(self.id(), Signal::KILL);
        // It may have left its group.
        let _ = kill_process(self.id(), Signal::KILL);
    }

    /// Only for one that has ended: else this waits.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.is_reaped = true;
        self.leader.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.kill();
        }
    }
}

/// What a command writes.
struct Output {
    /// Both of its outputs; none when that has ended.
    pipe: Option<pipe::Receiver>,
    kept: Vec<u8>,
}

impl Output {
    /// Reads on and on.
    async fn take_in(&mut self) -> Infallible {
        let mut chunk = [0; OUTPUT_LIMIT];
        while let Some(pipe) = &self.pipe {
            let read = async { pipe.readable().await.and_then(|()| pipe.try_read(&mut chunk)) };
            match read.await {
                Ok(count @ 1..) => {
                    let room = OUTPUT_LIMIT - self.kept.len();
                    self.kept.extend_from_slice(&chunk[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => self.pipe = None,
            }
            // Who writes without end gets its turn with all others.
            tokio::task::yield_now().await;
        }
        pending().await
    }

    /// Takes what is there already, as far as there is room for it. The runtime may not have looked yet, so it is not
    /// asked.
    fn take_rest(&mut self) {
        if let Some(Ok(pipe)) = self.pipe.take().map(pipe::Receiver::into_nonblocking_fd) {
            let room = OUTPUT_LIMIT - self.kept.len();
            // Where somebody still holds the other end there is no end, but what was read is kept.
            let _ = File::from(pipe).take(room as u64).read_to_end(&mut self.kept);
        }
    }

    /// The first line with anything in it, as far as it can be shown.
    fn first_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        crate::log::printable(line).chars().take(LINE_LIMIT).collect()
    }
}
