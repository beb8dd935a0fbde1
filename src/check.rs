//! The probe of a local application: one HTTP request, one verdict.
//!
//! A fresh connection each time, one clock over all of it, and never more of an answer than is needed, so that an
//! application that hangs, drips or floods costs a bounded amount and fails like any other. Redirects are answers, not
//! orders. The driver calls this when the core says that a check is due; what a verdict means is the core's to say.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use picored_core::config::Check;
use tokio::net::TcpStream;

/// So much of a body is looked at.
pub const BODY_LIMIT: usize = 64 * 1024;

/// So much room the head of an answer has.
const HEAD_LIMIT: usize = 16 * 1024;

/// Asks the application once. `Err` is a short reason for people; the whole probe ends within `timeout`.
pub async fn probe(check: &Check, timeout: Duration) -> Result<(), String> {
    let mut doing = "resolving the name";
    let verdict = tokio::time::timeout(timeout, ask(check, &mut doing)).await;
    verdict.unwrap_or_else(|_| Err(format!("timed out after {timeout:?} {doing}")))
}

async fn ask(check: &Check, doing: &mut &'static str) -> Result<(), String> {
    let host = check.url.host_str().ok_or("the URL has no host")?;
    let port = check.url.port_or_known_default().ok_or("the URL has no port")?;
    let stream = connect(host, port, doing).await?;

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

/// Connects to the first of the name's addresses that takes it.
async fn connect(host: &str, port: u16, doing: &mut &'static str) -> Result<TcpStream, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = tokio::net::lookup_host((bare, port)).await.map_err(|_| format!("cannot resolve {host}"))?;
    *doing = "connecting";
    let mut refusal = format!("{host} has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refusal = io_reason(&error),
        }
    }
    Err(refusal)
}

