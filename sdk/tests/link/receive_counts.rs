//! What the receiving side counts.

use tokio::io::AsyncReadExt as _;
use trunkline::Code;
use trunkline_proto::message::Abort;

use crate::fake_node::{attach, bind, finished, framed};

#[tokio::test]
async fn each_stream_counts_once_however_it_ends_and_each_message_however_it_is_read() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    let mut receivers = Vec::new();
    for stream in [1, 3, 5, 7] {
        link.offer(bind, stream, "map").await;
        receivers.push(consumer.accept().await.unwrap());
    }
    link.offer(bind, 9, "untaken").await;
    let bytes = finished(&[b"one", b"two", b"three"]);
    for stream in [1, 3] {
        link.push_data(stream, 0, &bytes).await;
    }
    link.push_data(5, 0, &framed(&[b"one"])).await;
    link.push(Abort { stream: 5, code: Code::ProducerGone, offset: 0, text: String::new() }).await;

    while receivers[0].recv().await.unwrap().is_some() {}
    receivers[0].recv().await.unwrap();
    receivers[1].read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(receivers[2].recv_many(&mut Vec::new(), 10).await.unwrap(), 1);
    receivers[2].recv().await.unwrap_err();
    receivers[2].recv().await.unwrap_err();
    receivers.pop().unwrap().cancel("unwanted");
    drop(receivers);
    consumer.close().await.unwrap();
    let metrics = attachment.metrics();
    assert_eq!((metrics.accepts, metrics.receives_finished, metrics.receives_lost), (5, 2, 3));
    assert_eq!(metrics.messages_received, 3 + 3 + 1);
    assert_eq!(metrics.bytes_received, 2 * (bytes.len() as u64 - 16) + 4);
    assert_eq!(metrics.data_frames_received, 3);
}
