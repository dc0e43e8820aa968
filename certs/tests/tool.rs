//! The command: what it writes, what it says, what it leaves alone, and whether another implementation agrees.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;
use trunkline_certs::{Identity, NodePaths};

const TOOL: &str = env!("CARGO_BIN_EXE_trunkline-certs");

fn tool(arguments: &[&str]) -> Output {
    Command::new(TOOL).args(arguments).output().unwrap()
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = tool(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What it says on standard error when it fails with exit code 1.
#[track_caller]
fn fails(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("trunkline-certs: error: ") && said.lines().count() == 1, "{said}");
    assert!(output.stdout.is_empty());
    said
}

/// A scratch folder with a CA in `ca`, and the two paths as text.
fn scratch() -> (TempDir, String, String) {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name| scratch.path().join(name).into_os_string().into_string().unwrap();
    let (ca, out) = (path("ca"), path("node-b"));
    succeeds(&["ca", "init", "--cluster", "demo", "--dir", &ca]);
    (scratch, ca, out)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    path.as_ref().metadata().unwrap().permissions().mode() & 0o7777
}

/// Every file in `folder` with its bytes.
fn contents(folder: &str) -> Vec<(String, Vec<u8>)> {
    let mut contents: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    contents.sort();
    contents
}

#[test]
fn it_writes_what_it_says_with_the_right_modes() {
    let (_scratch, ca, out) = scratch();
    let said = succeeds(&["node", "issue", "--node", "node-b", "--ca", &ca, "--out", &out]);
    assert!(said.contains("node node-b of cluster demo") && said.contains(&out) && said.contains("Next:"), "{said}");
    assert_eq!(said.lines().count(), 2);

    assert_eq!((mode(&ca), mode(&out)), (0o700, 0o700));
    assert_eq!(mode(Path::new(&ca).join("ca.key")), 0o600);
    assert_eq!(mode(Path::new(&ca).join("ca.pem")), 0o644);
    let paths = NodePaths::in_folder(Path::new(&out));
    assert_eq!(mode(&paths.key), 0o600);
    assert_eq!(contents(&out).len(), 3);
    let identity = Identity::load(&paths.certificate, &paths.key, &paths.trust).unwrap();
    assert_eq!(identity.node_id().as_str(), "node-b");
}

#[test]
fn it_overwrites_neither_a_ca_nor_a_node() {
    let (_scratch, ca, out) = scratch();
    let issue = ["node", "issue", "--node", "node-b", "--ca", &ca, "--out", &out];
    succeeds(&issue);
    let before = (contents(&ca), contents(&out));
    let said = fails(&tool(&["ca", "init", "--cluster", "demo", "--dir", &ca]));
    assert!(said.contains("ca.key") && said.contains("never overwritten"), "{said}");
    let said = fails(&tool(&issue));
    assert!(said.contains("node.key") && said.contains("never overwritten"), "{said}");
    assert_eq!(before, (contents(&ca), contents(&out)));

    fs::remove_file(Path::new(&out).join("node.key")).unwrap();
    assert!(fails(&tool(&issue)).contains("node.pem"), "one old file is enough to refuse");
    assert_eq!(contents(&out).len(), 2);
}

#[test]
fn a_disk_that_fills_up_leaves_nothing_behind() {
    let (_scratch, ca, out) = scratch();
    // No file may grow beyond 512 bytes: the key fits, the certificate does not.
    let limited = format!("trap '' XFSZ; ulimit -f 1; exec {TOOL} node issue --node node-b --ca {ca} --out {out}");
    let said = fails(&Command::new("sh").args(["-c", &limited]).output().unwrap());
    assert!(said.contains(&format!("cannot write {out}/node.pem: ")), "{said}");
    assert!(!Path::new(&out).exists(), "the folder was made here, so it goes too");

    fs::create_dir(&out).unwrap();
    fails(&Command::new("sh").args(["-c", &limited]).output().unwrap());
    assert_eq!(contents(&out), []);
}

#[test]
fn errors_name_the_thing_and_the_remedy() {
    let (scratch, ca, out) = scratch();
    let nowhere = scratch.path().join("nowhere").display().to_string();
    let said = fails(&tool(&["node", "issue", "--node", "node-b", "--ca", &nowhere, "--out", &out]));
    assert!(said.contains(&format!("{nowhere}/ca.pem does not exist")) && said.contains("ca init"), "{said}");
    let said = fails(&tool(&["node", "issue", "--node", "node-b", "--days", "9999", "--ca", &ca, "--out", &out]));
    assert!(said.contains("ask for fewer days"), "{said}");
    let below_a_file = format!("{ca}/ca.pem/node-b");
    let said = fails(&tool(&["node", "issue", "--node", "node-b", "--ca", &ca, "--out", &below_a_file]));
    assert!(said.contains(&format!("{ca}/ca.pem is a file, where a folder is wanted")), "{said}");
}

#[test]
fn a_file_given_as_a_folder_is_named_with_the_option_that_named_it() {
    let (scratch, ca, out) = scratch();
    let plain = scratch.path().join("plain").display().to_string();
    fs::write(&plain, "kept").unwrap();
    for (option, arguments) in [
        ("--out", &["node", "issue", "--node", "node-b", "--ca", &ca, "--out", &plain][..]),
        ("--ca", &["node", "issue", "--node", "node-b", "--ca", &plain, "--out", &out]),
        ("--dir", &["ca", "init", "--cluster", "demo", "--dir", &plain]),
    ] {
        let said = fails(&tool(arguments));
        assert_eq!(said, format!("trunkline-certs: error: {plain} is a file; {option} names a folder\n"));
    }
    assert_eq!(fs::read_to_string(&plain).unwrap(), "kept");
}

#[test]
fn a_node_is_not_issued_into_the_folder_of_its_ca() {
    let (scratch, ca, _) = scratch();
    let before = contents(&ca);
    std::os::unix::fs::symlink(&ca, scratch.path().join("link")).unwrap();
    for spelling in ["ca", "ca/", "./ca", "ca/../ca", "link"] {
        let issue = ["node", "issue", "--node", "z", "--ca", "ca", "--out", spelling];
        let said = fails(&Command::new(TOOL).args(issue).current_dir(&scratch).output().unwrap());
        let wanted =
            format!("{spelling} holds the CA's key, which must not reach a node: choose another folder for --out");
        assert_eq!(said, format!("trunkline-certs: error: {wanted}\n"));
    }
    assert_eq!(before, contents(&ca));
}

#[test]
fn more_days_than_the_ca_has_are_refused_with_its_last_day_even_past_the_calendar() {
    let (_scratch, ca, out) = scratch();
    for days in ["9999", "99999999", "4294967295"] {
        let said = fails(&tool(&["node", "issue", "--node", "z", "--days", days, "--ca", &ca, "--out", &out]));
        let wanted = format!("error: {days} days would outlive the CA, which is valid until 20");
        assert!(said.contains(&wanted), "{said}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn wrong_usage_exits_with_2() {
    let (_scratch, ca, out) = scratch();
    for arguments in [
        &[][..],
        &["ca", "init", "--dir", &out],
        &["ca", "init", "--cluster", "two words", "--dir", &out],
        &["node", "issue", "--node", "", "--ca", &ca, "--out", &out],
        &["node", "issue", "--node", "n", "--days", "0", "--ca", &ca, "--out", &out],
        &["node", "issue", "--node", "n", "--ip", "here", "--ca", &ca, "--out", &out],
    ] {
        assert_eq!(tool(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn openssl_reads_the_same_from_what_it_writes() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: there is no openssl on the PATH");
        return;
    }
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (_scratch, ca, out) = scratch();
    let names = ["--dns", "b.example", "--ip", "192.0.2.7", "--ip", "2001:db8::7", "--days", "30"];
    succeeds(&[&["node", "issue", "--node", "node-b", "--ca", &ca, "--out", &out][..], &names].concat());
    let file = |name| format!("{out}/{name}");
    let (certificate, key, trust) = (file("node.pem"), file("node.key"), file("trust.pem"));

    for purpose in ["sslclient", "sslserver"] {
        let said = openssl(&["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &trust, &certificate]);
        assert!(said.ends_with("OK\n"), "{said}");
    }
    assert_eq!(
        openssl(&["x509", "-in", &certificate, "-noout", "-pubkey"]),
        openssl(&["pkey", "-in", &key, "-pubout"])
    );
    let text = openssl(&["x509", "-in", &certificate, "-noout", "-text"]);
    for wanted in [
        "URI:trunkline://demo/node/node-b",
        "DNS:b.example",
        "IP Address:192.0.2.7",
        "IP Address:2001:DB8:0:0:0:0:0:7",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "Digital Signature",
        "CA:FALSE",
        "Subject Key Identifier",
        "Authority Key Identifier",
        "NIST CURVE: P-256",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    let text = openssl(&["x509", "-in", &trust, "-noout", "-text"]);
    for wanted in ["URI:trunkline://demo", "CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "NIST CURVE: P-256"] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    let fingerprint = openssl(&["x509", "-in", &certificate, "-noout", "-fingerprint", "-sha256"]);
    let identity = Identity::load(certificate.as_ref(), key.as_ref(), trust.as_ref()).unwrap();
    let plain = fingerprint.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    assert_eq!(plain, identity.fingerprint().to_string());
}
