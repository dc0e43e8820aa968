//! Reading and writing the files of an identity: nothing is overwritten, nothing is left half-written, and a private
//! key is never readable by others.

use std::{
    fs::{DirBuilder, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use tempfile::NamedTempFile;

/// The mode of a file that anyone may read.
pub(crate) const PUBLIC: u32 = 0o644;
/// The mode of a file that holds a private key.
pub(crate) const SECRET: u32 = 0o600;
const FOLDER: u32 = 0o700;
const READABLE_BY_OTHERS: u32 = 0o077;

/// Why a file of an identity could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file that must be there is not.
    #[error("{path} does not exist: {remedy}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A file stands where a folder is wanted. Nothing was written.
    #[error("{path} is a file, where a folder is wanted", path = path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A private key can be read or written by others than its owner.
    #[error("{path} holds a private key and has mode {mode:04o}, which lets others at it: chmod 600 {path}", path = path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold exactly one of what it should hold, or at least one where more are allowed.
    #[error("{path} holds {found} {what}s in PEM form, {wanted} wanted", path = path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// How many it holds.
        found: usize,
        /// How many it should hold.
        wanted: &'static str,
    },
    /// A file is not well-formed PEM.
    #[error("{path} is not well-formed PEM: {reason}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file to be written exists already. Nothing was written.
    #[error("{path} exists already and is never overwritten: choose another folder, or move it away", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A node's files were to be written where the CA's key is. Nothing was written.
    #[error("{folder} holds the CA's key, which must not reach a node: choose another folder", folder = folder.display())]
    HoldsAuthority {
        /// The folder.
        folder: PathBuf,
    },
    /// This user may not write to a folder. Nothing new was left behind.
    #[error(
        "cannot write {path}: {folder} must be writable by this user, and is not",
        path = path.display(), folder = folder.display()
    )]
    Denied {
        /// The folder or file that was to be made.
        path: PathBuf,
        /// The folder that it was to be made in.
        folder: PathBuf,
    },
    /// The disk has no room. Nothing new was left behind.
    #[error("cannot write {path}: the disk is full; make room and run this again", path = path.display())]
    DiskFull {
        /// The folder or file.
        path: PathBuf,
    },
    /// A folder or a file in it could not be written for another reason. Nothing new was left behind.
    #[error("cannot write {path}: {error}", path = path.display())]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl FileError {
    /// Why `path` could not be made in `folder`.
    fn writing(folder: &Path, path: PathBuf, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied { path, folder: folder.to_owned() },
            io::ErrorKind::StorageFull => Self::DiskFull { path },
            io::ErrorKind::AlreadyExists => Self::Exists { path },
            _ => Self::Write { path, error },
        }
    }

    /// Why `folder` could not be made.
    fn making(folder: &Path, error: io::Error) -> Self {
        let path = folder.to_owned();
        match (error.kind(), file_in_the_way(folder)) {
            (io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory, Some(file)) => {
                Self::NotAFolder { path: file }
            }
            // Something that is neither a folder nor leads to one, such as a dangling link; `Exists` is about files.
            (io::ErrorKind::AlreadyExists, None) => Self::Write { path, error },
            _ => Self::writing(&innermost_existing(folder), path, error),
        }
    }
}

/// The part of `path` that exists and is no folder, if there is one.
fn file_in_the_way(path: &Path) -> Option<PathBuf> {
    // Without a trailing slash, with which a file is not found.
    let path: PathBuf = path.components().collect();
    path.ancestors().find(|part| part.metadata().is_ok_and(|found| !found.is_dir())).map(Path::to_owned)
}

/// The folder that would have to be written to for `folder` to be made.
fn innermost_existing(folder: &Path) -> PathBuf {
    let existing = folder.ancestors().skip(1).find(|part| part.exists()).map(Path::to_owned);
    // A relative path leads to the empty one, which names nothing.
    existing.or_else(|| std::env::current_dir().ok()).unwrap_or_else(|| PathBuf::from("."))
}

/// The bytes of a file and where they came from, for errors to name.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    bytes: Vec<u8>,
}

impl Source {
    /// Text that is in memory, under the name that it would have in a folder.
    pub(crate) fn memory(name: &str, text: &str) -> Self {
        Self { path: name.into(), bytes: text.as_bytes().to_vec() }
    }

    /// Reads a file that anyone may read. `remedy` completes the error when there is none.
    pub(crate) fn public(path: &Path, remedy: &'static str) -> Result<Self, FileError> {
        Self::read(path, remedy, |_| Ok(()))
    }

    /// Reads a private key's file, and refuses one that others can read.
    pub(crate) fn secret(path: &Path, remedy: &'static str) -> Result<Self, FileError> {
        Self::read(path, remedy, |mode| {
            if mode & READABLE_BY_OTHERS == 0 {
                return Ok(());
            }
            Err(FileError::Mode { path: path.to_owned(), mode: mode & 0o7777 })
        })
    }

