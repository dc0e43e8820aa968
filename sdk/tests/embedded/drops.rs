//! An embedded node whose last handle is dropped, wherever that happens.

use std::{
    net::UdpSocket,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Wake, Waker},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use trunkline::{Attachment, Bytes, Consumer, Receiver, Sender};

use crate::{
    nodes::{Nodes, job},
    polling::poll_once,
};

/// Longer than any node takes to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream from one to the other.
async fn stream(from: &Attachment, to: &Attachment) -> (Sender, Receiver, Consumer) {
    let mut consumer = job(to).consumer("sink").unwrap().bind().await.unwrap();
    let producer = job(from).producer("map").unwrap();
    let (sender, receiver) = tokio::join!(producer.open(consumer.address()), consumer.accept());
    (sender.unwrap(), receiver.unwrap(), consumer)
}

#[tokio::test]
async fn dropping_the_last_handle_while_a_finished_stream_is_stalled_frees_the_address() {
    let nodes = Nodes::new().await;
    let (a, b) = nodes.embed().await;
    let (mut sender, _receiver, _consumer) = stream(&a, &b).await;
    sender.send(Bytes::from(vec![0; 30 << 20])).await.unwrap();
    {
        let mut finishing = pin!(sender.finish());
        assert!(poll_once(finishing.as_mut()).is_none());
    }
    drop(a);
    UdpSocket::bind(nodes.a.listen).unwrap();
}

#[tokio::test]
async fn dropping_the_last_handle_with_a_handed_over_unconsumed_stream_frees_the_address() {
    let nodes = Nodes::new().await;
    let (a, b) = nodes.embed().await;
    let (mut sender, _receiver, _consumer) = stream(&a, &b).await;
    sender.send(Bytes::from_static(b"unread")).await.unwrap();
    sender.close().await.unwrap();
    drop(a);
    UdpSocket::bind(nodes.a.listen).unwrap();
}

/// A waker that owns the last handle, and drops it where it is woken.
struct Owns(Mutex<Option<Attachment>>);

impl Wake for Owns {
    fn wake(self: Arc<Self>) {
        let owned = self.0.lock().unwrap().take();
        drop(owned);
    }
}

#[tokio::test]
async fn the_last_handle_may_be_dropped_on_the_nodes_thread() {
    let nodes = Nodes::new().await;
    let (a, b) = nodes.embed().await;
    let (mut sender, receiver, _consumer) = stream(&a, &b).await;
    sender.send(Bytes::from_static(b"unread")).await.unwrap();
    sender.close().await.unwrap();
    let mut events = a.events();
    events.next().await.unwrap();
    let owns = Arc::new(Owns(Mutex::new(Some(a))));
    let waker = Waker::from(Arc::clone(&owns));
    {
        let mut next = pin!(events.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    receiver.cancel("enough");
    let dropped = async {
        while owns.0.lock().unwrap().is_some() {
            sleep(Duration::from_millis(1)).await;
        }
        while events.next().await.is_some() {}
    };
    timeout(PATIENCE, dropped).await.expect("the handle is dropped, and the events end");
    // The node goes after the link's last words, on its own thread, which nobody can wait for any more.
    let freed = async {
        while UdpSocket::bind(nodes.a.listen).is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, freed).await.expect("the node ends");
}
