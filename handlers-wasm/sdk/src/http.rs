//! HTTP in one call, with errors that are already the right failure: what would fail the same way again is permanent,
//! everything else is tried again, no sooner than the server asks for.
//!
//! Never follows a redirect and never retries: the one is the host's rule, the other its work.

use std::fmt::Write as _;

use crate::bindings::picored::handler::http;
pub use crate::bindings::picored::handler::http::Response;
use crate::{Delay, Failure};

/// So many characters of a server's answer are worth repeating in a failure.
const MESSAGE_LENGTH: usize = 200;

/// How a handler names itself to servers, some of which refuse a request without a name.
const USER_AGENT: &str = concat!("picored-handler/", env!("CARGO_PKG_VERSION"));

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    inner: http::Request,
    explain: Explain,
}

/// Reads the body of an answer whose status is not 2xx, in the notation of that API.
pub type Explain = fn(&[u8]) -> Option<Explained>;

/// What a server says is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// In its words.
    pub text: String,
    /// Whether the next try may find it otherwise, although the status says that the request is at fault.
    pub passing: bool,
}

impl Request {
    /// A request without headers and body. `url` is absolute.
    pub fn new(method: &str, url: &str) -> Self {
        let (method, url) = (method.to_string(), url.to_string());
        let inner = http::Request { method, url, headers: Vec::new(), body: Vec::new() };
        Self { inner, explain: |_| None }.header("user-agent", USER_AGENT)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.inner.headers.push((name.to_string(), value.to_string()));
        self
    }

    /// Sets the body and its type.
    pub fn body(mut self, content_type: &str, body: Vec<u8>) -> Self {
        self.inner.body = body;
        self.header("content-type", content_type)
    }

    /// Says how to read the server's errors; without it their first characters are repeated as they are.
    pub fn explained_by(mut self, explain: Explain) -> Self {
        self.explain = explain;
        self
    }

    /// Sends it and gives the response if its status is 2xx; any other status has failed.
    pub fn send(self) -> Result<Response, Failed> {
        let (subject, explain) = (self.subject(), self.explain);
        let response = self.exchange()?;
        if (200..300).contains(&response.status) { Ok(response) } else { Err(unwelcome(&subject, &response, explain)) }
    }

    /// Sends it and gives the response whatever its status.
    pub fn exchange(self) -> Result<Response, Failed> {
        http::fetch(&self.inner).map_err(|error| refused(&self.subject(), error))
    }

    /// The request's name in a failure. The query is left out: it is long and may hold what is nobody's business.
    fn subject(&self) -> String {
        let url = self.inner.url.split(['?', '#']).next().unwrap_or_default();
        shortened(format!("{} {url}", self.inner.method).as_bytes())
    }
}

/// Why there is no response, or none that is welcome. `?` makes it the failure of a run.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The kind of error as the contract lists them, or `status`.
    pub kind: String,
    /// What the run should end with, if this ends it.
    pub failure: Failure,
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        failed.failure
    }
}

impl Response {
    /// The first header of that name, which is lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Percent-encodes all but unreserved characters: fit for one segment of a path, and for a value in a query.
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes all that is written to it"),
        }
        encoded
    })
}

/// No response came.
fn refused(subject: &str, error: http::Error) -> Failed {
    let reason = format!("{subject}: {}: {}", error.kind, shortened(error.reason.as_bytes()));
    let failure = match error.kind.as_str() {
        "denied" | "invalid" => Failure::Permanent(reason),
        _ => Failure::Retry(reason),
    };
    Failed { kind: error.kind, failure }
}

/// A response came, and its status is not 2xx.
fn unwelcome(subject: &str, response: &Response, explain: Explain) -> Failed {
    let status = response.status;
    let explained = explain(&response.body);
    let said = explained.as_ref().map_or(response.body.as_slice(), |explained| explained.text.as_bytes());
    let mut reason = format!("{subject}: status {status}");
    match (status, response.header("location")) {
        (300..400, Some(target)) => {
            let target = shortened(target.as_bytes());
            reason.push_str(&format!(": redirects are not followed, and it points to {target}"));
        }
        _ if !said.is_empty() => reason.push_str(&format!(": {}", shortened(said))),
        _ => {}
    }
    let failure = match status {
        429 | 503 => match response.header("retry-after").and_then(milliseconds) {
            Some(milliseconds) => Failure::RetryAfter(Delay { milliseconds, reason }),
            None => Failure::Retry(reason),
        },
        408 | 500..=599 => Failure::Retry(reason),
        _ if explained.is_some_and(|explained| explained.passing) => Failure::Retry(reason),
        _ => Failure::Permanent(reason),
    };
    Failed { kind: "status".to_string(), failure }
}

/// A `retry-after` in seconds. One that is a date counts as none: the usual backoff does as well.
fn milliseconds(seconds: &str) -> Option<u32> {
    let seconds: u64 = seconds.trim().parse().ok()?;
    Some(u32::try_from(seconds.saturating_mul(1000)).unwrap_or(u32::MAX))
}

