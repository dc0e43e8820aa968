//! What the launcher tells the processes that it starts, as files in the temporary folder, and where they put counts.
//!
//! ```text
//!  plan.json          nodes, jobs, how many processes
//!  shares/map-1       the files of the first mapper of every counted job: paths, each followed by a NUL
//!  corpus             the files of every mapper of the stalled job, if there is one: all of them
//!  counts/J/reduce-1  what the first reducer of job J counted: `word count` lines
//! ```
//!
//! The stalled job comes after the counted ones: its number is theirs. It has one mapper on each node, and each sends
//! every word to every reducer, so that all its streams fill up whatever the words are.

use std::{
    ffi::OsStr,
    fmt, fs, io,
    ops::Range,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::corpus::File;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Reads files and sends their words.
    Map,
    /// Gathers words and counts them.
    Reduce,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Map => "map",
            Self::Reduce => "reduce",
        })
    }
}

/// The name of the job whose reducers sleep.
const STALLED_JOB: &str = "stalled";

/// Where the files of the stalled job's mappers are listed.
const CORPUS_LIST: &str = "corpus";

/// One mapper or reducer of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Worker {
    /// What it does.
    pub(crate) part: Part,
    /// Its job's number; the stalled job's is the last.
    pub(crate) job: usize,
    /// Its number among those of its part in its job, over all nodes.
    pub(crate) index: usize,
}

/// Who takes part. Mappers and reducers are numbered over all nodes: a node's are next to each other; those of the stalled
/// job go round the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The run id of every job: the leavings of another run never meet this one.
    pub(crate) run: String,
    /// The nodes' names.
    pub(crate) nodes: Vec<String>,
    /// Mappers, and reducers, on each node and in each job.
    pub(crate) per_node: usize,
    /// Counts at once, without the stalled job.
    pub(crate) jobs: usize,
    /// How many times each mapper sends the words of its files; nothing where the launcher says when it is enough.
    pub(crate) rounds: Option<u64>,
    /// Reducers of one more job, which sleep while the others count; 0 without such a job.
    pub(crate) stall: usize,
    /// Whether each node is embedded in the one process of all its mappers and reducers. Otherwise it is a daemon, and
    /// each of them is a process.
    pub(crate) embedded: bool,
}

impl Plan {
    /// Mappers of one counted job, and reducers.
    pub(crate) fn width(&self) -> usize {
        self.nodes.len() * self.per_node
    }

    /// Streams of all counted jobs: one from each mapper to each reducer of its job.
    pub(crate) fn streams(&self) -> usize {
        self.jobs * self.width() * self.width()
    }

    /// Streams of the stalled job.
    pub(crate) fn stalled_streams(&self) -> usize {
        self.stall * self.nodes.len()
    }

    /// Whether this is the number of the job whose reducers sleep.
    pub(crate) fn is_stalled(&self, job: usize) -> bool {
        job == self.jobs
    }

    /// The numbers of all jobs, that of the stalled one last.
    pub(crate) fn all_jobs(&self) -> Range<usize> {
        0..self.jobs + usize::from(self.stall > 0)
    }

    /// How many workers of one part a job has.
    pub(crate) fn workers_of(&self, job: usize, part: Part) -> usize {
        match part {
            _ if !self.is_stalled(job) => self.width(),
            Part::Map => self.nodes.len(),
            Part::Reduce => self.stall,
        }
    }

    /// All workers of one part, those of the stalled job last.
    pub(crate) fn workers(&self, part: Part) -> impl Iterator<Item = Worker> {
        self.all_jobs()
            .flat_map(move |job| (0..self.workers_of(job, part)).map(move |index| Worker { part, job, index }))
    }

    /// All workers on node number `node`, reducers first: their consumers are bound before anything is opened to them.
    pub(crate) fn workers_on(&self, node: usize) -> impl Iterator<Item = Worker> {
        let all = self.workers(Part::Reduce).chain(self.workers(Part::Map));
        all.filter(move |&worker| self.node_of(worker) == node)
    }

