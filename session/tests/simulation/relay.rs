//! The path of one stream: late, in other pieces, with control ahead of data; and, in some tests, broken on purpose.
//!
//! Like a QUIC stream it keeps the order of bytes and loses none, and like a node it stamps each chunk with the offset
//! that it has counted itself. It answers RECLAIM out of its own state, passes nothing on beyond what it is allowed, and
//! asks the producer back in turn (docs/adr/0010).

use std::collections::VecDeque;

use bytes::Bytes;
use trunkline_proto::{
    code::Code,
    frame::DataHeader,
    framing::{self, END_MARK_BYTES},
    message::{Accept, Credit, Reclaim},
};

use crate::random::Random;

/// A fault that no honest relay has. Each must be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A chunk is lost and those after it are counted as if it had never been.
    Drop,
    /// A chunk is lost and those after it keep their offsets.
    DropWithGap,
    /// A chunk comes twice, and the second time is counted as new.
    Duplicate,
    /// Two neighbouring chunks change places.
    Swap,
    /// One bit of a byte flips.
    Alter,
    /// An end mark takes the place of an abort.
    FakeEnd,
    /// The last bytes without an end mark take the place of an abort.
    FakeFin,
    /// The producer is told a limit that the consumer never gave.
    InventCredit,
    /// The consumer's news of credit is lost.
    LoseCredit,
    /// The producer is told that the end was consumed.
    InventConsumed,
    /// A RECLAIM is answered, and what it took back is used.
    IgnoreReclaim,
    /// The consumer's process counts credit as free when it asks for it.
    FreeBeforeLimit,
    /// The consumer's process tells the old limit again while it asks for that.
    GrantDuringReclaim,
}

impl Sabotage {
    /// Whether it needs streams that end by an abort.
    pub(crate) fn needs_aborts(self) -> bool {
        matches!(self, Self::FakeEnd | Self::FakeFin)
    }
}

/// What arrives at the consumer.
#[derive(Debug)]
pub(crate) enum Forward {
    Open,
    Want(u64),
    Limit(u64),
    Data(DataHeader, Bytes),
    Abort(Code, String),
}

/// What arrives at the producer.
#[derive(Debug)]
pub(crate) enum Reverse {
    Accept(Accept),
    Credit(Credit),
    Reclaim(Reclaim),
    Abort(Code, u64, String),
}

/// What the consumer said of its credit. The order is all that matters of it.
#[derive(Debug, Clone, Copy)]
enum News {
    Credit(Credit),
    Reclaim(u64),
}

#[derive(Debug)]
struct Chunk {
    due: u64,
    bytes: Bytes,
    fin: bool,
}

#[derive(Debug)]
pub(crate) struct Relay {
    allowance: u64,
    delay_rounds_max: u64,
    sabotage: Option<Sabotage>,
    pub(crate) has_sabotaged: bool,
    is_dead: bool,
    // Towards the consumer.
    open: Option<u64>,
    want: Option<(u64, u64)>,
    limit: Option<(u64, u64)>,
    chunks: VecDeque<Chunk>,
    forward_abort: Option<(u64, Code, String)>,
    fin_taken: bool,
    delivered: u64,
    last_delivered: Option<(DataHeader, Bytes)>,
    // Towards the producer.
    taken: u64,
    /// What the producer wants, as far as it has said.
    wanted: u64,
    /// How far the consumer allows.
    allowed: u64,
    limit_told: u64,
    limit_told_max: u64,
    /// The producer was asked to keep this much, and has not answered.
    asked: Option<u64>,
    /// The consumer's last word of its credit.
    told: Credit,
    accept: Option<(u64, Accept)>,
    /// From the consumer, in its order.
    news: VecDeque<(u64, News)>,
    credit: Option<Credit>,
    credit_is_new: bool,
    has_accepted: bool,
    reverse_abort: Option<(u64, Code, u64, String)>,
}

impl Relay {
    pub(crate) fn new(allowance: u64, delay_rounds_max: u64, sabotage: Option<Sabotage>) -> Self {
        Self {
            allowance,
            delay_rounds_max,
            sabotage,
            has_sabotaged: false,
            is_dead: false,
            open: None,
            want: None,
            limit: None,
            chunks: VecDeque::new(),
            forward_abort: None,
            fin_taken: false,
            delivered: 0,
            last_delivered: None,
            taken: 0,
            wanted: 0,
            allowed: 0,
            limit_told: 0,
            limit_told_max: 0,
            asked: None,
            told: Credit { stream: 0, epoch: 0, received: 0, consumed: 0, limit: 0, finished: false },
            accept: None,
            news: VecDeque::new(),
            credit: None,
            credit_is_new: false,
            has_accepted: false,
            reverse_abort: None,
        }
    }

