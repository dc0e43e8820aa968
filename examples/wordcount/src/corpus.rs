//! Which files are counted, in which order, and how the mappers share them.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    env, fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use walkdir::{DirEntry, WalkDir};

/// How many of the paths that a user gave are repeated.
const PATHS_SHOWN: usize = 3;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Corpus {
    /// Every file, sorted by the bytes of its path.
    pub(crate) files: Vec<File>,
    /// The sum of their sizes.
    pub(crate) bytes: u64,
    /// Where they come from, for people.
    pub(crate) origin: String,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Absolute, so that every process finds it.
    pub(crate) path: PathBuf,
    /// As the file system said when the corpus was listed.
    pub(crate) bytes: u64,
}

/// Why there is no corpus. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CorpusError {
    /// A PATH names nothing.
    #[error("{path}: no such file or folder", path = .0.display())]
    Missing(PathBuf),
    /// A PATH is a pipe, a device or the like.
    #[error("{path}: neither a regular file nor a folder", path = .0.display())]
    Neither(PathBuf),
    /// A file or folder cannot be looked at.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to count.
    #[error("no regular file in {0}")]
    Empty(String),
}

impl Corpus {
    /// Lists every regular file in `paths`, or in the default place when there are none.
    pub(crate) fn list(paths: &[PathBuf]) -> Result<Self, CorpusError> {
        if paths.is_empty() {
            return Self::default_place();
        }
        let mut files = Vec::new();
        for path in paths {
            let kind = fs::metadata(path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => CorpusError::Missing(path.clone()),
                _ => CorpusError::Unreadable { path: path.clone(), source },
            })?;
            if !kind.is_file() && !kind.is_dir() {
                return Err(CorpusError::Neither(path.clone()));
            }
            walk(path, |_| true, &mut files)?;
        }
        Self::of(files, listed(paths))
    }

    /// The sources of this project's dependencies; all that cargo's registry folder holds; this checkout.
    fn default_place() -> Result<Self, CorpusError> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let checkout = checkout.canonicalize().unwrap_or(checkout);
        let registries = registries();
        let mut files = Vec::new();
        let crates = locked_crates(&checkout.join("Cargo.lock"), &registries);
        for folder in &crates {
            walk(folder, |_| true, &mut files)?;
        }
        if !files.is_empty() {
            let origin = format!("the sources of {} of this project's dependencies in cargo's registry", crates.len());
            return Self::of(files, origin);
        }
        for folder in &registries {
            walk(folder, |_| true, &mut files)?;
        }
        if !files.is_empty() {
            return Self::of(files, "all sources in cargo's registry".to_owned());
        }
        walk(&checkout, is_source, &mut files)?;
        Self::of(files, format!("this checkout, {}", checkout.display()))
    }

    fn of(mut files: Vec<File>, origin: String) -> Result<Self, CorpusError> {
        if files.is_empty() {
            return Err(CorpusError::Empty(origin));
        }
        files.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
        let bytes = files.iter().map(|file| file.bytes).sum();
        Ok(Self { files, bytes, origin })
    }

    /// Deals the files to `mappers`, the largest first and each to the one that has the fewest bytes so far.
    pub(crate) fn shares(&self, mappers: usize) -> Vec<Vec<&File>> {
        let mut largest_first: Vec<_> = self.files.iter().collect();
        largest_first.sort_by_key(|file| Reverse(file.bytes));
        let mut shares = vec![Vec::new(); mappers];
        let mut loads: BinaryHeap<_> = (0..mappers).map(|mapper| Reverse((0, 0, mapper))).collect();
        for file in largest_first {
            let Some(Reverse((bytes, files, mapper))) = loads.pop() else { break };
            shares[mapper].push(file);
            loads.push(Reverse((bytes + file.bytes, files + 1, mapper)));
        }
        shares
    }
}

/// Some of the paths, and how many more there are.
fn listed(paths: &[PathBuf]) -> String {
    let mut text = paths.iter().take(PATHS_SHOWN).map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    if paths.len() > PATHS_SHOWN {
        text.push_str(&format!(" and {} more", paths.len() - PATHS_SHOWN));
    }
    text
}

/// Adds every regular file under `root` that `wanted` lets through; symbolic links below it are not followed.
fn walk(root: &Path, wanted: impl Fn(&DirEntry) -> bool, files: &mut Vec<File>) -> Result<(), CorpusError> {
    let unreadable = |path: &Path, source| CorpusError::Unreadable { path: path.to_owned(), source };
    let root = std::path::absolute(root).map_err(|source| unreadable(root, source))?;
    for entry in WalkDir::new(&root).into_iter().filter_entry(wanted) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(&root).to_owned();
            unreadable(&path, error.into())
        })?;
        // A root that is a link to a file was named by the user, and is meant.
        let metadata =
            if entry.depth() == 0 { fs::metadata(entry.path()) } else { entry.metadata().map_err(Into::into) };
        let metadata = metadata.map_err(|source| unreadable(entry.path(), source))?;
        if metadata.is_file() {
            files.push(File { path: entry.into_path(), bytes: metadata.len() });
        }
    }
    Ok(())
}

