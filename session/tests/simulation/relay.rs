//! One path of a stream: late, in other pieces, with control ahead of data; lost at any time; and, in some tests, broken on
//! purpose.
//!
//! Like a QUIC stream it keeps the order of bytes and loses none while it lives, and like a node it stamps each chunk with
//! the offset that it has counted itself, from where its answer said, and with the epoch that it was opened with. It answers
//! RECLAIM out of its own state, passes nothing on beyond what it is allowed, and asks the producer back in turn
//! (docs/adr/0010). Of the paths before it, it knows nothing (docs/adr/0012).

mod ending;
mod loss;
mod sabotage;

use std::collections::VecDeque;

use bytes::Bytes;
use trunkline_proto::{
    code::Code,
    frame::DataHeader,
    framing::END_MARK_BYTES,
    message::{Accept, Credit, Limit, Reclaim, Resumed},
};
use trunkline_session::Asked;

use crate::random::Random;
use ending::Ending;
use loss::Loss;
pub(crate) use sabotage::{Past, Sabotage};

/// What arrives at the consumer.
#[derive(Debug)]
pub(crate) enum Forward {
    Asked(Asked),
    Want(u64),
    Limit(Limit),
    Data(DataHeader, Bytes),
    Abort(Code, String),
    EndAck,
}

/// What arrives at the producer.
#[derive(Debug)]
pub(crate) enum Reverse {
    Accept(Accept),
    Resumed(Resumed),
    Credit(Credit),
    Reclaim(Reclaim),
    Abort(Code, u64, String),
    EndAck,
}

/// Something that one side has said. Each is a moment at which the loss of a path is awkward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Open,
    Accept,
    Resume,
    Resumed,
    Fin,
    /// The consumer asks for credit back.
    Reclaim,
    /// The path asks the producer for credit back.
    ReclaimAbove,
    Finished,
    ProducerAbort,
    ConsumerAbort,
    ProducerAck,
    ConsumerAck,
}

impl Word {
    pub(crate) const ALL: &[Self] = &[
        Self::Open,
        Self::Accept,
        Self::Resume,
        Self::Resumed,
        Self::Fin,
        Self::Reclaim,
        Self::ReclaimAbove,
        Self::Finished,
        Self::ProducerAbort,
        Self::ConsumerAbort,
        Self::ProducerAck,
        Self::ConsumerAck,
    ];

    /// Those that few streams come to.
    pub(crate) const RARE: &[Self] = &[Self::Reclaim, Self::ReclaimAbove, Self::ProducerAbort, Self::ConsumerAck];
}

/// What becomes of an OPEN or a RESUME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// It arrives, after so many rounds more than usual.
    Arrives { after: u64 },
    /// A node refuses it, and may take it later.
    Refused,
    /// It waits for a path that never comes.
    LeadsNowhere,
}

/// What the paths of a stream have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Bytes that the producer's node lets the producer be ahead.
    pub(crate) allowance: u64,
    pub(crate) delay_rounds_max: u64,
    pub(crate) sabotage: Option<Sabotage>,
}

/// What the consumer said of its credit. The order is all that matters of it.
#[derive(Debug, Clone, Copy)]
enum News {
    Credit(Credit),
    Reclaim(u64),
}

/// What the consumer said to OPEN or RESUME.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Accept(Accept),
    Resumed(Resumed),
}

#[derive(Debug)]
struct Chunk {
    due: u64,
    bytes: Bytes,
    fin: bool,
}

#[derive(Debug)]
pub(crate) struct Relay {
    settings: Settings,
    asked: Asked,
    epoch: u32,
    /// What was said and not looked at yet.
    pub(crate) said: Vec<Word>,
    pub(crate) has_sabotaged: bool,
    past: Past,
    leaves_gap: bool,
    undelivered: Vec<Bytes>,
    /// The stream has ended here, and no bytes or credit pass.
    is_dead: bool,
    /// The path is lost.
    is_lost: bool,
    loss: Loss,
    ending: Ending,
    /// How much of what arrived was noise.
    pub(crate) noise: u64,
    // Towards the consumer.
    /// OPEN or RESUME.
    first: Option<u64>,
    want: Option<(u64, u64)>,
    limit: Option<(u64, Limit)>,
    chunks: VecDeque<Chunk>,
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
    asked_to_keep: Option<u64>,
    /// The consumer's last word of its credit.
    told: Credit,
    answer: Option<(u64, Answer)>,
    /// From the consumer, in its order.
    news: VecDeque<(u64, News)>,
    credit: Option<Credit>,
    credit_is_new: bool,
    has_answered: bool,
}

