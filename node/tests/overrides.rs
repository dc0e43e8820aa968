//! What flags and variables say in place of the configuration file, and what they are told when it is wrong.

#![expect(clippy::unwrap_used, reason = "what a test prepares either succeeds or fails the test")]

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, Permissions},
    io::{BufRead as _, BufReader},
    os::unix::{ffi::OsStringExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use trunkline_certs::{Authority, NodeRequest};
use trunkline_node::config::{ConfigError, KEYS, Key, LogLevel, NodeConfig, Overrides};

const FILE: &str = "/etc/trunkline/node.toml";

/// Every table, so that each key has a line of its own beside which it could be missed.
const TEXT: &str = r#"listen = "[::]:7400"
drain_timeout_ms = 1
[identity]
certificate = "node.pem"
key = "node.key"
trust = "trust.pem"
[local]
socket = "local.sock"
[admin]
socket = "admin.sock"
[[peer]]
id = "node-b"
addresses = ["10.0.0.2:7400", "10.1.0.2:7400"]
[[peer]]
id = "node-c"
addresses = ["10.0.0.3:7400"]
"#;

fn key(path: &str) -> &'static Key {
    KEYS.iter().find(|key| key.path() == path).unwrap_or_else(|| panic!("no key {path}"))
}

fn overrides(flags: &[(&str, &str)], variables: &[(&str, &str)]) -> Overrides {
    Overrides::new(
        flags.iter().map(|&(path, text)| (key(path), text.into())),
        variables.iter().map(|&(name, text)| (name.into(), text.into())),
    )
}

fn parse(flags: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse_with(TEXT, Path::new(FILE), &overrides(flags, variables))
}

fn refusal(flags: &[(&str, &str)], variables: &[(&str, &str)]) -> String {
    parse(flags, variables).unwrap_err().to_string()
}

/// Each peer's id and addresses.
fn peers(config: &NodeConfig) -> Vec<(&str, Vec<&str>)> {
    let peers = config.peers.iter();
    peers.map(|peer| (peer.id.as_str(), peer.addresses.iter().map(String::as_str).collect())).collect()
}

#[test]
fn the_table_of_keys_is_what_the_file_may_hold() {
    // A key that is unknown is told what is allowed beside it.
    let tables = ["", "[identity]", "[local]", "[admin]", "[[peer]]", "[limits]", "[trunk]", "[log]"];
    let mut allowed = BTreeSet::new();
    for table in tables {
        let error = NodeConfig::parse(&format!("{table}\nunknown = 1\n"), Path::new(FILE)).unwrap_err().to_string();
        let name = table.trim_matches(['[', ']']);
        let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
        let marker = format!(": {prefix}unknown: unknown key; allowed here: ");
        let list = error.lines().find_map(|line| line.split_once(&marker)).unwrap().1;
        allowed.extend(list.split(", ").map(|key| format!("{prefix}{key}")));
    }
    // The tables themselves, and a peer's keys, which are given together.
    for name in ["identity", "local", "admin", "limits", "trunk", "log", "peer.id", "peer.addresses"] {
        assert!(allowed.remove(name), "{name}");
    }
    let keys: BTreeSet<String> = KEYS.iter().map(|key| key.path().to_owned()).collect();
    assert_eq!(allowed, keys);
    assert_eq!(keys.len(), KEYS.len(), "no key stands there twice");
}

#[test]
fn flags_and_variables_are_named_after_the_path_of_their_key() {
    assert_eq!(key("listen").flag(), "listen");
    assert_eq!(key("listen").variable(), "TRUNKLINE_LISTEN");
    assert_eq!(key("limits.streams_max").flag(), "limits-streams-max");
    assert_eq!(key("limits.streams_max").variable(), "TRUNKLINE_LIMITS_STREAMS_MAX");
    for name in [Key::flag, Key::variable] {
        let names: BTreeSet<String> = KEYS.iter().map(name).collect();
        assert_eq!(names.len(), KEYS.len(), "no name stands for two keys");
    }
}

