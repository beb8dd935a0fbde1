//! A dry run's memory: every request that the guest made, and which of them left the host.
//!
//! What reads (GET, HEAD, OPTIONS) is sent, since what would be written depends on it. What writes is not: the guest is
//! told that it succeeded (204, without a body), and goes on. Asked by the gate alone, after all of its checks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use picored_core::status::RecordedRequest;

use crate::handler::http::{HttpError, Request, Response};
use crate::handler::secrets::Secrets;

/// So much of a body is kept, in bytes.
const BODY_BYTES: usize = 4 << 10;

/// What a run asked for. A run sends one request at a time.
#[derive(Debug, Default)]
pub(crate) struct DryRun {
    requests: Mutex<Vec<RecordedRequest>>,
}

impl DryRun {
    /// Whether a request of this method may leave.
    pub(crate) fn lets_out(method: &Method) -> bool {
        matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// What the guest is told of one that may not.
    pub(crate) fn stub() -> Response {
        Response { status: StatusCode::NO_CONTENT, headers: HeaderMap::new(), body: bytes::Bytes::new() }
    }

    /// Takes a request down, before anything is done about it. Headers are left out: they may hold secrets.
    pub(crate) fn begin(&self, request: &Request, secrets: &Secrets) {
        // All of it is rid of secrets before it is cut: half of one would not be found.
        let text = String::from_utf8_lossy(&request.body);
        let body = secrets.scrub(&text);
        self.requests().push(RecordedRequest {
            method: secrets.scrub(&request.method).into_owned(),
            url: secrets.scrub(&request.url).into_owned(),
            body: body[..body.floor_char_boundary(BODY_BYTES)].to_owned(),
            body_bytes: request.body.len(),
            sent: false,
            answer: String::new(),
        });
    }

    /// It is about to leave.
    pub(crate) fn leaves(&self) {
        if let Some(last) = self.requests().last_mut() {
            last.sent = true;
        }
    }

    /// Takes down what came of it.
    pub(crate) fn end(&self, result: &Result<Response, HttpError>) {
        if let Some(last) = self.requests().last_mut() {
            last.answer = match result {
                Ok(response) => response.status.as_u16().to_string(),
                Err(error) => error.to_string(),
            };
        }
    }

    /// All of them, in order.
    pub(crate) fn take(&self) -> Vec<RecordedRequest> {
        std::mem::take(&mut self.requests())
    }

    fn requests(&self) -> MutexGuard<'_, Vec<RecordedRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
