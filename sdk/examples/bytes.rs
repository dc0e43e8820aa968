//! A file copied through a stream, as bytes: to oneself, through the local node. Without arguments, this program's own
//! file is copied to where the copy is compared and removed.
//!
//! ```text
//! TRUNKLINE_SOCKET=/run/trunkline/local.sock cargo run --example bytes -- FROM TO
//! ```

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use tokio::{fs::File, io::AsyncWriteExt as _};
use trunkline::{Attachment, Receiver, Sender};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    match (arguments.next(), arguments.next()) {
        (Some(from), Some(to)) => copy(&from, &to).await,
        _ => {
            let (from, to) = (env::current_exe()?, env::temp_dir().join(format!("bytes-{}", std::process::id())));
            copy(&from, &to).await?;
            assert!(fs::read(&from)? == fs::read(&to)?, "the copy is another");
            fs::remove_file(&to)
        }
    }
}

async fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let attachment = Attachment::connect_local().await?;
    let job = attachment.job("bytes", "1")?;
    let mut consumer = job.consumer("file")?.bind().await?;
    let sender = job.producer("me")?.open(consumer.address()).await?;
    let receiver = consumer.accept().await?;
    let (sent, received) = tokio::try_join!(send(from, sender), receive(receiver, to))?;
    println!("{sent} bytes sent, {received} received");
    consumer.close().await?;
    attachment.close().await?;
    Ok(())
}

/// Returns once the other end has consumed everything, the end included.
async fn send(from: &Path, mut sender: Sender) -> io::Result<u64> {
    let mut file = File::open(from).await?;
    let bytes = tokio::io::copy(&mut file, &mut sender).await?;
    sender.shutdown().await?;
    Ok(bytes)
}

/// The end of the bytes is the sender's `shutdown`: a copy that was cut short is an error.
async fn receive(mut receiver: Receiver, to: &Path) -> io::Result<u64> {
    let mut file = File::create(to).await?;
    let bytes = tokio::io::copy(&mut receiver, &mut file).await?;
    file.flush().await?;
    Ok(bytes)
}
