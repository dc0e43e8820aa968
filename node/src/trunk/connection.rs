//! One trunk: its control stream, the streams its peer opens, and the end of it all.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::{Rc, Weak},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use hashbrown::HashMap;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, TransportErrorCode, VarInt};
use tokio::{
    sync::Notify,
    task::spawn_local,
    time::{error::Elapsed, interval, timeout},
};
use tracing::{debug, info};
use trunkline_certs::{RaisedBy, explain_alert};
use trunkline_proto::{
    code::Code,
    frame::{Decoder, Frame},
    id::{Incarnation, NodeId},
    message::{Abort, EndAck, Open, Resume, TrunkHello},
};

use super::{
    pump::{self, Habit},
    reader::Readers,
    silence::Silence,
    window::WINDOW_BYTES_MIN,
};
use crate::{
    bindings::Refusal,
    config::NodeConfig,
    node::{Came, Node},
    outlet::{Kind, Outlet},
    refusals::printable,
    relay::{End, Pool, Relay, Side},
};

/// Control goes ahead of data inside QUIC too.
const CONTROL_PRIORITY: i32 = 2;
/// How much the send window grows for the moment of a control write.
const CONTROL_ALLOWANCE_BYTES: u64 = 64 * 1024;
/// The same for small messages. Less than for control, which comes first also when there are many of these.
const SMALL_ALLOWANCE_BYTES: u64 = 32 * 1024;
/// What is read of a control stream at once.
const CONTROL_READ_BYTES: usize = 16 * 1024;
/// How often a connection is looked at for whether it should end.
const CHECK: Duration = Duration::from_secs(2);

/// A connection that is, or was, the trunk to a peer.
pub(crate) struct Trunk {
    pub(crate) peer: NodeId,
    pub(crate) connection: Connection,
    /// Whether this node dialled.
    pub(crate) dialled: bool,
    /// The life of the peer that it belongs to.
    pub(crate) boot_id: u64,
    pub(crate) since: Instant,
    /// Whether it takes new streams.
    pub(crate) current: Cell<bool>,
    /// Whether the peer has come back with another boot id.
    pub(super) restarted: Cell<bool>,
    /// Whether the peer said that it takes nothing new.
    pub(crate) draining: Cell<bool>,
    pub(crate) outlet: Rc<Outlet>,
    /// What waits for the trunk, by the attachment of the producers' process. A pool lasts as long as its streams.
    ingress: RefCell<BTreeMap<u64, Weak<Pool>>>,
    ingress_pool_bytes: u64,
    /// The sending halves, by relay number. One that is being written is out of here.
    pub(super) streams: RefCell<HashMap<u64, TrunkStream>>,
    /// What reads the receiving halves.
    pub(super) readers: Readers,
    /// Relays whose stream is to be opened.
    pub(super) to_open: RefCell<VecDeque<(Instant, Rc<Relay>)>>,
    /// At how many of them those that have ended are thrown out next.
    pub(super) to_open_look_at: Cell<usize>,
    pub(super) to_open_changed: Notify,
    /// What QUIC may hold on the way out at most, but for the moment of a control write.
    pub(super) send_window_bytes: Cell<u64>,
    /// What is enough for the path.
    pub(super) path_window_bytes: Cell<u64>,
    /// Since when a control write waits, if one does.
    pub(super) control_waits: Cell<Option<Instant>>,
    /// Whether a small message waits.
    pub(super) small_waits: Cell<bool>,
    /// How many streams the peer may have open.
    permitted: Cell<u32>,
    silence: RefCell<Silence>,
}

/// What this node writes of one QUIC stream.
pub(super) struct TrunkStream {
    pub(super) send: Sending,
    /// Whether the OPEN is still to be written, ahead of all else.
    pub(super) is_unopened: bool,
    /// Whether the peer was found not to want what is written.
    pub(super) is_stopped: bool,
    pub(super) habit: Habit,
    /// What QUIC was last told: a look here is cheaper than the connection's lock.
    priority: i32,
}

impl TrunkStream {
    /// A half of which nothing was written; with `is_unopened`, the OPEN is to be.
    pub(super) fn new(send: Sending, is_unopened: bool) -> Self {
        Self { send, is_unopened, is_stopped: false, habit: Habit::default(), priority: 0 }
    }

