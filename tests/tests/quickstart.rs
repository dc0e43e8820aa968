//! docs/quickstart.md, block after block, in one shell, as a reader copies it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use trunkline_tests::binaries;

/// The page compiles programs that may not have been compiled yet.
const PATIENCE: Duration = Duration::from_secs(900);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The fenced blocks of the page, each with its language.
fn blocks() -> Vec<(String, String)> {
    let page = fs::read_to_string(repository().join("docs/quickstart.md")).unwrap();
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) if !open => {
                blocks.push((language.to_owned(), String::new()));
                open = true;
            }
            Some(rest) => {
                assert_eq!(rest, "", "a fence closes a block");
                open = false;
            }
            None if open => blocks.last_mut().unwrap().1.extend([line, "\n"]),
            None => assert!(!line.starts_with("    "), "a block without a fence would not be run: {line}"),
        }
    }
    assert!(!open && !blocks.is_empty());
    blocks
}

/// One bash for the whole page. Dropped, it is killed with all that it started.
struct Shell {
    bash: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    deadline: Instant,
    // After the processes that use it.
    temporary: TempDir,
}

impl Shell {
    /// In the repository's root, where the reader begins; it ends at the first command that fails.
    fn start() -> Self {
        let temporary = TempDir::with_prefix_in("tl-", "/tmp").unwrap();
        let mut bash = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(repository())
            .env("TMPDIR", temporary.path())
            // The shell's own words, such as "Killed", are in the page too.
            .env("LC_ALL", "C")
            // The page says target/release.
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CARGO_BUILD_TARGET_DIR")
            .env_remove("TRUNKLINE_SOCKET")
            .env_remove("TRUNKLINE_ADMIN_SOCKET")
            .env_remove("TRUNKLINE_RUN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut stdin = bash.stdin.take().unwrap();
        writeln!(stdin, "set -e -o pipefail\nexec 2>&1").unwrap();
        let (give, lines) = mpsc::channel();
        let output = BufReader::new(bash.stdout.take().unwrap());
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| give.send(line)));
        Self { bash, stdin, lines, deadline: Instant::now() + PATIENCE, temporary }
    }

    /// Runs a block, and returns what it printed.
    fn run(&mut self, number: usize, block: &str) -> String {
        // From a file, so that no program of the page can read the rest of the page as its input.
        let file = self.temporary.path().join(format!("block-{number}.sh"));
        fs::write(&file, block).unwrap();
        let mark = format!("-- the end of block {number} --");
        writeln!(self.stdin, ". '{}' < /dev/null\nprintf '%s\\n' '{mark}'", file.display()).unwrap();
        let mut printed = String::new();
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|why| panic!("{why}, in the block\n{block}\nwhich printed\n{printed}"));
            match line.strip_suffix(&mark) {
                Some(rest) => return printed + rest,
                None => printed.extend([&line, "\n"]),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Not yet waited for, so the number is still its own. It may have ended, and its group with it.
        let _ = kill_process_group(Pid::from_child(&self.bash), Signal::KILL);
        let _ = self.bash.wait();
    }
}

/// Whether `…` in `expected` can stand for something that makes the lines equal.
fn line_matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

fn matches(expected: &str, printed: &str) -> bool {
    let (mut expected, mut printed) = (expected.lines(), printed.lines());
    loop {
        match (expected.next(), printed.next()) {
            (None, None) => return true,
            (Some(expected), Some(line)) if line_matches(expected, line) => {}
            _ => return false,
        }
    }
}

#[test]
fn an_ellipsis_stands_for_anything_in_its_line_and_nothing_else_does() {
    for (expected, line) in [("a", "a"), ("…", ""), ("…", "abc"), ("a…c", "abbc"), ("…b…", "abc"), ("a…", "a")]
    {
        assert!(line_matches(expected, line), "{expected} {line}");
    }
    for (expected, line) in [("a", "ab"), ("a…c", "ab"), ("…b…", "ac"), ("…a…a", "a"), ("", "a")] {
        assert!(!line_matches(expected, line), "{expected} {line}");
    }
    assert!(matches("a\n…\n", "a\nb\n") && !matches("a\n", "a\nb\n") && !matches("a\n…\n", "a\n"));
}

#[test]
fn every_block_of_the_quickstart_does_what_the_page_says() {
    // With the page's own features, so that its first block finds everything built.
    let _ = binaries::trunkline();
    let mut shell = Shell::start();
    let mut printed = None;
    let (mut commands, mut compared, mut programs) = (0, 0, 0);
    for (number, (language, block)) in blocks().into_iter().enumerate() {
        match language.as_str() {
            "sh" => {
                printed = Some(shell.run(number, &block));
                commands += 1;
            }
            "text" => {
                let printed = printed.take().expect("output follows the block that prints it");
                assert!(matches(&block, &printed), "the page says\n{block}\nwhere was printed\n{printed}");
                compared += 1;
            }
            "rust" => {
                let example = fs::read_to_string(repository().join("sdk/examples/quickstart.rs")).unwrap();
                assert_eq!(block, example, "the page shows sdk/examples/quickstart.rs");
                programs += 1;
            }
            other => panic!("a block of {other:?} is not run"),
        }
    }
    assert!(commands > 8 && compared > 6 && programs == 1, "{commands} {compared} {programs}");
    // The page cleans up: only what this test wrote is left.
    let left = fs::read_dir(shell.temporary.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| !name.to_string_lossy().starts_with("block-")).collect();
    assert!(left.is_empty(), "{left:?}");
}
