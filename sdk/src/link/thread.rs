//! The loop of the link's thread: read and dispatch, ask the ready cells for output, write, wait.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt as _, io::Interest, net::UnixStream};
use trunkline_proto::{
    frame::{DATA_BYTES_MAX, DataHeader, Decoder, Frame},
    message::{Abort, Want},
    outgoing::Outgoing,
};
use trunkline_session::SendOutput;

use super::{BindCell, BindEnd, Cell, Ended, ReceiveCell, SendCell, Shared, Turn};

/// Asked of the kernel at once.
const READ_BYTES: usize = 64 * 1024;
/// Read before it is the turn of writing again.
const READ_TURN_BYTES: usize = 256 * 1024;
/// Cells are asked for output while less than this waits to be written. What waits in the cells instead can still be
/// overtaken by control.
const OUTGOING_BYTES_MAX: usize = 256 * 1024;
/// Answers to what was read are pushed beyond the bound above; with this much waiting, reading stops too.
const OUTGOING_BYTES_WALL: usize = 1024 * 1024;
/// Pieces in one write: what one system call may take on every system is more (`IOV_MAX`).
const WRITE_SLICES: usize = 64;
/// While the send budget is short, the other processes are asked so often to say what they have.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a process that has said everything waits for the node to close its side.
const FAREWELL: Duration = Duration::from_secs(1);

/// The link, as its thread sees it.
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    socket: UnixStream,
    decoder: Decoder,
    pub(super) outgoing: Outgoing,
    /// Written to the socket since the beginning.
    written_bytes: u64,
    /// How the node is named in errors.
    name: String,
    /// Streams from this process, by id: from OPEN sent to the end.
    pub(super) senders: HashMap<u64, Arc<SendCell>>,
    /// Streams to this process, by id: from INCOMING to the end.
    pub(super) receivers: HashMap<u64, Arc<ReceiveCell>>,
    /// Binds, by id: from BIND sent to UNBIND sent or REFUSED.
    pub(super) binds: HashMap<u64, Arc<BindCell>>,
    next_stream: u64,
    next_bind: u64,
    /// Who waits for the bytes of the link up to a position, which rises.
    flushing: VecDeque<Flush>,
    /// When the other processes may be asked next to say what they have.
    ask_at: Instant,
    /// Closing has begun.
    close_by: Option<Instant>,
    /// For the pieces of one DATA frame; empty between turns.
    pieces: Vec<Bytes>,
}

struct Flush {
    position: u64,
    told: Told,
}

/// Who is told that what it had to say is written.
enum Told {
    /// A flush of the stream up to an offset.
    Send(Arc<SendCell>, u64),
    /// A stream's last word.
    Receive(Arc<ReceiveCell>),
    /// The end of a bind.
    Bind(Arc<BindCell>),
}

