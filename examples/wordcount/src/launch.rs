//! The launcher: corpus, programs, cluster, jobs, check, summary; and on every way out nothing is left behind.

use std::{
    env, fs, io,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    task,
};

use crate::{
    binaries::{Binaries, BinaryError},
    casualty::how,
    children::Children,
    cli::Options,
    cluster::{ClusterError, Launch},
    corpus::{Corpus, CorpusError},
    count::{CountError, Counts, Difference},
    guard::Guard,
    jobs::{JobError, Stage, Stalled, Tally},
    plan::{Part, Plan, Worker},
    progress::Progress,
    report::{self, NodeSummary, OutageSummary, StallSummary, Summary, several},
};

/// How many wrong words are named.
const DIFFERENCES_SHOWN: usize = 5;

/// The longest path of a temporary folder: a socket's, below it, has to be shorter than 108 bytes.
const FOLDER_BYTES_MAX: usize = 80;

/// What the operating system says when a process has all the file descriptors that it may have.
const TOO_MANY_FILES: &str = "Too many open files";

/// How long daemons may take to leave when all is done.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no count, or no good one.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("{0}")]
    Options(String),
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    #[error(transparent)]
    Binaries(#[from] BinaryError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Jobs(#[from] JobError),
    #[error(transparent)]
    Count(#[from] CountError),
    #[error("stopped by {0}")]
    Interrupted(&'static str, u8),
    #[error("cannot {0}: {1}")]
    Io(String, io::Error),
}

impl LaunchError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io(what.into(), source)
    }

    fn exit_status(&self) -> u8 {
        match self {
            Self::Options(_) | Self::Corpus(_) => 2,
            Self::Interrupted(_, number) => 128 + number,
            _ => 1,
        }
    }
}

/// The process `wordcount`, as users start it.
pub(crate) fn main(options: &Options) -> ExitCode {
    let outcome = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LaunchError::io("start the runtime"))
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(options));
            // A plain loop that was told to stop may be in the middle of a file.
            runtime.shutdown_background();
            outcome
        });
    let printed = outcome.and_then(|(summary, wrong)| {
        print(&summary, options.json).map_err(LaunchError::io("write to standard output"))?;
        Ok(wrong)
    });
    match printed {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            wrong.iter().for_each(|line| eprintln!("wordcount: error: {line}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("wordcount: error: {error}{}", remedy(&error.to_string()));
            ExitCode::from(error.exit_status())
        }
    }
}

/// What a user can do about it, where that is known. A process's log may be where the reason stands.
fn remedy(error: &str) -> &'static str {
    if error.contains(TOO_MANY_FILES) {
        "\nwordcount: this machine's limit of open files is too low for so many processes: raise it with ulimit -n, or \
         start fewer"
    } else {
        ""
    }
}

