//! The answer that does not end: what happens, sent on as it happens.
//!
//! The connection asks for more when there is room for it, so a reader that does not read holds nothing up but its own
//! place, of which there are few. Made by the routes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;

use crate::events::Reader;

type Next = Pin<Box<dyn Future<Output = (Reader, String)> + Send>>;

/// The body of such an answer.
pub(super) struct Follow {
    next: Next,
    _place: OwnedSemaphorePermit,
}

impl Follow {
    /// Begins where `reader` stands, and keeps `place` while somebody reads.
    pub(super) fn new(reader: Reader, place: OwnedSemaphorePermit) -> Self {
        Self { next: next(reader), _place: place }
    }
}

fn next(mut reader: Reader) -> Next {
    Box::pin(async move {
        let lines = reader.wait().await;
        (reader, lines)
    })
}

impl Body for Follow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Poll::Ready((reader, lines)) = self.next.as_mut().poll(context) else { return Poll::Pending };
        self.next = next(reader);
        Poll::Ready(Some(Ok(Frame::data(lines.into()))))
    }
}