    /// What people call a worker: its job and its name.
    pub(crate) fn name(&self, worker: Worker) -> String {
        let name = match worker.part {
            Part::Map => Self::mapper(worker.index),
            Part::Reduce => Self::reducer(worker.index),
        };
        format!("{}/{name}", self.job(worker.job))
    }

    /// The name of job number `job`.
    pub(crate) fn job(&self, job: usize) -> String {
        match self.jobs {
            _ if self.is_stalled(job) => STALLED_JOB.to_owned(),
            1 => "wordcount".to_owned(),
            _ => format!("wordcount-{}", job + 1),
        }
    }

    /// The name of mapper number `index`.
    pub(crate) fn mapper(index: usize) -> String {
        format!("map-{}", index + 1)
    }

    /// The name of reducer number `index`.
    pub(crate) fn reducer(index: usize) -> String {
        format!("reduce-{}", index + 1)
    }

    /// The number of the node that a worker belongs to.
    pub(crate) fn node_of(&self, worker: Worker) -> usize {
        if self.is_stalled(worker.job) { worker.index % self.nodes.len() } else { worker.index / self.per_node }
    }

    /// The address of reducer number `index` of job number `job`.
    pub(crate) fn address(&self, job: usize, index: usize) -> String {
        let node = self.node_of(Worker { part: Part::Reduce, job, index });
        format!("{}/{}@{}", self.job(job), Self::reducer(index), self.nodes[node])
    }

    /// Writes the plan, the mappers' shares and the whole `corpus` into `folder`, and makes room for counts.
    pub(crate) fn write(&self, folder: &Path, shares: &[Vec<&File>], corpus: &[File]) -> io::Result<()> {
        fs::write(folder.join("plan.json"), serde_json::to_vec_pretty(self)?)?;
        fs::create_dir(folder.join("shares"))?;
        for (mapper, share) in shares.iter().enumerate() {
            fs::write(folder.join("shares").join(Self::mapper(mapper)), list(share.iter().copied()))?;
        }
        if self.stall > 0 {
            fs::write(folder.join(CORPUS_LIST), list(corpus))?;
        }
        for job in self.all_jobs() {
            fs::create_dir_all(folder.join("counts").join(self.job(job)))?;
        }
        Ok(())
    }

    /// Reads the plan that lies in `folder`.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(folder.join("plan.json"))?)?)
    }

    /// The files of mapper number `index` of every counted job.
    pub(crate) fn read_share(folder: &Path, index: usize) -> io::Result<Vec<PathBuf>> {
        read_list(&folder.join("shares").join(Self::mapper(index)))
    }

    /// The files of each mapper of the stalled job.
    pub(crate) fn read_corpus(folder: &Path) -> io::Result<Vec<PathBuf>> {
        read_list(&folder.join(CORPUS_LIST))
    }

    /// Where reducer number `index` of job number `job` writes its counts.
    pub(crate) fn counts_path(&self, folder: &Path, job: usize, index: usize) -> PathBuf {
        folder.join("counts").join(self.job(job)).join(Self::reducer(index))
    }
}

/// Paths, each followed by a NUL.
fn list<'f>(files: impl IntoIterator<Item = &'f File>) -> Vec<u8> {
    let mut list = Vec::new();
    for file in files {
        list.extend_from_slice(file.path.as_os_str().as_bytes());
        list.push(0);
    }
    list
}

fn read_list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let list = fs::read(path)?;
    let paths = list.strip_suffix(b"\0").into_iter().flat_map(|list| list.split(|&byte| byte == 0));
    Ok(paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
}

/// The configuration of `node`.
pub(crate) fn node_config(folder: &Path, node: &str) -> PathBuf {
    folder.join(node).join("node.toml")
}

/// Where the daemon of `node` listens for processes of this machine.
pub(crate) fn local_socket(folder: &Path, node: &str) -> PathBuf {
    folder.join(node).join("local.sock")
}

