//! The gate, through both doors: `http.fetch` and `wasi:http`. What is refused never leaves; what leaves is canonical.

use std::time::Duration;

use picored::handler::{HttpLimits, Limits};
use picored_core::event::{RunEnd, StopReason};
use picored_core::policy::Grant;

use crate::server::Server;
use crate::support::{configured, done, grant, host, run, run_fixture};

/// Any address on this machine.
const LOOPBACK: &[&str] = &["127.0.0.0/8", "::1/128"];

/// What both doors say to one request: `http.fetch`, then `wasi:http`.
async fn ask(config: &[(&str, &str)], grants: &[Grant]) -> [String; 2] {
    ask_within(config, grants, Limits::default()).await
}

async fn ask_within(config: &[(&str, &str)], grants: &[Grant], limits: Limits) -> [String; 2] {
    let fetch = done(run_fixture("fetch", config, grants.to_vec(), limits.clone()).await);
    [fetch, done(run_fixture("fetch-wasi", config, grants.to_vec(), limits).await)]
}

/// Both doors refuse, in their own words.
#[track_caller]
fn refused(said: &[String; 2], fetch: &str, wasi: &str) {
    assert!(said[0].starts_with(&format!("error {fetch}: ")), "http.fetch: {:?} is not {fetch:?}", said[0]);
    assert!(said[1].starts_with("error ") && said[1].contains(wasi), "wasi:http: {:?} is not {wasi:?}", said[1]);
}

/// A grant of the usual methods on everything that the server has.
fn all_of(server: &Server) -> Vec<Grant> {
    vec![grant(&server.origin(), &["GET", "POST", "PATCH"], &["/"], LOOPBACK)]
}

