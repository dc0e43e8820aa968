//! A user's process for tests that kill or block one. See `trunkline_tests::process`.
//!
//! `produce` opens a stream, sends `messages` of `bytes` each, and then finishes or, with `then=wait`, waits for ever or,
//! with `then=send`, sends until others end the stream. `consume` binds a name, takes one stream, or `streams`, reads
//! `messages` of each or all, and waits for ever or, with `then=close`, closes the consumer and exits in the same moment.
//! `block` binds a name, takes one stream and reads its first message; it opens a stream and sends `messages` of `bytes`
//! each; then it blocks its only thread until it is given a line on its standard input, and finishes both streams.
//! `exchange` is one `member` of an all-to-all exchange among those whose `nodes` are given, with the smallest budgets.
//!
//! `crowd-send` and `crowd-receive` are described in `trunkline_tests::crowd`.
//!
//! Each step is a line on the standard output; an error of a stream is `error CODE OFFSET TEXT`.

use std::{
    collections::HashMap,
    env, io,
    process::{self, ExitCode},
};

use tokio::task::JoinSet;
use trunkline::{Attachment, Bytes, Error, Receiver};
use trunkline_tests::{
    crowd::{self, Crowd},
    exchange::{AllToAll, smallest_budgets},
    payload::{self, Digest},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let role = arguments.next().unwrap_or_default();
    let given = Given(arguments.filter_map(|argument| argument.split_once('=').map(own)).collect());
    let done = match role.as_str() {
        "produce" => produce(&given).await,
        "consume" => consume(&given).await,
        "block" => block(&given).await,
        "exchange" => exchange(&given).await,
        "crowd-send" => crowd_send(&given).await,
        "crowd-receive" => crowd_receive(&given).await,
        _ => panic!("the role is produce, consume, block, exchange, crowd-send or crowd-receive, not {role:?}"),
    };
    if let Err(error) = done {
        let code = error.code().map_or_else(|| "-".to_owned(), |code| code.to_string());
        println!("error {code} {} {error}", error.offset().unwrap_or_default());
    }
    ExitCode::SUCCESS
}

fn own((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

struct Given(HashMap<String, String>);

impl Given {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("{name}=… is missing"))
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.0.get(name).map(|number| number.parse().unwrap_or_else(|_| panic!("{name}={number} is no number")))
    }
}

async fn produce(given: &Given) -> Result<(), Error> {
    let attachment = Attachment::connect(given.text("socket")).await?;
    let producer = attachment.job(given.text("job"), given.text("run"))?.producer(given.text("producer"))?;
    println!("attached {}", producer.incarnation());
    let mut sender = producer.open(given.text("address")).await?;
    println!("opened");
    let message = Bytes::from(vec![7; given.number("bytes").unwrap_or(1)]);
    for _ in 0..given.number("messages").unwrap_or_default() {
        sender.send(message.clone()).await?;
    }
    sender.flush().await?;
    println!("sent {}", sender.sent_bytes());
    match given.0.get("then").map_or("finish", String::as_str) {
        "finish" => sender.finish().await?,
        "wait" => std::future::pending().await,
        "send" => loop {
            sender.send(message.clone()).await?;
        },
        other => panic!("then={other} is not known"),
    }
    println!("finished");
    attachment.close().await
}

