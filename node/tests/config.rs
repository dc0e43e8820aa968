//! What a configuration file says and what it is told when it is wrong: file, line and key, always.

#![expect(clippy::unwrap_used, reason = "what a test prepares either succeeds or fails the test")]

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use trunkline_certs::{Authority, NodeRequest};
use trunkline_node::config::{
    Account, AdminConfig, ConfigError, Congestion, KEYS, Key, LogLevel, NodeConfig, Origin, PeerConfig, Profile,
    Severity,
};

const FILE: &str = "/etc/trunkline/node.toml";

/// Nothing but what has no default; ten lines.
const SMALLEST: &str = r#"listen = "[::]:7400"

[identity]
certificate = "node.pem"
key = "node.key"
trust = "trust.pem"

[local]
socket = "/run/trunkline/local.sock"
"#;

fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse(text, Path::new(FILE))
}

/// The refusal of [`SMALLEST`] with `rest` from line 10 on.
fn refusal_beyond_line_9(rest: &str) -> String {
    parse(&format!("{SMALLEST}{rest}")).unwrap_err().to_string()
}

#[test]
fn the_smallest_file_gets_the_documented_defaults() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.listen, "[::]:7400".parse().unwrap());
    assert_eq!(config.drain_timeout, Duration::from_secs(10));
    let local = config.local.unwrap();
    assert_eq!((local.users, local.groups), (vec![], vec![]));
    assert_eq!((config.admin, config.peers), (None, vec![]));
    assert_eq!(config.limits.open_timeout, Duration::from_secs(30));
    assert_eq!(config.limits.patience, Duration::from_secs(300));
    assert_eq!(config.limits.parked_opens_max, 4_096);
    assert_eq!(config.limits.streams_max, 1_000_000);
    assert_eq!(config.limits.processes_max, 1_024);
    assert_eq!(config.limits.binds_per_process_max, 4_096);
    assert_eq!(config.limits.process_quota_bytes, 16_777_216);
    assert_eq!(config.limits.ingress_pool_bytes, 4_194_304);
    assert_eq!(config.limits.hello_timeout, Duration::from_secs(5));
    assert_eq!(config.trunk.profile, Profile::Datacenter);
    assert_eq!(config.trunk.keep_alive, Duration::from_millis(2_500));
    assert_eq!(config.trunk.idle_timeout, Duration::from_secs(9));
    assert_eq!(config.trunk.send_window_bytes, 1_048_576);
    assert_eq!(config.trunk.send_windows_bytes, 268_435_456);
    assert_eq!(config.trunk.stream_receive_window_bytes, 1_179_648);
    assert_eq!(config.trunk.mtu_max, 1_452);
    assert_eq!(config.trunk.congestion, Congestion::Cubic);
    assert_eq!(config.trunk.socket_buffer_bytes, 8_388_608);
    assert_eq!(config.trunk.reconnect_backoff_max, Duration::from_millis(500));
    assert_eq!(config.trunk.streams_initial, 64);
    assert_eq!(config.log.level, LogLevel::Info);
}

