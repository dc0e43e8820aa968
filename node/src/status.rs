//! What `Status` and `Streams` say: the node's state at one instant, as the admin service's messages.

use std::{
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use trunkline_proto::{
    admin::{Bind, Parked, Process, StatusRequest, StatusResponse, Stream, StreamsRequest, Trunk},
    version::SOFTWARE,
};

use crate::{
    admin::{Cursor, Page, Question},
    node::Node,
    relay::{Relay, Side},
};

/// How many streams are looked at in one step of a listing: the node's thread does nothing else meanwhile. With every
/// name as long as it may be, so many take half a megabyte.
const STREAMS_PER_STEP: usize = 1_000;

/// Answers one question. Who asked may have gone.
pub(crate) fn answer(node: &Rc<Node>, question: Question) {
    match question {
        Question::Status(request, asker) => {
            let _ = asker.send(of(node, &request));
        }
        Question::Streams(request, cursor, asker) => {
            let _ = asker.send(page(node, &request, cursor));
        }
    }
}

/// The streams from `cursor` on that match, as far as one step goes.
fn page(node: &Node, request: &StreamsRequest, cursor: Cursor) -> Page {
    let last = cursor.last.unwrap_or_else(|| node.relays.youngest());
    let looked_at = node.relays.some(cursor.first..=last, STREAMS_PER_STEP);
    let next = (looked_at.len() == STREAMS_PER_STEP)
        .then(|| looked_at.last().map(|relay| Cursor { first: relay.number + 1, last: Some(last) }))
        .flatten()
        .filter(|next| next.first <= last);
    let matching = looked_at.iter().filter(|relay| is_asked_for(node, relay, request));
    Page { streams: matching.map(|relay| stream_of(node, relay)).collect(), next }
}

fn is_asked_for(node: &Node, relay: &Relay, request: &StreamsRequest) -> bool {
    let open = &relay.open;
    let matches = |asked: &str, name: &str| asked.is_empty() || asked == name;
    let peer = open.producer_node.as_ref().filter(|producer| **producer != node.id).unwrap_or(&open.node);
    matches(&request.job, open.job.name.as_str())
        && matches(&request.producer, open.producer.as_str())
        && matches(&request.consumer, open.consumer.as_str())
        && matches(&request.peer, peer.as_str())
}

/// The node's state now.
fn of(node: &Rc<Node>, request: &StatusRequest) -> StatusResponse {
    let streams = if request.omit_streams { Vec::new() } else { node.relays.all() };
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
        streams: streams.iter().map(|relay| stream_of(node, relay)).collect(),
        parked: node.bindings.borrow().parked().map(|parked| parked_of(&parked.relay, parked.since)).collect(),
        stream_count: node.relays.count() as u64,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn trunk_of(trunk: &crate::trunk::Trunk) -> Trunk {
    let stats = trunk.connection.stats();
    Trunk {
        peer: trunk.peer.to_string(),
        remote_address: trunk.connection.remote_address().to_string(),
        dialled: trunk.dialled,
        current: trunk.current.get(),
        up_ms: ms(trunk.since.elapsed()),
        rtt_us: us(stats.path.rtt),
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
        blocked_application_us: us(snapshot.waited.application),
        blocked_link_us: us(snapshot.waited.link),
        blocked_credit_us: us(snapshot.waited.credit),
        blocked_trunk_us: us(snapshot.waited.trunk),
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
