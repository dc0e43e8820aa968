//! What the launcher tells the processes that it starts, as files in the temporary folder, and where they put counts.
//!
//! ```text
//!  plan.json          nodes, jobs, how many processes
//!  shares/map-1       the files of the first mapper of every job: paths, each followed by a NUL
//!  counts/J/reduce-1  what the first reducer of job J counted: `word count` lines
//! ```

use std::{
    ffi::OsStr,
    fmt, fs, io,
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

/// One mapper or reducer of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Worker {
    /// What it does.
    pub(crate) part: Part,
    /// Its job's number.
    pub(crate) job: usize,
    /// Its number among those of its part in its job, over all nodes.
    pub(crate) index: usize,
}

/// Who takes part. Mappers and reducers are numbered over all nodes: a node's are next to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The run id of every job: the leavings of another run never meet this one.
    pub(crate) run: String,
    /// The nodes' names.
    pub(crate) nodes: Vec<String>,
    /// Mappers, and reducers, on each node and in each job.
    pub(crate) per_node: usize,
    /// Counts at once.
    pub(crate) jobs: usize,
    /// Whether each node is embedded in the one process of all its mappers and reducers. Otherwise it is a daemon, and
    /// each of them is a process.
    pub(crate) embedded: bool,
}

impl Plan {
    /// Mappers of one job, and reducers.
    pub(crate) fn width(&self) -> usize {
        self.nodes.len() * self.per_node
    }

    /// Streams of all jobs: one from each mapper to each reducer of its job.
    pub(crate) fn streams(&self) -> usize {
        self.jobs * self.width() * self.width()
    }

    /// All workers of one part.
    pub(crate) fn workers(&self, part: Part) -> impl Iterator<Item = Worker> {
        let width = self.width();
        (0..self.jobs).flat_map(move |job| (0..width).map(move |index| Worker { part, job, index }))
    }

    /// All workers on node number `node`, reducers first: their consumers are bound before anything is opened to them.
    pub(crate) fn workers_on(&self, node: usize) -> impl Iterator<Item = Worker> {
        let all = self.workers(Part::Reduce).chain(self.workers(Part::Map));
        all.filter(move |worker| self.node_of(worker.index) == node)
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
        if self.jobs == 1 { "wordcount".to_owned() } else { format!("wordcount-{}", job + 1) }
    }

    /// The name of mapper number `index`.
    pub(crate) fn mapper(index: usize) -> String {
        format!("map-{}", index + 1)
    }

    /// The name of reducer number `index`.
    pub(crate) fn reducer(index: usize) -> String {
        format!("reduce-{}", index + 1)
    }

    /// The number of the node that mapper or reducer number `index` belongs to.
    pub(crate) fn node_of(&self, index: usize) -> usize {
        index / self.per_node
    }

    /// The address of reducer number `index` of job number `job`.
    pub(crate) fn address(&self, job: usize, index: usize) -> String {
        format!("{}/{}@{}", self.job(job), Self::reducer(index), self.nodes[self.node_of(index)])
    }

    /// Writes the plan and the mappers' shares into `folder`, and makes room for counts.
    pub(crate) fn write(&self, folder: &Path, shares: &[Vec<&File>]) -> io::Result<()> {
        fs::write(folder.join("plan.json"), serde_json::to_vec_pretty(self)?)?;
        fs::create_dir(folder.join("shares"))?;
        for (mapper, share) in shares.iter().enumerate() {
            let mut list = Vec::new();
            for file in share {
                list.extend_from_slice(file.path.as_os_str().as_bytes());
                list.push(0);
            }
            fs::write(folder.join("shares").join(Self::mapper(mapper)), list)?;
        }
        for job in 0..self.jobs {
            fs::create_dir_all(folder.join("counts").join(self.job(job)))?;
        }
        Ok(())
    }

    /// Reads the plan that lies in `folder`.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(folder.join("plan.json"))?)?)
    }

    /// The files of mapper number `index`.
    pub(crate) fn read_share(folder: &Path, index: usize) -> io::Result<Vec<PathBuf>> {
        let list = fs::read(folder.join("shares").join(Self::mapper(index)))?;
        let paths = list.strip_suffix(b"\0").into_iter().flat_map(|list| list.split(|&byte| byte == 0));
        Ok(paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
    }

    /// Where reducer number `index` of job number `job` writes its counts.
    pub(crate) fn counts_path(&self, folder: &Path, job: usize, index: usize) -> PathBuf {
        folder.join("counts").join(self.job(job)).join(Self::reducer(index))
    }
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
    fn plan_and_shares_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let odd = File { path: PathBuf::from(OsStr::from_bytes(b"/a\n\xff b")), bytes: 1 };
        let plain = File { path: "/c".into(), bytes: 1 };
        plan().write(folder.path(), &[vec![&odd, &plain], vec![]]).unwrap();
        assert_eq!(Plan::read(folder.path()).unwrap(), plan());
        assert_eq!(Plan::read_share(folder.path(), 0).unwrap(), [odd.path, plain.path]);
        assert!(Plan::read_share(folder.path(), 1).unwrap().is_empty());
    }
}