#[test]
fn every_key_can_be_set() {
    let config = parse(
        r#"
        listen = "10.0.0.1:0"
        drain_timeout_ms = 0
        identity = { certificate = "a", key = "b", trust = "c" }
        [local]
        socket = "d"
        users = ["app", 1001]
        groups = ["wheel", 0]
        [admin]
        socket = "e"
        [[peer]]
        id = "node-b"
        addresses = ["10.0.0.2:7400", "node-b.example:7400", "[fd00::2]:7400"]
        [[peer]]
        id = "node-c"
        addresses = ["node_c:1"]
        [limits]
        open_timeout_ms = 1
        patience_ms = 0
        parked_opens_max = 2
        streams_max = 3
        processes_max = 4
        binds_per_process_max = 5
        process_quota_bytes = 0x4_0000
        ingress_pool_bytes = 0x1_0000
        hello_timeout_ms = 100
        [trunk]
        profile = "wan"
        keep_alive_ms = 499
        idle_timeout_ms = 1_000
        send_windows_bytes = 65_536
        stream_receive_window_bytes = 2_097_152
        mtu_max = 8952
        congestion = "new_reno"
        socket_buffer_bytes = 65536
        reconnect_backoff_max_ms = 50
        streams_initial = 256
        [log]
        level = "trace"
        "#,
    )
    .unwrap();
    assert_eq!(config.drain_timeout, Duration::ZERO);
    let local = config.local.unwrap();
    assert_eq!(local.users, [Account::Name("app".into()), Account::Id(1_001)]);
    assert_eq!(local.groups, [Account::Name("wheel".into()), Account::Id(0)]);
    assert_eq!(config.peers[0].id.as_str(), "node-b");
    assert_eq!(config.peers[0].addresses[1], "node-b.example:7400");
    assert_eq!(config.peers[1].addresses, ["node_c:1"]);
    assert_eq!(config.limits.process_quota_bytes, 262_144);
    assert_eq!(config.limits.ingress_pool_bytes, 65_536);
    assert_eq!(config.limits.binds_per_process_max, 5);
    assert_eq!(config.trunk.profile, Profile::Wan);
    assert_eq!(config.trunk.send_window_bytes, 8 * 1024 * 1024, "a long path's default");
    assert_eq!(config.trunk.send_windows_bytes, 65_536);
    assert_eq!(config.trunk.mtu_max, 8_952);
    assert_eq!(config.trunk.congestion, Congestion::NewReno);
    assert_eq!(config.log.level, LogLevel::Trace);
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.identity.key, PathBuf::from("/etc/trunkline/node.key"));
    assert_eq!(config.local.unwrap().socket, PathBuf::from("/run/trunkline/local.sock"));
    let config = NodeConfig::parse(SMALLEST, Path::new("node.toml")).unwrap();
    assert_eq!(config.identity.key, PathBuf::from("node.key"));
}

#[test]
fn a_missing_file_is_an_error_and_never_a_default() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    assert_eq!(
        NodeConfig::load(&path).unwrap_err().to_string(),
        format!(
            "config file {} does not exist; name an existing one with --config, a node does not start on defaults alone",
            path.display()
        )
    );
    let error = NodeConfig::load(folder.path()).unwrap_err().to_string();
    let expected = format!("config file {} cannot be read: ", folder.path().display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn a_file_that_is_no_text_names_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    fs::write(&path, b"listen = \"[::]:7400\"\n# caf\xe9\n").unwrap();
    let error = NodeConfig::load(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("{}:2: the file is not UTF-8 text from this line on", path.display()));
}

#[test]
fn a_file_that_is_no_toml_names_line_and_column() {
    let error = refusal_beyond_line_9("[log]\nlevel = info\n");
    assert!(error.starts_with("/etc/trunkline/node.toml:11:9: "), "{error}");
    let error = refusal_beyond_line_9("[log]\nlevel = \"info\"\nlevel = \"warn\"\n");
    assert_eq!(error, "/etc/trunkline/node.toml:12:1: duplicate key");
}

#[test]
fn an_unknown_key_names_file_line_and_key_and_what_is_allowed_there() {
    assert_eq!(
        refusal_beyond_line_9("[admin]\nsocket = \"a\"\nsokcet = \"b\"\n"),
        "/etc/trunkline/node.toml:12: admin.sokcet: unknown key; allowed here: socket"
    );
    assert_eq!(
        refusal_beyond_line_9("[limit]\n"),
        "/etc/trunkline/node.toml:10: limit: unknown key; allowed here: listen, drain_timeout_ms, identity, local, \
         admin, peer, limits, trunk, log"
    );
    assert_eq!(
        refusal_beyond_line_9("[log]\nformat = \"json\"\n"),
        "/etc/trunkline/node.toml:11: log.format: unknown key; allowed here: level"
    );
}

