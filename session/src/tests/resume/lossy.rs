//! Two halves that are joined directly, over paths that are lost at any time.

use std::collections::VecDeque;

use proptest::prelude::*;
use trunkline_proto::message::Accept;

use super::*;

/// The first limit.
const LIMIT: u64 = 50;

#[derive(Debug, Clone, Copy)]
enum Act {
    Write(usize),
    Finish,
    Abort,
    Read,
    Cancel,
    /// The policy grants so much beyond what has arrived, or asks back what is beyond so much.
    Grant(u64),
    Reclaim(u64),
    /// So many outputs are said, and so many words arrive.
    Say(usize),
    ArriveDown(usize),
    ArriveUp(usize),
    /// The path is lost: of what is under way so much still arrives, at any time later.
    Lose {
        down: usize,
        up: usize,
    },
    ArriveLate(usize),
    NoticeDown,
    NoticeUp,
}

fn act() -> impl Strategy<Value = Act> {
    let few = 0..6_usize;
    prop_oneof![
        6 => (0..150_usize).prop_map(Act::Write),
        1 => Just(Act::Finish),
        6 => Just(Act::Read),
        4 => (0..200_u64).prop_map(Act::Grant),
        2 => (0..200_u64).prop_map(Act::Reclaim),
        12 => few.clone().prop_map(Act::Say),
        8 => few.clone().prop_map(Act::ArriveDown),
        8 => few.clone().prop_map(Act::ArriveUp),
        2 => (few.clone(), few.clone()).prop_map(|(down, up)| Act::Lose { down, up }),
        2 => few.prop_map(Act::ArriveLate),
        2 => Just(Act::NoticeDown),
        2 => Just(Act::NoticeUp),
    ]
}

/// What the sender says, with its bytes.
type Down = (SendOutput, Bytes);

/// Both halves, and the paths between them. What was said on a path that is lost arrives beside what is said on the next.
#[derive(Debug)]
struct Pair {
    sender: SendHalf,
    receiver: Option<ReceiveHalf>,
    /// The path on which each is, as far as it knows, and the newest.
    sender_path: Option<usize>,
    receiver_path: Option<usize>,
    paths: usize,
    /// The limit that the policy counts, and whether it has asked back and not been answered.
    limit: u64,
    is_reclaiming: bool,
    /// The newest path is not lost.
    is_up: bool,
    down: VecDeque<(usize, Down)>,
    up: VecDeque<(usize, ReceiveOutput)>,
    late_down: VecDeque<(usize, Down)>,
    late_up: VecDeque<(usize, ReceiveOutput)>,
    /// Who has told an end on the newest path.
    told_down: bool,
    told_up: bool,
    written: Vec<usize>,
    read: Vec<usize>,
    end: Option<Read>,
    sent_end: bool,
}

impl Pair {
    fn new() -> Self {
        Self {
            sender: SendHalf::new(),
            receiver: None,
            sender_path: None,
            receiver_path: None,
            paths: 0,
            limit: LIMIT,
            is_reclaiming: false,
            is_up: false,
            down: VecDeque::new(),
            up: VecDeque::new(),
            late_down: VecDeque::new(),
            late_up: VecDeque::new(),
            told_down: false,
            told_up: false,
            written: Vec::new(),
            read: Vec::new(),
            end: None,
            sent_end: false,
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Write(length) => {
                if self.sender.write(&message(length)).is_ok() {
                    self.written.push(length);
                }
            }
            Act::Finish => self.sender.finish(),
            Act::Abort => self.sender.abort(Code::Cancelled, "the producer gave up"),
            Act::Read => self.read(),
            Act::Cancel => {
                if let Some(receiver) = &mut self.receiver {
                    receiver.cancel(Code::Cancelled, "the consumer gave up");
                }
            }
            Act::Grant(more) => {
                if let Some(receiver) = self.receiver.as_mut().filter(|_| !self.is_reclaiming) {
                    self.limit = self.limit.max(receiver.received() + more);
                    receiver.handle_grant(self.limit);
                }
            }
            Act::Reclaim(kept) => {
                let Some(receiver) = self.receiver.as_mut().filter(|_| !self.is_reclaiming) else { return };
                let kept = receiver.consumed() + kept;
                if kept < self.limit {
                    self.is_reclaiming = true;
                    receiver.reclaim(kept);
                    self.take_back();
                }
            }
            Act::Say(count) => self.say(count),
            Act::ArriveDown(count) => {
                let arrived = self.down.drain(..count.min(self.down.len())).collect();
                self.arrive_down(arrived);
            }
            Act::ArriveUp(count) => {
                let arrived = self.up.drain(..count.min(self.up.len())).collect();
                self.arrive_up(arrived);
            }
            Act::ArriveLate(count) => {
                let down = self.late_down.drain(..count.min(self.late_down.len())).collect();
                let up = self.late_up.drain(..count.min(self.late_up.len())).collect();
                self.arrive_down(down);
                self.arrive_up(up);
            }
            Act::Lose { down, up } => self.lose(down, up),
            Act::NoticeDown => self.notice_down(),
            Act::NoticeUp => self.notice_up(),
        }
    }

