//! Streams that ended neither cleanly nor by the wish of this process: told to whoever listens, once each, when they leave
//! the thread's tables.

use super::{
    SendCell,
    thread::{Link, Receiving},
};
use crate::event::{Direction, Event, LostStream};

impl<T> Link<T> {
    /// A stream from this process has left the table: tells whoever listens, if it was lost.
    pub(super) fn tell_lost_sent(&self, cell: &SendCell) {
        if !self.shared.subscribers.is_any() {
            return;
        }
        let Some(why) = cell.take_lost() else { return };
        let lost = LostStream {
            direction: Direction::Sent,
            job: cell.stream.job.clone(),
            producer: cell.stream.producer.clone(),
            producer_node: self.node.clone(),
            consumer: cell.stream.address.clone(),
            code: why.code,
            offset: why.offset,
            text: why.text,
        };
        self.shared.subscribers.publish(|| Event::Lost(lost.clone()));
    }

    /// The same for a stream to this process.
    pub(super) fn tell_lost_received(&self, receiving: &Receiving) {
        let Receiving { cell, bind } = receiving;
        if !self.shared.subscribers.is_any() {
            return;
        }
        let Some(why) = cell.take_lost() else { return };
        let lost = LostStream {
            direction: Direction::Received,
            job: bind.job.clone(),
            producer: cell.producer.name.clone(),
            producer_node: cell.producer.node.clone(),
            consumer: bind.address.clone(),
            code: why.code,
            offset: why.offset,
            text: why.text,
        };
        self.shared.subscribers.publish(|| Event::Lost(lost.clone()));
    }
}
