//! Bad ends: never a clean one, never a silent one, and the other end is told why.

use std::fs::File;

use rustix::process::Signal;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, join, process::Child};
use trunkline_tests::{cluster::Cluster, eventually, in_time};

use super::{Ended, ends, prints, run, signal, trunkline};

const TO: &str = "job/consumer@node-b";

/// A receiver and a sender that has sent the line `half` and may send more.
async fn under_way(cluster: &Cluster, flags: &[&'static str]) -> (Child, Child) {
    let recv = ["recv", "job/consumer", "--lines"].into_iter().chain(flags.iter().copied());
    let mut recv = trunkline(cluster.node("node-b"), recv).spawn().unwrap();
    let send = ["send", TO, "--lines", "--producer", "talker"];
    let patience = flags.windows(2).find(|flag| flag[0] == "--patience").unwrap_or_default();
    let send = send.into_iter().chain(patience.iter().copied());
    let mut send = trunkline(cluster.node("node-a"), send).spawn().unwrap();
    send.stdin.as_mut().unwrap().write_all(b"half\n").await.unwrap();
    prints(&mut recv, "half\n").await;
    (recv, send)
}

#[tokio::test]
async fn a_full_disk_and_a_closed_pipe_are_1_and_the_producer_is_told() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        // So little that all of it, and the end, is there before the first write.
        for (input, full) in [(&b"little"[..], true), (&[7; 9_000_000], true), (b"little", false)] {
            let mut recv = trunkline(cluster.node("node-b"), ["recv", "job/consumer"]);
            if full {
                recv.stdout(File::create("/dev/full").unwrap());
            }
            let mut recv = recv.spawn().unwrap();
            if !full {
                drop(recv.stdout.take());
            }
            let send = trunkline(cluster.node("node-a"), ["send", TO]);
            let (received, sent) = join!(ends(recv, b""), run(send, input));
            let why = if full { "No space left on device" } else { "Broken pipe" };
            let why = format!("cannot write to standard output: {why}");
            received.with(1, &why);
            sent.with(5, &why);
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn an_input_that_cannot_be_read_is_1_and_no_clean_end() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        let folder = cluster.folder().to_str().unwrap();
        run(trunkline(a, ["send", TO, "--file", folder]), b"").await.with(1, "--file names a file");
        run(trunkline(a, ["send", TO, "--file", "/no/such/file"]), b"").await.with(1, "cannot open /no/such/file");
        let mut send = trunkline(a, ["send", TO]);
        send.stdin(File::open(folder).unwrap());
        let (received, sent) = join!(run(trunkline(b, ["recv", "job/consumer"]), b""), run(send, b""));
        sent.with(1, "cannot read standard input after 0 bytes");
        received.with(5, "cannot read standard input after 0 bytes");
    })
    .await;
}

#[tokio::test]
async fn a_killed_sender_is_named() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (recv, mut send) = under_way(&cluster, &[]).await;
        send.kill().await.unwrap();
        let received =
            ends(recv, b"").await.with(5, "trunkline: lost producer talker@node-a: producer_gone at offset 5");
        assert!(received.stderr.contains("trunkline: error: producer talker@node-a: producer_gone"), "{received:?}");
    })
    .await;
}

#[tokio::test]
async fn a_signal_is_128_and_its_number_and_the_other_end_is_told() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (recv, mut send) = under_way(&cluster, &[]).await;
        // Its input does not end: that would be another end of the stream.
        let input = send.stdin.take();
        signal(&send, Signal::INT);
        let (received, sent) = join!(ends(recv, b""), ends(send, b""));
        drop(input);
        sent.with(130, "interrupted by SIGINT");
        received.with(5, "cancelled at offset 5: interrupted by SIGINT");

        let (recv, mut send) = under_way(&cluster, &[]).await;
        let input = send.stdin.take();
        signal(&recv, Signal::TERM);
        let received = ends(recv, b"").await.with(143, "interrupted by SIGTERM");
        assert!(received.stdout.is_empty(), "{received:?}");
        // It hears of it though its input brings nothing.
        ends(send, b"").await.with(5, "interrupted by SIGTERM");
        drop(input);

        // Nothing is under way yet.
        let recv = trunkline(cluster.node("node-b"), ["recv", "job/consumer", "--run", "2"]).spawn().unwrap();
        let opening = trunkline(cluster.node("node-a"), ["send", "job/nobody@node-b"]).spawn().unwrap();
        eventually("it is bound, and the open is parked", async || {
            let status = cluster.node("node-b").status().await;
            let bound = status.processes.iter().any(|process| !process.binds.is_empty());
            (bound && status.parked.len() == 1).then_some(())
        })
        .await;
        signal(&recv, Signal::TERM);
        signal(&opening, Signal::INT);
        let (received, sent) = join!(ends(recv, b""), ends(opening, b""));
        received.with(143, "interrupted");
        sent.with(130, "interrupted");
    })
    .await;
}

#[tokio::test]
async fn a_node_that_dies_and_comes_back_is_waited_for() {
    in_time(async {
        let mut cluster = Cluster::builder().start().await;
        let (recv, mut send) = under_way(&cluster, &[]).await;
        cluster.node("node-b").kill();
        cluster.node("node-b").exited().await;
        send.stdin.as_mut().unwrap().write_all(b"the other half\n").await.unwrap();
        cluster.restart("node-b").await;
        let (received, sent) = join!(ends(recv, b""), ends(send, b""));
        assert_eq!((received.code, sent.code), (Some(0), Some(0)), "{received:?} {sent:?}");
        assert_eq!(received.stdout, b"the other half\n");
    })
    .await;
}

#[tokio::test]
async fn a_node_that_dies_and_is_not_waited_for_is_5_with_what_is_known() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (recv, send) = under_way(&cluster, &["--json", "--expect", "2", "--patience", "0"]).await;
        cluster.node("node-b").kill();
        let received = ends(recv, b"").await.with(5, "");
        let report: Value = serde_json::from_str(&received.stderr).unwrap();
        assert_eq!(report["missing"], 1, "{report}");
        assert_eq!(report["error"]["exit_code"], 5, "{report}");
        let [producer] = report["producers"].as_array().unwrap().as_slice() else { panic!("{report}") };
        assert_eq!(producer["producer"], "talker");
        assert_eq!((&producer["finished"], &producer["messages"]), (&Value::from(false), &Value::from(1)));
        assert_eq!((&producer["lost"]["code"], &producer["lost"]["offset"]), (&"node_lost".into(), &5.into()));
        // The producer's node outlives it, and tells it that the trunk is lost once that is known.
        let sent: Ended = ends(send, b"").await;
        assert_eq!(sent.code, Some(5), "{sent:?}");
    })
    .await;
}
