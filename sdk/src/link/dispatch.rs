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
    message::{Abort, Incoming},
};

use super::{
    Cell,
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
                if let Some(cell) = self.senders.get(&credit.stream)
                    && cell.handle_credit(&self.shared, &credit, &mut self.woken)
                    && let Some(cell) = self.senders.remove(&credit.stream)
                {
                    self.tell_lost_sent(&cell);
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
                    cell.handle_accept(&accept);
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
                if let Some(cell) = self.binds.remove(&refused.bind) {
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
            | Frame::Resumed(_)
            | Frame::Consumed(_)
            | Frame::ConsumedAck(_) => {
                return Err("the node sent a frame that may not stand on a link to a process".to_owned());
            }
        }
        Ok(())
    }

    fn abort(&mut self, abort: Abort) {
        if let Some(cell) = self.senders.remove(&abort.stream) {
            cell.handle_abort(&self.shared, abort.code, abort.offset, abort.text);
            self.tell_lost_sent(&cell);
        } else if let Some(receiving) = self.receivers.remove(&abort.stream) {
            receiving.cell.handle_abort(&self.shared, abort.code, abort.text);
            self.tell_lost_received(&receiving);
        }
    }

    fn incoming(&mut self, incoming: Incoming) -> Result<(), String> {
        let Incoming { bind, open } = incoming;
        let stream = open.stream;
        if stream % 2 == 0 || self.receivers.contains_key(&stream) {
            return Err(format!("the node offered a stream with the id {stream}, which it may not use"));
        }
        let Some(node) = open.producer_node else {
            return Err(format!("the node offered stream {stream} without its producer's node"));
        };
        let producer = Arc::new(ProducerInfo {
            name: open.producer,
            node,
            incarnation: open.incarnation,
            number: open.number,
            stream,
        });
        let offered = match self.binds.get(&bind) {
            Some(bind) => bind.offer(&self.shared, stream, producer).map(|cell| (cell, Arc::clone(bind))),
            None => Err((Code::ConsumerClosed, "the consumer was closed before it took the stream".to_owned())),
        };
        match offered {
            Ok((cell, bind)) => {
                self.receivers.insert(stream, Receiving { cell: Arc::clone(&cell), bind, accepted: false });
                self.shared.ready.control(Cell::Receive(cell));
            }
            Err((code, text)) => self.transport.push(Abort { stream, code, offset: 0, text }.into()),
        }
        Ok(())
    }
}
