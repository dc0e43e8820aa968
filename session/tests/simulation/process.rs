//! The consuming end: applications whose streams share one budget, and the driver of their halves, as an SDK would be.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes};
use trunkline_proto::{code::Code, framing, message::Accept};
use trunkline_session::{
    Asked, CreditPolicy, Grant, Read, ReadBytes, ReceiveHalf, ReceiveOutput, Reclaim, SharedBudget, SharedBudgetConfig,
};

use crate::{
    paths::Paths,
    plan::{PathsPlan, Plan, Reader, StreamPlan},
    producer::{CONSUMER, Outcome},
    random::Random,
    relay::{Forward, Sabotage},
};

/// So often at most, the policy speaks at once.
const POLICY_WORDS_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) half: ReceiveHalf,
    /// Messages that were read to their end.
    pub(crate) read: usize,
    pub(crate) outcome: Option<Outcome>,
    /// Up to where the sending side may send: told, and not given back, nor lost with its path.
    pub(crate) entitled: u64,
    /// The policy was told that nothing is held any more.
    is_closed: bool,
    /// The process knows nothing of the stream any more.
    is_forgotten: bool,
    /// The path that it is on, as far as it knows.
    path: Option<usize>,
    /// The newest path on which it was asked for.
    newest: usize,
    waits_since: Option<u64>,
}

/// What a consumer read at once.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A message, or the rest of one that was begun as bytes.
    Message(Bytes),
    /// Bytes, and how many messages were then read to their end since the beginning.
    Bytes(Vec<u8>, usize),
}

/// OPEN or RESUME, not answered yet.
#[derive(Debug, Clone, Copy)]
struct Offer {
    path: usize,
    asked: Asked,
}

/// One consuming process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) config: SharedBudgetConfig,
    pub(crate) policy: SharedBudget,
    pub(crate) consumers: BTreeMap<usize, Consumer>,
    offers: BTreeMap<usize, Offer>,
    sabotage: Option<Sabotage>,
    pub(crate) has_sabotaged: bool,
    /// How often credit was asked back, and how many bytes came.
    pub(crate) reclaims: u64,
    pub(crate) reclaimed_bytes: u64,
    /// How often it came with the loss of a path, or while there was none.
    pub(crate) came_back: u64,
    /// How often a stream was asked for again before the loss of its path was heard of.
    pub(crate) surprises: usize,
    /// How often something came from a path that was left.
    pub(crate) stale: usize,
}

impl Process {
    pub(crate) fn new(config: SharedBudgetConfig, sabotage: Option<Sabotage>) -> Self {
        Self {
            config,
            sabotage,
            policy: SharedBudget::new(config),
            consumers: BTreeMap::new(),
            offers: BTreeMap::new(),
            has_sabotaged: false,
            reclaims: 0,
            reclaimed_bytes: 0,
            came_back: 0,
            surprises: 0,
            stale: 0,
        }
    }

    /// Something arrives on a path. From one that was left, the driver passes on what has an epoch, and that changes nothing.
    pub(crate) fn take(
        &mut self,
        stream: usize,
        path: usize,
        news: Forward,
        paths: &mut Paths,
        now: u64,
        random: &mut Random,
    ) {
        if let Forward::Asked(asked) = news {
            self.take_offer(stream, Offer { path, asked }, paths, now, random);
            return;
        }
        if let Forward::Abort(code, _) = &news
            && self.offers.get(&stream).is_some_and(|offer| offer.path == path)
        {
            self.offers.remove(&stream);
            if !code.ends_path() {
                paths.relay(path).take_consumer_ack(now, random);
            }
            return;
        }
        let Some(consumer) = self.consumers.get_mut(&stream).filter(|consumer| !consumer.is_forgotten) else { return };
        let is_current = consumer.path == Some(path);
        self.stale += usize::from(!is_current);
        let before = consumer.half.received();
        match news {
            Forward::Limit(limit) => {
                if let Some(limit) = consumer.half.handle_limit(&limit) {
                    assert!(is_current);
                    self.reclaimed_bytes += consumer.entitled - limit;
                    consumer.entitled = limit;
                    self.policy.limited(stream as u64, limit);
                }
            }
            Forward::Data(header, bytes) => {
                consumer.half.handle_data(&header, bytes);
            }
            Forward::Want(wanted) if is_current => {
                consumer.half.handle_want(wanted);
                if !consumer.is_closed {
                    self.policy.wanted(stream as u64, wanted);
                }
            }
            Forward::Abort(code, text) if is_current => {
                if code.ends_path() && random.percent(50) {
                    // Its link was lost, and with it the path.
                    consumer.half.handle_path_lost();
                } else {
                    consumer.half.handle_abort(code, text);
                }
                if code.ends_path() {
                    consumer.path = None;
                    self.note_loss(stream);
                }
            }
            Forward::EndAck if is_current => consumer.half.handle_end_ack(),
            Forward::Want(_) | Forward::Abort(..) | Forward::EndAck | Forward::Asked(_) => {}
        }
        let received = self.consumers[&stream].half.received();
        assert!(is_current || received == before, "bytes of an older path");
    }

