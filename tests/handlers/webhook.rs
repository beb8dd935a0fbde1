//! The built `webhook` in the real host: what a receiver gets, and what its answer means.

use std::time::Duration;

use picored_core::config::Handler;
use picored_core::event::{Event, RunEnd};
use picored_core::name::AppName;
use picored_core::policy::AuthScheme;
use ring::hmac;
use serde_json::{Value, json};

use crate::server::Server;
use crate::support::{event, grant, guest, handler, host_with_secret, snapshot};
use crate::wait;

const KEY: &str = "what-both-sides-know";

/// Tells `server` at `path` of an event, signed with [`KEY`].
async fn told(server: &Server, path: &str, event: Event) -> RunEnd {
    let origin = server.origin();
    let config = [("url".to_owned(), format!("{origin}{path}"))].into();
    let http = vec![grant(&origin, &["POST"], &["/"], &["127.0.0.1/32"])];
    let configured = Handler { config, http, ..handler(guest("webhook")) };
    let scheme = AuthScheme::HmacSha256Header { header: "x-hub-signature-256".into() };
    let (host, configured) = host_with_secret(KEY, scheme, configured);
    let loaded = host.load(&configured).await.unwrap();
    wait::until("every run ends", String::new, loaded.run(event, 3, snapshot())).await
}

/// The only request's head and body, as a receiver takes them: what is not signed by [`KEY`] is none of its matter.
fn only(server: &Server) -> (String, Value) {
    let seen = server.seen();
    let [request] = seen.as_slice() else { panic!("{seen:?}") };
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    let signature = head.lines().find_map(|line| line.strip_prefix("x-hub-signature-256: sha256=")).unwrap();
    let bytes = (0..signature.len()).step_by(2).map(|at| u8::from_str_radix(&signature[at..at + 2], 16).unwrap());
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
    hmac::verify(&key, body.as_bytes(), &bytes.collect::<Vec<_>>()).expect("the body is signed");
    assert!(!request.contains(KEY), "{request}");
    (head, serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn the_receiver_gets_the_event_and_the_whole_wanted_set() {
    let server = Server::start("").await;
    let end = told(&server, "/hook", event()).await;
    assert_eq!(end, RunEnd::Done { changed: true, text: "app-down told: status 200".into() });
    let (head, body) = only(&server);
    assert!(head.starts_with("post /hook http/1.1\r\n"), "{head}");
    for line in ["content-type: application/json", "idempotency-key: \"app-down:web:event-1\""] {
        assert!(head.lines().any(|header| header == line), "{line} in {head}");
    }
    let endpoint = json!({ "member": "a", "address": "192.0.2.1", "port": 80 });
    let expected = json!({
        "id": "event-1", "kind": "app-down", "app": "web", "member": "b", "time": "2023-11-14T22:13:20.123Z",
        "attempt": 3, "node": "a", "revision": "r1", "endpoints": [endpoint],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn an_event_of_no_application_comes_without_a_set() {
    let server = Server::start("").await;
    told(&server, "/hook", Event { app: None, ..event() }).await;
    let (_, body) = only(&server);
    assert_eq!((&body["app"], &body["revision"], &body["endpoints"]), (&Value::Null, &Value::Null, &Value::Null));
}

#[tokio::test]
async fn nothing_to_publish_is_never_told_as_an_empty_set() {
    let server = Server::start("").await;
    let end = told(&server, "/hook", Event { app: Some(AppName::new("none").unwrap()), ..event() }).await;
    assert!(matches!(&end, RunEnd::Retry(text) if text.contains("nothing to publish")), "{end:?}");
    assert_eq!(server.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn the_receivers_answer_says_how_it_goes_on() {
    let server = Server::start("http://127.0.0.1:1/").await;
    for status in [200, 202, 204] {
        let end = told(&server, &format!("/status/{status}"), event()).await;
        assert!(matches!(&end, RunEnd::Done { .. }), "{status}: {end:?}");
    }
    for status in [429, 503] {
        let end = told(&server, &format!("/status/{status}"), event()).await;
        assert!(matches!(&end, RunEnd::RetryAfter(wait, _) if *wait == Duration::from_secs(7)), "{status}: {end:?}");
    }
    for status in [408, 500, 502, 504] {
        let end = told(&server, &format!("/status/{status}"), event()).await;
        assert!(matches!(&end, RunEnd::Retry(text) if text.contains(&format!("status {status}: told so"))), "{end:?}");
    }
    for status in [400, 401, 404, 410] {
        let end = told(&server, &format!("/status/{status}"), event()).await;
        assert!(matches!(&end, RunEnd::Permanent(text) if text.contains(&format!("status {status}"))), "{end:?}");
    }
    let end = told(&server, "/redirect", event()).await;
    assert!(matches!(&end, RunEnd::Permanent(text) if text.contains("redirects are not followed")), "{end:?}");
}
