//! The nodes' sockets, as another program or the kernel counts them.

use std::{fs, path::Path, process::Command};

use rustix::process::Signal;

use crate::place::{Nodes, Running, said, signal};

/// Has ss count what the processes hold that nodes are.
fn ss_sees_one_udp_socket_and_no_tcp_socket(nodes: Nodes) {
    if Command::new("ss").arg("-V").output().is_err() {
        eprintln!("skipped: there is no ss here");
        return;
    }
    let run = Running::start(nodes);
    let processes = run.counting();
    let ss = |kind: &str| {
        let output = Command::new("ss").args(["-H", "-a", "-n", "-p", kind]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let (udp, tcp) = (ss("-u"), ss("-t"));
    for process in processes {
        let of_it = |lines: &str| lines.lines().filter(|line| line.contains(&format!("pid={process},"))).count();
        assert_eq!((of_it(&udp), of_it(&tcp)), (1, 0), "{udp}\n{tcp}");
    }
    signal(run.process.id().cast_signed(), Signal::TERM);
    run.end().1.assert_empty();
}

#[test]
fn ss_sees_one_udp_socket_and_no_tcp_socket_of_each_daemon() {
    ss_sees_one_udp_socket_and_no_tcp_socket(Nodes::Daemons);
}

#[test]
fn ss_sees_one_udp_socket_and_no_tcp_socket_of_each_embedded_node() {
    ss_sees_one_udp_socket_and_no_tcp_socket(Nodes::Embedded);
}

/// The unix sockets with a name in `folder`, as the kernel lists them.
fn unix_sockets_in(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let names = table.lines().filter_map(|line| line.split_ascii_whitespace().nth(7));
    let mut names: Vec<_> =
        names.filter_map(|name| Some(Path::new(name).strip_prefix(folder).ok()?.to_str()?.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn an_embedded_node_has_no_socket_for_processes() {
    for (nodes, expected) in [
        (Nodes::Daemons, &["node-1/admin.sock", "node-1/local.sock", "node-2/admin.sock", "node-2/local.sock"][..]),
        (Nodes::Embedded, &["node-1/admin.sock", "node-2/admin.sock"][..]),
    ] {
        let run = Running::start(nodes);
        run.counting();
        assert_eq!(unix_sockets_in(&run.folder()), expected, "{nodes:?}");
        signal(run.process.id().cast_signed(), Signal::TERM);
        run.end().1.assert_empty();
    }
}
