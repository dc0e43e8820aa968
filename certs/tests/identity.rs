//! What a node's own files must be like, and what the operator reads when they are not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::SystemTime,
};

use common::{BOTH, Cluster, Eku};
use tempfile::TempDir;
use trunkline_certs::{
    Authority, AuthorityError, FileError, Identity, IdentityError, NodeFiles, NodePaths, NodeRequest,
};

fn written(files: &NodeFiles) -> (TempDir, NodePaths) {
    let folder = tempfile::tempdir().unwrap();
    let paths = files.write_to(folder.path()).unwrap();
    (folder, paths)
}

fn load(paths: &NodePaths) -> Result<Identity, IdentityError> {
    Identity::load(&paths.certificate, &paths.key, &paths.trust)
}

/// The error's text, which must name `path`.
#[track_caller]
fn complaint(result: Result<Identity, IdentityError>, path: &Path) -> String {
    let text = result.unwrap_err().to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    text
}

#[test]
fn an_issued_identity_loads_and_knows_itself() {
    let cluster = Cluster::new();
    let request = NodeRequest { dns: vec!["b.example".to_owned()], ..Cluster::request("node-b") };
    let (_folder, paths) = written(&cluster.authority.issue_node(&request).unwrap());
    let identity = load(&paths).unwrap();
    assert_eq!(identity.node_id().as_str(), "node-b");
    assert_eq!(identity.cluster().as_str(), "demo");
    assert_eq!(identity.fingerprint().to_string().len(), 64);
    let days = identity.not_after().duration_since(SystemTime::now()).unwrap().as_secs_f64() / 86_400.0;
    assert!((364.9..365.1).contains(&days), "{days}");
}

#[test]
fn an_authority_that_was_written_issues_for_the_same_cluster_when_loaded() {
    let cluster = Cluster::new();
    let loaded = Authority::load(cluster.folder.path()).unwrap();
    assert_eq!(loaded.cluster().as_str(), "demo");
    assert_eq!(loaded.fingerprint(), cluster.authority.fingerprint());
    assert_eq!(loaded.not_after(), cluster.authority.not_after());
    let files = loaded.issue_node(&Cluster::request("node-b")).unwrap();
    let trusting_the_first = NodeFiles { trust_pem: cluster.authority.certificate_pem().to_owned(), ..files };
    Identity::from_files(&trusting_the_first).unwrap();
}

#[test]
fn a_missing_file_is_named_together_with_the_remedy() {
    for missing in [0, 1, 2] {
        let (_folder, paths) = written(&Cluster::new().files("node-b"));
        let path = [&paths.certificate, &paths.key, &paths.trust][missing];
        fs::remove_file(path).unwrap();
        let text = complaint(load(&paths), path);
        assert!(text.contains("does not exist") && text.contains("trunkline-certs node issue"), "{text}");
    }
}

