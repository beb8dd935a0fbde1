//! Asks a running daemon over its admin socket. Called by the CLI's verbs, and whoever else wants to know.
//!
//! Waits for a bounded time and reads a bounded answer; every error says what to do about it.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use picored_core::event::{DeliveryId, EventKind};
use picored_core::name::{AppName, HandlerName, HoldName, NodeName};
use picored_core::status::{HandlerStatus, MemberStatus};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::commands::{CHANGE_TIME, MAX_REASON};
use super::{
    Beaten, Deliveries, Forgotten, HandlerChange, HandlerRun, Held, Leaving, Maintained, NodeStatus, Redelivered,
    Reloaded,
};
use crate::events::Wanted;

/// From the connection to the last byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for an answer: thousands of members.
const ANSWER_LIMIT: usize = 16 << 20;
/// Room for one event.
const LINE_LIMIT: usize = 64 << 10;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No file there.
    #[error(
        "no daemon at {}: there is no such socket. Start one with `picored run`, or say where its socket is with \
         --socket or --config", .0.display()
    )]
    Missing(PathBuf),
    /// A file, but no socket.
    #[error("{} is not a socket: name the admin_socket of the daemon's config with --socket or --config", .0.display())]
    NotASocket(PathBuf),
    /// A socket that a dead daemon left.
    #[error("no daemon listens on {}: it has died or is being stopped. Start it with `picored run`", .0.display())]
    NobodyListens(PathBuf),
    /// Not for this user.
    #[error("no permission to use {}: run this as root or as a member of the group {group}", .path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
        /// The id of the group that may use it; `?` where not even that can be seen.
        group: String,
    },
    /// It is there, but says nothing.
    #[error("the daemon at {} has not answered within {_1:?}: it is stopped or overloaded", .0.display())]
    Timeout(PathBuf, Duration),
    /// It said no.
    #[error("the daemon at {} refused ({status}): {text}", .path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The HTTP status.
        status: u16,
        /// Why, or the beginning of what it said.
        text: String,
    },
    /// It was followed, and is gone.
    #[error("the daemon at {} has ended, or was told to end this connection", .0.display())]
    Ended(PathBuf),
    /// What listens there is no picored, or one of another version.
    #[error("what listens on {} does not speak as this picored does ({reason}): are their versions equal?", .path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

/// `GET /v1/status`.
pub async fn status(socket: &Path) -> Result<NodeStatus, ClientError> {
    get(socket, "/v1/status", PATIENCE).await
}

/// `GET /v1/members`.
pub async fn members(socket: &Path) -> Result<Vec<MemberStatus>, ClientError> {
    get(socket, "/v1/members", PATIENCE).await
}

/// `POST /v1/handlers/NAME/upgrade`: `component` takes the handler over.
pub async fn upgrade(socket: &Path, handler: &HandlerName, component: Vec<u8>) -> Result<HandlerChange, ClientError> {
    post(socket, format!("/v1/handlers/{handler}/upgrade"), component).await
}

/// `POST /v1/handlers/NAME/rollback`: the version before takes the handler over again.
pub async fn rollback(socket: &Path, handler: &HandlerName) -> Result<HandlerChange, ClientError> {
    post(socket, format!("/v1/handlers/{handler}/rollback"), Vec::new()).await
}

/// `POST /v1/members/NAME/forget`.
pub async fn forget(socket: &Path, member: &NodeName) -> Result<Forgotten, ClientError> {
    post(socket, format!("/v1/members/{member}/forget"), Vec::new()).await
}

/// `POST /v1/leave`: the node leaves, `now` or when its visitors have gone.
pub async fn leave(socket: &Path, now: bool) -> Result<Leaving, ClientError> {
    post(socket, if now { "/v1/leave?now" } else { "/v1/leave" }.to_owned(), Vec::new()).await
}

/// `GET /v1/deliveries`.
pub async fn deliveries(socket: &Path) -> Result<Deliveries, ClientError> {
    get(socket, "/v1/deliveries", PATIENCE).await
}

