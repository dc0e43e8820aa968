//! The ceiling of each process's memory, out of the configuration: docs/operations.md, "What bounds memory", as a formula.

use trunkline::node::NodeConfig;

use crate::settings::Budgets;

/// Buffers of one process's link in its node, both ways.
const LINK_BYTES: u64 = 512 << 10;
/// A node's state for one stream, QUIC's included.
const NODE_STREAM_BYTES: u64 = 3 << 10;
/// An application's state for one stream: the SDK's, and a task that waits in a `send` or a `recv`.
const APPLICATION_STREAM_BYTES: u64 = 3 << 10;
/// The program itself: code, threads, the allocator's own.
const PROGRAM_BYTES: u64 = 24 << 20;

/// What a process is to its streams.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    /// Attached by the SDK, and sends.
    Producer(&'a Budgets),
    /// Attached by the SDK, and receives.
    Consumer(&'a Budgets),
    /// The node of one process that sends over one trunk.
    ProducersNode(&'a NodeConfig),
    /// The node of one process that receives from one trunk.
    ConsumersNode(&'a NodeConfig),
}

/// The most that a process with so many streams may hold, in bytes.
pub(crate) fn ceiling_bytes(part: Part<'_>, streams: u64) -> u64 {
    let node = |config: &NodeConfig| config.trunk.send_window_bytes + LINK_BYTES + streams * NODE_STREAM_BYTES;
    PROGRAM_BYTES
        + match part {
            Part::Producer(budgets) => {
                budgets.send_bytes + budgets.message_bytes_max + streams * APPLICATION_STREAM_BYTES
            }
            Part::Consumer(budgets) => {
                budgets.receive_bytes + budgets.message_bytes_max + streams * APPLICATION_STREAM_BYTES
            }
            Part::ProducersNode(config) => node(config) + config.limits.ingress_pool_bytes,
            Part::ConsumersNode(config) => node(config) + config.limits.process_quota_bytes,
        }
}
