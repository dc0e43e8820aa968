//! The node of a Trunkline cluster: one per machine, between its processes and its peers.
//!
//! ```text
//!  processes ─── link/ ──┐                        ┌── trunk/ ─── peers
//!               (a unix  ├── relay/: a stream ────┤  (one QUIC connection each)
//!                socket) │   in transit           │
//!                        └── outlet.rs: what waits for one connection's one writer ──┘
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`config`] | the configuration file, and what is wrong with it |
//! | [`embedded`] | the composition root: a node's start, tasks and end, and the link of a program that it is embedded in |
//! | `node` | what a node is made of: attach, open, bind, drain |
//! | `relay` | one stream in transit, and the table of all of them |
//! | `outlet` | what waits to be written to one connection, in the order of [`trunkline_session::Schedule`] |
//! | `bindings` | consumer names, and opens that wait for one |
//! | `link` | attached processes |
//! | `trunk` | peers: who dials, the writer, the readers |
//! | `admin`, `status` | what an operator can ask |
//! | `events` | what the log tells of streams and binds |
//! | `refusals` | refusals in plain words, once each |
//!
//! With the feature `daemon` (the default) the package has the daemon's binary, and what only that needs.
//!
//! Everything runs on one thread, in a [`tokio::task::LocalSet`]: docs/adr/0003 says why.

mod admin;
mod bindings;
pub mod config;
pub mod embedded;
mod events;
mod link;
mod node;
mod outlet;
mod refusals;
mod relay;
mod status;
mod trunk;

pub use embedded::run;
pub use link::{credentials::AccountError, socket::SocketError};
pub use node::NodeError;
pub use trunk::endpoint::{Dials, EndpointError, bind as bind_endpoint};
