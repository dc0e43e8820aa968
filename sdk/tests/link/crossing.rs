//! Ends that cross others: two who close, a connect that is given up as it succeeds, a link that is lost behind a bind that
//! had ended.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, time::timeout};
use trunkline::{Attachment, Bytes, Code, Event, Expected};
use trunkline_proto::message::{Drain, Refused};

use crate::fake_node::{FakeNode, attach, bind, framed, open, poll_once};

/// Longer than any of these ends takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn two_handles_may_be_closed_by_two_tasks() {
    let (attachment, mut link) = attach().await;
    let other = attachment.clone();
    let first = tokio::spawn(attachment.close());
    tokio::task::yield_now().await;
    let second = tokio::spawn(other.close());
    tokio::task::yield_now().await;
    assert!(link.next_or_end().await.is_none());
    drop(link);
    timeout(PATIENCE, second).await.expect("the second ends").unwrap().unwrap();
    timeout(PATIENCE, first).await.expect("the first ends").unwrap().unwrap();
}

/// Counts its wake-ups, and unparks.
struct Count(AtomicUsize, std::thread::Thread);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.unpark();
    }
}

#[tokio::test]
async fn a_connect_that_is_given_up_as_it_succeeds_leaves_nothing() {
    let node = FakeNode::listen();
    let count = Arc::new(Count(AtomicUsize::new(0), std::thread::current()));
    let waker = Waker::from(Arc::clone(&count));
    let mut link = {
        let mut connecting = pin!(Attachment::connect(&node.path));
        assert!(connecting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let link = node.greet().await;
        while count.0.load(Ordering::SeqCst) == 0 {
            std::thread::park();
        }
        link
        // The answer is there, and the future is dropped before it is polled again.
    };
    assert!(timeout(PATIENCE, link.next_or_end()).await.expect("the link ends").is_none());
}

#[tokio::test]
async fn a_gather_whose_bind_had_ended_hears_of_the_loss_of_the_link() {
    let (attachment, mut link) = attach().await;
    let (consumer, bind) = bind(&attachment, &mut link).await;
    let mut gather = consumer.gather(Expected::Count(2));
    link.offer(bind, 1, "map").await;
    link.push(Refused { bind, code: Code::Draining, text: "the node is shutting down".into() }).await;
    link.push_data(1, 0, &framed(&[b"one"])).await;
    gather.next().await.unwrap().unwrap();
    drop(link);
    let next = timeout(PATIENCE, gather.next()).await.expect("it ends");
    assert!(next.unwrap().is_err());
}

#[tokio::test]
async fn a_send_behind_a_write_that_was_given_up_is_another_wait() {
    let (attachment, mut link) = attach().await;
    let (mut sender, _) = open(&attachment, &mut link, 1).await;
    sender.send(Bytes::from_static(b"uses the credit up")).await.unwrap();
    {
        let mut writing = pin!(sender.write(b"given up"));
        assert!(poll_once(writing.as_mut()).is_none());
        assert!(poll_once(writing.as_mut()).is_none());
    }
    assert_eq!(attachment.metrics().sends_blocked, 1);
    let mut sending = pin!(sender.send(Bytes::from_static(b"x")));
    assert!(poll_once(sending.as_mut()).is_none());
    assert!(poll_once(sending.as_mut()).is_none());
    assert_eq!(attachment.metrics().sends_blocked, 2);
}

/// A waker that owns the last handle, and drops it where it is woken.
struct OwnsAll(std::sync::Mutex<Option<Attachment>>);
impl Wake for OwnsAll {
    fn wake(self: Arc<Self>) {
        let owned = self.0.lock().unwrap().take();
        drop(owned);
    }
}

#[tokio::test]
async fn the_last_handle_may_be_dropped_by_a_waker_on_the_links_thread() {
    let (attachment, mut link) = attach().await;
    let mut events = attachment.events();
    events.next().await.unwrap();
    let owns = Arc::new(OwnsAll(std::sync::Mutex::new(Some(attachment))));
    let waker = Waker::from(Arc::clone(&owns));
    {
        let mut next = pin!(events.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    link.push(Drain { deadline_ms: 5 }).await;
    assert!(timeout(PATIENCE, link.next_or_end()).await.expect("it ends").is_none());
    assert!(matches!(events.next().await, Some(Event::Draining { .. })));
    assert!(matches!(events.next().await, Some(Event::Detached { .. })));
}
