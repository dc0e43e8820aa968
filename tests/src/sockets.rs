//! Which sockets a process has open and how much memory it has, as the kernel says.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// How many of a process's file descriptors are of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// UDP sockets, of both IP versions.
    pub udp: usize,
    /// TCP sockets, listening ones included.
    pub tcp: usize,
    /// Unix sockets.
    pub unix: usize,
    /// All, files and pipes too.
    pub all: usize,
}

/// Counts them, from `/proc`.
///
/// # Panics
/// When there is no such process, or it is another user's.
#[must_use]
pub fn descriptors(pid: u32) -> Descriptors {
    let links: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the process's descriptors")
        // One may be closed while they are listed.
        .filter_map(|entry| fs::read_link(entry.expect("an entry").path()).ok())
        .collect();
    let inodes: BTreeSet<u64> = links.iter().filter_map(|link| socket_inode(link.to_str()?)).collect();
    let of = |tables: &[&str], column: usize| {
        let known: BTreeSet<u64> = tables.iter().flat_map(|table| table_inodes(pid, table, column)).collect();
        inodes.intersection(&known).count()
    };
    Descriptors { udp: of(&["udp", "udp6"], 9), tcp: of(&["tcp", "tcp6"], 9), unix: of(&["unix"], 6), all: links.len() }
}

/// `socket:[4711]`.
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The inodes in a table of the process's network namespace; none when the kernel lacks the protocol.
fn table_inodes(pid: u32, table: &str, column: usize) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(column)?.parse().ok()).collect()
}

/// How many sockets `ss` attributes to the process when it is given `flags`; `None` when there is no `ss`.
///
/// # Panics
/// When `ss` fails.
#[must_use]
pub fn counted_by_ss(pid: u32, flags: &str) -> Option<usize> {
    let listed = Command::new("ss").args(["-H", flags]).stderr(Stdio::null()).output().ok()?;
    assert!(listed.status.success(), "ss {flags}: {}", listed.status);
    let owner = format!("pid={pid},");
    Some(String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains(&owner)).count())
}

/// The process's resident memory in bytes.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    memory_bytes(pid, "VmRSS:")
}

/// The most that the process has had resident so far, in bytes.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn peak_bytes(pid: u32) -> u64 {
    memory_bytes(pid, "VmHWM:")
}

fn memory_bytes(pid: u32, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process's status");
    let kib = status.lines().find_map(|line| line.strip_prefix(which)?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or_else(|| panic!("no {which} of {pid}"), |kib: u64| kib * 1024)
}