    /// From now on, whatever is written goes ahead of all that has less priority.
    pub(super) fn set_priority(&mut self, priority: i32) {
        if std::mem::replace(&mut self.priority, priority) != priority {
            // It fails only for a stream that was stopped, and the next write says so.
            let _ = self.send.stream().set_priority(priority);
        }
    }
}

/// A sending half that is reset when it is dropped. quinn would finish it: a cancelled task would look like a clean end.
pub(super) struct Sending(Option<SendStream>);

impl Sending {
    pub(super) fn new(send: SendStream) -> Self {
        Self(Some(send))
    }

    pub(super) fn stream(&mut self) -> &mut SendStream {
        #[expect(clippy::expect_used, reason = "only `finish` and `reset` empty it, and they take self")]
        self.0.as_mut().expect("present until it is taken by value")
    }

    /// Everything was written.
    pub(super) fn finish(mut self) {
        if let Some(mut send) = self.0.take() {
            // It fails only for a stream that was stopped: the peer does not want it.
            let _ = send.finish();
        }
    }

    /// Gives the stream up.
    pub(super) fn reset(mut self, code: Code) {
        if let Some(mut send) = self.0.take() {
            let _ = send.reset(code.to_wire().into());
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(send) = self.0.as_mut() {
            let _ = send.reset(Code::Cancelled.to_wire().into());
        }
    }
}

/// The control stream: the first that the dialler opens.
pub(crate) struct Control {
    send: SendStream,
    recv: RecvStream,
    decoder: Decoder,
}

impl Control {
    /// The dialler's side.
    pub(super) async fn open(connection: &Connection) -> Result<Self, Unreadable> {
        Ok(Self::new(connection.open_bi().await.map_err(|error| Unreadable::ended(explain(&error)))?))
    }

    /// The other side.
    pub(super) async fn accept(connection: &Connection) -> Result<Self, Unreadable> {
        let control = Self::new(connection.accept_bi().await.map_err(|error| Unreadable::ended(explain(&error)))?);
        if u64::from(control.recv.id()) != 0 {
            return Err(Unreadable::protocol("its first stream is not the control stream"));
        }
        Ok(control)
    }

    fn new((send, recv): (SendStream, RecvStream)) -> Self {
        // It fails only for a closed stream, and the next write says so.
        let _ = send.set_priority(CONTROL_PRIORITY);
        Self { send, recv, decoder: Decoder::default() }
    }

    pub(super) async fn send_hello(&mut self, hello: TrunkHello) -> Result<(), Unreadable> {
        let mut bytes = BytesMut::new();
        Frame::from(hello).encode(&mut bytes);
        self.send.write_all(&bytes).await.map_err(|error| Unreadable::ended(error.to_string()))
    }

    pub(super) async fn read_hello(&mut self) -> Result<TrunkHello, Unreadable> {
        match next_frame(&mut self.recv, &mut self.decoder).await? {
            Some(Frame::TrunkHello(hello)) => Ok(hello),
            Some(_) => Err(Unreadable::protocol("its first frame was no HELLO")),
            None => Err(Unreadable::protocol("it ended its control stream")),
        }
    }
}

/// Why a stream's frames cannot be read on.
pub(super) struct Unreadable {
    pub(super) code: Code,
    pub(super) text: String,
}

impl Unreadable {
    fn protocol(text: &str) -> Self {
        Self { code: Code::Protocol, text: text.to_owned() }
    }

