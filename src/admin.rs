//! The admin socket: what this node says of itself and what it can be told to do, as HTTP/JSON over a Unix socket.
//!
//! Reading verbs are `GET`, for whoever the socket file's owner and mode (0660) let in. They are answered from the
//! status that the driver publishes, so no number of questions slows the gossip. Changing verbs are `POST`, for root and
//! the daemon's own user alone, and become commands to the driver. The daemon serves it; the CLI and `curl
//! --unix-socket` ask.

pub mod client;
mod commands;
mod follow;
mod routes;
mod upload;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picored_core::status::{DeliveryStatus, RecordedRequest, Status};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::events::Events;
use crate::memory;
use crate::metrics::Metrics;

pub use self::commands::{
    Answer, Beaten, Change, Command, Commands, Forgotten, Held, Leaving, Maintained, Redelivered, Refusal, Reloaded,
};
pub use self::upload::Upload;

/// The socket file's rights: its owner and its group may ask.
const MODE: u32 = 0o660;
/// So many wait to be served.
const BACKLOG: i32 = 64;
/// So many connections are served at a time; others wait in the socket's queue.
const CONNECTIONS: usize = 16;
/// So many of them may follow events, which has no end.
const FOLLOWERS: usize = 4;
/// From the connection's start to its end, but for what the daemon takes to do what it is told.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Rest after the system could not give us a connection, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The answer to `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// picored's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// See [`memory::Memory`].
    pub resident_bytes: Option<u64>,
    /// See [`memory::Memory`].
    pub anonymous_bytes: Option<u64>,
    /// What the node knows.
    #[serde(flatten)]
    pub status: Status,
}

impl NodeStatus {
    /// This process's, with the figures of this moment.
    pub fn of_this_process(status: Status) -> Self {
        let memory::Memory { resident_bytes, anonymous_bytes } = memory::current();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { version, pid: std::process::id(), resident_bytes, anonymous_bytes, status }
    }
}

/// The answer to `POST /v1/handlers/NAME/upgrade` and `.../rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerChange {
    /// The handler.
    pub handler: String,
    /// The component that runs from now on: its SHA-256 in hexadecimal digits.
    pub version: String,
    /// The one that ran until now, if one did; the same one if nothing had to be done.
    pub before: Option<String>,
}

/// The answer to `POST /v1/handlers/NAME/run?event=KIND&app=NAME`, where `&dry-run` may follow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HandlerRun {
    /// The handler.
    pub handler: String,
    /// The kind of event it was told of.
    pub event: String,
    /// The scope's name: the application's, else the handler's.
    pub scope: String,
    /// The delivery; none of a dry run, which is no delivery.
    pub delivery: Option<String>,
    /// What became of it.
    pub outcome: Option<String>,
    /// How the run ended: `done`, `retry`, `retry-after`, `permanent`, or why the host stopped it; none if it did not run.
    pub ended_as: Option<String>,
    /// Whether it says that it changed the world outside.
    pub changed: bool,
    /// What it said.
    pub text: String,
    /// How long it ran.
    pub run_ms: f64,
    /// What a dry run sent or would have sent, in order; of a real run nothing is recorded.
    pub requests: Vec<RecordedRequest>,
}

/// The answer to `GET /v1/deliveries`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliveries {
    /// Those that run or wait, by handler and scope.
    pub pending: Vec<DeliveryStatus>,
    /// Those that were given up, the oldest first.
    pub dead: Vec<DeliveryStatus>,
}

impl Deliveries {
    fn of(status: &Status) -> Self {
        let dead = status.dead.iter().map(|letter| DeliveryStatus::from(&**letter)).collect();
        Self { pending: status.deliveries.clone(), dead }
    }
}

/// A bound admin socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
    connection_time: Duration,
}

/// Where answers come from. Cheap to clone.
#[derive(Clone)]
struct Sources {
    status: watch::Receiver<Arc<Status>>,
    metrics: Metrics,
    events: Events,
    followers: Arc<Semaphore>,
    commands: Commands,
}

/// The socket's file: removed with this, unless somebody has put another in its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |found: &fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(|found| ours(&found)) {
            // The next start removes what is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Server {
    /// Binds `path` (0660), in a tokio runtime. A socket there on which nobody listens is replaced.
    ///
    /// # Errors
    /// If somebody listens there, if what is there is no socket, or if the system refuses; each names the path.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let failed = |text: String| move |error: io::Error| io::Error::new(error.kind(), format!("{text}: {error}"));
        let shown = path.display();
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let text =
                    format!("{shown} is there already and is no socket: move it away, or set another admin_socket");
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            Ok(_) if somebody_listens(path) => {
                let text = format!(
                    "another picored is listening on {shown}: stop it, or give this node an admin_socket of its own"
                );
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
            Ok(_) => fs::remove_file(path).map_err(failed(format!("cannot remove the dead admin socket {shown}")))?,
            // Nothing there, or nothing to be seen: binding will tell.
            Err(_) => {}
        }
        let (listener, found) = listen(path).map_err(failed(format!("cannot bind the admin socket {shown}")))?;
        let file = SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() };
        Ok(Self { listener, file, connection_time: CONNECTION_TIME })
    }

    /// Answers until it is dropped, and the socket's file goes with it. What it is told to do goes to `commands`.
    pub async fn serve(
        self,
        status: watch::Receiver<Arc<Status>>,
        metrics: Metrics,
        events: Events,
        commands: Commands,
    ) {
        let Self { listener, file: _file, connection_time } = self;
        let sources = Sources { status, metrics, events, followers: Arc::new(Semaphore::new(FOLLOWERS)), commands };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(routes::connection(stream, sources.clone(), connection_time));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the admin socket cannot take a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// Whether the socket at `path` is anyone's. Only a clear no is one: the queue of a stopped daemon may be full, and
/// another user's socket may be closed to us.
fn somebody_listens(path: &Path) -> bool {
    // A dial that would have to wait is told so and does not hang the start.
    let dialled = SocketAddrUnix::new(path).and_then(|address| connect(unix_socket()?, &address));
    !matches!(dialled, Err(Errno::CONNREFUSED | Errno::NOENT))
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Binds and listens; at no moment does the file have more rights than it shall have.
fn listen(path: &Path) -> io::Result<(UnixListener, fs::Metadata)> {
    let socket = unix_socket()?;
    // Linux gives the file these rights less the umask, then the umask's part is put back. Systems that cannot set a
    // socket's rights before it has a file have the second step alone.
    let _ = fchmod(&socket, Mode::from_raw_mode(MODE));
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let found = fs::symlink_metadata(path)?;
    fs::set_permissions(path, PermissionsExt::from_mode(MODE))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((UnixListener::from_std(socket.into())?, found))
}

#[cfg(test)]
mod tests;
