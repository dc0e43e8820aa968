//! Many streams from one process to another: what `trunkline-test-process` does as `crowd-send` and `crowd-receive`.
//!
//! The receiving process binds two consumers: `awake` reads whatever comes, `asleep` only when it is told; until then
//! it waits for the first message of each stream, so that it is let in however long it is, and takes none. The sending
//! process opens streams to both, and begins when it is told. Words come as lines on the standard input:
//!
//! | word | to | what is done, and said |
//! | --- | --- | --- |
//! | `fill`, `go` | the sender | it sends to `asleep`, to `awake`; says `asleep …`, `awake …` when all of these streams are over |
//! | `waiting` | the sender | `waiting N BYTES`: sends to `asleep` that wait now, and what the send budget holds |
//! | `abort` | the sender | it gives up the streams to `asleep` whose send waits |
//! | `read` | the receiver | it reads the streams to `asleep`; says `asleep …` when all of them are over |
//! | `cancel` | the receiver | it cancels the streams to `asleep`, and takes as many once more |
//! | `lost` | the receiver | `lost N`: streams that it knows to have ended unfinished, read or not |
//!
//! How streams ended is said in one line, alike at both ends when the same bytes were sent and received.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use futures_util::future;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use trunkline::{Attachment, Code, Error, Job, Receiver, Sender};

use crate::payload::{Digest, Payload, Random};

/// The consumer that reads at once, and the producers that send to it.
pub const AWAKE: &str = "awake";
/// The consumer that reads when it is told, and the producers that send to it.
pub const ASLEEP: &str = "asleep";
/// Words that wait for a process to act on them.
const WORDS_MAX: usize = 16;

/// How many streams, and what they carry.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// Streams to `awake`.
    pub awake: usize,
    /// Messages on each of them.
    pub awake_messages: usize,
    /// Streams to `asleep`.
    pub asleep: usize,
    /// Messages on each of them.
    pub asleep_messages: usize,
    /// How long each message is.
    pub bytes: usize,
    /// Which bytes they are.
    pub seed: u64,
}

/// How a stream ended: with everything, or why not.
type End = Result<Digest, String>;