fn print(summary: &Summary, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = if json {
        serde_json::to_writer(&mut out, summary).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        write!(out, "{summary}")
    };
    match written.and_then(|()| out.flush()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// The summary, and what is wrong with the count.
type Outcome = (Summary, Vec<String>);

async fn run(options: &Options) -> Result<Outcome, LaunchError> {
    options.check().map_err(LaunchError::Options)?;
    let mut signals = Signals::listen().map_err(LaunchError::io("listen for signals"))?;
    let prepare = async {
        let paths = options.paths.clone();
        let corpus = task::spawn_blocking(move || Corpus::list(&paths)).await.expect("listing does not panic")?;
        let size = [several(corpus.files.len() as u64, "file"), several(corpus.bytes, "byte")].join(", ");
        eprintln!("wordcount: corpus: {} ({size})", corpus.origin);
        Ok::<_, LaunchError>((
            Arc::new(corpus),
            Binaries::find_or_build(options.bin_dir.as_deref(), options.embedded).await?,
        ))
    };
    let (corpus, binaries) = tokio::select! {
        prepared = prepare => prepared?,
        interrupted = signals.next() => return Err(interrupted),
    };
    raise_descriptor_limit();
    let mut site = Site::open(&binaries, options.keep)?;
    let outcome = tokio::select! {
        outcome = work(options, &corpus, &binaries, &mut site) => outcome,
        interrupted = signals.next() => Err(interrupted),
    };
    site.close().await;
    outcome
}

/// From certificates to the comparison.
async fn work(
    options: &Options,
    corpus: &Arc<Corpus>,
    binaries: &Binaries,
    site: &mut Site,
) -> Result<Outcome, LaunchError> {
    let started = Instant::now();
    let Site { children, guard, .. } = site;
    let folder = site.folder.path();
    let plan = Plan {
        run: run_id().map_err(LaunchError::io("draw a run id"))?,
        nodes: (1..=options.nodes).map(|number| format!("node-{number}")).collect(),
        per_node: options.per_node as usize,
        jobs: options.jobs as usize,
        rounds: options.rounds(),
        stall: options.stall.unwrap_or(0) as usize,
        embedded: options.embedded,
    };
    plan.write(folder, &corpus.shares(plan.width()), &corpus.files)
        .map_err(LaunchError::io(format!("write the plan into {}", folder.display())))?;
    let progress = Progress::new(corpus.bytes * plan.jobs as u64);
    progress.say("starting nodes");
    let launch = Launch { plan: &plan, folder, binaries };
    let nodes = launch.start(children, guard).await?;
    let before_jobs = started.elapsed();
    let stage = Stage { launch: &launch, nodes: &nodes, kill_after: options.kill_node, progress: &progress };
    let tally = stage.run(children, guard).await?;
    for daemon in children.retire_daemons(RETIRE_TIMEOUT).await {
        eprintln!("wordcount: warning: {}, asked to leave, {}", daemon.label, how(&daemon.status));
    }
    let checking = Instant::now();
    let Checked { counts, bytes, wrong } = check(&plan, folder, corpus, &tally, &progress).await?;
    let summary = Summary {
        corpus: corpus.origin.clone(),
        total_words: counts.total(),
        distinct_words: counts.distinct(),
        files: corpus.files.len(),
        bytes,
        top: counts.top(report::TOP),
        verified: wrong.is_empty(),
        jobs: plan.jobs,
        rounds: tally.rounds,
        per_node: plan.per_node,
        embedded: plan.embedded,
        streams: plan.streams(),
        messages: tally.mapped.messages,
        stream_bytes: tally.mapped.stream_bytes,
        stream_mb_per_s: report::mb_per_s(tally.mapped.stream_bytes, tally.counting),
        seconds: report::rounded(tally.counting.as_secs_f64(), 3),
        setup_seconds: report::rounded((before_jobs + tally.opening).as_secs_f64(), 3),
        check_seconds: report::rounded(checking.elapsed().as_secs_f64(), 3),
        outage: tally.survived.as_ref().map(OutageSummary::new),
        stall: tally.stalled.as_ref().map(|stalled| StallSummary::new(stalled, &plan)),
        nodes: tally.nodes.iter().map(|view| NodeSummary::new(view, &plan)).collect(),
    };
    Ok((summary, wrong))
}

/// What the check came to.
struct Checked {
    /// The first job's.
    counts: Counts,
    /// That the plain loop read.
    bytes: u64,
    /// Sentences.
    wrong: Vec<String>,
}

/// Counts once more, plainly, and compares every word of every job, and the processes' counters.
async fn check(
    plan: &Plan,
    folder: &Path,
    corpus: &Arc<Corpus>,
    tally: &Tally,
    progress: &Progress,
) -> Result<Checked, LaunchError> {
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let (bar, corpus, stopped) = (progress.check(corpus.bytes), Arc::clone(corpus), Arc::clone(&stop.0));
    let (plan, folder) = (plan.clone(), folder.to_owned());
    let (counters, rounds, stalled) = ((tally.mapped, tally.reduced), tally.rounds, tally.stalled.clone());
    let compare = move || {
        let mut bytes = 0;
        let read = |more| {
            bytes += more;
            bar.inc(more);
        };
        let expected = Counts::of_files(&corpus.files, read, &stopped)?;
        bar.finish_and_clear();
        let (times, (mapped, reduced)) = (plan.jobs as u64 * rounds, counters);
        let mut wrong = Vec::new();
        let mut same = |what: &str, found: u64, expected: u64| {
            if found != expected {
                wrong.push(format!("{what}: {found}, and not {expected}"));
            }
        };
        same("files read by mappers", mapped.files, times * corpus.files.len() as u64);
        same("bytes read by mappers", mapped.bytes, times * bytes);
        same("words counted by reducers", reduced.words, times * expected.total());
        same("messages received", reduced.messages, mapped.messages);
        same("bytes received", reduced.stream_bytes, mapped.stream_bytes);
        let (mut first, of_a_job) = (None, expected.times(rounds));
        for job in 0..plan.jobs {
            let counts = Counts::of_job(&plan, &folder, job)?;
            wrong.extend(describe(&plan.job(job), &counts.differences(&of_a_job)));
            first.get_or_insert(counts);
        }
        if let Some(stalled) = stalled {
            wrong.extend(check_stalled(&plan, &folder, &corpus, &stalled, &expected)?);
        }
        Ok::<_, CountError>(Checked { counts: first.unwrap_or_default(), bytes, wrong })
    };
    Ok(task::spawn_blocking(compare).await.expect("counting does not panic")?)
}

/// Compares every word of every reducer that slept with what its streams carried of the corpus, whose words `all` are.
fn check_stalled(
    plan: &Plan,
    folder: &Path,
    corpus: &Corpus,
    stalled: &Stalled,
    all: &Counts,
) -> Result<Vec<String>, CountError> {
    let mut wrong = Vec::new();
    let mut same = |what: &str, found: u64, expected: u64| {
        if found != expected {
            wrong.push(format!("{what} of the stalled job: {found}, and not {expected}"));
        }
    };
    same("streams that were finished", stalled.sent.len() as u64, plan.stalled_streams() as u64);
    same("messages received", stalled.reduced.messages, stalled.filled.messages);
    same("bytes received", stalled.reduced.stream_bytes, stalled.filled.stream_bytes);
    for reducer in 0..plan.stall {
        let mut expected = Counts::default();
        for sent in stalled.sent.iter().filter(|sent| sent.reducer == reducer) {
            expected.add_all(all, sent.rounds);
            for (at, file) in corpus.files.iter().enumerate().take(sent.files + 1) {
                let bytes = if at < sent.files { u64::MAX } else { sent.bytes };
                if bytes > 0 {
                    expected.add_all(&Counts::of_beginning(file, bytes)?, 1);
                }
            }
        }
        let counted = Counts::of_reducer(plan, folder, plan.jobs, reducer)?;
        let worker = Worker { part: Part::Reduce, job: plan.jobs, index: reducer };
        wrong.extend(describe(&plan.name(worker), &counted.differences(&expected)));
    }
    Ok(wrong)
}

/// A sentence on the words that one job counted wrong.
fn describe(job: &str, differences: &[Difference]) -> Option<String> {
    let words: Vec<_> = differences
        .iter()
        .take(DIFFERENCES_SHOWN)
        .map(|d| format!("{:?} {} and not {}", d.word, several(d.counted, "time"), d.expected))
        .collect();
    let more = differences.len().saturating_sub(DIFFERENCES_SHOWN);
    let rest = if more > 0 { format!(", and {} wrong", several(more as u64, "more word")) } else { String::new() };
    (!words.is_empty()).then(|| format!("{job} counted {}{rest}", words.join(", ")))
}

/// Whoever waits for a blocking task and is dropped has the task stop too.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What has to be cleared up: the folder, the processes, and the guard that does it when this process cannot.
struct Site {
    folder: TempDir,
    keep: bool,
    children: Children,
    guard: Guard,
}

impl Site {
    fn open(binaries: &Binaries, keep: bool) -> Result<Self, LaunchError> {
        let mut parent = env::temp_dir();
        if parent.as_os_str().len() > FOLDER_BYTES_MAX {
            parent = PathBuf::from("/tmp");
        }
        // Keys and sockets lie in it: tempfile makes it with mode 0700 when told so.
        let private = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new()
            .prefix("wordcount-")
            .permissions(private)
            .disable_cleanup(keep)
            .tempdir_in(&parent)
            .map_err(LaunchError::io(format!("make a folder in {}", parent.display())))?;
        let guard =
            Guard::start(&binaries.wordcount, folder.path(), keep).map_err(LaunchError::io("start the guard"))?;
        let children = Children::new(folder.path().join("logs")).map_err(LaunchError::io("make a folder for logs"))?;
        Ok(Self { folder, keep, children, guard })
    }

    async fn close(mut self) {
        self.children.stop().await;
        let path = self.folder.path().to_owned();
        if self.keep {
            eprintln!("wordcount: everything is kept in {}", self.folder.keep().display());
        } else if let Err(error) = self.folder.close() {
            eprintln!("wordcount: warning: cannot remove {}: {error}", path.display());
        }
        self.guard.release();
    }
}

/// The signals that ask this process to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> LaunchError {
        tokio::select! {
            _ = self.interrupt.recv() => LaunchError::Interrupted("SIGINT", 2),
            _ = self.terminate.recv() => LaunchError::Interrupted("SIGTERM", 15),
            _ = self.hangup.recv() => LaunchError::Interrupted("SIGHUP", 1),
        }
    }
}

/// Every process but a daemon has two pipes to this one, and the usual soft limit of 1,024 is for programs that use
/// `select`. Where it stays low, [`remedy`] says so.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// 64 random bits.
fn run_id() -> io::Result<String> {
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).map_err(io::Error::other)?;
    Ok(format!("{:016x}", u64::from_be_bytes(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_count_names_its_first_words() {
        let wrong = |word: &str| Difference { word: word.to_owned(), counted: 1, expected: 2 };
        let one = describe("wordcount-2", &[wrong("a")]).unwrap();
        assert_eq!(one, "wordcount-2 counted \"a\" 1 time and not 2");
        let seven = describe("wordcount", &["a", "b", "c", "d", "e", "f", "g"].map(wrong)).unwrap();
        assert!(seven.ends_with("\"e\" 1 time and not 2, and 2 more words wrong"), "{seven}");
        assert!(describe("wordcount", &[]).is_none());
    }
}
