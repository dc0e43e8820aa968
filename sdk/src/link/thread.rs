//! The loop of the link's thread: read and dispatch, ask the ready cells for output, write, wait.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hashbrown::HashMap;
use trunkline_proto::{
    frame::{DATA_BYTES_MAX, DataHeader, Frame},
    id::{Incarnation, NodeId},
    message::{Abort, EndAck, Limit, Resume, Want},
};
use trunkline_session::SendOutput;

use super::{
    BindCell, BindEnd, Cell, Ended, ReceiveCell, SendCell, Served, Shared, Turn,
    reattach::{Due, Paths},
    transport::{Came, Failure, Transport},
    wake,
};

/// While the send budget is short, the other processes are asked so often to say what they have.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// While a stream waits for its turn of the receive budget, the credit policy hears so often that time passes.
const TICK: Duration = Duration::from_millis(50);
/// So many streams at once, in rotation: the answers of all of a hundred thousand would be a load of their own.
const ASKS_MAX: usize = 1_000;
/// And so many are looked at for that.
const ASK_LOOKS_MAX: usize = 10_000;

/// The link, as its thread sees it.
pub(super) struct Link<T> {
    pub(super) shared: Arc<Shared>,
    pub(super) transport: T,
    /// The node that this process is attached to.
    pub(super) node: NodeId,
    /// How the node is named in errors.
    pub(super) name: String,
    /// Streams from this process that have a path, by id: from OPEN or RESUME sent to the end, and until it is known at the
    /// other end. In order, for they are asked in rotation.
    pub(super) senders: BTreeMap<u64, Arc<SendCell>>,
    /// Streams to this process that have a path, by id.
    pub(super) receivers: HashMap<u64, Receiving>,
    /// Streams to this process, whether they have a path or not: from INCOMING to the end, and until it is known at the other
    /// end.
    pub(super) known: HashMap<StreamName, Receiving>,
    /// Streams from this process that have none, by the addresses of their cells.
    pub(super) suspended: HashMap<usize, Arc<SendCell>>,
    /// Binds, by id: from BIND sent to UNBIND sent or REFUSED.
    pub(super) binds: HashMap<u64, Arc<BindCell>>,
    pub(super) next_stream: u64,
    pub(super) next_bind: u64,
    /// Names the next stream that this process receives, whatever its ids on the link.
    pub(super) next_key: u64,
    /// Who waits for the link to come to a position, which rises.
    pub(super) flushing: VecDeque<Flush>,
    /// What is to be looked at when its time has come.
    pub(super) due: BTreeMap<(Instant, u64), Due>,
    pub(super) next_due: u64,
    /// Paths lost and found in this turn of reading.
    pub(super) paths: Paths,
    /// When the other processes may be asked next to say what they have.
    ask_at: Instant,
    /// The stream that is asked first then.
    ask_from: u64,
    /// When the credit policy hears next that time passes, if a stream waits then.
    tick_at: Instant,
    /// When sends that wait are looked through next; `None` for never.
    pub(super) stalls_at: Option<Instant>,
    /// Closing has begun.
    pub(super) close_by: Option<Instant>,
    /// For the pieces of one DATA frame; empty between turns.
    pieces: Vec<Bytes>,
    /// Tasks of the application for which something has come in this turn of reading.
    pub(super) woken: Vec<Waker>,
}

/// A stream's name beyond its ids: the producer's life, and the stream's number in it.
pub(super) type StreamName = (Incarnation, u64);

/// A stream to this process.
#[derive(Clone)]
pub(super) struct Receiving {
    pub(super) cell: Arc<ReceiveCell>,
    /// Where it came to.
    pub(super) bind: Arc<BindCell>,
}

impl Receiving {
    pub(super) fn name(&self) -> StreamName {
        (self.cell.producer.incarnation, self.cell.producer.number)
    }
}

pub(super) struct Flush {
    pub(super) position: u64,
    pub(super) told: Told,
}

/// Who is told that what it had to say is written.
pub(super) enum Told {
    /// A flush of the stream up to an offset.
    Send(Arc<SendCell>, u64),
    /// A stream's last word.
    Receive(Arc<ReceiveCell>),
    /// The end of a bind.
    Bind(Arc<BindCell>),
}

