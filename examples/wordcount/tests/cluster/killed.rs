//! A count during which a node is killed and started again. Without `--rounds` it cannot be over before the node is back,
//! however fast it is.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Command,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::place::{Nodes, Place, Running, runs, said, signal};

/// Words of the corpus.
const WORDS: u64 = 6 * 250_000;

/// Some megabytes, which keep all streams busy for a while in each round.
fn corpus() -> TempDir {
    let corpus = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let text: String = (0..WORDS / 6).map(|number| format!("w{} ", number % 7_000)).collect();
        fs::write(corpus.path().join(name), text).unwrap();
    }
    corpus
}

#[test]
fn a_count_is_exact_though_a_node_was_killed_and_the_report_says_so() {
    let (place, corpus) = (Place::new(), corpus());
    let options = ["--nodes", "3", "--per-node", "2", "--kill-node", "400ms", "--json", "--keep"];
    let output = place.command(&options, &[corpus.path()]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key}: {json}"));
    let rounds = json["rounds"].as_u64().unwrap();
    assert_eq!((&json["verified"], &json["total_words"]), (&true.into(), &(rounds * WORDS).into()));
    assert_eq!((&json["distinct_words"], &json["files"]), (&7_000.into(), &6.into()));
    assert_eq!(json["killed_node"], "node-2");
    assert!(rounds >= 2, "the last round begins after the first: {json}");
    assert!(number("killed_after_seconds") >= 0.4 && number("back_after_seconds") >= 0.5, "{json}");
    assert!(number("seconds") > number("killed_after_seconds") + number("back_after_seconds"), "{json}");
    for node in json["nodes"].as_array().unwrap() {
        assert_eq!((&node["udp_sockets"], &node["tcp_sockets"], &node["trunks"]), (&1.into(), &0.into(), &2.into()));
    }
    // The log of the daemon that came back goes on where that of the killed one ended.
    let kept = fs::read_dir(place.temp.path()).unwrap().next().unwrap().unwrap().path();
    let starts = |node: &str| {
        let log = fs::read_to_string(kept.join(format!("logs/{node}.log"))).unwrap();
        log.lines().filter(|line| line.contains(&format!("{node} of cluster wordcount listens on UDP"))).count()
    };
    assert_eq!(["node-1", "node-2", "node-3"].map(starts), [1, 2, 1]);
}

#[test]
fn people_read_which_node_was_killed() {
    let (place, corpus) = (Place::new(), corpus());
    // Of several the second one; and where there is but one, all streams are local.
    for (nodes, killed) in [("2", "node-2"), ("1", "node-1")] {
        let options = ["--nodes", nodes, "--per-node", "1", "--kill-node", "0.2s"];
        let output = place.command(&options, &[corpus.path()]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", said(&output));
        assert!(text.contains("every word is equal\n") && text.contains(" rounds over the files\n"), "{text}");
        let (_, line) = text.split_once("\noutage   ").unwrap_or_else(|| panic!("{text}"));
        assert!(line.starts_with(&format!("the daemon of {killed} was killed after 0.")), "{line}");
        let log = said(&output);
        for done in ["killed the daemon of", "started the daemon of", "processes can attach to"] {
            assert!(log.contains(&format!("wordcount: {done} {killed} ")), "{log}");
        }
        place.assert_empty();
    }
}

#[test]
fn a_mapper_without_files_makes_no_rounds_for_the_others() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    // More mappers than files: those without any would go round thousands of times until the node is back.
    let text: String = (0..WORDS).map(|number| format!("w{number} ")).collect();
    fs::write(corpus.path().join("all"), text).unwrap();
    let json = place.json(&["--nodes", "2", "--per-node", "1", "--kill-node", "1ms"], &[corpus.path()]);
    assert_eq!((&json["verified"], &json["killed_node"]), (&true.into(), &"node-2".into()));
    // As many times as the one with the file could send it, and once more; a word takes some nanoseconds at the least.
    let (rounds, seconds) = (json["rounds"].as_f64().unwrap(), json["seconds"].as_f64().unwrap());
    assert!(rounds >= 2.0 && rounds < 2.0 + seconds / 2e-3, "{json}");
}

