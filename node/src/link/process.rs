//! One attached process: what its frames do, and the two loops that read and write its socket, of which neither waits for
//! a stream. A program that the node is embedded in is a process too, without a socket ([`crate::embedded`]).

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io::{self, IoSlice},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::yield_now,
    time::timeout,
};
use tracing::debug;
use trunkline_proto::{
    code::Code,
    frame::{DataHeader, Decoder, Frame, FrameError},
    id::{ConsumerName, Incarnation, JobId},
    message::{Abort, Bind, Bound, Consumed, EndAck, LinkHello, Open, Refused, Resume},
    outgoing::Outgoing,
    version::{Offer, SOFTWARE},
};

use super::{
    credentials::{Denied, Peer},
    sink,
};
use crate::{
    bindings::Refusal,
    events::{self, counted},
    node::{Came, Node},
    outlet::{Kind, Outlet},
    relay::{End, Epitaph, Pool, Relay, Side},
    trunk,
};

/// What a link holds encoded and unwritten. More would only make control wait behind data.
const OUTGOING_BYTES_MAX: usize = 256 * 1024;
/// What is read of one link before others get their turn.
const READ_BYTES: usize = 256 * 1024;
/// Pieces of one vectored write.
const SLICES: usize = 64;
/// How long a process may take to read why it is cut off.
const FAREWELL: Duration = Duration::from_secs(1);

/// A consumer that a process has bound.
#[derive(Debug, Clone)]
pub(crate) struct LocalBind {
    pub(crate) job: JobId,
    pub(crate) consumer: ConsumerName,
    /// The consumer's life.
    pub(crate) life: Incarnation,
    /// It takes nothing new: streams of this life are resumed.
    pub(crate) resumes_only: bool,
}

/// One attached process.
pub(crate) struct Process {
    /// Counts attachments since the node started.
    pub(crate) number: u64,
    pub(crate) peer: Peer,
    pub(crate) software: String,
    /// What the process said; it decides nothing.
    pub(crate) pid: u32,
    /// Whether it is the program that the node is embedded in, which takes its frames itself.
    pub(crate) is_embedded: bool,
    pub(crate) since: Instant,
    pub(crate) outlet: Rc<Outlet>,
    /// What waits in this node for the process to read it.
    quota: Rc<Pool>,
    binds: RefCell<BTreeMap<u64, LocalBind>>,
    /// Lives of its consumers, also of such as are not bound any more: the oldest first.
    lives: RefCell<VecDeque<Incarnation>>,
    /// The next stream id that this node chooses on this link: odd.
    next_stream: Cell<u64>,
    /// The last stream id that the process chose: even.
    last_opened: Cell<u64>,
}

/// Why a link cannot go on. The process is told, and cut off.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) text: String,
}

impl Fault {
    fn protocol(text: impl Into<String>) -> Self {
        Self { code: Code::Protocol, text: text.into() }
    }

    fn unreadable(error: &FrameError) -> Self {
        Self { code: error.code(), text: error.to_string() }
    }
}

impl Process {
    /// Attaches a process at the other end of a socket, whose HELLO said the `software` and the `pid`.
    fn attach(node: &Node, peer: Peer, software: String, pid: u32) -> Result<Rc<Self>, Refusal> {
        Self::attach_as(node, peer, software, pid, false)
    }

    /// Attaches the program that the node is embedded in.
    pub(crate) fn attach_embedded(node: &Node, software: String) -> Result<Rc<Self>, Refusal> {
        Self::attach_as(node, Peer::own(), software, std::process::id(), true)
    }