impl<T: Transport> Link<T> {
    pub(super) fn new(shared: Arc<Shared>, transport: T, node: NodeId, name: String) -> Self {
        let now = Instant::now();
        Self {
            stalls_at: shared.stalls.next_look(now),
            shared,
            transport,
            node,
            name,
            senders: BTreeMap::new(),
            receivers: HashMap::new(),
            known: HashMap::new(),
            suspended: HashMap::new(),
            binds: HashMap::new(),
            next_stream: 2,
            next_bind: 1,
            next_key: 1,
            flushing: VecDeque::new(),
            due: BTreeMap::new(),
            next_due: 0,
            paths: Paths::default(),
            ask_at: now,
            ask_from: 0,
            tick_at: now,
            close_by: None,
            pieces: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// Serves the link until it is closed or lost, for a node that does not come back. Returns whether everything was said.
    #[cfg(any(test, feature = "embedded"))]
    pub(super) async fn run(mut self) -> bool {
        match self.serve().await {
            Ok(clean) => clean,
            Err(Failure::Lost(why) | Failure::Fatal(why)) => self.fail(&why),
        }
    }

    /// The link is lost for good.
    pub(super) fn fail(&mut self, why: &str) -> bool {
        tracing::warn!(node = %self.name, %why, "the link to the node is lost");
        let why = format!("the link to {} is lost: {why}", self.name);
        self.end(&Ended::NodeLost(why.into()));
        false
    }

    /// Serves the link until it is closed: whether everything was said.
    pub(super) async fn serve(&mut self) -> Result<bool, Failure> {
        loop {
            let readable = self.read()?;
            if self.close_by.is_none()
                && let Some(by) = self.shared.ready.close_by()
            {
                self.close_by = Some(by);
                self.detach();
            }
            self.ask();
            self.keep_time();
            self.fill();
            if let Err(error) = self.write() {
                // Why the node has closed the link is what it said last.
                while self.read()? {}
                return Err(error);
            }
            // A close that began meanwhile is seen at the next turn: first everything unfinished is given up.
            if let Some(by) = self.close_by {
                let settled = self.is_settled();
                if (settled && !self.awaits_acks()) || Instant::now() >= by {
                    self.shared.ready.shut(Ended::Closed);
                    self.transport.leave(self.shared.ready.is_farewell_wanted().then_some(by)).await;
                    return Ok(settled);
                }
            }
            if readable || (self.transport.has_room() && !self.shared.ready.is_empty()) {
                // Lets the runtime look at its sockets, and an embedded node do its part.
                tokio::task::yield_now().await;
            } else {
                self.wait().await?;
            }
        }
    }

    /// Does what the time has come for.
    pub(super) fn keep_time(&mut self) {
        self.pass_time();
        self.look_for_stalls();
        self.look_at_due();
        self.shared.lingering.expire(Instant::now());
    }

    /// Until there is something to do.
    async fn wait(&self) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.shared.ready.woken() => Ok(()),
            ready = self.transport.ready() => ready,
            () = self.timer() => Ok(()),
        }
    }

