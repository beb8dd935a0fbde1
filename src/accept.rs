//! The accept loop of every server on TCP: so many connections at once and no more, each of them served beside the others
//! and ended when the loop is dropped. What a connection says is its server's affair.

use std::io;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Serves each connection with `serve` until dropped; at most `room` at once, more wait.
///
/// # Errors
/// Never returns but with the fault of a listener that can take no more connections.
pub(crate) async fn each_connection<F, S>(listener: &TcpListener, room: usize, serve: F) -> io::Result<()>
where
    F: Fn(TcpStream) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(room));
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // A client that was gone before its turn came.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let served = serve(stream);
        connections.spawn(async move {
            served.await;
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
}
