//! What the log tells of streams and binds at debug: a line for each turn of their lives, none for a frame.
//!
//! They have a target of their own: `TRUNKLINE_LOG=info,trunkline_node::events=debug` shows them beside what is shown
//! anyway. A stream's lines have the same first fields on each node that it passes: whom it is between, and its `number`
//! among the streams of its producer, as in Status. `offset` counts the bytes that this node has passed on.

use tracing::debug;
use trunkline_proto::{
    code::Code,
    id::{ConsumerName, JobId},
    message::Open,
};

use crate::{bindings::Refusal, refusals::printable};

macro_rules! tell {
    ($open:expr, { $($field:ident = $value:expr),* }, $($text:tt)+) => {{
        let open: &Open = $open;
        debug!(
            job = %open.job.name,
            run = %open.job.run,
            producer = %open.producer,
            producer_node = open.producer_node.as_ref().map(display),
            consumer = %open.consumer,
            node = %open.node,
            number = open.number,
            $($field = $value,)*
            $($text)+
        );
    }};
}

/// A stream is in transit here from now on.
pub(crate) fn opened(open: &Open) {
    tell!(open, {}, "stream opened");
}

/// It waits here.
pub(crate) fn parked(open: &Open, why: &str) {
    tell!(open, {}, "stream parked: {why}");
}

/// Its consumer took it.
pub(crate) fn accepted(open: &Open) {
    tell!(open, {}, "stream accepted");
}

/// It was taken up again, at this offset.
pub(crate) fn resumed(open: &Open, offset: u64) {
    tell!(open, { epoch = open.epoch, offset = offset }, "stream resumed");
}

/// Its path is lost; it may be taken up again.
pub(crate) fn suspended(open: &Open, offset: u64, why: &str) {
    tell!(open, { epoch = open.epoch, offset = offset }, "stream suspended: {}", printable(why));
}

/// It never came to be.
pub(crate) fn refused(open: &Open, code: Code, why: &str) {
    tell!(open, { code = display(code), offset = 0 }, "stream refused: {}", printable(why));
}

/// Its consumer has consumed it to the end.
pub(crate) fn ended(open: &Open, offset: u64) {
    tell!(open, { code = display(Code::Closed), offset = offset }, "stream ended cleanly");
}

/// It ended otherwise.
pub(crate) fn aborted(open: &Open, code: Code, offset: u64, why: &str) {
    tell!(open, { code = display(code), offset = offset }, "stream aborted: {}", printable(why));
}

/// A process holds a consumer's name from now on; so many streams waited for it.
pub(crate) fn bound(process: u64, job: &JobId, consumer: &ConsumerName, waited: usize) {
    debug!(job = %job.name, run = %job.run, %consumer, process, waited, "consumer bound");
}

/// A process did not get a consumer's name.
pub(crate) fn bind_refused(process: u64, job: &JobId, consumer: &ConsumerName, Refusal { code, text }: &Refusal) {
    debug!(job = %job.name, run = %job.run, %consumer, process, %code, "bind refused: {text}");
}

/// The name is free again.
pub(crate) fn unbound(process: u64, job: &JobId, consumer: &ConsumerName) {
    debug!(job = %job.name, run = %job.run, %consumer, process, "consumer unbound");
}

/// A number and its noun: `1 stream`, `2 streams`.
pub(crate) fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing::Level;
    use trunkline_proto::id::{Incarnation, Weight};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged meanwhile, at debug and without times.
    fn logged(meanwhile: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, meanwhile);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    fn open() -> Open {
        Open {
            stream: 2,
            job: JobId { name: "job".parse().unwrap(), run: "r1".parse().unwrap() },
            producer: "map".parse().unwrap(),
            producer_node: Some("node-a".parse().unwrap()),
            incarnation: Incarnation::from_bits(1),
            number: 7,
            consumer: "reduce".parse().unwrap(),
            node: "node-b".parse().unwrap(),
            epoch: 0,
            weight: Weight::MIN,
        }
    }

    #[test]
    fn a_stream_s_lines_say_whom_it_is_between_and_how_it_went() {
        let open = open();
        let lines = logged(|| {
            opened(&open);
            parked(&open, "reduce is not bound");
            aborted(&open, Code::ConsumerGone, 42, "the process\nis gone");
        });
        let stream = "job=job run=r1 producer=map producer_node=node-a consumer=reduce node=node-b number=7";
        assert_eq!(
            lines,
            [
                format!("DEBUG trunkline_node::events: stream opened {stream}"),
                format!("DEBUG trunkline_node::events: stream parked: reduce is not bound {stream}"),
                format!(
                    "DEBUG trunkline_node::events: stream aborted: the process\u{fffd}is gone {stream} \
                     code=consumer_gone offset=42"
                ),
            ]
        );
    }

    #[test]
    fn a_bind_s_lines_name_the_process() {
        let Open { job, consumer, .. } = open();
        let lines = logged(|| bound(3, &job, &consumer, 2));
        let expected = "DEBUG trunkline_node::events: consumer bound job=job run=r1 consumer=reduce process=3 waited=2";
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn one_is_no_plural() {
        let streams = |count| counted(count, "stream", "streams");
        assert_eq!([streams(0), streams(1), streams(2)], ["0 streams", "1 stream", "2 streams"]);
    }
}