    /// Until the time has come for something.
    pub(super) async fn timer(&self) {
        let ask_at = self.shared.send_budget.is_short().then_some(self.ask_at);
        let tick_at = self.shared.credit.is_waited_for().then_some(self.tick_at);
        let stalls_at = self.stalls_at.filter(|_| self.shared.stalls.is_watched());
        let due_at = self.due.first_key_value().map(|((at, _), _)| *at);
        let linger_by = self.shared.lingering.next_at();
        let all =
            self.close_by.into_iter().chain(ask_at).chain(tick_at).chain(stalls_at).chain(linger_by).chain(due_at);
        match all.min() {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Reads and dispatches; returns whether there may be more.
    ///
    /// Tasks are woken at the end: to wake a thread of the application costs more than all else that a small message does, and
    /// one that was woken for the first of many would be asleep again before the second.
    fn read(&mut self) -> Result<bool, Failure> {
        let read = self.read_frames();
        wake(self.woken.drain(..));
        self.tell_paths();
        read
    }

    fn read_frames(&mut self) -> Result<bool, Failure> {
        loop {
            match self.transport.next()? {
                Came::Frame(frame) => self.dispatch(frame).map_err(Failure::Fatal)?,
                Came::Nothing => return Ok(false),
                Came::TurnOver => return Ok(true),
            }
        }
    }

    /// While the send budget is short: what the other processes have need not be kept here, and idle streams, together,
    /// may not have been told of much.
    fn ask(&mut self) {
        if self.shared.send_budget.is_short() && Instant::now() >= self.ask_at {
            self.ask_at = Instant::now() + ASK_INTERVAL;
            wake(self.shared.send_budget.revoke());
            let rotation = self.senders.range(self.ask_from..).chain(self.senders.range(..self.ask_from));
            let mut asked = 0;
            for (looked, (&stream, cell)) in rotation.enumerate() {
                if asked == ASKS_MAX || looked == ASK_LOOKS_MAX {
                    self.ask_from = stream;
                    break;
                }
                asked += usize::from(cell.ask(&self.shared));
            }
        }
    }

    fn pass_time(&mut self) {
        let now = Instant::now();
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            self.shared.pass_time();
        }
    }

    /// Asks ready cells for output, as long as there is room for it.
    fn fill(&mut self) {
        let mut served = None;
        while self.transport.has_room() {
            match self.shared.ready.next(served.take()) {
                None => return,
                Some(Turn::Data(cell, quantum)) => {
                    let (bytes, more) = self.turn_send(&cell, quantum.min(DATA_BYTES_MAX));
                    served = Some(Served { cell, bytes, more });
                }
                Some(Turn::Control(Cell::Send(cell))) => {
                    if self.turn_send(&cell, 0).1 {
                        self.shared.ready.data(&cell);
                    }
                }
                Some(Turn::Control(Cell::Receive(cell))) => self.turn_receive(&cell),
                Some(Turn::Control(Cell::Bind(cell))) => self.turn_bind(&cell),
            }
        }
        self.shared.ready.pause(served);
    }

    /// Returns how many bytes of data went out, and whether there is more: the cell's flag is set then.
    fn turn_send(&mut self, cell: &Arc<SendCell>, data_bytes_max: usize) -> (usize, bool) {
        let mut bytes = 0;
        let polled = cell.poll(data_bytes_max, &mut self.next_stream, &mut self.pieces);
        let stream = polled.id;
        match polled.output {
            None => {}
            Some(SendOutput::Open { epoch }) => {
                self.transport.push(cell.stream.open(stream, epoch).into());
                self.enter_sender(stream, cell);
            }
            Some(SendOutput::Resume { epoch, consumer }) => {
                let open = cell.stream.open(stream, epoch);
                self.transport.push(Resume { open, consumer_incarnation: consumer }.into());
                self.enter_sender(stream, cell);
            }
            Some(SendOutput::Data { offset, epoch, fin }) => {
                bytes = self.pieces.iter().map(Bytes::len).sum();
                self.transport.push_data(&DataHeader { stream, offset, epoch, fin }, &mut self.pieces);
            }
            Some(SendOutput::Want { epoch, wanted }) => {
                self.transport.push(Want { stream, epoch, wanted }.into());
            }
            Some(SendOutput::Limit { epoch, limit }) => {
                self.transport.push(Limit { stream, epoch, limit }.into());
            }
            Some(SendOutput::Abort(why)) => {
                self.transport.push(Abort { stream, code: why.code, offset: why.offset, text: why.text }.into());
                self.tell_lost_sent(cell);
            }
            Some(SendOutput::EndAck) => {
                self.transport.push(EndAck { stream }.into());
                self.senders.remove(&stream);
            }
        }
        if let Some(offset) = polled.flush {
            self.tell_when_written(Told::Send(Arc::clone(cell), offset));
        }
        (bytes, polled.more)
    }

    /// Everything that was pushed until now is to be written first.
    fn tell_when_written(&mut self, told: Told) {
        let position = self.transport.pushed();
        self.flushing.push_back(Flush { position, told });
    }

    fn enter_sender(&mut self, stream: u64, cell: &Arc<SendCell>) {
        self.suspended.remove(&(Arc::as_ptr(cell) as usize));
        self.senders.insert(stream, Arc::clone(cell));
    }

    fn turn_receive(&mut self, cell: &Arc<ReceiveCell>) {
        let mut is_last = false;
        while let Some(frame) = cell.poll() {
            is_last |= match &frame {
                Frame::Credit(credit) => credit.finished,
                Frame::Abort(_) | Frame::EndAck(_) => true,
                _ => false,
            };
            self.transport.push(frame);
        }
        if is_last {
            self.tell_when_written(Told::Receive(Arc::clone(cell)));
            let name = (cell.producer.incarnation, cell.producer.number);
            if let Some(receiving) = self.known.get(&name).cloned() {
                self.tell_lost_received(&receiving);
                self.forget_if_settled(&receiving);
            }
        }
    }

    /// Forgets a stream to this process of which nothing more is to be said or heard.
    pub(super) fn forget_if_settled(&mut self, receiving: &Receiving) {
        if receiving.cell.is_settled() {
            receiving.cell.handle_flushed();
            self.receivers.remove(&receiving.cell.link_id());
            self.known.remove(&receiving.name());
        }
    }

    fn turn_bind(&mut self, cell: &Arc<BindCell>) {
        while let Some(frame) = cell.poll(&mut self.next_bind) {
            match &frame {
                Frame::Unbind(unbind) => drop(self.binds.remove(&unbind.bind)),
                _ => drop(self.binds.insert(cell.id(), Arc::clone(cell))),
            }
            self.transport.push(frame);
        }
        if cell.begins_flush() {
            self.tell_when_written(Told::Bind(Arc::clone(cell)));
        }
    }

    /// Writes until the node's side takes no more.
    fn write(&mut self) -> Result<(), Failure> {
        self.transport.write()?;
        let written = self.transport.written();
        while self.flushing.front().is_some_and(|flush| flush.position <= written) {
            match self.flushing.pop_front().map(|flush| flush.told) {
                Some(Told::Send(cell, offset)) => cell.handle_flushed(offset),
                Some(Told::Receive(cell)) => cell.handle_flushed(),
                Some(Told::Bind(cell)) => cell.handle_flushed(),
                None => {}
            }
        }
        Ok(())
    }

    /// Closing begins: what is unfinished is given up, and the other ends told.
    pub(super) fn detach(&mut self) {
        for cell in self.cells() {
            match cell {
                Cell::Send(cell) => cell.detach(&self.shared),
                Cell::Receive(cell) => cell.detach(&self.shared),
                Cell::Bind(cell) => cell.detach(&self.shared),
            }
        }
        // Who cannot be told how a stream ended asks this process no more.
        let epitaphs = self
            .known
            .values()
            .filter_map(|Receiving { cell, bind, .. }| cell.epitaph(&bind.job, &bind.address.consumer));
        let epitaphs: Vec<_> = epitaphs.collect();
        for consumed in epitaphs {
            self.transport.push(consumed.into());
        }
    }

    /// Whether somebody waits for the closing, and the producers of streams that this process has ended have not all heard so:
    /// should the node die now, nobody could tell them any more. Of those that have no path, the node was told.
    fn awaits_acks(&self) -> bool {
        let is_unheard = |receiving: &Receiving| !receiving.cell.is_settled() && !receiving.cell.is_suspended();
        self.shared.ready.is_farewell_wanted()
            && !self.shared.patience.longest().is_zero()
            && self.known.values().any(is_unheard)
    }

    /// Whether nothing is left to be said.
    fn is_settled(&self) -> bool {
        let is_settled = |cell: &Arc<SendCell>| cell.is_settled();
        self.suspended.values().all(is_settled)
            && self.senders.values().all(is_settled)
            && self.transport.is_empty()
            && self.shared.ready.is_empty()
    }
}

impl<T> Link<T> {
    /// Every cell that is known: in a table, or still only in a list. Empties the lists.
    fn cells(&self) -> Vec<Cell> {
        let mut cells = self.shared.ready.take_all();
        cells.extend(self.senders.values().cloned().map(Cell::Send));
        cells.extend(self.suspended.values().cloned().map(Cell::Send));
        cells.extend(self.known.values().map(|receiving| Cell::Receive(Arc::clone(&receiving.cell))));
        cells.extend(self.binds.values().cloned().map(Cell::Bind));
        cells
    }

