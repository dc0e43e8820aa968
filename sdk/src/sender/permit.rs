//! Permits: room for a message before there is one.

use std::fmt;

use bytes::Bytes;

use super::{Sender, waiting};
use crate::{error::Error, link::SendCell};

/// Room for one message, made by [`Sender::reserve`] or [`Sender::try_reserve`]: the consumer's credit is there, and the
/// process's send budget holds the bytes until the permit is used or dropped.
///
/// Dropping it gives the room back, and the next sender that waits for it goes on.
#[must_use = "a permit that is dropped has reserved nothing"]
pub struct Permit<'a> {
    sender: &'a mut Sender,
    /// The longest message that it is for.
    length: usize,
    /// What it holds of the send budget.
    reserved: u64,
}

impl Sender {
    /// Waits until a message of up to `bytes` may be sent, and holds the room for it: for a message that is dear to
    /// make, and that shall not wait once it is made.
    ///
    /// # Errors
    /// As [`Sender::send`] of a message of that length.
    ///
    /// # Cancel safety
    /// Dropping the future reserves nothing.
    pub async fn reserve(&mut self, bytes: usize) -> Result<Permit<'_>, Error> {
        self.check(bytes)?;
        let shared = self.shared();
        match waiting(self, |cell, cx| cell.poll_reserve(shared, bytes, cx)).await {
            Ok(reserved) => Ok(Permit { sender: self, length: bytes, reserved }),
            Err(why) => Err(self.refused(why)),
        }
    }

    /// As [`Sender::reserve`], if that needs no waiting.
    ///
    /// # Errors
    /// As [`Sender::try_send`] of a message of that length.
    pub fn try_reserve(&mut self, bytes: usize) -> Result<Permit<'_>, Error> {
        self.check(bytes)?;
        match self.cell.try_reserve(self.shared(), bytes) {
            Ok(reserved) => Ok(Permit { sender: self, length: bytes, reserved }),
            Err(why) => Err(self.refused(why)),
        }
    }
}

impl Permit<'_> {
    /// How long the message may be, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.length
    }

    /// Sends a message, at once. What a shorter one does not need is given back.
    ///
    /// # Errors
    /// [`MessageTooLarge`](crate::ErrorKind::MessageTooLarge) when it is longer than was reserved: the stream is
    /// unchanged, and the room is given back. Otherwise the stream has ended meanwhile, as [`Sender::send`] says.
    #[expect(clippy::needless_pass_by_value, reason = "a message is given, as to `send`")]
    pub fn send(mut self, message: Bytes) -> Result<(), Error> {
        if message.len() > self.length {
            return Err(Error::longer_than_reserved(self.sender.subject(), message.len(), self.length));
        }
        let reserved = std::mem::take(&mut self.reserved);
        let sender = &mut *self.sender;
        sender.cell.send_reserved(sender.shared(), &message, reserved).map_err(|why| sender.refused(why))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        SendCell::give_back(self.sender.shared(), self.reserved);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("address", self.sender.address()).field("bytes", &self.length).finish()
    }
}