    /// The path breaks: both ends hear of it, and nothing else arrives any more.
    pub(crate) fn sever(&mut self, now: u64, random: &mut Random) {
        if !self.is_dead {
            self.is_dead = true;
            self.chunks.clear();
            (self.open, self.want, self.limit) = (None, None, None);
            self.forget_news();
            let text = "the path broke".to_owned();
            self.forward_abort = Some((self.due(now, random), Code::TrunkLost, text.clone()));
            self.reverse_abort = Some((self.due(now, random), Code::TrunkLost, 0, text));
        }
    }

    fn due(&self, now: u64, random: &mut Random) -> u64 {
        now + random.between(0, self.delay_rounds_max)
    }

    fn forget_news(&mut self) {
        (self.accept, self.credit) = (None, None);
        self.news.clear();
    }

    pub(crate) fn has_fault(&self, fault: Sabotage) -> bool {
        self.sabotage == Some(fault)
    }

    fn wants_sabotage(&self, fault: Sabotage) -> bool {
        self.sabotage == Some(fault) && !self.has_sabotaged
    }

    // From the producer.

    pub(crate) fn take_open(&mut self, now: u64, random: &mut Random) {
        if !self.is_dead {
            self.open = Some(self.due(now, random));
        }
    }

    pub(crate) fn take_want(&mut self, wanted: u64, now: u64, random: &mut Random) {
        if !self.is_dead {
            self.wanted = self.wanted.max(wanted);
            self.want = Some((self.due(now, random), self.wanted));
        }
    }

    /// The producer answers: it keeps to `limit`.
    pub(crate) fn take_limit(&mut self, limit: u64) {
        if let Some(asked) = self.asked.take() {
            assert!((asked.min(self.limit_told)..=self.limit_told).contains(&limit), "an answer to another question");
            self.limit_told = limit;
            self.credit_is_new = true;
        }
    }

    /// Takes bytes and cuts them anew.
    pub(crate) fn take_data(&mut self, mut bytes: Bytes, fin: bool, cut_max: usize, now: u64, random: &mut Random) {
        if self.is_dead {
            return;
        }
        self.taken += bytes.len() as u64;
        self.fin_taken |= fin;
        // The end mark, or a part of it, needs none.
        let beyond = self.taken.saturating_sub(self.limit_told);
        assert!(beyond <= END_MARK_BYTES as u64 || self.sabotage.is_some(), "{beyond} bytes beyond the limit");
        while !bytes.is_empty() {
            let cut = random.size(1, cut_max.min(bytes.len()));
            let piece = bytes.split_to(cut);
            let earliest = self.chunks.back().map_or(0, |chunk| chunk.due);
            let due = self.due(now, random).max(earliest);
            self.chunks.push_back(Chunk { due, fin: fin && bytes.is_empty(), bytes: piece });
        }
        self.sabotage_chunks(random);
    }

    fn sabotage_chunks(&mut self, random: &mut Random) {
        if self.chunks.is_empty() || self.has_sabotaged || !random.percent(30) {
            return;
        }
        let at = random.index(self.chunks.len());
        match self.sabotage {
            Some(Sabotage::Drop) => {
                self.chunks.remove(at);
            }
            Some(Sabotage::DropWithGap) => {
                if self.chunks.len() < 2 {
                    return;
                }
                self.delivered += self.chunks.pop_front().map_or(0, |chunk| chunk.bytes.len() as u64);
            }
            // What comes twice after the end was read is dropped, and does no harm.
            Some(Sabotage::Duplicate) if !self.chunks.iter().any(|chunk| chunk.fin) => {
                let Chunk { due, ref bytes, .. } = self.chunks[at];
                if bytes.iter().all(|&byte| byte == 0) {
                    // One more zero may only lengthen the end mark, behind which it is dropped.
                    return;
                }
                let copy = Chunk { due, bytes: bytes.clone(), fin: false };
                self.chunks.insert(at, copy);
            }
            Some(Sabotage::Swap) => {
                let next = at + 1;
                if next >= self.chunks.len() || self.chunks[at].bytes == self.chunks[next].bytes {
                    return;
                }
                let first = std::mem::take(&mut self.chunks[at].bytes);
                let second = std::mem::replace(&mut self.chunks[next].bytes, first.clone());
                // Bytes that read the same in either order are no fault.
                let is_same = [&first[..], &second[..]].concat() == [&second[..], &first[..]].concat();
                self.chunks[at].bytes = second;
                if is_same {
                    return;
                }
            }
            Some(Sabotage::Alter) => {
                let mut bytes = self.chunks[at].bytes.to_vec();
                let byte = random.index(bytes.len());
                bytes[byte] ^= random.pick(&[1, 4, 128]);
                self.chunks[at].bytes = bytes.into();
            }
            _ => return,
        }
        self.has_sabotaged = true;
    }

