//! What goes in comes out.

use std::collections::BTreeMap;

use tokio::{join, process::Command};
use trunkline_tests::{
    cluster::Cluster,
    in_time,
    payload::{Random, seed},
};

use super::{run, trunkline};

/// A receiver on node-b and a sender on node-a.
fn pair(cluster: &Cluster, flags: &[&'static str]) -> (Command, Command) {
    let recv = ["recv", "job/consumer", "--quiet"].into_iter().chain(flags.iter().copied());
    let send = ["send", "job/consumer@node-b"].into_iter().chain(flags.iter().copied());
    (trunkline(cluster.node("node-b"), recv), trunkline(cluster.node("node-a"), send))
}

#[tokio::test]
async fn bytes_and_lines_come_out_as_they_went_in() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let mut random = Random::new(seed(), 1);
        let text = "one\n\nthree, and no newline at the end of four\nfour";
        let mut many = String::new();
        for line in 0..20_000 {
            many.extend([&line.to_string(), &" ".repeat(random.below(40)), "\n"]);
        }
        let bytes = random.bytes(5_000_001);
        let cases: [(&[&str], &[u8], Vec<u8>); 5] = [
            (&[], &bytes, bytes.to_vec()),
            (&[], b"", Vec::new()),
            (&["--lines"], text.as_bytes(), format!("{text}\n").into_bytes()),
            (&["--lines"], many.as_bytes(), many.clone().into_bytes()),
            (&["--run", "2031"], text.as_bytes(), text.as_bytes().to_vec()),
        ];
        for (flags, input, expected) in cases {
            let (recv, send) = pair(&cluster, flags);
            let (received, sent) = join!(run(recv, b""), run(send, input));
            let (received, sent) = (received.with(0, ""), sent.with(0, ""));
            assert!(received.stdout == expected, "{flags:?}: {} bytes came out", received.stdout.len());
            // No terminal: nothing is said.
            assert_eq!((received.stderr.as_str(), sent.stderr.as_str(), sent.stdout.len()), ("", "", 0));
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn three_producers_are_gathered_each_in_its_order() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        let recv = trunkline(b, ["recv", "job/consumer", "--expect", "3", "--lines"]);
        let send = |node, name: &'static str| {
            let input: String = (0..5_000).map(|line| format!("{name} {line}\n")).collect();
            let command = trunkline(node, ["send", "job/consumer@node-b", "--lines", "--producer", name]);
            async move { run(command, input.as_bytes()).await.with(0, "") }
        };
        let (received, ..) = join!(run(recv, b""), send(a, "first"), send(a, "second"), send(b, "third"));
        let received = received.with(0, "trunkline: bound job/consumer@node-b, run default, for 3 producers\n");
        let mut next = BTreeMap::new();
        for line in String::from_utf8(received.stdout).unwrap().lines() {
            let (name, number) = line.split_once(' ').unwrap();
            let due: &mut usize = next.entry(name.to_owned()).or_default();
            assert_eq!(number.parse(), Ok(*due), "of {name}");
            *due += 1;
        }
        let due = ["first", "second", "third"].map(|name| (name.to_owned(), 5_000));
        assert_eq!(next, BTreeMap::from(due));
    })
    .await;
}

#[tokio::test]
async fn a_line_longer_than_a_message_is_an_error_that_names_it_and_no_clean_end() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (recv, send) = pair(&cluster, &["--lines"]);
        let mut input = b"short\n".to_vec();
        input.resize(input.len() + (64 << 20) + 1, b'x');
        let (received, sent) = join!(run(recv, b""), run(send, &input));
        sent.with(1, "line 2 of standard input is longer than a message may be, 67108864 bytes");
        let received = received.with(5, "cancelled");
        assert!(received.stderr.contains("line 2 of standard input"), "{received:?}");
        // The line before it is whole, or was dropped with the abort.
        assert!([&b"short\n"[..], b""].contains(&received.stdout.as_slice()), "{received:?}");
    })
    .await;
}
