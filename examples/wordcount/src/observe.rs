//! What is seen of each node from outside: sockets as the operating system counts them, trunks as its admin service
//! says.

use std::{io, path::Path};

use tonic::transport::{self, Endpoint};
use trunkline_proto::admin::{StatusRequest, StatusResponse, admin_client::AdminClient};

use crate::{cluster::Node, plan::admin_socket, sockets::Sockets};

/// The longest status that is read: some hundred bytes for each stream.
const STATUS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeView {
    /// Its name.
    pub(crate) id: String,
    /// Its process, while there is one.
    pub(crate) pid: Option<u32>,
    /// The highest that was seen.
    pub(crate) sockets: Sockets,
    /// Its trunks while all streams were open.
    pub(crate) trunks: usize,
    /// Streams that it carried then, local ones too.
    pub(crate) streams: usize,
}

/// Why a node could not be seen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObserveError {
    /// /proc does not tell.
    #[error("cannot count the sockets of {node} (pid {pid}): {source}")]
    Sockets {
        /// Which node.
        node: String,
        /// Its process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The admin socket does not answer.
    #[error("cannot reach the admin socket of {node}: {source}")]
    Unreachable {
        /// Which node.
        node: String,
        /// Why.
        source: transport::Error,
    },
    /// The admin service refuses.
    #[error("{node} does not tell its status: {status}", status = status.message())]
    Refused {
        /// Which node.
        node: String,
        /// Why.
        status: Box<tonic::Status>,
    },
}

/// Looks at every node while all streams are open.
pub(crate) async fn look(nodes: &[Node], folder: &Path) -> Result<Vec<NodeView>, ObserveError> {
    let mut views = Vec::new();
    for node in nodes {
        let sockets = count(&node.id, node.pid)?;
        let status = status(node, folder).await?;
        let trunks = status.trunks.iter().filter(|trunk| trunk.current).count();
        let (id, pid) = (node.id.clone(), Some(node.pid));
        views.push(NodeView { id, pid, sockets, trunks, streams: status.streams.len() });
    }
    Ok(views)
}

/// Counts the sockets of the nodes that have a process once more, and keeps the higher figures.
pub(crate) fn look_again(seen: &mut [NodeView]) -> Result<(), ObserveError> {
    for view in seen {
        if let Some(pid) = view.pid {
            view.sockets = view.sockets.max(count(&view.id, pid)?);
        }
    }
    Ok(())
}

fn count(node: &str, pid: u32) -> Result<Sockets, ObserveError> {
    Sockets::of(pid).map_err(|source| ObserveError::Sockets { node: node.to_owned(), pid, source })
}

async fn status(node: &Node, folder: &Path) -> Result<StatusResponse, ObserveError> {
    let unreachable = |source| ObserveError::Unreachable { node: node.id.clone(), source };
    let socket = format!("unix://{}", admin_socket(folder, &node.id).display());
    let channel = Endpoint::from_shared(socket).map_err(unreachable)?.connect().await.map_err(unreachable)?;
    let mut admin = AdminClient::new(channel).max_decoding_message_size(STATUS_BYTES_MAX);
    let response = admin.status(StatusRequest::default()).await;
    let refused = |status| ObserveError::Refused { node: node.id.clone(), status: Box::new(status) };
    Ok(response.map_err(refused)?.into_inner())
}
