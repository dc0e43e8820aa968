//! One producer and several consumers: it opens to all of them at once, deals the work out by index, and tells all of them
//! the same at the end.
//!
//! ```text
//! TRUNKLINE_SOCKET=/run/trunkline/local.sock cargo run --example scatter
//! ```

use trunkline::{Attachment, ConsumerAddress, Error, Receiver};

const CONSUMERS: usize = 3;
const TASKS: usize = 7;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let attachment = Attachment::connect_local().await?;
    let job = attachment.job("scatter", "1")?;

    // On a cluster these are processes of their own, on all nodes.
    let mut addresses: Vec<ConsumerAddress> = Vec::new();
    let mut workers = Vec::new();
    for number in 0..CONSUMERS {
        let mut consumer = job.consumer(format!("worker-{number}"))?.bind().await?;
        addresses.push(consumer.address().clone());
        workers.push(tokio::spawn(async move { work(number, consumer.accept().await?).await }));
    }

    let mut scatter = job.producer("source")?.scatter(addresses).await?;
    for task in 0..TASKS {
        scatter.send(task % CONSUMERS, format!("task {task}").into()).await?;
    }
    let mut lost = scatter.broadcast("that was all".into()).await;
    lost.extend(scatter.finish().await);
    for (index, error) in lost {
        println!("worker-{index}: {error}");
    }
    for worker in workers {
        worker.await.expect("no task panics")?;
    }
    attachment.close().await
}

async fn work(number: usize, mut receiver: Receiver) -> Result<(), Error> {
    while let Some(message) = receiver.recv().await? {
        println!("worker-{number}: {}", String::from_utf8_lossy(&message));
    }
    Ok(())
}
