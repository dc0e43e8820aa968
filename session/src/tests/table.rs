//! Every state of an end meets every input: docs/wire.md has the outcome of each pair, and this walks them all.

use std::fmt::Write as _;

use trunkline_proto::message::{Limit, Reclaim, Resumed};

use super::*;
use crate::{Asked, Finished, Read};

const PAGE: &str = include_str!("../../../docs/wire.md");

/// The messages of the streams: one of nine bytes, ten with its length.
const CONTENT: u64 = 10;
const WHOLE: u64 = CONTENT + framing::END_MARK_BYTES as u64;

/// Of the sending half: a name, and how it comes about.
type SendState = (&'static str, fn() -> SendHalf);
type SendInput = (&'static str, fn(&mut SendHalf));
type ReceiveState = (&'static str, fn() -> ReceiveHalf);
type ReceiveInput = (&'static str, fn(&mut ReceiveHalf));

fn said(half: &mut SendHalf) -> Vec<&'static str> {
    let mut said = Vec::new();
    while let Some(output) = half.poll_output(1 << 20, &mut Vec::new()) {
        said.push(match output {
            SendOutput::Open { .. } => "OPEN",
            SendOutput::Resume { .. } => "RESUME",
            SendOutput::Data { fin: false, .. } => "DATA",
            SendOutput::Data { fin: true, .. } => "DATA (FIN)",
            SendOutput::Want { .. } => "WANT",
            SendOutput::Limit { .. } => "LIMIT",
            SendOutput::Abort(_) => "ABORT",
            SendOutput::EndAck => "END_ACK",
        });
    }
    said
}

/// A half that has been opened, with everything said.
fn opening() -> SendHalf {
    let mut half = SendHalf::new();
    said(&mut half);
    half
}

/// One whose consumer took the stream.
fn open() -> SendHalf {
    let mut half = opening();
    half.handle_accept(&accept(100));
    half
}

/// One that has sent everything, its end too.
fn finishing() -> SendHalf {
    let mut half = open();
    half.write(&message(9)).unwrap();
    half.finish();
    said(&mut half);
    half
}

fn suspended() -> SendHalf {
    let mut half = finishing();
    // Refused with a retryable code, so that it does not ask at once.
    half.handle_path_lost();
    said(&mut half);
    half.handle_abort(Code::Busy, 0, String::new());
    half
}

fn resuming() -> SendHalf {
    let mut half = finishing();
    half.handle_path_lost();
    said(&mut half);
    half
}

fn given_up() -> SendHalf {
    let mut half = open();
    half.abort(Code::Cancelled, "enough");
    said(&mut half);
    half
}

fn given_up_resuming() -> SendHalf {
    let mut half = given_up();
    half.handle_path_lost();
    said(&mut half);
    half
}

fn settled() -> SendHalf {
    let mut half = given_up();
    half.handle_end_ack();
    half
}

const SEND_STATES: [SendState; 8] = [
    ("opening", opening),
    ("open", open),
    ("all sent", finishing),
    ("suspended", suspended),
    ("resuming", resuming),
    ("given up", given_up),
    ("given up, resuming", given_up_resuming),
    ("over", settled),
];

fn resumed(epoch: u32, received: u64) -> Resumed {
    Resumed { stream: 0, epoch, received, consumed: received.min(CONTENT), limit: 100 }
}

const SEND_INPUTS: [SendInput; 13] = [
    ("the application aborts", |half| half.abort(Code::Cancelled, "enough")),
    ("the application finishes", SendHalf::finish),
    ("ACCEPT", |half| half.handle_accept(&accept(100))),
    ("RESUMED, nothing has come", |half| half.handle_resumed(&resumed(half.epoch(), 0))),
    ("RESUMED, all has come", |half| half.handle_resumed(&resumed(half.epoch(), WHOLE))),
    ("CREDIT", |half| half.handle_credit(&Credit { epoch: half.epoch(), ..credit(0, 0, 200) })),
    ("CREDIT (finished)", |half| {
        half.handle_credit(&Credit { epoch: half.epoch(), finished: true, ..credit(WHOLE, CONTENT, 100) });
    }),
    ("CREDIT of an older epoch", |half| half.handle_credit(&Credit { epoch: half.epoch() + 9, ..credit(0, 0, 200) })),
    ("RECLAIM", |half| half.handle_reclaim(&Reclaim { stream: 0, epoch: half.epoch(), limit: 0 })),
    ("ABORT", |half| {
        let _ = half.handle_abort(Code::Cancelled, 0, "theirs".to_owned());
    }),
    ("ABORT, retryable", |half| {
        let _ = half.handle_abort(Code::Busy, 0, "theirs".to_owned());
    }),
    ("ABORT of the path, or its loss", SendHalf::handle_path_lost),
    ("END_ACK", SendHalf::handle_end_ack),
];

/// How a sending half is found: over, or on its way.
fn send_outcome(half: &SendHalf) -> String {
    match half.finished() {
        Finished::Pending => String::new(),
        Finished::Consumed => "finished".to_owned(),
        Finished::Aborted(why) if why.text == "enough" => "given up".to_owned(),
        Finished::Aborted(why) if why.text == "theirs" => "ended".to_owned(),
        Finished::Aborted(why) => why.code.to_string(),
    }
}

fn cell(said: &[&str], before: &str, after: &str, settles: bool) -> String {
    let mut cell = said.join(", ");
    if before != after {
        let separator = if cell.is_empty() { "" } else { ": " };
        write!(cell, "{separator}**{after}**").unwrap();
    }
    if settles {
        let separator = if cell.is_empty() { "" } else { "; " };
        write!(cell, "{separator}over").unwrap();
    }
    if cell.is_empty() { "–".to_owned() } else { cell }
}

fn table<S, I>(
    corner: &str,
    states: &[(&str, S)],
    inputs: &[(&str, I)],
    mut meet: impl FnMut(&S, &I) -> String,
) -> String {
    let mut table = format!("| {corner} |");
    for (state, _) in states {
        write!(table, " {state} |").unwrap();
    }
    table += "\n| --- |";
    table += &" --- |".repeat(states.len());
    for (name, input) in inputs {
        write!(table, "\n| {name} |").unwrap();
        for (_, state) in states {
            write!(table, " {} |", meet(state, input)).unwrap();
        }
    }
    table + "\n"
}

#[test]
fn docs_wire_md_has_what_every_input_does_to_every_state_of_the_producers_end() {
    let shown = table("input \\ state", &SEND_STATES, &SEND_INPUTS, |state, input| {
        let mut half = state();
        let (before, was_settled) = (send_outcome(&half), half.is_settled());
        input(&mut half);
        let said = said(&mut half);
        assert!(!half.has_output());
        cell(&said, &before, &send_outcome(&half), half.is_settled() && !was_settled)
    });
    assert!(PAGE.contains(&shown), "docs/wire.md lacks this table:\n{shown}");
}

fn told(half: &mut ReceiveHalf) -> Vec<&'static str> {
    let mut told = Vec::new();
    while let Some(output) = half.poll_output() {
        told.push(match output {
            ReceiveOutput::Accept { .. } => "ACCEPT",
            ReceiveOutput::Resumed(_) => "RESUMED",
            ReceiveOutput::Credit(credit) if credit.finished => "CREDIT (finished)",
            ReceiveOutput::Credit(_) => "CREDIT",
            ReceiveOutput::Reclaim(_) => "RECLAIM",
            ReceiveOutput::Abort(_) => "ABORT",
            ReceiveOutput::EndAck => "END_ACK",
        });
    }
    told
}

fn accepted() -> ReceiveHalf {
    let mut half = ReceiveHalf::new(1, 100, 100);
    told(&mut half);
    half
}

fn all_has_come() -> ReceiveHalf {
    let mut half = accepted();
    half.handle_data(&DataHeader { epoch: 1, fin: true, ..at(0) }, ended(&[9]));
    told(&mut half);
    half
}

fn finished() -> ReceiveHalf {
    let mut half = all_has_come();
    assert_eq!((half.read(), half.read()), (Read::Message(message(9)), Read::End));
    told(&mut half);
    half
}

fn cancelled() -> ReceiveHalf {
    let mut half = accepted();
    half.cancel(Code::Cancelled, "enough");
    told(&mut half);
    half
}

fn lost(mut half: ReceiveHalf) -> ReceiveHalf {
    half.handle_path_lost();
    half
}

fn known() -> ReceiveHalf {
    let mut half = cancelled();
    half.handle_end_ack();
    half
}

const RECEIVE_STATES: [ReceiveState; 8] = [
    ("open", accepted),
    ("all has come", all_has_come),
    ("finished", finished),
    ("cancelled", cancelled),
    ("suspended", || lost(all_has_come())),
    ("suspended, finished", || lost(finished())),
    ("suspended, cancelled", || lost(cancelled())),
    ("over", known),
];

const RECEIVE_INPUTS: [ReceiveInput; 13] = [
    ("the application reads to the end", |half| while matches!(half.read(), Read::Message(_)) {}),
    ("the application cancels", |half| {
        let _ = half.cancel(Code::Cancelled, "enough");
    }),
    ("DATA", |half| {
        let _ = half.handle_data(&DataHeader { epoch: 1, ..at(0) }, encoded(&[9]).freeze());
    }),
    ("DATA (FIN) with the end mark", |half| {
        half.handle_data(&DataHeader { epoch: 1, fin: true, ..at(0) }, ended(&[9]));
    }),
    ("DATA beyond a gap", |half| {
        let _ = half.handle_data(&DataHeader { epoch: 1, ..at(99) }, message(1));
    }),
    ("DATA of an older epoch", |half| {
        let _ = half.handle_data(&at(99), message(1));
    }),
    ("WANT for nothing new", |half| half.handle_want(0)),
    ("LIMIT that was not asked for", |half| {
        let _ = half.handle_limit(&Limit { stream: 0, epoch: 1, limit: 0 });
    }),
    ("RESUME", |half| {
        let _ = half.handle_asked(Asked::Resume, 2);
    }),
    ("RESUME of an older epoch", |half| assert!(!half.handle_asked(Asked::Resume, 1))),
    ("ABORT", |half| half.handle_abort(Code::ProducerGone, "theirs".to_owned())),
    ("ABORT of the path, or its loss", ReceiveHalf::handle_path_lost),
    ("END_ACK", ReceiveHalf::handle_end_ack),
];

fn receive_outcome(half: &ReceiveHalf) -> String {
    match half.aborted() {
        None if half.is_finished() => "finished".to_owned(),
        None => String::new(),
        Some(why) if why.text == "enough" => "cancelled".to_owned(),
        Some(why) if why.text == "theirs" => "ended".to_owned(),
        Some(why) => why.code.to_string(),
    }
}

#[test]
fn docs_wire_md_has_what_every_input_does_to_every_state_of_the_consumers_end() {
    let shown = table("input \\ state", &RECEIVE_STATES, &RECEIVE_INPUTS, |state, input| {
        let mut half = state();
        let (before, was_settled) = (receive_outcome(&half), half.is_settled());
        input(&mut half);
        let told = told(&mut half);
        assert!(!half.has_output());
        cell(&told, &before, &receive_outcome(&half), half.is_settled() && !was_settled)
    });
    assert!(PAGE.contains(&shown), "docs/wire.md lacks this table:\n{shown}");
}
