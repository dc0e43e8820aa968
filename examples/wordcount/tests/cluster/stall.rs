//! A count beside reducers that sleep.

use std::{fs, process::Command};

use serde_json::Value;

use crate::place::{Nodes, Place, said};

/// A text of 400 kB of 6,000 different words, so that half of it is many messages.
fn text() -> String {
    (0..60_000).map(|number| format!("w{} ", number % 6_000)).collect()
}

/// Counts beside two reducers that sleep, on two nodes.
fn every_stalled_stream_is_blocked_and_everything_is_counted(nodes: Nodes) {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    for name in ["a", "b", "c"] {
        fs::write(corpus.path().join(name), text()).unwrap();
    }
    let options = ["--nodes", "2", "--per-node", "2", "--jobs", "2", "--stall", "3"];
    let json = place.json(&[&options, nodes.options()].concat(), &[corpus.path()]);
    // Verified: of the reducers that slept too, each with what its streams carried.
    assert_eq!((&json["verified"], &json["total_words"]), (&true.into(), &180_000.into()));
    assert_eq!((&json["streams"], &json["stalled_reducers"]), (&32.into(), &3.into()));
    assert_eq!(json["stalled_streams"], 6, "a mapper on each node sends to each of them");
    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key}: {json}"));
    assert!(number("stalled_bytes") > 0.0, "{json}");
    // What was blocked was sent, and read, after the reducers woke up.
    assert!(number("stalled_job_bytes") > number("stalled_bytes"), "{json}");
    assert!(number("alone_mb_per_s") > 0.0 && number("beside_stalled_mb_per_s") > 0.0, "{json}");
    for node in json["nodes"].as_array().unwrap() {
        assert_eq!((&node["udp_sockets"], &node["tcp_sockets"], &node["trunks"]), (&1.into(), &0.into(), &1.into()));
    }
    // A node has its own streams of both ends: 32 counted ones and 6, less those between processes of the other.
    let streams = |node: usize| json["nodes"][node]["streams"].as_u64().unwrap();
    assert_eq!((streams(0), streams(1)), (24 + 5, 24 + 4));
}

#[test]
fn a_count_beside_sleeping_reducers_is_exact_and_so_is_theirs_once_they_are_awake() {
    every_stalled_stream_is_blocked_and_everything_is_counted(Nodes::Daemons);
}

#[test]
fn embedded_nodes_count_beside_sleeping_reducers_too() {
    every_stalled_stream_is_blocked_and_everything_is_counted(Nodes::Embedded);
}

#[test]
fn a_sleeping_reducer_of_a_corpus_without_words_stalls_nothing() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("blank"), [0xff; 70_000]).unwrap();
    let json = place.json(&["--nodes", "1", "--per-node", "1", "--stall", "1"], &[corpus.path()]);
    assert_eq!((&json["verified"], &json["total_words"]), (&true.into(), &0.into()));
    assert_eq!((&json["stalled_streams"], &json["stalled_job_bytes"]), (&0.into(), &0.into()));
}

#[test]
fn people_read_what_slept_and_nothing_of_it_where_nobody_did() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("text"), text()).unwrap();
    for stall in [&["--stall", "1"][..], &[]] {
        let mut command = place.command(&["--nodes", "1", "--per-node", "1"], &[corpus.path()]);
        let output = command.args(stall).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let summary = String::from_utf8(output.stdout).unwrap();
        let told = summary.contains("\nstall    1 reducer of another job slept: 1 stream blocked with ");
        assert_eq!(told, !stall.is_empty(), "{summary}");
        place.assert_empty();
    }
}

#[test]
fn a_number_of_sleeping_reducers_out_of_range_is_refused() {
    for (number, words) in [("0", "0 is not in 1..=256"), ("257", "257 is not in 1..=256"), ("x", "invalid digit")] {
        let output = Command::new(env!("CARGO_BIN_EXE_wordcount")).args(["--stall", number]).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

#[test]
fn the_keys_of_a_stall_are_missing_where_nobody_slept() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("text"), "to be or not to be").unwrap();
    let json = place.json(&["--nodes", "1", "--per-node", "1"], &[corpus.path()]);
    let Value::Object(keys) = json else { panic!("{json}") };
    assert!(!keys.keys().any(|key| key.contains("stall")), "{keys:?}");
}
