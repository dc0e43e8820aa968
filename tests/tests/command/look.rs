//! What the command says: JSON, tables, completions, progress.

use std::{fs::File, io::Read as _, thread};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, join};
use trunkline_tests::{cluster::Cluster, in_time};

use super::{ends, prints, run, trunkline};

const TO: &str = "job/consumer@node-b";

#[tokio::test]
async fn both_ends_say_in_json_how_it_went() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        let recv = trunkline(b, ["recv", "job/consumer", "--lines", "--json"]);
        let send = trunkline(a, ["send", TO, "--lines", "--json", "--producer", "p"]);
        let (received, sent) = join!(run(recv, b""), run(send, b"one\ntwo\n"));
        let (received, sent) = (received.with(0, ""), sent.with(0, ""));
        assert_eq!(received.stdout, b"one\ntwo\n");
        let sent: Value = serde_json::from_slice(&sent.stdout).unwrap();
        let received: Value = serde_json::from_str(&received.stderr).unwrap();
        for report in [&sent, &received] {
            assert_eq!((&report["address"], &report["run"]), (&TO.into(), &"default".into()), "{report}");
            assert_eq!((&report["messages"], &report["bytes"]), (&2.into(), &6.into()), "{report}");
            assert!(report["seconds"].as_f64().unwrap() > 0.0 && report["error"].is_null(), "{report}");
        }
        assert_eq!((&sent["finished"], &sent["node"]), (&true.into(), &"node-a".into()));
        let producer = &received["producers"][0];
        assert_eq!((&producer["producer"], &producer["node"]), (&"p".into(), &"node-a".into()));
        assert_eq!(
            (&producer["finished"], &producer["lost"], &producer["bytes"]),
            (&true.into(), &Value::Null, &6.into())
        );

        let sent = run(trunkline(a, ["send", "job/consumer@nowhere", "--json"]), b"").await.with(4, "unknown_node");
        let sent: Value = serde_json::from_slice(&sent.stdout).unwrap();
        assert_eq!((&sent["finished"], &sent["error"]["code"]), (&false.into(), &"unknown_node".into()));
    })
    .await;
}

#[tokio::test]
async fn status_and_streams_show_a_live_stream() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        // The second producer is still to come, so that the name is bound.
        let mut recv = trunkline(b, ["recv", "job/consumer", "--lines", "--expect", "2"]).spawn().unwrap();
        let mut send = trunkline(a, ["send", TO, "--lines", "--producer", "p"]).spawn().unwrap();
        send.stdin.as_mut().unwrap().write_all(b"line\n").await.unwrap();
        prints(&mut recv, "line\n").await;

        let say = async |node, arguments: &[&'static str]| {
            let ended = run(trunkline(node, arguments.iter().copied()), b"").await.with(0, "");
            String::from_utf8(ended.stdout).unwrap()
        };
        let text = say(a, &["status"]).await;
        for part in
            ["node         node-a, cluster test, trunkline", "streams      1, in 1 trunk and 1 process;", "\nnode-b "]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(say(b, &["status"]).await.contains("job/consumer"));
        let json: Value = serde_json::from_str(&say(a, &["status", "--json"]).await).unwrap();
        let status = a.status().await;
        assert_eq!((&json["node"], &json["version"]), (&"node-a".into(), &status.version.into()));
        assert_eq!((&json["trunks"][0]["peer"], &json["stream_count"]), (&"node-b".into(), &1.into()));

        let text = say(a, &["streams"]).await;
        let row = text.lines().nth(1).unwrap();
        assert!(row.starts_with("p@node-a  job/consumer@node-b  default  QUIC stream "), "{text}");
        for (filter, count) in [
            (&["--job", "job"][..], 1),
            (&["--job", "other"], 0),
            (&["--consumer", "consumer", "--producer", "p"], 1),
            (&["--consumer", "consumer", "--producer", "q"], 0),
            (&["--consumer", "other"], 0),
            (&["--peer", "node-b"], 1),
            (&["--peer", "node-a"], 0),
        ] {
            let json = say(a, &[&["streams", "--json"], filter].concat()).await;
            let json: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(json["streams"].as_array().unwrap().len(), count, "{filter:?}: {json}");
        }
        let (sent, second, received) = join!(ends(send, b""), run(trunkline(b, ["send", TO]), b""), ends(recv, b""));
        sent.with(0, "");
        second.with(0, "");
        received.with(0, "");
        cluster.carries_nothing().await;
        assert_eq!(say(a, &["streams"]).await.lines().count(), 1, "only the header is left");
        let mut full = trunkline(a, ["status"]);
        full.stdout(File::create("/dev/full").unwrap());
        run(full, b"").await.with(1, "cannot write to standard output");
    })
    .await;
}

#[tokio::test]
async fn completions_are_printed_for_each_shell() {
    in_time(async {
        let cluster = Cluster::builder().nodes(["node-a"]).start().await;
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let ended = run(trunkline(cluster.node("node-a"), ["completions", shell]), b"").await.with(0, "");
            let script = String::from_utf8(ended.stdout).unwrap();
            assert!(["recv", "streams", "lines"].iter().all(|word| script.contains(word)), "{shell}: {script}");
        }
    })
    .await;
}

#[tokio::test]
async fn progress_is_shown_on_a_terminal_with_the_percentage_of_a_file() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        let file = cluster.folder().join("input");
        std::fs::write(&file, vec![7; 3 << 20]).unwrap();
        for quiet in [false, true] {
            let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&terminal).unwrap();
            unlockpt(&terminal).unwrap();
            let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
            let stderr = File::options().read(true).write(true).open(name).unwrap();
            let mut send = trunkline(a, ["send", TO, "--file", file.to_str().unwrap()]);
            send.args(quiet.then_some("--quiet")).stderr(stderr);
            let recv = trunkline(b, ["recv", "job/consumer", "--quiet"]);
            let child = send.spawn().unwrap();
            // The command holds the other end of the terminal no longer than it has to.
            drop(send);
            let shown = thread::spawn(move || {
                let mut shown = Vec::new();
                // A terminal whose other end is closed is an error, not an end.
                let _ = File::from(terminal).read_to_end(&mut shown);
                String::from_utf8_lossy(&shown).into_owned()
            });
            let (sent, received) = join!(ends(child, b""), run(recv, b""));
            sent.with(0, "");
            received.with(0, "");
            let shown = shown.join().unwrap();
            assert_eq!(shown.contains(" of 3.00 MiB ("), !quiet, "{shown:?}");
            assert_eq!(shown.is_empty(), quiet, "{shown:?}");
        }
    })
    .await;
}