/// `POST /v1/deliveries/HANDLER/NUMBER/redeliver`: what was given up is in line again.
pub async fn redeliver(socket: &Path, delivery: &DeliveryId) -> Result<Redelivered, ClientError> {
    post(socket, format!("/v1/deliveries/{delivery}/redeliver"), Vec::new()).await
}

/// `POST /v1/maintenance`: what is in maintenance then.
pub async fn maintenance(
    socket: &Path,
    app: Option<&AppName>,
    on: bool,
    limit: Option<Duration>,
) -> Result<Vec<Maintained>, ClientError> {
    let app = app.map(|app| format!("&app={app}")).unwrap_or_default();
    let limit = limit.map(|limit| format!("&for={}", whole_seconds(limit))).unwrap_or_default();
    post(socket, format!("/v1/maintenance?{}{app}{limit}", if on { "on" } else { "off" }), Vec::new()).await
}

/// A part of a second more is not missed.
fn whole_seconds(limit: Duration) -> f64 {
    limit.as_secs_f64().ceil()
}

/// `POST /v1/hold/NAME`: what is held there then.
pub async fn hold(socket: &Path, name: &HoldName, limit: Option<Duration>) -> Result<Vec<Held>, ClientError> {
    let limit = limit.map(|limit| format!("?for={}", whole_seconds(limit))).unwrap_or_default();
    post(socket, format!("/v1/hold/{name}{limit}"), Vec::new()).await
}

/// `POST /v1/release/NAME`: what is still held there.
pub async fn release(socket: &Path, name: &HoldName) -> Result<Vec<Held>, ClientError> {
    post(socket, format!("/v1/release/{name}"), Vec::new()).await
}

/// `POST /v1/apps/NAME/beat`: the application is well, or fails for this reason.
pub async fn beat(socket: &Path, app: &AppName, fails: bool, reason: Option<&str>) -> Result<Beaten, ClientError> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if fails {
        query.append_key_only("fail");
    }
    if let Some(reason) = reason {
        query.append_pair("reason", &reason.chars().take(MAX_REASON).collect::<String>());
    }
    post(socket, format!("/v1/apps/{app}/beat?{}", query.finish()), Vec::new()).await
}

/// `GET /v1/handlers`.
pub async fn handlers(socket: &Path) -> Result<Vec<HandlerStatus>, ClientError> {
    get(socket, "/v1/handlers", PATIENCE).await
}

/// `POST /v1/handlers/NAME/run`: the handler is told of `event` once.
pub async fn run(
    socket: &Path,
    handler: &HandlerName,
    event: EventKind,
    app: Option<&AppName>,
    dry_run: bool,
) -> Result<HandlerRun, ClientError> {
    let app = app.map(|app| format!("&app={app}")).unwrap_or_default();
    let dry_run = if dry_run { "&dry-run" } else { "" };
    post(socket, format!("/v1/handlers/{handler}/run?event={event}{app}{dry_run}"), Vec::new()).await
}

/// `GET /v1/events`: hands each line to `take` until there are no more, or it wants no more. Where it follows, which goes on
/// until the daemon ends, the end is an error.
pub async fn events(
    socket: &Path,
    wanted: &Wanted,
    mut take: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ClientError> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if wanted.follow {
        query.append_key_only("follow");
    }
    query.extend_pairs(wanted.since.iter().map(|since| ("since", since)));
    query.extend_pairs(wanted.kinds.iter().map(|kind| ("kind", kind)));
    let request = Request::get(format!("/v1/events?{}", query.finish())).header(HOST, "picored").body(Full::default());
    let request = request.expect("the parts are constants of ours");
    let protocol = |reason: String| ClientError::Protocol { path: socket.to_owned(), reason };
    let begin = tokio::time::timeout(PATIENCE, begin(socket, request));
    let (response, _connection) = begin.await.map_err(|_| ClientError::Timeout(socket.to_owned(), PATIENCE))??;
    let status = response.status();
    let mut body = response.into_body();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ClientError::Ended(socket.to_owned()))?;
        rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n').filter(|_| status == StatusCode::OK) {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = String::from_utf8(line).map_err(|error| protocol(error.to_string()))?;
            if take(line.trim_end()).is_break() {
                return Ok(());
            }
        }
        if rest.len() > LINE_LIMIT {
            return Err(protocol(format!("a line of more than {LINE_LIMIT} bytes")));
        }
    }
    match status {
        StatusCode::OK if wanted.follow => Err(ClientError::Ended(socket.to_owned())),
        StatusCode::OK => Ok(()),
        _ => Err(refused(socket, status, &rest)),
    }
}