/// Not what was built here, nor git's own.
fn is_source(entry: &DirEntry) -> bool {
    entry.file_name() != ".git" && !entry.path().join("CACHEDIR.TAG").exists()
}

/// The folders with unpacked crates, one for each registry that cargo has used.
fn registries() -> Vec<PathBuf> {
    let home = env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let Some(home) = home.or_else(|| Some(env::home_dir()?.join(".cargo"))) else { return Vec::new() };
    let mut registries: Vec<_> = fs::read_dir(home.join("registry/src"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    registries.sort();
    registries
}

/// The folders of the crates that the lock file names and that are unpacked here. A lock file that is missing, or
/// that cannot be read, names none.
fn locked_crates(lock: &Path, registries: &[PathBuf]) -> Vec<PathBuf> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        source: Option<String>,
    }
    let lock = fs::read_to_string(lock).ok().and_then(|text| toml::from_str::<Lock>(&text).ok());
    let packages = lock.into_iter().flat_map(|lock| lock.package).filter(|package| package.source.is_some());
    packages
        .filter_map(|Package { name, version, .. }| {
            registries.iter().map(|registry| registry.join(format!("{name}-{version}"))).find(|folder| folder.is_dir())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(corpus: &Corpus) -> Vec<String> {
        corpus.files.iter().map(|file| file.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn links_in_folders_are_not_followed_and_files_are_sorted() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/b"), "two").unwrap();
        fs::write(folder.path().join("a"), "one").unwrap();
        symlink("a", folder.path().join("link")).unwrap();
        symlink("..", folder.path().join("sub/up")).unwrap();
        let corpus = Corpus::list(&[folder.path().to_owned()]).unwrap();
        assert_eq!(names(&corpus), ["a", "b"]);
        assert_eq!(corpus.bytes, 6);
        let named = Corpus::list(&[folder.path().join("link")]).unwrap();
        assert_eq!((names(&named), named.bytes), (vec!["link".to_owned()], 3));
    }

    #[test]
    fn a_path_that_is_missing_or_no_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        assert!(Corpus::list(&[missing]).unwrap_err().to_string().ends_with("missing: no such file or folder"));
        assert!(matches!(Corpus::list(&[PathBuf::from("/dev/null")]), Err(CorpusError::Neither(_))));
        assert!(matches!(Corpus::list(&[folder.path().to_owned()]), Err(CorpusError::Empty(_))));
    }

    #[test]
    fn many_paths_are_told_in_short() {
        let paths = ["a", "b", "c", "d", "e"].map(PathBuf::from);
        assert_eq!(listed(&paths[..3]), "a, b, c");
        assert_eq!(listed(&paths), "a, b, c and 2 more");
    }

    #[test]
    fn shares_are_even_in_bytes_and_leave_nothing_out() {
        let file = |bytes| File { path: format!("/{bytes}").into(), bytes };
        let corpus = Corpus::of([9, 1, 5, 4, 0, 3, 2].map(file).into(), String::new()).unwrap();
        let shares = corpus.shares(3);
        let sums: Vec<u64> = shares.iter().map(|share| share.iter().map(|file| file.bytes).sum()).collect();
        assert_eq!(sums, [9, 8, 7]);
        assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), 7);
        assert_eq!(corpus.shares(9).iter().filter(|share| share.is_empty()).count(), 2);
    }

    #[test]
    fn the_lock_file_names_the_crates_that_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("Cargo.lock");
        let registry = folder.path().join("registry");
        fs::create_dir_all(registry.join("toml-1.1.3+spec-1.1.0")).unwrap();
        fs::create_dir_all(registry.join("ours-0.1.0")).unwrap();
        let text = "version = 4\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n[[package]]\nname = \"toml\"\n\
                    version = \"1.1.3+spec-1.1.0\"\nsource = \"registry+x\"\n[[package]]\nname = \"elsewhere\"\n\
                    version = \"1.0.0\"\nsource = \"registry+x\"\n";
        fs::write(&lock, text).unwrap();
        let crates = locked_crates(&lock, std::slice::from_ref(&registry));
        assert_eq!(crates, [registry.join("toml-1.1.3+spec-1.1.0")]);
        assert!(locked_crates(&folder.path().join("none"), &[registry]).is_empty());
    }
}