#[test]
fn a_required_key_that_is_missing_names_its_table_and_the_remedy() {
    assert_eq!(
        parse("[identity]\nkey = \"k\"\ntrust = \"t\"\n").unwrap_err().to_string(),
        "/etc/trunkline/node.toml:1: listen: this key is required; give an address and a port, such as \"[::]:7400\"\n\
         /etc/trunkline/node.toml:1: identity.certificate: this key is required; give a path\n\
         /etc/trunkline/node.toml:1: local: this key is required; add a table [local]"
    );
    assert_eq!(
        refusal_beyond_line_9("[[peer]]\nid = \"b\"\n"),
        "/etc/trunkline/node.toml:10: peer.addresses: this key is required; give at least one, such as \
         [\"10.0.0.2:7400\"]"
    );
}

#[test]
fn a_value_of_the_wrong_type_names_both_types() {
    for (rest, expected) in [
        ("[log]\nlevel = 3\n", "11: log.level: text in quotes is expected here, not a whole number"),
        ("[admin]\nsocket = []\n", "11: admin.socket: text in quotes is expected here, not a list"),
        ("[limits]\nstreams_max = \"many\"\n", "11: limits.streams_max: a whole number is expected here, not \"many\""),
        ("[limits]\nstreams_max = 1.5\n", "11: limits.streams_max: a whole number is expected here, not 1.5"),
        ("[[admin]]\nsocket = \"a\"\n", "10: admin: a table [admin] is expected here, not a list"),
        ("[peer]\nid = \"b\"\n", "10: peer: a list in brackets is expected here, not a table"),
        ("users = \"app\"\n", "10: local.users: a list in brackets is expected here, not text"),
        (
            "users = [\n  \"app\",\n  true]\n",
            "12: local.users: a name in quotes or a number is expected here, not true or false",
        ),
    ] {
        assert_eq!(refusal_beyond_line_9(rest), format!("{FILE}:{expected}"));
    }
}

#[test]
fn a_number_out_of_bounds_names_the_bounds() {
    for (rest, expected) in [
        ("[limits]\nstreams_max = 0\n", "11: limits.streams_max: 0 is outside 1 to 10000000"),
        ("[limits]\nopen_timeout_ms = -5\n", "11: limits.open_timeout_ms: -5 is outside 1 to 86400000"),
        ("[limits]\ningress_pool_bytes = 1024\n", "11: limits.ingress_pool_bytes: 1024 is outside 65536 to 1073741824"),
        ("[trunk]\nmtu_max = 1199\n", "11: trunk.mtu_max: 1199 is outside 1200 to 65527"),
        ("[trunk]\nmtu_max = 65528\n", "11: trunk.mtu_max: 65528 is outside 1200 to 65527"),
        ("[trunk]\nstreams_initial = 257\n", "11: trunk.streams_initial: 257 is outside 2 to 256"),
        (
            "[trunk]\nstream_receive_window_bytes = 2_097_153\n",
            "11: trunk.stream_receive_window_bytes: 2097153 is outside 65536 to 2097152",
        ),
        (
            "[trunk]\nsend_window_bytes = 99999999999999999999999\n",
            "11: trunk.send_window_bytes: 99999999999999999999999 is outside 65536 to 1073741824",
        ),
        ("groups = [4294967295]\n", "10: local.groups: 4294967295 is outside 0 to 4294967294"),
    ] {
        assert_eq!(refusal_beyond_line_9(rest), format!("{FILE}:{expected}"));
    }
}

#[test]
fn a_keep_alive_that_could_miss_the_idle_timeout_is_refused() {
    assert_eq!(
        refusal_beyond_line_9("[trunk]\nidle_timeout_ms = 8000\nkeep_alive_ms = 4000\n"),
        "/etc/trunkline/node.toml:12: trunk.keep_alive_ms: 4000 is not less than half of idle_timeout_ms, which is 8000"
    );
    assert_eq!(
        refusal_beyond_line_9("[trunk]\nidle_timeout_ms = 5000\n"),
        "/etc/trunkline/node.toml:11: trunk.keep_alive_ms: 2500 is not less than half of idle_timeout_ms, which is 5000"
    );
}