/// Foreign bytes as one line of text, cut to a length fit for a log.
fn shortened(bytes: &[u8]) -> String {
    // No character is longer than four bytes, and a run of blanks is rare: what is cut off here would not be shown.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(8 * MESSAGE_LENGTH)]);
    let mut line = String::new();
    for word in text.split(|character: char| character.is_whitespace() || character.is_control()) {
        if !word.is_empty() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    match line.char_indices().nth(MESSAGE_LENGTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: &str) -> http::Error {
        http::Error { kind: kind.to_string(), reason: "because".to_string() }
    }

    fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Response { status, headers, body: body.as_bytes().to_vec() }
    }

    fn failed(subject: &str, response: &Response) -> Failed {
        unwelcome(subject, response, |_| None)
    }

    #[test]
    fn a_denied_or_malformed_request_fails_for_good_with_the_reason() {
        for kind in ["denied", "invalid"] {
            let Failure::Permanent(reason) = refused("GET http://a/", error(kind)).failure else {
                panic!("{kind} is retried")
            };
            assert_eq!(reason, format!("GET http://a/: {kind}: because"));
        }
    }

    #[test]
    fn other_errors_are_tried_again_unknown_ones_too() {
        for kind in ["resolve", "connect", "tls", "timeout", "too-large", "protocol", "limit", "of-tomorrow"] {
            let Failure::Retry(reason) = refused("GET http://a/", error(kind)).failure else {
                panic!("{kind} is not retried")
            };
            assert_eq!(reason, format!("GET http://a/: {kind}: because"));
        }
    }

    #[test]
    fn statuses_become_the_failure_that_fits() {
        for status in [400, 401, 403, 404, 409, 422] {
            let Failure::Permanent(reason) = failed("PATCH u", &response(status, &[], "{\"error\":\n \"no\"}")).failure
            else {
                panic!("{status} is retried")
            };
            assert_eq!(reason, format!("PATCH u: status {status}: {{\"error\": \"no\"}}"));
        }
        for status in [408, 429, 500, 502, 503, 504] {
            let Failure::Retry(reason) = failed("GET u", &response(status, &[], "")).failure else {
                panic!("{status} is not retried")
            };
            assert_eq!(reason, format!("GET u: status {status}"));
        }
    }

    #[test]
    fn a_servers_own_words_are_repeated_and_may_say_that_it_passes() {
        let explain: Explain = |body| {
            let text = str::from_utf8(body).ok()?.strip_prefix("E:")?.to_string();
            Some(Explained { passing: text == "busy", text })
        };
        let failure = |status, body| unwelcome("GET u", &response(status, &[], body), explain).failure;
        let Failure::Permanent(reason) = failure(400, "E:no such thing") else { panic!("retried") };
        assert_eq!(reason, "GET u: status 400: no such thing");
        let Failure::Retry(reason) = failure(400, "E:busy") else { panic!("not retried") };
        assert_eq!(reason, "GET u: status 400: busy");
        assert!(matches!(failure(500, "E:no such thing"), Failure::Retry(_)), "the status stands");
        let Failure::Permanent(reason) = failure(400, "<html>") else { panic!("retried") };
        assert_eq!(reason, "GET u: status 400: <html>");
    }

    #[test]
    fn a_redirect_fails_for_good_and_names_its_target() {
        let moved = response(302, &[("location", "http://b/")], "<html>");
        let Failure::Permanent(reason) = failed("GET u", &moved).failure else { panic!("retried") };
        assert_eq!(reason, "GET u: status 302: redirects are not followed, and it points to http://b/");
    }

    #[test]
    fn a_retry_after_is_passed_on() {
        for (value, expected) in [("7", 7000), (" 0 ", 0), ("99999999999", u32::MAX)] {
            for status in [429, 503] {
                let failure = failed("GET u", &response(status, &[("retry-after", value)], "busy")).failure;
                let Failure::RetryAfter(delay) = failure else { panic!("{value} is lost") };
                assert_eq!((delay.milliseconds, delay.reason), (expected, format!("GET u: status {status}: busy")));
            }
        }
        let date = response(503, &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")], "");
        assert!(matches!(failed("GET u", &date).failure, Failure::Retry(_)));
        assert!(matches!(failed("GET u", &response(500, &[("retry-after", "7")], "")).failure, Failure::Retry(_)));
    }

    #[test]
    fn a_long_answer_is_cut_between_characters() {
        let Failure::Permanent(reason) = failed("GET u", &response(404, &[], &"ä".repeat(100_000))).failure else {
            panic!("retried")
        };
        assert_eq!(reason, format!("GET u: status 404: {}…", "ä".repeat(MESSAGE_LENGTH)));
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        assert_eq!(shortened(b"\xff\x00\x1b[31mred\r\n"), "\u{fffd} [31mred");
    }

    #[test]
    fn a_query_is_not_repeated() {
        assert_eq!(Request::new("GET", "http://a/b?token=1#c").subject(), "GET http://a/b");
    }

    #[test]
    fn path_segments_cannot_break_out() {
        assert_eq!(encoded("example.org."), "example.org.");
        assert_eq!(encoded("a/../b?c#d%2e é"), "a%2F..%2Fb%3Fc%23d%252e%20%C3%A9");
    }
}
