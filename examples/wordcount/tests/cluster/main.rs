//! The whole program, with real nodes: what it counts, what it says when something dies, what it leaves behind.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

mod casualties;
mod counts;
mod embedded;
mod killed;
mod output;
mod place;
mod programs;
mod sockets;
mod stall;
