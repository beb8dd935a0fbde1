//! One connection to the admin socket: one request, read or refused, and one answer in JSON.
//!
//! Every path and the one method that it takes stand in [`Route`]. Nothing is decided or changed here: reading verbs are
//! answered from the published status, changing ones by whoever takes the commands. Called by the server.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use picored_core::status::Status;
use serde::Serialize;
use tokio::net::UnixStream;

use crate::metrics;

use super::commands::{self, CHANGE_TIME, Change, Refusal};
use super::follow::Follow;
use super::{Deliveries, FOLLOWERS, NodeStatus, Sources};

/// Room for the head of a request.
const HEAD_LIMIT: usize = 8 * 1024;

/// What can be asked for.
enum Route {
    Status,
    Members,
    Metrics,
    Handlers,
    Events,
    Deliveries,
    Redeliver { handler: String, number: String },
    Upgrade(String),
    Rollback(String),
    Run(String),
    Forget(String),
    Leave,
    Maintenance,
    Hold(String),
    Release(String),
    Beat(String),
    Reload,
}

/// Most answers are there as a whole; that to who follows events never is.
type Body = Either<Full<Bytes>, Follow>;

impl Route {
    fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        Some(match *parts {
            ["", "metrics"] => Self::Metrics,
            ["", "v1", "status"] => Self::Status,
            ["", "v1", "members"] => Self::Members,
            ["", "v1", "handlers"] => Self::Handlers,
            ["", "v1", "events"] => Self::Events,
            ["", "v1", "deliveries"] => Self::Deliveries,
            ["", "v1", "deliveries", handler, number, "redeliver"] => {
                Self::Redeliver { handler: handler.to_owned(), number: number.to_owned() }
            }
            ["", "v1", "handlers", name, "run"] => Self::Run(name.to_owned()),
            ["", "v1", "members", name, "forget"] => Self::Forget(name.to_owned()),
            ["", "v1", "leave"] => Self::Leave,
            ["", "v1", "maintenance"] => Self::Maintenance,
            ["", "v1", "hold", name] => Self::Hold(name.to_owned()),
            ["", "v1", "release", name] => Self::Release(name.to_owned()),
            ["", "v1", "apps", name, "beat"] => Self::Beat(name.to_owned()),
            ["", "v1", "reload"] => Self::Reload,
            ["", "v1", "handlers", name, "upgrade"] => Self::Upgrade(name.to_owned()),
            ["", "v1", "handlers", name, "rollback"] => Self::Rollback(name.to_owned()),
            _ => return None,
        })
    }

    const fn method(&self) -> Method {
        match self {
            Self::Status | Self::Members | Self::Handlers | Self::Metrics | Self::Events | Self::Deliveries => {
                Method::GET
            }
            Self::Redeliver { .. }
            | Self::Upgrade(_)
            | Self::Rollback(_)
            | Self::Run(_)
            | Self::Forget(_)
            | Self::Leave
            | Self::Maintenance
            | Self::Hold(_)
            | Self::Release(_)
            | Self::Beat(_)
            | Self::Reload => Method::POST,
        }
    }
}