#[test]
fn a_word_that_is_no_choice_names_the_choices() {
    assert_eq!(
        refusal_beyond_line_9("[trunk]\nprofile = \"lan\"\ncongestion = \"reno\"\n"),
        "/etc/trunkline/node.toml:11: trunk.profile: \"lan\" is not one of \"datacenter\", \"wan\"\n\
         /etc/trunkline/node.toml:12: trunk.congestion: \"reno\" is not one of \"cubic\", \"bbr\", \"new_reno\""
    );
}

#[test]
fn a_listen_address_is_an_ip_address_and_a_port() {
    for listen in ["7400", "localhost:7400", "0.0.0.0", "::7400:x", ""] {
        let error = parse(&SMALLEST.replace("[::]:7400", listen)).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "{FILE}:1: listen: {listen:?} is not an IP address and a port, such as \"[::]:7400\" or \
                 \"10.0.0.1:7400\""
            )
        );
    }
}

#[test]
fn a_peer_s_name_and_addresses_are_checked_for_form() {
    for (rest, expected) in [
        (
            "[[peer]]\nid = \"node b\"\naddresses = [\"b:1\"]\n",
            "11: peer.id: node id \"node b\" holds ' '; letters, digits, '-', '_' and '.' are allowed",
        ),
        (
            "[[peer]]\nid = \"b\"\naddresses = [\"b:1\"]\n[[peer]]\nid = \"b\"\naddresses = [\"c:1\"]\n",
            "14: peer.id: b has an entry on line 11 already; list all its addresses there",
        ),
        (
            "[[peer]]\nid = \"b\"\naddresses = []\n",
            "12: peer.addresses: the list is empty; give at least one, such as \"10.0.0.2:7400\"",
        ),
        (
            "[[peer]]\nid = \"b\"\naddresses = [7400]\n",
            "12: peer.addresses: text in quotes is expected here, not a whole number",
        ),
    ] {
        assert_eq!(refusal_beyond_line_9(rest), format!("{FILE}:{expected}"));
    }
    for (address, why) in [
        ("node-b", "the port is missing"),
        ("node-b:0", "the port is not a number from 1 to 65535"),
        ("10.0.0.2:0", "the port is 0"),
        ("node-b:65536", "the port is not a number from 1 to 65535"),
        ("node-b:http", "the port is not a number from 1 to 65535"),
        ("fd00::2:7400", "an IPv6 address stands in brackets, such as \"[fd00::2]:7400\""),
        ("node/b:1", "the host is neither an IP address nor a name"),
        ("10.0.0.256:1", "the host is neither an IP address nor a name"),
        (":7400", "the host is neither an IP address nor a name"),
    ] {
        assert_eq!(
            refusal_beyond_line_9(&format!("[[peer]]\nid = \"b\"\naddresses = [\n\"b:1\",\n{address:?}]\n")),
            format!("{FILE}:14: peer.addresses: {address:?} is not host:port: {why}")
        );
    }
}

#[test]
fn a_path_is_neither_empty_nor_shared_by_two_sockets() {
    assert_eq!(
        parse(&SMALLEST.replace("node.key", "")).unwrap_err().to_string(),
        "/etc/trunkline/node.toml:5: identity.key: this is no path: it is empty or holds a NUL"
    );
    assert_eq!(
        refusal_beyond_line_9("[admin]\nsocket = \"/run/trunkline/local.sock\"\n"),
        "/etc/trunkline/node.toml:11: admin.socket: this is the socket of [local] too; give it a path of its own"
    );
}

#[test]
fn all_that_is_wrong_is_said_at_once_in_the_order_of_the_file() {
    let text =
        "listen = 1\n[local]\nsocket = \"s\"\nmode = 7\n[identity]\ncertificate = \"a\"\nkey = \"b\"\ntrust = 0\n";
    let error = parse(text).unwrap_err();
    let ConfigError::Invalid { problems } = &error else { panic!("{error}") };
    let at = |line| Origin::File { path: FILE.into(), line };
    let found: Vec<_> = problems.iter().map(|problem| (problem.origin.clone(), problem.key.as_str())).collect();
    assert_eq!(found, [(at(1), "listen"), (at(4), "local.mode"), (at(8), "identity.trust")]);
    assert_eq!(error.to_string().lines().count(), 3);
}

