//! The producing end: an application and the driver of its half, as an SDK would be.

use bytes::Bytes;
use trunkline_proto::{code::Code, frame::DataHeader, id::Incarnation};
use trunkline_session::{Aborted, Asked, Finished, SendHalf, SendOutput, Verdict, WriteError};

use crate::{
    paths::Paths,
    plan::{Ending, PathsPlan, StreamPlan},
    random::Random,
    relay::Reverse,
};

/// The one life of every consumer.
pub(crate) const CONSUMER: Incarnation = Incarnation::from_bits(7);

/// How a stream ended at one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Clean,
    Aborted(Aborted),
}

#[derive(Debug)]
pub(crate) struct Producer {
    pub(crate) half: SendHalf,
    pub(crate) written: usize,
    pub(crate) finished_at: Option<u64>,
    /// The path that it is on, as far as it knows.
    path: Option<usize>,
    waits_since: Option<u64>,
    /// When it asks again for a path that was refused.
    retry_at: Option<u64>,
    has_sent_end: bool,
    sent: u64,
    /// Bytes that were sent more than once.
    pub(crate) sent_again: u64,
    pub(crate) resumptions: usize,
    /// How often something came from a path that was left.
    pub(crate) stale: usize,
}

impl Producer {
    pub(crate) fn new() -> Self {
        Self {
            half: SendHalf::new(),
            written: 0,
            finished_at: None,
            path: None,
            waits_since: None,
            retry_at: None,
            has_sent_end: false,
            sent: 0,
            sent_again: 0,
            resumptions: 0,
            stale: 0,
        }
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.half.finished() {
            Finished::Pending => None,
            Finished::Consumed => Some(Outcome::Clean),
            Finished::Aborted(why) => Some(Outcome::Aborted(why)),
        }
    }

    /// The application's turn.
    pub(crate) fn act(&mut self, plan: &StreamPlan, now: u64, random: &mut Random) {
        let last = if let Ending::Abort(after) = plan.ending { after } else { plan.messages.len() };
        for _ in 0..random.between(1, 6) {
            if self.written == last || self.half.write(&plan.messages[self.written]).is_err() {
                break;
            }
            self.written += 1;
        }
        if self.written < last {
            return;
        }
        match plan.ending {
            Ending::Abort(_) => self.half.abort(Code::Cancelled, "the producer gave up"),
            Ending::Finish | Ending::FinishThenAbort(_) if self.finished_at.is_none() => {
                self.half.finish();
                self.finished_at = Some(now);
                let refusal = self.half.write(&Bytes::new());
                assert!(matches!(refusal, Err(WriteError::Finished | WriteError::Aborted(_))));
            }
            Ending::FinishThenAbort(rounds)
                if self.finished_at.is_some_and(|finished_at| finished_at + rounds <= now) =>
            {
                self.half.abort(Code::Cancelled, "the producer gave up late");
            }
            Ending::Finish | Ending::FinishThenAbort(_) => {}
        }
    }

