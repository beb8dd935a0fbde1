//! The application that nodes check: an HTTP server in the test's own process that answers, refuses or hangs as told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200.
    Good,
    /// 503.
    Bad,
    /// None: the connection stays open.
    Never,
}

/// A running server; it ends when it is dropped.
pub(crate) struct Website {
    address: SocketAddr,
    swallowed: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Website {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Website {
    /// A server whose answer to its n-th request, from 0, is `answer(n)`.
    pub(crate) async fn start(answer: impl Fn(usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let swallowed = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(serve(listener, answer, swallowed.clone())).abort_handle();
        Self { address, swallowed, task }
    }

    /// A server that is good while the switch is on, as it is from the start, and bad while it is off.
    pub(crate) async fn switched() -> (Self, Arc<AtomicBool>) {
        let switch = Arc::new(AtomicBool::new(true));
        let seen = switch.clone();
        let answer = move |_| if seen.load(Ordering::SeqCst) { Answer::Good } else { Answer::Bad };
        (Self::start(answer).await, switch)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it took and never answered.
    pub(crate) fn swallowed(&self) -> usize {
        self.swallowed.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, answer: impl Fn(usize) -> Answer, swallowed: Arc<AtomicUsize>) {
    // Held until the other side has had enough.
    let mut hanging = JoinSet::new();
    for request in 0.. {
        let mut stream = listener.accept().await.unwrap().0;
        if !read_head(&mut stream).await {
            continue;
        }
        let said = match answer(request) {
            Answer::Good => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Answer::Bad => "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            Answer::Never => {
                swallowed.fetch_add(1, Ordering::SeqCst);
                hanging.spawn(async move { stream.read_u8().await });
                continue;
            }
        };
        // Who asked may have gone.
        let _ = stream.write_all(said.as_bytes()).await;
    }
}

/// Whether the head of a request came whole.
async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    true
}
