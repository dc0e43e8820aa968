//! What is said when a process ends that should not have: which one, why, and the tail of its log.

use std::{
    fmt::{self, Write},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::ExitStatus,
};

use crate::children::{Ended, Kind};

/// How much of a log is shown.
const TAIL_LINES_MAX: usize = 12;

/// How much of a log is looked at for these lines.
const TAIL_BYTES_MAX: u64 = 4 * 1024;

/// How many of those that fell after the first one are named.
const NAMED_MAX: usize = 3;

/// A process that ended early, and those that fell with it.
#[derive(Debug)]
pub(crate) struct Casualty {
    label: String,
    pid: u32,
    how: String,
    tail: Vec<String>,
    others: Vec<String>,
    uncounted: usize,
}

impl Casualty {
    /// Finds the one that is to blame among those that ended within a moment: one that was killed from outside or a
    /// daemon first, then one that failed for a reason of its own, then the earliest.
    pub(crate) fn of(mut ended: Vec<Ended>) -> Self {
        ended.sort_by_key(blame);
        let mut ended = ended.into_iter();
        let first = ended.next().expect("called because one has ended");
        let uncounted = ended.len().saturating_sub(NAMED_MAX);
        let others = ended.take(NAMED_MAX).map(|other| {
            let said = tail(&other.log).pop().map(|line| format!(": {line}")).unwrap_or_default();
            format!("{} {}{said}", other.label, how(&other.status))
        });
        Self {
            tail: tail(&first.log),
            how: how(&first.status),
            others: others.collect(),
            uncounted,
            label: first.label,
            pid: first.pid,
        }
    }

    /// Whether the tail of its log holds `words`.
    pub(crate) fn said(&self, words: &str) -> bool {
        self.tail.iter().any(|line| line.contains(words))
    }
}

impl fmt::Display for Casualty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}) {}", self.label, self.pid, self.how)?;
        if self.tail.is_empty() {
            f.write_str("; its log is empty")?;
        } else {
            f.write_str("; the end of its log:")?;
        }
        for line in &self.tail {
            write!(f, "\n    {line}")?;
        }
        if !self.others.is_empty() {
            f.write_str("\n  and with it:")?;
        }
        for other in &self.others {
            write!(f, "\n    {other}")?;
        }
        if self.uncounted > 0 {
            write!(f, "\n    and {} more", self.uncounted)?;
        }
        Ok(())
    }
}

/// Lower is more to blame. Sorting keeps the order of time among equals.
fn blame(ended: &Ended) -> u8 {
    match &ended.status {
        Ok(status) if status.signal().is_some() => 0,
        _ if ended.slot.kind == Kind::Daemon => 1,
        _ if ended.lost_another() => 3,
        _ => 2,
    }
}

/// How a process ended, as the end of a sentence.
pub(crate) fn how(status: &io::Result<ExitStatus>) -> String {
    match status {
        Err(error) => format!("could not be waited for: {error}"),
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("was killed by signal {signal}{}", signal_name(signal)),
            (None, Some(0)) => "ended before its work was done".to_owned(),
            (None, Some(code)) => format!("failed with exit status {code}"),
            (None, None) => format!("ended: {status}"),
        },
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        31 => " (SIGSYS)",
        _ => "",
    }
}

/// The last lines of a log, none when it cannot be read.
fn tail(log: &Path) -> Vec<String> {
    let read = || -> io::Result<(bool, Vec<u8>)> {
        let mut file = File::open(log)?;
        let skipped = file.metadata()?.len().saturating_sub(TAIL_BYTES_MAX);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok((skipped > 0, bytes))
    };
    let (cut, bytes) = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().skip(usize::from(cut)).map(printable).collect();
    lines[lines.len().saturating_sub(TAIL_LINES_MAX)..].to_vec()
}

/// Without control characters, which a log may hold and a terminal would obey.
fn printable(line: &str) -> String {
    line.chars().fold(String::new(), |mut text, character| {
        if character.is_control() && character != '\t' {
            // Writing to a String does not fail.
            let _ = write!(text, "{}", character.escape_default());
        } else {
            text.push(character);
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{children::Slot, plan::Part, roles::EXIT_LOST};

    fn ended(folder: &Path, label: &str, kind: Kind, wait_status: i32, log: &str) -> Ended {
        let path = folder.join(label);
        fs::write(&path, log).unwrap();
        Ended {
            slot: Slot { kind, index: 0 },
            label: label.to_owned(),
            pid: 7,
            log: path,
            status: Ok(ExitStatus::from_raw(wait_status)),
        }
    }

    #[test]
    fn the_one_that_was_killed_is_named_before_those_that_it_took_along() {
        let folder = tempfile::tempdir().unwrap();
        let lost = i32::from(EXIT_LOST) << 8;
        let casualty = Casualty::of(vec![
            ended(
                folder.path(),
                "reducer 1",
                Kind::Worker(Part::Reduce),
                lost,
                "error: the stream of map-1@node-1 was lost\n",
            ),
            ended(folder.path(), "mapper 1", Kind::Worker(Part::Map), 9, ""),
            ended(folder.path(), "mapper 2", Kind::Worker(Part::Map), 1 << 8, "error: cannot read x\n"),
        ]);
        let text = casualty.to_string();
        let expected = "mapper 1 (pid 7) was killed by signal 9 (SIGKILL); its log is empty\n  and with it:\n    \
                        mapper 2 failed with exit status 1: error: cannot read x\n    \
                        reducer 1 failed with exit status 3: error: the stream of map-1@node-1 was lost";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_daemon_is_to_blame_before_its_processes() {
        let folder = tempfile::tempdir().unwrap();
        let casualty = Casualty::of(vec![
            ended(folder.path(), "mapper 1", Kind::Worker(Part::Map), 1 << 8, ""),
            ended(folder.path(), "node-1", Kind::Daemon, 1 << 8, "Address already in use\n"),
        ]);
        assert!(casualty.to_string().starts_with("node-1 (pid 7) failed with exit status 1"), "{casualty}");
        assert!(casualty.said("already in use"));
    }

    #[test]
    fn the_node_that_failed_by_itself_is_named_before_those_that_lost_it() {
        let folder = tempfile::tempdir().unwrap();
        let lost = i32::from(EXIT_LOST) << 8;
        let casualty = Casualty::of(vec![
            ended(folder.path(), "node-1", Kind::Node, lost, "error: node-2 is gone\n"),
            ended(folder.path(), "node-2", Kind::Node, 1 << 8, "error: wordcount/map-3: cannot read x\n"),
        ]);
        assert!(casualty.to_string().starts_with("node-2 (pid 7) failed with exit status 1"), "{casualty}");
    }

    #[test]
    fn a_tail_is_short_whole_lined_and_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let log: String = (0..2_000).map(|line| format!("line {line} \u{1b}[31m\n")).collect();
        let ended = ended(folder.path(), "log", Kind::Worker(Part::Map), 9, &log);
        let tail = tail(&ended.log);
        assert_eq!(tail.len(), TAIL_LINES_MAX);
        assert_eq!(tail[0], "line 1988 \\u{1b}[31m");
    }
}
