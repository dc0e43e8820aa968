//! What the receiving side counts, and what it traces.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::io::AsyncReadExt as _;
use tracing::{Event, Metadata, Subscriber, field, span};
use trunkline::Code;
use trunkline_proto::message::Abort;

use crate::{
    fake_node::{attach, bind, finished, framed},
    receive::{aborted, accepted},
};

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

/// Writes down the fields of spans and the events in them.
#[derive(Clone, Default)]
struct Notes {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicU64>,
}

struct Line(String);

impl field::Visit for Line {
    fn record_debug(&mut self, field: &field::Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.0 += &format!(" {value:?}"),
            name => self.0 += &format!(" {name}={value:?}"),
        }
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "trunkline"
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let id = self.spans.fetch_add(1, Ordering::Relaxed) + 1;
        let mut line = Line(format!("span {id} {}", attributes.metadata().name()));
        attributes.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
        span::Id::from_u64(id)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("in {}:", event.parent().map_or(0, span::Id::into_u64)));
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_stream_is_a_span_that_says_how_it_ended_once() {
    let notes = Notes::default();
    let _here = tracing::subscriber::set_default(notes.clone());
    let (_attachment, mut link, mut consumer, mut receiver) = accepted().await;
    link.push_data(1, 0, &finished(&[b"one"])).await;
    while receiver.recv().await.unwrap().is_some() {}
    assert_eq!(receiver.recv().await.unwrap(), None);
    drop(receiver);
    link.offer(1, 3, "map-2").await;
    let receiver = consumer.accept().await.unwrap();
    receiver.cancel("seen enough");
    aborted(&mut link, 3).await;
    link.offer(1, 5, "map-3").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push(Abort { stream: 5, code: Code::ProducerGone, offset: 0, text: "its process ended".into() }).await;
    receiver.recv().await.unwrap_err();
    receiver.recv().await.unwrap_err();
    drop(receiver);
    let span = "job=job run=1 consumer=sink";
    let expected = [
        format!("span 1 receive {span} producer=map-1 peer=node-b"),
        "in 1: accepted".to_owned(),
        "in 1: finished consumed=4".to_owned(),
        format!("span 2 receive {span} producer=map-2 peer=node-b"),
        "in 2: accepted".to_owned(),
        "in 2: cancelled consumed=0 reason=\"seen enough\"".to_owned(),
        format!("span 3 receive {span} producer=map-3 peer=node-b"),
        "in 3: accepted".to_owned(),
        "in 3: lost code=producer_gone consumed=0 text=\"its process ended\"".to_owned(),
    ];
    assert_eq!(*notes.lines.lock().unwrap(), expected);
}
