//! What a node says of itself on its admin socket.

use std::{io, path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use trunkline::{ConsumerName, JobName, NodeId, ProducerName};
use trunkline_proto::admin::{StatusRequest, StatusResponse, Stream, StreamsRequest, admin_client::AdminClient};

use crate::{arguments::StreamFilter, failure::Failure};

/// The longest answer that is read: some hundred bytes for each trunk, process and parked open.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// How long a node may keep an asker waiting for the next word. A node that answers at all needs milliseconds, and gives
/// up by itself after 10 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// Everything but the streams, which may be many.
pub(crate) async fn status(socket: &Path) -> Result<StatusResponse, Failure> {
    let mut client = in_time(socket, connect(socket)).await?.max_decoding_message_size(ANSWER_BYTES_MAX);
    let asked =
        async { client.status(StatusRequest { omit_streams: true }).await.map_err(|why| refused(socket, &why)) };
    let mut status = in_time(socket, asked).await?.into_inner();
    // An older node knows neither the wish nor the count, and lists them all.
    status.stream_count = status.stream_count.max(status.streams.len() as u64);
    Ok(status)
}

/// The streams that the filter lets through.
pub(crate) async fn streams(socket: &Path, filter: &StreamFilter) -> Result<Vec<Stream>, Failure> {
    let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
    let request = StreamsRequest {
        job: name(filter.job.as_ref().map(JobName::as_str)),
        producer: name(filter.producer.as_ref().map(ProducerName::as_str)),
        consumer: name(filter.consumer.as_ref().map(ConsumerName::as_str)),
        peer: name(filter.peer.as_ref().map(NodeId::as_str)),
    };
    let mut client = in_time(socket, connect(socket)).await?;
    let asked = async { client.streams(request).await.map_err(|why| refused(socket, &why)) };
    let mut chunks = in_time(socket, asked).await?.into_inner();
    let mut streams = Vec::new();
    while let Some(chunk) =
        in_time(socket, async { chunks.message().await.map_err(|why| refused(socket, &why)) }).await?
    {
        streams.extend(chunk.streams);
    }
    Ok(streams)
}

/// What the node's answer says, or why there is none within [`PATIENCE`].
async fn in_time<T>(socket: &Path, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Failure::no_admin(socket, format!("no answer within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, answer).await.map_err(late)?
}

fn refused(socket: &Path, status: &Status) -> Failure {
    match (status.code(), status.message()) {
        (Code::Unimplemented, _) => {
            Failure::no_admin(socket, "this node is older than this command, and cannot say that")
        }
        (code, "") => Failure::no_admin(socket, code.description()),
        (_, why) => Failure::no_admin(socket, why),
    }
}

async fn connect(socket: &Path) -> Result<AdminClient<Channel>, Failure> {
    // Once by hand: a path may hold what a URI may not, and the reason of a failure is the operating system's.
    let stream = UnixStream::connect(socket).await.map_err(|error| Failure::no_admin(socket, error.to_string()))?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        // Asked for another one, the first has ended: what listens there hung up.
        let stream = stream.take().ok_or_else(|| io::Error::other("what listens there is not a node's admin endpoint"));
        std::future::ready(stream)
    });
    let channel = Endpoint::from_static("http://node").connect_with_connector(connector).await;
    Ok(AdminClient::new(channel.map_err(|error| Failure::no_admin(socket, error.to_string()))?))
}
