//! What a node says of itself on its admin socket.

use std::{io, path::Path};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use trunkline::{ConsumerName, JobName, NodeId, ProducerName};
use trunkline_proto::admin::{StatusRequest, StatusResponse, Stream, StreamsRequest, admin_client::AdminClient};

use crate::{arguments::StreamFilter, failure::Failure};

/// The longest answer that is read: some hundred bytes for each trunk, process and parked open.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Everything but the streams, which may be many.
pub(crate) async fn status(socket: &Path) -> Result<StatusResponse, Failure> {
    let mut client = AdminClient::new(connect(socket).await?).max_decoding_message_size(ANSWER_BYTES_MAX);
    let asked = client.status(StatusRequest { omit_streams: true }).await;
    Ok(asked.map_err(|status| Failure::no_admin(socket, status.message()))?.into_inner())
}

/// The streams that the filter lets through.
pub(crate) async fn streams(socket: &Path, filter: &StreamFilter) -> Result<Vec<Stream>, Failure> {
    let refused = |status: tonic::Status| Failure::no_admin(socket, status.message());
    let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
    let request = StreamsRequest {
        job: name(filter.job.as_ref().map(JobName::as_str)),
        producer: name(filter.producer.as_ref().map(ProducerName::as_str)),
        consumer: name(filter.consumer.as_ref().map(ConsumerName::as_str)),
        peer: name(filter.peer.as_ref().map(NodeId::as_str)),
    };
    let mut client = AdminClient::new(connect(socket).await?);
    let mut chunks = client.streams(request).await.map_err(refused)?.into_inner();
    let mut streams = Vec::new();
    while let Some(chunk) = chunks.message().await.map_err(refused)? {
        streams.extend(chunk.streams);
    }
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
