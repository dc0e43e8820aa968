//! The one writer of a trunk.
//!
//! A task per stream would be simpler and does not scale: thousands of tasks that wait for the connection's send window
//! are woken together by each ACK (measured: a tenth of the speed at 10,000 streams). So one task serves all streams in
//! the order that [`crate::outlet::Outlet`] gives, few of them inside QUIC at a time, and what waits, waits outside.
//!
//! Control must not wait behind data in QUIC's own pool either: its streams have a higher priority, and the pool is made
//! larger for just the moment of its write. So it is with small messages of streams that were quiet, a step below control.

use std::{rc::Rc, time::Instant};

use bytes::{Bytes, BytesMut};
use quinn::{ConnectionError, SendStream, WriteError};
use tokio::task::yield_now;
use trunkline_proto::{
    code::Code,
    frame::Frame,
    message::{Abort, Credit, EndAck, Limit, Open, Reclaim, Resume, Want},
};
use trunkline_session::Turn;

use super::{
    connection::{Sending, TO_OPEN_MIN, Trunk, TrunkStream},
    reader,
    window::PathWindow,
};
use crate::{
    outlet::Next,
    relay::{Relay, Side},
};

/// Frames for the control stream are written when so many bytes of them have been gathered, or no more come.
const FRAMES_BYTES_MAX: usize = 64 * 1024;
/// What is written of several streams before QUIC gets to send it. QUIC takes a packet's worth of each in turn, of all that it
/// was given: of more streams at once, each would arrive in more pieces.
const BURST_BYTES: usize = 256 * 1024;
/// So much at most of a stream that had nothing to send before goes ahead of bulk inside QUIC too, unless its last turn was
/// bulk itself: that may lie there still. Less than what a stream is given unasked, with which a long message may begin.
const SMALL_BYTES: usize = 2 * 1024;
/// Priority of a stream's reverse half, which carries credit; the control stream has more.
const CREDIT_PRIORITY: i32 = 1;
/// Priority of a small message.
const SMALL_PRIORITY: i32 = 0;
/// Priority of bulk.
const BULK_PRIORITY: i32 = -1;

/// Opens QUIC streams for relays that want one. Apart from the writer, because the peer may not permit one yet.
pub(super) async fn open(trunk: &Rc<Trunk>) -> ConnectionError {
    loop {
        // It stays in the queue while it waits: who ends the trunk meanwhile finds it there.
        let first = trunk.to_open.borrow().front().cloned();
        let Some((_, relay)) = first else {
            trunk.to_open_changed.notified().await;
            continue;
        };
        if relay.is_over() {
            trunk.to_open.borrow_mut().pop_front();
            continue;
        }
        let (send, recv) = match trunk.connection.open_bi().await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        trunk.to_open.borrow_mut().pop_front();
        let send = Sending::new(send);
        if relay.is_over() {
            continue;
        }
        let stream = u64::from(recv.id());
        trunk.streams.borrow_mut().insert(relay.number, TrunkStream::new(send, true));
        trunk.readers.reverse(&relay, recv);
        relay.name_down(stream);
    }
}

/// Writes everything that goes to the peer, until the connection or the control stream fails.
pub(super) async fn run(trunk: &Rc<Trunk>, control: SendStream) -> String {
    trunk.apply_send_window();
    let window = PathWindow::new(trunk.connection.rtt(), Instant::now());
    let mut pump = Pump { trunk: Rc::clone(trunk), control, frames: BytesMut::new(), window, has_waited: false };
    match pump.run().await {
        Ok(never) => match never {},
        Err(error) => error.to_string(),
    }
}

/// Whether a stream's last turn was one of bulk.
#[derive(Debug, Default)]
pub(super) struct Habit {
    was_bulk: bool,
}

impl Habit {
    /// Whether so many bytes may go ahead of bulk, which the stream had in this turn; `is_fresh` as in [`Turn`].
    fn is_small(&mut self, is_fresh: bool, bytes: usize) -> bool {
        let is_bulk = !is_fresh || bytes > SMALL_BYTES;
        let was_bulk = std::mem::replace(&mut self.was_bulk, is_bulk);
        !is_bulk && !was_bulk
    }
}