/// Writes once, as much as the kernel takes.
pub(super) fn write_some(socket: &UnixStream, outgoing: &mut Outgoing) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
    let filled = outgoing.io_slices(&mut slices);
    let written = socket.try_write_vectored(&slices[..filled])?;
    outgoing.advance(written);
    Ok(written)
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>, socket: UnixStream, decoder: Decoder, name: String) -> Self {
        Self {
            shared,
            socket,
            decoder,
            outgoing: Outgoing::default(),
            written_bytes: 0,
            name,
            senders: HashMap::new(),
            receivers: HashMap::new(),
            binds: HashMap::new(),
            next_stream: 2,
            next_bind: 1,
            flushing: VecDeque::new(),
            ask_at: Instant::now(),
            close_by: None,
            pieces: Vec::new(),
        }
    }

    /// Serves the link until it is closed or lost. Returns whether everything was said.
    pub(super) async fn run(mut self) -> bool {
        match self.serve().await {
            Ok(clean) => clean,
            Err(why) => {
                tracing::warn!(node = %self.name, %why, "the link to the node is lost");
                let why = format!("the link to {} is lost: {why}", self.name);
                self.end(&Ended::NodeLost(why.into()));
                false
            }
        }
    }

    /// Errors are sentences: whatever they are, the link is lost.
    async fn serve(&mut self) -> Result<bool, String> {
        self.dispatch_buffered()?;
        loop {
            let readable = self.read()?;
            if self.close_by.is_none()
                && let Some(by) = self.shared.ready.close_by()
            {
                self.close_by = Some(by);
                self.detach();
            }
            self.ask();
            self.shared.lingering.expire(Instant::now());
            self.fill();
            if let Err(error) = self.write() {
                // Why the node has closed the link is what it said last.
                while self.read()? {}
                return Err(error.to_string());
            }
            // A close that began meanwhile is seen at the next turn: first everything unfinished is given up.
            if let Some(by) = self.close_by {
                let settled = self.is_settled();
                if settled || Instant::now() >= by {
                    self.leave(by).await;
                    return Ok(settled);
                }
            }
            if readable || (self.outgoing.is_empty() && !self.shared.ready.is_empty()) {
                // Lets the runtime look at the socket.
                tokio::task::yield_now().await;
            } else {
                self.wait().await.map_err(|error| error.to_string())?;
            }
        }
    }

    /// Until there is something to do.
    async fn wait(&self) -> io::Result<()> {
        let mut interest = Interest::READABLE;
        if self.outgoing.len() >= OUTGOING_BYTES_WALL {
            interest = Interest::WRITABLE;
        } else if !self.outgoing.is_empty() {
            interest |= Interest::WRITABLE;
        }
        let ask_at = self.shared.send_budget.is_short().then_some(self.ask_at);
        let timer = async {
            let linger_by = self.shared.lingering.next_at();
            match self.close_by.into_iter().chain(ask_at).chain(linger_by).min() {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shared.ready.woken() => Ok(()),
            ready = self.socket.ready(interest) => ready.map(drop),
            () = timer => Ok(()),
        }
    }

    /// Reads and dispatches; returns whether there may be more.
    fn read(&mut self) -> Result<bool, String> {
        let mut turn = 0;
        while turn < READ_TURN_BYTES {
            if self.outgoing.len() >= OUTGOING_BYTES_WALL {
                return Ok(false);
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(READ_BYTES);
            match self.socket.try_read_buf(buffer) {
                Ok(0) => return Err("the node closed it".to_owned()),
                Ok(count) => turn += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.to_string()),
            }
            self.dispatch_buffered()?;
        }
        Ok(true)
    }

    fn dispatch_buffered(&mut self) -> Result<(), String> {
        while let Some(frame) = self.decoder.next().map_err(|error| error.to_string())? {
            self.dispatch(frame)?;
        }
        Ok(())
    }

    /// While the send budget is short: what the other processes have need not be kept here, and idle streams, together,
    /// may not have been told of much.
    fn ask(&mut self) {
        if self.shared.send_budget.is_short() && Instant::now() >= self.ask_at {
            self.ask_at = Instant::now() + ASK_INTERVAL;
            for cell in self.senders.values() {
                cell.ask(&self.shared);
            }
        }
    }

    /// Asks ready cells for output, as long as there is room for it.
    fn fill(&mut self) {
        while self.outgoing.len() < OUTGOING_BYTES_MAX {
            match self.shared.ready.next() {
                None => return,
                Some(Turn::Control(Cell::Send(cell))) => self.turn_send(cell, 0),
                Some(Turn::Data(cell)) => self.turn_send(cell, DATA_BYTES_MAX),
                Some(Turn::Control(Cell::Receive(cell))) => self.turn_receive(&cell),
                Some(Turn::Control(Cell::Bind(cell))) => self.turn_bind(&cell),
            }
        }
    }

    fn turn_send(&mut self, cell: Arc<SendCell>, data_bytes_max: usize) {
        let polled = cell.poll(data_bytes_max, &mut self.next_stream, &mut self.pieces);
        let stream = polled.id;
        match polled.output {
            None => {}
            Some(SendOutput::Open) => {
                self.outgoing.push(&cell.stream.open(stream).into());
                self.senders.insert(stream, Arc::clone(&cell));
            }
            Some(SendOutput::Data { offset, epoch, fin }) => {
                self.outgoing.push_data(&DataHeader { stream, offset, epoch, fin }, &mut self.pieces);
            }
            Some(SendOutput::Want { epoch, wanted }) => {
                self.outgoing.push(&Want { stream, epoch, wanted }.into());
            }
            Some(SendOutput::Abort(why)) => {
                self.outgoing.push(&Abort { stream, code: why.code, offset: why.offset, text: why.text }.into());
                self.senders.remove(&stream);
            }
        }
        if let Some(offset) = polled.flush {
            self.tell_when_written(Told::Send(Arc::clone(&cell), offset));
        }
        if polled.more {
            self.shared.ready.data(cell);
        }
    }

    /// Everything that was pushed until now is to be written first.
    fn tell_when_written(&mut self, told: Told) {
        let position = self.written_bytes + self.outgoing.len() as u64;
        self.flushing.push_back(Flush { position, told });
    }

    fn turn_receive(&mut self, cell: &Arc<ReceiveCell>) {
        while let Some(frame) = cell.poll() {
            let over = match &frame {
                Frame::Credit(credit) => credit.finished,
                Frame::Abort(_) => true,
                _ => false,
            };
            self.outgoing.push(&frame);
            if over {
                self.receivers.remove(&cell.id);
                self.tell_when_written(Told::Receive(Arc::clone(cell)));
            }
        }
    }

    fn turn_bind(&mut self, cell: &Arc<BindCell>) {
        while let Some(frame) = cell.poll(&mut self.next_bind) {
            self.outgoing.push(&frame);
            match frame {
                Frame::Unbind(unbind) => drop(self.binds.remove(&unbind.bind)),
                _ => drop(self.binds.insert(cell.id(), Arc::clone(cell))),
            }
        }
        if cell.begins_flush() {
            self.tell_when_written(Told::Bind(Arc::clone(cell)));
        }
    }

    /// Writes until the kernel takes no more.
    fn write(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match write_some(&self.socket, &mut self.outgoing) {
                Ok(count) => self.written_bytes += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        while self.flushing.front().is_some_and(|flush| flush.position <= self.written_bytes) {
            match self.flushing.pop_front().map(|flush| flush.told) {
                Some(Told::Send(cell, offset)) => cell.handle_flushed(offset),
                Some(Told::Receive(cell)) => cell.handle_flushed(),
                Some(Told::Bind(cell)) => cell.handle_flushed(),
                None => {}
            }
        }
        Ok(())
    }

    /// Every cell that is known: in a table, or still only in a list, or a bind whose end is being written. Empties the
    /// lists.
    fn cells(&self) -> Vec<Cell> {
        let mut cells = self.shared.ready.take_all();
        cells.extend(self.senders.values().cloned().map(Cell::Send));
        cells.extend(self.receivers.values().cloned().map(Cell::Receive));
        cells.extend(self.binds.values().cloned().map(Cell::Bind));
        cells.extend(self.flushing.iter().filter_map(|flush| match &flush.told {
            Told::Bind(cell) => Some(Cell::Bind(Arc::clone(cell))),
            Told::Send(..) | Told::Receive(_) => None,
        }));
        cells
    }

    /// Closing begins: what is unfinished is given up, and the other ends told.
    fn detach(&self) {
        for cell in self.cells() {
            match cell {
                Cell::Send(cell) => cell.detach(&self.shared),
                Cell::Receive(cell) => cell.detach(&self.shared),
                Cell::Bind(cell) => cell.detach(&self.shared),
            }
        }
    }

    /// Whether nothing is left to be said.
    fn is_settled(&self) -> bool {
        self.outgoing.is_empty() && self.shared.ready.is_empty() && self.senders.values().all(|cell| cell.is_settled())
    }

    /// Says good-bye: the node reads the end of the link after the last frame, and closes its side.
    async fn leave(&mut self, by: Instant) {
        self.shared.ready.shut(Ended::Closed);
        // The node may be gone already: there is nobody left to tell.
        let _ = self.socket.shutdown().await;
        if !self.shared.ready.is_farewell_wanted() {
            return;
        }
        let by = by.min(Instant::now() + FAREWELL);
        let farewell = async {
            let mut rest = vec![0; READ_BYTES];
            while self.socket.readable().await.is_ok() {
                match self.socket.try_read(&mut rest) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        // A node that does not close its side has all the same been told everything.
        let _ = tokio::time::timeout_at(by.into(), farewell).await;
    }

    /// The link has ended: everything that waits for it ends too.
    fn end(&self, ended: &Ended) {
        self.shared.ready.shut(ended.clone());
        for cell in self.cells() {
            match cell {
                Cell::Send(cell) => cell.lose(&self.shared, ended),
                Cell::Receive(cell) => cell.lose(&self.shared, ended),
                Cell::Bind(cell) => cell.end(BindEnd::Detached(ended.clone())),
            }
        }
        self.shared.credit.clear();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // After a loss there is nothing left to end; after a panic there is everything.
        let ended = match self.shared.ready.ended() {
            Some(ended) => ended,
            None => Ended::NodeLost(format!("the link to {} is lost: its thread panicked", self.name).into()),
        };
        self.end(&ended);
    }
}
