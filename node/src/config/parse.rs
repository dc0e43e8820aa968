//! From the text of a configuration file to a [`NodeConfig`]: every key, its bounds, and what they must be together.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use trunkline_proto::id::NodeId;

use super::{
    Account, AdminConfig, ConfigError, Congestion, DRAIN_TIMEOUT, IdentityConfig, LimitsConfig, LocalConfig, LogConfig,
    LogLevel, NodeConfig, PeerConfig, Profile, STREAM_RECEIVE_WINDOW_BYTES_MAX, TrunkConfig,
    reader::{Document, Section, position},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Smallest and largest UDP payload of QUIC (RFC 9000 §14.1, §18.2).
const MTU_ALLOWED: std::ops::RangeInclusive<u64> = 1_200..=65_527;

pub(super) fn parse(text: &str, path: &Path) -> Result<NodeConfig, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        ConfigError::Syntax { path: path.to_owned(), line, column, text: error.message().to_owned() }
    })?;
    let document = Document::new(text);
    let config = node(Section::top(&document, table), path.parent().unwrap_or(Path::new("")));
    let problems = document.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::Invalid { path: path.to_owned(), problems }),
    }
}

/// `None` only after a problem was reported; but a problem may be reported beside `Some`.
fn node(mut top: Section<'_, '_>, folder: &Path) -> Option<NodeConfig> {
    let listen = listen(&mut top);
    let drain_timeout = top.duration("drain_timeout_ms", DRAIN_TIMEOUT, 0..=600_000);
    let identity = required(&mut top, "identity").and_then(|section| identity(section, folder));
    let local = required(&mut top, "local").and_then(|section| local(section, folder));
    let admin = top.section("admin").and_then(|section| admin(section, folder, local.as_ref()));
    let peers = peers(&mut top);
    let limits = top.section("limits").map_or_else(LimitsConfig::default, limits);
    let trunk = top.section("trunk").map_or_else(TrunkConfig::default, trunk);
    let log = top.section("log").map_or_else(LogConfig::default, log);
    top.finish();
    let local = Some(local?);
    Some(NodeConfig { drain_timeout, local, admin, peers, limits, trunk, log, ..NodeConfig::new(listen?, identity?) })
}

fn required<'d, 't>(top: &mut Section<'d, 't>, name: &'static str) -> Option<Section<'d, 't>> {
    let value = top.require(name, &format!("add a table [{name}]"));
    value.and_then(|value| top.table(name, value))
}

fn listen(top: &mut Section<'_, '_>) -> Option<SocketAddr> {
    let value = top.require("listen", "give an address and a port, such as \"[::]:7400\"");
    let listen = top.text("listen", value)?;
    let parsed = listen.get_ref().parse().ok();
    if parsed.is_none() {
        let text = format!("{:?} is not an IP address and a port, such as \"[::]:7400\" or \"10.0.0.1:7400\"", {
            listen.get_ref()
        });
        top.report("listen", listen.span(), text);
    }
    parsed
}

fn identity(mut section: Section<'_, '_>, folder: &Path) -> Option<IdentityConfig> {
    let certificate = section.path("certificate", folder);
    let key = section.path("key", folder);
    let trust = section.path("trust", folder);
    section.finish();
    Some(IdentityConfig { certificate: certificate?, key: key?, trust: trust? })
}

fn local(mut section: Section<'_, '_>, folder: &Path) -> Option<LocalConfig> {
    let socket: Option<PathBuf> = section.path("socket", folder);
    let users = accounts(&mut section, "users");
    let groups = accounts(&mut section, "groups");
    section.finish();
    Some(LocalConfig { socket: socket?, users, groups })
}

fn accounts(section: &mut Section<'_, '_>, key: &'static str) -> Vec<Account> {
    let value = section.take(key);
    let list = section.list(key, value).unwrap_or_default();
    list.into_iter().filter_map(|value| account(section, key, value)).collect()
}

fn account(section: &Section<'_, '_>, key: &str, value: Spanned<DeValue<'_>>) -> Option<Account> {
    let span = value.span();
    match value.into_inner() {
        DeValue::String(name) if !name.is_empty() && !name.contains('\0') => Some(Account::Name(name.into_owned())),
        DeValue::String(_) => {
            section.report(key, span, "a name is empty or holds a NUL");
            None
        }
        DeValue::Integer(integer) => match u32::from_str_radix(integer.as_str(), integer.radix()) {
            // The highest number means "no such user" to the system.
            Ok(id) if id != u32::MAX => Some(Account::Id(id)),
            _ => {
                section.report(key, span, format!("{integer} is outside 0 to {}", u32::MAX - 1));
                None
            }
        },
        other => section.mistyped(key, span, "a name in quotes or a number", &other),
    }
}

fn admin(mut section: Section<'_, '_>, folder: &Path, local: Option<&LocalConfig>) -> Option<AdminConfig> {
    let span = section.span_of("socket");
    let socket = section.path("socket", folder);
    if local.is_some_and(|local| socket.as_ref() == Some(&local.socket)) {
        section.report("socket", span, "this is the socket of [local] too; give it a path of its own");
    }
    section.finish();
    Some(AdminConfig { socket: socket? })
}

fn peers(top: &mut Section<'_, '_>) -> Vec<PeerConfig> {
    let mut first_seen = HashMap::new();
    let mut peers = Vec::new();
    for section in top.sections("peer") {
        peers.extend(peer(section, &mut first_seen));
    }
    peers
}

