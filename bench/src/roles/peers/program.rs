//! A peer's program: it sends on streams over the link to its own node, by frames.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use bytes::Bytes;
use tokio::sync::watch;
use trunkline_node::embedded::LocalLink;
use trunkline_proto::{
    frame::{DATA_BYTES_MAX, DataHeader, Frame},
    id::{ConsumerName, Incarnation, JobId, NodeId, ProducerName, Weight},
    message::{Abort, EndAck, Limit, Open, Want},
};
use trunkline_session::{Finished, SendHalf, SendOutput};

use super::{JOB, Peers, Step, name, stream};
use crate::{
    error::BenchError,
    roles::{RUN, Sent, Source, Total},
};

/// The program of one peer.
pub(super) struct Program {
    link: LocalLink,
    /// It and its node have one name.
    producer: ProducerName,
    /// The life of the producer: this program's.
    incarnation: Incarnation,
    job: JobId,
    daemon: NodeId,
    streams_per_peer: usize,
    source: Rc<Source>,
    streams: BTreeMap<u64, Stream>,
    opened: u64,
    /// What the node has said, in the order in which it did. Empty between turns.
    frames: VecDeque<Frame>,
    pieces: Vec<Bytes>,
}

/// One stream to the daemon.
struct Stream {
    half: SendHalf,
    number: u64,
    consumer: ConsumerName,
    /// Which one it is among those of all peers.
    index: usize,
    /// How many messages it is to have; `None` while that is not known.
    messages: Option<u64>,
    written: u64,
    sent: Sent,
}

impl Program {
    pub(super) fn new(link: LocalLink, plan: &Peers, peer: usize, source: Rc<Source>) -> Self {
        let named = "it is a name";
        Self {
            link,
            producer: name(peer).parse().expect(named),
            incarnation: Incarnation::from_bits(peer as u128),
            job: JobId { name: JOB.parse().expect(named), run: RUN.parse().expect(named) },
            daemon: plan.daemon.parse().expect(named),
            streams_per_peer: plan.streams_per_peer,
            source,
            streams: BTreeMap::new(),
            opened: 0,
            frames: VecDeque::new(),
            pieces: Vec::new(),
        }
    }

    /// Opens a stream to a consumer of the daemon, without waiting for it.
    pub(super) fn open(&mut self, consumer: &str) -> Result<(), BenchError> {
        self.opened += 1;
        // A process's own streams have the even numbers.
        let (id, number) = (2 * self.opened, self.opened);
        let consumer = consumer.parse().expect("it is the name of a consumer");
        let index = stream(self.producer.as_str(), number, self.streams_per_peer)?;
        let (half, sent) = (SendHalf::new(), Sent::default());
        self.streams.insert(id, Stream { half, number, consumer, index, messages: None, written: 0, sent });
        self.turn(id)
    }

