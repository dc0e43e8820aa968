//! What `Status` says: the node's state at one instant, as the admin service's message.

use std::{
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use trunkline_proto::{
    admin::{Bind, Parked, Process, StatusResponse, Stream, Trunk},
    version::SOFTWARE,
};

use crate::{
    node::Node,
    relay::{Relay, Side},
};

/// The node's state now.
pub(crate) fn of(node: &Rc<Node>) -> StatusResponse {
    let trunks = node.trunks.all();
    let expires = node.identity.not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    StatusResponse {
        version: SOFTWARE.to_owned(),
        cluster: node.cluster.to_string(),
        node: node.id.to_string(),
        certificate_fingerprint: node.identity.fingerprint().to_string(),
        certificate_expires_unix_s: i64::try_from(expires.as_secs()).unwrap_or(i64::MAX),
        listen_address: node.trunks.local_address().to_string(),
        uptime_ms: ms(node.started.elapsed()),
        draining: node.is_draining(),
        trunks: trunks.iter().map(|trunk| trunk_of(trunk)).collect(),
        processes: node.processes.borrow().values().map(|process| process_of(process)).collect(),
        streams: node.relays.all().iter().map(|relay| stream_of(node, relay)).collect(),
        parked: node.bindings.borrow().parked().map(|parked| parked_of(&parked.relay, parked.since)).collect(),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn trunk_of(trunk: &crate::trunk::Trunk) -> Trunk {
    let stats = trunk.connection.stats();
    Trunk {
        peer: trunk.peer.to_string(),
        remote_address: trunk.connection.remote_address().to_string(),
        dialled: trunk.dialled,
        current: trunk.current.get(),
        up_ms: ms(trunk.since.elapsed()),
        rtt_us: u64::try_from(stats.path.rtt.as_micros()).unwrap_or(u64::MAX),
        bytes_sent: stats.udp_tx.bytes,
        bytes_received: stats.udp_rx.bytes,
        mtu: stats.path.current_mtu.into(),
        lost_packets: stats.path.lost_packets,
        streams: trunk.outlet.streams_count() as u64,
    }
}

fn process_of(process: &crate::link::process::Process) -> Process {
    let bind = |bind: crate::link::process::LocalBind| Bind {
        job: bind.job.name.to_string(),
        run: bind.job.run.to_string(),
        consumer: bind.consumer.to_string(),
    };
    Process {
        attachment: process.number,
        software: process.software.clone(),
        uid: process.peer.uid,
        gid: process.peer.gid,
        pid: process.pid,
        attached_ms: ms(process.since.elapsed()),
        binds: process.binds().into_iter().map(bind).collect(),
        streams: process.outlet.streams_count() as u64,
    }
}

fn stream_of(node: &Node, relay: &Relay) -> Stream {
    let open = &relay.open;
    let snapshot = relay.snapshot();
    let producer_node = open.producer_node.as_ref().unwrap_or(&node.id);
    let local = *producer_node == open.node;
    let trunk_side = if *producer_node == node.id { Side::Down } else { Side::Up };
    Stream {
        job: open.job.name.to_string(),
        run: open.job.run.to_string(),
        producer: open.producer.to_string(),
        producer_node: producer_node.to_string(),
        consumer: open.consumer.to_string(),
        consumer_node: open.node.to_string(),
        incarnation: open.incarnation.to_string(),
        number: open.number,
        local,
        quic_stream: if local { None } else { relay.end(trunk_side).and_then(|end| end.stream) },
        offset: snapshot.passed,
        limit: snapshot.limit,
        queued: snapshot.queued,
        accepted: snapshot.accepted,
    }
}

fn parked_of(relay: &Relay, since: Instant) -> Parked {
    let open = &relay.open;
    Parked {
        job: open.job.name.to_string(),
        run: open.job.run.to_string(),
        producer: open.producer.to_string(),
        producer_node: open.producer_node.as_ref().map(ToString::to_string).unwrap_or_default(),
        consumer: open.consumer.to_string(),
        waited_ms: ms(since.elapsed()),
    }
}
