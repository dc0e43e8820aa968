//! What each frame from the node does.
//!
//! A frame for a stream or bind that is gone was in flight when it ended, and is ignored.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use trunkline_proto::{
    code::Code,
    frame::Frame,
    message::{Abort, EndAck, Incoming},
};
use trunkline_session::Asked;

use super::{
    Cell, Path,
    thread::{Link, Receiving},
    transport::Transport,
};
use crate::receiver::ProducerInfo;

impl<T: Transport> Link<T> {
    /// Carries one frame out.
    ///
    /// # Errors
    /// The frame may not stand here: the node does not speak the link's protocol, and the link cannot go on.
    pub(super) fn dispatch(&mut self, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Data(header, payload) => {
                if let Some(Receiving { cell, .. }) = self.receivers.get(&header.stream) {
                    self.woken.extend(cell.handle_data(&self.shared, &header, payload));
                }
            }
            Frame::Credit(credit) => {
                if let Some(cell) = self.senders.get(&credit.stream) {
                    cell.handle_credit(&self.shared, &credit, &mut self.woken);
                }
            }
            Frame::Want(want) => {
                if let Some(Receiving { cell, .. }) = self.receivers.get(&want.stream) {
                    cell.handle_want(&self.shared, want.wanted);
                }
            }
            Frame::Reclaim(reclaim) => {
                if let Some(cell) = self.senders.get(&reclaim.stream) {
                    cell.handle_reclaim(&self.shared, &reclaim);
                }
            }
            Frame::Limit(limit) => {
                if let Some(Receiving { cell, .. }) = self.receivers.get(&limit.stream) {
                    cell.handle_limit(&self.shared, &limit);
                }
            }
            Frame::Incoming(incoming) => self.incoming(incoming)?,
            Frame::Accept(accept) => {
                if let Some(cell) = self.senders.get(&accept.stream) {
                    let was_suspended = cell.is_suspended();
                    cell.handle_accept(&accept);
                    if was_suspended {
                        self.note_resumed();
                    }
                }
            }
            Frame::Resumed(resumed) => {
                if let Some(cell) = self.senders.get(&resumed.stream) {
                    cell.handle_resumed(&resumed);
                    self.note_resumed();
                }
            }
            Frame::EndAck(EndAck { stream }) => {
                if let Some(cell) = self.senders.remove(&stream) {
                    cell.handle_end_ack();
                } else if let Some(receiving) = self.receivers.get(&stream).cloned() {
                    receiving.cell.handle_end_ack();
                    self.forget_if_settled(&receiving);
                }
            }
            Frame::Abort(abort) => self.abort(abort),
            Frame::Bound(bound) => {
                if let Some(cell) = self.binds.get(&bound.bind) {
                    cell.handle_bound();
                }
            }
            Frame::Refused(refused) if refused.bind == 0 => {
                return Err(format!("the node ended it: {}: {}", refused.code, refused.text));
            }
            Frame::Refused(refused) => {
                if let Some(cell) = self.binds.get(&refused.bind).cloned()
                    && !self.refused_bind(&cell, refused.code)
                {
                    self.binds.remove(&refused.bind);
                    cell.handle_refused(refused);
                }
            }
            Frame::Drain(drain) => {
                tracing::info!(deadline_ms = drain.deadline_ms, "the node is shutting down and takes nothing new");
                if !self.shared.draining.swap(true, Ordering::Relaxed) {
                    self.shared.subscribers.drain(Duration::from_millis(drain.deadline_ms));
                }
            }
            Frame::LinkHello(_) => return Err("the node greeted twice".to_owned()),
            Frame::TrunkHello(_)
            | Frame::Bind(_)
            | Frame::Unbind(_)
            | Frame::Open(_)
            | Frame::Resume(_)
            | Frame::Consumed(_) => {
                return Err("the node sent a frame that may not stand on a link to a process".to_owned());
            }
        }
        Ok(())
    }

    fn abort(&mut self, abort: Abort) {
        if let Some(cell) = self.senders.remove(&abort.stream) {
            self.aborted_sender(&cell, abort);
        } else if let Some(receiving) = self.receivers.get(&abort.stream).cloned() {
            if abort.code.ends_path() {
                self.receivers.remove(&abort.stream);
                self.suspend_receiver(&receiving, abort.code, &abort.text.into());
            } else {
                receiving.cell.handle_abort(&self.shared, abort.code, abort.text);
                self.tell_lost_received(&receiving);
                self.forget_if_settled(&receiving);
            }
        }
    }

    fn incoming(&mut self, incoming: Incoming) -> Result<(), String> {
        let Incoming { bind, open, consumer_incarnation } = incoming;
        let stream = open.stream;
        if stream % 2 == 0 || self.receivers.contains_key(&stream) {
            return Err(format!("the node offered a stream with the id {stream}, which it may not use"));
        }
        let Some(node) = open.producer_node else {
            return Err(format!("the node offered stream {stream} without its producer's node"));
        };
        let asked = if consumer_incarnation.is_some() { Asked::Resume } else { Asked::Open };
        let refusal = match self.known.get(&(open.incarnation, open.number)).cloned() {
            Some(receiving) if receiving.cell.producer.node != node => {
                (Code::Forbidden, format!("the stream belongs to a producer on {}", receiving.cell.producer.node))
            }
            Some(receiving) => match self.ask_again(&receiving, stream, asked, open.epoch) {
                true => return Ok(()),
                false => (Code::Superseded, "the stream goes on by another path".to_owned()),
            },
            None if asked == Asked::Resume => {
                (Code::OutcomeUnknown, "the consumer's process does not know the stream any more".to_owned())
            }
            None => {
                let producer = Arc::new(ProducerInfo {
                    name: open.producer,
                    node,
                    incarnation: open.incarnation,
                    number: open.number,
                    stream: self.next_key,
                });
                self.next_key += 1;
                match self.offer(bind, stream, open.epoch, producer) {
                    Ok(()) => return Ok(()),
                    Err(refusal) => refusal,
                }
            }
        };
        let (code, text) = refusal;
        self.transport.push(Abort { stream, code, offset: 0, text }.into());
        Ok(())
    }

    /// A stream that is known is asked for on another path. Returns whether that is newer than the one that it had.
    fn ask_again(&mut self, receiving: &Receiving, stream: u64, asked: Asked, epoch: u32) -> bool {
        let Some(before) = receiving.cell.handle_asked(&self.shared, stream, asked, epoch) else { return false };
        self.receivers.insert(stream, receiving.clone());
        if self.receivers.remove(&before).is_some() {
            // The node, and the producer's, may not know yet that it is an older one.
            let text = "the stream goes on by another path".to_owned();
            self.transport.push(Abort { stream: before, code: Code::Superseded, offset: 0, text }.into());
        } else {
            self.note_resumed();
        }
        true
    }

    fn offer(&mut self, bind: u64, stream: u64, epoch: u32, producer: Arc<ProducerInfo>) -> Result<(), (Code, String)> {
        let Some(bind) = self.binds.get(&bind) else {
            return Err((Code::ConsumerClosed, "the consumer was closed before it took the stream".to_owned()));
        };
        let cell = bind.offer(&self.shared, Path { link_id: stream, epoch }, producer)?;
        let receiving = Receiving { cell: Arc::clone(&cell), bind: Arc::clone(bind) };
        self.known.insert(receiving.name(), receiving.clone());
        self.receivers.insert(stream, receiving);
        self.shared.ready.control(Cell::Receive(cell));
        Ok(())
    }
}
