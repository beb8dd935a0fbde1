//! A website as small as can be: `/` and `/health` answer with the node's name.
//!
//! The demo runs one beside each node, as a process of its own that can be killed like any other; `picored demo web`
//! runs one by itself.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;

/// Serves the site of the node `name` until dropped.
///
/// # Errors
/// Never returns but with the fault of a listener that can take no more connections.
pub async fn serve(listener: TcpListener, name: &str) -> io::Result<()> {
    let name: Arc<str> = name.into();
    crate::http::serve(&listener, move |request| {
        let response = respond(&request, &name);
        async { response }
    })
    .await
}

fn respond(request: &Request<Incoming>, name: &str) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => (StatusCode::OK, format!("Hello from {name}\n")),
        (&Method::GET | &Method::HEAD, "/health") => (StatusCode::OK, format!("OK {name}\n")),
        (_, "/" | "/health") => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into()),
        _ => (StatusCode::NOT_FOUND, "nothing here\n".into()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
