//! The processes that the launcher started: one task attends to each, reads what it tells, and sees it end.
//!
//! Whatever was started is here before the next await, so that [`Children::stop`] finds it on every way out.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};

use crate::{
    events::Event,
    plan::Part,
    roles::{EXIT_LOST, Word},
};

/// Reports that wait for the launcher. When it is full, processes wait to tell their progress.
const REPORTS_MAX: usize = 1_024;

/// How long a daemon may take to leave when the whole is given up. Then it is killed.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the one that others lost may take to end: it tells its peers why, and an embedded node drains.
const CULPRIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `trunkline-node`.
    Daemon,
    /// `wordcount node`.
    Node,
    /// `wordcount map` or `wordcount reduce`.
    Worker(Part),
}

/// A place that one process fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// What it is.
    pub(crate) kind: Kind,
    /// Which of them, over all nodes and jobs.
    pub(crate) index: usize,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Which place it filled.
    pub(crate) slot: Slot,
    /// What people call it.
    pub(crate) label: String,
    /// Its number while it lived.
    pub(crate) pid: u32,
    /// What it wrote to standard error.
    pub(crate) log: PathBuf,
    /// How it ended.
    pub(crate) status: io::Result<ExitStatus>,
}

impl Ended {
    /// Whether it said that its work is done.
    pub(crate) fn well(&self) -> bool {
        self.status.as_ref().is_ok_and(ExitStatus::success)
    }

    /// Whether it said that it failed only because another one was lost.
    pub(crate) fn lost_another(&self) -> bool {
        self.status.as_ref().is_ok_and(|status| status.code() == Some(EXIT_LOST.into()))
    }
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A process told something.
    Told(Slot, Event),
    /// A process ended. All that it told came before.
    Ended(Ended),
}

/// What the launcher wants of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Say(Word),
    Terminate,
    Kill,
    /// For the one process with this number.
    KillOne(u32),
}

impl Order {
    /// Nothing is wanted yet.
    const QUIET: Self = Self::Say(Word::Wait);
}

/// All that were started and not yet reported as ended.
#[derive(Debug)]
pub(crate) struct Children {
    logs: PathBuf,
    attended: JoinSet<Ended>,
    daemon_orders: watch::Sender<Order>,
    role_orders: watch::Sender<Order>,
    told: mpsc::Receiver<(Slot, Event)>,
    teller: mpsc::Sender<(Slot, Event)>,
}

impl Children {
    /// None yet. Their logs will lie in the folder `logs`, which is made.
    pub(crate) fn new(logs: PathBuf) -> io::Result<Self> {
        fs::create_dir(&logs)?;
        let (teller, told) = mpsc::channel(REPORTS_MAX);
        let (daemon_orders, role_orders) = (watch::Sender::new(Order::QUIET), watch::Sender::new(Order::QUIET));
        Ok(Self { logs, attended: JoinSet::new(), daemon_orders, role_orders, told, teller })
    }

    /// Starts a process that people call `label`; gives its number. Its standard error goes to the log `name`.
    pub(crate) fn start(&mut self, slot: Slot, label: &str, name: &str, mut command: Command) -> io::Result<u32> {
        let log = self.logs.join(format!("{name}.log"));
        let (input, output) = match slot.kind {
            Kind::Daemon => (Stdio::null(), Stdio::from(open_log(&log)?)),
            Kind::Node | Kind::Worker(_) => (Stdio::piped(), Stdio::piped()),
        };
        // A group of its own: Ctrl-C in a terminal is for the launcher, which stops them in order.
        command.process_group(0).kill_on_drop(true).stdin(input).stdout(output).stderr(open_log(&log)?);
        // They would take the place of keys that this launcher wrote, in all daemons alike.
        for (name, _) in env::vars_os().filter(|(name, _)| is_override(name)) {
            command.env_remove(name);
        }
        let child = command.spawn()?;
        let pid = child.id().unwrap_or_default();
        let orders = match slot.kind {
            Kind::Daemon => self.daemon_orders.subscribe(),
            Kind::Node | Kind::Worker(_) => self.role_orders.subscribe(),
        };
        let (teller, label) = (self.teller.clone(), label.to_owned());
        self.attended.spawn(async move {
            let status = attend(child, slot, orders, teller).await;
            Ended { slot, label, pid, log, status }
        });
        Ok(pid)
    }