    fn attach_as(node: &Node, peer: Peer, software: String, pid: u32, is_embedded: bool) -> Result<Rc<Self>, Refusal> {
        // Of one stream less than QUIC's own window of it, so that the peer's writer never waits for one stream alone.
        let stream_bytes_max = node.config.trunk.stream_receive_window_bytes / 8 * 7;
        let quota = Pool::shared(node.config.limits.process_quota_bytes, stream_bytes_max);
        let attached = node.attach(|number| {
            Rc::new(Self {
                number,
                peer,
                software,
                pid,
                is_embedded,
                since: Instant::now(),
                outlet: Outlet::new(Kind::Link),
                quota,
                binds: RefCell::default(),
                lives: RefCell::default(),
                next_stream: Cell::new(1),
                last_opened: Cell::new(0),
            })
        });
        match &attached {
            Ok(process) => debug!("process {} ({}, uid {}) attached", process.number, process.software, peer.uid),
            Err(refusal) => node.refusals.warn(&format!("refused a process of uid {}", peer.uid), &refusal.text),
        }
        attached
    }

    /// Offers a stream to one of this process's binds.
    pub(crate) fn offer(&self, relay: &Rc<Relay>, bind: u64) {
        let stream = self.next_stream.get();
        self.next_stream.set(stream + 2);
        relay.connect_down(&self.outlet, &self.quota, Some(stream), bind);
    }

    /// A consumer of this process has this life: its streams are resumed here. Of very many, the oldest are forgotten.
    fn keep_life(&self, node: &Node, life: Incarnation) {
        let mut lives = self.lives.borrow_mut();
        if !lives.contains(&life) {
            lives.push_back(life);
        }
        if lives.len() > 2 * node.config.limits.binds_per_process_max
            && let Some(oldest) = lives.pop_front()
        {
            node.bindings.borrow_mut().end_life(oldest, self.number);
        }
    }

    /// Whether the process has a bind of this id.
    pub(crate) fn has_bind(&self, bind: u64) -> bool {
        self.binds.borrow().contains_key(&bind)
    }

    /// The binds, by id.
    pub(crate) fn binds(&self) -> Vec<LocalBind> {
        self.binds.borrow().values().cloned().collect()
    }
}

/// Serves one connection on the local socket until it ends.
pub(crate) async fn serve(node: Rc<Node>, stream: UnixStream, peer: Peer, denied: Option<Denied>) {
    let (mut reader, writer) = stream.into_split();
    let mut decoder = Decoder::default();
    let greeting = async {
        if let Some(denied) = denied {
            return Err(Fault { code: Code::Forbidden, text: denied.to_string() });
        }
        let hello = timeout(node.config.limits.hello_timeout, read_hello(&mut reader, &mut decoder)).await;
        let hello = hello.map_err(|_| Fault::protocol("no HELLO came in time"))??;
        Offer::ours().agree(&hello.offer).map_err(|error| Fault { code: Code::Version, text: error.to_string() })?;
        Ok(hello)
    };
    let hello = match greeting.await {
        Ok(hello) => hello,
        Err(fault) => {
            // Who says nothing at all was only looking whether somebody serves.
            if fault.code != Code::Closed {
                node.refusals.warn(&format!("refused a process of uid {}", peer.uid), &fault.text);
                farewell(&writer, Outgoing::default(), &fault).await;
            }
            return;
        }
    };
    let process = match Process::attach(&node, peer, hello.software, hello.pid) {
        Ok(process) => process,
        Err(Refusal { code, text }) => return farewell(&writer, Outgoing::default(), &Fault { code, text }).await,
    };
    process.outlet.push_frame(LinkHello {
        offer: Offer::ours(),
        software: SOFTWARE.to_owned(),
        cluster: node.cluster.to_string(),
        node: Some(node.id.clone()),
        pid: 0,
        patience_ms: u64::try_from(node.config.limits.patience.as_millis()).unwrap_or(u64::MAX),
    });
    let mut outgoing = Outgoing::default();
    let ended = tokio::select! {
        ended = read(&node, &process, &mut reader, &mut decoder) => ended,
        // Nobody reads the link any more. What the process said before it went must still be read.
        never = write(&process, &writer, &mut outgoing) => match never {},
    };
    match ended {
        Ok(()) => detach(&node, &process),
        Err(fault) => {
            cut_off(&node, &process, &fault);
            farewell(&writer, outgoing, &fault).await;
        }
    }
}

