//! The span of a stream, and what is told in it.
//!
//! A program of its own: which spans are wanted is cached for a whole process, and a test beside it would not want any.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "link/fake_node.rs"]
mod fake_node;
#[expect(dead_code, reason = "the tests of the link use the rest")]
mod polling;

use std::{
    fmt::{Debug, Write as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use trunkline::{Bytes, Code};
use trunkline_proto::message::{Abort, Credit};

use fake_node::{attach, bind, credit, finished, open, poll_once};

/// Writes down the spans that are made and the events, each with its fields.
#[derive(Clone, Default)]
struct Recorder {
    lines: Arc<Mutex<Vec<String>>>,
    ids: Arc<AtomicU64>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "trunkline"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line(span.metadata().name().to_owned());
        span.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
        Id::from_u64(self.ids.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.0.trim().to_owned());
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Recorder {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

#[tokio::test]
async fn a_stream_has_a_span_that_names_it_and_is_told_how_it_went() {
    let recorder = Recorder::default();
    tracing::subscriber::set_global_default(recorder.clone()).unwrap();
    sent(&recorder).await;
    received(&recorder).await;
}

async fn sent(recorder: &Recorder) {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 100).await;
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    let mut finishing = Box::pin(sender.finish());
    assert!(poll_once(finishing.as_mut()).is_none());
    let expected = finished(&[b"hello"]);
    link.data(stream, expected.len()).await;
    let received = expected.len() as u64;
    link.push(Credit { finished: true, received, ..credit(stream, 6, 100) }).await;
    finishing.await.unwrap();
    let (mut lost, stream) = open(&attachment, &mut link, 100).await;
    link.push(credit(stream, 50, 100)).await;
    while attachment.metrics().sends_lost == 0 {
        tokio::task::yield_now().await;
    }
    // Each further call says so, and the trace once.
    for _ in 0..2 {
        lost.send(Bytes::new()).await.unwrap_err();
    }
    drop(lost);
    let span = "send job=job run=1 producer=map consumer=sink peer=node-b";
    assert_eq!(
        recorder.take(),
        [
            span,
            "message=accepted",
            "message=finished consumed=6",
            span,
            "message=accepted",
            "message=lost code=protocol offset=0 text=50 bytes consumed of 50 received, of 0 sent",
        ]
    );
}

async fn received(recorder: &Recorder) {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map-1").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push_data(1, 0, &finished(&[b"one"])).await;
    while receiver.recv().await.unwrap().is_some() {}
    assert_eq!(receiver.recv().await.unwrap(), None);
    drop(receiver);
    link.offer(bind, 3, "map-2").await;
    consumer.accept().await.unwrap().cancel("seen enough");
    link.offer(bind, 5, "map-3").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push(Abort { stream: 5, code: Code::ProducerGone, offset: 0, text: "its process ended".into() }).await;
    for _ in 0..2 {
        receiver.recv().await.unwrap_err();
    }
    drop(receiver);
    let span = |producer| format!("receive job=job run=1 consumer=sink producer={producer} peer=node-b");
    assert_eq!(
        recorder.take(),
        [
            &*span("map-1"),
            "message=accepted",
            "message=finished consumed=4",
            &*span("map-2"),
            "message=accepted",
            "message=cancelled consumed=0 reason=\"seen enough\"",
            &*span("map-3"),
            "message=accepted",
            "message=lost code=producer_gone consumed=0 text=\"its process ended\"",
        ]
    );
}