/// What was written since QUIC got to send.
#[derive(Default)]
struct Burst {
    bytes: usize,
    /// The relay that was written last.
    last: Option<u64>,
    /// Whether it was not the only one.
    is_mixed: bool,
}

impl Burst {
    /// So many bytes of a relay were written. Returns whether the burst is over.
    fn add(&mut self, number: u64, bytes: usize) -> bool {
        self.is_mixed |= self.last.replace(number).is_some_and(|last| last != number);
        self.bytes += bytes;
        let is_over = self.is_mixed && self.bytes >= BURST_BYTES;
        if is_over {
            *self = Self::default();
        }
        is_over
    }
}

struct Pump {
    trunk: Rc<Trunk>,
    control: SendStream,
    /// Frames for the control stream, gathered.
    frames: BytesMut,
    window: PathWindow,
    /// A write of data has had to wait since the window was looked at last.
    has_waited: bool,
}

impl Pump {
    async fn run(&mut self) -> Result<std::convert::Infallible, WriteError> {
        let mut burst = Burst::default();
        loop {
            self.serve_control().await?;
            match self.trunk.outlet.next() {
                Some(Next::Data(turn)) => {
                    let number = turn.item.number;
                    let bytes = self.serve_data(turn).await?;
                    self.follow_path(bytes);
                    if burst.add(number, bytes) {
                        yield_now().await;
                    }
                }
                Some(Next::Frame(frame)) => frame.encode(&mut self.frames),
                Some(Next::News(relay, side)) => self.serve_news(&relay, side).await?,
                None => self.trunk.outlet.changed().await,
            }
        }
    }

    /// So many bytes were written: the window may have to be another.
    fn follow_path(&mut self, bytes: usize) {
        let trunk = &self.trunk;
        let has_waited = std::mem::take(&mut self.has_waited);
        if let Some(bytes) = self.window.written(bytes, has_waited, Instant::now(), || trunk.connection.rtt()) {
            trunk.path_window_bytes.set(bytes);
            trunk.apply_send_window();
        }
    }

    /// Writes all control that waits.
    async fn serve_control(&mut self) -> Result<(), WriteError> {
        while let Some(next) = self.trunk.outlet.next_control() {
            match next {
                Next::Frame(frame) => frame.encode(&mut self.frames),
                Next::News(relay, side) => self.serve_news(&relay, side).await?,
                Next::Data(..) => {}
            }
            if self.frames.len() >= FRAMES_BYTES_MAX {
                self.flush_frames().await?;
            }
        }
        self.flush_frames().await
    }

    async fn flush_frames(&mut self) -> Result<(), WriteError> {
        if self.frames.is_empty() {
            return Ok(());
        }
        let frames = self.frames.split().freeze();
        write_ahead(&self.trunk, &mut self.control, frames).await
    }

    async fn serve_news(&mut self, relay: &Rc<Relay>, side: Side) -> Result<(), WriteError> {
        match side {
            Side::Down => self.tell_down(relay).await,
            Side::Up => self.tell_up(relay).await,
        }
    }

    /// This node has the producer's side of the stream.
    async fn tell_down(&mut self, relay: &Rc<Relay>) -> Result<(), WriteError> {
        let stream = relay.end(Side::Down).and_then(|end| end.stream);
        let news = relay.take_down();
        self.acknowledge(stream, news.end_ack);
        if news.open.is_some() {
            let mut to_open = self.trunk.to_open.borrow_mut();
            to_open.push_back((Instant::now(), Rc::clone(relay)));
            self.trunk.to_open_changed.notify_one();
            if to_open.len() >= self.trunk.to_open_look_at.get() {
                // The first one stays: it is being opened.
                let mut at = 0;
                to_open.retain(|(_, relay)| std::mem::replace(&mut at, 1) == 0 || !relay.is_over());
                self.trunk.to_open_look_at.set(TO_OPEN_MIN.max(2 * to_open.len()));
            }
        }
        let half = self.trunk.streams.borrow_mut().remove(&relay.number);
        let Some(mut half) = half else { return Ok(()) };
        if std::mem::take(&mut half.is_unopened) {
            let mut preamble = BytesMut::new();
            let open = Open { stream: 0, producer_node: None, ..relay.open.clone() };
            match relay.resume {
                Some(consumer_incarnation) => Frame::from(Resume { open, consumer_incarnation }).encode(&mut preamble),
                None => Frame::from(open).encode(&mut preamble),
            }
            let preamble = preamble.freeze();
            let written = write_ahead(&self.trunk, half.send.stream(), preamble).await;
            check(relay, Side::Down, written)?;
        }
        if let (Some(limit), Some(stream)) = (news.limit, stream) {
            Frame::from(Limit { stream, ..limit }).encode(&mut self.frames);
        }
        if let (Some(Want { epoch, wanted, .. }), Some(stream)) = (news.want, stream) {
            Frame::from(Want { stream, epoch, wanted }).encode(&mut self.frames);
        }
        if news.over {
            self.end(relay, half, stream, news.abort);
        } else {
            self.trunk.streams.borrow_mut().insert(relay.number, half);
        }
        Ok(())
    }

