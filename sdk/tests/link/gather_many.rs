//! `gather` in batches, and one of its streams stopped.

use std::sync::Arc;

use trunkline::{Code, ErrorKind, Expected, Gather, Gathered, ProducerInfo};
use trunkline_proto::message::Abort;

use crate::{
    fake_node::{Link, finished, framed, incoming},
    gather::{bound, next},
    receive::aborted,
};

fn texts(batch: &[Gathered]) -> Vec<String> {
    let text = |gathered: &Gathered| match gathered {
        Gathered::Message { producer, message } => format!("{}: {}", producer.name, String::from_utf8_lossy(message)),
        Gathered::Lost(lost) => format!("{} lost: {}", lost.producer.name, lost.code),
    };
    batch.iter().map(text).collect()
}

/// Everything pushed before has been dispatched: a stream that is not expected was refused.
async fn settled(link: &mut Link, bind: u64) {
    link.push(incoming(bind, 99, "stranger")).await;
    aborted(link, 99).await;
}

#[tokio::test]
async fn a_batch_is_what_has_arrived_in_its_order_losses_included() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::names(["a", "b"]).unwrap());
    link.offer(bind, 1, "a").await;
    link.offer(bind, 3, "b").await;
    let a = framed(&[b"1", b"2", b"3"]);
    link.push_data(1, 0, &a).await;
    link.push_data(3, 0, &framed(&[b"4"])).await;
    link.push_data(1, a.len(), &framed(&[b"5"])).await;
    link.push(Abort { stream: 3, code: Code::ProducerGone, offset: 2, text: String::new() }).await;
    settled(&mut link, bind).await;
    let mut batch = Vec::new();
    assert_eq!(gather.next_many(&mut batch, 0).await.unwrap(), 0);
    assert_eq!(gather.next_many(&mut batch, 2).await.unwrap(), 2);
    assert_eq!(gather.next_many(&mut batch, 100).await.unwrap(), 4);
    // A loss that is known when the last message of its stream is read follows it at once.
    assert_eq!(texts(&batch), ["a: 1", "a: 2", "a: 3", "b: 4", "b lost: producer_gone", "a: 5"]);
    let mark = finished(&[b"1", b"2", b"3", b"5"]);
    link.push_data(1, mark.len() - 16, &mark[mark.len() - 16..]).await;
    assert_eq!(gather.next_many(&mut batch, 100).await.unwrap(), 0);
    assert_eq!((gather.finished(), gather.lost(), batch.len()), (1, 1, 6));
}

#[tokio::test]
async fn the_loss_of_the_link_is_one_error_after_the_batch() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::Count(1));
    link.offer(bind, 1, "a").await;
    link.push_data(1, 0, &framed(&[b"1", b"2"])).await;
    drop(link);
    let mut batch = Vec::new();
    while batch.len() < 2 {
        assert!(gather.next_many(&mut batch, 10).await.unwrap() > 0);
    }
    assert_eq!(gather.next_many(&mut batch, 10).await.unwrap_err().kind(), ErrorKind::NodeLost);
    assert_eq!(gather.next_many(&mut batch, 10).await.unwrap(), 0);
    assert_eq!(texts(&batch), ["a: 1", "a: 2"]);
}

async fn first(gather: &mut Gather) -> Arc<ProducerInfo> {
    match gather.next().await.unwrap().unwrap() {
        Gathered::Message { producer, .. } => producer,
        Gathered::Lost(lost) => panic!("{lost}"),
    }
}

#[tokio::test]
async fn a_stream_that_is_cancelled_yields_nothing_more_and_the_others_go_on() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::names(["a", "b"]).unwrap());
    link.offer(bind, 1, "a").await;
    link.offer(bind, 3, "b").await;
    // Of the cancelled stream, messages lie in the token that is being read, in a later one, and in one to come.
    let a = framed(&[b"1", b"2"]);
    link.push_data(1, 0, &a).await;
    link.push_data(3, 0, &framed(&[b"x"])).await;
    link.push_data(1, a.len(), &framed(&[b"3"])).await;
    settled(&mut link, bind).await;
    let producer = first(&mut gather).await;
    assert!(gather.cancel(&producer, "seen enough"));
    assert!(!gather.cancel(&producer, "again"));
    let abort = aborted(&mut link, 1).await;
    assert_eq!((abort.code, abort.offset, abort.text.as_str()), (Code::Cancelled, 2, "seen enough"));
    link.push_data(1, a.len() + 2, &framed(&[b"4"])).await;
    let rest = finished(&[b"x", b"y"]);
    link.push_data(3, 2, &rest[2..]).await;
    assert_eq!(next(&mut gather).await.unwrap(), "b: x");
    assert_eq!(next(&mut gather).await.unwrap(), "b: y");
    assert_eq!(next(&mut gather).await, None);
    assert_eq!((gather.finished(), gather.lost(), gather.cancelled()), (1, 0, 1));
}

#[tokio::test]
async fn what_is_over_cannot_be_cancelled() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::names(["a", "b", "c"]).unwrap());
    for (stream, name) in [(1, "a"), (3, "b"), (5, "c")] {
        link.offer(bind, stream, name).await;
    }
    link.push_data(1, 0, &finished(&[b"1"])).await;
    link.push_data(3, 0, &framed(&[b"2"])).await;
    link.push(Abort { stream: 3, code: Code::ProducerGone, offset: 2, text: String::new() }).await;
    link.push_data(5, 0, &framed(&[b"3"])).await;
    settled(&mut link, bind).await;
    let a = first(&mut gather).await;
    let b = first(&mut gather).await;
    assert!(!gather.cancel(&a, "it has finished") && !gather.cancel(&b, "it is lost"));
    assert_eq!(next(&mut gather).await.unwrap(), "b lost: producer_gone at 2");
    let c = first(&mut gather).await;
    assert!(gather.cancel(&c, "the last"));
    assert_eq!(next(&mut gather).await, None);
    assert_eq!((gather.finished(), gather.lost(), gather.cancelled()), (1, 1, 1));
    assert_eq!(aborted(&mut link, 5).await.text, "the last");
}
