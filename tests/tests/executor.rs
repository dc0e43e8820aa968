//! An application that blocks its executor for seconds: the link is served by a thread that the executor knows nothing of.

use std::{ffi::OsString, time::Duration};

use tokio::time::{Instant, sleep_until};
use trunkline_tests::{
    cluster::Cluster,
    exchange::{RUN, exchange, send_all},
    in_time,
    payload::{Payload, Random, seed},
    process,
};

const JOB: &str = "executor";
/// After this much silence a trunk is dead.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the application blocks, at least.
const BLOCKED: Duration = Duration::from_secs(4);
const KIB: usize = 1024;
/// Of what the blocked process sends before it blocks.
const MESSAGES: usize = 50;
const MESSAGE_BYTES: usize = 1_000;

#[tokio::test]
async fn a_program_that_blocks_its_executor_for_seconds_stalls_nobody_and_loses_nothing() {
    in_time(async {
        println!("SEED={}", seed());
        let trunk = |_: &str, toml: &mut String| {
            toml.push_str(&format!("[trunk]\nkeep_alive_ms = 300\nidle_timeout_ms = {}\n", IDLE_TIMEOUT.as_millis()));
        };
        let cluster = Cluster::builder().config(trunk).start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let job = a.job(JOB, RUN).unwrap();
        let mut consumer = job.consumer("awake").unwrap().bind().await.unwrap();
        let arguments = [
            ("socket", OsString::from(&cluster.node("node-b").local)),
            ("job", JOB.into()),
            ("run", RUN.into()),
            ("consumer", "blocked".into()),
            ("producer", "blocked".into()),
            ("address", consumer.address().to_string().into()),
            ("messages", MESSAGES.to_string().into()),
            ("bytes", MESSAGE_BYTES.to_string().into()),
        ];
        let mut blocked = process::spawn("block", arguments);
        let sender = job.producer("awake").unwrap().open(format!("{JOB}/blocked@node-b")).await.unwrap();
        // More than a stream's credit and everything on the way: it cannot end before the other side reads again.
        let payload = Payload::new(Random::new(seed(), 1), vec![64 * KIB; 256]);
        let mut sending = tokio::spawn(send_all(sender, payload));
        let mut receiver = consumer.accept().await.unwrap();
        // It sends the last of them and blocks in the same breath.
        let reading = tokio::spawn(async move {
            for _ in 0..MESSAGES {
                assert_eq!(receiver.recv().await.unwrap().unwrap().len(), MESSAGE_BYTES);
            }
            receiver
        });
        blocked.says("blocked").await;

        // It stays blocked until it is told to go on, whatever time the rest of this takes.
        let since = Instant::now();
        let mut receiver = reading.await.unwrap();
        let mixed = (2..6).map(|purpose| Payload::mixed(Random::new(seed(), purpose), 100, KIB * KIB)).collect();
        exchange("others", &a, &b, "consumer", mixed).await;
        // The fault lasts longer than a trunk or a link that nobody serves would.
        sleep_until(since + BLOCKED).await;
        assert!(!sending.is_finished(), "{:?}", (&mut sending).await);

        blocked.go_on().await;
        let reading = async {
            assert_eq!(receiver.recv().await.unwrap(), None);
        };
        let (sent, received, ()) = tokio::join!(sending, blocked.says("received"), reading);
        assert_eq!(received, format!("{:?}", sent.unwrap().unwrap()));
        blocked.says("finished").await;
        assert!(blocked.exited().await.success());
        cluster.carries_nothing().await;
    })
    .await;
}