/// One stream of a group, by its producer's name.
type Named = (&'static str, String, End);

/// Sends to the consumers at `node` until the standard input ends.
///
/// # Errors
/// What an open or the end of the attachment came to.
///
/// # Panics
/// For a word that is not in the table.
pub async fn send(attachment: Attachment, job: &Job, node: &str, crowd: Crowd) -> Result<(), Error> {
    let mut words = words();
    let mut groups = BTreeMap::new();
    for (name, count) in [(AWAKE, crowd.awake), (ASLEEP, crowd.asleep)] {
        let mut senders = Vec::new();
        for number in 0..count {
            let producer = job.producer(format!("{name}-{number}"))?;
            senders.push(producer.open(format!("{}/{name}@{node}", job.id().name)).await?);
        }
        groups.insert(name, senders);
    }
    println!("opened");
    let (waiting, (give_up, given_up)) = (Arc::new(AtomicUsize::new(0)), watch::channel(false));
    let (mut sending, mut ends) = (JoinSet::new(), Ends::default());
    loop {
        tokio::select! {
            word = words.recv() => match word.as_deref() {
                Some(word @ ("fill" | "go")) => {
                    let name = if word == "fill" { ASLEEP } else { AWAKE };
                    for (number, sender) in groups.remove(name).into_iter().flatten().enumerate() {
                        let (payload, waiting) = (payload(crowd, name, number), Arc::clone(&waiting));
                        let given_up = given_up.clone();
                        sending.spawn(async move {
                            let end = send_one(sender, payload, &waiting, given_up).await;
                            (name, format!("{name}-{number}"), end)
                        });
                    }
                }
                Some("waiting") => {
                    let held = attachment.metrics().send_budget_used_bytes;
                    println!("waiting {} {held}", waiting.load(Ordering::Relaxed));
                }
                Some("abort") => drop(give_up.send_replace(true)),
                Some(word) => panic!("{word:?} is not known"),
                None => return attachment.close().await,
            },
            Some(done) = sending.join_next() => ends.add(done.expect("no task panics"), crowd),
        }
    }
}

/// What stream number `number` of a group carries.
fn payload(crowd: Crowd, name: &str, number: usize) -> Payload {
    let messages = if name == AWAKE { crowd.awake_messages } else { crowd.asleep_messages };
    let purpose = number as u64 * 2 + u64::from(name == AWAKE);
    Payload::new(Random::new(crowd.seed, purpose), vec![crowd.bytes; messages])
}

/// Sends everything and finishes, unless it is to be given up; counts itself while it waits.
async fn send_one(
    mut sender: Sender,
    mut payload: Payload,
    waiting: &AtomicUsize,
    mut given_up: watch::Receiver<bool>,
) -> End {
    for message in payload.by_ref() {
        let sent = {
            let mut sending = pin!(sender.send(message));
            if let Some(sent) = future::poll_immediate(sending.as_mut()).await {
                Some(sent)
            } else {
                waiting.fetch_add(1, Ordering::Relaxed);
                let sent = tokio::select! {
                    sent = sending => Some(sent),
                    _ = given_up.wait_for(|given_up| *given_up) => None,
                };
                waiting.fetch_sub(1, Ordering::Relaxed);
                sent
            }
        };
        match sent {
            Some(sent) => sent.map_err(|error| code(&error))?,
            None => {
                sender.abort("the producer has seen enough");
                return Err("given up".to_owned());
            }
        }
    }
    sender.finish().await.map_err(|error| code(&error))?;
    Ok(payload.digest())
}

/// Receives until the standard input ends.
///
/// # Errors
/// What a bind, or the end of one, came to.
///
/// # Panics
/// For a word that is not in the table.
pub async fn receive(attachment: Attachment, job: &Job, crowd: Crowd) -> Result<(), Error> {
    let mut words = words();
    let bind = async |name| job.consumer(name)?.accept_backlog(crowd.awake + crowd.asleep).bind().await;
    let (mut awake, mut asleep) = (bind(AWAKE).await?, bind(ASLEEP).await?);
    println!("bound");
    let mut sleeping = Vec::new();
    let (mut reading, mut ends) = (JoinSet::new(), Ends::default());
    loop {
        tokio::select! {
            receiver = awake.accept() => drop(reading.spawn(read_one(AWAKE, receiver?))),
            receiver = asleep.accept() => {
                let mut receiver = receiver?;
                // A message longer than its stream's window is let in once somebody waits for it. It is not read.
                let _ = future::poll_immediate(pin!(receiver.readable())).await;
                sleeping.push(receiver);
                if sleeping.len() == crowd.asleep {
                    println!("accepted");
                }
            }
            word = words.recv() => match word.as_deref() {
                Some("read") => for receiver in sleeping.drain(..) {
                    reading.spawn(read_one(ASLEEP, receiver));
                },
                Some("cancel") => {
                    sleeping.drain(..).for_each(|receiver| receiver.cancel("the consumer has seen enough"));
                    println!("cancelled");
                }
                Some("lost") => println!("lost {}", attachment.metrics().receives_lost),
                Some(word) => panic!("{word:?} is not known"),
                None => return attachment.close().await,
            },
            Some(done) = reading.join_next() => ends.add(done.expect("no task panics"), crowd),
        }
    }
}

async fn read_one(group: &'static str, mut receiver: Receiver) -> Named {
    let (name, mut digest) = (receiver.producer().name.to_string(), Digest::default());
    let end = loop {
        match receiver.recv().await {
            Ok(Some(message)) => digest.add(&message),
            Ok(None) => break Ok(digest),
            Err(error) => break Err(format!("{} after {} messages", code(&error), digest.messages)),
        }
    };
    (group, name, end)
}

fn code(error: &Error) -> String {
    error.code().as_ref().map_or_else(|| error.to_string(), Code::to_string)
}

/// How the streams of both groups ended, those that have.
#[derive(Debug, Default)]
struct Ends(BTreeMap<&'static str, BTreeMap<String, End>>);

impl Ends {
    /// One more. The last one of its group is followed by the line that says how all did.
    fn add(&mut self, (group, name, end): Named, crowd: Crowd) {
        let ends = self.0.entry(group).or_default();
        ends.insert(name, end);
        if ends.len() == if group == AWAKE { crowd.awake } else { crowd.asleep } {
            println!("{group} {}", summary(ends));
            ends.clear();
        }
    }
}

/// `N finished, SHA-256 of them`, and how many ended in which other way.
fn summary(ends: &BTreeMap<String, End>) -> String {
    let (mut all, mut finished, mut others) = (Digest::default(), 0, BTreeMap::<&str, usize>::new());
    for (name, end) in ends {
        match end {
            Ok(digest) => {
                finished += 1;
                all.add(format!("{name} {digest:?}").as_bytes());
            }
            Err(why) => *others.entry(why).or_default() += 1,
        }
    }
    let finished = (finished > 0).then(|| format!("{finished} finished {}", all.sha256()));
    let others = others.iter().map(|(why, count)| format!("{count} {why}"));
    finished.into_iter().chain(others).collect::<Vec<_>>().join(", ")
}

/// The lines of the standard input, read on a thread of its own.
fn words() -> mpsc::Receiver<String> {
    let (said, words) = mpsc::channel(WORDS_MAX);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if said.blocking_send(line).is_err() {
                return;
            }
        }
    });
    words
}
