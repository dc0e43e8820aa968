//! What a node says of itself on its admin socket.

use std::{io, path::Path};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use trunkline_proto::admin::{StatusRequest, StatusResponse, Stream, admin_client::AdminClient};

use crate::{arguments::StreamFilter, failure::Failure};

/// The longest answer that is read: some hundred bytes for each stream.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Everything.
pub(crate) async fn status(socket: &Path) -> Result<StatusResponse, Failure> {
    let mut client = AdminClient::new(connect(socket).await?).max_decoding_message_size(ANSWER_BYTES_MAX);
    let refused = |status: tonic::Status| Failure::no_admin(socket, status.message());
    Ok(client.status(StatusRequest {}).await.map_err(refused)?.into_inner())
}

/// The streams that the filter lets through.
pub(crate) async fn streams(socket: &Path, filter: &StreamFilter) -> Result<Vec<Stream>, Failure> {
    let mut streams = status(socket).await?.streams;
    streams.retain(|stream| {
        filter.job.as_ref().is_none_or(|job| job.as_str() == stream.job)
            && filter.consumer.as_ref().is_none_or(|consumer| consumer.as_str() == stream.consumer)
            && filter.producer.as_ref().is_none_or(|producer| producer.as_str() == stream.producer)
    });
    Ok(streams)
}

async fn connect(socket: &Path) -> Result<Channel, Failure> {
    // Once by hand: a path may hold what a URI may not, and the reason of a failure is the operating system's.
    let stream = UnixStream::connect(socket).await.map_err(|error| Failure::no_admin(socket, error.to_string()))?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    let channel = Endpoint::from_static("http://node").connect_with_connector(connector).await;
    channel.map_err(|error| Failure::no_admin(socket, error.to_string()))
}
