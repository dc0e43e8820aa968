//! From start to end: what keeps an embedded node from starting, and what becomes of streams when it goes.

use std::{net::UdpSocket, pin::pin, time::Duration};

use tokio::time::timeout;
use trunkline::{Attachment, Bytes, Code, ErrorKind, Event};

use crate::{
    nodes::{Nodes, job},
    polling::poll_once,
};

/// Longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_keeps_a_node_from_starting_is_said_in_its_own_words() {
    let mut nodes = Nodes::new().await;
    let socket = nodes.serve_others();
    let taken = UdpSocket::bind(nodes.a.listen).unwrap();
    let error = Attachment::embedded(nodes.a.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Node);
    let text = error.to_string();
    assert!(text.starts_with("the embedded node did not start: "), "{text}");
    assert!(text.contains(&nodes.a.listen.to_string()), "{text}");
    drop(taken);

    let mut config = nodes.a.clone();
    config.identity.key = "/nonexistent/node.key".into();
    let error = Attachment::embedded(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Node);
    assert!(error.to_string().contains("/nonexistent/node.key"), "{error}");

    let first = Attachment::embedded(nodes.a.clone()).await.unwrap();
    let mut config = nodes.b.clone();
    config.local.clone_from(&nodes.a.local);
    let error = Attachment::embedded(config.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Node);
    assert!(error.to_string().contains(socket.to_str().unwrap()), "{error}");
    // Nothing was left behind: once the first is gone, the second has the socket.
    first.close().await.unwrap();
    Attachment::embedded(config).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn settings_of_the_attachment_are_checked_first() {
    let nodes = Nodes::new().await;
    let error = Attachment::builder().send_budget_bytes(0).embedded(nodes.a.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing_behind() {
    let nodes = Nodes::new().await;
    {
        let mut starting = pin!(Attachment::embedded(nodes.a.clone()));
        assert!(poll_once(starting.as_mut()).is_none());
    }
    // Its thread may still be on its way out, and then the address is not free yet.
    let again = async {
        loop {
            match Attachment::embedded(nodes.a.clone()).await {
                Ok(attachment) => return attachment,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Node, "{error}"),
            }
        }
    };
    timeout(PATIENCE, again).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn closing_brings_what_was_finished_to_the_peer_and_tells_it_of_the_unfinished() {
    let nodes = Nodes::new().await;
    let (a, b) = nodes.embed().await;
    let mut consumer = job(&b).consumer("sink").unwrap().bind().await.unwrap();
    let producer = job(&a).producer("map").unwrap();
    let (sender, receiver) = tokio::join!(producer.open(consumer.address()), consumer.accept());
    let (mut finished, mut whole) = (sender.unwrap(), receiver.unwrap());
    let (sender, receiver) = tokio::join!(producer.open(consumer.address()), consumer.accept());
    let (mut unfinished, mut cut) = (sender.unwrap(), receiver.unwrap());
    unfinished.send(Bytes::from_static(b"and then")).await.unwrap();
    let reading = async {
        let mut bytes = 0;
        while let Some(message) = whole.recv().await.unwrap() {
            bytes += message.len();
        }
        bytes
    };
    let sending = async {
        for _ in 0..100 {
            finished.send(Bytes::from_static(&[7; 10_000])).await.unwrap();
        }
        {
            // The end is asked for, and goes on by itself.
            let mut finishing = pin!(finished.finish());
            drop(poll_once(finishing.as_mut()));
        }
        a.close().await
    };
    let (bytes, closed) = tokio::join!(reading, sending);
    closed.unwrap();
    assert_eq!(bytes, 1_000_000);
    assert_eq!(cut.recv().await.unwrap().unwrap(), "and then");
    let error = cut.recv().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::ProducerGone)), "{error}");
    b.close().await.unwrap();
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_node_and_tells_the_peer() {
    let nodes = Nodes::new().await;
    let (a, b) = nodes.embed().await;
    let mut consumer = job(&b).consumer("sink").unwrap().bind().await.unwrap();
    let producer = job(&a).producer("map").unwrap();
    let (sender, receiver) = tokio::join!(producer.open(consumer.address()), consumer.accept());
    let mut receiver = receiver.unwrap();
    drop((sender, producer));
    drop(a);
    let error = timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    b.close().await.unwrap();
}

#[tokio::test]
async fn other_processes_are_told_when_the_node_drains_and_when_it_is_gone() {
    let mut nodes = Nodes::new().await;
    let socket = nodes.serve_others();
    let embedded = Attachment::embedded(nodes.a.clone()).await.unwrap();
    let other = Attachment::builder().patience(Duration::from_millis(200)).connect(&socket).await.unwrap();
    let mut events = other.events();
    assert!(matches!(events.next().await, Some(Event::Attached { .. })));
    let closing = tokio::spawn(embedded.close());
    let draining = timeout(PATIENCE, events.next()).await.unwrap();
    assert!(matches!(draining, Some(Event::Draining { .. })), "{draining:?}");
    closing.await.unwrap().unwrap();
    let interrupted = timeout(PATIENCE, events.next()).await.unwrap();
    assert!(matches!(interrupted, Some(Event::Interrupted { .. })), "{interrupted:?}");
    let detached = timeout(PATIENCE, events.next()).await.unwrap();
    assert!(matches!(detached, Some(Event::Detached { kind: ErrorKind::NodeLost, .. })), "{detached:?}");
    assert_eq!(events.next().await, None);
}
