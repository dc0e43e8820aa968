//! The guard: a process that outlives a launcher which was killed, and clears up what it could not.
//!
//! The launcher writes lines to its standard input: `watch PID` for every process it starts, `release` when nothing is
//! left to do. When the pipe ends without `release`, the guard kills what still runs and removes the folder.

use std::{
    fs,
    io::{self, BufRead, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::cli::Watch;

/// How long the guard waits for killed processes to vanish before it removes the folder under them.
const VANISH_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it looks.
const VANISH_PAUSE: Duration = Duration::from_millis(10);

/// The launcher's end.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Child,
    orders: Option<ChildStdin>,
}

impl Guard {
    /// Starts `program` as the guard of `folder`.
    pub(crate) fn start(program: &Path, folder: &Path, keep: bool) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("guard").arg("--folder").arg(folder);
        if keep {
            command.arg("--keep");
        }
        // A group of its own: Ctrl-C in a terminal is for the launcher. Not in the folder that will be removed.
        command.current_dir("/").process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn()?;
        let orders = process.stdin.take();
        Ok(Self { process, orders })
    }

    /// Watches over `pid` too. A guard that is gone is no reason to stop: the launcher clears up itself as long as it
    /// lives.
    pub(crate) fn watch(&mut self, pid: u32) {
        if let Some(orders) = &mut self.orders {
            let _ = writeln!(orders, "watch {pid}");
        }
    }

    /// Nothing is left to clear up.
    pub(crate) fn release(mut self) {
        if let Some(mut orders) = self.orders.take() {
            let _ = writeln!(orders, "release");
        }
        let _ = self.process.wait();
    }
}

/// A process as it was when it was watched. Its number may be given to another one later; its start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watched {
    pid: i32,
    started: u64,
}

impl Watched {
    fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)? })
    }

    fn runs(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    fn kill(self) {
        if self.runs()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The process `wordcount guard`.
pub(crate) fn main(watch: &Watch) -> ExitCode {
    let mut watched = Vec::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("watch", pid)) => watched.extend(pid.parse().ok().and_then(Watched::of)),
            _ if line == "release" => return ExitCode::SUCCESS,
            _ => {}
        }
    }
    clear_up(&watched, (!watch.keep).then_some(&watch.folder))
}

fn clear_up(watched: &[Watched], folder: Option<&PathBuf>) -> ExitCode {
    watched.iter().for_each(|process| process.kill());
    let deadline = Instant::now() + VANISH_TIMEOUT;
    while watched.iter().any(|process| process.runs()) && Instant::now() < deadline {
        thread::sleep(VANISH_PAUSE);
    }
    match folder.map(fs::remove_dir_all) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// When a process was started, in ticks since the machine was; nothing when it has ended.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, brackets too.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_killed_and_the_folder_removed() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::create_dir_all(inside.join("deeper")).unwrap();
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let watched = Watched::of(sleeper.id().cast_signed()).unwrap();
        assert!(watched.runs());
        clear_up(&[watched], Some(&inside));
        assert!(!watched.runs() && !inside.exists());
        sleeper.wait().unwrap();
    }

    #[test]
    fn another_process_of_the_same_number_is_left_alone() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let now = Watched::of(sleeper.id().cast_signed()).unwrap();
        Watched { started: now.started + 1, ..now }.kill();
        assert!(now.runs());
        now.kill();
        sleeper.wait().unwrap();
    }
}