/// For every key a value that is neither that of [`TEXT`] nor the default: as text, and as the file would say it.
const VALUES: [(&str, &str, &str); 31] = [
    ("listen", "127.0.0.1:7401", "\"127.0.0.1:7401\""),
    ("drain_timeout_ms", "5", "5"),
    ("identity.certificate", "/a/cert.pem", "\"/a/cert.pem\""),
    ("identity.key", "/a/key.pem", "\"/a/key.pem\""),
    ("identity.trust", "/a/ca.pem", "\"/a/ca.pem\""),
    ("local.socket", "/a/l.sock", "\"/a/l.sock\""),
    ("local.users", "app, 1001", "[\"app\", 1001]"),
    ("local.groups", "[\"wheel\", 7]", "[\"wheel\", 7]"),
    ("admin.socket", "/a/a.sock", "\"/a/a.sock\""),
    ("peer", "node-d=d:1,e:2", "[{id = \"node-d\", addresses = [\"d:1\", \"e:2\"]}]"),
    ("limits.open_timeout_ms", "1_000", "1000"),
    ("limits.patience_ms", "1_000", "1000"),
    ("limits.parked_opens_max", "2", "2"),
    ("limits.streams_max", " 3 ", "3"),
    ("limits.processes_max", "4", "4"),
    ("limits.binds_per_process_max", "5", "5"),
    ("limits.process_quota_bytes", "262144", "262144"),
    ("limits.ingress_pool_bytes", "0x10000", "65536"),
    ("limits.hello_timeout_ms", "100", "100"),
    ("trunk.profile", "wan", "\"wan\""),
    ("trunk.keep_alive_ms", "499", "499"),
    ("trunk.idle_timeout_ms", "1000", "1000"),
    ("trunk.send_window_bytes", "65536", "65536"),
    ("trunk.send_windows_bytes", "65536", "65536"),
    ("trunk.stream_receive_window_bytes", "65536", "65536"),
    ("trunk.mtu_max", "8952", "8952"),
    ("trunk.congestion", "bbr", "\"bbr\""),
    ("trunk.socket_buffer_bytes", "65536", "65536"),
    ("trunk.reconnect_backoff_max_ms", "50", "50"),
    ("trunk.streams_initial", "2", "2"),
    ("log.level", "\"debug\"", "\"debug\""),
];

#[test]
fn every_key_is_overridden_by_a_flag_and_by_a_variable_as_if_the_file_had_said_it() {
    let paths: Vec<&str> = VALUES.iter().map(|&(path, ..)| path).collect();
    assert_eq!(paths, KEYS.iter().map(Key::path).collect::<Vec<_>>());
    // Dotted keys at the top, so that one text holds all of them.
    let file: String = VALUES.iter().map(|(path, _, toml)| format!("{path} = {toml}\n")).collect();
    let said_by_file = NodeConfig::parse(&file, Path::new(FILE)).unwrap();
    // A file that says nothing has a place for each of them too.
    let empty = |overrides: &Overrides| NodeConfig::parse_with("", Path::new(FILE), overrides).unwrap();
    let by_flag = Overrides::new(VALUES.map(|(path, text, _)| (key(path), text.into())), []);
    let by_variable = Overrides::new([], VALUES.map(|(path, text, _)| (key(path).variable().into(), text.into())));
    assert_eq!(empty(&by_flag), said_by_file);
    assert_eq!(empty(&by_variable), said_by_file);
    let unchanged = parse(&[], &[]).unwrap();
    for (path, text, _) in VALUES.into_iter().filter(|&(path, ..)| !path.starts_with("trunk.")) {
        let by_flag = parse(&[(path, text)], &[]).unwrap();
        let by_variable = parse(&[], &[(&key(path).variable(), text)]).unwrap();
        assert_ne!(by_flag, unchanged, "{path}");
        assert_eq!(by_flag, by_variable, "{path}");
    }
}

#[test]
fn a_flag_counts_more_than_a_variable_and_a_variable_more_than_the_file() {
    let level = |flags: &[_], variables: &[_]| parse(flags, variables).unwrap().log.level;
    assert_eq!(level(&[], &[("TRUNKLINE_LOG_LEVEL", "warn")]), LogLevel::Warn);
    assert_eq!(level(&[("log.level", "trace")], &[("TRUNKLINE_LOG_LEVEL", "warn")]), LogLevel::Trace);
    // What does not count is not looked at.
    assert_eq!(level(&[("log.level", "trace")], &[("TRUNKLINE_LOG_LEVEL", "loud")]), LogLevel::Trace);
    let text = TEXT.replace("\"[::]:7400\"", "7400");
    let overrides = overrides(&[("listen", "127.0.0.1:1")], &[]);
    let config = NodeConfig::parse_with(&text, Path::new(FILE), &overrides).unwrap();
    assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap());
}

