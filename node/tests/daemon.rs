//! The daemon itself: its signals, and what it says on standard error.

#![expect(clippy::unwrap_used, reason = "what a test prepares either succeeds or fails the test")]

use std::{
    fs::{self, File, Permissions},
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use trunkline_certs::{Authority, Identity, NodeRequest, SERVER_NAME};
use trunkline_node::config::NodeConfig;
use trunkline_proto::{
    frame::{DataHeader, Decoder, Frame},
    id::{Incarnation, JobId, Weight},
    message::{Accept, Bind, Credit, Incoming, LinkHello, Open},
    version::Offer,
};

/// Nothing here takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// A node's files, and the daemon that runs on them. Dropped, it is killed.
struct Daemon {
    folder: TempDir,
    child: Child,
}

impl Daemon {
    /// Starts node-a of cluster c1, without waiting for it, with `more` at the end of its configuration.
    fn start(filter: &str, more: &str) -> Self {
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        write_identity(&Authority::create(&"c1".parse().unwrap()).unwrap(), &folder);
        let config = format!(
            r#"
            listen = "127.0.0.1:0"
            drain_timeout_ms = 60000
            [identity]
            certificate = "node.pem"
            key = "node.key"
            trust = "trust.pem"
            [local]
            socket = "local.sock"
            [admin]
            socket = "admin.sock"
            {more}
            "#
        );
        fs::write(folder.path().join("node.toml"), config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_trunkline-node"))
            .env_clear()
            .args(["run", "--config"])
            .arg(folder.path().join("node.toml"))
            .env("TRUNKLINE_LOG", filter)
            .stdin(Stdio::null())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { folder, child }
    }

    /// The same, and waits until it listens.
    fn running(filter: &str, more: &str) -> Self {
        let daemon = Self::start(filter, more);
        daemon.logs("listens on UDP");
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Waits for a line that contains `words`, and returns it.
    #[track_caller]
    fn logs(&self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "no {words:?} in:\n{log}");
            sleep(POLL);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    fn exits(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            sleep(POLL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_identity(authority: &Authority, folder: &TempDir) {
    let files = authority.issue_node(&NodeRequest::new("node-a".parse().unwrap())).unwrap();
    files.write_to(folder.path()).unwrap();
}

/// A process that speaks frames.
struct Attached {
    link: UnixStream,
    decoder: Decoder,
}

impl Attached {
    fn to(daemon: &Daemon) -> Self {
        let link = UnixStream::connect(daemon.path("local.sock")).unwrap();
        link.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut attached = Self { link, decoder: Decoder::default() };
        let software = "a test".to_owned();
        attached.say(LinkHello {
            offer: Offer::ours(),
            software,
            cluster: String::new(),
            node: None,
            pid: 1,
            patience_ms: 0,
        });
        assert!(matches!(attached.hears(), Frame::LinkHello(_)));
        attached
    }

    fn say(&mut self, frame: impl Into<Frame>) {
        let mut bytes = BytesMut::new();
        frame.into().encode(&mut bytes);
        self.link.write_all(&bytes).unwrap();
    }

    fn hears(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return frame;
            }
            let mut bytes = [0; 1024];
            let length = self.link.read(&mut bytes).unwrap();
            assert!(length > 0, "the link has ended");
            self.decoder.buffer().extend_from_slice(&bytes[..length]);
        }
    }

    /// Sends itself a stream and accepts it. Its id on the consumer's side.
    fn stream(&mut self) -> u64 {
        let Open { job, consumer, incarnation, .. } = open("node-a");
        self.say(open("node-a"));
        self.say(Bind { bind: 1, job, consumer, incarnation, resumes_only: false, awaited_nodes: Vec::new() });
        assert!(matches!(self.hears(), Frame::Bound(_)));
        let Frame::Incoming(Incoming { open: Open { stream, .. }, .. }) = self.hears() else { panic!("no stream") };
        self.say(Accept { stream, incarnation, limit: 1 });
        assert!(matches!(self.hears(), Frame::Accept(_)));
        stream
    }
}

fn open(node: &str) -> Open {
    Open {
        stream: 2,
        job: JobId { name: "job".parse().unwrap(), run: "r1".parse().unwrap() },
        producer: "map".parse().unwrap(),
        producer_node: None,
        incarnation: Incarnation::from_bits(1),
        number: 7,
        consumer: "reduce".parse().unwrap(),
        node: node.parse().unwrap(),
        epoch: 0,
        weight: Weight::MIN,
    }
}

#[test]
fn the_first_line_says_what_runs_and_where() {
    let daemon = Daemon::running("", "");
    let line = daemon.logs("listens on UDP");
    for part in [
        &format!("trunkline/{}: node-a of cluster c1 listens on UDP 127.0.0.1:", env!("CARGO_PKG_VERSION")),
        daemon.path("local.sock").to_str().unwrap(),
        daemon.path("admin.sock").to_str().unwrap(),
    ] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!daemon.log().contains(" WARN "), "{}", daemon.log());
}

#[test]
fn a_socket_whose_folder_others_reach_is_warned_of_as_check_does() {
    let mut daemon = Daemon::running("", "");
    daemon.signal(Signal::TERM);
    daemon.exits();
    fs::set_permissions(daemon.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let config = NodeConfig::load(&daemon.path("node.toml")).unwrap();
    let found = config.check().into_iter().find(|finding| finding.text.starts_with("local.socket")).unwrap();
    let again = Command::new(env!("CARGO_BIN_EXE_trunkline-node"))
        .env_clear()
        .args(["run", "--config"])
        .arg(daemon.path("node.toml"))
        .stderr(File::create(daemon.path("log")).unwrap())
        .spawn()
        .unwrap();
    daemon.child = again;
    assert!(daemon.logs("local.socket").ends_with(&found.text), "{}", daemon.log());
}

#[test]
fn sighup_is_logged_and_sigint_ends_the_node_well() {
    let mut daemon = Daemon::running("", "");
    daemon.signal(Signal::HUP);
    daemon
        .logs("SIGHUP: this version does not reload; restart the node to read its configuration and certificates anew");
    Attached::to(&daemon);
    daemon.signal(Signal::INT);
    assert_eq!(daemon.exits().code(), Some(0), "{}", daemon.log());
    daemon.logs("SIGINT: node-a drains, 0 streams are open");
    assert!(!daemon.path("local.sock").exists());
}

#[test]
fn a_second_signal_ends_the_drain_at_once_and_well() {
    let mut daemon = Daemon::running("", "");
    let mut process = Attached::to(&daemon);
    process.stream();
    daemon.signal(Signal::TERM);
    daemon.logs("SIGTERM: node-a drains, 1 stream is open");
    assert!(matches!(process.hears(), Frame::Drain(_)));
    daemon.signal(Signal::HUP);
    daemon.logs("SIGHUP");
    assert_eq!(daemon.child.try_wait().unwrap(), None);
    daemon.signal(Signal::INT);
    daemon.logs("SIGINT again: 1 stream is let go");
    // Long before the drain's deadline.
    assert_eq!(daemon.exits().code(), Some(0), "{}", daemon.log());
    // The stream is not ended: it is left to whoever comes next.
    assert_eq!(process.link.read(&mut [0; 1]).unwrap(), 0, "the link ends, and nothing is said of the stream");
}

#[test]
fn the_turns_of_a_stream_s_life_are_logged_at_debug_for_who_asks() {
    let daemon = Daemon::running("info,trunkline_node::events=debug", "");
    let mut process = Attached::to(&daemon);
    process.stream();
    let stream = "job=job run=r1 producer=map producer_node=node-a consumer=reduce node=node-a number=7";
    daemon.logs(&format!("stream opened {stream}"));
    daemon.logs(&format!("stream parked: its consumer is not bound {stream}"));
    daemon.logs("consumer bound job=job run=r1 consumer=reduce process=1 waited=1");
    daemon.logs(&format!("stream accepted {stream}"));
    drop(process);
    daemon.logs("consumer unbound job=job run=r1 consumer=reduce process=1");
    daemon.logs(&format!("is gone {stream} code=producer_gone offset=0"));
    assert!(!daemon.log().contains("attached"), "{}", daemon.log());

    let mut refused = Attached::to(&daemon);
    refused.say(open("node-z"));
    let stream = stream.replace("node=node-a number", "node=node-z number");
    daemon.logs(&format!(
        "stream refused: node-z is no [[peer]] of node-a, and has not dialled in {stream} code=unknown_node offset=0"
    ));

    let silent = Daemon::running("", "");
    Attached::to(&silent).stream();
    assert!(!silent.log().contains("DEBUG"), "{}", silent.log());
}

#[test]
fn a_clean_end_is_logged_with_the_bytes_that_were_passed_on() {
    let daemon = Daemon::running("debug", "");
    let mut process = Attached::to(&daemon);
    let stream = process.stream();
    process.say(Frame::Data(DataHeader { stream: 2, offset: 0, epoch: 0, fin: true }, Bytes::from_static(b"!")));
    assert!(matches!(process.hears(), Frame::Data(..)));
    process.say(Credit { stream, received: 1, consumed: 1, limit: 1, finished: true, ..Credit::default() });
    let line = daemon.logs("stream ended cleanly");
    assert!(line.ends_with("number=7 code=closed offset=1"), "{line}");
}

#[test]
fn a_word_that_is_no_level_is_refused_at_the_start() {
    let mut daemon = Daemon::start("louder", "");
    assert_eq!(daemon.exits().code(), Some(1));
    assert_eq!(
        daemon.log(),
        "trunkline-node: error: TRUNKLINE_LOG is \"louder\", and \"louder\" is no level; write one of off, error, warn, \
         info, debug, trace, or TARGET=LEVEL, separated by commas\n"
    );
}

#[test]
fn what_keeps_a_node_from_starting_is_said_once() {
    let mut daemon = Daemon::running("", "");
    let second = Command::new(env!("CARGO_BIN_EXE_trunkline-node"))
        .env_clear()
        .args(["run", "--config"])
        .arg(daemon.path("node.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    let socket = daemon.path("local.sock");
    let expected = format!("another process serves {}; stop it first, or choose another path", socket.display());
    assert_eq!(said, format!("trunkline-node: error: {expected}\n"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(0));
    let mut unknown = Daemon::start("", "[[peer]]\nid = \"node-a\"\naddresses = [\"127.0.0.1:1\"]");
    assert_eq!(unknown.exits().code(), Some(1));
    assert_eq!(unknown.log(), "trunkline-node: error: node-a stands among its own [[peer]]s; remove that entry\n");
}

#[tokio::test]
async fn a_dialler_that_refuses_this_node_is_not_logged_as_refused_by_it() {
    let daemon = Daemon::running("", "");
    let line = daemon.logs("listens on UDP");
    let address = line.split_once("UDP ").unwrap().1.split_once(',').unwrap().0;
    // Of the same names, and another CA.
    let folder = tempfile::tempdir().unwrap();
    write_identity(&Authority::create(&"c1".parse().unwrap()).unwrap(), &folder);
    let file = |name| folder.path().join(name);
    let stranger = Identity::load(&file("node.pem"), &file("node.key"), &file("trust.pem")).unwrap();
    let tls = QuicClientConfig::try_from(stranger.client_config(&"node-a".parse().unwrap())).unwrap();
    let mut endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    endpoint.connect(address.parse().unwrap(), SERVER_NAME).unwrap().await.unwrap_err();
    endpoint.wait_idle().await;
    daemon.logs(
        "a connection from 127.0.0.1 was ended by it: it refused our certificate; it said \"its certificate was signed by \
         another CA\"",
    );
    assert!(!daemon.log().contains("refused a connection"), "{}", daemon.log());
}
