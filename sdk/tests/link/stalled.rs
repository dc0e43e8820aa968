//! What streams that are stalled in the middle of a message leave to the others: the whole send budget.

use trunkline::{Attachment, Bytes};

use crate::fake_node::{FakeNode, credit, framed, open};

/// Streams that are stalled.
const STALLED: u64 = 10_000;
/// What each was given to send, of which one byte has credit.
const MESSAGE_BYTES: usize = 64 << 10;
/// Of all of them 640 MB wait.
const BUDGET_BYTES: u64 = 1 << 20;

#[tokio::test]
async fn streams_that_are_stalled_within_a_message_hold_nobodys_send_budget() {
    let node = FakeNode::listen();
    let builder = Attachment::builder().send_budget_bytes(BUDGET_BYTES);
    let (attachment, mut link) = tokio::join!(builder.connect(&node.path), node.greet());
    let attachment = attachment.unwrap();
    let message = Bytes::from(vec![7; MESSAGE_BYTES]);
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let (mut sender, stream) = open(&attachment, &mut link, 1).await;
        sender.send(message.clone()).await.unwrap();
        assert_eq!(link.data(stream, 1).await.len(), 1);
        stalled.push((sender, stream));
    }
    let metrics = attachment.metrics();
    assert_eq!((metrics.messages_sent, metrics.sends_blocked), (STALLED, 0));
    assert_eq!(metrics.send_budget_used_bytes, STALLED);
    let (mut sender, stream) = open(&attachment, &mut link, 1 << 30).await;
    let rest = usize::try_from(BUDGET_BYTES - STALLED).unwrap();
    sender.try_send(Bytes::from(vec![8; rest - 5])).unwrap();
    sender.try_send(Bytes::new()).unwrap();
    sender.try_send(Bytes::new()).unwrap_err();
    // Their lengths take four bytes and one.
    let taken = rest;
    assert_eq!(link.data(stream, taken).await.len(), taken);
    // With credit, a message that was stalled counts whole, though there is no room for it.
    let (_, first) = stalled[0];
    let whole = framed(&[&message]).len();
    link.push(credit(first, 0, whole as u64)).await;
    let mut came = 1;
    while came < whole {
        let trunkline_proto::frame::Frame::Data(header, payload) = link.next().await else { continue };
        assert_eq!((header.stream, header.offset), (first, came as u64));
        came += payload.len();
    }
    assert_eq!(attachment.metrics().send_budget_used_bytes, STALLED - 1 + (whole + taken) as u64);
}
