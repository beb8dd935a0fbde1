//! The admin socket: what this node says of itself, as HTTP/JSON over a Unix socket.
//!
//! `GET /v1/status` and `GET /v1/members`; nothing here changes anything. Who may ask is for the socket file's owner and
//! mode (0660) to say. The daemon serves it from the status that the driver publishes and never asks the driver itself,
//! so no number of questions slows the gossip; `picored members`, `picored status` and `curl --unix-socket` ask.

pub mod client;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use picored_core::status::Status;
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::memory;

/// The socket file's rights: its owner and its group may ask.
const MODE: u32 = 0o660;
/// So many wait to be served.
const BACKLOG: i32 = 64;
/// So many connections are served at a time; others wait in the socket's queue.
const CONNECTIONS: usize = 16;
/// From the connection's start to its end.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Room for the head of a request. Bodies are not read at all.
const HEAD_LIMIT: usize = 8 * 1024;
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

/// A bound admin socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
    connection_time: Duration,
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

    /// Answers until it is dropped, and the socket's file goes with it.
    pub async fn serve(self, status: watch::Receiver<Arc<Status>>) {
        let Self { listener, file: _file, connection_time } = self;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let served = connection(stream, status.clone());
                        connections.spawn(tokio::time::timeout(connection_time, served));
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

/// One connection, one request.
async fn connection(stream: UnixStream, status: watch::Receiver<Arc<Status>>) {
    let service = service_fn(move |request| {
        let response = answer(&request, &status);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the admin socket broke");
    }
}

fn answer(request: &Request<Incoming>, status: &watch::Receiver<Arc<Status>>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/v1/status" | "/v1/members") {
        return refuse(StatusCode::NOT_FOUND, "no such path: there are /v1/status and /v1/members");
    }
    if request.method() != Method::GET {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "this can be read only: use GET");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let status = Arc::clone(&status.borrow());
    if path == "/v1/members" {
        json(StatusCode::OK, &status.members)
    } else {
        json(StatusCode::OK, &NodeStatus::of_this_process(Status::clone(&status)))
    }
}

fn refuse(code: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    json(code, &std::collections::BTreeMap::from([("error", reason)]))
}

fn json(code: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let mut text = serde_json::to_vec(value).expect("plain data with text as keys has a JSON form");
    text.push(b'\n');
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
