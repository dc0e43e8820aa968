//! The shipped programs: where they are, or how they are built.

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{process::Command, time};

/// The programs that are run as shipped, or the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Names(&'static [&'static str]);

impl Names {
    /// Makes certificates.
    const CERTS: &str = "trunkline-certs";
    /// The daemon.
    const NODE: &str = "trunkline-node";

    /// Those that are needed. Where nodes are embedded, there are no daemons.
    fn needed(embedded: bool) -> Self {
        Self(if embedded { &[Self::CERTS] } else { &[Self::CERTS, Self::NODE] })
    }

    /// The first that `folder` lacks.
    fn missing_in(self, folder: &Path) -> Option<&'static str> {
        self.0.iter().copied().find(|name| !folder.join(name).is_file())
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" and "))
    }
}

/// How long cargo may look at programs that are there already before it is said what is waited for.
const QUIET: Duration = Duration::from_secs(1);

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binaries {
    /// `trunkline-certs`.
    pub(crate) certs: PathBuf,
    /// `trunkline-node`, which is not there when nodes are embedded.
    pub(crate) node: PathBuf,
    /// This program, which is also the mappers, the reducers, embedded nodes and the guard.
    pub(crate) wordcount: PathBuf,
}

/// Why the programs are not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BinaryError {
    /// `--bin-dir` lacks one.
    #[error("{name} is not in {folder}, which --bin-dir names", folder = folder.display())]
    NotInFolder {
        /// Which.
        name: &'static str,
        /// Where it should be.
        folder: PathBuf,
    },
    /// They are nowhere, and this is not cargo's doing.
    #[error(
        "{folder} does not hold {names}: name the folder that does with --bin-dir, or build first (cargo build --release \
         {packages})",
        folder = folder.display(), packages = names.0.iter().map(|name| format!("-p {name}")).collect::<Vec<_>>().join(" ")
    )]
    NoCargo {
        /// Which are needed.
        names: Names,
        /// Where they should be.
        folder: PathBuf,
    },
    /// Cargo could not be run.
    #[error("cannot run {cargo}: {source}", cargo = cargo.display())]
    Cargo {
        /// What `$CARGO` says.
        cargo: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Cargo ran, and failed; it has said why.
    #[error("{} could not build {names}: {status}", cargo.display())]
    Build {
        /// What it was asked for.
        names: Names,
        /// What `$CARGO` says.
        cargo: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// Cargo built them somewhere else.
    #[error("{} built {names}, but not in {}", cargo.display(), folder.display())]
    Elsewhere {
        /// What it was asked for.
        names: Names,
        /// What `$CARGO` says.
        cargo: PathBuf,
        /// Where they should be.
        folder: PathBuf,
    },
    /// The operating system does not say where this program is.
    #[error("cannot find this program itself: {0}")]
    Myself(io::Error),
}

impl Binaries {
    /// Finds those that are needed in `bin_dir`; without it beside this program. There, when it is cargo's own folder
    /// and cargo runs this, they are built first, so that programs of older sources never count.
    pub(crate) async fn find_or_build(bin_dir: Option<&Path>, embedded: bool) -> Result<Self, BinaryError> {
        let names = Names::needed(embedded);
        let wordcount = env::current_exe().map_err(BinaryError::Myself)?;
        if let Some(folder) = bin_dir {
            return match names.missing_in(folder) {
                None => Ok(Self::in_folder(folder, wordcount)),
                Some(name) => Err(BinaryError::NotInFolder { name, folder: folder.to_owned() }),
            };
        }
        let folder = wordcount.parent().unwrap_or(Path::new("/")).to_owned();
        match Build::of(names, &folder) {
            Some(build) => build.run(&folder).await?,
            None if names.missing_in(&folder).is_some() => return Err(BinaryError::NoCargo { names, folder }),
            None => {}
        }
        Ok(Self::in_folder(&folder, wordcount))
    }

    fn in_folder(folder: &Path, wordcount: PathBuf) -> Self {
        // Absolute: they are started from other folders too.
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let [certs, node] = [Names::CERTS, Names::NODE].map(|name| folder.join(name));
        Self { certs, node, wordcount }
    }
}

/// A run of cargo that leaves the programs as the sources are now: nothing to do, when they are.
struct Build {
    names: Names,
    cargo: PathBuf,
    arguments: Vec<String>,
}

impl Build {
    /// Into `folder`, with the profile and the target that its name tells. Nothing where it is not cargo's, where cargo
    /// does not run this program, or where the sources are gone.
    fn of(names: Names, folder: &Path) -> Option<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
        let cargo = env::var_os("CARGO").map(PathBuf::from).filter(|_| workspace.is_file())?;
        let mut arguments = build_arguments(folder)?;
        arguments.push(format!("--manifest-path={}", workspace.to_str()?));
        Some(Self { names, cargo, arguments })
    }

    async fn run(self, folder: &Path) -> Result<(), BinaryError> {
        let Self { names, cargo, arguments } = self;
        let say = || {
            eprintln!("wordcount: building {names} into {}, with {}", folder.display(), cargo.display());
        };
        let mut command = Command::new(&cargo);
        command
            .args(["build", "--locked"])
            .args(names.0.iter().map(|name| format!("--package={name}")))
            .args(arguments);
        // Standard output is for the count.
        command.stdin(Stdio::null()).stdout(Stdio::from(io::stderr())).kill_on_drop(true);
        let warm = names.missing_in(folder).is_none();
        if warm {
            command.arg("--quiet");
        } else {
            say();
        }
        let ended = async {
            let mut child = command.spawn()?;
            if warm && time::timeout(QUIET, child.wait()).await.is_err() {
                say();
            }
            child.wait().await
        };
        match ended.await {
            Err(source) => Err(BinaryError::Cargo { cargo, source }),
            Ok(status) if !status.success() => Err(BinaryError::Build { names, cargo, status }),
            Ok(_) if names.missing_in(folder).is_some() => {
                Err(BinaryError::Elsewhere { names, cargo, folder: folder.to_owned() })
            }
            Ok(_) => Ok(()),
        }
    }
}