    /// This node has the consumer's side of the stream.
    async fn tell_up(&mut self, relay: &Rc<Relay>) -> Result<(), WriteError> {
        let stream = relay.end(Side::Up).and_then(|end| end.stream);
        let news = relay.take_up();
        self.acknowledge(stream, news.end_ack);
        let half = self.trunk.streams.borrow_mut().remove(&relay.number);
        let Some(mut half) = half else { return Ok(()) };
        let mut frames = BytesMut::new();
        if let Some(answer) = news.answer {
            half.set_priority(CREDIT_PRIORITY);
            answer.into_frame(0).encode(&mut frames);
        }
        if let Some(credit) = news.credit {
            Frame::from(Credit { stream: 0, ..credit }).encode(&mut frames);
        }
        if let Some(reclaim) = news.reclaim {
            Frame::from(Reclaim { stream: 0, ..reclaim }).encode(&mut frames);
        }
        if !frames.is_empty() {
            let written = write_ahead(&self.trunk, half.send.stream(), frames.freeze()).await;
            check(relay, Side::Up, written)?;
        }
        if news.over && news.credit.is_some_and(|credit| credit.finished) {
            half.send.finish();
        } else if news.over {
            self.end(relay, half, stream, news.abort);
        } else {
            self.trunk.streams.borrow_mut().insert(relay.number, half);
        }
        Ok(())
    }

    /// Says that the end which the peer told of a stream has been heard, if that `is_due`.
    fn acknowledge(&mut self, stream: Option<u64>, is_due: bool) {
        if let (Some(stream), true) = (stream, is_due) {
            Frame::from(EndAck { stream }).encode(&mut self.frames);
        }
    }

    /// Lets go of a stream that is over.
    fn end(&mut self, relay: &Relay, half: TrunkStream, stream: Option<u64>, abort: Option<Abort>) {
        self.trunk.readers.remove(relay.number);
        let code = relay.code();
        if code == Code::Closed {
            // It ended cleanly: the last byte was written before.
            return half.send.finish();
        }
        if let (Some(abort), Some(stream)) = (abort, stream) {
            Frame::from(Abort { stream, ..abort }).encode(&mut self.frames);
        }
        half.send.reset(code);
    }

    /// Gives a stream its turn. Returns how many bytes it took.
    async fn serve_data(&mut self, turn: Turn<Rc<Relay>>) -> Result<usize, WriteError> {
        let Turn { item: relay, quantum, is_fresh } = turn;
        let half = self.trunk.streams.borrow_mut().remove(&relay.number);
        let Some(mut half) = half else { return Ok(0) };
        let Some(mut taken) = relay.take_data(quantum) else {
            self.trunk.streams.borrow_mut().insert(relay.number, half);
            return Ok(0);
        };
        let is_small = half.habit.is_small(is_fresh, taken.bytes);
        half.set_priority(if is_small { SMALL_PRIORITY } else { BULK_PRIORITY });
        let written = self.write_pieces(&relay, half, &mut taken.pieces, is_small).await;
        if self.trunk.small_waits.replace(false) {
            self.trunk.apply_send_window();
        }
        let Some((mut half, is_whole)) = written? else { return Ok(taken.bytes) };
        let more = relay.passed();
        self.trunk.outlet.served(&relay, taken.bytes, more);
        if taken.fin && is_whole && !relay.is_over() {
            // The last byte is written. The half stays until the consumer's last word, which the reader hears.
            let _ = half.send.stream().finish();
        }
        self.trunk.streams.borrow_mut().insert(relay.number, half);
        Ok(taken.bytes)
    }

