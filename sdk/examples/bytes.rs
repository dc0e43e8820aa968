//! A file copied through a stream, as bytes: to oneself, through the local node.
//!
//! ```text
//! cargo run --example bytes -- FROM TO /run/trunkline/local.sock
//! ```

use std::{env, io};

use tokio::{fs::File, io::AsyncWriteExt as _};
use trunkline::{Attachment, Receiver, Sender};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let (from, to) = (arguments.next(), arguments.next());
    let socket = arguments.next().or_else(|| env::var("TRUNKLINE_SOCKET").ok());
    let (Some(from), Some(to), Some(socket)) = (from, to, socket) else {
        eprintln!("usage: bytes FROM TO SOCKET (or set TRUNKLINE_SOCKET)");
        std::process::exit(2);
    };

    let attachment = Attachment::connect(socket).await?;
    let job = attachment.job("bytes", "1")?;
    let mut consumer = job.consumer("file")?.bind().await?;
    let sender = job.producer("me")?.open(consumer.address()).await?;
    let receiver = consumer.accept().await?;
    let (sent, received) = tokio::try_join!(send(&from, sender), receive(receiver, &to))?;
    println!("{sent} bytes sent, {received} received");
    consumer.close().await?;
    attachment.close().await?;
    Ok(())
}

/// Returns once the other end has consumed everything, the end included.
async fn send(from: &str, mut sender: Sender) -> io::Result<u64> {
    let mut file = File::open(from).await?;
    let bytes = tokio::io::copy(&mut file, &mut sender).await?;
    sender.shutdown().await?;
    Ok(bytes)
}

/// The end of the bytes is the sender's `shutdown`: a copy that was cut short is an error.
async fn receive(mut receiver: Receiver, to: &str) -> io::Result<u64> {
    let mut file = File::create(to).await?;
    let bytes = tokio::io::copy(&mut receiver, &mut file).await?;
    file.flush().await?;
    Ok(bytes)
}