impl Relay {
    /// A path on which the producer has said OPEN or RESUME.
    pub(crate) fn new(settings: Settings, asked: Asked, epoch: u32, past: Past) -> Self {
        Self {
            settings,
            asked,
            epoch,
            said: Vec::new(),
            has_sabotaged: false,
            past,
            leaves_gap: false,
            undelivered: Vec::new(),
            is_dead: false,
            is_lost: false,
            loss: Loss::default(),
            ending: Ending::default(),
            noise: 0,
            first: None,
            want: None,
            limit: None,
            chunks: VecDeque::new(),
            fin_taken: false,
            delivered: 0,
            last_delivered: None,
            taken: 0,
            wanted: 0,
            allowed: 0,
            limit_told: 0,
            limit_told_max: 0,
            asked_to_keep: None,
            told: Credit::default(),
            answer: None,
            news: VecDeque::new(),
            credit: None,
            credit_is_new: false,
            has_answered: false,
        }
    }

    fn due(&self, now: u64, random: &mut Random) -> u64 {
        now + random.between(0, self.settings.delay_rounds_max)
    }

    /// What a dishonest path after this one knows of it.
    pub(crate) fn leave(&mut self, past: &mut Past) {
        past.taken = past.taken.max(self.taken);
        past.fin_taken |= self.fin_taken;
        past.limit_told = self.limit_told;
        past.undelivered = std::mem::take(&mut self.undelivered);
    }

    // From the producer.

    pub(crate) fn take_first(&mut self, fate: First, now: u64, random: &mut Random) {
        self.said.push(if self.asked == Asked::Open { Word::Open } else { Word::Resume });
        match fate {
            First::Arrives { after } => self.first = Some(self.due(now, random) + after),
            First::Refused => self.refuse(now, random),
            First::LeadsNowhere => self.lead_nowhere(now, random),
        }
    }

    pub(crate) fn take_want(&mut self, epoch: u32, wanted: u64, now: u64, random: &mut Random) {
        assert_eq!(epoch, self.epoch);
        if !self.is_dead && !self.is_lost {
            self.wanted = self.wanted.max(wanted);
            self.want = Some((self.due(now, random), self.wanted));
        }
    }

    /// The producer answers: it keeps to `limit`.
    pub(crate) fn take_limit(&mut self, epoch: u32, limit: u64) {
        assert_eq!(epoch, self.epoch);
        if self.is_dead || self.is_lost {
            return;
        }
        let asked = self.asked_to_keep.take().expect("nobody asked");
        assert!((asked.min(self.limit_told)..=self.limit_told).contains(&limit), "an answer to another question");
        self.limit_told = limit;
        self.credit_is_new = true;
    }

    /// Takes bytes and cuts them anew.
    pub(crate) fn take_data(
        &mut self,
        header: &DataHeader,
        mut bytes: Bytes,
        cut_max: usize,
        now: u64,
        random: &mut Random,
    ) {
        if header.fin {
            self.said.push(Word::Fin);
        }
        if self.is_dead || self.is_lost {
            return;
        }
        assert!(self.has_answered && header.epoch == self.epoch, "bytes before the answer, or of another epoch");
        assert_eq!(header.offset, self.taken);
        self.taken += bytes.len() as u64;
        self.sabotage_rewind(header.offset, &mut bytes, random);
        self.fin_taken |= header.fin;
        // The end mark, or a part of it, needs none.
        let beyond = self.taken.saturating_sub(self.limit_told);
        assert!(beyond <= END_MARK_BYTES as u64 || self.settings.sabotage.is_some(), "{beyond} bytes beyond the limit");
        let mut says_fin = header.fin;
        while says_fin || !bytes.is_empty() {
            let piece = bytes.split_to(random.size(1, cut_max).min(bytes.len()));
            let earliest = self.chunks.back().map_or(0, |chunk| chunk.due);
            let due = self.due(now, random).max(earliest);
            let fin = says_fin && bytes.is_empty();
            says_fin &= !fin;
            self.chunks.push_back(Chunk { due, fin, bytes: piece });
        }
        self.sabotage_chunks(random);
    }

