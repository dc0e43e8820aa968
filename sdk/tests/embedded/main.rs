//! Nodes inside this process: the same attachment without a socket.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod cancel;
#[expect(dead_code, reason = "the tests of the link use the rest")]
#[path = "../cutting/mod.rs"]
mod cutting;
mod drops;
mod lifecycle;
mod nodes;
#[path = "../polling/mod.rs"]
mod polling;
mod streams;
