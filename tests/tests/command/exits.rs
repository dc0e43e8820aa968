//! Each exit code.

use serde_json::Value;
use tokio::join;
use trunkline_tests::{cluster::Cluster, eventually, in_time};

use super::{run, trunkline};

#[tokio::test]
async fn usage_is_2_and_no_node_is_3() {
    in_time(async {
        let mut cluster = Cluster::builder().nodes(["node-a"]).start().await;
        let node = cluster.node("node-a");
        for usage in [
            &["send"][..],
            &["send", "job/consumer"],
            &["send", "job/consumer@node-b", "--run", "no spaces"],
            &["recv", "job/consumer@node-b"],
            &["recv", "job/consumer", "--expect", "0"],
            &["completions", "csh"],
            &["juggle"],
        ] {
            run(trunkline(node, usage.iter().copied()), b"").await.with(2, "error: ");
        }
        let empty = cluster.folder().join("nobody.sock");
        let empty = empty.to_str().unwrap();
        for arguments in [
            ["send", "job/consumer@node-a", "--socket", empty],
            ["recv", "job/consumer", "--socket", empty],
            ["status", "--json", "--admin", empty],
            ["streams", "--json", "--admin", empty],
        ] {
            let ended = run(trunkline(node, arguments), b"").await.with(3, "trunkline: error: cannot ");
            assert!(ended.stderr.contains(empty) && ended.stderr.contains("is trunkline-node running"), "{ended:?}");
            assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
            if arguments[1] == "--json" {
                let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
                assert_eq!(told["error"]["exit_code"], 3, "{told}");
            }
        }
        node.terminate();
        node.exited().await;
        let node = cluster.node("node-a");
        run(trunkline(node, ["recv", "job/consumer"]), b"").await.with(3, "cannot connect to the node");
        run(trunkline(node, ["recv", "job/consumer", "--wait", "1"]), b"").await.with(3, "; tried ");
        cluster.restart("node-a").await;
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_or_not_reached_is_4() {
    in_time(async {
        let cluster = Cluster::builder().nodes(["node-a"]).start().await;
        let node = cluster.node("node-a");
        run(trunkline(node, ["send", "job/consumer@nowhere"]), b"").await.with(4, "unknown_node");
        let first = trunkline(node, ["recv", "job/consumer", "--run", "one"]);
        let first = tokio::spawn(run(first, b""));
        eventually("it is bound", async || {
            node.status().await.processes.iter().any(|process| !process.binds.is_empty()).then_some(())
        })
        .await;
        run(trunkline(node, ["recv", "job/consumer", "--run", "one"]), b"").await.with(4, "already_bound");
        run(trunkline(node, ["send", "job/consumer@node-a", "--run", "two"]), b"").await.with(4, "run_mismatch");
        // None of them has harmed the first.
        let send = trunkline(node, ["send", "job/consumer@node-a", "--run", "one"]);
        let (sent, first) = join!(run(send, b"data"), first);
        sent.with(0, "");
        assert_eq!(first.unwrap().with(0, "").stdout, b"data");
    })
    .await;
}

#[tokio::test]
async fn a_sender_beyond_those_expected_waits_for_the_next_receiver() {
    in_time(async {
        let cluster = Cluster::builder().nodes(["node-a"]).start().await;
        let node = cluster.node("node-a");
        let send = |text: &'static str| run(trunkline(node, ["send", "job/consumer@node-a"]), text.as_bytes());
        let receive_twice = async {
            let first = run(trunkline(node, ["recv", "job/consumer"]), b"").await.with(0, "");
            let second = run(trunkline(node, ["recv", "job/consumer"]), b"").await.with(0, "");
            let mut received = [first.stdout, second.stdout];
            received.sort();
            received
        };
        // The second opens only when the first has ended, so that it cannot lie in the first receiver's backlog.
        let send_twice = async {
            send("first").await.with(0, "");
            send("second").await.with(0, "");
        };
        let (received, ()) = join!(receive_twice, send_twice);
        assert_eq!(received, [b"first".to_vec(), b"second".to_vec()]);
    })
    .await;
}