/// What `cargo build` is told so that programs land in `folder`, one of cargo's: `TARGET/PROFILE`, or
/// `TARGET/TRIPLE/PROFILE`. Cargo marks its target folder with a tag.
fn build_arguments(folder: &Path) -> Option<Vec<String>> {
    let tagged = |folder: &Path| folder.join("CACHEDIR.TAG").is_file();
    let profile = match folder.file_name()?.to_str()? {
        "debug" => "dev",
        profile => profile,
    };
    let parent = folder.parent()?;
    let (target, triple) = if tagged(parent) {
        (parent, None)
    } else {
        (parent.parent().filter(|target| tagged(target))?, Some(parent.file_name()?.to_str()?))
    };
    let mut arguments = vec![format!("--profile={profile}"), format!("--target-dir={}", target.to_str()?)];
    arguments.extend(triple.map(|triple| format!("--target={triple}")));
    Some(arguments)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_of_cargo_tells_profile_and_target() {
        let target = tempfile::tempdir().unwrap();
        fs::write(target.path().join("CACHEDIR.TAG"), "").unwrap();
        let dir = format!("--target-dir={}", target.path().display());
        let arguments = |sub: &str| build_arguments(&target.path().join(sub));
        assert_eq!(arguments("debug").unwrap(), ["--profile=dev", &dir]);
        assert_eq!(
            arguments("x86_64-unknown-linux-musl/release").unwrap(),
            ["--profile=release", &dir, "--target=x86_64-unknown-linux-musl"]
        );
        assert_eq!(arguments("a/b/release"), None);
    }

    #[tokio::test]
    async fn a_folder_that_lacks_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("trunkline-certs"), "").unwrap();
        let error = Binaries::find_or_build(Some(folder.path()), false).await.unwrap_err();
        assert!(error.to_string().starts_with("trunkline-node is not in "), "{error}");
        let found = Binaries::find_or_build(Some(folder.path()), true).await.unwrap();
        assert_eq!(found.certs, folder.path().join("trunkline-certs"), "embedded nodes need no daemon");
    }
}
