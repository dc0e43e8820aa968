//! `trunkline streams`: the streams that a node carries.

use std::time::Duration;

use indicatif::BinaryBytes;
use serde_json::{Value, json};
use trunkline_proto::admin::Stream;

use crate::{
    admin,
    arguments::StreamsArguments,
    failure::Failure,
    output::{answered, print},
    table::{
        Align::{Left, Right},
        table,
    },
};

/// Asks the node, and prints what it says.
pub(crate) async fn run(arguments: &StreamsArguments) -> Result<(), Failure> {
    let streams = answered(admin::streams(&arguments.admin.admin, &arguments.filter).await, arguments.admin.json)?;
    print(&if arguments.admin.json {
        format!("{}\n", json!({ "streams": streams.iter().map(stream_json).collect::<Vec<_>>() }))
    } else {
        to_text(&streams)
    })
}

fn to_text(streams: &[Stream]) -> String {
    let row = |stream: &Stream| {
        let path = match (stream.accepted, stream.local, stream.quic_stream) {
            (false, ..) => "opening".to_owned(),
            (_, true, _) => "local".to_owned(),
            (.., Some(id)) => format!("QUIC stream {id}"),
            (.., None) => String::new(),
        };
        [
            format!("{}@{}", stream.producer, stream.producer_node),
            format!("{}/{}@{}", stream.job, stream.consumer, stream.consumer_node),
            stream.run.clone(),
            path,
            BinaryBytes(stream.offset).to_string(),
            BinaryBytes(stream.limit.saturating_sub(stream.offset)).to_string(),
            BinaryBytes(stream.queued).to_string(),
            time(stream.blocked_application_us),
            time(stream.blocked_link_us),
            time(stream.blocked_credit_us),
            time(stream.blocked_trunk_us),
        ]
    };
    let header = [
        ("PRODUCER", Left),
        ("CONSUMER", Left),
        ("RUN", Left),
        ("PATH", Left),
        ("PASSED ON", Right),
        ("CREDIT", Right),
        ("WAITING", Right),
        ("IDLE", Right),
        ("ON LINK", Right),
        ("ON CREDIT", Right),
        ("ON TRUNK", Right),
    ];
    table(header, &streams.iter().map(row).collect::<Vec<_>>())
}

/// How long a stream waited for something, in the unit that suits.
fn time(us: u64) -> String {
    if us == 0 { "0s".to_owned() } else { format!("{:.1?}", Duration::from_micros(us)) }
}

/// Every field under its name in admin.proto.
fn stream_json(stream: &Stream) -> Value {
    json!({
        "job": stream.job, "run": stream.run, "producer": stream.producer, "producer_node": stream.producer_node,
        "consumer": stream.consumer, "consumer_node": stream.consumer_node, "incarnation": stream.incarnation,
        "number": stream.number, "local": stream.local, "quic_stream": stream.quic_stream, "offset": stream.offset,
        "limit": stream.limit, "queued": stream.queued, "accepted": stream.accepted,
        "blocked_application_us": stream.blocked_application_us, "blocked_link_us": stream.blocked_link_us,
        "blocked_credit_us": stream.blocked_credit_us, "blocked_trunk_us": stream.blocked_trunk_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_from_where_to_where_how_far_and_what_it_waited_for() {
        let stream = Stream {
            job: "job".into(),
            run: "1".into(),
            producer: "map".into(),
            producer_node: "node-a".into(),
            consumer: "reduce".into(),
            consumer_node: "node-b".into(),
            quic_stream: Some(4),
            accepted: true,
            offset: 2048,
            limit: 3072,
            blocked_application_us: 61_500_000,
            blocked_credit_us: 1_200,
            ..Stream::default()
        };
        let text = to_text(&[stream]);
        let row = text.lines().nth(1).unwrap();
        let cells: Vec<_> = row.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect();
        let names = ["map@node-a", "job/reduce@node-b", "1", "QUIC stream 4"];
        let numbers = ["2.00 KiB", "1.00 KiB", "0 B", "61.5s", "0s", "1.2ms", "0s"];
        assert_eq!(cells, [names.as_slice(), &numbers].concat());
    }
}
