//! The daemons' sockets, as another program counts them.

use std::process::Command;

use rustix::process::Signal;

use crate::place::{Running, said, signal};

#[test]
fn ss_sees_one_udp_socket_and_no_tcp_socket_of_each_daemon() {
    if Command::new("ss").arg("-V").output().is_err() {
        eprintln!("skipped: there is no ss here");
        return;
    }
    let run = Running::start();
    run.all_running();
    let daemons = run.children("run", 2);
    let ss = |kind: &str| {
        let output = Command::new("ss").args(["-H", "-a", "-n", "-p", kind]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let (udp, tcp) = (ss("-u"), ss("-t"));
    for daemon in daemons {
        let of_it = |lines: &str| lines.lines().filter(|line| line.contains(&format!("pid={daemon},"))).count();
        assert_eq!((of_it(&udp), of_it(&tcp)), (1, 0), "{udp}\n{tcp}");
    }
    signal(run.process.id().cast_signed(), Signal::TERM);
    run.end().1.assert_empty();
}