/// Serves one request. Reading it, or answering a reading one, ends within `patience`; following does not.
pub(super) async fn connection(stream: UnixStream, sources: Sources, patience: Duration) {
    let may_change = commands::may_change(&stream);
    let extension = Arc::new(OnceLock::new());
    let service = service_fn(|request| {
        let (sources, may_change, extension) = (sources.clone(), may_change.clone(), extension.clone());
        async move {
            let response = match answer(request, &sources, may_change, &extension).await {
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
    if ended.is_err() {
        ended = match extension.get() {
            Some(Extension::Change) => tokio::time::timeout(CHANGE_TIME, served).await,
            Some(Extension::Follow) => Ok(served.await),
            None => ended,
        };
    }
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a connection to the admin socket broke");
    }
}

/// What takes longer than reading a request and answering it from memory.
enum Extension {
    Change,
    Follow,
}

async fn answer(
    request: Request<Incoming>,
    sources: &Sources,
    may_change: Result<(), Refusal>,
    extension: &OnceLock<Extension>,
) -> Result<Response<Body>, Refusal> {
    let Sources { status, metrics, events, followers, commands } = sources;
    let route = Route::of(request.uri().path()).ok_or_else(|| {
        let paths = "/v1/status, /v1/members, /v1/members/NAME/forget, /v1/leave, /v1/maintenance, \
                     /v1/hold/NAME, /v1/release/NAME, /v1/apps/NAME/beat, /v1/handlers, /v1/events, /v1/deliveries, \
                     /v1/deliveries/HANDLER/NUMBER/redeliver, /v1/reload, /metrics, \
                     and for each handler /v1/handlers/NAME/upgrade, .../rollback and .../run";
        Refusal::new(StatusCode::NOT_FOUND, format!("no such path: there are {paths}"))
    })?;
    if *request.method() != route.method() {
        let mut response =
            refuse(&Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("use {} here", route.method())));
        let allowed = HeaderValue::from_str(route.method().as_str()).expect("a method is ASCII");
        response.headers_mut().insert(ALLOW, allowed);
        return Ok(response);
    }
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let change = match route {
        Route::Members => return Ok(json(StatusCode::OK, &status.borrow().members)),
        Route::Metrics => {
            let status = Arc::clone(&status.borrow());
            let mut response = Response::new(Either::Left(Full::from(metrics.text(&status))));
            response.headers_mut().insert(CONTENT_TYPE, metrics::CONTENT);
            return Ok(response);
        }
        Route::Status => {
            let status = Status::clone(&status.borrow());
            return Ok(json(StatusCode::OK, &NodeStatus::of_this_process(status)));
        }
        Route::Handlers => return Ok(json(StatusCode::OK, &status.borrow().handlers)),
        Route::Deliveries => return Ok(json(StatusCode::OK, &Deliveries::of(&status.borrow()))),
        Route::Events => {
            let wanted = commands::events(query)?;
            let place = match wanted.follow {
                false => None,
                true => Some(followers.clone().try_acquire_owned().map_err(|_| {
                    let reason = format!("{FOLLOWERS} follow already, and no more may: ask without `follow`");
                    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
                })?),
            };
            if place.is_some() {
                // Whoever sets it sets it once: a connection has one request.
                let _ = extension.set(Extension::Follow);
            }
            return Ok(lines(Either::Right(Follow::new(events.lines(wanted), place))));
        }
        Route::Run(handler) => {
            may_change?;
            commands::no_body(body).await?;
            commands::run(commands::handler(&handler)?, query)?
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
        Route::Redeliver { handler, number } => {
            may_change?;
            commands::no_body(body).await?;
            Change::Redeliver { delivery: commands::delivery(&handler, &number)? }
        }
        Route::Forget(member) => {
            may_change?;
            commands::no_body(body).await?;
            Change::Forget { member: commands::member(&member)? }
        }
        Route::Leave => {
            may_change?;
            commands::no_body(body).await?;
            commands::leave(query)?
        }
        Route::Maintenance => {
            may_change?;
            commands::no_body(body).await?;
            commands::maintenance(query)?
        }
        Route::Hold(name) => {
            may_change?;
            commands::no_body(body).await?;
            commands::hold(commands::hold_name(&name)?, query)?
        }
        Route::Release(name) => {
            may_change?;
            commands::no_body(body).await?;
            Change::Release { name: commands::hold_name(&name)? }
        }
        Route::Beat(app) => {
            may_change?;
            commands::no_body(body).await?;
            commands::beat(commands::app(&app)?, query)?
        }
        Route::Reload => {
            may_change?;
            commands::no_body(body).await?;
            Change::Reload { dry_run: commands::dry_run(query)? }
        }
    };
    let _ = extension.set(Extension::Change);
    Ok(json(StatusCode::OK, &commands.run(change).await?))
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    json(refusal.code, &std::collections::BTreeMap::from([("error", &refusal.reason)]))
}

/// A line of JSON for each.
fn lines(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

fn json(code: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut text = serde_json::to_vec(value).expect("plain data with text as keys has a JSON form");
    text.push(b'\n');
    let mut response = Response::new(Either::Left(Full::from(text)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
