//! From the text of a configuration file to a [`NodeConfig`]: every key, its default, and what they must be together.

use std::{collections::HashMap, net::SocketAddr, ops::Range, path::Path, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use trunkline_proto::id::NodeId;

use super::{
    Account, AdminConfig, ConfigError, Congestion, DRAIN_TIMEOUT, IdentityConfig, LimitsConfig, LocalConfig, LogConfig,
    LogLevel, NodeConfig, PeerConfig, Profile, TrunkConfig,
    document::{Document, position},
    overrides::Overrides,
    reader::Section,
    rules::{self, ACCOUNT_ID_MAX},
};

/// `text` is that of the file `path`; what `overrides` hold stands in its place.
pub(super) fn parse(text: &str, path: &Path, overrides: &Overrides) -> Result<NodeConfig, ConfigError> {
    let mut table = DeTable::parse(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        ConfigError::Syntax { path: path.to_owned(), line, column, text: error.message().to_owned() }
    })?;
    let mut document = Document::new(text, path);
    overrides.apply(&mut document, table.get_mut());
    let config = node(Section::top(&document, table));
    let problems = document.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::Invalid { problems }),
    }
}

/// `None` only after a problem was reported; but a problem may be reported beside `Some`.
fn node(mut top: Section<'_, '_>) -> Option<NodeConfig> {
    let listen = listen(&mut top);
    let drain_timeout = top.duration("drain_timeout_ms", DRAIN_TIMEOUT);
    let identity = required(&mut top, "identity").and_then(identity);
    let local = required(&mut top, "local").and_then(local);
    let admin = top.section("admin").and_then(|section| admin(section, local.as_ref()));
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

fn identity(mut section: Section<'_, '_>) -> Option<IdentityConfig> {
    let certificate = section.path("certificate");
    let key = section.path("key");
    let trust = section.path("trust");
    section.finish();
    Some(IdentityConfig { certificate: certificate?, key: key?, trust: trust? })
}

fn local(mut section: Section<'_, '_>) -> Option<LocalConfig> {
    let socket = section.path("socket");
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
    let account = match value.into_inner() {
        DeValue::String(name) => Account::Name(name.into_owned()),
        DeValue::Integer(integer) => match u32::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(id) => Account::Id(id),
            Err(_) => {
                section.report(key, span, rules::outside(integer, &(0..=ACCOUNT_ID_MAX.into())));
                return None;
            }
        },
        other => return section.mistyped(key, span, "a name in quotes or a number", &other),
    };
    if let Err(why) = rules::check_account(&account) {
        section.report(key, span, why);
        return None;
    }
    Some(account)
}