    /// The link has ended: everything that waits for it ends too, and whoever listens is told.
    pub(super) fn end(&mut self, ended: &Ended) {
        self.shared.ready.shut(ended.clone());
        for cell in self.cells() {
            match cell {
                Cell::Send(cell) => cell.lose(&self.shared, ended),
                Cell::Receive(cell) => cell.lose(&self.shared, ended),
                Cell::Bind(cell) => cell.end(BindEnd::Detached(ended.clone())),
            }
        }
        // The table forgot these binds when their end was pushed, which is not written.
        for flush in std::mem::take(&mut self.flushing) {
            if let Told::Bind(cell) = flush.told {
                cell.end(BindEnd::Detached(ended.clone()));
            }
        }
        self.shared.credit.clear();
        let senders = std::mem::take(&mut self.senders).into_values();
        for cell in senders.chain(std::mem::take(&mut self.suspended).into_values()) {
            self.tell_lost_sent(&cell);
        }
        self.receivers.clear();
        for receiving in std::mem::take(&mut self.known).into_values() {
            self.tell_lost_received(&receiving);
        }
        // After a panic there may be some that are in no cell any more.
        wake(self.woken.drain(..));
        self.shared.subscribers.end(ended);
    }
}

impl<T> Drop for Link<T> {
    fn drop(&mut self) {
        // After a loss there is nothing left to end; after a panic there is everything.
        let ended = match self.shared.ready.ended() {
            Some(ended) => ended,
            None => Ended::NodeLost(format!("the link to {} is lost: its thread panicked", self.name).into()),
        };
        self.end(&ended);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        task::{Context, Poll, Wake, Waker},
    };

