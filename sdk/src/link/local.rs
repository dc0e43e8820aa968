//! The transport to an embedded node: frames are values, handed over by a call, and no byte is copied.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
use trunkline_node::embedded::{LocalLink, Refusal};
use trunkline_proto::frame::{DataHeader, Frame};

use super::transport::{Came, Failure, Transport};

/// Payload taken from the node, or handed to it, before the node's own tasks get their turn.
const TURN_BYTES: usize = 256 * 1024;
/// What a frame, or a look for one, counts for beside the payload, so that a turn of small frames is bounded too.
const STEP_BYTES: usize = 256;

/// This process's end of a link to a node on the same thread. Dropped, it detaches.
pub(super) struct Local {
    link: LocalLink,
    /// Taken from the node, and not dispatched: what one relay had to say.
    came: VecDeque<Frame>,
    /// Handed to the node since the beginning, in frames.
    pushed: u64,
    /// Taken in this turn.
    taken_bytes: usize,
    /// Handed over in this turn.
    given_bytes: usize,
    /// Why the node does not take any more.
    fault: Option<String>,
}

/// An embedded node does not come back.
fn ended() -> Failure {
    Failure::Fatal("the node has ended it".to_owned())
}

fn payload_bytes(frame: &Frame) -> usize {
    match frame {
        Frame::Data(_, payload) => payload.len(),
        _ => 0,
    }
}

impl Local {
    /// A link that was attached.
    pub(super) fn new(link: LocalLink) -> Self {
        Self { link, came: VecDeque::new(), pushed: 0, taken_bytes: 0, given_bytes: 0, fault: None }
    }
}

impl Local {
    /// Hands one frame over, unless the node takes no more.
    fn hand_over(&mut self, payload_bytes: usize, hand: impl FnOnce(&LocalLink) -> Result<(), Refusal>) {
        self.pushed += 1;
        self.given_bytes += STEP_BYTES + payload_bytes;
        if self.fault.is_none()
            && let Err(fault) = hand(&self.link)
        {
            self.fault = Some(fault.to_string());
        }
    }
}

impl Transport for Local {
    fn next(&mut self) -> Result<Came, Failure> {
        loop {
            if self.taken_bytes >= TURN_BYTES {
                self.taken_bytes = 0;
                return Ok(Came::TurnOver);
            }
            if let Some(frame) = self.came.pop_front() {
                self.taken_bytes += payload_bytes(&frame);
                return Ok(Came::Frame(frame));
            }
            if !self.link.next(&mut self.came) {
                self.taken_bytes = 0;
                return if self.link.is_ended() { Err(ended()) } else { Ok(Came::Nothing) };
            }
            // What is moot by now yields no frame, and counts all the same.
            self.taken_bytes += STEP_BYTES;
        }
    }

    fn push(&mut self, frame: Frame) {
        self.hand_over(payload_bytes(&frame), |link| link.handle(frame));
    }

    fn push_data(&mut self, header: &DataHeader, pieces: &mut Vec<Bytes>) {
        self.hand_over(pieces.iter().map(Bytes::len).sum(), |link| link.handle_data(header, pieces));
        pieces.clear();
    }

    fn has_room(&self) -> bool {
        self.given_bytes < TURN_BYTES && self.fault.is_none()
    }

    fn write(&mut self) -> Result<(), Failure> {
        self.given_bytes = 0;
        self.fault.take().map_or(Ok(()), |why| Err(Failure::Fatal(why)))
    }

    fn pushed(&self) -> u64 {
        self.pushed
    }

    /// A frame is in the node's hands once it was pushed.
    fn written(&self) -> u64 {
        self.pushed
    }

    async fn ready(&self) -> Result<(), Failure> {
        self.link.changed().await;
        Ok(())
    }

    /// The node has taken everything already; that this is dropped is the good-bye.
    async fn leave(&mut self, _: Option<Instant>) {}
}
