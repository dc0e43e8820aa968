//! What Trunkline is measured against: quinn alone with the node's own settings, and a TCP socket with the same TLS.
//!
//! "Bare quinn" has everything that the node gives its trunks, for it is set up by the node's own
//! [`bind_endpoint`](trunkline_node::bind_endpoint): cryptography, MTU, windows, congestion control, socket buffers and
//! the bound on a burst. It runs on one `current_thread` runtime in each of two processes, reads with `read_chunks` as
//! soon as something comes, and checks the same sums at both ends. What it lacks is all that Trunkline is for: names,
//! credit, bounds, a process on the other side of a node.

mod bulk;
mod echo;
mod tls;

use std::sync::Arc;

use quinn::{Connection, Endpoint};
use trunkline::node::TrunkConfig;
use trunkline_certs::{Identity, SERVER_NAME};
use trunkline_node::{Dials, bind_endpoint};

pub(crate) use self::{
    bulk::{BareReceive, BareSend, Writers},
    echo::{BareAnswer, BareAsk},
    tls::{TlsAnswer, TlsAsk},
};
use crate::{error::BenchError, processes::NodeFiles};

/// A node's identity.
fn identity(files: &NodeFiles) -> Result<Identity, BenchError> {
    Identity::load(&files.certificate, &files.key, &files.trust).map_err(BenchError::peer("the identity"))
}

/// The only peer.
fn peer(files: &NodeFiles) -> Result<&(String, std::net::SocketAddr), BenchError> {
    files.peers.first().ok_or_else(|| BenchError::Option(format!("{} has no peer", files.id)))
}

/// An endpoint as a node has it, but that its peer may open `streams` at once.
fn endpoint(files: &NodeFiles, streams: usize) -> Result<(Endpoint, Dials), BenchError> {
    let mut config = TrunkConfig::default();
    config.streams_initial = u32::try_from(streams).map_err(BenchError::peer("the number of streams"))?;
    bind_endpoint(files.listen, &identity(files)?, &config).map_err(BenchError::peer("quinn's endpoint"))
}

/// The connection to the only peer, which listens.
async fn dial(files: &NodeFiles) -> Result<(Endpoint, Connection), BenchError> {
    let (endpoint, dials) = endpoint(files, 1)?;
    let (id, address) = peer(files)?;
    let id = id.parse().map_err(BenchError::peer("the peer's name"))?;
    let config = dials.config(&id).map_err(BenchError::peer("quinn's settings"))?;
    let connecting =
        endpoint.connect_with(config, *address, SERVER_NAME).map_err(BenchError::peer("quinn's connect"))?;
    let connection = connecting.await.map_err(BenchError::peer("quinn's connection"))?;
    Ok((endpoint, connection))
}

/// The first connection that comes.
async fn accept(endpoint: &Endpoint) -> Result<Connection, BenchError> {
    let incoming = endpoint.accept().await.ok_or_else(|| BenchError::Peer("quinn", "it was closed".to_owned()))?;
    incoming.await.map_err(BenchError::peer("quinn's connection"))
}

/// The settings of TLS at the end that listens, and the one that dials.
fn tls(files: &NodeFiles) -> Result<(Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>), BenchError> {
    let identity = identity(files)?;
    let id = peer(files)?.0.parse().map_err(BenchError::peer("the peer's name"))?;
    Ok((identity.server_config(), identity.client_config(&id)))
}