    /// Time passes: what was refused is asked for again, and who has waited long enough waits no longer.
    pub(crate) fn pass_time(&mut self, plan: &StreamPlan, paths: &mut Paths, now: u64, random: &mut Random) {
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.half.retry();
        }
        if !self.half.is_suspended() || self.half.is_settled() {
            self.waits_since = None;
            return;
        }
        let since = *self.waits_since.get_or_insert(now);
        let patience = plan.paths.patience.map(|(producer, _)| producer);
        if now < PathsPlan::waits_until(since, patience, paths.last_fault.max(plan.calm_from)) {
            return;
        }
        let was_over = self.half.is_over();
        let code = random.pick(&[Code::TrunkLost, Code::NodeLost]);
        self.half.give_up_waiting(code, "nobody came".to_owned());
        let expected = if self.has_sent_end { Code::OutcomeUnknown } else { code };
        assert!(was_over || matches!(self.outcome(), Some(Outcome::Aborted(why)) if why.code == expected));
        assert!(self.half.is_settled());
        if let Some(path) = self.path.take() {
            paths.leave(path, now, random);
        }
    }

    /// The driver's turn: sends what there is to send, or some of it.
    pub(crate) fn drive(&mut self, plan: &StreamPlan, paths: &mut Paths, now: u64, random: &mut Random) {
        for _ in 0..random.between(1, 20) {
            let has_output = self.half.has_output();
            let mut pieces = Vec::new();
            let bytes_max = random.size(1, plan.chunk_bytes_max);
            let output = self.half.poll_output(bytes_max, &mut pieces);
            assert_eq!(has_output, output.is_some());
            let Some(output) = output else { break };
            match (output, self.path) {
                (SendOutput::Open { epoch }, None) => self.begin(Asked::Open, epoch, paths, now, random),
                (SendOutput::Resume { epoch, consumer }, None) => {
                    assert_eq!(consumer, CONSUMER);
                    self.begin(Asked::Resume, epoch, paths, now, random);
                }
                (SendOutput::Data { offset, epoch, fin }, Some(path)) => {
                    let bytes: Bytes = pieces.concat().into();
                    let end = offset + bytes.len() as u64;
                    self.sent_again += self.sent.min(end) - offset.min(self.sent);
                    self.sent = self.sent.max(end);
                    self.has_sent_end |= fin;
                    let header = DataHeader { stream: 0, offset, epoch, fin };
                    paths.relay(path).take_data(&header, bytes, plan.chunk_bytes_max, now, random);
                }
                (SendOutput::Want { epoch, wanted }, Some(path)) => {
                    paths.relay(path).take_want(epoch, wanted, now, random);
                }
                (SendOutput::Limit { epoch, limit }, Some(path)) => paths.relay(path).take_limit(epoch, limit),
                (SendOutput::Abort(why), Some(path)) => paths.relay(path).take_abort(why.code, why.text, now, random),
                (SendOutput::EndAck, Some(path)) => paths.relay(path).take_producer_ack(now, random),
                (output, path) => panic!("{output:?} was said on the path {path:?}"),
            }
        }
    }

    fn begin(&mut self, asked: Asked, epoch: u32, paths: &mut Paths, now: u64, random: &mut Random) {
        let known = if self.half.is_over() { 0 } else { self.half.written() - self.half.buffered_bytes() };
        self.path = Some(paths.begin(asked, epoch, known, now, random));
    }

    /// Something arrives on a path. From one that was left, the driver passes on what has an epoch, and that changes nothing.
    pub(crate) fn take(&mut self, path: usize, news: Reverse, now: u64, random: &mut Random) {
        if self.half.is_settled() {
            return;
        }
        if self.path != Some(path) {
            self.stale += 1;
            let before = self.state();
            match news {
                Reverse::Credit(credit) => self.half.handle_credit(&credit),
                Reverse::Reclaim(reclaim) => self.half.handle_reclaim(&reclaim),
                Reverse::Resumed(resumed) => self.half.handle_resumed(&resumed),
                Reverse::Accept(_) | Reverse::Abort(..) | Reverse::EndAck => {}
            }
            assert_eq!(self.state(), before);
            return;
        }
        let was_suspended = self.half.is_suspended();
        match news {
            Reverse::Accept(accept) => self.half.handle_accept(&accept),
            Reverse::Resumed(resumed) => self.half.handle_resumed(&resumed),
            Reverse::Credit(credit) => self.half.handle_credit(&credit),
            Reverse::Reclaim(reclaim) => self.half.handle_reclaim(&reclaim),
            Reverse::EndAck => self.half.handle_end_ack(),
            Reverse::Abort(code, ..) if code.ends_path() && random.percent(50) => {
                // Its link was lost, and with it the path.
                self.half.handle_path_lost();
                self.path = None;
            }
            Reverse::Abort(code, offset, text) => match self.half.handle_abort(code, offset, text) {
                Verdict::Ended => {}
                Verdict::PathLost => self.path = None,
                Verdict::Refused => {
                    self.path = None;
                    self.retry_at = Some(now + random.between(1, 10));
                }
            },
        }
        self.resumptions += usize::from(was_suspended && !self.half.is_suspended());
    }

    /// What can be seen of the half.
    fn state(&self) -> (bool, bool, u64, u64, u64, bool) {
        let half = &self.half;
        let (bytes, charged) = (half.buffered_bytes(), half.charged_bytes());
        (half.is_suspended(), half.is_over(), half.consumed(), bytes, charged, half.has_output())
    }
}

/// What a message takes in the stream.
pub(crate) fn encoded_bytes(message: &Bytes) -> u64 {
    trunkline_session::encoded_bytes(message.len())
}
