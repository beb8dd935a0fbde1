//! A web server for the tests, down to the bytes: it keeps every request as it came, and answers as badly as a path
//! asks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server on a loopback address. Dropped, it is gone with its runtime.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Listens on 127.0.0.1. `/redirect` sends to `elsewhere`.
    pub(crate) async fn start(elsewhere: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let (kept, elsewhere) = (seen.clone(), elsewhere.to_owned());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, kept.clone(), elsewhere.clone()));
            }
        });
        Self { address, seen }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far: head and body, as they came.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>, elsewhere: String) {
    let Some(request) = read(&mut stream).await else { return };
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock().unwrap().push(request);
    let whole = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
    };
    let answer = match path.as_str() {
        "/redirect" => whole("302 Found", &format!("location: {elsewhere}\r\n"), "gone there"),
        "/large" => whole("200 OK", "", &"x".repeat(2 << 20)),
        "/heavy" => whole("200 OK", &format!("x-heavy: {}\r\n", "h".repeat(64 << 10)), "heavy"),
        "/many" => whole("200 OK", &"x-many: h\r\n".repeat(2000), "many"),
        "/cut" => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this".to_owned(),
        "/nonsense" => "220 mail.example.org ESMTP\r\n".to_owned(),
        "/endless" | "/trickle" | "/silent" => String::new(),
        path if path.starts_with("/status/") => whole(&format!("{} So", &path[8..]), "retry-after: 7\r\n", "told so"),
        _ => whole("200 OK", "content-type: text/plain\r\nx-two: 1\r\nx-two: 2\r\n", "hello"),
    };
    if stream.write_all(answer.as_bytes()).await.is_err() {
        return;
    }
    match path.as_str() {
        "/endless" => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            let mut sent = stream.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(chunk.as_bytes()).await;
            }
        }
        "/trickle" => {
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await;
            while sent.is_ok() {
                // Nothing is waited for: to be slow is what is asked of this path.
                tokio::time::sleep(Duration::from_millis(10)).await;
                sent = stream.write_all(b"x").await;
            }
        }
        // Says nothing until the other side has had enough.
        "/silent" => _ = stream.read(&mut [0; 1]).await,
        _ => {}
    }
}

/// A request's head, and as much body as it says.
pub(crate) async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        bytes.extend(&chunk[..count]);
        // Nobody speaks TLS here.
        if bytes[0] == 0x16 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            return Some(text.into_owned());
        }
    }
}