#[test]
fn an_empty_variable_counts_as_unset_and_an_empty_flag_does_not() {
    let unchanged = parse(&[], &[]).unwrap();
    assert_eq!(parse(&[], &[("TRUNKLINE_LISTEN", ""), ("TRUNKLINE_LOCAL_USERS", "")]).unwrap(), unchanged);
    let text = TEXT.replace("[admin]", "users = [\"app\"]\n[admin]");
    let none = overrides(&[("local.users", "")], &[]);
    assert_eq!(NodeConfig::parse_with(&text, Path::new(FILE), &none).unwrap().local.unwrap().users, []);
    assert!(refusal(&[("listen", "")], &[]).starts_with("--listen: listen: \"\" is not an IP address"));
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_names_its_flag_variable_or_line() {
    let text = TEXT.replace("drain_timeout_ms = 1\n", "drain_timeout_ms = -1\n");
    let overrides = overrides(
        &[("limits.streams_max", "0"), ("local.groups", "wheel,,x"), ("trunk.mtu_max", "big")],
        &[
            ("TRUNKLINE_LISTEN", "localhost"),
            ("TRUNKLINE_LOCAL_USERS", "[\"app\", 1.5]"),
            ("TRUNKLINE_LOG_LEVEL", "loud"),
            ("TRUNKLINE_ADMIN_SOCKET", "local\0sock"),
        ],
    );
    assert_eq!(
        NodeConfig::parse_with(&text, Path::new(FILE), &overrides).unwrap_err().to_string(),
        "/etc/trunkline/node.toml:2: drain_timeout_ms: -1 is outside 0 to 600000\n\
         TRUNKLINE_LISTEN: listen: \"localhost\" is not an IP address and a port, such as \"[::]:7400\" or \
         \"10.0.0.1:7400\"\n\
         TRUNKLINE_LOCAL_USERS: local.users: a name in quotes or a number is expected here, not a number with a \
         fraction\n\
         --local-groups: local.groups: a name is empty or holds a NUL\n\
         TRUNKLINE_ADMIN_SOCKET: admin.socket: this is no path: it is empty or holds a NUL\n\
         --limits-streams-max: limits.streams_max: 0 is outside 1 to 10000000\n\
         --trunk-mtu-max: trunk.mtu_max: a whole number is expected here, not big\n\
         TRUNKLINE_LOG_LEVEL: log.level: \"loud\" is not one of \"error\", \"warn\", \"info\", \"debug\", \"trace\""
    );
}

#[test]
fn what_does_not_go_together_names_the_one_that_was_given_last() {
    let text = format!("{TEXT}[trunk]\nkeep_alive_ms = 3000\nidle_timeout_ms = 9000\n");
    for (path, value, expected) in [
        (
            "trunk.idle_timeout_ms",
            "6000",
            "--trunk-idle-timeout-ms: trunk.keep_alive_ms: 3000 is not less than half of idle_timeout_ms, which is 6000",
        ),
        (
            "trunk.keep_alive_ms",
            "4500",
            "--trunk-keep-alive-ms: trunk.keep_alive_ms: 4500 is not less than half of idle_timeout_ms, which is 9000",
        ),
    ] {
        let error = NodeConfig::parse_with(&text, Path::new(FILE), &overrides(&[(path, value)], &[])).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(
        refusal(&[], &[("TRUNKLINE_ADMIN_SOCKET", "/etc/trunkline/local.sock")]),
        "TRUNKLINE_ADMIN_SOCKET: admin.socket: this is the socket of [local] too; give it a path of its own"
    );
}

#[test]
fn a_text_that_is_not_utf_8_is_refused_with_its_origin() {
    let overrides = Overrides::new([(key("identity.key"), OsString::from_vec(vec![b'/', 0xff]))], []);
    let error = NodeConfig::parse_with(TEXT, Path::new(FILE), &overrides).unwrap_err();
    assert_eq!(error.to_string(), "--identity-key: identity.key: this is not UTF-8 text");
}

#[test]
fn a_list_in_brackets_that_is_none_is_refused() {
    let error = refusal(&[("local.users", "[\"app\"")], &[]);
    let expected = "--local-users: local.users: \"[\\\"app\\\"\" begins like a list in brackets, and is none: ";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn a_table_that_the_file_lacks_is_made_and_one_that_is_none_is_still_refused() {
    let without_admin = TEXT.replace("[admin]\nsocket = \"admin.sock\"\n", "");
    let socket = overrides(&[("admin.socket", "/run/a.sock")], &[]);
    let config = NodeConfig::parse_with(&without_admin, Path::new(FILE), &socket).unwrap();
    assert_eq!(config.admin.unwrap().socket, Path::new("/run/a.sock"));
    // What else belongs into the table is missing where the whole table was.
    let without_local = TEXT.replace("[local]\nsocket = \"local.sock\"\n", "");
    let users = overrides(&[("local.users", "app")], &[]);
    assert_eq!(
        NodeConfig::parse_with(&without_local, Path::new(FILE), &users).unwrap_err().to_string(),
        "/etc/trunkline/node.toml:1: local.socket: this key is required; give a path"
    );
    let no_table = format!("limits = 7\npeer = 8\n{without_local}");
    let no_table = no_table.split_once("[[peer]]").unwrap().0;
    let given = overrides(&[("limits.streams_max", "5"), ("peer", "b=b:1"), ("local.socket", "/l")], &[]);
    assert_eq!(
        NodeConfig::parse_with(no_table, Path::new(FILE), &given).unwrap_err().to_string(),
        "/etc/trunkline/node.toml:1: limits: a table [limits] is expected here, not a whole number\n\
         /etc/trunkline/node.toml:2: peer: a list in brackets is expected here, not a whole number"
    );
}

#[test]
fn a_relative_path_starts_at_the_working_directory_and_not_at_the_file() {
    let config =
        parse(&[("identity.key", "run/7"), ("local.socket", "8")], &[("TRUNKLINE_ADMIN_SOCKET", "a.sock")]).unwrap();
    assert_eq!(config.identity.key, PathBuf::from("run/7"));
    assert_eq!(config.local.unwrap().socket, PathBuf::from("8"), "a file may be called so");
    assert_eq!(config.admin.unwrap().socket, PathBuf::from("a.sock"));
    assert_eq!(config.identity.trust, PathBuf::from("/etc/trunkline/trust.pem"));
}

#[test]
fn a_peer_takes_the_place_of_its_entry_and_leaves_the_others() {
    let config = parse(
        &[("peer", "node-e=10.9.0.5:1"), ("peer", "node-d=d:4")],
        &[("TRUNKLINE_PEER", "node-b=b:2,b.example:2  node-d=10.0.0.4:1\n")],
    )
    .unwrap();
    assert_eq!(
        peers(&config),
        [
            ("node-c", vec!["10.0.0.3:7400"]),
            ("node-b", vec!["b:2", "b.example:2"]),
            ("node-e", vec!["10.9.0.5:1"]),
            ("node-d", vec!["d:4"]),
        ]
    );
}

#[test]
fn a_peer_that_is_wrong_names_its_flag_or_variable() {
    assert_eq!(
        refusal(
            &[("peer", "node-b"), ("peer", "node-d="), ("peer", "node d=d:1")],
            &[("TRUNKLINE_PEER", "node-e=e:1 node-f=f:0 node-e=e:2")],
        ),
        "TRUNKLINE_PEER: peer.addresses: \"f:0\" is not host:port: the port is not a number from 1 to 65535\n\
         TRUNKLINE_PEER: peer.id: node-e has an entry in TRUNKLINE_PEER already; list all its addresses there\n\
         --peer: peer: \"node-b\" is not an id and its addresses, such as \"node-b=10.0.0.2:7400\"\n\
         --peer: peer.addresses: the list is empty; give at least one, such as \"10.0.0.2:7400\"\n\
         --peer: peer.id: node id \"node d\" holds ' '; letters, digits, '-', '_' and '.' are allowed"
    );
}

#[test]
fn a_variable_that_looks_like_a_key_s_is_warned_of_and_the_nearest_is_named() {
    for (name, meant) in [
        ("TRUNKLINE_LISTN", "TRUNKLINE_LISTEN"),
        ("TRUNKLINE_PEERS", "TRUNKLINE_PEER"),
        ("TRUNKLINE_LIMITS_STREAM_MAX", "TRUNKLINE_LIMITS_STREAMS_MAX"),
        ("TRUNKLINE_LIMIT_STREAMS_MAX", "TRUNKLINE_LIMITS_STREAMS_MAX"),
        ("TRUNKLINE_DRAIN_TIMEOUT", "TRUNKLINE_DRAIN_TIMEOUT_MS"),
        ("TRUNKLINE_STREAMS_MAX", "TRUNKLINE_LIMITS_STREAMS_MAX"),
        ("TRUNKLINE_MTU_MAX", "TRUNKLINE_TRUNK_MTU_MAX"),
        ("TRUNKLINE_TRUNK_MTU", "TRUNKLINE_TRUNK_MTU_MAX"),
        ("TRUNKLINE_LOG_FORMAT", "TRUNKLINE_LOG_LEVEL"),
        ("TRUNKLINE_PEER_ADDRESSES", "TRUNKLINE_PEER"),
    ] {
        let found = overrides(&[], &[(name, "1")]).check();
        let [finding] = &found[..] else { panic!("{name}: {found:?}") };
        let expected = format!("warning {name}: there is no such variable, it changes nothing; did you mean {meant}?");
        assert_eq!(finding.to_string(), expected);
    }
    let found = overrides(&[], &[("TRUNKLINE_PEERS", "b"), ("TRUNKLINE_LISTN", "a")]).check();
    assert!(
        found[0].text.starts_with("TRUNKLINE_LISTN:") && found[1].text.starts_with("TRUNKLINE_PEERS:"),
        "{found:?}"
    );
}

#[test]
fn variables_of_the_family_of_orchestrators_and_of_others_are_not_warned_of() {
    for name in [
        "TRUNKLINE_CONFIG",
        "TRUNKLINE_LOG",
        "TRUNKLINE_SOCKET",
        "TRUNKLINE_ADMIN_SOCKET",
        "TRUNKLINE_RUN",
        "TRUNKLINE_SERVICE_HOST",
        "TRUNKLINE_SERVICE_PORT",
        "TRUNKLINE_SERVICE_PORT_QUIC",
        "TRUNKLINE_PORT",
        "TRUNKLINE_PORT_7400_UDP",
        "TRUNKLINE_PORT_7400_UDP_ADDR",
        "TRUNKLINE_ADMIN_SERVICE_HOST",
        "TRUNKLINE_PEER_PORT_7400_UDP_PROTO",
        "TRUNKLINE_VERSION",
        "TRUNKLINE_HOME",
        "TRUNKLINE_",
        "TRUNK_MTU_MAX",
        "LISTEN",
    ] {
        assert_eq!(overrides(&[], &[(name, "/x")]).check(), [], "{name}");
    }
    // Nor one that is unset, nor one whose name is no text.
    assert_eq!(overrides(&[], &[("TRUNKLINE_LISTN", "")]).check(), []);
    let name = OsString::from_vec(b"TRUNKLINE_LISTEN\xff".to_vec());
    assert_eq!(Overrides::new([], [(name, "1".into())]).check(), []);
}

/// A folder with the identity of node-a, and a configuration file that is refused unless `listen` and `log.level` are
/// overridden.
struct Installed(TempDir);

impl Installed {
    fn new() -> Self {
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let authority = Authority::create(&"c1".parse().unwrap()).unwrap();
        authority.issue_node(&NodeRequest::new("node-a".parse().unwrap())).unwrap().write_to(folder.path()).unwrap();
        let text = "listen = \"nowhere\"\n[identity]\ncertificate = \"node.pem\"\nkey = \"node.key\"\n\
                    trust = \"trust.pem\"\n[local]\nsocket = \"/nowhere/local.sock\"\n[log]\nlevel = \"loud\"\n";
        fs::write(folder.path().join("node.toml"), text).unwrap();
        Self(folder)
    }

    /// The daemon's program in this folder, with no variables but those that a test adds.
    fn daemon(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline-node"));
        command.args(arguments).current_dir(self.0.path()).env_clear().stdin(Stdio::null());
        command
    }
}

/// Dropped, it is killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_daemon_runs_on_what_flags_and_variables_say() {
    let installed = Installed::new();
    let daemon = installed
        .daemon(&["run", "--listen", "127.0.0.1:0", "--peer", "node-b=127.0.0.1:9", "--log-level=info"])
        .env("TRUNKLINE_CONFIG", "node.toml")
        .env("TRUNKLINE_LISTEN", "nowhere either")
        .env("TRUNKLINE_LOCAL_SOCKET", "here.sock")
        .env("TRUNKLINE_LOCL_USERS", "app")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut daemon = Running(daemon);
    let mut lines = BufReader::new(daemon.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut said: Vec<String> = Vec::new();
    while !said.last().is_some_and(|line| line.contains("listens on UDP")) {
        said.push(lines.next().unwrap_or_else(|| panic!("it has ended: {said:?}")));
    }
    assert!(said[0].contains(" WARN ") && said[0].contains("did you mean TRUNKLINE_LOCAL_USERS?"), "{said:?}");
    let line = said.last().unwrap();
    assert!(line.contains("listens on UDP 127.0.0.1:") && line.contains("here.sock"), "{line}");
    assert!(installed.0.path().join("here.sock").exists());
    kill_process(Pid::from_child(&daemon.0), Signal::TERM).unwrap();
    lines.for_each(drop);
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
}

#[test]
fn check_says_what_a_daemon_would_do_with_the_same_flags_and_variables() {
    let installed = Installed::new();
    let checked = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = installed.daemon(&["check", "--config", "node.toml"]);
        let output = command
            .args(arguments)
            .env("TRUNKLINE_LOG_LEVEL", "info")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        (output.status.code(), lossy(&output.stdout), lossy(&output.stderr))
    };
    // An empty variable does not stand in the way of the flag.
    let (code, found, _) = checked(
        &["--listen", "127.0.0.1:0", "--local-socket", "l.sock"],
        &[("TRUNKLINE_LISTN", "x"), ("TRUNKLINE_PORT", "udp://10.0.0.1:7400"), ("TRUNKLINE_CONFIG", "")],
    );
    assert_eq!(code, Some(0), "{found}");
    let warnings: Vec<&str> = found.lines().filter(|line| line.starts_with("warning")).collect();
    let expected =
        "warning TRUNKLINE_LISTN: there is no such variable, it changes nothing; did you mean TRUNKLINE_LISTEN?";
    assert_eq!(warnings, [expected]);
    assert!(found.contains("ok      listen: 127.0.0.1:0/udp is free"), "{found}");
    let (code, _, error) = checked(&["--limits-streams-max", "-1"], &[("TRUNKLINE_LISTEN", "x")]);
    assert_eq!(code, Some(1));
    assert_eq!(
        error,
        "trunkline-node: error: TRUNKLINE_LISTEN: listen: \"x\" is not an IP address and a port, such as \"[::]:7400\" \
         or \"10.0.0.1:7400\"\n\
         --limits-streams-max: limits.streams_max: -1 is outside 1 to 10000000\n"
    );
}

#[test]
fn a_misspelled_variable_is_told_beside_the_error_that_it_leads_to() {
    let installed = Installed::new();
    fs::write(installed.0.path().join("node.toml"), "").unwrap();
    let output =
        installed.daemon(&["run", "--config", "node.toml"]).env("TRUNKLINE_LISTN", "127.0.0.1:0").output().unwrap();
    let said = lossy(&output.stderr);
    assert!(said.starts_with("trunkline-node: warning TRUNKLINE_LISTN: there is no such variable"), "{said}");
    assert!(said.contains("node.toml:1: listen: this key is required"), "{said}");
}

#[test]
fn a_daemon_without_a_file_does_not_start() {
    let output = Installed::new().daemon(&["run", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(lossy(&output.stderr).contains("--config <FILE>"), "{}", lossy(&output.stderr));
}

#[test]
fn the_help_shows_every_flag_and_its_variable_and_not_what_it_is_set_to() {
    let installed = Installed::new();
    for command in ["run", "check"] {
        let output = installed.daemon(&[command, "--help"]).env("TRUNKLINE_LISTEN", "a secret").output().unwrap();
        let help = lossy(&output.stdout);
        for key in KEYS {
            let flag = format!("--{} <{}>", key.flag(), key.value_name());
            let variable = format!("[env: {}]", key.variable());
            assert!(help.contains(&flag) && help.contains(&variable), "{flag} {variable} in:\n{help}");
        }
        assert!(help.contains("[env: TRUNKLINE_CONFIG]") && !help.contains("a secret"), "{help}");
        let brief = lossy(&installed.daemon(&[command, "-h"]).output().unwrap().stdout);
        assert!(brief.contains("--config") && !brief.contains("--listen"), "{brief}");
    }
}