/// Sets the number at a path in a configuration, as a program would.
type Set = fn(&mut NodeConfig, u64);

/// Every number of a configuration.
const NUMBERS: [(&str, Set); 19] = [
    ("drain_timeout_ms", |config, number| config.drain_timeout = Duration::from_millis(number)),
    ("limits.open_timeout_ms", |config, number| config.limits.open_timeout = Duration::from_millis(number)),
    ("limits.patience_ms", |config, number| config.limits.patience = Duration::from_millis(number)),
    ("limits.parked_opens_max", |config, number| config.limits.parked_opens_max = number.try_into().unwrap()),
    ("limits.streams_max", |config, number| config.limits.streams_max = number.try_into().unwrap()),
    ("limits.processes_max", |config, number| config.limits.processes_max = number.try_into().unwrap()),
    ("limits.binds_per_process_max", |config, number| config.limits.binds_per_process_max = number.try_into().unwrap()),
    ("limits.process_quota_bytes", |config, number| config.limits.process_quota_bytes = number),
    ("limits.ingress_pool_bytes", |config, number| config.limits.ingress_pool_bytes = number),
    ("limits.hello_timeout_ms", |config, number| config.limits.hello_timeout = Duration::from_millis(number)),
    ("trunk.keep_alive_ms", |config, number| config.trunk.keep_alive = Duration::from_millis(number)),
    ("trunk.idle_timeout_ms", |config, number| config.trunk.idle_timeout = Duration::from_millis(number)),
    ("trunk.send_window_bytes", |config, number| config.trunk.send_window_bytes = number),
    ("trunk.send_windows_bytes", |config, number| config.trunk.send_windows_bytes = number),
    ("trunk.stream_receive_window_bytes", |config, number| config.trunk.stream_receive_window_bytes = number),
    ("trunk.mtu_max", |config, number| config.trunk.mtu_max = number.try_into().unwrap()),
    ("trunk.socket_buffer_bytes", |config, number| config.trunk.socket_buffer_bytes = number.try_into().unwrap()),
    ("trunk.reconnect_backoff_max_ms", |config, number| {
        config.trunk.reconnect_backoff_max = Duration::from_millis(number);
    }),
    ("trunk.streams_initial", |config, number| config.trunk.streams_initial = number.try_into().unwrap()),
];

/// What is said of the bounds of the number at `path`, whoever gave it.
fn said_of(path: &str, result: Result<(), ConfigError>) -> Vec<String> {
    let problems = match result {
        Ok(()) => Vec::new(),
        Err(ConfigError::Invalid { problems }) => problems,
        Err(error) => panic!("{error}"),
    };
    let texts = problems.into_iter().filter(|problem| problem.key == path).map(|problem| problem.text);
    texts.filter(|text| text.contains("outside")).collect()
}

#[test]
fn numbers_that_a_program_sets_have_the_bounds_of_those_in_a_file_and_get_the_same_words() {
    for (path, set) in NUMBERS {
        let bounds = KEYS.iter().find(|key| key.path() == path).and_then(Key::bounds).unwrap();
        let around =
            [bounds.start().checked_sub(1), Some(*bounds.start()), Some(*bounds.end()), Some(bounds.end() + 1)];
        for number in around.into_iter().flatten() {
            let mut config = parse(SMALLEST).unwrap();
            set(&mut config, number);
            let by_program = said_of(path, config.validate());
            let by_file = said_of(path, parse(&format!("{path} = {number}\n{SMALLEST}")).map(drop));
            assert_eq!(by_program, by_file, "{path}: {number}");
            assert_eq!(by_program.is_empty(), bounds.contains(&number), "{path}: {number}: {by_program:?}");
        }
    }
    assert_eq!(NUMBERS.len(), KEYS.iter().filter_map(Key::bounds).count());
}

