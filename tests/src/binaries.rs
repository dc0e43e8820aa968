//! The binaries that are shipped, built in the profile of the tests, once per test process.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The node daemon.
#[must_use]
pub fn node() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| shipped("trunkline-node"))
}

/// The tool for certificates.
#[must_use]
pub fn certs() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| shipped("trunkline-certs"))
}

/// The command.
#[must_use]
pub fn trunkline() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| shipped("trunkline"))
}

/// The user's process of [`crate::process`]. Cargo has built it together with the tests.
#[must_use]
pub fn test_process() -> PathBuf {
    existing("trunkline-test-process")
}

fn shipped(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build);
    existing(name)
}

fn existing(name: &str) -> PathBuf {
    let path = profile_folder().join(name);
    assert!(path.is_file(), "{} is not there; run the tests with cargo", path.display());
    path
}

/// `target/release`, say: a test's own binary lies in `deps` below it, a program that uses the harness in the folder
/// itself.
fn profile_folder() -> PathBuf {
    let own = env::current_exe().expect("the path of the binary that runs");
    let own_folder = own.parent().expect("a binary lies in a folder");
    let deps = own.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "deps"));
    deps.and_then(Path::parent).unwrap_or(own_folder).to_owned()
}

fn build() {
    let folder = profile_folder();
    let profile = folder.file_name().and_then(|name| name.to_str()).expect("a profile's folder has a name");
    let profile = if profile == "debug" { "dev" } else { profile };
    let target = folder.parent().expect("target is above target/PROFILE");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--profile", profile]);
    cargo.args(["-p", "trunkline-node", "-p", "trunkline-certs", "-p", "trunkline-cli"]);
    cargo.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "{cargo:?}: {status}");
}
