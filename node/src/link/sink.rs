//! What one step of a process's [outlet](crate::outlet) says, as frames: the same for a socket, which encodes them, and
//! for a program that the node is embedded in, which takes them as they are.

use std::{collections::VecDeque, rc::Rc};

use bytes::Bytes;
use trunkline_proto::{
    code::Code,
    frame::{DATA_BYTES_MAX, DataHeader, Frame},
    message::{Abort, EndAck, Incoming, Open},
    outgoing::Outgoing,
};
use trunkline_session::Turn;

use super::process::Process;
use crate::{
    outlet::Next,
    relay::{Relay, Side},
};

/// The most that one stream sends in one frame.
const FRAME_BYTES: usize = DATA_BYTES_MAX;

/// Where the frames of a link go, in order.
pub(crate) trait FrameSink {
    /// Appends a frame that carries no payload.
    fn push_control(&mut self, frame: Frame);

    /// Appends the bytes of a stream from `header.offset` on, which lie in `pieces` and are moved out of it. With
    /// `header.fin` there may be none.
    fn push_data(&mut self, header: &DataHeader, pieces: &mut Vec<Bytes>);
}

impl FrameSink for Outgoing {
    fn push_control(&mut self, frame: Frame) {
        self.push(&frame);
    }

    fn push_data(&mut self, header: &DataHeader, pieces: &mut Vec<Bytes>) {
        Self::push_data(self, header, pieces);
    }
}

/// A frame for each piece: to put them into one would mean to copy them.
impl FrameSink for VecDeque<Frame> {
    fn push_control(&mut self, frame: Frame) {
        self.push_back(frame);
    }

    fn push_data(&mut self, header: &DataHeader, pieces: &mut Vec<Bytes>) {
        if pieces.is_empty() {
            self.push_back(Frame::Data(*header, Bytes::new()));
        }
        let mut offset = header.offset;
        let last = pieces.len().saturating_sub(1);
        for (index, piece) in pieces.drain(..).enumerate() {
            let header = DataHeader { offset, fin: header.fin && index == last, ..*header };
            offset += piece.len() as u64;
            self.push_back(Frame::Data(header, piece));
        }
    }
}

/// Appends what `next` says to the process. That may be nothing, when it is moot by now.
pub(crate) fn push(process: &Process, next: Next, sink: &mut impl FrameSink) {
    match next {
        Next::Frame(frame) => sink.push_control(frame),
        Next::News(relay, Side::Up) => push_up(&relay, sink),
        Next::News(relay, Side::Down) => push_down(process, &relay, sink),
        Next::Data(Turn { item: relay, quantum, .. }) => {
            let Some(mut taken) = relay.take_data(quantum.min(FRAME_BYTES)) else { return };
            let stream = relay.end(Side::Down).and_then(|end| end.stream).unwrap_or_default();
            let header = DataHeader { stream, offset: taken.offset, epoch: relay.open.epoch, fin: taken.fin };
            sink.push_data(&header, &mut taken.pieces);
            let more = relay.passed();
            process.outlet.served(&relay, taken.bytes, more);
        }
    }
}

fn push_up(relay: &Relay, sink: &mut impl FrameSink) {
    let stream = relay.end(Side::Up).and_then(|end| end.stream).unwrap_or_default();
    let news = relay.take_up();
    if let Some(answer) = news.answer {
        sink.push_control(answer.into_frame(stream));
    }
    if let Some(credit) = news.credit {
        sink.push_control(credit.into());
    }
    if let Some(reclaim) = news.reclaim {
        sink.push_control(reclaim.into());
    }
    if let Some(abort) = news.abort {
        sink.push_control(Abort { stream, ..abort }.into());
    }
    if news.end_ack {
        sink.push_control(EndAck { stream }.into());
    }
}

fn push_down(process: &Process, relay: &Rc<Relay>, sink: &mut impl FrameSink) {
    let stream = relay.end(Side::Down).and_then(|end| end.stream).unwrap_or_default();
    let news = relay.take_down();
    if let Some(bind) = news.open {
        if relay.resume.is_none() && !process.has_bind(bind) {
            // Unbound between the offer and now.
            let name = format!("{}/{}", relay.open.job.name, relay.open.consumer);
            relay.lost(Side::Down, Code::ConsumerClosed, &format!("consumer {name} was closed"));
            return;
        }
        let open = Open { stream, ..relay.open.clone() };
        sink.push_control(Incoming { bind, open, consumer_incarnation: relay.resume }.into());
    }
    if let Some(limit) = news.limit {
        sink.push_control(limit.into());
    }
    if let Some(want) = news.want {
        sink.push_control(want.into());
    }
    if let Some(abort) = news.abort {
        sink.push_control(Abort { stream, ..abort }.into());
    }
    if news.end_ack {
        sink.push_control(EndAck { stream }.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: DataHeader = DataHeader { stream: 3, offset: 10, epoch: 0, fin: true };

    fn frames(header: DataHeader, mut pieces: Vec<Bytes>) -> Vec<Frame> {
        let mut frames = VecDeque::new();
        FrameSink::push_data(&mut frames, &header, &mut pieces);
        assert!(pieces.is_empty());
        frames.into()
    }

    #[test]
    fn each_piece_is_a_frame_of_its_own_at_its_own_offset_and_the_last_alone_is_the_end() {
        let (first, second) = (Bytes::from_static(b"abc"), Bytes::from_static(b"de"));
        let expected = [
            Frame::Data(DataHeader { fin: false, ..HEADER }, first.clone()),
            Frame::Data(DataHeader { offset: 13, ..HEADER }, second.clone()),
        ];
        assert_eq!(frames(HEADER, vec![first, second]), expected);
    }

    #[test]
    fn a_piece_is_handed_on_and_not_copied() {
        let piece = Bytes::from(vec![7; 100]);
        let frames = frames(HEADER, vec![piece.clone()]);
        let [Frame::Data(_, handed)] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!(handed.as_ptr(), piece.as_ptr());
    }

    #[test]
    fn an_end_without_bytes_is_an_empty_frame() {
        assert_eq!(frames(HEADER, Vec::new()), [Frame::Data(HEADER, Bytes::new())]);
    }
}
