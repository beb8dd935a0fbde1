//! The answer that comes in pieces: what happened, and what happens, which does not end.
//!
//! The connection asks for more when there is room for it, so a reader that does not read holds nothing up but its own
//! place, of which there are few. Made by the routes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;

use crate::events::Lines;

type Next = Pin<Box<dyn Future<Output = (Lines, Option<String>)> + Send>>;

/// The body of such an answer.
pub(super) struct Follow {
    next: Next,
    _place: Option<OwnedSemaphorePermit>,
}

impl Follow {
    /// Sends on what `lines` has, and keeps `place` while somebody reads.
    pub(super) fn new(lines: Lines, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { next: next(lines), _place: place }
    }
}

fn next(mut lines: Lines) -> Next {
    Box::pin(async move {
        let text = lines.next().await;
        (lines, text)
    })
}

impl Body for Follow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Poll::Ready((lines, text)) = self.next.as_mut().poll(context) else { return Poll::Pending };
        self.next = next(lines);
        Poll::Ready(text.map(|text| Ok(Frame::data(text.into()))))
    }
}
