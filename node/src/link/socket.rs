//! Unix sockets that only one daemon serves, that nobody reaches before their mode is set, and that a crash leaves
//! replaceable.
//!
//! A lock on `PATH.lock` is held while `PATH` is served; the kernel lets go of it when the process ends, however it
//! ends. So two daemons that start at once cannot both replace what a dead one left. The lock file itself stays: to
//! remove it would let two daemons lock two files of one name.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::credentials::Peer;

/// The longest path of a unix socket in bytes: `sun_path` holds 108, the last of them NUL (unix(7)).
pub(crate) const PATH_BYTES_MAX: usize = 107;

/// Connections that wait to be accepted; the kernel may allow fewer (`net.core.somaxconn`). Then `connect` waits.
const BACKLOG: i32 = 1_024;

/// How long to wait after a failed accept: out of file descriptors, it would fail again at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why a socket could not be bound. Nothing that was at the path is changed, but for the last variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The path does not fit.
    #[error("{} has {length} bytes, a unix socket's path at most {PATH_BYTES_MAX}: choose a shorter one", path.display())]
    TooLong {
        /// The path that was asked for.
        path: PathBuf,
        /// Its bytes.
        length: usize,
    },
    /// The folder is missing.
    #[error("the folder {folder} does not exist: make it with `mkdir -m 0750 {folder}`", folder = folder.display())]
    NoFolder {
        /// The folder that the socket was to be made in.
        folder: PathBuf,
    },
    /// Something is there that nobody meant to lose.
    #[error("{} exists and is no socket; move it away or choose another path", path.display())]
    NotASocket {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// Something answers there.
    #[error("another process serves {}; stop it first, or choose another path", path.display())]
    Served {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {what} {}: {reason}", path.display())]
    System {
        /// What was tried: a verb, and what stands between it and the path.
        what: &'static str,
        /// With which path.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

/// For `map_err`: what was tried, and where.
fn system<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> SocketError {
    move |error| SocketError::System { what, path: path.to_owned(), reason: error.into() }
}

/// A listening unix socket. Dropped, it removes its path, unless that has become something else meanwhile.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    listener: UnixListener,
    // Fields drop in this order: the path goes while the lock is held.
    path: BoundPath,
    _lock: OwnedFd,
}

/// A socket's name in the file system.
#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        let ours = |found: &fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(ours) {
            // Nothing can be done about a failure, and the next daemon replaces what is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a socket at `path` that only those reach whom `mode` lets, from its first instant on. What a dead daemon left
/// at the path is replaced.
///
/// # Errors
/// [`SocketError`].
///
/// # Panics
/// Outside of a tokio runtime with I/O enabled.
pub(crate) fn bind_unix(path: &Path, mode: u32) -> Result<BoundSocket, SocketError> {
    check_path(path)?;
    let lock = lock(path)?;
    clear(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(system("make a socket for", path))?;
    // Linux gives the socket's own mode, less the umask, to the name that bind makes.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode)).map_err(system("set the mode of", path))?;
    let address = SocketAddrUnix::new(path).map_err(system("use the path", path))?;
    rustix::net::bind(&socket, &address).map_err(system("bind", path))?;
    let made = fs::symlink_metadata(path).map_err(system("look at", path))?;
    let bound = BoundPath { path: path.to_owned(), device: made.dev(), inode: made.ino() };
    // What the umask took away. Nothing listens yet.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(system("set the mode of", path))?;
    rustix::net::listen(&socket, BACKLOG).map_err(system("listen on", path))?;
    let listener = UnixListener::from_std(StdListener::from(socket)).map_err(system("listen on", path))?;
    Ok(BoundSocket { listener, path: bound, _lock: lock })
}

impl BoundSocket {
    /// The next connection, and who made it. Failures that pass, such as a lack of file descriptors, are logged and
    /// waited out. Cancel-safe.
    pub(crate) async fn accept(&self) -> (UnixStream, Peer) {
        loop {
            let accepted = self.listener.accept().await.and_then(|(stream, _)| {
                let peer = stream.peer_cred()?.into();
                Ok((stream, peer))
            });
            match accepted {
                Ok(accepted) => return accepted,
                Err(error) => {
                    warn!("cannot accept a connection on {}: {error}", self.path.path.display());
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

/// Whether a socket's path is short enough, its folder is there, and nothing but a socket stands in its place.
pub(crate) fn check_path(path: &Path) -> Result<(), SocketError> {
    let length = path.as_os_str().len();
    if length > PATH_BYTES_MAX {
        return Err(SocketError::TooLong { path: path.to_owned(), length });
    }
    let folder = folder_of(path);
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => stands_there(path).map(|_| ()),
        Ok(_) => Err(SocketError::NoFolder { folder: folder.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(SocketError::NoFolder { folder: folder.to_owned() })
        }
        Err(error) => Err(system("look at", folder)(error)),
    }
}

/// Whether there is a socket, dead or alive; an error if there is anything else.
fn stands_there(path: &Path) -> Result<bool, SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(system("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NotASocket { path: path.to_owned() }),
        Ok(_) => Ok(true),
    }
}

/// The folder that `path` stands in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn lock(path: &Path) -> Result<OwnedFd, SocketError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let locked = rustix::fs::open(&lock_path, flags, Mode::RUSR | Mode::WUSR).and_then(|file| {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    });
    locked.map_err(|error| match error {
        Errno::WOULDBLOCK => SocketError::Served { path: path.to_owned() },
        error => system("lock", &lock_path)(error),
    })
}

/// Removes what a dead daemon left at `path`. The lock is held.
fn clear(path: &Path) -> Result<(), SocketError> {
    if !stands_there(path)? {
        return Ok(());
    }
    if is_served(path)? {
        return Err(SocketError::Served { path: path.to_owned() });
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove the dead socket", path)(error)),
        _ => Ok(()),
    }
}

/// Whether something listens at `path`, with or without a lock.
pub(crate) fn is_served(path: &Path) -> Result<bool, SocketError> {
    knock(path).map_err(system("tell whether another process serves", path))
}

fn knock(path: &Path) -> Result<bool, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // AGAIN: its backlog is full.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use tempfile::TempDir;

    use super::*;

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.sock");
        (folder, path)
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_tells_who_connects() {
        let (_folder, path) = folder();
        for mode in [0o600, 0o660] {
            let socket = bind_unix(&path, mode).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
            let _client = UnixStream::connect(&path).await.unwrap();
            let (_stream, peer) = socket.accept().await;
            assert_eq!(peer.uid, nix::unistd::Uid::effective().as_raw());
        }
    }

    #[tokio::test]
    async fn a_dropped_socket_leaves_no_path_and_can_be_bound_again() {
        let (_folder, path) = folder();
        drop(bind_unix(&path, 0o600).unwrap());
        assert!(!path.exists());
        let _again = bind_unix(&path, 0o600).unwrap();
    }

    #[tokio::test]
    async fn what_a_dead_daemon_left_is_replaced() {
        let (_folder, path) = folder();
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library does not unlink");
        let _socket = bind_unix(&path, 0o600).unwrap();
        let _client = UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_second_daemon_is_told_and_the_first_goes_on() {
        let (_folder, path) = folder();
        let first = bind_unix(&path, 0o600).unwrap();
        let error = bind_unix(&path, 0o600).unwrap_err();
        assert!(matches!(error, SocketError::Served { .. }), "{error}");
        let _client = UnixStream::connect(&path).await.unwrap();
        first.accept().await;
    }

    #[tokio::test]
    async fn a_server_that_takes_no_lock_is_noticed_too() {
        let (_folder, path) = folder();
        let _foreign = StdListener::bind(&path).unwrap();
        let error = bind_unix(&path, 0o600).unwrap_err();
        assert!(error.to_string().starts_with("another process serves"), "{error}");
        assert!(path.exists());
    }

    #[tokio::test]
    async fn what_is_no_stream_socket_is_left_alone() {
        let (_folder, path) = folder();
        fs::write(&path, "precious").unwrap();
        let error = bind_unix(&path, 0o600).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(!path.with_file_name("node.sock.lock").exists(), "a refused start leaves a lock behind");
        fs::remove_file(&path).unwrap();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        bind_unix(&path, 0o600).unwrap_err();
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_path_that_was_replaced_is_not_removed() {
        let (_folder, path) = folder();
        let socket = bind_unix(&path, 0o600).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn of_many_that_start_at_once_one_serves() {
        let (_folder, path) = folder();
        drop(StdListener::bind(&path).unwrap());
        let handle = tokio::runtime::Handle::current();
        let start = std::sync::Barrier::new(8);
        let bound: Vec<_> = std::thread::scope(|scope| {
            let attempt = || {
                let _entered = handle.enter();
                start.wait();
                bind_unix(&path, 0o600)
            };
            let attempts: Vec<_> = (0..8).map(|_| scope.spawn(attempt)).collect();
            attempts.into_iter().filter_map(|attempt| attempt.join().unwrap().ok()).collect()
        });
        assert_eq!(bound.len(), 1);
        let _client = UnixStream::connect(&path).await.unwrap();
    }

    #[test]
    fn a_path_says_what_is_wrong_with_it() {
        let (folder, _) = folder();
        let error = bind_unix(&folder.path().join("x".repeat(108)), 0o600).unwrap_err();
        assert!(error.to_string().contains("a unix socket's path at most 107: choose a shorter one"), "{error}");
        let error = bind_unix(&folder.path().join("missing/node.sock"), 0o600).unwrap_err();
        assert!(error.to_string().contains("missing does not exist: make it with `mkdir -m 0750 "), "{error}");
    }
}
