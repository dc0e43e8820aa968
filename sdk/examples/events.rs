//! What happens to an attachment, printed as it happens: a consumer that does not read makes a send stall, and then gives
//! the stream up.
//!
//! ```text
//! TRUNKLINE_SOCKET=/run/trunkline/local.sock cargo run --example events
//! ```

use std::time::Duration;

use trunkline::{Attachment, Bytes, Error, Event};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let attachment = Attachment::builder()
        .retry_first_connect(Duration::from_secs(5))
        .stall_warn(Duration::from_millis(200))
        .connect_local()
        .await?;
    let mut events = attachment.events();

    let job = attachment.job("events", "1")?;
    let mut consumer = job.consumer("lazy")?.bind().await?;
    let mut sender = job.producer("eager")?.open(consumer.address()).await?;
    let receiver = consumer.accept().await?;
    let sending = tokio::spawn(async move {
        let message = Bytes::from(vec![0; 64 << 10]);
        while sender.send(message.clone()).await.is_ok() {}
    });

    // Taken out when the send has stalled: dropping a receiver cancels its stream.
    let mut receiver = Some(receiver);
    let mut attachment = Some(attachment);
    while let Some(event) = events.next().await {
        println!("{event}");
        match event {
            Event::Stalled(_) => drop(receiver.take()),
            // The stream is lost at both ends, and both are in this process; the first is enough here.
            Event::Lost(_) => {
                if let Some(attachment) = attachment.take() {
                    attachment.close().await?;
                }
            }
            _ => {}
        }
    }
    // It has ended with its stream.
    let _ = sending.await;
    Ok(())
}
