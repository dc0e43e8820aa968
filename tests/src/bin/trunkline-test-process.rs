//! A user's process for tests that kill one. See `trunkline_tests::process`.
//!
//! `produce` opens a stream, sends `messages` of `bytes` each, and then finishes or, with `then=wait`, waits for ever or,
//! with `then=send`, sends until others end the stream. `consume` binds a name, takes one stream, reads `messages` of it
//! or all, and waits for ever.
//! Each step is a line on the standard output; an error of a stream is `error CODE OFFSET TEXT`.

use std::{collections::HashMap, env, process::ExitCode};

use trunkline::{Attachment, Bytes, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let role = arguments.next().unwrap_or_default();
    let given = Given(arguments.filter_map(|argument| argument.split_once('=').map(own)).collect());
    let done = match role.as_str() {
        "produce" => produce(&given).await,
        "consume" => consume(&given).await,
        _ => panic!("the role is produce or consume, not {role:?}"),
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
    let mut receiver = consumer.accept().await?;
    println!("accepted {}", receiver.producer().name);
    let mut left = given.number("messages").unwrap_or(usize::MAX);
    let mut bytes = 0;
    while left > 0
        && let Some(message) = receiver.recv().await?
    {
        left -= 1;
        bytes += message.len();
    }
    println!("consumed {bytes}");
    std::future::pending().await
}