/// `first_seen` holds the line of each id so far.
fn peer(mut section: Section<'_, '_>, first_seen: &mut HashMap<NodeId, usize>) -> Option<PeerConfig> {
    let id = section.require("id", "give the peer's node id");
    let id = section.text("id", id).and_then(|id| match NodeId::new(id.get_ref()) {
        Err(error) => {
            section.report("id", id.span(), error.to_string());
            None
        }
        Ok(name) => {
            let line = section.line(id.span());
            if let Some(first) = first_seen.get(&name) {
                let text = format!("{name} has an entry on line {first} already; list all its addresses there");
                section.report("id", id.span(), text);
            } else {
                first_seen.insert(name.clone(), line);
            }
            Some(name)
        }
    });
    let value = section.require("addresses", "give at least one, such as [\"10.0.0.2:7400\"]");
    let span = value.as_ref().map_or(section.span(), Spanned::span);
    let addresses = section.list("addresses", value).map(|list| {
        if list.is_empty() {
            section.report("addresses", span, "the list is empty; give at least one, such as \"10.0.0.2:7400\"");
        }
        list.into_iter().filter_map(|value| address(&section, value)).collect()
    });
    section.finish();
    Some(PeerConfig { id: id?, addresses: addresses? })
}

fn address(section: &Section<'_, '_>, value: Spanned<DeValue<'_>>) -> Option<String> {
    let address = section.text("addresses", Some(value))?;
    if let Err(why) = check_address(address.get_ref()) {
        section.report("addresses", address.span(), format!("{:?} is not host:port: {why}", address.get_ref()));
        return None;
    }
    Some(address.into_inner())
}

/// Whether `address` has the form of an IP address or a host name, and a port.
fn check_address(address: &str) -> Result<(), &'static str> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return if address.port() == 0 { Err("the port is 0") } else { Ok(()) };
    }
    let Some((host, port)) = address.rsplit_once(':') else { return Err("the port is missing") };
    if host.contains(':') {
        return Err("an IPv6 address stands in brackets, such as \"[fd00::2]:7400\"");
    }
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(letters) {
        return Err("the host is neither an IP address nor a name");
    }
    // "1.2.3.400" has the form of a name, and nobody means one.
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err("the host is neither an IP address nor a name");
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(()),
        _ => Err("the port is not a number from 1 to 65535"),
    }
}

fn limits(mut section: Section<'_, '_>) -> LimitsConfig {
    let default = LimitsConfig::default();
    let limits = LimitsConfig {
        open_timeout: section.duration("open_timeout_ms", default.open_timeout, 1..=86_400_000),
        parked_opens_max: section.count("parked_opens_max", default.parked_opens_max, 1..=1_000_000),
        streams_max: section.count("streams_max", default.streams_max, 1..=10_000_000),
        processes_max: section.count("processes_max", default.processes_max, 1..=65_536),
        binds_per_process_max: section.count("binds_per_process_max", default.binds_per_process_max, 1..=1_000_000),
        ingress_stream_bytes: section.number("ingress_stream_bytes", default.ingress_stream_bytes, 16 * KIB..=16 * MIB),
        hello_timeout: section.duration("hello_timeout_ms", default.hello_timeout, 100..=60_000),
    };
    section.finish();
    limits
}

fn trunk(mut section: Section<'_, '_>) -> TrunkConfig {
    let profiles = [("datacenter", Profile::Datacenter), ("wan", Profile::Wan)];
    let default = TrunkConfig::of(section.choice("profile", Profile::Datacenter, &profiles));
    let idle_timeout = section.duration("idle_timeout_ms", default.idle_timeout, 1_000..=600_000);
    let trunk = TrunkConfig {
        profile: default.profile,
        keep_alive: keep_alive(&mut section, default.keep_alive, idle_timeout),
        idle_timeout,
        send_window_bytes: section.number("send_window_bytes", default.send_window_bytes, 64 * KIB..=GIB),
        stream_receive_window_bytes: section.number(
            "stream_receive_window_bytes",
            default.stream_receive_window_bytes,
            64 * KIB..=STREAM_RECEIVE_WINDOW_BYTES_MAX,
        ),
        mtu_max: section.count("mtu_max", default.mtu_max, MTU_ALLOWED),
        congestion: section.choice(
            "congestion",
            default.congestion,
            &[("cubic", Congestion::Cubic), ("bbr", Congestion::Bbr), ("new_reno", Congestion::NewReno)],
        ),
        socket_buffer_bytes: section.count("socket_buffer_bytes", default.socket_buffer_bytes, 64 * KIB..=GIB),
        reconnect_backoff_max: section.duration("reconnect_backoff_max_ms", default.reconnect_backoff_max, 50..=60_000),
        streams_initial: section.count("streams_initial", default.streams_initial, 2..=256),
    };
    section.finish();
    trunk
}

/// An idle timeout that is set alone may be too short for the default keep-alive: then it is the keep-alive's line
/// that is missing, and the error stands at the table.
fn keep_alive(section: &mut Section<'_, '_>, default: Duration, idle_timeout: Duration) -> Duration {
    let span = section.span_of("keep_alive_ms");
    let keep_alive = section.duration("keep_alive_ms", default, 100..=300_000);
    if keep_alive * 2 >= idle_timeout {
        let (keep_alive, idle) = (keep_alive.as_millis(), idle_timeout.as_millis());
        let text = format!("{keep_alive} is not less than half of idle_timeout_ms, which is {idle}");
        section.report("keep_alive_ms", span, text);
    }
    keep_alive
}

fn log(mut section: Section<'_, '_>) -> LogConfig {
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let level = section.choice("level", LogConfig::default().level, &levels.map(|level| (level.word(), level)));
    section.finish();
    LogConfig { level }
}