    /// The next thing that happens; nothing when all have ended and all was told. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Happening> {
        tokio::select! {
            biased;
            Some((slot, event)) = self.told.recv() => Some(Happening::Told(slot, event)),
            ended = self.attended.join_next() => {
                ended.map(|ended| Happening::Ended(ended.expect("attending neither panics nor is aborted")))
            }
        }
    }

    /// The `first` that ended badly, and those that end badly within `settle` of it. While all of these only lost
    /// another one, that one is waited for. What is told meanwhile is dropped.
    pub(crate) async fn casualties(&mut self, first: Ended, settle: Duration) -> Vec<Ended> {
        let (start, mut all) = (time::Instant::now(), vec![first]);
        loop {
            let patience = if all.iter().all(Ended::lost_another) { settle.max(CULPRIT_TIMEOUT) } else { settle };
            match time::timeout_at(start + patience, self.next()).await {
                Ok(Some(Happening::Ended(ended))) if !ended.well() => all.push(ended),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return all,
            }
        }
    }

    /// Says `word` to all but daemons.
    pub(crate) fn say(&self, word: Word) {
        self.role_orders.send_replace(Order::Say(word));
    }

    /// Kills the daemon whose number is `pid`. Nobody else is meant, not even who takes its place.
    pub(crate) fn kill_daemon(&self, pid: u32) {
        self.daemon_orders.send_replace(Order::KillOne(pid));
    }

    /// Ends all that were started, so that others can take their places; daemons may take `timeout` to leave.
    pub(crate) async fn clear(&mut self, timeout: Duration) {
        self.role_orders.send_replace(Order::Kill);
        self.retire_daemons(timeout).await;
        self.role_orders.send_replace(Order::QUIET);
    }

    /// Asks the daemons to leave, as an operator would, and waits for them; gives those that ended badly or had to be
    /// killed.
    pub(crate) async fn retire_daemons(&mut self, timeout: Duration) -> Vec<Ended> {
        self.daemon_orders.send_replace(Order::Terminate);
        let mut ended = self.drain(timeout).await;
        if !self.attended.is_empty() {
            self.daemon_orders.send_replace(Order::Kill);
            ended.extend(self.drain(LEAVE_TIMEOUT).await);
        }
        self.daemon_orders.send_replace(Order::QUIET);
        ended.retain(|ended| !ended.well());
        ended
    }

    /// Stops everything: daemons by request and then by force, all others at once. None is left.
    pub(crate) async fn stop(&mut self) {
        // An attending task must not wait for someone to take a report.
        self.told.close();
        self.role_orders.send_replace(Order::Kill);
        self.daemon_orders.send_replace(Order::Terminate);
        self.drain(LEAVE_TIMEOUT).await;
        self.daemon_orders.send_replace(Order::Kill);
        while self.next().await.is_some() {}
    }

    /// Waits for all to end, `timeout` at most.
    async fn drain(&mut self, timeout: Duration) -> Vec<Ended> {
        let mut ended = Vec::new();
        let all = async {
            while let Some(happening) = self.next().await {
                if let Happening::Ended(one) = happening {
                    ended.push(one);
                }
            }
        };
        // Those that are left are the caller's to see.
        let _ = time::timeout(timeout, all).await;
        ended
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

/// Sees one process through: forwards what it tells, passes on what is ordered, and waits for its end.
async fn attend(
    mut child: Child,
    slot: Slot,
    mut orders: watch::Receiver<Order>,
    teller: mpsc::Sender<(Slot, Event)>,
) -> io::Result<ExitStatus> {
    // Taken, for `wait` would close it, and a role whose standard input is closed leaves.
    let mut input = child.stdin.take();
    let mut lines = child.stdout.take().map(|output| BufReader::new(output).lines());
    // What was ordered before it started holds for it too.
    orders.mark_changed();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            line = next_line(&mut lines) => forward(slot, line, &mut lines, &teller).await,
            ordered = orders.changed() => {
                let mut order = if ordered.is_ok() { *orders.borrow_and_update() } else { Order::Kill };
                if matches!(order, Order::KillOne(pid) if child.id() == Some(pid)) {
                    order = Order::Kill;
                }
                match (order, child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()))) {
                    // A process that ended meanwhile is seen in the next round.
                    (Order::Terminate, Some(pid)) => drop(kill_process(pid, Signal::TERM)),
                    (Order::Kill, Some(pid)) => {
                        let _ = kill_process(pid, Signal::KILL);
                        // What it told last is of no use, and the pipe may have been left to others.
                        lines = None;
                    }
                    (Order::Say(word), _) => if let Some(input) = &mut input {
                        let _ = input.write_all(word.line().as_bytes()).await;
                    },
                    _ => {}
                }
            }
        }
    };
    while lines.is_some() {
        let line = next_line(&mut lines).await;
        forward(slot, line, &mut lines, &teller).await;
    }
    status
}