/// Detaches a process that has done what it must not.
pub(crate) fn cut_off(node: &Node, process: &Process, fault: &Fault) {
    // Without its number: one that comes back and does the same again is the same one.
    let who = format!("cut off a process of uid {} ({})", process.peer.uid, process.software);
    node.refusals.warn(&who, &fault.text);
    detach(node, process);
}

/// Ends everything that the process was part of.
pub(crate) fn detach(node: &Node, process: &Process) {
    for (id, bind) in process.binds.take() {
        events::unbound(process.number, &bind.job, &bind.consumer);
        node.bindings.borrow_mut().unbind(&(bind.job.name, bind.consumer), process.number, id);
    }
    for life in process.lives.take() {
        node.bindings.borrow_mut().end_life(life, process.number);
        node.relays.tombstones().borrow_mut().end_life(life, Code::ConsumerGone, Instant::now());
    }
    let relays = process.outlet.close();
    let unfinished = relays.iter().filter(|relay| !relay.is_over()).count();
    for relay in relays {
        let open = &relay.open;
        let texts = [
            (Side::Up, format!("the process of producer {} is gone", open.producer)),
            (Side::Down, format!("the process of consumer {} is gone", open.consumer)),
        ];
        for (side, text) in texts {
            if relay.end(side).is_some_and(|end| Rc::ptr_eq(&end.outlet, &process.outlet)) {
                relay.gone(side, &text);
            }
        }
    }
    node.detach(process.number);
    let unfinished = counted(unfinished as u64, "stream", "streams");
    debug!("process {} ({}) detached, {unfinished} unfinished", process.number, process.software);
}

/// Says why, behind what was begun, and gives the process a moment to read it.
async fn farewell(writer: &OwnedWriteHalf, mut outgoing: Outgoing, fault: &Fault) {
    outgoing.push(&Refused { bind: 0, code: fault.code, text: fault.text.clone() }.into());
    // A process that does not listen loses nothing but the reason.
    let _ = timeout(FAREWELL, write_all(writer, &mut outgoing)).await;
}

async fn read_hello(reader: &mut OwnedReadHalf, decoder: &mut Decoder) -> Result<LinkHello, Fault> {
    loop {
        match decoder.next().map_err(|error| Fault::unreadable(&error))? {
            Some(Frame::LinkHello(hello)) => return Ok(hello),
            Some(_) => return Err(Fault::protocol("the first frame was no HELLO")),
            None => {}
        }
        if !fill(reader, decoder).await {
            return Err(Fault { code: Code::Closed, text: "the connection ended before its HELLO".to_owned() });
        }
    }
}

