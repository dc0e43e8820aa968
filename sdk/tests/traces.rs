//! The span of a stream, and what is told in it.
//!
//! A program of its own: which spans are wanted is cached for a whole process, and a test beside it would not want any.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[expect(dead_code, reason = "the tests of the link use the rest")]
#[path = "link/fake_node.rs"]
mod fake_node;
#[expect(dead_code, reason = "the tests of the link use the rest")]
mod polling;

use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Instrument as _, Metadata, Span, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    registry::{LookupSpan, SpanRef},
};
use trunkline::{Bytes, Code, Expected, Gathered};
use trunkline_proto::message::{Abort, Credit};

use fake_node::{attach, bind, credit, finished, framed, open_from, poll_once};

/// The target of the spans that this test makes itself, as an application does.
const APPLICATION: &str = "application";

/// Writes down the spans that the crate makes and the events, each with the spans that it lies in, from the outermost on,
/// and its fields.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

/// A span's name, with the producer if there is one.
struct Label(String);

/// The fields of a span or an event.
#[derive(Default)]
struct Fields {
    all: String,
    producer: Option<String>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.all, " {field}={value:?}").unwrap();
        if field.name() == "producer" {
            self.producer = Some(format!("{value:?}"));
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        matches!(metadata.target(), "trunkline" | APPLICATION)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let span = cx.span(id).unwrap();
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let producer = fields.producer.map(|producer| format!("({producer})")).unwrap_or_default();
        span.extensions_mut().insert(Label(format!("{}{producer}", span.name())));
        if span.metadata().target() != APPLICATION {
            self.0.lock().unwrap().push(format!("{}:{}", path(Some(span)), fields.all));
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().unwrap().push(format!("{}:{}", path(cx.event_span(event)), fields.all));
    }
}

/// The labels of a span and of those around it, the outermost first.
fn path<'a, S: LookupSpan<'a>>(span: Option<SpanRef<'a, S>>) -> String {
    let labels = span.into_iter().flat_map(|span| span.scope().from_root());
    let labels: Vec<String> = labels.map(|span| span.extensions().get::<Label>().unwrap().0.clone()).collect();
    labels.join(" > ")
}

impl Recorder {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// The span in which an application opens something.
fn request() -> Span {
    tracing::debug_span!(target: APPLICATION, "request")
}

/// A span that nothing of a stream belongs in, though calls are made in it.
fn elsewhere() -> Span {
    tracing::debug_span!(target: APPLICATION, "elsewhere")
}

#[tokio::test]
async fn a_stream_has_a_span_that_names_it_and_is_told_how_it_went() {
    let recorder = Recorder::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(recorder.clone())).unwrap();
    sent(&recorder).await;
    received(&recorder).await;
    gathered(&recorder).await;
}

async fn sent(recorder: &Recorder) {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open_from(&attachment, &mut link, "map-1", 100).instrument(request()).await;
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    let mut finishing = Box::pin(sender.finish().instrument(elsewhere()));
    assert!(poll_once(finishing.as_mut()).is_none());
    let expected = finished(&[b"hello"]);
    link.data(stream, expected.len()).await;
    let received = expected.len() as u64;
    link.push(Credit { finished: true, received, ..credit(stream, 6, 100) }).await;
    finishing.await.unwrap();
    let (mut lost, stream) = open_from(&attachment, &mut link, "map-2", 100).await;
    link.push(credit(stream, 50, 100)).await;
    while attachment.metrics().sends_lost == 0 {
        tokio::task::yield_now().await;
    }
    // Each further call says so, and the trace once.
    for _ in 0..2 {
        lost.send(Bytes::new()).instrument(elsewhere()).await.unwrap_err();
    }
    drop(lost);
    assert_eq!(
        recorder.take(),
        [
            "request > send(map-1): job=job run=1 producer=map-1 consumer=sink peer=node-b",
            "request > send(map-1): message=accepted",
            "request > send(map-1): message=finished consumed=6",
            "send(map-2): job=job run=1 producer=map-2 consumer=sink peer=node-b",
            "send(map-2): message=accepted",
            "send(map-2): message=lost code=protocol offset=0 text=50 bytes consumed of 50 received, of 0 sent",
        ]
    );
    let (attachment, mut link) = attach().await;
    let (closed, _) = open_from(&attachment, &mut link, "map-3", 100).await;
    closed.close().instrument(elsewhere()).await.unwrap();
    let (attachment, mut link) = attach().await;
    let (aborted, _) = open_from(&attachment, &mut link, "map-4", 100).await;
    elsewhere().in_scope(|| aborted.abort("enough"));
    let told: Vec<_> = recorder.take().into_iter().filter(|line| line.contains("message=")).collect();
    assert_eq!(
        told,
        [
            "send(map-3): message=accepted",
            "send(map-3): message=closed",
            "send(map-4): message=accepted",
            "send(map-4): message=aborted reason=\"enough\"",
        ]
    );
}

