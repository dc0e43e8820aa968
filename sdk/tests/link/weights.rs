//! Jobs of several weights on one link, which is scheduled as a trunk is.

use trunkline::{Attachment, Bytes, ErrorKind, Incarnation, Sender};
use trunkline_proto::{frame::Frame, message::Accept};

use crate::{
    close::{CLOG_CREDIT, clog},
    fake_node::{Link, attach, job, open},
};

/// What each stream of a test sends.
const STREAM_BYTES: usize = 6 << 20;
/// In messages of this length.
const MESSAGE_BYTES: usize = 64 << 10;

/// A stream of a job of this weight, with credit for all that it will send, and its id.
async fn open_weighing(attachment: &Attachment, link: &mut Link, name: &str, weight: u32) -> (Sender, u64) {
    let producer = attachment.job(name, "1").unwrap().producer("map").unwrap().weight(weight).unwrap();
    let answer = async {
        let opened = |frame: &Frame| match frame {
            Frame::Open(open) => Some(open.clone()),
            _ => None,
        };
        let open = link.find(opened).await;
        assert_eq!(u32::from(open.weight.get()), weight);
        let limit = 2 * STREAM_BYTES as u64;
        link.push(Accept { stream: open.stream, incarnation: Incarnation::from_bits(9), limit }).await;
        open.stream
    };
    let (sender, stream) = tokio::join!(producer.open(format!("{name}/sink@node-b")), answer);
    (sender.unwrap(), stream)
}

async fn fill(sender: &mut Sender) {
    for _ in 0..STREAM_BYTES / MESSAGE_BYTES {
        sender.send(Bytes::from(vec![0; MESSAGE_BYTES])).await.unwrap();
    }
}

/// Reads until one of the streams has brought `bytes`, and returns what each has.
async fn shares<const N: usize>(link: &mut Link, streams: [u64; N], bytes: usize) -> [usize; N] {
    let mut came = [0; N];
    while came.iter().all(|&one| one < bytes) {
        let Frame::Data(header, payload) = link.next().await else { continue };
        if let Some(at) = streams.iter().position(|&stream| stream == header.stream) {
            came[at] += payload.len();
        }
    }
    came
}

#[tokio::test]
async fn a_weight_out_of_bounds_is_refused_and_one_within_travels_with_the_open() {
    let (attachment, mut link) = attach().await;
    for weight in [0, 101, u32::MAX] {
        let error = job(&attachment).producer("map").unwrap().weight(weight).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{weight}");
        assert!(error.to_string().contains("100"), "{error}");
    }
    for weight in [1, 100] {
        open_weighing(&attachment, &mut link, "job", weight).await;
    }
}

#[tokio::test]
async fn two_busy_jobs_of_weights_three_to_one_get_shares_of_three_to_one() {
    let (attachment, mut link) = attach().await;
    // The line is full before any of them begins, so that they begin at once.
    let (mut clogging, _) = open(&attachment, &mut link, CLOG_CREDIT).await;
    let (mut light, one) = open_weighing(&attachment, &mut link, "light", 1).await;
    let (mut heavy, three) = open_weighing(&attachment, &mut link, "heavy", 3).await;
    clog(&attachment, &mut clogging).await;
    fill(&mut light).await;
    fill(&mut heavy).await;
    drop(clogging);
    let [light, heavy] = shares(&mut link, [one, three], STREAM_BYTES - MESSAGE_BYTES).await;
    assert!((3 * light).abs_diff(heavy) * 20 <= heavy, "{light} bytes beside {heavy}");
}

#[tokio::test]
async fn a_job_of_many_streams_gets_no_more_than_one_of_a_single_stream() {
    let (attachment, mut link) = attach().await;
    let (mut clogging, _) = open(&attachment, &mut link, CLOG_CREDIT).await;
    let (mut single, alone) = open_weighing(&attachment, &mut link, "single", 1).await;
    let (mut streams, mut senders) = ([alone; 9], Vec::new());
    for stream in &mut streams[1..] {
        let (sender, id) = open_weighing(&attachment, &mut link, "many", 1).await;
        *stream = id;
        senders.push(sender);
    }
    clog(&attachment, &mut clogging).await;
    fill(&mut single).await;
    for sender in &mut senders {
        fill(sender).await;
    }
    drop(clogging);
    let came = shares(&mut link, streams, STREAM_BYTES - MESSAGE_BYTES).await;
    let many: usize = came[1..].iter().sum();
    assert!(many.abs_diff(came[0]) * 20 <= many, "{came:?}");
}