/// Waits for bytes and reads what is there; false at the end of the connection.
async fn fill(reader: &OwnedReadHalf, decoder: &mut Decoder) -> bool {
    loop {
        if reader.readable().await.is_err() {
            return false;
        }
        let buffer = decoder.buffer();
        buffer.reserve(READ_BYTES);
        match reader.try_read_buf(buffer) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
}

async fn read(
    node: &Rc<Node>,
    process: &Rc<Process>,
    reader: &mut OwnedReadHalf,
    decoder: &mut Decoder,
) -> Result<(), Fault> {
    loop {
        while let Some(frame) = decoder.next().map_err(|error| Fault::unreadable(&error))? {
            handle(node, process, frame)?;
        }
        if !fill(reader, decoder).await {
            return Ok(());
        }
        // A socket that always has more would otherwise keep the thread to itself: its readiness costs no budget.
        yield_now().await;
    }
}

/// Does what a frame asks. After a fault the process is to be [cut off](cut_off).
pub(crate) fn handle(node: &Rc<Node>, process: &Rc<Process>, frame: Frame) -> Result<(), Fault> {
    dispatch(node, process, frame)?;
    check_overrun(process)
}

/// Takes the bytes of a stream, which are moved out of `pieces`. As for [`handle`].
pub(crate) fn handle_data(process: &Process, header: &DataHeader, pieces: &mut [Bytes]) -> Result<(), Fault> {
    let DataHeader { stream, offset, epoch, fin } = *header;
    if let Some(relay) = process.outlet.stream(stream)
        && from_producer(stream)?
        && epoch == relay.open.epoch
    {
        relay.data_in_pieces(offset, pieces, fin);
    }
    check_overrun(process)
}

fn check_overrun(process: &Process) -> Result<(), Fault> {
    if process.outlet.is_overrun() {
        return Err(Fault { code: Code::Busy, text: "it asks more than it reads the answers to".to_owned() });
    }
    Ok(())
}

fn dispatch(node: &Rc<Node>, process: &Rc<Process>, frame: Frame) -> Result<(), Fault> {
    let outlet = &process.outlet;
    match frame {
        Frame::Data(header, payload) => handle_data(process, &header, &mut [payload])?,
        Frame::Credit(credit) => {
            if let Some(relay) = outlet.stream(credit.stream)
                && from_consumer(credit.stream)?
            {
                relay.credit(&credit);
            }
        }
        Frame::Want(want) => {
            if let Some(relay) = outlet.stream(want.stream)
                && from_producer(want.stream)?
            {
                relay.want(&want);
            }
        }
        Frame::Reclaim(reclaim) => {
            if let Some(relay) = outlet.stream(reclaim.stream)
                && from_consumer(reclaim.stream)?
            {
                relay.reclaim(&reclaim);
            }
        }
        Frame::Limit(limit) => {
            if let Some(relay) = outlet.stream(limit.stream)
                && from_producer(limit.stream)?
            {
                relay.limit(&limit);
            }
        }
        Frame::Open(open) => handle_open(node, process, open, None)?,
        Frame::Accept(accept) => {
            if let Some(relay) = outlet.stream(accept.stream)
                && from_consumer(accept.stream)?
            {
                relay.accept(&accept);
            }
        }
        Frame::Abort(Abort { stream, code, offset, text }) => {
            if let Some(relay) = outlet.stream(stream) {
                let side = if is_producers(stream) { Side::Up } else { Side::Down };
                relay.abort(side, code, offset, &text);
            }
        }
        Frame::Bind(bind) => handle_bind(node, process, bind),
        Frame::Unbind(unbind) => {
            if let Some(bind) = process.binds.borrow_mut().remove(&unbind.bind) {
                events::unbound(process.number, &bind.job, &bind.consumer);
                let name = (bind.job.name, bind.consumer);
                node.bindings.borrow_mut().unbind(&name, process.number, unbind.bind);
            }
        }
        Frame::Resume(Resume { open, consumer_incarnation }) => {
            handle_open(node, process, open, Some(consumer_incarnation))?;
        }
        Frame::Resumed(resumed) => {
            if let Some(relay) = outlet.stream(resumed.stream)
                && from_consumer(resumed.stream)?
            {
                relay.resumed(&resumed);
            }
        }
        Frame::EndAck(EndAck { stream }) => {
            if let Some(relay) = outlet.stream(stream) {
                relay.end_ack(if is_producers(stream) { Side::Up } else { Side::Down });
            }
        }
        Frame::Consumed(Consumed { key, consumed, finished, abort }) => {
            let code = if finished { None } else { Some(abort.map_or(Code::ConsumerGone, |abort| abort.code)) };
            let mut tombstones = node.relays.tombstones().borrow_mut();
            tombstones.end((key.incarnation, key.number), Epitaph { consumed, code }, Instant::now());
        }
        Frame::LinkHello(_)
        | Frame::TrunkHello(_)
        | Frame::Drain(_)
        | Frame::Bound(_)
        | Frame::Refused(_)
        | Frame::Incoming(_) => return Err(Fault::protocol("a frame that a process does not send")),
    }
    Ok(())
}

/// Even ids were chosen by the process, for streams that it sends.
const fn is_producers(stream: u64) -> bool {
    stream.is_multiple_of(2)
}

fn from_producer(stream: u64) -> Result<bool, Fault> {
    if is_producers(stream) { Ok(true) } else { Err(Fault::protocol("a producer's frame on a stream it receives")) }
}

fn from_consumer(stream: u64) -> Result<bool, Fault> {
    if is_producers(stream) { Err(Fault::protocol("a consumer's frame on a stream it sends")) } else { Ok(true) }
}

fn handle_open(
    node: &Rc<Node>,
    process: &Rc<Process>,
    mut open: Open,
    resume: Option<Incarnation>,
) -> Result<(), Fault> {
    let stream = open.stream;
    if !is_producers(stream) || stream <= process.last_opened.get() {
        return Err(Fault::protocol(format!("stream id {stream} is odd, or was used before")));
    }
    process.last_opened.set(stream);
    open.producer_node = Some(node.id.clone());
    let up = End { outlet: Rc::clone(&process.outlet), stream: Some(stream) };
    if let Err(Refusal { code, text }) = node.open(open, resume, up, Came::FromProcess(process.number)) {
        process.outlet.push_frame(Abort { stream, code, offset: 0, text });
    }
    Ok(())
}

fn handle_bind(node: &Rc<Node>, process: &Rc<Process>, bind: Bind) {
    let id = bind.bind;
    let outlet = &process.outlet;
    let awaited_nodes = bind.awaited_nodes;
    let (life, resumes_only) = (bind.incarnation, bind.resumes_only);
    let local = LocalBind { job: bind.job, consumer: bind.consumer, life, resumes_only };
    let refuse = |refusal: Refusal| {
        events::bind_refused(process.number, &local.job, &local.consumer, &refusal);
        outlet.push_frame(Refused { bind: id, code: refusal.code, text: refusal.text });
    };
    let max = node.config.limits.binds_per_process_max;
    if process.binds.borrow().contains_key(&id) || id == 0 {
        refuse(Refusal { code: Code::Protocol, text: format!("bind id {id} is taken") });
    } else if process.binds.borrow().len() >= max {
        let text = format!("this process has {max} binds, the most that this node allows");
        refuse(Refusal { code: Code::Busy, text });
    } else {
        match node.bind(process, id, &local) {
            Ok(waited) => {
                events::bound(process.number, &local.job, &local.consumer, waited.len());
                if !resumes_only {
                    process.binds.borrow_mut().insert(id, local);
                }
                process.keep_life(node, life);
                outlet.push_frame(Bound { bind: id });
                for relay in waited {
                    process.offer(&relay, id);
                }
                for peer in awaited_nodes {
                    trunk::dial_awaited(node, &peer);
                }
            }
            Err(refusal) => refuse(refusal),
        }
    }
}

/// Writes what the outlet has, until it is dropped. Does not end when nobody reads: the reader sees the end first.
async fn write(process: &Rc<Process>, writer: &OwnedWriteHalf, outgoing: &mut Outgoing) -> Infallible {
    let outlet = &process.outlet;
    loop {
        while outgoing.len() < OUTGOING_BYTES_MAX {
            let Some(next) = outlet.next() else { break };
            sink::push(process, next, outgoing);
        }
        if outgoing.is_empty() {
            outlet.changed().await;
        } else if write_some(writer, outgoing).await.is_err() {
            return std::future::pending().await;
        } else {
            // As for reading.
            yield_now().await;
        }
    }
}

async fn write_some(writer: &OwnedWriteHalf, outgoing: &mut Outgoing) -> io::Result<()> {
    loop {
        writer.writable().await?;
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = outgoing.io_slices(&mut slices);
        match writer.try_write_vectored(&slices[..filled]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                outgoing.advance(written);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn write_all(writer: &OwnedWriteHalf, outgoing: &mut Outgoing) -> io::Result<()> {
    while !outgoing.is_empty() {
        write_some(writer, outgoing).await?;
    }
    Ok(())
}
