//! What an attachment writes to the program's log.

use std::{
    io::{self, Write},
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::timeout;
use trunkline::{Attachment, Bytes, Event};

use crate::{
    nodes::{Nodes, job},
    polling::poll_once,
};

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_stalled_send_is_a_warning_that_names_the_attachment() {
    let nodes = Nodes::new().await;
    tracing_subscriber::fmt().with_env_filter("trunkline=debug").with_ansi(false).with_writer(|| Lines).init();
    let builder = Attachment::builder().stall_warn(Duration::from_millis(20));
    let attachment = builder.embedded(nodes.a.clone()).await.unwrap();
    let mut events = attachment.events();
    let mut consumer = job(&attachment).consumer("lazy").unwrap().bind().await.unwrap();
    let producer = job(&attachment).producer("eager").unwrap();
    let (sender, receiver) = tokio::join!(producer.open(consumer.address()), consumer.accept());
    let (mut sender, _receiver) = (sender.unwrap(), receiver.unwrap());
    let stalled = {
        let mut sending = pin!(async {
            while sender.send(Bytes::from_static(&[0; 64 << 10])).await.is_ok() {}
            panic!("the stream goes on");
        });
        assert!(poll_once(sending.as_mut()).is_none());
        let stalled = async {
            loop {
                let event = events.next().await.unwrap();
                if let Event::Stalled(stalled) = event {
                    return stalled;
                }
            }
        };
        tokio::select! {
            () = sending => unreachable!(),
            stalled = timeout(Duration::from_secs(20), stalled) => stalled.unwrap(),
        }
    };
    // The log is written before the event is told.
    let log = String::from_utf8(LINES.lock().unwrap().clone()).unwrap();
    let expected = format!("WARN attachment{{node=node-a socket=embedded}}: trunkline::link::stalls: {stalled}");
    assert!(log.contains(&expected), "{expected}\nis not in\n{log}");
    drop(sender);
    attachment.close().await.unwrap();
}