    /// What arrives at the consumer now.
    pub(crate) fn poll_forward(&mut self, now: u64, random: &mut Random) -> Option<Forward> {
        if let Some(due) = self.first {
            if due > now {
                return None;
            }
            self.first = None;
            return Some(Forward::Asked(self.asked));
        }
        if let Some((_, code)) = self.loss.down.take_if(|(due, _)| *due <= now) {
            return Some(Forward::Abort(code, "the path is lost".to_owned()));
        }
        if let Some((_, code, text)) = self.ending.abort_down.take_if(|(due, ..)| *due <= now) {
            self.chunks.clear();
            self.is_dead = true;
            return Some(Forward::Abort(code, text));
        }
        if self.ending.ack_down.take_if(|due| *due <= now).is_some() {
            return Some(Forward::EndAck);
        }
        if let Some((_, wanted)) = self.want.take_if(|(due, _)| *due <= now) {
            return Some(Forward::Want(wanted));
        }
        if let Some((_, limit)) = self.limit.take_if(|(due, _)| *due <= now) {
            return Some(Forward::Limit(limit));
        }
        // Noise that every receiver must bear: bytes that it has, bytes of an epoch long gone, the answer to an end that it
        // has not told.
        if let Some((header, bytes)) = self.last_delivered.take_if(|_| !self.is_dead && random.percent(5)) {
            self.noise += 1;
            if random.percent(20) && !self.ending.is_told_by_consumer && !self.is_lost {
                return Some(Forward::EndAck);
            }
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
        let header = DataHeader { stream: 0, offset: self.delivered, epoch: self.epoch, fin: chunk.fin };
        self.delivered += chunk.bytes.len() as u64;
        self.last_delivered = Some((header, chunk.bytes.clone()));
        Some(Forward::Data(header, chunk.bytes))
    }

    // From the consumer.

    pub(crate) fn take_accept(&mut self, accept: Accept, now: u64, random: &mut Random) {
        self.take_answer(Word::Accept, Answer::Accept(accept), now, random);
    }

    pub(crate) fn take_resumed(&mut self, resumed: Resumed, now: u64, random: &mut Random) {
        assert_eq!(resumed.epoch, self.epoch);
        self.take_answer(Word::Resumed, Answer::Resumed(resumed), now, random);
    }

    fn take_answer(&mut self, word: Word, answer: Answer, now: u64, random: &mut Random) {
        self.said.push(word);
        if !self.is_dead && !self.is_lost {
            self.answer = Some((self.due(now, random), answer));
        }
    }

    pub(crate) fn take_credit(&mut self, credit: Credit, now: u64, random: &mut Random) {
        assert_eq!(credit.epoch, self.epoch);
        if self.is_lost || (credit.finished && !self.take_finished(now, random)) || self.is_dead {
            return;
        }
        self.told = credit;
        if self.has_fault(Sabotage::LoseCredit) && (self.has_sabotaged || random.percent(20)) {
            self.has_sabotaged = true;
            return;
        }
        self.push_news(News::Credit(credit), now, random);
    }

    /// The consumer asks for the credit beyond `limit` back, of `granted`.
    pub(crate) fn take_reclaim(&mut self, reclaim: &Reclaim, granted: u64, now: u64, random: &mut Random) {
        assert_eq!(reclaim.epoch, self.epoch);
        self.said.push(Word::Reclaim);
        if !self.is_dead && !self.is_lost {
            self.push_news(News::Reclaim(reclaim.limit), now, random);
            if granted > reclaim.limit && self.wants_sabotage(Sabotage::GrantDuringReclaim) {
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
                    if self.has_fault(Sabotage::IgnoreReclaim) {
                        self.has_sabotaged |= kept < self.allowed;
                    } else {
                        self.allowed = kept;
                    }
                    let limit = Limit { stream: 0, epoch: self.epoch, limit: kept };
                    self.limit = Some((self.due(now, random), limit));
                    let wanted = self.wanted.max(self.taken);
                    if wanted > kept {
                        self.want = Some((self.due(now, random), wanted));
                    }
                }
            }
        }
    }