fn request(check: &Check) -> Result<Request<Empty<Bytes>>, String> {
    let url = &check.url;
    let host = url.host_str().unwrap_or_default();
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    Request::get(target)
        .header(HOST, authority)
        .header(USER_AGENT, concat!("picored/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("the URL makes no request: {error}"))
}

async fn judge(check: &Check, response: Response<Incoming>, doing: &mut &'static str) -> Result<(), String> {
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

/// The system's error without its number, where it has a plain name.
fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed before the response was complete".into(),
        kind @ (io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::BrokenPipe) => kind.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::task::JoinHandle;

    use super::*;

    /// Long enough for any answer that comes at all.
    const PATIENT: Duration = Duration::from_secs(60);
    /// For what never answers.
    const SHORT: Duration = Duration::from_millis(200);

    fn check(address: SocketAddr) -> Check {
        let url = format!("http://{address}/health?deep=1").parse().unwrap();
        Check { url, expect_status: vec![(200, 399)], expect_body: None }
    }

    /// Serves one connection: reads the head of a request, says `answer`, and, if told so, says `again` until the other
    /// side has had enough. Ends with the request's head.
    async fn server(answer: &str, again: Option<&'static str>) -> (Check, JoinHandle<String>) {
        server_at("127.0.0.1:0", answer, again).await
    }

    async fn server_at(bind: &str, answer: &str, again: Option<&'static str>) -> (Check, JoinHandle<String>) {
        let listener = TcpListener::bind(bind).await.unwrap();
        let check = check(listener.local_addr().unwrap());
        let answer = answer.to_owned();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            while let Some(more) = again {
                if stream.write_all(more.as_bytes()).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            head
        });
        (check, task)
    }

    async fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// The verdict on a server that says this and closes.
    async fn verdict(answer: &str, with: impl FnOnce(&mut Check)) -> Result<(), String> {
        let (mut check, _task) = server(answer, None).await;
        with(&mut check);
        probe(&check, PATIENT).await
    }

    /// The verdict on a server that says this and then `again` without end.
    async fn endless(answer: &str, again: &'static str, expect_body: Option<&str>) -> Result<(), String> {
        let (mut check, task) = server(answer, Some(again)).await;
        check.expect_body = expect_body.map(Into::into);
        let verdict = probe(&check, PATIENT).await;
        task.await.unwrap();
        verdict
    }

    #[tokio::test]
    async fn good_answer_is_good_and_the_request_says_who_asks() {
        let (check, task) = server("HTTP/1.1 204 No Content\r\n\r\n", None).await;
        assert_eq!(probe(&check, PATIENT).await, Ok(()));
        let head = task.await.unwrap().to_ascii_lowercase();
        let port = check.url.port().unwrap();
        for line in [
            "get /health?deep=1 http/1.1\r\n".to_owned(),
            format!("host: 127.0.0.1:{port}\r\n"),
            format!("user-agent: picored/{}\r\n", env!("CARGO_PKG_VERSION")),
            "connection: close\r\n".to_owned(),
        ] {
            assert!(head.contains(&line), "{line:?} in {head:?}");
        }
    }

    #[tokio::test]
    async fn names_and_ipv6_are_reached() {
        for (bind, host) in [("127.0.0.1:0", "localhost"), ("[::1]:0", "[::1]")] {
            let (mut check, task) = server_at(bind, "HTTP/1.1 200 OK\r\n\r\n", None).await;
            check.url.set_host(Some(host)).unwrap();
            assert_eq!(probe(&check, PATIENT).await, Ok(()), "{host}");
            let head = task.await.unwrap().to_ascii_lowercase();
            assert!(head.contains(&format!("host: {host}:{}\r\n", check.url.port().unwrap())), "{head}");
        }
    }

    #[tokio::test]
    async fn wrong_status_is_named_with_what_was_expected() {
        let said = verdict("HTTP/1.1 503 Busy\r\n\r\n", |_| ()).await;
        assert_eq!(said, Err("status 503, expected 200-399".into()));
        let said =
            verdict("HTTP/1.1 404 Gone\r\n\r\n", |check| check.expect_status = vec![(200, 299), (301, 301)]).await;
        assert_eq!(said, Err("status 404, expected 200-299, 301".into()));
    }

    #[tokio::test]
    async fn redirect_is_an_answer_and_not_followed() {
        // It points to a port where a second request would be refused.
        let redirect = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n";
        assert_eq!(verdict(redirect, |_| ()).await, Ok(()));
        let strict = verdict(redirect, |check| check.expect_status = vec![(200, 200)]).await;
        assert_eq!(strict, Err("status 302, expected 200".into()));
    }

    #[tokio::test]
    async fn body_must_contain_what_is_expected() {
        let body = |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        let expect = |check: &mut Check| check.expect_body = Some("OK".into());
        assert_eq!(verdict(&body("all is OK here"), expect).await, Ok(()));
        assert_eq!(verdict(&body("all is ok"), expect).await, Err("body does not contain \"OK\"".into()));
        assert_eq!(verdict(&body(""), expect).await, Err("body does not contain \"OK\"".into()));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n-O\r\n2\r\nK-\r\n0\r\n\r\n";
        assert_eq!(verdict(chunked, expect).await, Ok(()), "across the border of two chunks");
    }

    #[tokio::test]
    async fn big_bodies_are_read_to_the_limit_and_no_further() {
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        let at_the_end = head.to_owned() + &"x".repeat(BODY_LIMIT - 2) + "OK";
        let too_late = head.to_owned() + &"x".repeat(BODY_LIMIT - 1) + "OK";
        let expect = |check: &mut Check| check.expect_body = Some("OK".into());
        assert_eq!(verdict(&at_the_end, expect).await, Ok(()));
        let refusal = Err("the first 64 KiB of the body do not contain \"OK\"".into());
        assert_eq!(verdict(&too_late, expect).await, refusal);
        assert_eq!(endless(head, "xxxxxxxxxxxxxxxx", Some("OK")).await, refusal);
        assert_eq!(endless(head, "xxxxxxxxxxxxxxxx", None).await, Ok(()), "nobody asked for the body");
        assert_eq!(endless(head, "xxxxxxxOKxxxxxxx", Some("OK")).await, Ok(()), "no need to wait for the end");
    }

    #[tokio::test]
    async fn endless_headers_are_too_large() {
        let too_large = Err("the response's headers are too large".to_owned());
        assert_eq!(endless("HTTP/1.1 200 OK\r\n", "X-More: of the same\r\n", None).await, too_large);
        assert_eq!(endless("HTTP/1.1 200 OK\r\nX-Long: ", "xxxxxxxxxxxxxxxx", None).await, too_large);
    }

    #[tokio::test]
    async fn garbage_and_half_answers_are_told_apart() {
        let garbage = Err("the response is not valid HTTP/1".to_owned());
        assert_eq!(verdict("SSH-2.0-OpenSSH_9.6\r\n", |_| ()).await, garbage);
        assert_eq!(verdict("\0\u{1}\u{2}\u{3}garbage\r\n\r\n", |_| ()).await, garbage);
        let half = Err("connection closed before the response was complete".to_owned());
        assert_eq!(verdict("", |_| ()).await, half);
        assert_eq!(verdict("HTTP/1.1 200 OK\r\nX-Half: ", |_| ()).await, half);
        let short = verdict("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxxx", |check| {
            check.expect_body = Some("OK".into());
        });
        assert_eq!(short.await, half);
    }

    #[tokio::test]
    async fn hanging_is_told_by_where_it_hangs() {
        // The kernel accepts for a listener that never does.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let silent = check(listener.local_addr().unwrap());
        assert_eq!(probe(&silent, SHORT).await, Err("timed out after 200ms waiting for the response".into()));

        // It answers in part, and the task that holds the connection open never ends by itself.
        for (said, doing) in [
            ("HTTP/1.1 200 OK\r\nX-Half: ", "waiting for the response"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxxx", "reading the body"),
        ] {
            let (mut check, task) = server(said, Some("")).await;
            check.expect_body = Some("OK".into());
            assert_eq!(probe(&check, SHORT).await, Err(format!("timed out after 200ms {doing}")));
            task.abort();
        }
    }

    #[tokio::test]
    async fn drips_do_not_stretch_the_timeout() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let check = check(listener.local_addr().unwrap());
        let dripping = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nX-Drip: ").await.unwrap();
            let mut tick = tokio::time::interval(SHORT / 20);
            while stream.write_all(b"x").await.is_ok() {
                tick.tick().await;
            }
        });
        assert_eq!(probe(&check, SHORT).await, Err("timed out after 200ms waiting for the response".into()));
        dripping.await.unwrap();
    }

    #[tokio::test]
    async fn refused_and_unreachable_are_told_apart() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let closed = check(listener.local_addr().unwrap());
        drop(listener);
        assert_eq!(probe(&closed, PATIENT).await, Err("connection refused".into()));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn connecting_has_its_place_in_the_timeout() {
        // A queue for one, which in the kernel's way of counting holds two, and nobody takes from it.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let _queued = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        assert_eq!(probe(&check(address), SHORT).await, Err("timed out after 200ms connecting".into()));
    }
}