    fn read(
        path: &Path,
        remedy: &'static str,
        accept: impl FnOnce(u32) -> Result<(), FileError>,
    ) -> Result<Self, FileError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => FileError::Missing { path: path.to_owned(), remedy },
            io::ErrorKind::NotADirectory => match file_in_the_way(path) {
                Some(path) => FileError::NotAFolder { path },
                None => FileError::Read { path: path.to_owned(), error },
            },
            _ => FileError::Read { path: path.to_owned(), error },
        };
        // The mode is asked of the open file, not of the path, so that both speak of the same one.
        let mut file = File::open(path).map_err(failed)?;
        accept(file.metadata().map_err(failed)?.permissions().mode())?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// All of it, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The one certificate in it.
    pub(crate) fn certificate(&self) -> Result<CertificateDer<'static>, FileError> {
        self.one("certificate")
    }

    /// All certificates in it, at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let found: Vec<CertificateDer<'static>> = self.all()?;
        if found.is_empty() { Err(self.count("certificate", 0, "at least one")) } else { Ok(found) }
    }

    /// The one private key in it.
    pub(crate) fn private_key(&self) -> Result<PrivateKeyDer<'static>, FileError> {
        self.one("private key")
    }

    fn one<T: PemObject>(&self, what: &'static str) -> Result<T, FileError> {
        let mut found: Vec<T> = self.all()?;
        match (found.pop(), found.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(self.count(what, 0, "exactly one")),
            (Some(_), others) => Err(self.count(what, others + 1, "exactly one")),
        }
    }

    fn all<T: PemObject>(&self) -> Result<Vec<T>, FileError> {
        let malformed = |error: pem::Error| FileError::Pem { path: self.path.clone(), reason: error.to_string() };
        T::pem_slice_iter(&self.bytes).collect::<Result<_, _>>().map_err(malformed)
    }

    fn count(&self, what: &'static str, found: usize, wanted: &'static str) -> FileError {
        FileError::Count { path: self.path.clone(), what, found, wanted }
    }
}

/// A file to be written: its name in the folder, its text and its mode.
pub(crate) struct NewFile<'a> {
    pub(crate) name: &'static str,
    pub(crate) text: &'a str,
    pub(crate) mode: u32,
}

