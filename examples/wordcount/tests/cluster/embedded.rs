//! What is particular to nodes that are embedded in a process each.

use std::{
    fs,
    net::UdpSocket,
    process::{Command, Stdio},
};

use rustix::process::Signal;

use crate::place::{Nodes, Place, Running, said, signal};

#[test]
fn a_run_is_one_process_for_each_node_and_the_guard() {
    let run = Running::start(Nodes::Embedded);
    run.counting();
    assert_eq!(run.all_running().len(), 3);
    signal(run.process.id().cast_signed(), Signal::TERM);
    run.end().1.assert_empty();
}

#[test]
fn people_read_what_the_nodes_were() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("text"), "to be or not to be").unwrap();
    let output = place.command(&["--embedded", "--nodes", "2"], &[corpus.path()]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("every word is equal"), "{text}");
    assert!(text.contains("nodes    2 processes, in each a node and its 4 mappers and reducers\n"), "{text}");
    place.assert_empty();
}

#[test]
fn a_node_process_whose_port_is_taken_says_so() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("text"), "one two").unwrap();
    let options = ["--embedded", "--nodes", "1", "--per-node", "1", "--keep"];
    let output = place.command(&options, &[corpus.path()]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let kept = fs::read_dir(place.temp.path()).unwrap().next().unwrap().unwrap().path();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = kept.join("node-1/node.toml");
    let text = fs::read_to_string(&config).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    fs::write(&config, format!("listen = \"{}\"\n{rest}", taken.local_addr().unwrap())).unwrap();
    // Its standard input stays open, as the launcher leaves it.
    let mut node = Command::new(env!("CARGO_BIN_EXE_wordcount"));
    node.args(["node", "--index", "0", "--plan"]).arg(&kept);
    let mut node = node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let launcher = node.stdin.take();
    let output = node.wait_with_output().unwrap();
    drop(launcher);
    // The launcher looks for these words, and tries other ports.
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{}", said(&output));
    assert!(said(&output).contains("in use"), "{}", said(&output));
}

#[test]
fn options_that_do_not_go_together_are_refused_before_anything_starts() {
    let place = Place::new();
    for (arguments, words) in [
        (&["--embedded", "--per-node", "256", "--jobs", "17"][..], "make 4352 reducers in the process of a node"),
        (&["map", "--embedded", "--plan", "x", "--job", "0", "--index", "0"][..], "unexpected argument '--embedded'"),
        (&["node", "--embedded", "--plan", "x", "--index", "0"][..], "unexpected argument '--embedded'"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wordcount"));
        let output = command.args(arguments).env("TMPDIR", place.temp.path()).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
        place.assert_empty();
    }
}
