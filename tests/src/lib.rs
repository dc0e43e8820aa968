//! The harness of the tests that cross crates: shipped binaries as processes, a cluster of them, and what to send.
//!
//! Nothing here sleeps to let something happen: [`eventually`] waits until it has, and [`in_time`] ends a test that
//! would wait for ever.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`binaries`] | the shipped binaries, built once |
//! | [`cluster`] | daemons of one cluster, each a child process |
//! | [`forwarder`] | a network between them that can be watched and broken |
//! | [`process`] | a user's process, to be killed |
//! | [`crowd`] | many streams between two such processes, some of which nobody reads |
//! | [`exchange`] | whole streams, compared at both ends |
//! | [`sockets`] | which sockets a process has open and how much memory it has, as the kernel says |
//! | [`stranger`] | peers that are no daemons and do what a test says |
//! | [`payload`] | messages from a seed, and digests to compare both ends by |

pub mod binaries;
pub mod cluster;
pub mod crowd;
pub mod exchange;
pub mod forwarder;
pub mod payload;
pub mod process;
pub mod sockets;
pub mod stranger;
mod waiting;

pub use waiting::{eventually, in_time, in_time_of};
