//! The whole program, with real daemons: what it counts, what it says when something dies, what it leaves behind.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long something that has to happen may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One run at a time: each starts a dozen processes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The shipped programs beside ours, as the sources are now.
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_BIN_EXE_wordcount")).parent().unwrap();
    let profile = match folder.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        profile => profile,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--package=trunkline-certs", "--package=trunkline-node", "--profile", profile]);
    cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")]);
    assert!(cargo.status().unwrap().success(), "the shipped programs do not build");
    folder.to_owned()
});

/// A place for one run: its temporary folder, which must be empty afterwards.
struct Place {
    temp: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        LazyLock::force(&PROGRAMS);
        Self { temp: tempfile::Builder::new().prefix("wct-").tempdir().unwrap(), _alone: alone }
    }

    fn command(&self, arguments: &[&str], paths: &[&Path]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wordcount"));
        command.args(arguments).args(paths).env("TMPDIR", self.temp.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn json(&self, arguments: &[&str], paths: &[&Path]) -> Value {
        let output = self.command(arguments, paths).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert!(!output.stderr.contains(&b'\x1b'), "bars where no terminal is: {}", said(&output));
        self.assert_empty();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn assert_empty(&self) {
        let left: Vec<_> = fs::read_dir(self.temp.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// A run that lasts until something is done to it.
struct Running {
    process: Child,
    place: Place,
    _corpus: TempDir,
}

impl Running {
    /// Starts a count that takes long: files without words, which take no space, and one with some.
    fn start() -> Self {
        let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
        for name in ["a", "b", "c", "d"] {
            fs::File::create(corpus.path().join(name)).unwrap().set_len(1 << 36).unwrap();
        }
        fs::write(corpus.path().join("words"), "some words, and some more").unwrap();
        let process = place.command(&["--nodes", "2"], &[corpus.path()]).spawn().unwrap();
        Self { process, place, _corpus: corpus }
    }

    /// Waits until there are `count` children whose first argument is `role`; gives their process numbers.
    fn children(&self, role: &str, count: usize) -> Vec<i32> {
        let start = Instant::now();
        loop {
            let found: Vec<_> = children_of(self.process.id())
                .into_iter()
                .filter(|(_, arguments)| arguments.get(1).is_some_and(|first| first == role))
                .map(|(pid, _)| pid)
                .collect();
            if found.len() == count {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{} {role} processes after {PATIENCE:?}", found.len());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all processes run; gives the mappers, and all.
    fn all_running(&self) -> (Vec<i32>, Vec<i32>) {
        let mappers = self.children("map", 4);
        self.children("reduce", 4);
        self.children("run", 2);
        self.children("guard", 1);
        (mappers, children_of(self.process.id()).into_keys().collect())
    }

    fn end(self) -> (Output, Place) {
        (self.process.wait_with_output().unwrap(), self.place)
    }
}

/// The processes whose parent is `pid`, with their arguments.
fn children_of(pid: u32) -> BTreeMap<i32, Vec<String>> {
    let parent = |child: i32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&child| parent(child) == Some(pid))
        .map(|child| (child, arguments_of(child)))
        .collect()
}

fn arguments_of(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Whether `pid` is, still, one of this program's processes; a zombie has no arguments.
fn runs(pid: i32) -> bool {
    arguments_of(pid)[0].contains("wordcount") || arguments_of(pid)[0].contains("trunkline")
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn said(output: &Output) -> String {
    format!("{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}

/// Copies what this checkout holds, but neither what was built nor git's own: others may be editing.
fn copy_of_this_checkout() -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
            if kind.is_dir() && entry.file_name() != "target" && entry.file_name() != ".git" {
                copy(&entry.path(), &target);
            } else if kind.is_file() {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), folder.path());
    folder
}

/// Counts with find, tr, sort and uniq: words and counts, the most frequent first.
fn count_with_other_tools(folder: &Path) -> Vec<(String, u64)> {
    let pipeline = "find \"$0\" -type f -exec cat {} \\; -exec echo \\; | tr -c 'A-Za-z0-9_' '\\n' | tr 'A-Z' 'a-z' \
                    | sort | uniq -c";
    let output = Command::new("sh").args(["-c", pipeline]).arg(folder).env("LC_ALL", "C").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut counts: Vec<(String, u64)> = lines
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(count, word)| (word.to_owned(), count.parse().unwrap()))
        .collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts
}

#[test]
fn counts_equal_those_of_other_tools_and_every_node_has_one_udp_socket() {
    let corpus = copy_of_this_checkout();
    let expected = count_with_other_tools(corpus.path());
    let place = Place::new();
    for (nodes, per_node, jobs) in [(1, 2, 1), (3, 2, 1), (2, 3, 3)] {
        let numbers = [nodes, per_node, jobs].map(|number: usize| number.to_string());
        let options = ["--nodes", &numbers[0], "--per-node", &numbers[1], "--jobs", &numbers[2]];
        let json = place.json(&options, &[corpus.path()]);
        assert_eq!(json["verified"], true);
        assert_eq!(json["distinct_words"], expected.len());
        assert_eq!(json["total_words"], expected.iter().map(|(_, count)| count).sum::<u64>());
        assert_eq!(json["top"], serde_json::to_value(&expected[..20]).unwrap());
        assert_eq!(json["streams"], jobs * (nodes * per_node) * (nodes * per_node));
        let words: usize =
            expected.iter().map(|(word, count)| (word.len() + 1) * usize::try_from(*count).unwrap()).sum();
        assert_eq!(json["stream_bytes"], words * jobs, "every word travels once for each job");
        let views = json["nodes"].as_array().unwrap();
        assert_eq!(views.len(), nodes);
        for node in views {
            assert_eq!((&node["udp_sockets"], &node["tcp_sockets"]), (&1.into(), &0.into()), "{options:?}: {node}");
            assert_eq!(node["trunks"], nodes - 1, "{options:?}: {node}");
        }
    }
}

#[test]
fn a_word_longer_than_many_chunks_and_files_without_words_are_counted() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("long"), [&b"x ".repeat(3)[..], &b"Y".repeat(1_000_000), b" x"].concat()).unwrap();
    fs::write(corpus.path().join("empty"), "").unwrap();
    fs::write(corpus.path().join("blank"), [0xff; 70_000]).unwrap();
    let json = place.json(&["--nodes", "2", "--per-node", "1"], &[corpus.path()]);
    assert_eq!(json["top"], serde_json::json!([["x", 4], ["y".repeat(1_000_000), 1]]));
    assert_eq!((&json["files"], &json["verified"]), (&3.into(), &true.into()));
}

#[test]
fn a_wrong_count_is_said_to_be_wrong() {
    // Whoever reads this file later reads other words.
    let (place, file) = (Place::new(), Path::new("/proc/uptime"));
    let output = place.command(&["--nodes", "1", "--per-node", "1", "--json"], &[file]).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: wordcount counted \"") && text.contains(" times and not "), "{text}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["verified"], false);
    place.assert_empty();
}

#[test]
fn people_get_a_summary() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("text"), "to be or not to be").unwrap();
    let output = place.command(&["--nodes", "2"], &[corpus.path()]).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(text.contains("  2  be\n  2  to\n  1  not\n  1  or\n"), "{text}");
    assert!(text.contains("every word is equal"), "{text}");
    place.assert_empty();
}

#[test]
fn all_that_was_used_is_kept_when_asked_for() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("text"), "one two").unwrap();
    let output = place.command(&["--nodes", "1", "--per-node", "1", "--keep"], &[corpus.path()]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let kept = fs::read_dir(place.temp.path()).unwrap().next().unwrap().unwrap().path();
    assert!(said(&output).contains(&format!("everything is kept in {}", kept.display())), "{}", said(&output));
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for file in ["node-1/node.toml", "logs/node-1.log", "logs/wordcount.map-1.log", "counts/wordcount/reduce-1"] {
        assert!(kept.join(file).is_file(), "{file}");
    }
}

#[test]
fn ss_sees_one_udp_socket_and_no_tcp_socket_of_each_daemon() {
    if Command::new("ss").arg("-V").output().is_err() {
        eprintln!("skipped: there is no ss here");
        return;
    }
    let run = Running::start();
    run.all_running();
    let daemons = run.children("run", 2);
    let ss = |kind: &str| {
        let output = Command::new("ss").args(["-H", "-a", "-n", "-p", kind]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let (udp, tcp) = (ss("-u"), ss("-t"));
    for daemon in daemons {
        let of_it = |lines: &str| lines.lines().filter(|line| line.contains(&format!("pid={daemon},"))).count();
        assert_eq!((of_it(&udp), of_it(&tcp)), (1, 0), "{udp}\n{tcp}");
    }
    signal(run.process.id().cast_signed(), Signal::TERM);
    run.end().1.assert_empty();
}

#[test]
fn a_killed_mapper_is_named_and_nothing_is_left() {
    let run = Running::start();
    let (mappers, all) = run.all_running();
    signal(mappers[1], Signal::KILL);
    let (output, place) = run.end();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: the map process wordcount/map-"), "{text}");
    assert!(text.contains(&format!("(pid {}) was killed by signal 9 (SIGKILL)", mappers[1])), "{text}");
    assert!(output.stdout.is_empty());
    assert!(!all.into_iter().any(runs), "{text}");
    place.assert_empty();
}

#[test]
fn a_killed_daemon_is_named_and_nothing_is_left() {
    let run = Running::start();
    let (_, all) = run.all_running();
    signal(run.children("run", 2)[0], Signal::KILL);
    let (output, place) = run.end();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: the daemon of node-") && text.contains("was killed by signal 9 (SIGKILL)"), "{text}");
    assert!(!all.into_iter().any(runs), "{text}");
    place.assert_empty();
}

#[test]
fn an_interrupted_count_leaves_nothing() {
    for (number, sent, status) in [(2, Signal::INT, 130), (15, Signal::TERM, 143)] {
        let run = Running::start();
        let (_, all) = run.all_running();
        signal(run.process.id().cast_signed(), sent);
        let (output, place) = run.end();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(status), "signal {number}: {text}");
        assert!(text.contains("error: stopped by SIG"), "{text}");
        assert!(!all.into_iter().any(runs), "{text}");
        place.assert_empty();
    }
}

#[test]
fn a_killed_launcher_leaves_nothing_for_long() {
    let run = Running::start();
    let (_, all) = run.all_running();
    signal(run.process.id().cast_signed(), Signal::KILL);
    let start = Instant::now();
    let (output, place) = run.end();
    assert_eq!(output.status.signal(), Some(9));
    while all.iter().copied().any(runs) {
        assert!(start.elapsed() < PATIENCE, "processes outlive their launcher");
        thread::sleep(Duration::from_millis(10));
    }
    place.assert_empty();
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    // To the file system it is a regular file, and reading it at 0 is an error whoever asks.
    let (place, file) = (Place::new(), Path::new("/proc/self/mem"));
    let output = place.command(&["--nodes", "2", "--per-node", "1"], &[file]).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: the map process wordcount/map-"), "{text}");
    assert!(text.contains("cannot read /proc/self/mem: "), "{text}");
    place.assert_empty();
}

#[test]
fn a_missing_path_is_refused_before_anything_starts() {
    let place = Place::new();
    let output = place.command(&[], &[Path::new("/nowhere/at/all")]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "wordcount: error: /nowhere/at/all: no such file or folder\n");
    place.assert_empty();
}

#[test]
fn missing_programs_are_built_by_cargo_first() {
    let (place, target) = (Place::new(), tempfile::tempdir().unwrap());
    let bin = target.path().join("release");
    fs::create_dir(&bin).unwrap();
    fs::write(target.path().join("CACHEDIR.TAG"), "").unwrap();
    fs::copy(env!("CARGO_BIN_EXE_wordcount"), bin.join("wordcount")).unwrap();
    // A cargo that takes what was built already.
    let cargo = target.path().join("cargo");
    let script = format!(
        "#!/bin/sh\necho \"$@\"\ncp {0}/trunkline-certs {0}/trunkline-node {1}\n",
        PROGRAMS.display(),
        bin.display()
    );
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(bin.join("wordcount"));
    command.args(["--json", "--nodes", "1"]).arg(&cargo);
    command.env("TMPDIR", place.temp.path()).env("CARGO", &cargo);
    let output = command.output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("building trunkline-certs and trunkline-node into "), "{text}");
    assert!(
        text.contains("--package=trunkline-certs --package=trunkline-node --profile=release --target-dir="),
        "{text}"
    );
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok(), "cargo's output is not the count's");
    place.assert_empty();
}