#[test]
fn everything_that_a_program_sets_wrongly_is_said_at_once() {
    let mut config = parse(SMALLEST).unwrap();
    config.validate().unwrap();
    config.limits.streams_max = 0;
    config.trunk.keep_alive = Duration::MAX;
    config.identity.key = PathBuf::new();
    let local = config.local.as_mut().unwrap();
    local.users = vec![Account::Name(String::new()), Account::Name("app".into())];
    local.groups = vec![Account::Id(u32::MAX), Account::Id(u32::MAX - 1)];
    config.admin = Some(AdminConfig { socket: local.socket.clone() });
    let peer = |addresses: &[&str]| PeerConfig {
        id: "node-b".parse().unwrap(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
    };
    config.peers = vec![peer(&["b:1", "b"]), peer(&[])];
    let error = config.validate().unwrap_err();
    let expected = [
        "identity.key: this is no path: it is empty or holds a NUL",
        "local.users: a name is empty or holds a NUL",
        "local.groups: 4294967295 is outside 0 to 4294967294",
        "admin.socket: this is the socket of [local] too; give it a path of its own",
        "peer.addresses: \"b\" is not host:port: the port is missing",
        "peer.id: node-b has two entries; list all its addresses in one",
        "peer.addresses: node-b: the list is empty; give at least one, such as \"10.0.0.2:7400\"",
        "limits.streams_max: 0 is outside 1 to 10000000",
        "trunk.keep_alive_ms: 18446744073709551615 is outside 100 to 300000",
        "trunk.keep_alive_ms: 18446744073709551615999 is not less than half of idle_timeout_ms, which is 9000",
    ];
    let expected = expected.map(|line| format!("the program's configuration: {line}"));
    assert_eq!(error.to_string().lines().collect::<Vec<_>>(), expected);
    // A check looks at the values too.
    let found: Vec<String> = config.check().into_iter().map(|finding| finding.text).collect();
    assert!(found.starts_with(&expected), "{found:?}");
}

/// A folder with the identity of node-a and a private folder for its sockets, and a configuration that names them.
fn installed() -> (TempDir, NodeConfig) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(&"c1".try_into().unwrap()).unwrap();
    let files = authority.issue_node(&NodeRequest::new("node-a".try_into().unwrap())).unwrap();
    files.write_to(folder.path()).unwrap();
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, Permissions::from_mode(0o750)).unwrap();
    let text = SMALLEST.replace("[::]:7400", "127.0.0.1:0").replace("/run/trunkline/", "run/");
    let config = NodeConfig::parse(&text, &folder.path().join("node.toml")).unwrap();
    (folder, config)
}

/// The text of the one finding of `severity`, if there is one.
fn only_finding(config: &NodeConfig, severity: Severity) -> Option<String> {
    let mut found: Vec<_> = config.check().into_iter().filter(|finding| finding.severity == severity).collect();
    assert!(found.len() <= 1, "{found:?}");
    Some(found.pop()?.text)
}

#[test]
fn a_check_of_what_is_in_order_finds_nothing_and_leaves_nothing() {
    let (folder, config) = installed();
    for finding in config.check() {
        assert_eq!(finding.severity, Severity::Ok, "{finding}");
        assert!(finding.to_string().starts_with("ok      "), "{finding}");
    }
    assert_eq!(fs::read_dir(folder.path().join("run")).unwrap().count(), 0);
}

#[test]
fn a_check_finds_a_peer_that_is_the_node_itself() {
    let (_folder, mut config) = installed();
    config.peers =
        parse(&format!("{SMALLEST}[[peer]]\nid = \"node-a\"\naddresses = [\"127.0.0.1:1\"]\n")).unwrap().peers;
    let error = only_finding(&config, Severity::Error).unwrap();
    assert_eq!(error, "peer.id: node-a is this node itself; remove its [[peer]] entry");
}

#[test]
fn a_check_warns_of_a_folder_that_others_reach_and_gives_the_command() {
    let (folder, config) = installed();
    let run = folder.path().join("run");
    fs::set_permissions(&run, Permissions::from_mode(0o755)).unwrap();
    let warning = only_finding(&config, Severity::Warning).unwrap();
    let expected = format!(
        "local.socket: its folder has mode 0755, 0750 or 0700 is expected: `chmod 0750 {0}`, or a folder of its own",
        run.display()
    );
    assert_eq!(warning, expected);
    assert_eq!(only_finding(&config, Severity::Error), None);
}