    /// The peer, or the network, ended it.
    fn ended(text: String) -> Self {
        Self { code: Code::Cancelled, text }
    }
}

/// The next frame of a stream, or `None` at its end. Cancel-safe: what was read stays in `decoder`.
pub(super) async fn next_frame(recv: &mut RecvStream, decoder: &mut Decoder) -> Result<Option<Frame>, Unreadable> {
    loop {
        let next = decoder.next().map_err(|error| Unreadable { code: error.code(), text: error.to_string() });
        if let Some(frame) = next? {
            return Ok(Some(frame));
        }
        match recv.read_chunk(CONTROL_READ_BYTES, true).await {
            Ok(Some(chunk)) => decoder.buffer().extend_from_slice(&chunk.bytes),
            Ok(None) => return Ok(None),
            Err(error) => return Err(Unreadable::ended(error.to_string())),
        }
    }
}

/// Why a connection ended, or never was, in plain words.
pub(super) fn explain(error: &ConnectionError) -> String {
    let alert = |raised_by, code: u64, reason: &str| {
        // RFC 9001 §4.8: a TLS alert travels as 0x100 and its number.
        (code & !0xff == 0x100).then(|| explain_alert(raised_by, code.to_be_bytes()[7], reason))
    };
    match error {
        ConnectionError::TransportError(error) => {
            alert(RaisedBy::Us, error.code.into(), &error.reason).unwrap_or_else(|| error.to_string())
        }
        ConnectionError::ConnectionClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason);
            alert(RaisedBy::Peer, close.error_code.into(), &reason).unwrap_or_else(|| format!("it closed: {close}"))
        }
        ConnectionError::ApplicationClosed(close) => {
            let code = Code::from_wire(close.error_code.into());
            format!("it closed ({code}): {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::Reset => "it has restarted and knows nothing of the connection".to_owned(),
        ConnectionError::TimedOut => "it has been silent for too long".to_owned(),
        ConnectionError::LocallyClosed => "closed by this node".to_owned(),
        other => other.to_string(),
    }
}

/// Whether it was the peer that ended the connection.
pub(super) const fn is_peers_doing(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::ConnectionClosed(_) | ConnectionError::ApplicationClosed(_) | ConnectionError::Reset
    )
}

/// Whether the peer closed the connection, during the handshake, of its own accord: another became the trunk meanwhile.
pub(super) fn is_given_up(error: &ConnectionError) -> bool {
    // RFC 9000 §10.2.3: before 1-RTT keys, an application's close travels as this.
    matches!(error, ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::APPLICATION_ERROR)
}

impl Trunk {
    pub(super) fn new(
        peer: NodeId,
        connection: Connection,
        dialled: bool,
        boot_id: u64,
        config: &NodeConfig,
    ) -> Rc<Self> {
        Rc::new(Self {
            peer,
            connection,
            dialled,
            boot_id,
            since: Instant::now(),
            current: Cell::new(true),
            restarted: Cell::new(false),
            draining: Cell::new(false),
            outlet: Outlet::new(Kind::Trunk),
            streams: RefCell::default(),
            readers: Readers::default(),
            to_open: RefCell::default(),
            to_open_look_at: Cell::new(TO_OPEN_MIN),
            to_open_changed: Notify::new(),
            send_window_bytes: Cell::new(config.trunk.send_window_bytes),
            path_window_bytes: Cell::new(WINDOW_BYTES_MIN),
            ingress: RefCell::default(),
            ingress_pool_bytes: config.limits.ingress_pool_bytes,
            control_waits: Cell::new(None),
            small_waits: Cell::new(false),
            permitted: Cell::new(config.trunk.streams_initial),
            silence: RefCell::default(),
        })
    }

    /// What the streams from one local process to the peer share.
    pub(super) fn ingress_pool(&self, process: Option<u64>) -> Rc<Pool> {
        // Streams to a peer come from processes: there is no other number than theirs.
        let process = process.unwrap_or_default();
        let mut ingress = self.ingress.borrow_mut();
        if let Some(pool) = ingress.get(&process).and_then(Weak::upgrade) {
            return pool;
        }
        ingress.retain(|_, pool| pool.strong_count() > 0);
        let pool = Pool::shared(self.ingress_pool_bytes, u64::MAX);
        ingress.insert(process, Rc::downgrade(&pool));
        pool
    }

    /// QUIC may hold so much on the way out from now on.
    pub(super) fn set_send_window(&self, bytes: u64) {
        if self.send_window_bytes.replace(bytes) != bytes {
            self.apply_send_window();
        }
    }