async fn consume(given: &Given) -> Result<(), Error> {
    let attachment = Attachment::connect(given.text("socket")).await?;
    let job = attachment.job(given.text("job"), given.text("run"))?;
    let mut consumer = job.consumer(given.text("consumer"))?.bind().await?;
    println!("bound");
    let mut reading = JoinSet::new();
    let messages = given.number("messages").unwrap_or(usize::MAX);
    for _ in 0..given.number("streams").unwrap_or(1) {
        let receiver = consumer.accept().await?;
        println!("accepted {}", receiver.producer().name);
        reading.spawn(read(receiver, messages));
    }
    let mut bytes = 0;
    // Those that were not read to their end stay open.
    let mut receivers = Vec::new();
    while let Some(read) = reading.join_next().await {
        let (receiver, length) = read.expect("no task panics")?;
        bytes += length;
        receivers.push(receiver);
    }
    println!("consumed {bytes}");
    match given.0.get("then").map_or("wait", String::as_str) {
        "wait" => std::future::pending().await,
        "close" => {
            let left = consumer.close().await?;
            println!("closed {} {}", left.refused, left.unfinished);
            // Nothing is dropped, and so nothing can linger: what was not handed over by now is lost.
            process::exit(0);
        }
        other => panic!("then={other} is not known"),
    }
}

/// Reads so many messages, or all; returns the receiver and how many bytes they were.
async fn read(mut receiver: Receiver, messages: usize) -> Result<(Receiver, usize), Error> {
    let (mut left, mut bytes) = (messages, 0);
    while left > 0
        && let Some(message) = receiver.recv().await?
    {
        left -= 1;
        bytes += message.len();
    }
    Ok((receiver, bytes))
}

async fn block(given: &Given) -> Result<(), Error> {
    let attachment = Attachment::connect(given.text("socket")).await?;
    let job = attachment.job(given.text("job"), given.text("run"))?;
    let mut consumer = job.consumer(given.text("consumer"))?.bind().await?;
    println!("bound");
    let mut sender = job.producer(given.text("producer"))?.open(given.text("address")).await?;
    let mut receiver = consumer.accept().await?;
    let mut received = Digest::default();
    if let Some(first) = receiver.recv().await? {
        received.add(&first);
    }
    for _ in 0..given.number("messages").unwrap_or_default() {
        sender.send(Bytes::from(vec![7; given.number("bytes").unwrap_or(1)])).await?;
    }
    println!("blocked");
    io::stdin().read_line(&mut String::new()).expect("standard input can be read");
    println!("unblocked");
    while let Some(message) = receiver.recv().await? {
        received.add(&message);
    }
    println!("received {received:?}");
    sender.finish().await?;
    println!("finished");
    attachment.close().await
}

async fn exchange(given: &Given) -> Result<(), Error> {
    let number = |name| given.number(name).unwrap_or_else(|| panic!("{name}=… is missing"));
    let all = AllToAll {
        job: given.text("job").to_owned(),
        nodes: given.text("nodes").split(',').map(str::to_owned).collect(),
        messages: number("messages"),
        length_max: number("bytes"),
        seed: given.text("seed").parse().expect("the seed is a number"),
    };
    let attachment = smallest_budgets(all.length_max).connect(given.text("socket")).await?;
    let bytes = all.take_part(&attachment, number("member")).await?;
    println!("exchanged {bytes}");
    attachment.close().await
}

fn crowd(given: &Given) -> Crowd {
    let number = |name| given.number(name).unwrap_or_default();
    Crowd {
        awake: number("awake"),
        awake_messages: number("awake_messages"),
        asleep: number("asleep"),
        asleep_messages: number("asleep_messages"),
        bytes: number("bytes"),
        seed: payload::seed(),
    }
}

async fn crowd_send(given: &Given) -> Result<(), Error> {
    let attachment = Attachment::connect(given.text("socket")).await?;
    let job = attachment.job(given.text("job"), given.text("run"))?;
    crowd::send(attachment, &job, given.text("node"), crowd(given)).await
}

async fn crowd_receive(given: &Given) -> Result<(), Error> {
    let mut builder = Attachment::builder();
    if let Some(bytes) = given.number("receive_budget_bytes") {
        builder = builder.receive_budget_bytes(bytes as u64);
    }
    let attachment = builder.connect(given.text("socket")).await?;
    let job = attachment.job(given.text("job"), given.text("run"))?;
    crowd::receive(attachment, &job, crowd(given)).await
}
