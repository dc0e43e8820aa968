//! Messages that are longer than what the consumer's process lets all its streams hold: each is let in whole, one after
//! another, from a pool for long messages.
//!
//! ```text
//! TRUNKLINE_SOCKET=/run/trunkline/local.sock cargo run --example large
//! ```

use trunkline::{Attachment, Bytes, Error, ErrorKind, Expected, Gathered};

const MIB: usize = 1 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // All streams together may hold 1 MiB here, and one message at a time up to 16 MiB beside it.
    let attachment =
        Attachment::builder().receive_budget_bytes(MIB as u64).message_bytes_max(16 * MIB).connect_local().await?;
    let job = attachment.job("large", "1")?;
    let consumer = job.consumer("archive")?.bind().await?;
    let address = consumer.address();
    let mut gather = consumer.gather(Expected::Count(8));

    let message = Bytes::from(vec![7; 16 * MIB]);
    let mut sending = tokio::task::JoinSet::new();
    for number in 1..=8 {
        let producer = job.producer(format!("camera-{number}"))?;
        let (address, message) = (address.clone(), message.clone());
        sending.spawn(async move {
            let mut sender = producer.open(address).await?;
            // One byte more than both ends agreed on is refused, and the stream is as before.
            match sender.send(Bytes::from(vec![0; 16 * MIB + 1])).await {
                Err(error) if error.kind() == ErrorKind::MessageTooLarge => {}
                other => panic!("a message beyond the limit: {other:?}"),
            }
            sender.send(message).await?;
            sender.finish().await
        });
    }
    while let Some(gathered) = gather.next().await {
        match gathered? {
            Gathered::Message { producer, message } => println!("{producer}: {} MiB", message.len() / MIB),
            Gathered::Lost(lost) => println!("{lost}"),
        }
    }
    while let Some(sent) = sending.join_next().await {
        sent.expect("no task panics")?;
    }
    drop(gather);
    attachment.close().await
}