#[test]
fn a_check_of_a_node_that_runs_says_so_of_its_sockets_and_disturbs_nothing() {
    let (folder, mut config) = installed();
    let admin = folder.path().join("run/admin.sock");
    config.admin = parse(&format!("{SMALLEST}[admin]\nsocket = \"{}\"\n", admin.display())).unwrap().admin;
    let local = config.local.clone().unwrap();
    let _local = UnixListener::bind(&local.socket).unwrap();
    let warning = only_finding(&config, Severity::Warning).unwrap();
    let expected = format!(
        "local.socket: {} is served by a running process, which is right if this node runs already",
        local.socket.display()
    );
    assert_eq!(warning, expected);
    assert_eq!(only_finding(&config, Severity::Error), None);
    let _admin = UnixListener::bind(&admin).unwrap();
    let warned = config.check().into_iter().filter(|finding| finding.severity == Severity::Warning).count();
    assert_eq!(warned, 2);
    assert_eq!(fs::read_dir(folder.path().join("run")).unwrap().count(), 2, "it leaves no lock");
}

#[test]
fn a_check_takes_no_notice_of_a_socket_that_a_dead_node_left() {
    let (_folder, config) = installed();
    let socket = &config.local.as_ref().unwrap().socket;
    drop(UnixListener::bind(socket).unwrap());
    assert!(socket.exists());
    assert_eq!(only_finding(&config, Severity::Warning), None);
    assert_eq!(only_finding(&config, Severity::Error), None);
}

#[test]
fn a_check_finds_what_stands_in_a_socket_s_place() {
    let (folder, mut config) = installed();
    fs::write(folder.path().join("run/local.sock"), "").unwrap();
    let error = only_finding(&config, Severity::Error).unwrap();
    assert!(error.contains("run/local.sock exists and is no socket"), "{error}");
    config.local.as_mut().unwrap().socket = folder.path().join("elsewhere/local.sock");
    let error = only_finding(&config, Severity::Error).unwrap();
    assert!(error.contains("elsewhere does not exist: make it with `mkdir -m 0750 "), "{error}");
}

#[test]
fn a_check_finds_unknown_accounts_and_a_missing_identity() {
    let (folder, mut config) = installed();
    config.local.as_mut().unwrap().groups = vec![Account::Name("no-such-group".into())];
    let error = only_finding(&config, Severity::Error).unwrap();
    assert!(error.starts_with("local.groups: there is no group \"no-such-group\""), "{error}");
    config.local.as_mut().unwrap().groups.clear();
    fs::remove_file(folder.path().join("node.key")).unwrap();
    let error = only_finding(&config, Severity::Error).unwrap();
    assert!(error.starts_with("identity: ") && error.contains("node.key"), "{error}");
}

#[test]
fn a_check_says_why_an_address_cannot_be_listened_on() {
    let (_folder, mut config) = installed();
    // TEST-NET-1: no machine has it.
    config.listen = "192.0.2.1:0".parse().unwrap();
    let error = only_finding(&config, Severity::Error).unwrap();
    assert!(
        error.ends_with("; no interface of this machine has that address; see `listen` in the configuration"),
        "{error}"
    );
}

#[test]
fn a_check_says_that_a_port_is_in_use() {
    let (_folder, mut config) = installed();
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    config.listen = other.local_addr().unwrap();
    let warning = only_finding(&config, Severity::Warning).unwrap();
    assert_eq!(warning, format!("listen: {}/udp is in use, which is right if this node runs already", config.listen));
}

#[test]
fn a_config_made_in_code_has_no_socket_and_a_check_misses_none() {
    let (_folder, file) = installed();
    let mut config = NodeConfig::new(file.listen, file.identity);
    assert_eq!((&config.local, &config.admin), (&None, &None));
    assert!(!config.check().iter().any(|finding| finding.text.starts_with("local.")), "{:?}", config.check());
    config.local = file.local;
    assert!(config.check().iter().any(|finding| finding.text.starts_with("local.socket")), "{:?}", config.check());
}
