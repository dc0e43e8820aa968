//! What an attachment has done so far, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the counters once: as atomics that the crate raises, and as the public snapshot of them.
macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// What an attachment has done since it began: a snapshot, made by [`Attachment::metrics`](crate::Attachment::metrics).
        ///
        /// Each count only rises. They are read one after another while the line goes on, so sums over several may be off
        /// by what happened in between.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Metrics {
            $($(#[$doc])+ pub $name: u64,)+
            /// Bytes that the streams from this process hold now: taken by `send`, and not known to be in the consumers'
            /// processes. At most the send budget and one message.
            pub send_budget_used_bytes: u64,
        }

        /// The counters behind [`Metrics`]. They order nothing: relaxed throughout.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Count,)+
        }

        impl Counters {
            /// What they are now.
            pub(crate) fn snapshot(&self, send_budget_used_bytes: u64) -> Metrics {
                Metrics { $($name: self.$name.get(),)+ send_budget_used_bytes }
            }
        }
    };
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Raises it by one.
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// Raises it.
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Streams that a producer of this process asked for.
    opens,
    /// Of those, taken by their consumer.
    opens_accepted,
    /// Of those, finished: the consumer's application has consumed everything.
    sends_finished,
    /// Streams from this process that ended another way, refused opens included.
    sends_lost,
    /// Messages that `send` and its likes have taken.
    messages_sent,
    /// Their bytes, lengths included.
    bytes_sent,
    /// Frames that carried those to the node. Fewer than messages: small ones travel together.
    data_frames_sent,
    /// How often a send had to wait: for the consumer's credit or for room in the send budget.
    sends_blocked,
    /// Streams that a producer opened to a consumer of this process and that were not refused.
    accepts,
    /// Of those, read to their clean end.
    receives_finished,
    /// Of those, ended another way.
    receives_lost,
    /// Messages that the application has consumed.
    messages_received,
    /// Bytes of those streams that the application has consumed, lengths included.
    bytes_received,
    /// Frames that carried those from the node.
    data_frames_received,
    /// How often a stream has lost its path and paused.
    streams_suspended,
    /// How often a stream has gone on after that.
    streams_resumed,
    /// How often the link to the node was lost and made again.
    reattached,
}