    /// Tells QUIC how much it may hold: more for the moment of a control write or a small message, which must not wait behind
    /// bulk.
    pub(super) fn apply_send_window(&self) {
        let control = if self.control_waits.get().is_some() { CONTROL_ALLOWANCE_BYTES } else { 0 };
        let small = if self.small_waits.get() { SMALL_ALLOWANCE_BYTES } else { 0 };
        // When a path has become slow, QUIC may hold more than is enough for it now.
        let enough = if control + small > 0 { u64::MAX } else { self.path_window_bytes.get() };
        self.connection.set_send_window(self.send_window_bytes.get().min(enough) + control + small);
    }

    /// Whether the peer owes an answer and has been silent for long. To be asked now and then.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let stats = self.connection.stats();
        self.silence.borrow_mut().look(stats.udp_tx.datagrams, stats.udp_rx.datagrams, now)
    }

    /// Another connection is the trunk: what this node has sent on its way here is resumed there.
    pub(super) fn supersede(&self) {
        let mut relays = self.outlet.streams();
        relays.extend(self.to_open.borrow().iter().map(|(_, relay)| Rc::clone(relay)));
        for relay in relays {
            if relay.end(Side::Down).is_some_and(|end| Rc::ptr_eq(&end.outlet, &self.outlet)) {
                relay.supersede();
            }
        }
    }

    /// Permits the peer more streams once it has opened three quarters of those permitted.
    ///
    /// More than `streams_max`, so that what is beyond can be refused in words.
    fn permit(&self, streams_max: usize) {
        let streams_max = u32::try_from(streams_max).unwrap_or(u32::MAX).saturating_mul(2).saturating_add(64);
        let permitted = self.permitted.get();
        if self.streams.borrow().len() >= permitted as usize / 4 * 3 && permitted < streams_max {
            let more = next_permitted(permitted).min(streams_max);
            self.permitted.set(more);
            self.connection.set_max_concurrent_bi_streams(VarInt::from_u32(more));
        }
    }
}

/// How many streams are permitted after so many: about the double, for quinn announces nothing that is less than an eighth
/// more.
///
/// quinn keeps an entry for each stream permitted, in hash tables whose sizes are powers of two: three quarters of one fit,
/// with what this node opens itself; the whole would make the table twice as large.
fn next_permitted(permitted: u32) -> u32 {
    let mut next: u32 = 3;
    while next <= permitted && next < u32::MAX {
        next = next.saturating_mul(2);
    }
    next
}

/// How long a control write may wait for the peer to read.
const CONTROL_STALL: Duration = Duration::from_secs(10);
/// Streams that wait to be opened are looked through for ended ones once there are so many.
pub(super) const TO_OPEN_MIN: usize = 1024;

/// Runs a trunk until its connection ends, and says why it did.
pub(super) async fn run(node: &Rc<Node>, trunk: &Rc<Trunk>, control: Control) -> String {
    let Control { send, mut recv, mut decoder } = control;
    let protocol = |text| Unreadable { code: Code::Protocol, text };
    // A task of its own: what arrives is no reason to look at everything else here.
    let mut reading = spawn_local({
        let trunk = Rc::clone(trunk);
        async move { trunk.readers.run().await }
    });
    let ended = tokio::select! {
        ended = &mut reading => match ended {
            Ok(never) => match never {},
            Err(error) => Unreadable { code: Code::Internal, text: format!("its readers failed: {error}") },
        },
        error = accept(node, trunk) => protocol(explain(&error)),
        error = pump::open(trunk) => protocol(explain(&error)),
        why = pump::run(trunk, send) => protocol(why),
        unreadable = read_control(trunk, &mut recv, &mut decoder) => unreadable,
        ended = watch(node, trunk) => ended,
    };
    // What interrupted a loop is less than why the connection is gone, if it is.
    let why = match trunk.connection.close_reason() {
        Some(ConnectionError::LocallyClosed) if trunk.restarted.get() => "it has restarted".to_owned(),
        Some(reason) => explain(&reason),
        None => ended.text,
    };
    trunk.connection.close(ended.code.to_wire().into(), why.as_bytes());
    reading.abort();
    trunk.readers.clear();
    drop(trunk.streams.take());
    for relay in trunk.outlet.close() {
        lose(trunk, &relay, &why);
    }
    for (_, relay) in trunk.to_open.take() {
        lose(trunk, &relay, &why);
    }
    why
}