#[test]
fn every_round_counts_every_file() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("text"), "to be or not to be").unwrap();
    for nodes in Nodes::BOTH {
        let options = [&["--nodes", "2", "--jobs", "2", "--rounds", "3"], nodes.options()].concat();
        let json = place.json(&options, &[corpus.path()]);
        assert_eq!((&json["verified"], &json["rounds"], &json["total_words"]), (&true.into(), &3.into(), &18.into()));
        assert_eq!(json["top"], serde_json::json!([["be", 6], ["to", 6], ["not", 3], ["or", 3]]));
        assert!(json.get("killed_node").is_none(), "{json}");
    }
}

#[test]
fn a_count_that_is_over_before_the_node_is_killed_is_no_success() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("text"), "to be or not to be").unwrap();
    let options = ["--nodes", "2", "--rounds", "1", "--kill-node", "3600s", "--json"];
    let output = place.command(&options, &[corpus.path()]).output().unwrap();
    let text = said(&output);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
    assert!(text.contains("error: all words were counted after "), "{text}");
    assert!(text.contains(" s, before a node could be killed after 3600.00 s: use a shorter --kill-node"), "{text}");
    place.assert_empty();
}

/// Kills a daemon that nobody expects to die, and sees that it is named, and what of the outage is told then.
fn another_death_fails_the_count(run: Running, victim: i32, told: Option<&str>) {
    let all = run.all_running();
    signal(victim, Signal::KILL);
    let (output, place) = run.end();
    let text = said(&output);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
    assert!(text.contains(&format!(" (pid {victim}) was killed by signal 9 (SIGKILL); ")), "{text}");
    match told {
        Some(told) => assert!(text.contains(told), "{text}"),
        None => assert!(!text.contains("--kill-node"), "{text}"),
    }
    assert!(!all.into_iter().any(runs), "{text}");
    place.assert_empty();
}

#[test]
fn a_daemon_that_dies_before_its_time_or_another_one_fails_the_count() {
    for index in [0, 1] {
        let run = Running::start_with(Nodes::Daemons, &["--kill-node", "3600s"]);
        let victim = run.counting()[index];
        another_death_fails_the_count(run, victim, None);
    }
}

#[test]
fn a_daemon_that_dies_after_the_outage_fails_the_count_and_the_outage_is_told() {
    for index in [0, 1] {
        let mut run = Running::start_with(Nodes::Daemons, &["--kill-node", "1ms"]);
        let mut log = BufReader::new(run.process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("wordcount: processes can attach to node-2 again") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the count has ended");
        }
        // Nothing more is said until something dies: no line is lost here.
        run.process.stderr = Some(log.into_inner());
        let victim = run.children("run", 2)[index];
        another_death_fails_the_count(run, victim, Some("before that: the daemon of node-2 was killed "));
    }
}

#[test]
fn a_duration_that_is_none_is_refused_and_so_are_options_that_do_not_go_with_a_kill() {
    let place = Place::new();
    for (arguments, words) in [
        (&["--kill-node", "soon"][..], "write a number with ms or s, such as 500ms or 2s"),
        (&["--kill-node", "2"], "write a number with ms or s, such as 500ms or 2s"),
        (&["--kill-node=-2s"], "write a number with ms or s, such as 500ms or 2s"),
        (&["--kill-node", "0s"], "nothing is counted yet at that time: write 1ms or more"),
        (&["--kill-node", "0ms"], "nothing is counted yet at that time: write 1ms or more"),
        (&["--rounds", "0"], "0 is not in 1..=1000000"),
        (
            &["--embedded", "--kill-node", "2s"],
            "--kill-node kills a daemon, and --embedded starts none: leave one of them out",
        ),
        (&["--stall", "1", "--kill-node", "2s"], "--kill-node stops both: leave one of them out"),
        (&["--stall", "1", "--rounds", "2"], "--stall counts every file once: leave it or --rounds out"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wordcount"));
        let output = command.args(arguments).env("TMPDIR", place.temp.path()).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
        place.assert_empty();
    }
}
