//! The SDK's half of the local link, against a node that a test scripts frame by frame.
//!
//! Processes with real nodes between them are tested in the workspace's `tests/`.

mod connect;
mod fake_node;
mod gather;
mod lifecycle;
mod receive;
mod relay;
mod send;