/// Where `node` listens for operators, embedded or not.
pub(crate) fn admin_socket(folder: &Path, node: &str) -> PathBuf {
    folder.join(node).join("admin.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            run: "r1".to_owned(),
            nodes: ["node-1", "node-2", "node-3"].map(str::to_owned).into(),
            per_node: 2,
            jobs: 1,
            rounds: None,
            stall: 0,
            embedded: false,
        }
    }

    #[test]
    fn processes_are_numbered_over_all_nodes() {
        let plan = plan();
        assert_eq!((plan.width(), plan.streams()), (6, 36));
        assert_eq!(plan.address(0, 0), "wordcount/reduce-1@node-1");
        assert_eq!(plan.address(0, 5), "wordcount/reduce-6@node-3");
        assert_eq!(Plan { jobs: 2, ..plan }.address(1, 2), "wordcount-2/reduce-3@node-2");
    }

    #[test]
    fn the_workers_of_all_nodes_are_all_workers() {
        let plan = Plan { jobs: 2, ..plan() };
        let names = |workers: &[Worker]| workers.iter().map(|&worker| plan.name(worker)).collect::<Vec<_>>();
        let second: Vec<_> = plan.workers_on(1).collect();
        let expected =
            ["1/reduce-3", "1/reduce-4", "2/reduce-3", "2/reduce-4", "1/map-3", "1/map-4", "2/map-3", "2/map-4"];
        assert_eq!(names(&second), expected.map(|name| format!("wordcount-{name}")));
        let mut on_nodes: Vec<_> = (0..3).flat_map(|node| plan.workers_on(node)).map(|w| plan.name(w)).collect();
        let mut all: Vec<_> =
            plan.workers(Part::Map).chain(plan.workers(Part::Reduce)).map(|worker| plan.name(worker)).collect();
        on_nodes.sort();
        all.sort();
        assert_eq!(on_nodes, all);
    }

    #[test]
    fn the_stalled_job_has_a_mapper_on_each_node_and_its_reducers_go_round_them() {
        let plan = Plan { stall: 4, ..plan() };
        let stalled = |part| {
            let workers = plan.workers(part).filter(|worker| plan.is_stalled(worker.job));
            workers.map(|worker| (plan.name(worker), plan.node_of(worker))).collect::<Vec<_>>()
        };
        let named = |name: &str, node| (format!("stalled/{name}"), node);
        assert_eq!(stalled(Part::Map), [named("map-1", 0), named("map-2", 1), named("map-3", 2)]);
        let reducers = [("reduce-1", 0), ("reduce-2", 1), ("reduce-3", 2), ("reduce-4", 0)];
        assert_eq!(stalled(Part::Reduce), reducers.map(|(name, node)| named(name, node)));
        assert_eq!((plan.streams(), plan.stalled_streams()), (36, 12));
        assert_eq!(plan.address(1, 3), "stalled/reduce-4@node-1");
        assert_eq!(Plan { stall: 0, ..plan }.all_jobs(), 0..1);
    }

    #[test]
    fn plan_and_shares_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let odd = File { path: PathBuf::from(OsStr::from_bytes(b"/a\n\xff b")), bytes: 1 };
        let plain = File { path: "/c".into(), bytes: 1 };
        let (plan, all) = (Plan { stall: 1, ..plan() }, [plain.clone(), odd.clone()]);
        plan.write(folder.path(), &[vec![&odd, &plain], vec![]], &all).unwrap();
        assert_eq!(Plan::read(folder.path()).unwrap(), plan);
        assert_eq!(Plan::read_share(folder.path(), 0).unwrap(), [odd.path.clone(), plain.path.clone()]);
        assert!(Plan::read_share(folder.path(), 1).unwrap().is_empty());
        assert_eq!(Plan::read_corpus(folder.path()).unwrap(), [plain.path, odd.path]);
    }
}
