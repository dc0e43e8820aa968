//! Where the shipped programs come from.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::place::{PROGRAMS, Place, said};

/// A target folder of cargo with this program in it, and a cargo that says what it is asked for and takes what was built
/// already.
struct Target {
    folder: TempDir,
    bin: PathBuf,
    cargo: PathBuf,
}

impl Target {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (bin, cargo) = (folder.path().join("release"), folder.path().join("cargo"));
        fs::create_dir(&bin).unwrap();
        fs::write(folder.path().join("CACHEDIR.TAG"), "").unwrap();
        fs::copy(env!("CARGO_BIN_EXE_wordcount"), bin.join("wordcount")).unwrap();
        let target = Self { folder, bin, cargo };
        target.cargo_does(&format!(
            "cp {0}/trunkline-certs {0}/trunkline-node {1}",
            PROGRAMS.display(),
            target.bin.display()
        ));
        target
    }

    fn cargo_does(&self, what: &str) {
        fs::write(&self.cargo, format!("#!/bin/sh\necho \"asked: $@\"\n{what}\n")).unwrap();
        fs::set_permissions(&self.cargo, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A small count, run by cargo.
    fn count(&self, place: &Place, more: &[&str]) -> Output {
        let mut command = Command::new(self.bin.join("wordcount"));
        command.args(["--json", "--nodes", "1", "--per-node", "1"]).args(more).arg(&self.cargo);
        command.env("TMPDIR", place.temp.path()).env("CARGO", &self.cargo);
        command.output().unwrap()
    }
}

const SAYS_IT_BUILDS: &str = "wordcount: building trunkline-certs and trunkline-node into ";

#[test]
fn cargo_builds_the_programs_first_and_leaves_those_that_are_fresh() {
    let (place, target) = (Place::new(), Target::new());
    let asked = format!(
        "asked: build --locked --package=trunkline-certs --package=trunkline-node --profile=release --target-dir={} ",
        target.folder.path().display()
    );
    // They are missing; then they are there, and may be of older sources.
    for missing in [true, false] {
        let output = target.count(&place, &[]);
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        assert!(text.contains(&asked), "{text}");
        assert_eq!(text.contains(SAYS_IT_BUILDS), missing, "{text}");
        assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok(), "cargo's output is not the count's");
    }
    target.cargo_does("sleep 1.5");
    let output = target.count(&place, &[]);
    assert!(output.status.success() && said(&output).contains(SAYS_IT_BUILDS), "{}", said(&output));
    place.assert_empty();
}

#[test]
fn a_count_with_embedded_nodes_builds_no_daemon() {
    let (place, target) = (Place::new(), Target::new());
    target.cargo_does(&format!("cp {}/trunkline-certs {}", PROGRAMS.display(), target.bin.display()));
    let output = target.count(&place, &["--embedded"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("asked: build --locked --package=trunkline-certs --profile=release "), "{text}");
    assert!(text.contains("wordcount: building trunkline-certs into "), "{text}");
    assert!(!target.bin.join("trunkline-node").exists());
    // Daemons have to be there where they are wanted.
    let output = target.count(&place, &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("built trunkline-certs and trunkline-node, but not in "), "{text}");
    place.assert_empty();
}

#[test]
fn programs_that_do_not_build_count_nothing_though_older_ones_are_there() {
    let (place, target) = (Place::new(), Target::new());
    assert!(target.count(&place, &[]).status.success());
    target.cargo_does("exit 101");
    let output = target.count(&place, &[]);
    let text = said(&output);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
    assert!(text.contains("could not build trunkline-certs and trunkline-node: exit status: 101"), "{text}");
    place.assert_empty();
}

#[test]
fn programs_of_a_folder_that_was_named_are_never_built() {
    let (place, target) = (Place::new(), Target::new());
    let output = target.count(&place, &["--bin-dir", PROGRAMS.to_str().unwrap()]);
    assert!(output.status.success() && !said(&output).contains("asked:"), "{}", said(&output));
    place.assert_empty();
}