#[test]
fn a_key_that_others_can_read_is_refused_together_with_the_remedy() {
    let (_folder, paths) = written(&Cluster::new().files("node-b"));
    for mode in [0o640, 0o604, 0o644, 0o620] {
        fs::set_permissions(&paths.key, Permissions::from_mode(mode)).unwrap();
        let text = complaint(load(&paths), &paths.key);
        assert!(text.contains(&format!("{mode:04o}")), "{text}");
        assert!(text.ends_with(&format!("chmod 600 {}", paths.key.display())), "{text}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&paths.key, Permissions::from_mode(mode)).unwrap();
        load(&paths).unwrap();
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let cluster = Cluster::new();
    let (_folder, paths) = written(&cluster.files("node-b"));
    let (_other_folder, other) = written(&cluster.files("node-b"));
    let result = Identity::load(&paths.certificate, &other.key, &paths.trust);
    assert!(matches!(result, Err(IdentityError::KeyMismatch { .. })));
    complaint(result, &other.key);
}

#[test]
fn a_trust_file_of_another_ca_is_refused() {
    let (_folder, paths) = written(&Cluster::new().files("node-b"));
    let (_other_folder, other) = written(&Cluster::new().files("node-b"));
    let result = Identity::load(&paths.certificate, &paths.key, &other.trust);
    assert!(matches!(result, Err(IdentityError::OtherAuthority { .. })));
    complaint(result, &other.trust);
}

#[test]
fn a_trust_file_may_hold_several_authorities() {
    let (old, new) = (Cluster::new(), Cluster::new());
    let bundle = format!("{}{}", old.authority.certificate_pem(), new.authority.certificate_pem());
    for cluster in [&old, &new] {
        Identity::from_files(&NodeFiles { trust_pem: bundle.clone(), ..cluster.files("node-b") }).unwrap();
    }
}

#[test]
fn dates_are_checked_against_the_moment_of_loading() {
    let cluster = Cluster::new();
    let (_folder, paths) = written(&cluster.dated("node-b", -3, -1));
    let text = complaint(load(&paths), &paths.certificate);
    assert!(text.contains("expired on 20") && text.contains("issue a new one"), "{text}");
    let earlier = SystemTime::now() - 2 * common::HOUR;
    Identity::load_at(&paths.certificate, &paths.key, &paths.trust, earlier).unwrap();

    let (_folder, paths) = written(&cluster.dated("node-b", 1, 3));
    let text = complaint(load(&paths), &paths.certificate);
    assert!(text.contains("check the clock"), "{text}");
}

#[test]
fn a_certificate_that_peers_would_refuse_is_refused_at_home() {
    let cluster = Cluster::new();
    let ours = "trunkline://demo/node/node-b";
    for (uris, usages, wanted) in [
        (&[][..], &BOTH[..], "carries no trunkline://"),
        (&[ours, ours], &BOTH, "more than one name"),
        (&["trunkline://demo/admin/x"], &BOTH, "role \"admin\""),
        (&["trunkline://demo/node/no spaces"], &BOTH, "holds ' '"),
        (&[ours], &[Eku::ClientAuth], "server authentication"),
        (&[ours], &[Eku::ServerAuth], "client authentication"),
    ] {
        let (_folder, paths) = written(&cluster.crafted(uris, usages));
        let text = complaint(load(&paths), &paths.certificate);
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn files_that_hold_something_else_are_refused() {
    let good = Cluster::new().files("node-b");
    let twice = good.certificate_pem.repeat(2);
    let broken = good.certificate_pem.replace("MII", "!!!");
    for certificate_pem in [String::new(), "hello".to_owned(), good.key_pem.clone(), twice, broken] {
        let files = NodeFiles { certificate_pem, ..good.clone() };
        let (_folder, paths) = written(&files);
        complaint(load(&paths), &paths.certificate);
    }
    let (_folder, paths) = written(&NodeFiles { key_pem: good.certificate_pem.clone(), ..good.clone() });
    complaint(load(&paths), &paths.key);
    let (_folder, paths) = written(&NodeFiles { trust_pem: String::new(), ..good });
    complaint(load(&paths), &paths.trust);
}

#[test]
fn derived_keys_survive_a_restart_and_differ_by_label_and_node() {
    let cluster = Cluster::new();
    let (_folder, paths) = written(&cluster.files("node-b"));
    let before = load(&paths).unwrap().derive_key(b"reset");
    let after = load(&paths).unwrap();
    assert_eq!(before, after.derive_key(b"reset"));
    assert_ne!(before, after.derive_key(b"connection ids"));
    assert_ne!(before, cluster.identity("node-b").derive_key(b"reset"));
    assert_ne!(before, [0; 64]);
}

#[test]
fn nothing_prints_a_key() {
    let cluster = Cluster::new();
    let files = cluster.files("node-b");
    let key = files.key_pem.lines().nth(1).unwrap();
    let printed = format!("{files:?} {:?} {:?}", Identity::from_files(&files).unwrap(), cluster.authority);
    assert!(!printed.contains(key) && !printed.contains("PRIVATE"), "{printed}");
    assert!(printed.contains("node-b") && printed.contains("demo"), "{printed}");
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    let cluster = Cluster::new();
    let request = Cluster::request("node-b").valid_for(4000);
    let error = cluster.authority.issue_node(&request).unwrap_err();
    assert!(matches!(error, AuthorityError::OutlivesAuthority { .. }), "{error}");
    assert!(error.to_string().ends_with("ask for fewer days"), "{error}");
}

#[test]
fn a_request_that_makes_no_sense_is_refused() {
    let cluster = Cluster::new();
    let good = Cluster::request("node-b");
    let backwards = NodeRequest { not_before: good.not_after, not_after: good.not_before, ..good.clone() };
    assert!(matches!(cluster.authority.issue_node(&backwards), Err(AuthorityError::Dates { .. })));
    for name in ["", "two words", "a..b", "*"] {
        let request = NodeRequest { dns: vec![name.to_owned()], ..good.clone() };
        assert!(matches!(cluster.authority.issue_node(&request), Err(AuthorityError::DnsName(_))), "{name:?}");
    }
}

#[test]
fn a_ca_that_lost_a_file_is_to_be_restored_and_one_that_lost_both_to_be_made() {
    let cluster = Cluster::new();
    let folder = cluster.folder.path();
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    let (certificate_shown, key_shown) = (certificate.display(), key.display());
    let elsewhere = folder.join("elsewhere");

    fs::rename(&key, &elsewhere).unwrap();
    let error = Authority::load(folder).unwrap_err().to_string();
    let remedy = "run this where the CA's key is kept, or restore it";
    assert_eq!(error, format!("{key_shown} does not exist, though {certificate_shown} does: {remedy}"));

    fs::rename(&elsewhere, &key).unwrap();
    fs::remove_file(&certificate).unwrap();
    let error = Authority::load(folder).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{certificate_shown} does not exist, though {key_shown} does: ")), "{error}");
    assert!(error.contains("restore it") && !error.contains("ca init"), "{error}");
    fs::write(&certificate, cluster.files("node-b").trust_pem).unwrap();
    assert_eq!(Authority::load(folder).unwrap().fingerprint(), cluster.authority.fingerprint(), "the remedy works");

    fs::remove_file(&certificate).unwrap();
    fs::remove_file(&key).unwrap();
    let error = Authority::load(folder).unwrap_err().to_string();
    assert!(error.contains("ca init"), "{error}");
}

#[test]
fn a_nodes_files_are_never_written_beside_a_cas_key_however_its_folder_is_spelled() {
    let cluster = Cluster::new();
    let folder = cluster.folder.path();
    let files = cluster.files("node-b");
    let scratch = tempfile::tempdir().unwrap();
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(folder, &link).unwrap();
    let dotted = folder.join("..").join(folder.file_name().unwrap()).join(".");
    for spelling in [folder, &link, &dotted] {
        let error = files.write_to(spelling).unwrap_err();
        assert!(matches!(&error, FileError::HoldsAuthority { folder } if folder == spelling), "{error}");
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "ca.pem and ca.key");
    files.write_to(&folder.join("node-b")).unwrap();
}

#[test]
fn a_folder_without_a_ca_or_with_a_strange_one_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    let error = Authority::load(empty.path()).unwrap_err();
    assert!(matches!(error, AuthorityError::File(FileError::Missing { .. })), "{error}");
    assert!(error.to_string().contains("trunkline-certs ca init"), "{error}");

    let cluster = Cluster::new();
    let path = |name| cluster.folder.path().join(name);
    let (certificate, key) = (path("ca.pem"), path("ca.key"));
    let good = fs::read(&certificate).unwrap();

    let with_key = [good.clone(), fs::read(&key).unwrap()].concat();
    let node = cluster.files("node-b").certificate_pem.into_bytes();
    for strange in [with_key, node] {
        fs::write(&certificate, strange).unwrap();
        let error = Authority::load(cluster.folder.path()).unwrap_err();
        assert!(matches!(error, AuthorityError::NotAnAuthority { .. }), "{error}");
    }

    fs::write(&certificate, &good).unwrap();
    fs::copy(Cluster::new().folder.path().join("ca.key"), &key).unwrap();
    let error = Authority::load(cluster.folder.path()).unwrap_err();
    assert!(matches!(error, AuthorityError::Key { .. }), "{error}");

    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let error = Authority::load(cluster.folder.path()).unwrap_err();
    assert!(matches!(error, AuthorityError::File(FileError::Mode { .. })), "{error}");
}