    /// A newer offer takes the place of an older one.
    fn take_offer(&mut self, stream: usize, offer: Offer, paths: &mut Paths, now: u64, random: &mut Random) {
        let refused = match self.offers.get(&stream) {
            Some(known) if known.path > offer.path => Some(offer),
            _ => self.offers.insert(stream, offer),
        };
        if let Some(refused) = refused {
            refuse(paths, refused, Code::Superseded, now, random);
        }
    }

    /// Nothing that was sent on the path before is taken any more.
    fn note_loss(&mut self, stream: usize) {
        let Some(consumer) = self.consumers.get_mut(&stream) else { return };
        consumer.entitled = consumer.entitled.min(consumer.half.received());
    }

    /// Answers an offer, when the application has come to bind its name.
    pub(crate) fn answer(
        &mut self,
        stream: usize,
        plan: &StreamPlan,
        paths: &mut Paths,
        now: u64,
        random: &mut Random,
    ) {
        if now < plan.reader.binds_at || (now < plan.calm_from && random.percent(20)) {
            return;
        }
        let Some(offer) = self.offers.remove(&stream) else { return };
        let epoch = u32::try_from(offer.path).unwrap_or(u32::MAX);
        let known = self.consumers.get_mut(&stream);
        match known {
            Some(consumer) if !consumer.is_forgotten => {
                let is_surprised = !consumer.half.is_suspended();
                if consumer.half.handle_asked(offer.asked, epoch) {
                    self.surprises += usize::from(is_surprised);
                    (consumer.path, consumer.newest) = (Some(offer.path), offer.path);
                    self.note_loss(stream);
                } else {
                    refuse(paths, offer, Code::Superseded, now, random);
                }
            }
            // Its node offers nothing of a path that is older than one from which it has offered.
            Some(consumer) if offer.path <= consumer.newest => refuse(paths, offer, Code::Superseded, now, random),
            _ if offer.asked == Asked::Resume => refuse(paths, offer, Code::OutcomeUnknown, now, random),
            _ if plan.reader.refuses => refuse(paths, offer, Code::NotBound, now, random),
            known => {
                // To a process that has forgotten the stream, it is a new one. Nothing of it had come before.
                let is_new = |known: &mut Consumer| known.half.received() == 0 && known.half.aborted().is_some();
                assert!(known.is_none_or(is_new), "stream {stream} was opened twice");
                let entitled = self.policy.open(stream as u64, None);
                let consumer = Consumer {
                    half: ReceiveHalf::new(epoch, entitled, Plan::message_bytes_max(&self.config)),
                    read: 0,
                    outcome: None,
                    entitled,
                    is_closed: false,
                    is_forgotten: false,
                    path: Some(offer.path),
                    newest: offer.path,
                    waits_since: None,
                };
                self.consumers.insert(stream, consumer);
            }
        }
        self.settle(stream);
    }

    /// Whether an offer waits for its answer.
    pub(crate) fn is_offered(&self, stream: usize) -> bool {
        self.offers.contains_key(&stream)
    }

