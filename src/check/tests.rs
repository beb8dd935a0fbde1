//! Probes of servers that are right, wrong, slow, silent, endless or not there, over real sockets.

mod exec;
mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use picored_core::config::{CheckMethod, TcpCheck};

use super::http::BODY_LIMIT;
use super::*;

/// Long enough for any answer that comes at all.
pub(super) const PATIENT: Duration = Duration::from_secs(60);
/// For what never answers.
pub(super) const SHORT: Duration = Duration::from_millis(200);

pub(super) fn check(address: SocketAddr) -> HttpCheck {
    HttpCheck {
        url: format!("http://{address}/health?deep=1").parse().unwrap(),
        method: CheckMethod::Get,
        headers: Vec::new(),
        expect_status: vec![(200, 399)],
        expect_body: None,
        tls: None,
    }
}

async fn probe(check: &HttpCheck, limit: Duration) -> Result<(), String> {
    let app = app(Check::Http(check.clone()), limit);
    Prober::new(&[], Arc::default()).unwrap().probe(&app).await
}

async fn probe_tcp(host: &str, port: u16, limit: Duration) -> Result<(), String> {
    let app = app(Check::Tcp(TcpCheck { host: host.into(), port }), limit);
    Prober::new(&[], Arc::default()).unwrap().probe(&app).await
}

pub(super) fn app(check: Check, timeout: Duration) -> App {
    App {
        name: AppName::new("www").unwrap(),
        publish: vec![],
        check,
        interval: Duration::from_secs(5),
        timeout,
        rise: 2,
        fall: 3,
    }
}

/// Serves one connection: reads the head of a request, says `answer`, and, if told so, says `again` until the other
/// side has had enough. Ends with the request's head.
async fn server(answer: &str, again: Option<&'static str>) -> (HttpCheck, JoinHandle<String>) {
    server_at("127.0.0.1:0", answer, again).await
}

async fn server_at(bind: &str, answer: &str, again: Option<&'static str>) -> (HttpCheck, JoinHandle<String>) {
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

pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// The verdict on a server that says this and closes.
async fn verdict(answer: &str, with: impl FnOnce(&mut HttpCheck)) -> Result<(), String> {
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
    let said = verdict("HTTP/1.1 404 Gone\r\n\r\n", |check| check.expect_status = vec![(200, 299), (301, 301)]).await;
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
    let expect = |check: &mut HttpCheck| check.expect_body = Some("OK".into());
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
    let expect = |check: &mut HttpCheck| check.expect_body = Some("OK".into());
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
    let timed_out = Err("timed out after 200ms connecting".to_owned());
    assert_eq!(probe(&check(address), SHORT).await, timed_out);
    assert_eq!(probe_tcp("127.0.0.1", address.port(), SHORT).await, timed_out);

    // The other addresses of a name get their share, also behind one that is closed.
    let open = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let addresses = [closed, address, open.local_addr().unwrap()];
    let stream = dial(&addresses, Instant::now() + 5 * SHORT).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), addresses[2]);
}

#[tokio::test]
async fn a_tcp_check_connects_says_nothing_and_goes() {
    for (bind, host) in [("127.0.0.1:0", "127.0.0.1"), ("127.0.0.1:0", "localhost"), ("[::1]:0", "::1")] {
        let listener = TcpListener::bind(bind).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(probe_tcp(host, port, PATIENT).await, Ok(()), "{host}");
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"", "{host}");
    }
}

#[tokio::test]
async fn a_tcp_check_says_what_was_wrong() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(probe_tcp("127.0.0.1", port, PATIENT).await, Err("connection refused".into()));
    assert_eq!(probe_tcp("nowhere.invalid", 80, PATIENT).await, Err("cannot resolve nowhere.invalid".into()));
}

#[tokio::test]
async fn method_and_headers_are_sent_as_configured() {
    for method in CheckMethod::ALL {
        let (mut check, task) = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", None).await;
        check.method = method;
        check.headers = [("host", "www.example.org"), ("user-agent", "probe/1"), ("x-check", "a b")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        assert_eq!(probe(&check, PATIENT).await, Ok(()), "{method:?}");
        let head = task.await.unwrap();
        assert!(head.starts_with(&format!("{} /health?deep=1 HTTP/1.1\r\n", method.as_str())), "{head}");
        let head = head.to_ascii_lowercase();
        for line in
            ["host: www.example.org\r\n", "user-agent: probe/1\r\n", "x-check: a b\r\n", "connection: close\r\n"]
        {
            let name = &line[..=line.find(':').unwrap()];
            assert_eq!((head.matches(line).count(), head.matches(name).count()), (1, 1), "{line:?} in {head:?}");
        }
        assert_eq!(head.contains("content-length: 0\r\n"), method == CheckMethod::Post, "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
}

#[tokio::test]
async fn the_border_holds_for_chunks_too() {
    let answer = |before: usize| {
        let filler = "x".repeat(before);
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{before:x}\r\n{filler}\r\n1\r\nO\r\n1\r\nK\r\n0\r\n\r\n"
        )
    };
    let expect = |check: &mut HttpCheck| check.expect_body = Some("OK".into());
    assert_eq!(verdict(&answer(BODY_LIMIT - 2), expect).await, Ok(()));
    let refusal = Err("the first 64 KiB of the body do not contain \"OK\"".into());
    assert_eq!(verdict(&answer(BODY_LIMIT - 1), expect).await, refusal);
}
