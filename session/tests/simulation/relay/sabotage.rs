//! Faults that no honest path has.

use bytes::{Buf as _, Bytes};
use trunkline_proto::{
    framing::END_MARK_BYTES,
    message::{Credit, Resumed},
};
use trunkline_session::Asked;

use super::{Chunk, Relay, Reverse};
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
    /// What was queued for a path that is lost is passed on as the first bytes of the next path.
    KeepOldBytes,
    /// RESUMED says that more has come than has.
    ResumeAhead,
    /// RESUMED says that less has come than the producer knows.
    ResumeBehind,
    /// What is sent again is taken for what was passed on before, and dropped.
    ForgetRewind,
    /// RESUMED says the limit that the producer had on the path before.
    KeepOldLimit,
    /// The end of a stream that was resumed is said to have been consumed.
    InventFinishedAgain,
    /// No END_ACK is passed on.
    DropEndAck,
    /// A path acknowledges the end itself, and does not pass it on.
    InventEndAck,
    /// The consumer's process does not count what came back with the loss of a path.
    ForgetWhatCameBack,
}

impl Sabotage {
    /// Whether it needs streams that end by an abort.
    pub(crate) fn needs_aborts(self) -> bool {
        matches!(self, Self::FakeEnd | Self::FakeFin)
    }

    /// Whether it needs streams whose paths are lost.
    pub(crate) fn needs_losses(self) -> bool {
        match self {
            Self::KeepOldBytes
            | Self::ResumeAhead
            | Self::ResumeBehind
            | Self::ForgetRewind
            | Self::KeepOldLimit
            | Self::InventFinishedAgain
            | Self::ForgetWhatCameBack => true,
            Self::Drop
            | Self::DropWithGap
            | Self::Duplicate
            | Self::Swap
            | Self::Alter
            | Self::FakeEnd
            | Self::FakeFin
            | Self::InventCredit
            | Self::LoseCredit
            | Self::InventConsumed
            | Self::IgnoreReclaim
            | Self::FreeBeforeLimit
            | Self::GrantDuringReclaim
            | Self::DropEndAck
            | Self::InventEndAck => false,
        }
    }

    /// Whether a path with this fault still passes nothing on beyond what it is allowed.
    fn heeds_limits(self) -> bool {
        match self {
            Self::FreeBeforeLimit
            | Self::GrantDuringReclaim
            | Self::InventFinishedAgain
            | Self::DropEndAck
            | Self::InventEndAck
            | Self::ForgetWhatCameBack => true,
            Self::Drop
            | Self::DropWithGap
            | Self::Duplicate
            | Self::Swap
            | Self::Alter
            | Self::FakeEnd
            | Self::FakeFin
            | Self::InventCredit
            | Self::LoseCredit
            | Self::InventConsumed
            | Self::IgnoreReclaim
            | Self::KeepOldBytes
            | Self::ResumeAhead
            | Self::ResumeBehind
            | Self::ForgetRewind
            | Self::KeepOldLimit => false,
        }
    }
}

/// What a dishonest path knows of those before it.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// What the producer knows to have come.
    pub(crate) known: u64,
    /// What had been sent on any of them, and whether the last byte was.
    pub(crate) taken: u64,
    pub(crate) fin_taken: bool,
    /// What the producer was told on the last one.
    pub(crate) limit_told: u64,
    /// What the last one had not delivered when it was lost.
    pub(crate) undelivered: Vec<Bytes>,
}

impl Relay {
    pub(crate) fn has_fault(&self, fault: Sabotage) -> bool {
        self.settings.sabotage == Some(fault)
    }

    pub(super) fn wants_sabotage(&self, fault: Sabotage) -> bool {
        self.has_fault(fault) && !self.has_sabotaged
    }

    /// Whether it passes nothing on beyond what it is allowed.
    pub(super) fn heeds_limits(&self) -> bool {
        self.settings.sabotage.is_none_or(Sabotage::heeds_limits)
    }

    pub(super) fn sabotage_chunks(&mut self, random: &mut Random) {
        if self.chunks.is_empty() || self.has_sabotaged || !random.percent(30) {
            return;
        }
        let at = random.index(self.chunks.len());
        match self.settings.sabotage {
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

    /// Takes out of `bytes`, which begin at the offset `from`, what was passed on before the path was lost.
    pub(super) fn sabotage_rewind(&mut self, from: u64, bytes: &mut Bytes, random: &mut Random) {
        if !self.has_fault(Sabotage::ForgetRewind) || self.past.taken <= from {
            return;
        }
        let forgotten = usize::try_from(self.past.taken - from).unwrap_or(usize::MAX).min(bytes.len());
        if !self.has_sabotaged {
            self.leaves_gap = random.percent(50);
        }
        bytes.advance(forgotten);
        if self.leaves_gap {
            self.delivered += forgotten as u64;
        }
        self.has_sabotaged |= forgotten > 0;
    }

    /// What the producer is told in place of `resumed`.
    pub(super) fn sabotage_resumed(&mut self, resumed: Resumed, now: u64, random: &mut Random) -> Resumed {
        let mut told = resumed;
        if self.is_lost {
            return told;
        }
        match self.settings.sabotage {
            Some(Sabotage::KeepOldBytes) => {
                let bytes = std::mem::take(&mut self.past.undelivered);
                // More zeros may only lengthen the end mark, behind which they are dropped.
                if bytes.iter().all(|bytes| bytes.iter().all(|&byte| byte == 0)) || self.past.fin_taken {
                    return told;
                }
                self.chunks.extend(bytes.into_iter().map(|bytes| Chunk { due: now, bytes, fin: false }));
            }
            Some(Sabotage::ResumeAhead) => {
                let ahead = random.pick(&[1, 16, 1_000]).min(self.past.taken.saturating_sub(resumed.received)).max(1);
                told.received += ahead;
                // Whoever counts with the lie leaves a gap; whoever does not, shifts what follows.
                self.taken += ahead;
                self.delivered += if random.percent(50) { ahead } else { 0 };
            }
            Some(Sabotage::ResumeBehind) if self.past.known > 0 => {
                told.received = random.below(self.past.known);
                told.consumed = told.consumed.min(told.received);
            }
            Some(Sabotage::KeepOldLimit) if self.past.limit_told > self.allowed => {
                self.allowed = self.past.limit_told;
                (self.limit_told, self.limit_told_max) = (self.allowed, self.allowed);
                told.limit = self.allowed;
            }
            _ => return told,
        }
        self.has_sabotaged = true;
        told
    }

    /// What the producer is told of the consumer's credit, and is not so.
    pub(super) fn sabotage_credit(&mut self, mut credit: Credit, random: &mut Random) -> Option<Reverse> {
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
        let is_again = self.asked == Asked::Resume && self.past.fin_taken && !self.is_lost;
        if is_again && self.wants_sabotage(Sabotage::InventFinishedAgain) && !credit.finished {
            self.has_sabotaged = true;
            let (received, consumed) = (self.past.taken, self.past.taken - END_MARK_BYTES as u64);
            return Some(Reverse::Credit(Credit { received, consumed, finished: true, ..credit }));
        }
        None
    }
}