    /// The policy is told of credit that came back without an answer.
    fn take_back(&mut self) {
        if let Some(limit) = self.receiver.as_mut().and_then(ReceiveHalf::poll_limited) {
            assert!(self.is_reclaiming && limit <= self.limit);
            (self.limit, self.is_reclaiming) = (limit, false);
        }
    }

    fn read(&mut self) {
        let Some(receiver) = &mut self.receiver else { return };
        match receiver.read() {
            Read::Message(found) => {
                assert_eq!(found, message(found.len()));
                self.read.push(found.len());
            }
            Read::Pending => {}
            end => {
                assert!(self.end.as_ref().is_none_or(|known| *known == end), "a second outcome");
                self.end = Some(end);
            }
        }
        receiver.poll_consumed();
    }

    fn say(&mut self, count: usize) {
        for _ in 0..count {
            let mut pieces = Vec::new();
            let Some(output) = self.sender.poll_output(40, &mut pieces) else { break };
            if matches!(output, SendOutput::Open { .. } | SendOutput::Resume { .. }) {
                assert_eq!(self.sender_path, None);
                (self.sender_path, self.is_up, self.told_down, self.told_up) = (Some(self.paths), true, false, false);
                self.paths += 1;
            }
            self.sent_end |= matches!(output, SendOutput::Data { fin: true, .. });
            let path = self.sender_path.expect("nothing is said without a path");
            if self.is_up {
                self.told_down |= matches!(output, SendOutput::Abort(_));
                self.down.push_back((path, (output, pieces.concat().into())));
            }
        }
        let Some(receiver) = &mut self.receiver else { return };
        for _ in 0..count {
            let Some(output) = receiver.poll_output() else { break };
            let path = self.receiver_path.expect("nothing is said without a path");
            if path + 1 == self.paths && self.is_up {
                let is_finished = matches!(&output, ReceiveOutput::Credit(credit) if credit.finished);
                self.told_up |= is_finished || matches!(output, ReceiveOutput::Abort(_));
                self.up.push_back((path, output));
            }
        }
    }

    fn arrive_down(&mut self, arrived: Vec<(usize, Down)>) {
        for (path, (output, bytes)) in arrived {
            match output {
                SendOutput::Open { epoch } => self.ask(path, Asked::Open, epoch),
                SendOutput::Resume { epoch, .. } => self.ask(path, Asked::Resume, epoch),
                _ => {}
            }
            let Some(receiver) = &mut self.receiver else { continue };
            let is_current = self.receiver_path == Some(path);
            match output {
                SendOutput::Data { offset, epoch, fin } => {
                    let before = receiver.received();
                    receiver.handle_data(&DataHeader { stream: 0, offset, epoch, fin }, bytes);
                    assert!(is_current || receiver.received() == before);
                }
                SendOutput::Limit { epoch, limit } => {
                    if let Some(limit) = receiver.handle_limit(&Limit { stream: 0, epoch, limit }) {
                        assert!(self.is_reclaiming && limit <= self.limit);
                        (self.limit, self.is_reclaiming) = (limit, false);
                    }
                }
                SendOutput::Want { wanted, .. } if is_current => receiver.handle_want(wanted),
                SendOutput::Abort(why) if is_current => {
                    receiver.handle_abort(why.code, why.text);
                    self.acknowledge_what_crosses(path);
                }
                SendOutput::EndAck if is_current => receiver.handle_end_ack(),
                _ => {}
            }
        }
    }

    fn ask(&mut self, path: usize, asked: Asked, epoch: u32) {
        let is_newer = match &mut self.receiver {
            Some(receiver) => receiver.handle_asked(asked, epoch),
            unknown => {
                *unknown = Some(ReceiveHalf::new(epoch, LIMIT, 1000));
                true
            }
        };
        if is_newer {
            self.receiver_path = Some(path);
            self.take_back();
        }
    }

    fn arrive_up(&mut self, arrived: Vec<(usize, ReceiveOutput)>) {
        for (path, output) in arrived {
            let is_current = self.sender_path == Some(path);
            match output {
                ReceiveOutput::Credit(credit) => {
                    self.sender.handle_credit(&credit);
                    if credit.finished && is_current {
                        self.acknowledge_what_crosses(path);
                    }
                }
                ReceiveOutput::Reclaim(reclaim) => self.sender.handle_reclaim(&reclaim),
                ReceiveOutput::Resumed(resumed) => self.sender.handle_resumed(&resumed),
                ReceiveOutput::Accept { limit } if is_current => {
                    self.sender.handle_accept(&Accept { limit, ..accept(0) });
                }
                ReceiveOutput::Abort(why) if is_current => {
                    self.sender.handle_abort(why.code, why.offset, why.text);
                    self.acknowledge_what_crosses(path);
                }
                ReceiveOutput::EndAck if is_current => self.sender.handle_end_ack(),
                _ => {}
            }
        }
    }

