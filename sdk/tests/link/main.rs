//! The SDK's half of the local link, against a node that a test scripts frame by frame.
//!
//! Processes with real nodes between them are tested in the workspace's `tests/`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod connect;
mod events;
mod fake_node;
mod gather;
mod lifecycle;
#[path = "../polling/mod.rs"]
mod polling;
mod receive;
mod relay;
mod send;
