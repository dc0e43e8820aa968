//! Sums of what streams hold and miss, of the whole budget and of each cap, and the lists of those that hold or wait.

use hashlink::LinkedHashSet;

use crate::credit::stream::Holding;

/// A part of the bytes that one kind of grant may use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Whole,
    /// For windows that grow.
    SevenEighths,
    /// For streams of which nothing was drained yet.
    Half,
}

/// Sums over the streams that share some bytes.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) bytes: u64,
    pub(super) sum: Sum,
    pub(super) holders: Holders,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sum {
    pub(super) committed: u64,
    pub(super) missing: u64,
    pub(super) coming: u64,
    pub(super) promised_asks: u64,
}

/// Streams that could be asked to give back, the least recently drained first.
#[derive(Debug, Default)]
pub(super) struct Holders {
    pub(super) excess: LinkedHashSet<u64>,
    pub(super) promised: LinkedHashSet<u64>,
}

impl Holders {
    pub(super) fn of(&mut self, holding: Holding) -> &mut LinkedHashSet<u64> {
        match holding {
            Holding::Excess => &mut self.excess,
            Holding::Promised => &mut self.promised,
        }
    }
}

impl Account {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }

    pub(super) fn free(&self, part: Part) -> u64 {
        let most = match part {
            Part::Whole => self.bytes,
            Part::SevenEighths => self.bytes - self.bytes / 8,
            Part::Half => self.bytes / 2,
        };
        most.saturating_sub(self.sum.committed)
    }

    /// What those that wait miss and will not have without asking.
    pub(super) fn shortage(&self) -> u64 {
        self.sum.missing.saturating_sub(self.free(Part::Whole).saturating_add(self.sum.coming))
    }
}

/// The streams under one cap.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) account: Account,
    /// Streams that came to the head of the rotation and wait for the cap.
    pub(super) waiting: LinkedHashSet<u64>,
    /// Streams that came to the head of the untried ones and wait for the cap.
    pub(super) untried: LinkedHashSet<u64>,
    /// What its messages hold of the pool.
    pub(super) large: u64,
    /// Streams that came to the head of those that wait for the pool, and wait for the cap.
    pub(super) waiting_large: LinkedHashSet<u64>,
}

impl Group {
    pub(super) fn new(cap: u64) -> Self {
        Self {
            account: Account::new(cap),
            waiting: LinkedHashSet::new(),
            untried: LinkedHashSet::new(),
            large: 0,
            waiting_large: LinkedHashSet::new(),
        }
    }
}
