//! What is counted, and that it is right.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use walkdir::WalkDir;

use crate::place::{Nodes, Place, said, signal};

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

/// Crates that this workspace is built with, and whose sources are therefore unpacked.
const CRATES: [&str; 10] =
    ["clap", "futures-util", "libc", "nix", "rustix", "rustls", "thiserror", "time", "tokio", "tower"];

/// How many files they have at least.
const FILES_MIN: usize = 2_000;

/// The folders of [`CRATES`], in the versions of the lock file; or why there are too few files in them.
fn sources_of_crates() -> Result<Vec<PathBuf>, String> {
    let registries = cargo_home().join("registry/src");
    let registries: Vec<_> =
        fs::read_dir(&registries).map_err(|error| format!("{}: {error}", registries.display()))?.flatten().collect();
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
    let lock: toml::Table = lock.parse().unwrap();
    let packages =
        lock["package"].as_array().unwrap().iter().map(|package| {
            (package["name"].as_str().unwrap().to_owned(), package["version"].as_str().unwrap().to_owned())
        });
    let folders: Vec<_> = packages
        .filter(|(name, _)| CRATES.contains(&name.as_str()))
        .flat_map(|(name, version)| {
            registries.iter().map(move |folder| folder.path().join(format!("{name}-{version}")))
        })
        .filter(|folder| folder.is_dir())
        .collect();
    let entries = folders.iter().flat_map(WalkDir::new).flatten();
    let files = entries.filter(|entry| entry.file_type().is_file()).count();
    if files < FILES_MIN { Err(format!("{files} files in {folders:?}")) } else { Ok(folders) }
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(|| env::home_dir().unwrap().join(".cargo"), PathBuf::from)
}

