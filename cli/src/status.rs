//! `trunkline status`: who a node is and what it carries.

use std::{fmt::Write as _, time::Duration};

use indicatif::{BinaryBytes, HumanDuration};
use serde_json::{Value, json};
use trunkline_proto::admin::{Bind, Parked, Process, StatusResponse, Trunk};

use crate::{
    admin,
    arguments::StatusArguments,
    failure::Failure,
    output::{answered, print},
    table::{
        Align::{Left, Right},
        table,
    },
};

/// Asks the node, and prints what it says.
pub(crate) async fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let status = answered(admin::status(&arguments.admin.admin).await, arguments.admin.json)?;
    print(&if arguments.admin.json { format!("{}\n", to_json(&status)) } else { to_text(&status) })
}

fn to_text(status: &StatusResponse) -> String {
    let mut text = String::new();
    let mut add = |title: &str, count: usize, table: String| {
        if count > 0 {
            // A string takes everything.
            let _ = write!(text, "\n{title}\n{table}");
        }
    };
    add("Trunks", status.trunks.len(), trunks(&status.trunks));
    add("Processes", status.processes.len(), processes(&status.processes));
    add("Opens that wait for their consumer", status.parked.len(), parked(&status.parked));
    let state = if status.draining { "draining" } else { "up" };
    format!(
        "node         {}, cluster {}, {}\nlistens      {}\n{:<12} {}\ncertificate  {}, {}\nstreams      {}, in {} and {}; \
         `trunkline streams` lists them\n{text}",
        status.node,
        status.cluster,
        status.version,
        status.listen_address,
        state,
        HumanDuration(Duration::from_millis(status.uptime_ms)),
        status.certificate_fingerprint,
        expiry(status.certificate_expires_unix_s),
        status.stream_count,
        several(status.trunks.len(), "trunk"),
        several(status.processes.len(), "process"),
    )
}

/// When a certificate ends, as seen from now.
fn expiry(unix_s: i64) -> String {
    let end = u64::try_from(unix_s).unwrap_or_default();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    match Duration::from_secs(end).checked_sub(now) {
        Some(left) => format!("valid for {}", HumanDuration(left)),
        None => "expired".to_owned(),
    }
}

fn several(count: usize, what: &str) -> String {
    let plural = if what.ends_with('s') { "es" } else { "s" };
    format!("{count} {what}{}", if count == 1 { "" } else { plural })
}

fn trunks(trunks: &[Trunk]) -> String {
    let row = |trunk: &Trunk| {
        let state = match (trunk.current, trunk.dialled) {
            (false, _) => "ending",
            (true, true) => "dialled",
            (true, false) => "accepted",
        };
        [
            trunk.peer.clone(),
            trunk.remote_address.clone(),
            state.to_owned(),
            HumanDuration(Duration::from_millis(trunk.up_ms)).to_string(),
            format!("{} µs", trunk.rtt_us),
            trunk.streams.to_string(),
            BinaryBytes(trunk.bytes_sent).to_string(),
            BinaryBytes(trunk.bytes_received).to_string(),
            trunk.lost_packets.to_string(),
        ]
    };
    let header = [
        ("PEER", Left),
        ("ADDRESS", Left),
        ("STATE", Left),
        ("UP", Right),
        ("RTT", Right),
        ("STREAMS", Right),
        ("SENT", Right),
        ("RECEIVED", Right),
        ("LOST PACKETS", Right),
    ];
    table(header, &trunks.iter().map(row).collect::<Vec<_>>())
}

fn processes(processes: &[Process]) -> String {
    let row = |process: &Process| {
        [
            process.pid.to_string(),
            process.uid.to_string(),
            process.software.clone(),
            HumanDuration(Duration::from_millis(process.attached_ms)).to_string(),
            process.streams.to_string(),
            process.binds.iter().map(|bind| format!("{}/{}", bind.job, bind.consumer)).collect::<Vec<_>>().join(" "),
        ]
    };
    let header =
        [("PID", Right), ("UID", Right), ("SOFTWARE", Left), ("ATTACHED", Right), ("STREAMS", Right), ("BINDS", Left)];
    table(header, &processes.iter().map(row).collect::<Vec<_>>())
}

fn parked(parked: &[Parked]) -> String {
    let row = |open: &Parked| {
        [
            format!("{}/{}", open.job, open.consumer),
            open.run.clone(),
            format!("{}@{}", open.producer, open.producer_node),
            HumanDuration(Duration::from_millis(open.waited_ms)).to_string(),
        ]
    };
    let header = [("CONSUMER", Left), ("RUN", Left), ("PRODUCER", Left), ("WAITED", Right)];
    table(header, &parked.iter().map(row).collect::<Vec<_>>())
}

/// Every field under its name in admin.proto, the streams apart: `trunkline streams` has those.
fn to_json(status: &StatusResponse) -> Value {
    let trunk = |trunk: &Trunk| {
        json!({
            "peer": trunk.peer, "remote_address": trunk.remote_address, "dialled": trunk.dialled,
            "current": trunk.current, "up_ms": trunk.up_ms, "rtt_us": trunk.rtt_us, "bytes_sent": trunk.bytes_sent,
            "bytes_received": trunk.bytes_received, "mtu": trunk.mtu, "lost_packets": trunk.lost_packets,
            "streams": trunk.streams,
        })
    };
    let bind = |bind: &Bind| json!({ "job": bind.job, "run": bind.run, "consumer": bind.consumer });
    let process = |process: &Process| {
        json!({
            "attachment": process.attachment, "software": process.software, "uid": process.uid, "gid": process.gid,
            "pid": process.pid, "attached_ms": process.attached_ms, "streams": process.streams,
            "binds": process.binds.iter().map(bind).collect::<Vec<_>>(),
        })
    };
    let parked = |open: &Parked| {
        json!({
            "job": open.job, "run": open.run, "producer": open.producer, "producer_node": open.producer_node,
            "consumer": open.consumer, "waited_ms": open.waited_ms,
        })
    };
    json!({
        "version": status.version, "cluster": status.cluster, "node": status.node,
        "certificate_fingerprint": status.certificate_fingerprint,
        "certificate_expires_unix_s": status.certificate_expires_unix_s,
        "listen_address": status.listen_address, "uptime_ms": status.uptime_ms, "draining": status.draining,
        "trunks": status.trunks.iter().map(trunk).collect::<Vec<_>>(),
        "processes": status.processes.iter().map(process).collect::<Vec<_>>(),
        "stream_count": status.stream_count,
        "parked": status.parked.iter().map(parked).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_what_there_is_and_leaves_out_what_there_is_not() {
        let idle = StatusResponse { node: "node-a".into(), cluster: "demo".into(), ..StatusResponse::default() };
        let text = to_text(&idle);
        assert!(text.starts_with("node         node-a, cluster demo, "), "{text}");
        assert!(text.contains("\nstreams      0, in 0 trunks and 0 processes"), "{text}");
        assert!(!text.contains("Trunks") && text.contains("expired"), "{text}");
        let trunk = Trunk { peer: "node-b".into(), current: true, dialled: true, ..Trunk::default() };
        let text = to_text(&StatusResponse { trunks: vec![trunk], draining: true, ..idle });
        assert!(text.contains("\nTrunks\nPEER ") && text.contains("\nnode-b "), "{text}");
        assert!(text.contains("in 1 trunk and") && text.contains("\ndraining "), "{text}");
    }
}