    /// Time passes: who has waited long enough for a path waits no longer, and what nobody asks for any more is forgotten.
    pub(crate) fn pass_time(&mut self, stream: usize, plan: &StreamPlan, paths: &Paths, now: u64) {
        let Some(consumer) = self.consumers.get_mut(&stream) else { return };
        consumer.is_forgotten |=
            plan.is_forgotten && consumer.half.is_settled() && consumer.outcome.is_some() && consumer.is_closed;
        if !consumer.half.is_suspended() || consumer.half.is_settled() {
            consumer.waits_since = None;
            return;
        }
        let since = *consumer.waits_since.get_or_insert(now);
        let patience = plan.paths.patience.map(|(_, consumer)| consumer);
        if now >= PathsPlan::waits_until(since, patience, paths.last_fault.max(plan.calm_from)) {
            consumer.half.give_up_waiting(Code::TrunkLost, "nobody came".to_owned());
            assert!(consumer.half.is_settled() || consumer.half.is_readable());
        }
    }

    /// The application's turn: reads, or gives up. Returns what it read.
    pub(crate) fn act(&mut self, stream: usize, plan: &StreamPlan, now: u64, random: &mut Random) -> Vec<Piece> {
        let Some(consumer) = self.consumers.get_mut(&stream) else { return Vec::new() };
        let reader = plan.reader;
        let is_asleep = (reader.asleep.0..reader.asleep.1).contains(&now) || !random.percent(reader.reads_percent);
        let mut pieces = Vec::new();
        if is_asleep && now < plan.calm_from {
            return pieces;
        }
        for _ in 0..random.between(1, 6) {
            if consumer.outcome.is_none() && reader.cancels_after.is_some_and(|after| after <= consumer.read) {
                consumer.half.cancel(Code::Cancelled, "the consumer gave up");
            }
            let read = consumer.read_once(&reader, random);
            let passed = usize::try_from(consumer.half.messages_read()).unwrap_or(usize::MAX);
            let has_passed_empty = read.is_err() && passed > consumer.read;
            consumer.read = passed;
            let outcome = match read {
                Ok(piece) => {
                    pieces.push(piece);
                    continue;
                }
                Err(outcome) => outcome,
            };
            if has_passed_empty {
                pieces.push(Piece::Bytes(Vec::new(), passed));
            }
            let Some(outcome) = outcome else { break };
            assert!(consumer.outcome.is_none() || consumer.outcome == Some(outcome.clone()), "a second outcome");
            consumer.outcome = Some(outcome);
            break;
        }
        pieces
    }

    /// The driver's turn, after anything that happened to `stream`: tells the policy, and hands out what it grants.
    pub(crate) fn settle(&mut self, stream: usize) {
        if let Some(consumer) = self.consumers.get_mut(&stream).filter(|consumer| !consumer.is_closed) {
            if let Some(consumed) = consumer.half.poll_consumed() {
                self.policy.consumed(stream as u64, consumed);
            }
            if let Some(end) = consumer.half.poll_message_end() {
                self.policy.message(stream as u64, consumer.half.consumed(), end);
            }
            if consumer.half.is_over() && consumer.half.buffered_bytes() == 0 {
                consumer.is_closed = true;
                self.policy.close(stream as u64);
            }
        }
        self.tell_what_came_back(stream);
        for words in 0.. {
            assert!(words < POLICY_WORDS_MAX, "the policy never ends");
            if let Some(Grant { stream, limit }) = self.policy.poll_grant() {
                self.consumer(stream).1.half.handle_grant(limit);
            } else if let Some(Reclaim { stream, limit }) = self.policy.poll_reclaim() {
                let (stream, consumer) = self.consumer(stream);
                consumer.half.reclaim(limit);
                let is_back = consumer.half.is_suspended();
                let came_back = self.came_back + u64::from(is_back);
                self.reclaims += 1;
                self.tell_what_came_back(stream);
                assert_eq!(self.came_back, came_back, "who has no path need not be asked");
            } else {
                break;
            }
        }
    }

    fn tell_what_came_back(&mut self, stream: usize) {
        let Some(consumer) = self.consumers.get_mut(&stream) else { return };
        if let Some(limit) = consumer.half.poll_limited() {
            self.came_back += 1;
            // What was received may include the end mark, which needs no credit.
            consumer.entitled = consumer.entitled.min(limit);
            if self.sabotage == Some(Sabotage::ForgetWhatCameBack) {
                self.has_sabotaged = true;
            } else {
                self.policy.limited(stream as u64, limit);
            }
        }
    }

