//! A user's process that a test can kill: `trunkline-test-process`, which says on its standard output how far it is.

use std::{
    ffi::OsString,
    fmt, fs,
    path::Path,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::binaries;

/// Starts the process in a role, `produce`, `consume`, `block`, `exchange`, `crowd-send` or `crowd-receive`, with arguments
/// `("name", value)` that become `name=value`.
///
/// # Panics
/// When it cannot be started.
pub fn spawn<'n>(role: &'n str, arguments: impl IntoIterator<Item = (&'n str, OsString)>) -> Process {
    start(Command::new(binaries::test_process()), role, arguments)
}

/// The same as another user and group, which only root can do. The program is copied into `folder`, which that user has
/// to reach; where the tests were built it may reach nothing.
///
/// # Panics
/// When it cannot be started.
pub fn spawn_as<'n>(
    uid: u32,
    folder: &Path,
    role: &'n str,
    arguments: impl IntoIterator<Item = (&'n str, OsString)>,
) -> Process {
    let program = folder.join("test-process");
    if !program.exists() {
        fs::copy(binaries::test_process(), &program).expect("a copy of the test process");
    }
    let mut command = Command::new(program);
    command.uid(uid).gid(uid).current_dir(folder);
    start(command, role, arguments)
}

fn start<'n>(mut command: Command, role: &'n str, arguments: impl IntoIterator<Item = (&'n str, OsString)>) -> Process {
    command.arg(role);
    for (name, value) in arguments {
        let mut argument = OsString::from(format!("{name}="));
        argument.push(value);
        command.arg(argument);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("the test process");
    let input = child.stdin.take().expect("its input is a pipe");
    let lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
    Process { child, input, lines }
}

/// A running process. Dropped, it is killed.
pub struct Process {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.child.id()).finish_non_exhaustive()
    }
}

impl Process {
    /// Waits for a line that begins with `word`, and returns the rest of it.
    ///
    /// # Panics
    /// When the process ends first.
    pub async fn says(&mut self, word: &str) -> String {
        let mut heard = Vec::new();
        while let Some(line) = self.lines.next_line().await.expect("its output is text") {
            match line.split_once(' ').unwrap_or((&line, "")) {
                (first, rest) if first == word => return rest.to_owned(),
                _ => heard.push(line),
            }
        }
        panic!("the process ended without {word:?}; it said {heard:?}");
    }

    /// Writes an empty line to its standard input, which a process that has blocked itself waits for.
    ///
    /// # Panics
    /// When it has ended.
    pub async fn go_on(&mut self) {
        self.tell("").await;
    }

    /// Writes a word, and a line feed, to its standard input.
    ///
    /// # Panics
    /// When it has ended.
    pub async fn tell(&mut self, word: &str) {
        self.input.write_all(format!("{word}\n").as_bytes()).await.expect("the process reads its input");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When the system does not tell.
    pub async fn exited(&mut self) -> ExitStatus {
        self.child.wait().await.expect("a child can be waited for")
    }

    /// Sends SIGKILL, and waits until it is gone.
    ///
    /// # Panics
    /// When it has ended before.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().await.expect("a child can be waited for");
    }

    /// Sends any signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        kill_process(pid.expect("the process runs"), signal).expect("a child can be signalled");
    }

    /// Its pid, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}
