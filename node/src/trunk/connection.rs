//! One trunk: its control stream, the streams its peer opens, and the end of it all.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::{
    sync::Notify,
    task::{AbortHandle, spawn_local},
    time::{error::Elapsed, interval, timeout},
};
use tracing::{debug, info};
use trunkline_certs::{RaisedBy, explain_alert};
use trunkline_proto::{
    code::Code,
    frame::{Decoder, Frame},
    id::NodeId,
    message::{Abort, Open, TrunkHello},
};

use super::{pump, reader};
use crate::{
    config::NodeConfig,
    node::Node,
    outlet::Outlet,
    relay::{End, Relay, Side},
};

/// Control goes ahead of data inside QUIC too.
const CONTROL_PRIORITY: i32 = 2;
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
    /// Whether the peer said that it takes nothing new.
    pub(crate) draining: Cell<bool>,
    pub(crate) outlet: Rc<Outlet>,
    /// The sending halves, by relay number. One that is being written is out of here.
    pub(super) streams: RefCell<HashMap<u64, TrunkStream>>,
    /// Relays whose stream is to be opened.
    pub(super) to_open: RefCell<VecDeque<Rc<Relay>>>,
    pub(super) to_open_changed: Notify,
    pub(super) send_window_bytes: u64,
    /// How many streams the peer may have open.
    permitted: Cell<u32>,
}

/// What this node writes of one QUIC stream.
pub(super) struct TrunkStream {
    pub(super) send: Sending,
    /// The OPEN that is to be written first.
    pub(super) preamble: Option<Bytes>,
    /// The task that reads the other half.
    pub(super) reader: AbortHandle,
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
            draining: Cell::new(false),
            outlet: Rc::default(),
            streams: RefCell::default(),
            to_open: RefCell::default(),
            to_open_changed: Notify::new(),
            send_window_bytes: config.trunk.send_window_bytes,
            permitted: Cell::new(config.trunk.streams_initial),
        })
    }

    /// Permits the peer more streams once it has opened half of those permitted. By doubling: quinn allocates for each
    /// one permitted, and announces nothing that is less than an eighth more.
    fn permit(&self, streams_max: usize) {
        let permitted = self.permitted.get();
        if self.streams.borrow().len() * 2 >= permitted as usize && (permitted as usize) < streams_max {
            let doubled = permitted.saturating_mul(2).min(u32::try_from(streams_max).unwrap_or(u32::MAX));
            self.permitted.set(doubled);
            self.connection.set_max_concurrent_bi_streams(VarInt::from_u32(doubled));
        }
    }
}

/// Runs a trunk until its connection ends, and says why it did.
pub(super) async fn run(node: &Rc<Node>, trunk: &Rc<Trunk>, control: Control) -> String {
    let Control { send, mut recv, mut decoder } = control;
    let protocol = |text| Unreadable { code: Code::Protocol, text };
    let ended = tokio::select! {
        error = accept(node, trunk) => protocol(explain(&error)),
        error = pump::open(trunk) => protocol(explain(&error)),
        why = pump::run(trunk, send) => protocol(why),
        unreadable = read_control(trunk, &mut recv, &mut decoder) => unreadable,
        ended = watch(trunk) => ended,
    };
    // What interrupted a loop is less than why the connection is gone, if it is.
    let why = trunk.connection.close_reason().map_or(ended.text, |reason| explain(&reason));
    trunk.connection.close(ended.code.to_wire().into(), why.as_bytes());
    for stream in trunk.streams.take().into_values() {
        stream.reader.abort();
    }
    for relay in trunk.outlet.close() {
        lose(trunk, &relay, &why);
    }
    for relay in trunk.to_open.take() {
        lose(trunk, &relay, &why);
    }
    why
}

fn lose(trunk: &Trunk, relay: &Rc<Relay>, why: &str) {
    let text = format!("the trunk to {} was lost: {why}", trunk.peer);
    for side in [Side::Up, Side::Down] {
        if relay.end(side).is_some_and(|end| Rc::ptr_eq(&end.outlet, &trunk.outlet)) {
            relay.lost(side, Code::TrunkLost, &text);
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
    let first = timeout(node.config.limits.hello_timeout, next_frame(&mut recv, &mut decoder)).await;
    let open = match opening(first) {
        Ok(open) => Open { stream: 0, producer_node: Some(trunk.peer.clone()), ..open },
        Err(Unreadable { code, text }) => {
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
    let relay = node.open(open, up, None);
    let reader = spawn_local(reader::forward(&relay, recv, decoder.into_remainder().freeze()));
    let half = TrunkStream { send, preamble: None, reader: reader.abort_handle() };
    trunk.streams.borrow_mut().insert(relay.number, half);
    trunk.permit(node.config.limits.streams_max);
}

/// What the first frame of a stream is, or why it is none that a stream begins with.
fn opening(first: Result<Result<Option<Frame>, Unreadable>, Elapsed>) -> Result<Open, Unreadable> {
    match first {
        Ok(Ok(Some(Frame::Open(open)))) => Ok(open),
        Ok(Ok(Some(Frame::Resume(_)))) => {
            Err(Unreadable { code: Code::Unsupported, text: "this version does not resume streams".to_owned() })
        }
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
    match frame {
        Frame::Abort(Abort { stream, code, offset, text }) => {
            // A stream that is gone, or has not come yet: its reset ends it.
            if let Some(relay) = outlet.stream(stream) {
                let up = relay.end(Side::Up).is_some_and(|end| Rc::ptr_eq(&end.outlet, outlet));
                relay.abort(if up { Side::Up } else { Side::Down }, code, offset, &text);
            }
        }
        Frame::Want(want) => {
            if let Some(relay) = outlet.stream(want.stream) {
                relay.want(&want);
            }
        }
        Frame::Drain(_) => {
            info!("{} is shutting down", trunk.peer);
            trunk.draining.set(true);
        }
        // Answers to what this version does not send.
        Frame::Limit(_) | Frame::Consumed(_) | Frame::ConsumedAck(_) => {
            debug!("{} sent a frame that answers nothing", trunk.peer);
        }
        _ => return Err(Unreadable::protocol("it sent a frame that a control stream does not carry")),
    }
    Ok(())
}

/// Ends once another connection is the trunk and the last stream of this one has ended; or when the peer asks more than
/// it reads the answers to.
async fn watch(trunk: &Rc<Trunk>) -> Unreadable {
    let mut check = interval(CHECK);
    loop {
        check.tick().await;
        if trunk.outlet.is_overrun() {
            return Unreadable { code: Code::Busy, text: "it asks more than it reads the answers to".to_owned() };
        }
        if !trunk.current.get() && trunk.outlet.streams_count() == 0 && trunk.to_open.borrow().is_empty() {
            return Unreadable { code: Code::Closed, text: "another connection is the trunk".to_owned() };
        }
    }
}