    /// Writes pieces of a stream, small ones without waiting behind bulk for room in QUIC's pool. Returns the half, and
    /// whether everything was written; nothing when the stream has ended meanwhile.
    async fn write_pieces(
        &mut self,
        relay: &Rc<Relay>,
        mut half: TrunkStream,
        pieces: &mut [Bytes],
        is_small: bool,
    ) -> Result<Option<(TrunkStream, bool)>, WriteError> {
        let (mut begun, mut waits) = (0, false);
        while begun < pieces.len() && !relay.is_over() {
            let written = tokio::select! {
                biased;
                written = half.send.stream().write_chunks(&mut pieces[begun..]) => written,
                () = std::future::ready(()), if !waits => {
                    waits = true;
                    self.has_waited = true;
                    if is_small {
                        self.trunk.small_waits.set(true);
                        self.trunk.apply_send_window();
                    }
                    continue;
                }
                // Control overtakes; the stream that is out of the table for this turn is not among its business, but
                // for its own end.
                () = self.trunk.outlet.changed() => {
                    if self.trunk.outlet.has_control() {
                        self.trunk.streams.borrow_mut().insert(relay.number, half);
                        self.serve_control().await?;
                        let back = self.trunk.streams.borrow_mut().remove(&relay.number);
                        let Some(back) = back else { return Ok(None) };
                        half = back;
                    }
                    continue;
                }
            };
            match written {
                Ok(written) => begun += written.chunks,
                Err(WriteError::ConnectionLost(error)) => return Err(error.into()),
                Err(error) => {
                    if !std::mem::replace(&mut half.is_stopped, true) {
                        reader::after_reset(relay, Side::Down, stopped(&error));
                    }
                    break;
                }
            }
        }
        Ok(Some((half, begun == pieces.len())))
    }
}

/// Writes `bytes` without waiting behind data: if QUIC's pool is full, it is larger for this moment.
async fn write_ahead(trunk: &Trunk, send: &mut SendStream, bytes: Bytes) -> Result<(), WriteError> {
    let mut pieces = [bytes];
    let at_once = tokio::select! {
        biased;
        written = send.write_chunks(&mut pieces) => { written?; pieces[0].is_empty() }
        () = std::future::ready(()) => false,
    };
    if at_once {
        return Ok(());
    }
    trunk.control_waits.set(Some(Instant::now()));
    trunk.apply_send_window();
    let written = send.write_all_chunks(&mut pieces).await;
    trunk.control_waits.set(None);
    trunk.apply_send_window();
    written
}

/// A failure of one stream is that stream's; only the connection's goes further.
fn check(relay: &Rc<Relay>, side: Side, written: Result<(), WriteError>) -> Result<(), WriteError> {
    match written {
        Ok(()) => Ok(()),
        Err(WriteError::ConnectionLost(error)) => Err(error.into()),
        Err(error) => {
            reader::after_reset(relay, side, stopped(&error));
            Ok(())
        }
    }
}

fn stopped(error: &WriteError) -> Code {
    match error {
        WriteError::Stopped(code) => Code::from_wire((*code).into()),
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_turns_overtake_and_the_tail_of_bulk_does_not() {
        let mut habit = Habit::default();
        assert!(habit.is_small(true, SMALL_BYTES));
        assert!(habit.is_small(true, 1));
        assert!(!habit.is_small(false, 1), "it had more than its last turn");
        assert!(!habit.is_small(true, 1), "what preceded it may lie in QUIC still");
        assert!(habit.is_small(true, 1));
        assert!(!habit.is_small(true, SMALL_BYTES + 1));
        assert!(!habit.is_small(true, 1));
    }

    #[test]
    fn a_burst_is_over_when_it_is_long_and_of_several_streams() {
        let mut burst = Burst::default();
        assert!(!burst.add(1, 10 * BURST_BYTES), "one stream alone");
        assert!(burst.add(2, 1));
        assert!(!burst.add(3, BURST_BYTES));
        assert!(!burst.add(3, 1));
        assert!(burst.add(2, 1));
    }
}