/// Counts with find, tr, sort and uniq: words and counts, the most frequent first.
fn count_with_other_tools(folders: &[&Path]) -> Vec<(String, u64)> {
    // grep, for it ends the last line of a file too, so that no word goes on in the next file.
    let pipeline = "find \"$@\" -type f -exec grep -ah '' {} + | tr -c 'A-Za-z0-9_' '\\n' | tr 'A-Z' 'a-z' \
                    | sort | uniq -c";
    let output = Command::new("sh").args(["-c", pipeline, "sh"]).args(folders).env("LC_ALL", "C").output().unwrap();
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

/// Counts this checkout in clusters of several shapes.
fn counts_equal_those_of_other_tools(kind: Nodes) {
    let corpus = copy_of_this_checkout();
    let expected = count_with_other_tools(&[corpus.path()]);
    let place = Place::new();
    for (nodes, per_node, jobs) in [(1, 2, 1), (3, 2, 1), (2, 3, 3)] {
        let numbers = [nodes, per_node, jobs].map(|number: usize| number.to_string());
        let options = ["--nodes", &numbers[0], "--per-node", &numbers[1], "--jobs", &numbers[2]];
        let json = place.json(&[&options, kind.options()].concat(), &[corpus.path()]);
        assert_eq!((&json["verified"], &json["embedded"]), (&true.into(), &(kind == Nodes::Embedded).into()));
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
fn counts_equal_those_of_other_tools_and_every_node_has_one_udp_socket() {
    counts_equal_those_of_other_tools(Nodes::Daemons);
}

#[test]
fn counts_of_embedded_nodes_equal_those_of_other_tools_and_every_node_has_one_udp_socket() {
    counts_equal_those_of_other_tools(Nodes::Embedded);
}

#[test]
fn every_word_of_thousands_of_files_is_counted_as_other_tools_do_in_every_job_and_on_any_number_of_nodes() {
    let folders = match sources_of_crates() {
        Ok(folders) => folders,
        Err(reason) => {
            eprintln!("skipped: the sources of some dependencies are not in cargo's registry folder: {reason}");
            return;
        }
    };
    let folders: Vec<_> = folders.iter().map(PathBuf::as_path).collect();
    let start = Instant::now();
    let expected = count_with_other_tools(&folders);
    let all: BTreeMap<_, _> = expected.iter().cloned().collect();
    let total: u64 = all.values().sum();
    println!("{} words, {total} in all: {:?} with other tools", all.len(), start.elapsed());
    let place = Place::new();
    let (per_node, jobs) = (4, 3);
    for nodes in [1, 3, 5] {
        let start = Instant::now();
        let numbers = [nodes, per_node, jobs].map(|number: usize| number.to_string());
        let options = ["--nodes", &numbers[0], "--per-node", &numbers[1], "--jobs", &numbers[2]];
        let output = place.command(&options, &folders).args(["--json", "--keep"]).output().unwrap();
        assert!(output.status.success(), "{options:?}: {}", said(&output));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(json["files"].as_u64().unwrap() >= FILES_MIN as u64, "{}", json["files"]);
        assert_eq!((&json["verified"], &json["total_words"]), (&true.into(), &total.into()), "{options:?}");
        assert_eq!(json["distinct_words"], all.len(), "{options:?}");
        assert_eq!(json["top"], serde_json::to_value(&expected[..20]).unwrap(), "{options:?}");
        let kept = fs::read_dir(place.temp.path()).unwrap().next().unwrap().unwrap().path();
        for job in 1..=jobs {
            // Not a word more, not a word less: what the reducers wrote, all together.
            let counted = counts_of_reducers(&kept.join(format!("counts/wordcount-{job}")), nodes * per_node);
            let differs = all.iter().find(|(word, count)| counted.get(*word) != Some(count));
            assert!(differs.is_none() && counted.len() == all.len(), "{options:?}, job {job}: {differs:?}");
        }
        fs::remove_dir_all(kept).unwrap();
        let views = json["nodes"].as_array().unwrap();
        assert_eq!(views.len(), nodes);
        for node in views {
            let of_it = ["udp_sockets", "tcp_sockets", "trunks"].map(|what| node[what].as_u64().unwrap());
            assert_eq!(of_it, [1, 0, nodes as u64 - 1], "{options:?}: {node}");
        }
        println!("{nodes} nodes, {per_node} per node, {jobs} jobs: {:?}", start.elapsed());
    }
    place.assert_empty();
}

/// What the reducers of one job wrote.
fn counts_of_reducers(folder: &Path, reducers: usize) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for reducer in 1..=reducers {
        for line in fs::read_to_string(folder.join(format!("reduce-{reducer}"))).unwrap().lines() {
            let (word, count) = line.rsplit_once(' ').unwrap();
            let earlier = counts.insert(word.to_owned(), count.parse().unwrap());
            assert_eq!(earlier, None, "two reducers counted {word}");
        }
    }
    counts
}

/// The line in which a count without a PATH says what it counts; then the count is stopped.
fn default_corpus(cargo_home: &Path) -> String {
    let place = Place::new();
    let mut process = place.command(&["--nodes", "1"], &[]).env("CARGO_HOME", cargo_home).spawn().unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(process.stderr.take().unwrap());
    lines.read_line(&mut line).unwrap();
    signal(process.id().cast_signed(), Signal::TERM);
    // What else it says has to go somewhere.
    lines.lines().for_each(|line| drop(line.unwrap()));
    process.wait().unwrap();
    place.assert_empty();
    line
}

#[test]
fn without_a_path_the_dependencies_are_counted_and_without_those_this_checkout() {
    let empty = tempfile::tempdir().unwrap();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let line = default_corpus(empty.path());
    let expected = format!("wordcount: corpus: this checkout, {} (", checkout.display());
    assert!(line.starts_with(&expected), "{line}");
    assert!(!line.ends_with("(0 files, 0 bytes)\n"), "{line}");
    if let Err(reason) = sources_of_crates() {
        eprintln!("skipped: cargo's registry folder lacks the dependencies' sources: {reason}");
        return;
    }
    let line = default_corpus(&cargo_home());
    let (_, rest) = line.split_once("wordcount: corpus: the sources of ").unwrap_or_else(|| panic!("{line}"));
    let (crates, rest) = rest.split_once(" of this project's dependencies in cargo's registry (").unwrap();
    assert!(crates.parse::<usize>().unwrap() >= CRATES.len(), "{line}");
    assert!(rest.ends_with(" bytes)\n"), "{line}");
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
    // Whoever reads this file once more reads other words, however soon.
    let (place, file) = (Place::new(), Path::new("/proc/sys/kernel/random/uuid"));
    let output = place.command(&["--nodes", "1", "--per-node", "1", "--json"], &[file]).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: wordcount counted \"") && text.contains(" and not "), "{text}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["verified"], false);
    place.assert_empty();
}
