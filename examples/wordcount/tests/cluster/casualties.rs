//! What is said when something dies or fails, and that nothing is left behind.

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::place::{Nodes, PATIENCE, Place, Running, runs, said, signal};

/// Kills one of the processes of `role`.
fn a_killed_one_is_named(role: &str) {
    let run = Running::start(Nodes::Daemons);
    let all = run.all_running();
    let victim = run.children(role, 4)[1];
    signal(victim, Signal::KILL);
    let (output, place) = run.end();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("error: the {role} process wordcount/{role}-")), "{text}");
    assert!(text.contains(&format!("(pid {victim}) was killed by signal 9 (SIGKILL)")), "{text}");
    assert!(output.stdout.is_empty());
    assert!(!all.into_iter().any(runs), "{text}");
    place.assert_empty();
}

#[test]
fn a_killed_mapper_is_named_and_nothing_is_left() {
    a_killed_one_is_named("map");
}

#[test]
fn a_killed_reducer_is_named_and_nothing_is_left() {
    a_killed_one_is_named("reduce");
}

/// Kills the process of a node while words are counted.
fn a_killed_node_is_named(nodes: Nodes, label: &str) {
    let run = Running::start(nodes);
    let victim = run.counting()[0];
    let all = run.all_running();
    signal(victim, Signal::KILL);
    let (output, place) = run.end();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    // `error: LABEL NODE (pid N) was killed …; the end of its log:`, and then lines of that node's log.
    let named = format!(" (pid {victim}) was killed by signal 9 (SIGKILL); the end of its log:\n");
    let (before, log) = text.split_once(&named).unwrap_or_else(|| panic!("{text}"));
    let (_, node) = before.split_once(&format!("error: {label} ")).unwrap_or_else(|| panic!("{text}"));
    let told = |line: &str| line.contains(&format!("{node} of cluster wordcount listens on UDP 127.0.0.1:"));
    assert!(log.lines().take_while(|line| line.starts_with("    ")).any(told), "{text}");
    assert!(output.stdout.is_empty());
    assert!(!all.into_iter().any(runs), "{text}");
    place.assert_empty();
}

#[test]
fn a_killed_daemon_is_named_with_its_log_and_nothing_is_left() {
    a_killed_node_is_named(Nodes::Daemons, "the daemon of");
}

#[test]
fn a_killed_node_process_is_named_with_its_log_and_nothing_is_left() {
    a_killed_node_is_named(Nodes::Embedded, "the node process");
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_said_to_be_raised() {
    let place = Place::new();
    let program = place.command(&["--nodes", "1", "--per-node", "20"], &[Path::new(file!())]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40 && exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).env("TMPDIR", place.temp.path());
    let output = command.output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: cannot start the ") && text.contains("Too many open files"), "{text}");
    assert!(text.contains("raise it with ulimit -n"), "{text}");
    place.assert_empty();
}

#[test]
fn an_interrupted_count_leaves_nothing() {
    for nodes in Nodes::BOTH {
        for (number, sent, status) in [(2, Signal::INT, 130), (15, Signal::TERM, 143)] {
            let run = Running::start(nodes);
            let all = run.all_running();
            signal(run.process.id().cast_signed(), sent);
            let (output, place) = run.end();
            let text = said(&output);
            assert_eq!(output.status.code(), Some(status), "{nodes:?}, signal {number}: {text}");
            assert!(text.contains("error: stopped by SIG"), "{text}");
            assert!(!all.into_iter().any(runs), "{text}");
            place.assert_empty();
        }
    }
}

#[test]
fn a_killed_launcher_leaves_nothing_for_long() {
    for nodes in Nodes::BOTH {
        let run = Running::start(nodes);
        let all = run.all_running();
        signal(run.process.id().cast_signed(), Signal::KILL);
        let start = Instant::now();
        let (output, place) = run.end();
        assert_eq!(output.status.signal(), Some(9));
        while all.iter().copied().any(runs) {
            assert!(start.elapsed() < PATIENCE, "{nodes:?}: processes outlive their launcher");
            thread::sleep(Duration::from_millis(10));
        }
        place.assert_empty();
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_so_is_the_mapper() {
    // To the file system it is a regular file, and reading it at 0 is an error whoever asks.
    let (place, file) = (Place::new(), Path::new("/proc/self/mem"));
    for (nodes, process, of_its_log) in [
        (Nodes::Daemons, "the map process wordcount/map-", "error: cannot read /proc/self/mem: "),
        (Nodes::Embedded, "the node process node-", "error: wordcount/map-"),
    ] {
        let mut command = place.command(&["--nodes", "2", "--per-node", "1"], &[file]);
        let output = command.args(nodes.options()).output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("error: {process}")), "{text}");
        assert!(text.contains(of_its_log) && text.contains("cannot read /proc/self/mem: "), "{text}");
        place.assert_empty();
    }
}

#[test]
fn a_missing_path_is_refused_before_anything_starts() {
    let place = Place::new();
    let output = place.command(&[], &[Path::new("/nowhere/at/all")]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "wordcount: error: /nowhere/at/all: no such file or folder\n");
    place.assert_empty();
}