async fn received(recorder: &Recorder) {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map-1").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push_data(1, 0, &finished(&[b"one"])).await;
    while receiver.recv().instrument(elsewhere()).await.unwrap().is_some() {}
    assert_eq!(receiver.recv().await.unwrap(), None);
    drop(receiver);
    link.offer(bind, 3, "map-2").await;
    let receiver = consumer.accept().await.unwrap();
    elsewhere().in_scope(|| receiver.cancel("seen enough"));
    link.offer(bind, 5, "map-3").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push(Abort { stream: 5, code: Code::ProducerGone, offset: 0, text: "its process ended".into() }).await;
    for _ in 0..2 {
        receiver.recv().instrument(elsewhere()).await.unwrap_err();
    }
    drop(receiver);
    assert_eq!(
        recorder.take(),
        [
            "receive(map-1): job=job run=1 consumer=sink producer=map-1 peer=node-b",
            "receive(map-1): message=accepted",
            "receive(map-1): message=finished consumed=4",
            "receive(map-2): job=job run=1 consumer=sink producer=map-2 peer=node-b",
            "receive(map-2): message=accepted",
            "receive(map-2): message=cancelled consumed=0 reason=\"seen enough\"",
            "receive(map-3): job=job run=1 consumer=sink producer=map-3 peer=node-b",
            "receive(map-3): message=accepted",
            "receive(map-3): message=lost code=producer_gone consumed=0 text=\"its process ended\"",
        ]
    );
}

async fn gathered(recorder: &Recorder) {
    let (attachment, mut link) = attach().await;
    let (consumer, bind) = bind(&attachment, &mut link).await;
    let mut gather = request().in_scope(|| consumer.gather(Expected::Count(3)));
    for (stream, name) in [(1, "map-1"), (3, "map-2"), (5, "map-3")] {
        link.offer(bind, stream, name).await;
    }
    link.push_data(1, 0, &framed(&[b"one"])).await;
    let Some(Ok(Gathered::Message { producer, .. })) = gather.next().await else { panic!("a message") };
    elsewhere().in_scope(|| assert!(gather.cancel(&producer, "seen enough")));
    link.push_data(3, 0, &finished(&[])).await;
    link.push(Abort { stream: 5, code: Code::ProducerGone, offset: 0, text: "its process ended".into() }).await;
    assert!(matches!(gather.next().instrument(elsewhere()).await, Some(Ok(Gathered::Lost(_)))));
    assert!(gather.next().await.is_none());
    drop(gather);
    assert_eq!(
        recorder.take(),
        [
            "request > gather: job=job run=1 consumer=sink expected=3",
            "request > gather: message=cancelled producer=map-1 peer=node-b reason=\"seen enough\"",
            "request > gather: message=finished producer=map-2 peer=node-b",
            "request > gather: message=lost producer=map-3 peer=node-b code=producer_gone consumed=0 \
             text=\"its process ended\"",
        ]
    );
}