/// `POST /v1/reload`: the config of its file is taken in, or with `dry_run` only compared and tried.
pub async fn reload(socket: &Path, dry_run: bool) -> Result<Reloaded, ClientError> {
    post(socket, format!("/v1/reload{}", if dry_run { "?dry-run" } else { "" }), Vec::new()).await
}

/// The whole exchange ends within `patience`.
pub(super) async fn get<T: DeserializeOwned>(
    socket: &Path,
    target: &'static str,
    patience: Duration,
) -> Result<T, ClientError> {
    let request = Request::get(target).header(HOST, "picored").body(Full::default());
    ask(socket, request.expect("the parts are constants of ours"), patience).await
}

async fn post<T: DeserializeOwned>(socket: &Path, target: String, body: Vec<u8>) -> Result<T, ClientError> {
    let request = Request::post(target).header(HOST, "picored").body(Full::from(body));
    // The daemon gives up first, and says so.
    ask(socket, request.expect("names fit into a path"), CHANGE_TIME + PATIENCE).await
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> Result<T, ClientError> {
    let answer = tokio::time::timeout(patience, exchange(socket, request));
    let (status, body) = answer.await.map_err(|_| ClientError::Timeout(socket.to_owned(), patience))??;
    if status != StatusCode::OK {
        return Err(refused(socket, status, &body));
    }
    serde_json::from_slice(&body)
        .map_err(|error| ClientError::Protocol { path: socket.to_owned(), reason: error.to_string() })
}

fn refused(socket: &Path, status: StatusCode, body: &[u8]) -> ClientError {
    ClientError::Refused { path: socket.to_owned(), status: status.as_u16(), text: reason(body) }
}

/// What a refusal says; each line of it keeps to itself.
fn reason(body: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = json.as_ref().and_then(|json| json["error"].as_str()).map(str::to_owned);
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().chars().take(200).collect());
    said.lines().map(crate::log::printable).collect::<Vec<_>>().join("\n")
}

async fn exchange(socket: &Path, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ClientError> {
    let protocol = |reason: String| ClientError::Protocol { path: socket.to_owned(), reason };
    let (response, _connection) = begin(socket, request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
    Ok((status, body.map_err(|error| protocol(error.to_string()))?.to_bytes()))
}

/// Asks, and waits for the head of the answer. The connection lives as long as the second value.
async fn begin(socket: &Path, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, JoinSet<()>), ClientError> {
    let protocol = |reason: String| ClientError::Protocol { path: socket.to_owned(), reason };
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let (mut sender, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|error| protocol(error.to_string()))?;
    let mut driver = JoinSet::new();
    // How it went shows in the answer.
    driver.spawn(async { drop(connection.await) });
    let response = sender.send_request(request).await.map_err(|error| protocol(error.to_string()))?;
    Ok((response, driver))
}

/// Why the socket took no connection.
fn unreachable(socket: &Path, error: &io::Error) -> ClientError {
    let path = socket.to_owned();
    let found = fs::metadata(socket);
    match error.kind() {
        io::ErrorKind::NotFound => ClientError::Missing(path),
        io::ErrorKind::PermissionDenied => {
            let group = found.map_or_else(|_| "?".into(), |found| found.gid().to_string());
            ClientError::Permission { path, group }
        }
        io::ErrorKind::ConnectionRefused if found.is_ok_and(|found| !found.file_type().is_socket()) => {
            ClientError::NotASocket(path)
        }
        io::ErrorKind::ConnectionRefused => ClientError::NobodyListens(path),
        _ => ClientError::Protocol { path, reason: error.to_string() },
    }
}
