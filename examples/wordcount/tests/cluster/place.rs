//! A place for a run of the program, and a run that lasts until something is done to it.

use std::{
    collections::BTreeMap,
    fs,
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
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One run at a time: each starts a dozen processes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The shipped programs beside ours, as the sources are now.
pub(crate) static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_BIN_EXE_wordcount")).parent().unwrap();
    let profile = match folder.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        profile => profile,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--package=trunkline-certs", "--package=trunkline-node", "--profile", profile]);
    cargo.arg("--target-dir").arg(folder.parent().unwrap());
    cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")]);
    assert!(cargo.status().unwrap().success(), "the shipped programs do not build");
    folder.to_owned()
});

/// A place for one run: its temporary folder, which must be empty afterwards.
pub(crate) struct Place {
    pub(crate) temp: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        LazyLock::force(&PROGRAMS);
        Self { temp: tempfile::Builder::new().prefix("wct-").tempdir().unwrap(), _alone: alone }
    }

    pub(crate) fn command(&self, arguments: &[&str], paths: &[&Path]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wordcount"));
        command.args(arguments).args(paths).arg("--bin-dir").arg(&*PROGRAMS).env("TMPDIR", self.temp.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn json(&self, arguments: &[&str], paths: &[&Path]) -> Value {
        let output = self.command(arguments, paths).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert!(!output.stderr.contains(&b'\x1b'), "bars where no terminal is: {}", said(&output));
        self.assert_empty();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn assert_empty(&self) {
        let left: Vec<_> = fs::read_dir(self.temp.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// What nodes are in a run: daemons, or embedded in processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nodes {
    Daemons,
    Embedded,
}

impl Nodes {
    pub(crate) const BOTH: [Self; 2] = [Self::Daemons, Self::Embedded];

    /// What the command line says for them.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Daemons => &[],
            Self::Embedded => &["--embedded"],
        }
    }

    /// The first argument of the processes that nodes are.
    fn role(self) -> &'static str {
        match self {
            Self::Daemons => "run",
            Self::Embedded => "node",
        }
    }

    /// The first arguments of all processes of a [`Running`], and how many there are of each.
    fn roles(self) -> &'static [(&'static str, usize)] {
        match self {
            Self::Daemons => &[("map", 4), ("reduce", 4), ("run", 2), ("guard", 1)],
            Self::Embedded => &[("node", 2), ("guard", 1)],
        }
    }
}

/// A run that lasts until something is done to it.
pub(crate) struct Running {
    pub(crate) process: Child,
    nodes: Nodes,
    place: Place,
    corpus: TempDir,
}

impl Running {
    /// Starts a count that takes long, with two nodes: files without words, which take no space, and one with some.
    pub(crate) fn start(nodes: Nodes) -> Self {
        Self::start_with(nodes, &[])
    }

    /// As [`Running::start`], with more options.
    pub(crate) fn start_with(nodes: Nodes, options: &[&str]) -> Self {
        let (place, corpus) = (Place::new(), tempfile::tempdir().unwrap());
        for name in ["a", "b", "c", "d"] {
            fs::File::create(corpus.path().join(name)).unwrap().set_len(1 << 36).unwrap();
        }
        fs::write(corpus.path().join("words"), "some words, and some more").unwrap();
        let options = [&["--nodes", "2"], nodes.options(), options].concat();
        let process = place.command(&options, &[corpus.path()]).spawn().unwrap();
        Self { process, nodes, place, corpus }
    }

    /// Waits until there are `count` children whose first argument is `role`; gives their process numbers.
    pub(crate) fn children(&self, role: &str, count: usize) -> Vec<i32> {
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

    /// Waits until all processes run; gives all their numbers.
    pub(crate) fn all_running(&self) -> Vec<i32> {
        for &(role, count) in self.nodes.roles() {
            self.children(role, count);
        }
        children_of(self.process.id()).into_keys().collect()
    }

    /// Waits until words are counted, which is when all processes run and all streams are open; gives the numbers of the
    /// processes that nodes are.
    pub(crate) fn counting(&self) -> Vec<i32> {
        let all = self.all_running();
        let start = Instant::now();
        // Mappers open no file before they are told to begin.
        while !all.iter().any(|&pid| files_of(pid).iter().any(|file| file.starts_with(self.corpus.path()))) {
            assert!(start.elapsed() < PATIENCE, "nothing is read after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(5));
        }
        self.children(self.nodes.role(), 2)
    }

    /// The folder in which everything lies.
    pub(crate) fn folder(&self) -> PathBuf {
        fs::read_dir(self.place.temp.path()).unwrap().next().unwrap().unwrap().path()
    }

    pub(crate) fn end(self) -> (Output, Place) {
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

/// What the file descriptors of `pid` are; none when it is gone.
fn files_of(pid: i32) -> Vec<PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// Whether `pid` is, still, one of this program's processes; a zombie has no arguments.
pub(crate) fn runs(pid: i32) -> bool {
    arguments_of(pid)[0].contains("wordcount") || arguments_of(pid)[0].contains("trunkline")
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub(crate) fn said(output: &Output) -> String {
    format!("{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}
