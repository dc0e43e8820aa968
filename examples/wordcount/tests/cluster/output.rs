//! What people read, and what is kept for them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use crate::place::{Place, said};

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
fn one_of_anything_is_not_told_as_many() {
    let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
    let count = |text: &str| {
        fs::write(corpus.path().join("text"), text).unwrap();
        let output = place.command(&["--nodes", "1", "--per-node", "1"], &[corpus.path()]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (summary, log) = count("x");
    assert!(summary.starts_with("The most frequent word\n  1  x\n"), "{summary}");
    assert!(summary.contains("streams  1 with 1 message, "), "{summary}");
    assert!(log.ends_with("(1 file, 1 byte)\n"), "{log}");
    let (summary, log) = count("");
    assert!(summary.starts_with("No words\n") && summary.contains("streams  1 with 0 messages, "), "{summary}");
    assert!(log.ends_with("(1 file, 0 bytes)\n"), "{log}");
    place.assert_empty();
}

#[test]
fn a_terminal_gets_bars_that_leave_a_clean_screen() {
    if !Command::new("script").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no script(1) of util-linux here, which makes a terminal");
        return;
    }
    let (place, corpus, out) = (Place::new(), tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    for name in ["a", "b", "c", "d"] {
        fs::File::create(corpus.path().join(name)).unwrap().set_len(1 << 26).unwrap();
    }
    fs::write(corpus.path().join("words"), "some words, and some more").unwrap();
    let program = place.command(&["--nodes", "1"], &[corpus.path()]);
    let words: Vec<_> = std::iter::once(program.get_program()).chain(program.get_args()).collect();
    let line: Vec<_> = words.iter().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    // Standard output is a pipe, as with `| less`: only standard error is the terminal.
    let inside = format!("stty cols 120 rows 30; {} > '{}'", line.join(" "), out.path().display());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &inside, "/dev/null"]).stdin(Stdio::null());
    script.env("TMPDIR", place.temp.path()).env("TERM", "xterm").env("SHELL", "/bin/sh");
    let output = script.output().unwrap();
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{screen}");
    for bar in ["    map [", " reduce [", "  check ["] {
        assert!(screen.contains(bar), "{bar}: {screen}");
    }
    assert!(screen.contains("/268.44 MB") && screen.contains("5 files"), "{screen}");
    // After the last bar its line is erased, and nothing follows.
    let (_, last) = screen.rsplit_once("] ").unwrap();
    assert!(last.contains("\x1b[2K") || last.contains("\x1b[J"), "{last:?}");
    let summary = fs::read_to_string(out.path()).unwrap();
    assert!(summary.starts_with("The 4 most frequent words\n") && !summary.contains('\x1b'), "{summary}");
    place.assert_empty();
}
