//! What the operating system counts of a process: its open files, and which of them are UDP and TCP sockets.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

/// Counts of one process at one moment, or the highest of several moments.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sockets {
    /// UDP sockets, IPv4 and IPv6.
    pub(crate) udp: usize,
    /// TCP sockets, IPv4 and IPv6, in whatever state.
    pub(crate) tcp: usize,
    /// File descriptors of all kinds.
    pub(crate) fds: usize,
}

impl Sockets {
    /// Counts those of the process `pid`: its file descriptors, by inode, in the kernel's tables.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let (mut fds, mut sockets) = (0, HashSet::new());
        for entry in fs::read_dir(process.join("fd"))? {
            fds += 1;
            // One that was closed meanwhile is none.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            sockets.extend(target.to_str().and_then(socket_inode));
        }
        let held = |tables: [&str; 2]| -> io::Result<usize> {
            let mut count = 0;
            for table in tables {
                count += table_inodes(&read(&process.join("net").join(table))?).filter(|i| sockets.contains(i)).count();
            }
            Ok(count)
        };
        Ok(Self { udp: held(["udp", "udp6"])?, tcp: held(["tcp", "tcp6"])?, fds })
    }

    /// The higher of both, figure by figure.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { udp: self.udp.max(other.udp), tcp: self.tcp.max(other.tcp), fds: self.fds.max(other.fds) }
    }
}

/// A kernel without IPv6 has no table of it.
fn read(table: &Path) -> io::Result<String> {
    match fs::read_to_string(table) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text,
    }
}

/// The number in `socket:[number]`.
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The tenth column of a table such as /proc/net/udp, below its heading.
fn table_inodes(table: &str) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(9)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, UdpSocket},
        process,
    };

    use super::*;

    #[test]
    fn sockets_of_this_process_are_counted_by_kind() {
        let opened = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let counted = Sockets::of(process::id()).unwrap();
        drop(opened);
        // Other tests of this process may hold some too.
        assert!(counted.udp >= 2 && counted.tcp >= 1, "{counted:?}");
        assert!(counted.fds >= counted.udp + counted.tcp + 3, "{counted:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(Sockets::of(u32::MAX).is_err());
    }
}