    use trunkline_proto::id::{Incarnation, JobId};

    use super::*;
    use crate::link::Options;

    /// A node that takes nothing, and is lost as soon as anybody waits for it.
    struct Deaf;

    impl Transport for Deaf {
        fn next(&mut self) -> Result<Came, Failure> {
            Ok(Came::Nothing)
        }
        fn push(&mut self, _: Frame) {}
        fn push_data(&mut self, _: &DataHeader, _: &mut Vec<Bytes>) {}
        fn has_room(&self) -> bool {
            true
        }
        fn write(&mut self) -> Result<(), Failure> {
            Ok(())
        }
        fn pushed(&self) -> u64 {
            1
        }
        fn written(&self) -> u64 {
            0
        }
        async fn ready(&self) -> Result<(), Failure> {
            Err(Failure::Lost("it is deaf".to_owned()))
        }
        async fn leave(&mut self, _: Option<Instant>) {}
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(&Options {
            software: String::new(),
            receive_budget_bytes: 1 << 20,
            job_receive_budgets: BTreeMap::new(),
            send_budget_bytes: 1 << 20,
            message_bytes_max: 1 << 20,
            connect_timeout: Duration::MAX,
            retry_within: Duration::ZERO,
            stall_warn: Duration::MAX,
            patience: None,
            job_patiences: BTreeMap::new(),
        }))
    }

    fn link(shared: &Arc<Shared>) -> Link<Deaf> {
        Link::new(Arc::clone(shared), Deaf, "node-a".try_into().unwrap(), "the deaf node".to_owned())
    }

    #[test]
    fn a_task_that_was_to_be_woken_when_the_thread_panicked_is_woken() {
        let woken = Arc::new(Woken::default());
        let mut link = link(&shared());
        link.woken.push(Waker::from(Arc::clone(&woken)));
        // What unwinding does.
        drop(link);
        assert!(woken.0.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_consumer_whose_end_was_not_written_hears_that_the_link_is_lost() {
        let shared = shared();
        let job = JobId { name: "job".try_into().unwrap(), run: "1".try_into().unwrap() };
        let address = "job/sink@node-a".try_into().unwrap();
        let cell = Arc::new(BindCell::new(job, address, Incarnation::from_bits(1), 1));
        shared.ready.admit(Cell::Bind(Arc::clone(&cell))).unwrap();
        cell.close(&shared);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(cell.poll_closed(&shared, &Context::from_waker(&waker)).is_pending());
        assert!(!link(&shared).run().await);
        assert!(woken.0.load(Ordering::SeqCst), "close() is woken");
        assert!(matches!(cell.poll_closed(&shared, &Context::from_waker(Waker::noop())), Poll::Ready(Err(_))));
    }
}