fn admin(mut section: Section<'_, '_>, local: Option<&LocalConfig>) -> Option<AdminConfig> {
    let span = section.span_of("socket").unwrap_or(section.span());
    let socket = section.path("socket");
    if local.is_some_and(|local| socket.as_ref() == Some(&local.socket)) {
        section.report("socket", span, rules::SAME_SOCKET);
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

/// `first_seen` holds where each id so far stands.
fn peer(mut section: Section<'_, '_>, first_seen: &mut HashMap<NodeId, Range<usize>>) -> Option<PeerConfig> {
    let id = section.require("id", "give the peer's node id");
    let id = section.text("id", id).and_then(|id| match NodeId::new(id.get_ref()) {
        Err(error) => {
            section.report("id", id.span(), error.to_string());
            None
        }
        Ok(name) => {
            if let Some(first) = first_seen.get(&name) {
                let place = section.place(first);
                let text = format!("{name} has an entry {place} already; list all its addresses there");
                section.report("id", id.span(), text);
            } else {
                first_seen.insert(name.clone(), id.span());
            }
            Some(name)
        }
    });
    let value = section.require("addresses", "give at least one, such as [\"10.0.0.2:7400\"]");
    let span = value.as_ref().map_or(section.span(), Spanned::span);
    let addresses = section.list("addresses", value).map(|list| {
        if list.is_empty() {
            section.report("addresses", span, rules::ADDRESSES_EMPTY);
        }
        list.into_iter().filter_map(|value| address(&section, value)).collect()
    });
    section.finish();
    Some(PeerConfig { id: id?, addresses: addresses? })
}

fn address(section: &Section<'_, '_>, value: Spanned<DeValue<'_>>) -> Option<String> {
    let address = section.text("addresses", Some(value))?;
    if let Err(why) = rules::check_address(address.get_ref()) {
        section.report("addresses", address.span(), why);
        return None;
    }
    Some(address.into_inner())
}

fn limits(mut section: Section<'_, '_>) -> LimitsConfig {
    let default = LimitsConfig::default();
    let limits = LimitsConfig {
        open_timeout: section.duration("open_timeout_ms", default.open_timeout),
        patience: section.duration("patience_ms", default.patience),
        parked_opens_max: section.count("parked_opens_max", default.parked_opens_max),
        streams_max: section.count("streams_max", default.streams_max),
        processes_max: section.count("processes_max", default.processes_max),
        binds_per_process_max: section.count("binds_per_process_max", default.binds_per_process_max),
        process_quota_bytes: section.count("process_quota_bytes", default.process_quota_bytes),
        ingress_pool_bytes: section.count("ingress_pool_bytes", default.ingress_pool_bytes),
        hello_timeout: section.duration("hello_timeout_ms", default.hello_timeout),
    };
    section.finish();
    limits
}

fn trunk(mut section: Section<'_, '_>) -> TrunkConfig {
    let profiles = [("datacenter", Profile::Datacenter), ("wan", Profile::Wan)];
    let default = TrunkConfig::of(section.choice("profile", Profile::Datacenter, &profiles));
    let (keep_alive, idle_timeout) = silence(&mut section, &default);
    let trunk = TrunkConfig {
        profile: default.profile,
        keep_alive,
        idle_timeout,
        send_window_bytes: section.count("send_window_bytes", default.send_window_bytes),
        send_windows_bytes: section.count("send_windows_bytes", default.send_windows_bytes),
        stream_receive_window_bytes: section.count("stream_receive_window_bytes", default.stream_receive_window_bytes),
        mtu_max: section.count("mtu_max", default.mtu_max),
        congestion: section.choice(
            "congestion",
            default.congestion,
            &[("cubic", Congestion::Cubic), ("bbr", Congestion::Bbr), ("new_reno", Congestion::NewReno)],
        ),
        socket_buffer_bytes: section.count("socket_buffer_bytes", default.socket_buffer_bytes),
        reconnect_backoff_max: section.duration("reconnect_backoff_max_ms", default.reconnect_backoff_max),
        streams_initial: section.count("streams_initial", default.streams_initial),
    };
    section.finish();
    trunk
}

/// `keep_alive_ms` and `idle_timeout_ms`. When they do not go together, the one that was given last is at fault: in the
/// file the lower one, and what stands in place of the file's more than what the file says.
fn silence(section: &mut Section<'_, '_>, default: &TrunkConfig) -> (Duration, Duration) {
    let spans = [section.span_of("keep_alive_ms"), section.span_of("idle_timeout_ms")];
    let keep_alive = section.duration("keep_alive_ms", default.keep_alive);
    let idle_timeout = section.duration("idle_timeout_ms", default.idle_timeout);
    let last = spans.into_iter().flatten().max_by_key(|span| span.start);
    if let (Some(span), Err(why)) = (last, rules::check_keep_alive(keep_alive, idle_timeout)) {
        section.report("keep_alive_ms", span, why);
    }
    (keep_alive, idle_timeout)
}

fn log(mut section: Section<'_, '_>) -> LogConfig {
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let level = section.choice("level", LogConfig::default().level, &levels.map(|level| (level.word(), level)));
    section.finish();
    LogConfig { level }
}
