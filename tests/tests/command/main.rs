//! The command `trunkline` with real daemons: what goes in comes out, and each bad end has its exit code.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ends;
mod exact;
mod exits;
mod large;
mod look;

use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};
use trunkline_tests::{binaries, cluster::Daemon};

/// The command with these arguments, attached to this node. All three of its standard streams are pipes.
fn trunkline<'a>(node: &Daemon, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(binaries::trunkline());
    command.args(arguments).env_remove("TRUNKLINE_RUN").kill_on_drop(true);
    command.env("TRUNKLINE_SOCKET", &node.local).env("TRUNKLINE_ADMIN_SOCKET", &node.admin);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn with(self, code: i32, stderr: &str) -> Self {
        assert!(self.code == Some(code) && self.stderr.contains(stderr), "not {code}, {stderr:?}: {self:?}");
        self
    }
}

/// Gives it this input and waits for its end.
async fn ends(mut child: Child, input: &[u8]) -> Ended {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let give = async {
        if let Some(mut stdin) = stdin {
            // It may end before it has read everything.
            let _ = stdin.write_all(input).await;
        }
    };
    let (mut out, mut err) = (Vec::new(), String::new());
    let take_out = async {
        if let Some(mut stdout) = stdout {
            stdout.read_to_end(&mut out).await.unwrap();
        }
    };
    let take_err = async {
        if let Some(mut stderr) = stderr {
            stderr.read_to_string(&mut err).await.unwrap();
        }
    };
    let ((), (), (), status) = tokio::join!(give, take_out, take_err, child.wait());
    let status: ExitStatus = status.unwrap();
    Ended { code: status.code(), stdout: out, stderr: err }
}

async fn run(mut command: Command, input: &[u8]) -> Ended {
    ends(command.spawn().unwrap(), input).await
}

/// Waits until it has printed exactly this.
async fn prints(child: &mut Child, expected: &str) {
    let mut printed = vec![0; expected.len()];
    child.stdout.as_mut().unwrap().read_exact(&mut printed).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&printed), expected);
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    kill_process(pid.expect("it runs"), signal).unwrap();
}
