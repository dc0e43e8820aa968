//! Every subcommand, run as CI runs it: it ends well, prints one object, and the object has what others rely on. How fast
//! it is, is not for a test.

use std::process::Command;

use serde_json::Value;

fn quick(arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline-bench"));
    let output = command.args(arguments).args(["--quick", "--json"]).output().expect("the program runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{err}", output.status);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{command:?}: {error}: {out}\n{err}"))
}

fn positive(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(object[key].as_f64().is_some_and(|figure| figure > 0.0), "{key} in {object}");
    }
}

fn rows(object: &Value) -> &[Value] {
    object["rows"].as_array().unwrap_or_else(|| panic!("no rows in {object}"))
}

#[test]
fn streams_compares_one_with_many_both_ways() {
    let object = quick(&["streams", "--counts", "1,50", "--message-bytes", "4096"]);
    positive(&object, &["embedded_ratio_max_to_one", "daemons_ratio_max_to_one", "bare_one_stream_mb_per_s"]);
    for mode in ["embedded", "daemons", "bare_task_per_stream"] {
        for streams in [1, 50] {
            let row = rows(&object).iter().find(|row| row["mode"] == mode && row["streams"] == streams);
            let row = row.unwrap_or_else(|| panic!("no row of {mode} with {streams} streams in {object}"));
            positive(row, &["mb_per_s", "rss_mib", "budget_mib"]);
            assert_eq!(row["message_bytes"], 4096);
            assert!(row["rounds"].is_u64(), "{row}");
            assert!(row["jain"].as_f64().is_some_and(|jain| jain > 0.0 && jain <= 1.0), "{row}");
            let processes = row["rss_mib_by_process"].as_object().expect("an object of processes");
            assert_eq!(processes.len(), if mode == "daemons" { 4 } else { 2 }, "{row}");
        }
    }
}

#[test]
fn relay_compares_daemons_and_embedded_nodes_with_bare_quinn() {
    let object = quick(&["relay"]);
    positive(&object, &["daemons_ratio", "embedded_ratio"]);
    let lengths: Vec<_> = rows(&object).iter().map(|row| row["message_bytes"].clone()).collect();
    assert_eq!(lengths, [65_536, 1_048_576]);
    for row in rows(&object) {
        positive(row, &["bare_mb_per_s", "embedded_mb_per_s", "daemons_mb_per_s", "embedded_ratio", "daemons_ratio"]);
    }
}

#[test]
fn messages_counts_small_ones() {
    let object = quick(&["messages", "--size", "64", "--streams", "64"]);
    positive(&object, &["daemons_messages_per_s", "embedded_messages_per_s"]);
    assert_eq!((&object["size"], &object["streams"]), (&64.into(), &64.into()));
}

#[test]
fn latency_compares_with_tcp_and_tls_and_with_bare_quinn() {
    let object = quick(&["latency", "--size", "64"]);
    let p50 = ["daemons_p50_us", "embedded_p50_us", "tcp_tls_p50_us", "quinn_p50_us", "loaded_p50_us"];
    let p99 = ["daemons_p99_us", "embedded_p99_us", "tcp_tls_p99_us", "quinn_p99_us", "loaded_p99_us"];
    positive(&object, &p50);
    for (p50, p99) in p50.iter().zip(&p99) {
        assert!(object[p99].as_f64() >= object[p50].as_f64(), "{p99} in {object}");
    }
}

#[test]
fn an_option_that_cannot_be_measured_with_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_trunkline-bench")).args(["streams", "--counts", "0"]).output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--counts"), "{output:?}");
}

#[test]
fn stall_sees_every_stalled_send_wait_and_measures_beside_them() {
    let object = quick(&["stall", "--streams", "200", "--reading", "4"]);
    positive(&object, &["throughput_ratio", "p99_ratio", "p99_us", "p99_alone_us"]);
    assert_eq!((&object["streams"], &object["reading"], &object["blocked"]), (&200.into(), &4.into(), &196.into()));
    for process in ["producer", "node_a", "node_b", "consumer"] {
        positive(&object["rss_mib"], &[process]);
        positive(&object["ceiling_mib"], &[process]);
    }
}

#[test]
fn scale_gathers_from_many_peers_over_one_udp_socket() {
    let object = quick(&["scale", "--peers", "20", "--streams-per-peer", "3"]);
    positive(&object, &["mesh_s", "handshakes_per_s", "rss_per_trunk_kib", "fds", "mb_per_s"]);
    assert!(object["rss_per_stream_kib"].is_f64() && object["idle_cpu_percent"].is_f64(), "{object}");
    assert_eq!((&object["peers"], &object["streams"], &object["udp_sockets"]), (&20.into(), &60.into(), &1.into()));
}
