//! A sender as a writer of bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use super::Sender;

/// What one write takes at most, as one message.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// A writer of bytes. What it writes arrives in order; a consumer that reads messages gets it in pieces of at most
/// 64 KiB whose borders mean nothing. It needs no runtime.
///
/// `poll_write` copies nothing before there are credit and room, and takes nothing when it is pending. `poll_flush` is
/// [`Sender::flush`]; `poll_shutdown` is [`Sender::finish`], and may be called again.
///
/// # Errors
/// As [`Sender::send`], inside an [`io::Error`].
impl AsyncWrite for Sender {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let sender = self.get_mut();
        let length = bytes.len().min(WRITE_BYTES_MAX).min(sender.shared().message_bytes_max);
        let sent = ready!(sender.cell.poll_send_copy(sender.shared(), &bytes[..length], cx));
        coop.made_progress();
        Poll::Ready(match sent {
            Ok(()) => Ok(length),
            Err(why) => Err(sender.refused(why).into()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let span = self.span.clone();
        let _entered = span.enter();
        self.get_mut().poll_flushed(cx).map_err(io::Error::from)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let span = self.span.clone();
        let _entered = span.enter();
        self.get_mut().poll_finished(cx).map_err(io::Error::from)
    }
}
