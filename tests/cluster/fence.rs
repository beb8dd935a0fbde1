//! A run that stood still between its read and its write: what it would write is old, and is refused.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::node::{Line, has_ended};
use crate::site::Site;
use crate::website::Website;

/// The handler's `timeout`.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The method of the request that comes next, and its connection.
async fn next(listener: &TcpListener) -> (String, TcpStream) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    (String::from_utf8_lossy(&head).trim().to_owned(), stream)
}

#[tokio::test]
async fn a_runner_that_stood_still_before_its_write_writes_nothing() {
    let (site, (website, _)) = (Site::new(), Website::switched().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let dns = Path::new(env!("CARGO_MANIFEST_DIR")).join("handlers-wasm/dist/dns-powerdns.wasm");
    let lines = format!(
        "timeout = \"{}s\"\n[handler.config]\napi = \"{url}\"\nzone = \"example.org.\"\n\
         record = \"www.example.org.\"\nttl = 30\n\
         [[handler.http]]\nallow = \"{url}\"\nmethods = [\"GET\", \"PATCH\"]\nallow_private = [\"127.0.0.1/32\"]\n",
        TIMEOUT.as_secs()
    );
    let app = "interval = \"100ms\"\ntimeout = \"30s\"\nrise = 1";
    let setup = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", app).handler("dns", &dns, &lines);
    let node = site.start(&setup);
    let (method, mut stream) = site.until("the handler reads", next(&listener)).await;
    assert_eq!(method, "GET");
    node.signal(Signal::STOP);
    // Nothing is waited for but that the time of the run is over.
    tokio::time::sleep(TIMEOUT + Duration::from_secs(2)).await;
    let zone = r#"{"rrsets":[]}"#;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{zone}", zone.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    node.signal(Signal::CONT);
    let ended = node.logs("how the run ended", 1, |line: &Line| has_ended(line, "dns")).await;
    assert_eq!(ended[0]["ended_as"], "fenced", "{:?}", ended[0]);
    // The next run begins with what is so now.
    assert_eq!(site.until("the handler tries again", next(&listener)).await.0, "GET");
}
