//! The HTTP servers on TCP: the demo's, and that of the metrics.
//!
//! One request a connection, then it is closed, as PowerDNS's own web server does; so nothing is left open for a client
//! to be surprised by. Connections are limited in number and in time, and end when the server is dropped.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::accept::each_connection;

/// How many connections are served at once; more wait.
const CONNECTIONS: usize = 64;
/// How long one connection may take from its first byte to its last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

/// Answers each request with `respond` until dropped.
///
/// # Errors
/// Never returns but with the fault of a listener that can take no more connections.
pub(crate) async fn serve<F, R>(listener: &TcpListener, respond: F) -> io::Result<()>
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send,
{
    each_connection(listener, CONNECTIONS, |stream| {
        let respond = respond.clone();
        async move {
            let service = service_fn(move |request| {
                let response = respond(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // However it ends, it is this connection's end alone.
            let _ = timeout(CONNECTION_TIME, connection).await;
        }
    })
    .await
}