    fn consumer(&mut self, stream: u64) -> (usize, &mut Consumer) {
        let stream = usize::try_from(stream).unwrap_or(usize::MAX);
        (stream, self.consumers.get_mut(&stream).expect("the policy speaks of streams that were opened"))
    }

    /// What the sending sides may send, or have sent and was not read, of streams that live, beside the length that each may
    /// always send; and what the policy takes for that.
    pub(crate) fn entitled_bytes(&self) -> (u64, u64) {
        let head = framing::LENGTH_BYTES_MAX as u64;
        let live = self.consumers.values().filter(|consumer| !consumer.is_closed);
        let held = live.map(|consumer| consumer.entitled.saturating_sub(consumer.half.consumed() + head));
        let (count, entitled) = held.fold((0, 0), |(count, sum), held| (count + 1, sum + held));
        (entitled, self.policy.outstanding_bytes().saturating_sub(head * count))
    }

    /// Sends what there is to send of `stream`.
    pub(crate) fn drive(&mut self, stream: usize, paths: &mut Paths, now: u64, random: &mut Random) {
        let Some(consumer) = self.consumers.get_mut(&stream).filter(|consumer| !consumer.is_forgotten) else { return };
        while consumer.half.has_output() {
            let relay = paths.relay(consumer.path.expect("nothing is said without a path"));
            match consumer.half.poll_output() {
                Some(ReceiveOutput::Accept { limit }) => {
                    consumer.entitled = limit;
                    relay.take_accept(Accept { stream: 0, incarnation: CONSUMER, limit }, now, random);
                }
                Some(ReceiveOutput::Resumed(resumed)) => {
                    consumer.entitled = resumed.limit;
                    relay.take_resumed(resumed, now, random);
                }
                Some(ReceiveOutput::Credit(credit)) => {
                    consumer.entitled = consumer.entitled.max(credit.limit);
                    relay.take_credit(credit, now, random);
                }
                Some(ReceiveOutput::Abort(why)) => {
                    assert!(!why.code.ends_path(), "the end of stream {stream} was told as the loss of its path");
                    relay.take_cancel(why.code, why.offset, why.text, now, random);
                }
                Some(ReceiveOutput::Reclaim(reclaim)) => {
                    relay.take_reclaim(&reclaim, consumer.entitled, now, random);
                    if self.sabotage == Some(Sabotage::FreeBeforeLimit) {
                        self.has_sabotaged = true;
                        self.policy.limited(stream as u64, reclaim.limit);
                    }
                }
                Some(ReceiveOutput::EndAck) => relay.take_consumer_ack(now, random),
                None => unreachable!("it said that there is output"),
            }
        }
    }

    pub(crate) fn buffered_bytes(&self) -> u64 {
        self.consumers.values().map(|consumer| consumer.half.buffered_bytes()).sum()
    }
}

fn refuse(paths: &mut Paths, offer: Offer, code: Code, now: u64, random: &mut Random) {
    paths.relay(offer.path).take_cancel(code, 0, "nobody is there".to_owned(), now, random);
}

impl Consumer {
    /// What the application reads at once; where there is nothing, how the stream ended, if it did.
    fn read_once(&mut self, reader: &Reader, random: &mut Random) -> Result<Piece, Option<Outcome>> {
        if !random.percent(reader.bytes_percent) {
            let is_readable = self.half.is_readable();
            return match self.half.read() {
                Read::Message(message) => Ok(Piece::Message(message)),
                Read::Pending => {
                    assert!(!is_readable);
                    Err(None)
                }
                Read::End => Err(Some(Outcome::Clean)),
                Read::Aborted(why) => Err(Some(Outcome::Aborted(why))),
            };
        }
        let mut bytes = Vec::new();
        let bytes_max = random.size(1, reader.bytes_max);
        match self.half.read_bytes(&mut (&mut bytes).limit(bytes_max)) {
            ReadBytes::Bytes(count) => {
                assert_eq!(count, bytes.len());
                let read = usize::try_from(self.half.messages_read()).unwrap_or(usize::MAX);
                Ok(Piece::Bytes(bytes, read))
            }
            // Empty messages may have been passed over.
            ReadBytes::Pending => Err(None),
            ReadBytes::End => Err(Some(Outcome::Clean)),
            ReadBytes::Aborted(why) => Err(Some(Outcome::Aborted(why))),
        }
    }
}