fn lose(trunk: &Trunk, relay: &Rc<Relay>, why: &str) {
    let text = format!("the trunk to {} was lost: {why}", trunk.peer);
    for side in [Side::Up, Side::Down] {
        if relay.end(side).is_some_and(|end| Rc::ptr_eq(&end.outlet, &trunk.outlet)) {
            relay.gone(side, &text);
        }
    }
}

/// Takes the streams that the peer opens.
async fn accept(node: &Rc<Node>, trunk: &Rc<Trunk>) -> ConnectionError {
    loop {
        let (send, recv) = match trunk.connection.accept_bi().await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        spawn_local(greet(Rc::clone(node), Rc::clone(trunk), Sending::new(send), recv));
    }
}

/// Reads the OPEN of a stream, and makes a relay of it.
async fn greet(node: Rc<Node>, trunk: Rc<Trunk>, send: Sending, mut recv: RecvStream) {
    let stream = u64::from(recv.id());
    let mut decoder = Decoder::default();
    // Opening a stream opens all lower ones: the OPEN of this one may be on its way again after an outage.
    let patience = node.config.limits.hello_timeout + node.config.trunk.idle_timeout;
    let first = timeout(patience, next_frame(&mut recv, &mut decoder)).await;
    let (open, resume) = match opening(first) {
        Ok((open, resume)) => (Open { stream: 0, producer_node: Some(trunk.peer.clone()), ..open }, resume),
        Err(Unreadable { code, text }) => {
            debug!("stream {stream} of {} is refused before its OPEN: {}", trunk.peer, printable(&text));
            trunk.outlet.push_frame(Abort { stream, code, offset: 0, text });
            // It fails only for a stream that the peer has ended.
            let _ = recv.stop(code.to_wire().into());
            return send.reset(code);
        }
    };
    let up = End { outlet: Rc::clone(&trunk.outlet), stream: Some(stream) };
    if trunk.outlet.is_closed() {
        return;
    }
    // What comes by an older trunk comes, or has come, by the newer one too: it must not be taken for another stream.
    let asked = if trunk.current.get() {
        node.open(open, resume, up, Came::FromPeer)
    } else {
        Err(Refusal { code: Code::Superseded, text: "another connection is the trunk".to_owned() })
    };
    let relay = match asked {
        Ok(relay) => relay,
        Err(Refusal { code, text }) => {
            trunk.outlet.push_frame(Abort { stream, code, offset: 0, text });
            // As above.
            let _ = recv.stop(code.to_wire().into());
            return send.reset(code);
        }
    };
    trunk.streams.borrow_mut().insert(relay.number, TrunkStream::new(send, false));
    trunk.readers.forward(&relay, recv, decoder.into_remainder().freeze());
    trunk.permit(node.config.limits.streams_max);
}

/// What the first frame of a stream asks, of which life of the consumer if it is to go on, or why it is none that a stream
/// begins with.
fn opening(
    first: Result<Result<Option<Frame>, Unreadable>, Elapsed>,
) -> Result<(Open, Option<Incarnation>), Unreadable> {
    match first {
        Ok(Ok(Some(Frame::Open(open)))) => Ok((open, None)),
        Ok(Ok(Some(Frame::Resume(Resume { open, consumer_incarnation })))) => Ok((open, Some(consumer_incarnation))),
        Ok(Ok(Some(_))) => Err(Unreadable::protocol("the first frame of a stream is its OPEN")),
        Ok(Ok(None)) => Err(Unreadable::protocol("the stream ended before its OPEN")),
        Ok(Err(unreadable)) => Err(unreadable),
        Err(_) => Err(Unreadable::protocol("no OPEN came in time")),
    }
}

async fn read_control(trunk: &Rc<Trunk>, recv: &mut RecvStream, decoder: &mut Decoder) -> Unreadable {
    loop {
        let handled = match next_frame(recv, decoder).await {
            Ok(Some(frame)) => handle_control(trunk, frame),
            Ok(None) => Err(Unreadable::protocol("it ended its control stream")),
            Err(unreadable) => Err(unreadable),
        };
        if let Err(unreadable) = handled {
            return unreadable;
        }
    }
}