    /// Sends so many messages on every stream, as credit allows, and finishes it.
    pub(super) fn send_on_all(&mut self, messages: u64) -> Result<(), BenchError> {
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for id in streams {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.messages = Some(messages);
            }
            self.turn(id)?;
        }
        Ok(())
    }

    /// Whether every stream is taken by its consumer.
    pub(super) fn all_accepted(&self) -> bool {
        self.streams.values().all(|stream| stream.half.accepted().is_some())
    }

    /// Whether everything that was sent on every stream is consumed, its end too.
    pub(super) fn all_finished(&self) -> bool {
        self.streams.values().all(|stream| stream.half.finished() == Finished::Consumed)
    }

    /// Forgets the streams; what all of them have carried.
    pub(super) fn end(&mut self) -> Total {
        let mut total = Total::default();
        std::mem::take(&mut self.streams).values().for_each(|stream| total.add(stream.index, &stream.sent));
        total
    }

    /// Serves the link until `done`.
    pub(super) async fn serve(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), BenchError> {
        loop {
            self.hear()?;
            if done(self) {
                return Ok(());
            }
            self.link.changed().await;
        }
    }

    /// Serves the link until `step`. False when none will come.
    pub(super) async fn until(&mut self, steps: &mut watch::Receiver<Step>, step: Step) -> Result<bool, BenchError> {
        tokio::select! {
            come = steps.wait_for(|&now| now >= step) => Ok(come.is_ok()),
            served = self.serve(|_| false) => served.map(|()| false),
        }
    }

    /// Takes everything that the node has to say.
    fn hear(&mut self) -> Result<(), BenchError> {
        if self.link.is_ended() {
            return Err(BenchError::Peer("its link", "the node has ended it".to_owned()));
        }
        while self.link.next(&mut self.frames) {
            while let Some(frame) = self.frames.pop_front() {
                self.handle(frame)?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, frame: Frame) -> Result<(), BenchError> {
        let id = match &frame {
            Frame::Accept(accept) => accept.stream,
            Frame::Credit(credit) => credit.stream,
            Frame::Reclaim(reclaim) => reclaim.stream,
            Frame::Abort(abort) => abort.stream,
            _ => return Ok(()),
        };
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        match frame {
            Frame::Accept(accept) => stream.half.handle_accept(&accept),
            Frame::Credit(credit) => stream.half.handle_credit(&credit),
            Frame::Reclaim(reclaim) => stream.half.handle_reclaim(&reclaim),
            Frame::Abort(Abort { code, text, .. }) => {
                let text = format!("stream {}: {code}: {text}", stream.number);
                return Err(BenchError::Peer("its streams", text));
            }
            _ => {}
        }
        self.turn(id)
    }

    /// Writes what a stream may, and hands the node what follows from it.
    fn turn(&mut self, id: u64) -> Result<(), BenchError> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if let Some(messages) = stream.messages {
            while stream.written < messages {
                let message = self.source.message(stream.index, stream.written);
                if stream.half.write(&message).is_err() {
                    break;
                }
                stream.sent.add(&message, true);
                stream.written += 1;
            }
            if stream.written == messages {
                stream.half.finish();
            }
        }
        while let Some(output) = stream.half.poll_output(DATA_BYTES_MAX, &mut self.pieces) {
            let frame = match output {
                SendOutput::Open { epoch } => Open {
                    stream: id,
                    job: self.job.clone(),
                    producer: self.producer.clone(),
                    producer_node: None,
                    incarnation: self.incarnation,
                    number: stream.number,
                    consumer: stream.consumer.clone(),
                    node: self.daemon.clone(),
                    epoch,
                    weight: Weight::MIN,
                }
                .into(),
                SendOutput::Want { epoch, wanted } => Want { stream: id, epoch, wanted }.into(),
                SendOutput::Limit { epoch, limit } => Limit { stream: id, epoch, limit }.into(),
                SendOutput::EndAck => EndAck { stream: id }.into(),
                SendOutput::Resume { .. } => {
                    return Err(BenchError::Peer("its streams", "their path was lost".to_owned()));
                }
                SendOutput::Abort(why) => return Err(BenchError::Peer("its streams", why.to_string())),
                SendOutput::Data { offset, epoch, fin } => {
                    hand_over(&self.link, DataHeader { stream: id, offset, epoch, fin }, &mut self.pieces)?;
                    continue;
                }
            };
            say(&self.link, frame)?;
        }
        Ok(())
    }
}

/// One frame for each piece of memory that the data lies in.
fn hand_over(link: &LocalLink, header: DataHeader, pieces: &mut Vec<Bytes>) -> Result<(), BenchError> {
    let last = pieces.len().saturating_sub(1);
    let mut offset = header.offset;
    for (place, piece) in pieces.drain(..).enumerate() {
        let length = piece.len() as u64;
        say(link, Frame::Data(DataHeader { offset, fin: header.fin && place == last, ..header }, piece))?;
        offset += length;
    }
    Ok(())
}

fn say(link: &LocalLink, frame: Frame) -> Result<(), BenchError> {
    link.handle(frame).map_err(|refusal| BenchError::Peer("its link", format!("{}: {}", refusal.code, refusal.text)))
}
