//! What carries a link's frames: a socket, or nothing at all when the node is embedded.
//!
//! The loop in `thread.rs` is the same for both (docs/adr/0008). A transport is served in turns: the loop takes what has
//! come, hands over what is to go, and calls [`Transport::write`], which ends the turn.

use std::time::Instant;

use bytes::Bytes;
use trunkline_proto::frame::{DataHeader, Frame};

/// What [`Transport::next`] found.
pub(super) enum Came {
    /// A frame from the node.
    Frame(Frame),
    /// There is none.
    Nothing,
    /// There may be more, but others get their turn first.
    TurnOver,
}

/// Why a link cannot go on: a sentence.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection is gone, and the node may come back.
    Lost(String),
    /// The two do not understand each other, or the node does not want this process: there is no point in trying again.
    Fatal(String),
}

/// The way to the node and back.
pub(super) trait Transport {
    /// The next frame from the node.
    fn next(&mut self) -> Result<Came, Failure>;

    /// Takes a frame for the node. One that it cannot take is told of by [`Transport::write`].
    fn push(&mut self, frame: Frame);

    /// Takes a DATA frame made of `pieces`, which this empties.
    fn push_data(&mut self, header: &DataHeader, pieces: &mut Vec<Bytes>);

    /// Whether more data may be pushed in this turn. Answers to what was read may be pushed all the same.
    fn has_room(&self) -> bool;

    /// Hands on what was pushed, as much as the node's side takes, and ends the turn.
    fn write(&mut self) -> Result<(), Failure>;

    /// How far the link has come with what was pushed last: a position that only rises.
    fn pushed(&self) -> u64;

    /// The position up to which everything is in the node's hands.
    fn written(&self) -> u64;

    /// Whether everything pushed is in the node's hands.
    fn is_empty(&self) -> bool {
        self.pushed() == self.written()
    }

    /// Until [`Transport::next`] or [`Transport::write`] may get further.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn ready(&self) -> Result<(), Failure>;

    /// Says good-bye after the last frame. With `farewell`, waits until the node has read everything, at most until then.
    async fn leave(&mut self, farewell: Option<Instant>);
}