    /// What arrives at the producer now.
    pub(crate) fn poll_reverse(&mut self, now: u64, random: &mut Random) -> Option<Reverse> {
        if let Some((_, code)) = self.loss.up.take_if(|(due, _)| *due <= now) {
            return Some(Reverse::Abort(code, 0, "the path is lost".to_owned()));
        }
        if let Some((_, code, offset, text)) = self.ending.abort_up.take_if(|(due, ..)| *due <= now) {
            return Some(Reverse::Abort(code, offset, text));
        }
        if self.ending.ack_up.take_if(|due| *due <= now).is_some() {
            return Some(Reverse::EndAck);
        }
        if let Some((_, answer)) = self.answer.take_if(|(due, _)| *due <= now) {
            return Some(self.pass_answer(answer, now, random));
        }
        if !self.has_answered {
            return None;
        }
        self.hear_news(now, random);
        let credit = self.credit?;
        if random.percent(2) {
            self.noise += 1;
            if random.percent(20) && !self.ending.is_told_by_producer && !self.is_lost {
                return Some(Reverse::EndAck);
            }
            let old = Credit { epoch: u32::MAX, received: u64::MAX, limit: u64::MAX, ..credit };
            return Some(Reverse::Credit(old));
        }
        if let Some(lie) = self.sabotage_credit(credit, random) {
            return Some(lie);
        }
        let limit = self.may_tell();
        if limit < self.limit_told && self.asked_to_keep.is_none() && self.taken < self.limit_told {
            self.asked_to_keep = Some(limit);
            self.said.push(Word::ReclaimAbove);
            return Some(Reverse::Reclaim(Reclaim { stream: 0, epoch: self.epoch, limit }));
        }
        // While the producer is asked, it is told no more than it is to keep.
        let limit = limit.min(self.asked_to_keep.unwrap_or(u64::MAX));
        if !std::mem::take(&mut self.credit_is_new) && limit <= self.limit_told {
            return None;
        }
        if self.asked_to_keep.is_none() {
            self.limit_told = self.limit_told.max(limit);
            self.limit_told_max = self.limit_told_max.max(limit);
        }
        Some(Reverse::Credit(Credit { limit, ..credit }))
    }

    /// Counts from where the answer says, and tells the producer what it may.
    fn pass_answer(&mut self, answer: Answer, now: u64, random: &mut Random) -> Reverse {
        self.has_answered = true;
        match answer {
            Answer::Accept(accept) => {
                let limit = self.begin(0, 0, accept.limit);
                Reverse::Accept(Accept { limit, ..accept })
            }
            Answer::Resumed(resumed) => {
                let limit = self.begin(resumed.received, resumed.consumed, resumed.limit);
                Reverse::Resumed(self.sabotage_resumed(Resumed { limit, ..resumed }, now, random))
            }
        }
    }

    fn begin(&mut self, received: u64, consumed: u64, allowed: u64) -> u64 {
        (self.taken, self.delivered, self.allowed) = (received, received, allowed);
        self.credit =
            Some(Credit { stream: 0, epoch: self.epoch, received, consumed, limit: allowed, finished: false });
        self.limit_told = self.may_tell();
        self.limit_told_max = self.limit_told;
        self.limit_told
    }

    /// How far the producer may be let.
    fn may_tell(&self) -> u64 {
        self.allowed.min(self.taken + self.settings.allowance)
    }

    /// Whether the opening is still under way.
    pub(crate) fn is_opening(&self) -> bool {
        self.first.is_some()
    }

    /// The highest limit that the producer ever knew of.
    pub(crate) fn limit_told_max(&self) -> u64 {
        self.limit_told_max
    }
}