/// The next line of a process that tells any.
async fn next_line(lines: &mut Option<Lines<BufReader<ChildStdout>>>) -> Option<String> {
    match lines {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Tells the launcher, or notes that nothing more will be told.
async fn forward(
    slot: Slot,
    line: Option<String>,
    lines: &mut Option<Lines<BufReader<ChildStdout>>>,
    teller: &mpsc::Sender<(Slot, Event)>,
) {
    match line {
        // A launcher that is stopping listens no more.
        Some(line) => match serde_json::from_str(&line) {
            Ok(event) => drop(teller.send((slot, event)).await),
            Err(_) => eprintln!("wordcount: {slot:?} said what nobody understands: {line:?}"),
        },
        None => *lines = None,
    }
}

/// Whether a daemon would take a key of its configuration from this variable. Its log filter is none.
fn is_override(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"TRUNKLINE_") && name != "TRUNKLINE_LOG"
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, time::Instant};

    use super::*;

    const MAPPER: Slot = Slot { kind: Kind::Worker(Part::Map), index: 0 };
    const DAEMON: Slot = Slot { kind: Kind::Daemon, index: 0 };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    }

    fn children() -> (tempfile::TempDir, Children) {
        let folder = tempfile::tempdir().unwrap();
        let children = Children::new(folder.path().join("logs")).unwrap();
        (folder, children)
    }

    #[tokio::test]
    async fn all_that_a_process_told_comes_before_its_end() {
        let (_folder, mut children) = children();
        let script = r#"read line; [ "$line" = begin ] && echo '{"event":"opened"}'; echo why >&2; exit 5"#;
        children.start(MAPPER, "a mapper", "mapper", shell(script)).unwrap();
        children.say(Word::Begin);
        assert!(matches!(children.next().await, Some(Happening::Told(MAPPER, Event::Opened))));
        let Some(Happening::Ended(ended)) = children.next().await else { panic!("it has not ended") };
        assert_eq!(ended.status.as_ref().unwrap().code(), Some(5));
        assert_eq!(fs::read_to_string(&ended.log).unwrap(), "why\n");
        assert!(children.next().await.is_none());
    }

    #[tokio::test]
    async fn stopping_leaves_none_behind_not_even_the_deaf() {
        let (_folder, mut children) = children();
        let mut pids = vec![children.start(MAPPER, "a mapper", "mapper", shell("exec sleep 60")).unwrap()];
        pids.push(
            children
                .start(DAEMON, "a daemon", "daemon", shell("sleep 60 & trap 'kill $!; exit 0' TERM; wait"))
                .unwrap(),
        );
        time::sleep(Duration::from_millis(200)).await;
        let start = Instant::now();
        children.stop().await;
        assert!(start.elapsed() < LEAVE_TIMEOUT, "both could be stopped at once");
        assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    }

    #[tokio::test]
    async fn those_that_were_cleared_away_hear_nothing_of_what_is_said_to_their_successors() {
        const NODE: Slot = Slot { kind: Kind::Node, index: 0 };
        let (_folder, mut children) = children();
        let pid = children.start(NODE, "a node", "node", shell("exec sleep 60")).unwrap();
        children.clear(LEAVE_TIMEOUT).await;
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        let script = r#"read line; [ "$line" = open ] && echo '{"event":"ready"}'"#;
        children.start(NODE, "a node", "node", shell(script)).unwrap();
        children.say(Word::Open);
        assert!(matches!(children.next().await, Some(Happening::Told(NODE, Event::Ready))));
        assert!(matches!(children.next().await, Some(Happening::Ended(ended)) if ended.well()));
    }

    /// The one that ends first, and the numbers of those that `casualties` takes for the ones to blame.
    async fn blamed(children: &mut Children) -> Vec<usize> {
        let Some(Happening::Ended(first)) = children.next().await else { panic!("none has ended") };
        children.casualties(first, Duration::ZERO).await.iter().map(|ended| ended.slot.index).collect()
    }

    #[tokio::test]
    async fn whoever_lost_another_is_not_blamed_before_that_one_has_ended() {
        let (_folder, mut children) = children();
        let node = |index| Slot { kind: Kind::Node, index };
        children.start(node(0), "a node", "lost", shell(&format!("exit {EXIT_LOST}"))).unwrap();
        children.start(node(1), "a node", "culprit", shell("sleep 0.5; exit 1")).unwrap();
        assert_eq!(blamed(&mut children).await, [0, 1]);
        children.start(node(2), "a node", "culprit", shell("exit 1")).unwrap();
        children.start(node(3), "a node", "late", shell("exec sleep 60")).unwrap();
        assert_eq!(blamed(&mut children).await, [2], "nobody else is waited for");
        children.stop().await;
    }

    #[tokio::test]
    async fn one_daemon_is_killed_alone_and_whoever_takes_its_place_is_not() {
        let (_folder, mut children) = children();
        let other = Slot { index: 1, ..DAEMON };
        let start =
            |children: &mut Children, slot| children.start(slot, "a daemon", "d", shell("exec sleep 60")).unwrap();
        let (killed, left) = (start(&mut children, DAEMON), start(&mut children, other));
        children.kill_daemon(killed);
        let Some(Happening::Ended(ended)) = children.next().await else { panic!("it has not ended") };
        assert_eq!((ended.slot, ended.pid, ended.status.unwrap().signal()), (DAEMON, killed, Some(9)));
        let successor = start(&mut children, DAEMON);
        assert!(time::timeout(Duration::from_millis(100), children.next()).await.is_err(), "another one has ended");
        assert!([left, successor].iter().all(|pid| Path::new(&format!("/proc/{pid}")).exists()));
        children.stop().await;
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_leave_is_killed_and_reported() {
        let (_folder, mut children) = children();
        children.start(DAEMON, "a daemon", "daemon", shell("trap '' TERM; while :; do sleep 0.05; done")).unwrap();
        time::sleep(Duration::from_millis(200)).await;
        let bad = children.retire_daemons(Duration::from_millis(300)).await;
        assert_eq!(bad.len(), 1);
        assert_eq!(bad[0].status.as_ref().unwrap().signal(), Some(9));
    }
}
