//! A message to oneself, through the local node.
//!
//! ```text
//! cargo run --example hello -- /run/trunkline/local.sock
//! ```

use std::env;

use trunkline::{Attachment, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let socket = env::args().nth(1).or_else(|| env::var("TRUNKLINE_SOCKET").ok());
    let Some(socket) = socket else {
        eprintln!("usage: hello SOCKET (or set TRUNKLINE_SOCKET)");
        std::process::exit(2);
    };

    let attachment = Attachment::connect(socket).await?;
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
