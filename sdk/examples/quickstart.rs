//! Sends three lines to the consumer whose address is given; without one, to itself.
//!
//! ```text
//! cargo run --example quickstart -- words/count@node-b
//! ```

use std::env;

use trunkline::{Attachment, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // TRUNKLINE_SOCKET, or else /run/trunkline/local.sock.
    let attachment = Attachment::connect_local().await?;
    let job = attachment.job("words", "default")?;
    match env::args().nth(1) {
        Some(address) => send(job.producer("program")?.open(address).await?).await?,
        None => {
            let mut consumer = job.consumer("myself")?.bind().await?;
            let sender = job.producer("program")?.open(consumer.address()).await?;
            let mut receiver = consumer.accept().await?;
            let receiving = async {
                while let Some(message) = receiver.recv().await? {
                    println!("{}", String::from_utf8_lossy(&message));
                }
                Ok(())
            };
            tokio::try_join!(send(sender), receiving)?;
        }
    }
    attachment.close().await
}

async fn send(mut sender: trunkline::Sender) -> Result<(), Error> {
    for line in ["one from a program", "two from a program", "three from a program"] {
        sender.send(line.into()).await?; // It waits for the consumer's credit.
    }
    sender.finish().await // The consumer has consumed all of them.
}
