//! A sender as a sink of messages.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_sink::Sink;

use super::Sender;
use crate::error::Error;

/// A sink of messages. `poll_flush` is [`Sender::flush`], `poll_close` is [`Sender::finish`].
///
/// `start_send` takes one message that has no credit or room yet, and the sender holds it; `poll_ready` waits until that
/// one is in the stream. A message that was given goes out, whether or not anything of the sink is polled again; only
/// the end of the stream, [`Sender::abort`] and dropping the sender keep it back.
///
/// # Errors
/// As [`Sender::send`]. `start_send` without a `poll_ready` that was ready may be refused as
/// [`Full`](crate::ErrorKind::Full).
impl Sink<Bytes> for Sender {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let vacant = self.get_mut().poll_vacant(cx);
        if vacant.is_ready() {
            coop.made_progress();
        }
        vacant
    }

    fn start_send(self: Pin<&mut Self>, message: Bytes) -> Result<(), Error> {
        self.get_mut().hold(message).map(drop)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let span = self.span.clone();
        let _entered = span.enter();
        self.get_mut().poll_flushed(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let span = self.span.clone();
        let _entered = span.enter();
        self.get_mut().poll_finished(cx)
    }
}