#[tokio::test]
async fn a_granted_request_is_sent_once_and_answered() {
    let server = Server::start("").await;
    let url = format!("{}/hello?a=1&b=%20", server.origin());
    let config = [("url", url.as_str()), ("method", "POST"), ("headers", "x-one: 1\nx-two: a b"), ("body", "12345")];
    for said in ask(&config, &all_of(&server)).await {
        assert!(said.starts_with("status 200 len 5 ") && said.ends_with("body hello"), "{said}");
        assert!(said.contains("content-type=text/plain,x-two=1,x-two=2"), "{said}");
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    for request in seen {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let mut lines: Vec<_> = head.lines().collect();
        lines.sort_unstable();
        let host = format!("host: {}", server.address);
        assert_eq!(
            lines,
            ["POST /hello?a=1&b=%20 HTTP/1.1", "content-length: 5", host.as_str(), "x-one: 1", "x-two: a b"]
        );
        assert_eq!(body, "12345");
    }
}

#[tokio::test]
async fn who_may_not_act_sends_nothing() {
    for fixture in ["fetch", "fetch-wasi"] {
        let server = Server::start("").await;
        let url = format!("{}/hello", server.origin());
        let host = host(Limits::default());
        let loaded = host.load(&configured(fixture, &[("url", url.as_str())], all_of(&server))).await.unwrap();
        host.may_act(false);
        let fenced = RunEnd::Stopped(StopReason::Fenced, "this node sees no majority of its cluster".into());
        assert_eq!(run(&loaded).await, fenced, "{fixture}");
        assert_eq!(server.seen().len(), 0, "{fixture}");
        host.may_act(true);
        assert!(done(run(&loaded).await).starts_with("status "), "{fixture}");
        assert_eq!(server.seen().len(), 1, "{fixture}");
    }
}

#[tokio::test]
async fn a_status_of_failure_is_an_answer_and_a_redirect_is_not_followed() {
    let elsewhere = Server::start("").await;
    let server = Server::start(&elsewhere.origin()).await;
    let grants = [all_of(&server), all_of(&elsewhere)].concat();
    for said in ask(&[("url", &format!("{}/redirect", server.origin()))], &grants).await {
        assert!(said.starts_with("status 302 ") && said.ends_with("body gone there"), "{said}");
    }
    assert_eq!((server.seen().len(), elsewhere.seen().len()), (2, 0));
}

#[tokio::test]
async fn what_is_not_granted_is_denied() {
    let (server, other) = (Server::start("").await, Server::start("").await);
    let (origin, port) = (server.origin(), server.address.port());
    let grants = [grant(&origin, &["GET"], &["/zones/x"], LOOPBACK)];
    let urls = [
        format!("{}/zones/x", other.origin()),            // another port
        format!("http://127.0.0.2:{port}/zones/x"),       // another address
        format!("http://localhost:{port}/zones/x"),       // another name
        format!("https://127.0.0.1:{port}/zones/x"),      // another scheme
        format!("{origin}/secret"),                       // another path
        format!("{origin}/zones/xy"),                     // a longer segment
        format!("{origin}/zones/x/../../../secret"),      // a path that climbs out
        format!("{origin}/zones/x/%2e%2e/%2E%2e/secret"), // a path that climbs out, encoded
        format!("{origin}/zones/x/.%2e/y"),               // a path that climbs out, half encoded
    ];
    for url in urls {
        let said = ask(&[("url", &url)], &grants).await;
        refused(&said, "denied", "HttpRequestDenied");
    }
    let said = ask(&[("url", &format!("{origin}/zones/x")), ("method", "DELETE")], &grants).await;
    refused(&said, "denied", "HttpRequestDenied");
    let said = ask(&[("url", &format!("{origin}/zones/x"))], &[]).await;
    refused(&said, "denied", "HttpRequestDenied");
    assert!(said[0].contains("[[handler.http]]"), "the remedy is named: {}", said[0]);
    assert_eq!((server.seen(), other.seen()), (vec![], vec![]));

    // The same grant does let through what it names, in canonical form.
    for said in ask(&[("url", &format!("{origin}/zones/./y/../x/%7Ea"))], &grants).await {
        assert!(said.starts_with("status 200 "), "{said}");
    }
    assert!(
        server.seen().iter().all(|request| request.starts_with("GET /zones/x/~a HTTP/1.1\r\n")),
        "{:?}",
        server.seen()
    );
}

#[tokio::test]
async fn what_has_two_readings_is_refused() {
    let server = Server::start("").await;
    let (grants, port) = (all_of(&server), server.address.port());
    for (url, wasi) in [
        (format!("http://granted@127.0.0.1:{port}/"), ""),
        (format!("http://127.0.0.1:{port}@evil.example/"), ""),
        (format!("http://user@127.0.0.1:{port}@evil.example/"), ""),
        (format!("http://2130706433:{port}/"), "invalid"),
        (format!("http://0x7f.1:{port}/"), "invalid"),
        (format!("http://127.0.0.1:{port}/a%2f..%2fsecret"), "invalid"),
        (format!("http://127.0.0.1:{port}/a//b"), "invalid"),
        (format!("http://127.0.0.1:{port}/a%00"), "invalid"),
        (format!("ftp://127.0.0.1:{port}/"), ""),
    ] {
        let said = ask(&[("url", &url)], &grants).await;
        refused(&said, "invalid", wasi);
    }
    assert_eq!(server.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn an_address_that_is_not_public_needs_a_grant_of_its_own() {
    let server = Server::start("").await;
    let port = server.address.port();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "[fd00::1]", "10.0.0.1"] {
        let origin = format!("http://{host}:{port}");
        let said = ask(&[("url", &format!("{origin}/"))], &[grant(&origin, &["GET"], &["/"], &[])]).await;
        refused(&said, "resolve", "DnsError");
        assert!(said[0].contains("no address that may be dialled"), "{}", said[0]);
    }
    assert_eq!(server.seen(), Vec::<String>::new());

    let origin = format!("http://localhost:{port}");
    for said in ask(&[("url", &format!("{origin}/"))], &[grant(&origin, &["GET"], &["/"], LOOPBACK)]).await {
        assert!(said.starts_with("status 200 "), "{said}");
    }
    assert!(server.seen().iter().all(|request| request.contains(&format!("host: localhost:{port}\r\n"))));
}

#[tokio::test]
async fn headers_of_the_host_cannot_be_set() {
    let server = Server::start("").await;
    let (grants, url) = (all_of(&server), format!("{}/", server.origin()));
    for header in
        ["host: evil.example", "Transfer-Encoding: chunked", "connection: close", "proxy-connection: x", "te: x"]
    {
        let said = ask(&[("url", &url), ("headers", header)], &grants).await;
        refused(&said, "invalid", "Forbidden");
        assert!(said[0].contains("the host's to set"), "{}", said[0]);
    }
    let long = format!("x: {}", "y".repeat(20 << 10));
    let config = [("url", url.as_str()), ("headers", long.as_str())];
    let said = done(run_fixture("fetch", &config, grants.clone(), Limits::default()).await);
    assert!(said.starts_with("error too-large: the request's headers have "), "{said}");
    match run_fixture("fetch-wasi", &config, grants, Limits::default()).await {
        RunEnd::Stopped(StopReason::Limit, why) => assert!(why.contains("fields"), "{why}"),
        other => panic!("wasi:http has no error for it: {other:?}"),
    }
    assert_eq!(server.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn a_guests_length_is_never_sent_beside_the_hosts() {
    let server = Server::start("").await;
    let (grants, url) = (all_of(&server), format!("{}/", server.origin()));
    let asked = |length: &'static str| {
        [("url", url.clone()), ("method", "POST".into()), ("headers", length.into()), ("body", "12345".into())]
    };
    for length in ["content-length: 3", "content-length: 50"] {
        let config = asked(length);
        let config: Vec<_> = config.iter().map(|(key, value): &(_, String)| (*key, value.as_str())).collect();
        refused(&ask(&config, &grants).await, "invalid", "");
    }
    assert_eq!(server.seen(), Vec::<String>::new());

    // Libraries that speak wasi:http set a true one by themselves.
    let config = asked("content-length: 5");
    let config: Vec<_> = config.iter().map(|(key, value): &(_, String)| (*key, value.as_str())).collect();
    let said = ask(&config, &grants).await;
    assert!(said[0].starts_with("error invalid: "), "{}", said[0]);
    assert!(said[1].starts_with("status 200 "), "{}", said[1]);
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].to_ascii_lowercase().matches("content-length").count(), 1, "{seen:?}");
}

#[tokio::test]
async fn responses_are_bounded() {
    let server = Server::start("").await;
    let grants = all_of(&server);
    for (path, fetch, wasi) in [
        ("/endless", "too-large", "HttpResponseBodySize"),
        ("/large", "too-large", "HttpResponseBodySize"),
        ("/heavy", "too-large", "HttpResponse"),
        ("/many", "too-large", "HttpResponse"),
        ("/trickle", "timeout", "HttpResponseTimeout"),
        ("/silent", "timeout", "HttpResponseTimeout"),
        ("/cut", "protocol", "HttpProtocolError"),
        ("/nonsense", "protocol", "HttpProtocolError"),
    ] {
        let patience = if fetch == "timeout" { Duration::from_millis(300) } else { Limits::default().http.total };
        let limits = Limits { http: HttpLimits { total: patience, ..Limits::default().http }, ..Limits::default() };
        let said = ask_within(&[("url", &format!("{}{path}", server.origin()))], &grants, limits).await;
        refused(&said, fetch, wasi);
    }
}

#[tokio::test]
async fn requests_of_a_run_are_counted_refused_ones_too() {
    let server = Server::start("").await;
    let few = Limits { http: HttpLimits { requests: 3, ..Limits::default().http }, ..Limits::default() };
    let url = format!("{}/", server.origin());
    for said in ask_within(&[("url", &url), ("times", "5")], &all_of(&server), few.clone()).await {
        let parts: Vec<_> = said.split(" | ").collect();
        assert!(parts[..3].iter().all(|part| part.starts_with("status 200")), "{said}");
        assert!(
            parts[3..].iter().all(|part| part.contains("limit:") || part.contains("ConnectionLimitReached")),
            "{said}"
        );
    }
    assert_eq!(server.seen().len(), 6);
    for said in ask_within(&[("url", &url), ("times", "5")], &[], few).await {
        assert_eq!(said.matches("enied").count() - said.matches("HttpRequestDenied is").count(), 3, "{said}");
    }
}

#[tokio::test]
async fn all_bodies_of_a_run_together_are_bounded() {
    let server = Server::start("").await;
    let little = Limits { http: HttpLimits { run_body_bytes: 12, ..Limits::default().http }, ..Limits::default() };
    let url = format!("{}/", server.origin());
    for said in ask_within(&[("url", &url), ("times", "3")], &all_of(&server), little).await {
        assert_eq!(said.matches("status 200").count(), 2, "{said}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let server = Server::start("").await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let origin = format!("http://{address}");
    let said = ask(&[("url", &format!("{origin}/"))], &[grant(&origin, &["GET"], &["/"], LOOPBACK)]).await;
    refused(&said, "connect", "ConnectionRefused");

    let secure = format!("https://{}", server.address);
    let said = ask(&[("url", &format!("{secure}/"))], &[grant(&secure, &["GET"], &["/"], LOOPBACK)]).await;
    refused(&said, "tls", "TlsProtocolError");
}

#[tokio::test]
async fn a_request_that_is_only_held_has_no_long_texts() {
    // Each of these would stay in the host for as long as the guest holds the request, and it can hold hundreds.
    let long = "a".repeat(10_000);
    let (authority, path) = (format!("http://{long}/"), format!("http://127.0.0.1/{long}"));
    for (config, text) in [
        ([("url", "http://127.0.0.1/"), ("method", long.as_str())], "method"),
        ([("url", authority.as_str()), ("method", "GET")], "authority"),
        ([("url", path.as_str()), ("method", "GET")], "path"),
    ] {
        let said = done(run_fixture("fetch-wasi", &config, vec![], Limits::default()).await);
        assert_eq!(said, format!("error the host refused the {text}"));
    }
}
