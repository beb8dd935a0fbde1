//! One connection to the admin socket: one request, read or refused, and one answer in JSON.
//!
//! Every path and the one method that it takes stand in [`Route`]. Nothing is decided or changed here: reading verbs are
//! answered from the published status, changing ones by whoever takes the commands. Called by the server.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::metrics::{self, Metrics};

use super::NodeStatus;
use super::commands::{self, CHANGE_TIME, Change, Commands, Refusal};

/// Room for the head of a request.
const HEAD_LIMIT: usize = 8 * 1024;

/// What can be asked for.
enum Route {
    Status,
    Members,
    Metrics,
    Upgrade(String),
    Rollback(String),
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        Some(match *parts {
            ["", "metrics"] => Self::Metrics,
            ["", "v1", "status"] => Self::Status,
            ["", "v1", "members"] => Self::Members,
            ["", "v1", "handlers", name, "upgrade"] => Self::Upgrade(name.to_owned()),
            ["", "v1", "handlers", name, "rollback"] => Self::Rollback(name.to_owned()),
            _ => return None,
        })
    }

    const fn method(&self) -> Method {
        match self {
            Self::Status | Self::Members | Self::Metrics => Method::GET,
            Self::Upgrade(_) | Self::Rollback(_) => Method::POST,
        }
    }
}

/// Serves one request. Reading it, or answering a reading one, ends within `patience`.
pub(super) async fn connection(
    stream: UnixStream,
    told: (watch::Receiver<Arc<Status>>, Metrics),
    commands: Commands,
    patience: Duration,
) {
    let may_change = commands::may_change(&stream);
    let is_changing = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        let (told, commands) = (told.clone(), commands.clone());
        let (may_change, is_changing) = (may_change.clone(), is_changing.clone());
        async move {
            let response = match answer(request, &told, &commands, may_change, &is_changing).await {
                Ok(response) => response,
                Err(refusal) => refuse(&refusal),
            };
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let mut ended = tokio::time::timeout(patience, served.as_mut()).await;
    if ended.is_err() && is_changing.load(Ordering::Relaxed) {
        ended = tokio::time::timeout(CHANGE_TIME, served).await;
    }
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a connection to the admin socket broke");
    }
}

async fn answer(
    request: Request<Incoming>,
    (status, metrics): &(watch::Receiver<Arc<Status>>, Metrics),
    commands: &Commands,
    may_change: Result<(), Refusal>,
    is_changing: &AtomicBool,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let route = Route::of(request.uri().path()).ok_or_else(|| {
        let paths =
            "/v1/status, /v1/members, /metrics, and for each handler /v1/handlers/NAME/upgrade and .../rollback";
        Refusal::new(StatusCode::NOT_FOUND, format!("no such path: there are {paths}"))
    })?;
    if *request.method() != route.method() {
        let mut response =
            refuse(&Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("use {} here", route.method())));
        let allowed = HeaderValue::from_str(route.method().as_str()).expect("a method is ASCII");
        response.headers_mut().insert(ALLOW, allowed);
        return Ok(response);
    }
    let body = request.into_body();
    let change = match route {
        Route::Members => return Ok(json(StatusCode::OK, &status.borrow().members)),
        Route::Metrics => {
            let status = Arc::clone(&status.borrow());
            let mut response = Response::new(Full::from(metrics.text(&status)));
            response.headers_mut().insert(CONTENT_TYPE, metrics::CONTENT);
            return Ok(response);
        }
        Route::Status => {
            let status = Status::clone(&status.borrow());
            return Ok(json(StatusCode::OK, &NodeStatus::of_this_process(status)));
        }
        Route::Upgrade(handler) => {
            let handler = match may_change.and_then(|()| commands::handler(&handler)) {
                Ok(handler) => handler,
                Err(refusal) => {
                    commands.pass_over(body).await;
                    return Err(refusal);
                }
            };
            Change::Upgrade { handler, component: commands.receive(body).await? }
        }
        Route::Rollback(handler) => {
            may_change?;
            commands::no_body(body).await?;
            Change::Rollback { handler: commands::handler(&handler)? }
        }
    };
    is_changing.store(true, Ordering::Relaxed);
    Ok(json(StatusCode::OK, &commands.run(change).await?))
}

fn refuse(refusal: &Refusal) -> Response<Full<Bytes>> {
    json(refusal.code, &std::collections::BTreeMap::from([("error", &refusal.reason)]))
}

fn json(code: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let mut text = serde_json::to_vec(value).expect("plain data with text as keys has a JSON form");
    text.push(b'\n');
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
