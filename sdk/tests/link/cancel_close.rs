//! Dropping the close of a gather or of an attachment at any of its polls: it goes on by itself, and the node is told
//! everything.

use trunkline::{Bytes, Code, ErrorKind, Expected};
use trunkline_proto::{frame::Frame, message::Abort};

use crate::{
    close::{CLOG_CREDIT, clog, told_before_unbind},
    cutting::{POLLS_MAX, cut},
    fake_node::{Link, finished, framed, open},
    gather::{bound, next},
};

#[tokio::test]
async fn a_close_of_a_gather_may_be_dropped_at_any_poll() {
    for polls in 0..POLLS_MAX {
        let (attachment, mut link, consumer, bind) = bound().await;
        let (mut clogging, _) = open(&attachment, &mut link, CLOG_CREDIT).await;
        let mut gather = consumer.gather(Expected::Count(5));
        for (stream, name) in [(1, "finished"), (3, "unread"), (5, "unfinished"), (7, "lost")] {
            link.offer(bind, stream, name).await;
        }
        link.push_data(1, 0, &finished(&[b"all"])).await;
        link.push_data(5, 0, &framed(&[b"part"])).await;
        link.push(Abort { stream: 7, code: Code::ProducerGone, offset: 0, text: String::new() }).await;
        assert_eq!(next(&mut gather).await.unwrap(), "finished: all");
        assert_eq!(next(&mut gather).await.unwrap(), "unfinished: part");
        assert_eq!(next(&mut gather).await.unwrap(), "lost lost: producer_gone at 0");
        clog(&attachment, &mut clogging).await;
        // The node reads only once the close waits for it.
        let (done, told) =
            tokio::join!(biased; cut(polls, gather.close()), async { told_before_unbind(&mut link).await });
        assert_eq!(told, ["1 finished", "3 cancelled", "5 cancelled"], "dropped after {polls} polls");
        if let Some(closed) = done {
            let closed = closed.unwrap();
            assert_eq!((closed.finished, closed.lost, closed.unfinished, closed.missing), (1, 1, 2, 1));
            assert!(polls > 1, "it did not have to wait: this shows nothing");
            return;
        }
    }
    panic!("close is never through");
}

/// What the node is told up to the end of the link.
async fn told_before_end(mut link: Link) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(frame) = link.next_or_end().await {
        match frame {
            Frame::Credit(credit) if credit.finished => told.push(format!("{} finished", credit.stream)),
            Frame::Abort(abort) => told.push(format!("{} {}", abort.stream, abort.code)),
            Frame::Unbind(_) => told.push("unbind".to_owned()),
            _ => {}
        }
    }
    told.sort();
    told
}

#[tokio::test]
async fn a_close_of_an_attachment_goes_on_whenever_it_is_dropped() {
    for polls in 0..POLLS_MAX {
        let (attachment, mut link, mut consumer, bind) = bound().await;
        let (mut sender, stream) = open(&attachment, &mut link, CLOG_CREDIT).await;
        for (stream, name) in [(1, "done"), (3, "unfinished")] {
            link.offer(bind, stream, name).await;
        }
        let mut done = consumer.accept().await.unwrap();
        let mut unfinished = consumer.accept().await.unwrap();
        clog(&attachment, &mut sender).await;
        link.push_data(1, 0, &finished(&[b"last"])).await;
        while done.recv().await.unwrap().is_some() {}
        if polls == 0 {
            // Nothing has begun, and the other handles are as before.
            drop(attachment.close());
            link.push_data(3, 0, &framed(&[b"goes on"])).await;
            assert_eq!(unfinished.recv().await.unwrap().unwrap(), "goes on");
            continue;
        }
        // The node reads only once the close waits for it.
        let (closed, told) = tokio::join!(biased; cut(polls, attachment.close()), told_before_end(link));
        let expected = ["1 finished", &format!("{stream} producer_gone"), "3 consumer_gone", "unbind"];
        assert_eq!(told, expected, "dropped after {polls} polls");
        let mut kinds = vec![unfinished.recv().await.unwrap_err().kind()];
        kinds.push(sender.send(Bytes::new()).await.unwrap_err().kind());
        kinds.push(consumer.accept().await.unwrap_err().kind());
        assert_eq!(kinds, [ErrorKind::Closed; 3]);
        if let Some(closed) = closed {
            closed.unwrap();
            assert!(polls > 1, "it did not have to wait: this shows nothing");
            return;
        }
    }
    panic!("close is never through");
}
