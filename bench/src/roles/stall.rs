//! Both ends of streams of one job, one trunk and two processes, of which some are read and the others fill up and wait.

mod consume;
mod produce;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    consume::{Flooded, ReceiveOrder, StallConsume},
    produce::{Filled, SendOrder, StallProduce},
};

/// The job of all of them.
const JOB: &str = "bench";
/// The consumer of all of them.
const CONSUMER: &str = "sink";
/// The producer of the streams that are read.
const READING: &str = "reading";
/// The producer of those that are not.
const STALLED: &str = "stalled";
/// A message that is timed: the moment at which it was due, in nanoseconds of CLOCK_MONOTONIC, and what fills it up. Bulk
/// is of another length.
pub(crate) const PACED_BYTES: usize = 64;

/// How many streams there are of each kind.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Streams {
    /// Streams that are read at all times.
    pub(crate) reading: usize,
    /// Streams that are read at the end only.
    pub(crate) stalled: usize,
}

impl Streams {
    /// All of them.
    pub(crate) fn all(self) -> usize {
        self.reading + self.stalled
    }
}

/// The time that all processes of a machine share.
fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}
