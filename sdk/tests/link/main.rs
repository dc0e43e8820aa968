//! The SDK's half of the local link, against a node that a test scripts frame by frame.
//!
//! Processes with real nodes between them are tested in the workspace's `tests/`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod cancel;
mod cancel_close;
mod cancel_receive;
mod cancel_scatter;
mod close;
mod connect;
mod crossing;
#[path = "../cutting/mod.rs"]
mod cutting;
mod events;
mod fake_node;
mod gather;
mod gather_many;
mod lifecycle;
#[path = "../polling/mod.rs"]
mod polling;
mod reattach;
mod receive;
mod receive_bytes;
mod receive_counts;
mod receive_many;
mod reclaim;
mod relay;
mod scatter;
mod send;
mod sending;
mod stalled;
mod weights;