    pub(crate) fn take_abort(&mut self, code: Code, text: String, now: u64, random: &mut Random) {
        if self.is_dead {
            return;
        }
        self.want = None;
        if self.wants_sabotage(Sabotage::FakeEnd) || self.wants_sabotage(Sabotage::FakeFin) {
            // What is under way still arrives, and then what looks like an end.
            let final_offset = self.delivered + self.chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum::<u64>();
            let mut mark = bytes::BytesMut::new();
            if self.sabotage == Some(Sabotage::FakeEnd) {
                framing::put_end_mark(final_offset, &mut mark);
            }
            let due = self.chunks.back().map_or(now, |chunk| chunk.due);
            self.chunks.push_back(Chunk { due, bytes: mark.freeze(), fin: true });
            self.has_sabotaged = true;
            return;
        }
        // An abort overtakes what is under way, and a reset discards it.
        let keeps = if random.percent(50) { random.index(self.chunks.len() + 1) } else { 0 };
        self.chunks.truncate(keeps);
        self.forward_abort = Some((self.due(now, random), code, text));
    }

    /// What arrives at the consumer now.
    pub(crate) fn poll_forward(&mut self, now: u64, random: &mut Random) -> Option<Forward> {
        if let Some(due) = self.open {
            if due > now {
                return None;
            }
            self.open = None;
            return Some(Forward::Open);
        }
        if let Some((_, code, text)) = self.forward_abort.take_if(|(due, ..)| *due <= now) {
            self.chunks.clear();
            self.is_dead = true;
            return Some(Forward::Abort(code, text));
        }
        if let Some((_, wanted)) = self.want.take_if(|(due, _)| *due <= now) {
            return Some(Forward::Want(wanted));
        }
        if let Some((_, limit)) = self.limit.take_if(|(due, _)| *due <= now) {
            return Some(Forward::Limit(limit));
        }
        // Noise that every receiver must bear: bytes that it has, and bytes of an epoch long gone.
        if let Some((header, bytes)) = self.last_delivered.take_if(|_| !self.is_dead && random.percent(5)) {
            let epoch = if random.percent(50) { header.epoch } else { u32::MAX };
            return Some(Forward::Data(DataHeader { epoch, ..header }, bytes));
        }
        // The end mark needs no credit, once all before it has it. A sabotaged path has lost count.
        let has_all = self.fin_taken && self.taken.saturating_sub(END_MARK_BYTES as u64) <= self.allowed;
        let room = usize::try_from(self.allowed.saturating_sub(self.delivered)).unwrap_or(usize::MAX);
        let heeds_limits = self.heeds_limits();
        let front = self.chunks.front_mut().filter(|chunk| chunk.due <= now)?;
        let chunk = if has_all || !heeds_limits || front.bytes.len() <= room {
            self.chunks.pop_front()?
        } else if room > 0 {
            Chunk { due: front.due, bytes: front.bytes.split_to(room), fin: false }
        } else {
            return None;
        };
        let header = DataHeader { stream: 0, offset: self.delivered, epoch: 0, fin: chunk.fin };
        self.delivered += chunk.bytes.len() as u64;
        self.last_delivered = Some((header, chunk.bytes.clone()));
        Some(Forward::Data(header, chunk.bytes))
    }

    // From the consumer.

    pub(crate) fn take_accept(&mut self, accept: Accept, now: u64, random: &mut Random) {
        if !self.is_dead {
            self.accept = Some((self.due(now, random), accept));
        }
    }

    pub(crate) fn take_credit(&mut self, credit: Credit, now: u64, random: &mut Random) {
        if self.is_dead {
            return;
        }
        self.told = credit;
        if self.sabotage == Some(Sabotage::LoseCredit) && (self.has_sabotaged || random.percent(20)) {
            self.has_sabotaged = true;
            return;
        }
        self.push_news(News::Credit(credit), now, random);
    }

    /// The consumer asks for the credit beyond `limit` back, of `granted`.
    pub(crate) fn take_reclaim(&mut self, limit: u64, granted: u64, now: u64, random: &mut Random) {
        if !self.is_dead {
            self.push_news(News::Reclaim(limit), now, random);
            if granted > limit && self.wants_sabotage(Sabotage::GrantDuringReclaim) {
                self.has_sabotaged = true;
                self.push_news(News::Credit(Credit { limit: granted, ..self.told }), now, random);
            }
        }
    }