/// Writes all `files` into `folder` or none of them, and replaces nothing. Makes the folder, open to its owner only,
/// when there is none; one that exists keeps its mode.
///
/// Each file is complete and on disk under another name before it takes its own, so that a full disk or a crash
/// leaves no half of a key behind.
pub(crate) fn write_all_new(folder: &Path, files: &[NewFile<'_>]) -> Result<(), FileError> {
    for file in files {
        refuse_existing(&folder.join(file.name))?;
    }
    let made_here = !folder.exists();
    DirBuilder::new().recursive(true).mode(FOLDER).create(folder).map_err(|error| FileError::making(folder, error))?;
    let written = place(folder, files);
    if written.is_err() && made_here {
        // Best effort: the error that is already on its way says more than a folder that could not be removed.
        let _ = std::fs::remove_dir(folder);
    }
    written
}

fn refuse_existing(path: &Path) -> Result<(), FileError> {
    // A dangling link counts as existing, so the link itself is asked, not what it points to.
    match path.symlink_metadata() {
        Ok(_) => Err(FileError::Exists { path: path.to_owned() }),
        Err(_) => Ok(()),
    }
}

fn place(folder: &Path, files: &[NewFile<'_>]) -> Result<(), FileError> {
    let mut staged = Vec::with_capacity(files.len());
    for file in files {
        let path = folder.join(file.name);
        match stage(folder, file) {
            Ok(temporary) => staged.push((temporary, path)),
            Err(error) => return Err(FileError::writing(folder, path, error)),
        }
    }
    let mut placed = Vec::with_capacity(files.len());
    let outcome = name_all(folder, staged, &mut placed);
    if outcome.is_err() {
        for path in &placed {
            // Best effort, as above; each of these is a file that this call made.
            let _ = std::fs::remove_file(path);
        }
    }
    outcome
}

/// Gives each staged file its name and says in `placed` which ones have it.
fn name_all(folder: &Path, staged: Vec<(NamedTempFile, PathBuf)>, placed: &mut Vec<PathBuf>) -> Result<(), FileError> {
    for (temporary, path) in staged {
        if let Err(failed) = temporary.persist_noclobber(&path) {
            return Err(FileError::writing(folder, path, failed.error));
        }
        placed.push(path);
    }
    // The names are in place; this makes them outlive a power failure. It needs the folder to be readable, so that
    // what the system says of a failure is passed on as it is.
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| FileError::Write { path: folder.to_owned(), error })
}

fn stage(folder: &Path, file: &NewFile<'_>) -> io::Result<NamedTempFile> {
    let mut temporary = tempfile::Builder::new().prefix(".trunkline-certs-").tempfile_in(folder)?;
    temporary.write_all(file.text.as_bytes())?;
    // Set on the open file, because the umask would take bits away from a mode given at creation.
    temporary.as_file().set_permissions(Permissions::from_mode(file.mode))?;
    temporary.as_file().sync_all()?;
    Ok(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: [NewFile<'static>; 2] = [
        NewFile { name: "a.key", text: "secret", mode: SECRET },
        NewFile { name: "a.pem", text: "public", mode: PUBLIC },
    ];

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_get_their_modes_and_a_new_folder_is_private() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("deep/folder");
        write_all_new(&folder, &PAIR).unwrap();
        assert_eq!(names(&folder), ["a.key", "a.pem"]);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("a.key")), 0o600);
        assert_eq!(mode(&folder.join("a.pem")), 0o644);
        assert_eq!(std::fs::read_to_string(folder.join("a.key")).unwrap(), "secret");
    }

    #[test]
    fn one_existing_file_keeps_all_of_them_from_being_written() {
        let scratch = tempfile::tempdir().unwrap();
        let old = scratch.path().join("a.pem");
        std::fs::write(&old, "old").unwrap();
        let error = write_all_new(scratch.path(), &PAIR).unwrap_err();
        assert!(error.to_string().contains(old.to_str().unwrap()), "{error}");
        assert_eq!(names(scratch.path()), ["a.pem"]);
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "old");
    }

    #[test]
    fn a_file_that_appears_while_writing_is_kept_and_the_others_go_away() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("a.pem"), "old").unwrap();
        let error = place(scratch.path(), &PAIR).unwrap_err();
        assert!(matches!(error, FileError::Exists { .. }), "{error}");
        assert_eq!(names(scratch.path()), ["a.pem"]);
        assert_eq!(std::fs::read_to_string(scratch.path().join("a.pem")).unwrap(), "old");
    }

    #[test]
    fn a_dangling_link_counts_as_an_existing_file() {
        let scratch = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nonexistent/target", scratch.path().join("a.key")).unwrap();
        assert!(matches!(write_all_new(scratch.path(), &PAIR), Err(FileError::Exists { .. })));
    }

    #[test]
    fn a_file_where_a_folder_is_wanted_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, "").unwrap();
        for spelling in ["file", "file/", "file/folder", "file/deep/folder"] {
            let folder = scratch.path().join(spelling);
            let written = write_all_new(&folder, &PAIR).unwrap_err();
            let read = Source::public(&folder.join("a.pem"), "").err().unwrap();
            for error in [written, read] {
                let wanted = format!("{} is a file, where a folder is wanted", file.display());
                assert_eq!(error.to_string(), wanted, "{spelling}");
            }
        }
    }

    #[test]
    fn a_folder_that_is_a_dangling_link_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink("/nonexistent/target", &link).unwrap();
        let error = write_all_new(&link, &PAIR).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot write {}: ", link.display())), "{error}");
    }

    #[test]
    fn each_reason_for_a_failed_write_has_its_own_sentence() {
        let said = |kind: io::ErrorKind| {
            FileError::writing(Path::new("out"), "out/node.key".into(), io::Error::from(kind)).to_string()
        };
        let denied = "cannot write out/node.key: out must be writable by this user, and is not";
        assert_eq!(said(io::ErrorKind::PermissionDenied), denied);
        let full = "cannot write out/node.key: the disk is full; make room and run this again";
        assert_eq!(said(io::ErrorKind::StorageFull), full);
        assert_eq!(said(io::ErrorKind::TimedOut), "cannot write out/node.key: timed out");
    }

    #[test]
    fn a_folder_that_may_not_be_made_names_the_one_that_must_be_writable() {
        let scratch = tempfile::tempdir().unwrap();
        let said = |folder: &Path| FileError::making(folder, io::ErrorKind::PermissionDenied.into()).to_string();
        let wanted = format!("{} must be writable by this user, and is not", scratch.path().display());
        let error = said(&scratch.path().join("deep/folder"));
        assert!(error.ends_with(&wanted), "{error}");
        let here = std::env::current_dir().unwrap();
        let error = said(Path::new("no-such-folder/node-b"));
        assert!(error.contains(&format!(": {} must be writable", here.display())), "{error}");
    }

    #[test]
    fn a_folder_that_may_not_be_written_is_named_and_stays_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::set_permissions(scratch.path(), Permissions::from_mode(0o500)).unwrap();
        if File::create(scratch.path().join("probe")).is_ok() {
            println!("skipped: this user may write into any folder");
            return;
        }
        let error = write_all_new(scratch.path(), &PAIR).unwrap_err();
        assert!(matches!(&error, FileError::Denied { folder, .. } if folder == scratch.path()), "{error}");
        assert!(names(scratch.path()).is_empty());
    }
}
