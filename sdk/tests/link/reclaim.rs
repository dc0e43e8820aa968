//! Credit that is asked back: by the node from a producer, and by a consumer's process from its node.

use std::pin::pin;

use trunkline::Bytes;
use trunkline_proto::{
    frame::Frame,
    message::{Limit, Reclaim},
};

use crate::{
    close::{CLOG_BYTES, CLOG_CREDIT, clog},
    fake_node::{Link, attach, credit, framed, open, poll_once},
};

fn reclaim(stream: u64, limit: u64) -> Reclaim {
    Reclaim { stream, epoch: 0, limit }
}

async fn limit_of(link: &mut Link, stream: u64) -> u64 {
    link.find(|frame| match frame {
        Frame::Limit(Limit { stream: of, limit, .. }) if *of == stream => Some(*limit),
        _ => None,
    })
    .await
}

async fn want_of(link: &mut Link, stream: u64) -> u64 {
    link.find(|frame| match frame {
        Frame::Want(want) if want.stream == stream => Some(want.wanted),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn an_idle_stream_gives_back_all_that_it_has_not_used() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1000).await;
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    link.data(stream, 6).await;
    link.push(reclaim(stream, 0)).await;
    assert_eq!(limit_of(&mut link, stream).await, 6);
    // Without credit it waits and asks, as one that never had any.
    let mut sending = pin!(sender.send(Bytes::from_static(b"more")));
    assert!(poll_once(sending.as_mut()).is_none());
    assert_eq!(want_of(&mut link, stream).await, 11);
    link.push(credit(stream, 6, 100)).await;
    sending.await.unwrap();
    let Frame::Data(header, payload) = link.next().await else { panic!("DATA is expected") };
    assert_eq!((header.offset, &payload[..]), (6, &framed(&[b"more"])[..]));
}

#[tokio::test]
async fn a_reclaim_that_takes_nothing_is_answered_all_the_same() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 100).await;
    link.push(reclaim(stream, 5_000)).await;
    assert_eq!(limit_of(&mut link, stream).await, 100);
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(link.data(stream, 6).await, framed(&[b"hello"]));
    // One for a stream that is gone was on its way.
    link.push(reclaim(stream + 2, 0)).await;
    open(&attachment, &mut link, 0).await;
}

#[tokio::test]
async fn the_answer_to_a_reclaim_stands_behind_the_data_that_was_handed_over_and_ahead_of_the_rest() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, CLOG_CREDIT).await;
    clog(&attachment, &mut sender).await;
    link.push(reclaim(stream, 0)).await;
    let mut came = 0;
    let limit = loop {
        match link.next().await {
            Frame::Data(header, payload) => {
                assert_eq!((header.stream, header.offset), (stream, came));
                came += payload.len() as u64;
            }
            Frame::Limit(limit) => break limit.limit,
            _ => {}
        }
    };
    assert_eq!(limit, came);
    // What is left of the message is wanted again, and goes on where it stopped.
    let whole = framed(&[&vec![0; CLOG_BYTES]]).len() as u64;
    assert!(came < whole, "nothing was left");
    assert_eq!(want_of(&mut link, stream).await, whole);
    link.push(credit(stream, came, whole)).await;
    while came < whole {
        let Frame::Data(header, payload) = link.next().await else { continue };
        assert_eq!(header.offset, came);
        came += payload.len() as u64;
    }
}
