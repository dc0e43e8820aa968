//! What the launcher tells map and reduce processes, as files in the temporary folder, and where they put counts.
//!
//! ```text
//!  plan.json          nodes, jobs, how many processes
//!  shares/map-1       the files of the first mapper of every job: paths, each followed by a NUL
//!  counts/J/reduce-1  what the first reducer of job J counted: `word count` lines
//! ```

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::corpus::File;

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

    /// The number of the node that process number `index` attaches to.
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

/// Where the daemon of `node` listens for processes of this machine.
pub(crate) fn local_socket(folder: &Path, node: &str) -> PathBuf {
    folder.join(node).join("local.sock")
}

/// Where the daemon of `node` listens for operators.
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
