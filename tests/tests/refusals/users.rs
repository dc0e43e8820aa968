//! Processes of other users: the kernel says whose they are, and the configuration whose may attach.

use std::{ffi::OsString, fs::Permissions, os::unix::fs::PermissionsExt as _};

use trunkline_tests::process::{self, Process};

use super::*;

/// Nobody's, in the database of this machine.
const USER: u32 = 12_345;

/// A cluster with these keys in `[local]`, whose first node's socket every user of this machine reaches; `None`, with a
/// word why, when this process cannot become other users.
async fn reachable(local: &str) -> Option<Cluster> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can start a process of another user");
        return None;
    }
    let cluster = Cluster::builder().local(local).start().await;
    for folder in [cluster.folder(), cluster.node("node-a").local.parent().unwrap()] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    Some(cluster)
}

/// A process of `uid` that attaches to node-a and sends one message to `raw/sink@node-b`.
fn producer(cluster: &Cluster, uid: u32) -> Process {
    let socket = cluster.node("node-a").local.clone().into_os_string();
    let words =
        [("job", "raw"), ("run", RUN), ("producer", "foreign"), ("address", "raw/sink@node-b"), ("messages", "1")];
    let words = words.map(|(name, value)| (name, OsString::from(value)));
    process::spawn_as(uid, cluster.folder(), "produce", words.into_iter().chain([("socket", socket)]))
}

#[tokio::test]
async fn a_process_of_a_user_who_was_not_named_is_refused_and_logged_once() {
    in_time(async {
        // Another user's name helps nobody else.
        for local in ["", "users = [12346]\ngroups = [12346]\n"] {
            let Some(cluster) = reachable(local).await else { return };
            let node = cluster.node("node-a");
            for _ in 0..ATTEMPTS {
                let said = producer(&cluster, USER).says("error").await;
                assert!(said.starts_with("forbidden "), "{said}");
                assert!(said.contains("uid 12345 (gid 12345) may not connect: add the user to `users`"), "{said}");
            }
            logged_once(node, &["WARN", "refused a process of uid 12345", "may not connect"]).await;
            assert!(node.status().await.processes.is_empty());
            serves(&cluster).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_process_of_a_user_or_group_who_was_named_is_served() {
    in_time(async {
        for local in ["users = [12345]\n", "groups = [12345]\n"] {
            let Some(cluster) = reachable(local).await else { return };
            let b = cluster.node("node-b").attach().await;
            let mut consumer = bind(&b, "sink").await;
            let mut producer = producer(&cluster, USER);
            producer.says("opened").await;
            let [process] = &cluster.node("node-a").status().await.processes[..] else { panic!("not one process") };
            assert_eq!((process.uid, process.gid), (USER, USER));
            let mut receiver = consumer.accept().await.unwrap();
            assert!(receiver.recv().await.unwrap().is_some());
            assert_eq!(receiver.recv().await.unwrap(), None);
            producer.says("finished").await;
            assert!(!cluster.node("node-a").log().contains("refused"));
        }
    })
    .await;
}