    /// Between two halves there is a node, which sees ends that cross.
    fn acknowledge_what_crosses(&mut self, path: usize) {
        if self.told_down && self.told_up && self.is_up && path + 1 == self.paths {
            self.down.push_back((path, (SendOutput::EndAck, Bytes::new())));
            self.up.push_back((path, ReceiveOutput::EndAck));
            (self.told_down, self.told_up) = (false, false);
        }
    }

    fn lose(&mut self, down: usize, up: usize) {
        if self.is_up {
            self.is_up = false;
            self.late_down.extend(self.down.drain(..).take(down));
            self.late_up.extend(self.up.drain(..).take(up));
        }
    }

    fn notice_down(&mut self) {
        let is_lost = self.receiver_path.is_some_and(|path| path + 1 < self.paths || !self.is_up);
        if let Some(receiver) = self.receiver.as_mut().filter(|_| is_lost) {
            receiver.handle_path_lost();
            self.receiver_path = None;
            self.take_back();
        }
    }

    fn notice_up(&mut self) {
        if self.sender_path.is_some() && !self.is_up {
            self.sender.handle_path_lost();
            self.sender_path = None;
        }
    }

    /// No path is lost any more, and everybody does what there is to do.
    fn calm_down(&mut self) {
        for _ in 0..5_000 {
            self.notice_up();
            self.notice_down();
            self.say(10);
            self.act(Act::ArriveDown(10));
            self.act(Act::ArriveUp(10));
            self.act(Act::ArriveLate(1));
            self.act(Act::Grant(100));
            self.read();
            let is_receiver_settled = self.receiver.as_ref().is_none_or(ReceiveHalf::is_settled);
            if self.sender.is_settled() && (is_receiver_settled || self.receiver_path.is_none()) {
                break;
            }
        }
        while self.receiver.as_ref().is_some_and(ReceiveHalf::is_readable) && self.end.is_none() {
            self.read();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled_however_often_a_path_is_lost(acts in prop::collection::vec(act(), 1..300)) {
        let mut pair = Pair::new();
        for act in acts {
            pair.act(act);
            prop_assert!(pair.written.starts_with(&pair.read));
        }
        pair.act(Act::Finish);
        pair.calm_down();
        prop_assert_eq!(&pair.read, &pair.written);
        prop_assert_eq!((pair.sender.finished(), pair.end.clone()), (Finished::Consumed, Some(Read::End)));
        // Only that the end was heard may have been lost with a path.
        prop_assert!(pair.sender.is_settled());
        prop_assert!(pair.receiver.unwrap().is_settled() || pair.receiver_path.is_none());
    }

    #[test]
    fn ends_are_told_however_often_a_path_is_lost(
        acts in prop::collection::vec(act(), 1..200),
        end in prop_oneof![Just(Act::Abort), Just(Act::Cancel)],
        others in prop::collection::vec(prop_oneof![30 => act(), 1 => Just(Act::Abort), 1 => Just(Act::Cancel)], 0..100),
        gives_up in any::<bool>(),
    ) {
        let mut pair = Pair::new();
        for act in acts.into_iter().chain([end]).chain(others) {
            pair.act(act);
            prop_assert!(pair.written.starts_with(&pair.read));
        }
        // Whoever was to cancel may not have been there yet.
        pair.act(Act::Finish);
        if gives_up {
            pair.lose(3, 3);
            pair.notice_up();
            pair.sender.give_up_waiting(Code::TrunkLost, "nobody came".to_owned());
        }
        pair.calm_down();
        prop_assert!(pair.sender.is_settled());
        if let Some(receiver) = &mut pair.receiver {
            prop_assert!(receiver.is_settled() || pair.receiver_path.is_none());
            receiver.give_up_waiting(Code::TrunkLost, "nobody came".to_owned());
        }
        while pair.receiver.is_some() && pair.end.is_none() {
            pair.read();
        }
        prop_assert!(pair.receiver.is_none_or(|receiver| receiver.is_settled()));
        match (pair.sender.finished(), &pair.end) {
            (Finished::Consumed, end) => prop_assert_eq!(end, &Some(Read::End)),
            (Finished::Aborted(why), Some(Read::End)) => {
                prop_assert!(pair.sent_end && matches!(why.code, Code::Cancelled | Code::OutcomeUnknown), "{why}");
            }
            (Finished::Aborted(why), Some(Read::Aborted(_)) | None) => {
                prop_assert!(matches!(why.code, Code::Cancelled | Code::TrunkLost | Code::OutcomeUnknown), "{why}");
            }
            (found, end) => prop_assert!(false, "{found:?} and {end:?}"),
        }
    }
}
