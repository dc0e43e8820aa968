//! What `recv` says at its end: of each producer, how far its stream came and how it ended.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use trunkline::{Error, ProducerInfo, RunId};

use super::{WriteError, names};
use crate::failure::Failure;

/// How a stream ended here.
#[derive(Debug)]
pub(super) enum End {
    /// Cleanly, everything written.
    Finished,
    /// By its producer, a node, or the link.
    Lost(Error),
    /// By this program, which could not write what it received.
    Unwritten(WriteError),
    /// By this program, for this reason.
    Cancelled(String),
}

/// One producer's stream.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) producer: Arc<ProducerInfo>,
    /// Written.
    pub(super) messages: u64,
    /// Written, newlines not counted.
    pub(super) bytes: u64,
    pub(super) end: End,
}

impl Received {
    pub(super) fn new(producer: &Arc<ProducerInfo>) -> Self {
        Self { producer: Arc::clone(producer), messages: 0, bytes: 0, end: End::Cancelled(String::new()) }
    }

    fn to_json(&self) -> Value {
        let lost = match &self.end {
            End::Finished => Value::Null,
            End::Lost(error) => json!({
                "code": error.code().map(trunkline::Code::word),
                "offset": error.offset(),
                "message": error.to_string(),
            }),
            End::Unwritten(_) | End::Cancelled(_) => {
                let why = match &self.end {
                    End::Cancelled(why) => why.clone(),
                    End::Unwritten(error) => error.to_string(),
                    End::Finished | End::Lost(_) => String::new(),
                };
                json!({ "code": "cancelled", "offset": null, "message": why })
            }
        };
        json!({
            "producer": self.producer.name.as_str(),
            "node": self.producer.node.as_str(),
            "incarnation": self.producer.incarnation.to_string(),
            "stream": self.producer.number,
            "messages": self.messages,
            "bytes": self.bytes,
            "finished": matches!(self.end, End::Finished),
            "lost": lost,
        })
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Report {
    /// Once it is bound.
    pub(super) address: Option<String>,
    /// How many producers are waited for.
    pub(super) expected: u32,
    /// How many came.
    pub(super) accepted: u32,
    /// Those whose stream has ended, in that order.
    pub(super) producers: Vec<Received>,
    /// Why no more could come.
    pub(super) bind_ended: Option<Error>,
}

impl Report {
    pub(super) fn new(expected: u32) -> Self {
        Self { address: None, expected, accepted: 0, producers: Vec::new(), bind_ended: None }
    }

    /// Whether each expected producer came and ended cleanly.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let lost: Vec<_> = self.producers.iter().filter(|received| !matches!(received.end, End::Finished)).collect();
        let mut why = Vec::new();
        if let [Received { end: End::Lost(error), .. }] = lost[..] {
            why.push(error.to_string());
        } else if !lost.is_empty() {
            let (count, names) = (lost.len(), names(lost.iter().copied()));
            why.push(format!("{count} of {} streams did not end cleanly: {names}", self.expected));
        }
        if let Some(error) = &self.bind_ended {
            let missing = self.expected - self.accepted;
            why.push(format!("{missing} of {} producers had not come yet: {error}", self.expected));
        }
        if why.is_empty() { Ok(()) } else { Err(Failure::Incomplete { why: why.join("; ") }) }
    }

    pub(super) fn to_json(&self, run: &RunId, elapsed: Duration, failure: Option<&Failure>) -> Value {
        json!({
            "address": self.address,
            "run": run.as_str(),
            "expected": self.expected,
            "missing": self.expected - self.accepted,
            "messages": self.producers.iter().map(|received| received.messages).sum::<u64>(),
            "bytes": self.producers.iter().map(|received| received.bytes).sum::<u64>(),
            "seconds": elapsed.as_secs_f64(),
            "producers": self.producers.iter().map(Received::to_json).collect::<Vec<_>>(),
            "error": failure.map(Failure::to_json),
        })
    }
}