    fn push_news(&mut self, news: News, now: u64, random: &mut Random) {
        let earliest = self.news.back().map_or(0, |(due, _)| *due);
        // The latest state of credit is all that counts, until it is followed by something else.
        if let (Some((_, News::Credit(latest))), News::Credit(credit)) = (self.news.back_mut(), news) {
            *latest = credit;
            return;
        }
        self.news.push_back((self.due(now, random).max(earliest), news));
    }

    /// Whether it passes nothing on beyond what it is allowed.
    fn heeds_limits(&self) -> bool {
        self.sabotage.is_none_or(|fault| matches!(fault, Sabotage::FreeBeforeLimit | Sabotage::GrantDuringReclaim))
    }

    /// Hears what the consumer has said, and answers what it asks.
    fn hear_news(&mut self, now: u64, random: &mut Random) {
        while self.news.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, news)) = self.news.pop_front()
        {
            match news {
                News::Credit(credit) => {
                    self.allowed = self.allowed.max(credit.limit);
                    self.credit = Some(credit);
                    self.credit_is_new = true;
                }
                News::Reclaim(limit) => {
                    let kept = self.allowed.min(limit.max(self.taken));
                    if self.sabotage == Some(Sabotage::IgnoreReclaim) {
                        self.has_sabotaged |= kept < self.allowed;
                    } else {
                        self.allowed = kept;
                    }
                    self.limit = Some((self.due(now, random), kept));
                    let wanted = self.wanted.max(self.taken);
                    if wanted > kept {
                        self.want = Some((self.due(now, random), wanted));
                    }
                }
            }
        }
    }

    pub(crate) fn take_cancel(&mut self, code: Code, offset: u64, text: String, now: u64, random: &mut Random) {
        if !self.is_dead {
            self.is_dead = true;
            self.chunks.clear();
            (self.want, self.limit) = (None, None);
            self.forget_news();
            self.reverse_abort = Some((self.due(now, random), code, offset, text));
        }
    }

    /// What arrives at the producer now.
    pub(crate) fn poll_reverse(&mut self, now: u64, random: &mut Random) -> Option<Reverse> {
        if let Some((_, code, offset, text)) = self.reverse_abort.take_if(|(due, ..)| *due <= now) {
            return Some(Reverse::Abort(code, offset, text));
        }
        if let Some((_, accept)) = self.accept.take_if(|(due, _)| *due <= now) {
            self.has_accepted = true;
            self.allowed = accept.limit;
            self.credit = Some(Credit { limit: accept.limit, ..Credit::default() });
            self.limit_told = self.may_tell();
            self.limit_told_max = self.limit_told;
            return Some(Reverse::Accept(Accept { limit: self.limit_told, ..accept }));
        }
        if !self.has_accepted {
            return None;
        }
        self.hear_news(now, random);
        let mut credit = self.credit?;
        if random.percent(2) {
            let old = Credit { epoch: u32::MAX, received: u64::MAX, limit: u64::MAX, ..credit };
            return Some(Reverse::Credit(old));
        }
        if self.wants_sabotage(Sabotage::InventCredit) && credit.limit < u64::MAX / 8 && self.taken >= self.allowed {
            self.has_sabotaged = true;
            credit.limit += 1_000;
            self.allowed = credit.limit;
            self.limit_told = credit.limit;
            self.limit_told_max = self.limit_told_max.max(self.limit_told);
            return Some(Reverse::Credit(credit));
        }
        if self.wants_sabotage(Sabotage::InventConsumed) && !credit.finished && random.percent(20) {
            self.has_sabotaged = true;
            return Some(Reverse::Credit(Credit { finished: true, ..credit }));
        }
        let limit = self.may_tell();
        if limit < self.limit_told && self.asked.is_none() && self.taken < self.limit_told {
            self.asked = Some(limit);
            return Some(Reverse::Reclaim(Reclaim { stream: 0, epoch: credit.epoch, limit }));
        }
        // While the producer is asked, it is told no more than it is to keep.
        let limit = limit.min(self.asked.unwrap_or(u64::MAX));
        if !std::mem::take(&mut self.credit_is_new) && limit <= self.limit_told {
            return None;
        }
        if self.asked.is_none() {
            self.limit_told = self.limit_told.max(limit);
            self.limit_told_max = self.limit_told_max.max(limit);
        }
        Some(Reverse::Credit(Credit { limit, ..credit }))
    }

    /// How far the producer may be let.
    fn may_tell(&self) -> u64 {
        self.allowed.min(self.taken + self.allowance)
    }

    /// Whether the opening is still under way.
    pub(crate) fn is_opening(&self) -> bool {
        self.open.is_some()
    }

    /// The highest limit that the producer ever knew of.
    pub(crate) fn limit_told_max(&self) -> u64 {
        self.limit_told_max
    }
}