fn handle_control(trunk: &Rc<Trunk>, frame: Frame) -> Result<(), Unreadable> {
    let outlet = &trunk.outlet;
    let is_up = |relay: &Relay| relay.end(Side::Up).is_some_and(|end| Rc::ptr_eq(&end.outlet, outlet));
    match frame {
        Frame::Abort(Abort { stream, code, offset, text }) => {
            // A stream that is gone, or has not come yet: its reset ends it.
            if let Some(relay) = outlet.stream(stream) {
                relay.abort(if is_up(&relay) { Side::Up } else { Side::Down }, code, offset, &text);
            }
        }
        Frame::Want(want) => {
            if let Some(relay) = outlet.stream(want.stream) {
                if !is_up(&relay) {
                    return Err(Unreadable::protocol("it wants credit for a stream that it receives"));
                }
                relay.want(&want);
            }
        }
        Frame::Limit(limit) => {
            if let Some(relay) = outlet.stream(limit.stream) {
                if !is_up(&relay) {
                    return Err(Unreadable::protocol("it gives credit back for a stream that it receives"));
                }
                relay.limit(&limit);
            }
        }
        Frame::Drain(_) => {
            if !trunk.draining.replace(true) {
                info!("{} is shutting down", trunk.peer);
            }
        }
        Frame::EndAck(EndAck { stream }) => {
            if let Some(relay) = outlet.stream(stream) {
                relay.end_ack(if is_up(&relay) { Side::Up } else { Side::Down });
            }
        }
        _ => return Err(Unreadable::protocol("it sent a frame that a control stream does not carry")),
    }
    Ok(())
}

/// Ends once another connection is the trunk and the last stream of this one has ended; or when the peer asks more than
/// it reads the answers to. Meanwhile gives up on streams that could not be opened in time.
async fn watch(node: &Rc<Node>, trunk: &Rc<Trunk>) -> Unreadable {
    let mut check = interval(CHECK);
    let mut was_empty = false;
    loop {
        check.tick().await;
        let stalls = trunk.control_waits.get().is_some_and(|since| since.elapsed() >= CONTROL_STALL);
        if trunk.outlet.is_overrun() || stalls {
            return Unreadable { code: Code::Busy, text: "it asks more than it reads the answers to".to_owned() };
        }
        give_up_opening(node, trunk);
        // Empty twice in a row: what was said last has had time to arrive, for a close discards it.
        let is_empty = trunk.outlet.streams_count() == 0
            && !trunk.outlet.has_control()
            && trunk.streams.borrow().is_empty()
            && trunk.to_open.borrow().is_empty();
        if !trunk.current.get() && is_empty && was_empty {
            return Unreadable { code: Code::Closed, text: "another connection is the trunk".to_owned() };
        }
        was_empty = is_empty;
    }
}

/// The peer permits only so many streams. Who has waited `open_timeout` for one is told.
fn give_up_opening(node: &Rc<Node>, trunk: &Rc<Trunk>) {
    let open_timeout = node.config.limits.open_timeout;
    let waited_long = |(since, _): &(Instant, Rc<Relay>)| since.elapsed() >= open_timeout;
    let waiting = trunk.to_open.borrow().iter().take_while(|entry| waited_long(entry)).count();
    // They leave the queue when it is their turn: the first of them is being opened.
    let late: Vec<_> = trunk.to_open.borrow().iter().take(waiting).map(|(_, relay)| Rc::clone(relay)).collect();
    for relay in late {
        let text = format!("{} has not permitted another stream within {open_timeout:?}", trunk.peer);
        relay.fail(Code::Unreachable, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_permission_is_at_least_half_as_much_again_and_leaves_a_quarter_of_a_table_free() {
        for permitted in [2, 3, 64, 96, 256, 50_000, 1_000_000] {
            let next = next_permitted(permitted);
            assert!(next >= permitted + permitted / 2 && next <= 2 * permitted, "{permitted} -> {next}");
            assert_eq!(next.next_power_of_two() / 4 * 3, next, "{permitted} -> {next}");
        }
        assert_eq!(next_permitted(u32::MAX), u32::MAX);
    }
}
