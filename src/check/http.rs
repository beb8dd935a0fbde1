//! The HTTP part of a probe: one request over a fresh connection, plain or TLS, and the verdict on its answer.
//!
//! Redirects are answers, not orders. Of the head and of the body no more is held than the limits here. Called by
//! `check`, which holds the clock.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use picored_core::config::{CheckMethod, HttpCheck};
use rustls::ClientConfig;
use rustls::pki_types::{DnsName, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use url::Host;

use super::{connect, io_reason};
use crate::tls;

/// So much of a body is looked at.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// So much room the head of an answer has.
const HEAD_LIMIT: usize = 16 * 1024;

/// Sends the request and judges the answer. `config` is there for https.
pub(super) async fn ask(
    check: &HttpCheck,
    config: Option<Arc<ClientConfig>>,
    deadline: Instant,
    doing: &mut &'static str,
) -> Result<(), String> {
    let host = check.url.host_str().ok_or("the URL has no host")?;
    let port = check.url.port_or_known_default().ok_or("the URL has no port")?;
    let stream = connect(host.trim_matches(['[', ']']), port, deadline, doing).await?;
    match (&check.tls, config) {
        (Some(tls), Some(config)) => {
            *doing = "in the TLS handshake";
            let stream = tls::handshake(config, server_name(&tls.server_name)?, stream).await?;
            exchange(check, stream, doing).await
        }
        _ => exchange(check, stream, doing).await,
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, String> {
    match host {
        Host::Domain(name) => match DnsName::try_from(name.clone()) {
            Ok(name) => Ok(ServerName::DnsName(name)),
            Err(_) => Err(format!("no certificate can be for the name {name}")),
        },
        Host::Ipv4(address) => Ok(ServerName::IpAddress((*address).into())),
        Host::Ipv6(address) => Ok(ServerName::IpAddress((*address).into())),
    }
}

async fn exchange(
    check: &HttpCheck,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    doing: &mut &'static str,
) -> Result<(), String> {
    *doing = "waiting for the response";
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| reason(&error))?;
    let exchange = async {
        let response = sender.send_request(request(check)?).await.map_err(|error| reason(&error))?;
        judge(check, response, doing).await
    };
    // The connection's end is no verdict: the exchange learns of it, or has all that it needs already.
    let driver = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        verdict = exchange => verdict,
        never = driver => never,
    }
}

fn request(check: &HttpCheck) -> Result<Request<Empty<Bytes>>, String> {
    let url = &check.url;
    let host = url.host_str().unwrap_or_default();
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let mut request = Request::new(Empty::new());
    *request.method_mut() = match check.method {
        CheckMethod::Get => Method::GET,
        CheckMethod::Head => Method::HEAD,
        CheckMethod::Options => Method::OPTIONS,
        CheckMethod::Post => Method::POST,
    };
    *request.uri_mut() = target.parse().map_err(|error| format!("the URL makes no request: {error}"))?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| "a header has a value that cannot be sent");
    let headers = request.headers_mut();
    headers.insert(HOST, value(&authority)?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("picored/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if check.method == CheckMethod::Post {
        // Without a length many servers refuse a POST.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    for (name, text) in &check.headers {
        let name = HeaderName::try_from(name).map_err(|_| "a header has a name that cannot be sent")?;
        headers.insert(name, value(text)?);
    }
    Ok(request)
}

async fn judge(check: &HttpCheck, response: Response<Incoming>, doing: &mut &'static str) -> Result<(), String> {
    let status = response.status().as_u16();
    if !check.expect_status.iter().any(|&(low, high)| (low..=high).contains(&status)) {
        return Err(format!("status {status}, expected {}", ranges(&check.expect_status)));
    }
    match check.expect_body.as_deref() {
        None | Some("") => Ok(()),
        Some(expected) => {
            *doing = "reading the body";
            search(response.into_body(), expected).await
        }
    }
}

/// Reads until `expected` was seen, the body has ended, or [`BODY_LIMIT`] is reached.
async fn search(mut body: Incoming, expected: &str) -> Result<(), String> {
    let expected_bytes = expected.as_bytes();
    let mut seen = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| reason(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = BODY_LIMIT - seen.len();
        // What was looked at before can only be the beginning of a match that ends in the new part.
        let from = seen.len().saturating_sub(expected_bytes.len() - 1);
        seen.extend_from_slice(&data[..data.len().min(room)]);
        if seen[from..].windows(expected_bytes.len()).any(|window| window == expected_bytes) {
            return Ok(());
        }
        if data.len() >= room {
            return Err(format!("the first {} KiB of the body do not contain {expected:?}", BODY_LIMIT / 1024));
        }
    }
    Err(format!("body does not contain {expected:?}"))
}

fn ranges(ranges: &[(u16, u16)]) -> String {
    let each = ranges.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") });
    each.collect::<Vec<_>>().join(", ")
}

fn reason(error: &hyper::Error) -> String {
    if error.is_parse_too_large() {
        return "the response's headers are too large".into();
    }
    if error.is_parse() {
        return "the response is not valid HTTP/1".into();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "connection closed before the response was complete".into();
    }
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref::<io::Error>()).map_or_else(|| error.to_string(), io_reason)
}
