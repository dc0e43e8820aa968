//! `trunkline send`: an input becomes a stream.

mod input;

use std::{process, time::Instant};

use serde_json::json;
use tokio::select;
use trunkline::{NodeId, Sender};

pub(crate) use self::input::InputError;
use self::input::{Framing, Input, Source};
use crate::{
    arguments::SendArguments,
    attach::{attach, close, job},
    failure::Failure,
    interrupt::Interrupt,
    output::print,
    progress::Progress,
};

/// How far a sending came.
#[derive(Debug, Default)]
struct Sent {
    node: Option<NodeId>,
    producer: String,
    messages: u64,
    bytes: u64,
}

/// Sends the input, and returns when the consumer has consumed all of it.
pub(crate) async fn run(arguments: &SendArguments, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let begin = Instant::now();
    let producer = arguments.producer.as_ref().map_or_else(|| format!("send-{}", process::id()), ToString::to_string);
    let mut sent = Sent { producer, ..Sent::default() };
    let done = send(arguments, interrupt, &mut sent).await;
    if arguments.json {
        let report = json!({
            "address": arguments.address.to_string(),
            "run": arguments.end.run.as_str(),
            "producer": sent.producer,
            "node": sent.node.as_ref().map(NodeId::as_str),
            "messages": sent.messages,
            "bytes": sent.bytes,
            "seconds": begin.elapsed().as_secs_f64(),
            "finished": done.is_ok(),
            "error": done.as_ref().err().map(Failure::to_json),
        });
        // What failed first is what is reported.
        return done.and(print(&format!("{report}\n")));
    }
    done
}

async fn send(arguments: &SendArguments, interrupt: &mut Interrupt, sent: &mut Sent) -> Result<(), Failure> {
    let source = Source::open(arguments.file.as_deref())?;
    let progress = Progress::new(arguments.end.quiet, source.length());
    let attachment = interrupt.unless(attach(&arguments.end)).await??;
    sent.node = Some(attachment.node().clone());
    let producer = job(&attachment, &arguments.address.job, &arguments.end)?
        .producer(sent.producer.as_str())
        .map_err(Failure::NotReached)?;
    let opened = interrupt.unless(producer.open(&arguments.address)).await;
    let done = match opened {
        Ok(Ok(sender)) => {
            let framing = if arguments.lines { Framing::Lines } else { Framing::Blocks };
            transfer(sender, Input::start(source, framing)?, interrupt, &progress, sent).await
        }
        Ok(Err(error)) => Err(Failure::NotReached(error)),
        Err(interrupted) => Err(interrupted),
    };
    drop(producer);
    close(attachment, interrupt).await;
    done
}

async fn transfer(
    mut sender: Sender,
    mut input: Input,
    interrupt: &mut Interrupt,
    progress: &Progress,
    sent: &mut Sent,
) -> Result<(), Failure> {
    let copied = interrupt.unless(copy(&mut sender, &mut input, progress, sent)).await;
    if let Err(failure) = copied.and_then(|copied| copied) {
        // A stream that has ended already stays as it ended.
        sender.abort(&failure.to_string());
        return Err(failure);
    }
    interrupt.unless(sender.finish()).await?.map_err(Failure::Ended)
}

/// Sends what the input has, to its end.
async fn copy(sender: &mut Sender, input: &mut Input, progress: &Progress, sent: &mut Sent) -> Result<(), Failure> {
    loop {
        let messages = select! {
            messages = input.next() => messages?,
            // Nobody will take what the input may still bring.
            ended = sender.ended() => return ended.map_err(Failure::Ended),
        };
        let Some(messages) = messages else { return Ok(()) };
        for message in messages {
            let bytes = message.len() as u64;
            sender.send(message).await.map_err(Failure::Ended)?;
            sent.messages += 1;
            sent.bytes += bytes;
            progress.add(bytes);
        }
    }
}
