//! A message to oneself, through the local node.
//!
//! ```text
//! TRUNKLINE_SOCKET=/run/trunkline/local.sock cargo run --example hello
//! ```

use trunkline::{Attachment, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let attachment = Attachment::connect_local().await?;
    let job = attachment.job("hello", "1")?;
    let mut consumer = job.consumer("world")?.bind().await?;
    let mut sender = job.producer("me")?.open(consumer.address()).await?;
    let mut receiver = consumer.accept().await?;
    sender.send("hello, world".into()).await?;
    let receiving = async {
        while let Some(message) = receiver.recv().await? {
            println!("{}: {}", receiver.producer(), String::from_utf8_lossy(&message));
        }
        Ok(())
    };
    tokio::try_join!(receiving, sender.finish())?;
    attachment.close().await
}
