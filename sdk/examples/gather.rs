//! Several producers and one consumer, which takes their messages as they come. One producer gives up: the others go on.
//!
//! ```text
//! TRUNKLINE_SOCKET=/run/trunkline/local.sock cargo run --example gather
//! ```

use trunkline::{Attachment, ConsumerAddress, Error, Expected, Gathered, Producer};

const PRODUCERS: usize = 4;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let attachment = Attachment::connect_local().await?;
    let job = attachment.job("gather", "1")?;
    let names: Vec<String> = (0..PRODUCERS).map(|number| format!("map-{number}")).collect();
    let consumer = job.consumer("reduce")?.bind().await?;
    let address = consumer.address();
    let mut gather = consumer.gather(Expected::names(&names)?);

    // On a cluster these are processes of their own, on all nodes.
    let mut producers = Vec::new();
    for (number, name) in names.iter().enumerate() {
        producers.push(tokio::spawn(produce(job.producer(name)?, address.clone(), number)));
    }

    while let Some(gathered) = gather.next().await {
        match gathered? {
            Gathered::Message { producer, message } => println!("{producer}: {}", String::from_utf8_lossy(&message)),
            Gathered::Lost(lost) => println!("lost {lost}"),
        }
    }
    println!("{} finished, {} lost", gather.finished(), gather.lost());
    for producer in producers {
        if let Err(error) = producer.await.expect("no task panics") {
            println!("{error}");
        }
    }
    drop(gather);
    attachment.close().await
}

async fn produce(producer: Producer, reducer: ConsumerAddress, number: usize) -> Result<(), Error> {
    let mut sender = producer.open(reducer).await?;
    if number == 2 {
        // Told at once: it would overtake what is on its way.
        sender.abort("my disk is full");
        return Ok(());
    }
    for result in 1..=3 {
        sender.send(format!("result {result}").into()).await?;
    }
    sender.finish().await
}
