//! The admin endpoint: gRPC on a unix socket, with the health and reflection services that users of gRPC expect.
//!
//! The node's state stays on its own task. A question travels there with the sender of its answer, and comes back.

use std::{future::pending, io, sync::Arc, time::Duration};

use futures_util::stream::try_unfold;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, codegen::BoxStream, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};
use trunkline_proto::{
    DESCRIPTORS,
    admin::{
        StatusRequest, StatusResponse, Stream, StreamsRequest, StreamsResponse,
        admin_server::{Admin, AdminServer, SERVICE_NAME},
    },
};

use crate::link::{
    credentials::{Allowed, Denied, Peer},
    socket::BoundSocket,
};

/// How long a question may wait for the node. Then it fails with `DEADLINE_EXCEEDED`.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long calls that are under way at a stop may take to end. Health watches never end by themselves.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// Accepted connections that wait for the server to take them up. When they are that many, accepting waits.
const ACCEPTED_MAX: usize = 16;

/// Calls at once on one connection. Further ones wait in the client.
const CALLS_PER_CONNECTION_MAX: u32 = 64;

/// What the node is asked; whoever receives it answers into the sender.
#[derive(Debug)]
pub(crate) enum Question {
    /// Its state now.
    Status(StatusRequest, oneshot::Sender<StatusResponse>),
    /// One step of a listing of its streams.
    Streams(Arc<StreamsRequest>, Cursor, oneshot::Sender<Page>),
}

/// How far a listing of streams has come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cursor {
    /// The lowest number of a relay that has not been looked at.
    pub(crate) first: u64,
    /// The youngest relay when the listing began; `None` before its first step.
    pub(crate) last: Option<u64>,
}

/// What one step of a listing found.
#[derive(Debug)]
pub(crate) struct Page {
    /// May be none, though there is more to look at.
    pub(crate) streams: Vec<Stream>,
    /// Where to go on; `None` at the end.
    pub(crate) next: Option<Cursor>,
}

/// Why the admin endpoint does not serve, or serves no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// The descriptors of the services do not fit together.
    #[error("the reflection service cannot be made: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server gave up.
    #[error("the admin endpoint failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Serves `socket` until `stop`, to root and to the daemon's own user. Health is `NOT_SERVING` while `draining`. Who is
/// not served is cut off, and `denied` hears of it.
///
/// Connections that outlast a stop by [`STOP_GRACE`] end with the runtime.
///
/// # Errors
/// [`AdminError`].
pub(crate) async fn serve(
    socket: BoundSocket,
    questions: mpsc::Sender<Question>,
    denied: impl Fn(Peer, &Denied),
    draining: watch::Receiver<bool>,
    stop: impl Future<Output = ()>,
) -> Result<(), AdminError> {
    let health = HealthReporter::new();
    let (accepted, connections) = mpsc::channel(ACCEPTED_MAX);
    let (stopping, stopped) = oneshot::channel();
    let server = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .add_service(AdminServer::new(Service { questions }))
        .add_service(tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(health.clone()),
        ))
        .add_service(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .build_v1()?,
        )
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async {
            stop.await;
            let _ = stopping.send(());
        });
    tokio::select! {
        served = server => Ok(served?),
        never = accept(&socket, denied, accepted) => never,
        never = tell_health(health, draining) => never,
        () = async { stopped.await.ok(); sleep(STOP_GRACE).await } => Ok(()),
    }
}

/// Passes on the connections of those who may, until nobody takes them up. Never ends: the server says when.
async fn accept(
    socket: &BoundSocket,
    denied: impl Fn(Peer, &Denied),
    accepted: mpsc::Sender<io::Result<UnixStream>>,
) -> ! {
    let allowed = Allowed::to_administer();
    loop {
        let (stream, peer) = socket.accept().await;
        match allowed.check(peer) {
            Ok(()) if accepted.send(Ok(stream)).await.is_err() => break,
            Ok(()) => {}
            Err(why) => denied(peer, &why),
        }
    }
    pending().await
}

/// Never ends: the last word about a node that is gone stays.
async fn tell_health(health: HealthReporter, mut draining: watch::Receiver<bool>) -> ! {
    loop {
        let status = if *draining.borrow_and_update() { ServingStatus::NotServing } else { ServingStatus::Serving };
        for service in ["", SERVICE_NAME] {
            health.set_service_status(service, status).await;
        }
        if draining.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}

#[derive(Clone)]
struct Service {
    questions: mpsc::Sender<Question>,
}

impl Service {
    /// Puts a question to the node and waits for the answer.
    async fn ask<A>(&self, question: impl FnOnce(oneshot::Sender<A>) -> Question) -> Result<A, Status> {
        let (asker, answered) = oneshot::channel();
        let ask = async {
            self.questions.send(question(asker)).await.ok()?;
            answered.await.ok()
        };
        match timeout(ANSWER_TIMEOUT, ask).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Status::unavailable("the node has stopped")),
            Err(_) => Err(Status::deadline_exceeded("the node did not answer in time")),
        }
    }

    /// The next chunk of a listing that is not empty, and where to go on.
    async fn chunk(
        self,
        request: Arc<StreamsRequest>,
        mut cursor: Option<Cursor>,
    ) -> Result<Option<(StreamsResponse, Option<Cursor>)>, Status> {
        while let Some(from) = cursor {
            let request = Arc::clone(&request);
            let page = self.ask(|asker| Question::Streams(request, from, asker)).await?;
            if !page.streams.is_empty() {
                return Ok(Some((StreamsResponse { streams: page.streams }, page.next)));
            }
            cursor = page.next;
        }
        Ok(None)
    }
}

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.ask(|asker| Question::Status(request, asker)).await?))
    }

    type StreamsStream = BoxStream<StreamsResponse>;

    async fn streams(&self, request: Request<StreamsRequest>) -> Result<Response<Self::StreamsStream>, Status> {
        let request = Arc::new(request.into_inner());
        let service = self.clone();
        let chunks =
            try_unfold(Some(Cursor::default()), move |cursor| service.clone().chunk(Arc::clone(&request), cursor));
        Ok(Response::new(Box::pin(chunks)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use hyper_util::rt::TokioIo;
    use tokio::task::JoinHandle;
    use tonic::transport::{Channel, Endpoint};
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus as Health, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    use trunkline_proto::admin::admin_client::AdminClient;

    use super::*;
    use crate::link::socket::bind_unix;

    /// An endpoint whose node answers every question with its name.
    struct Served {
        _folder: tempfile::TempDir,
        path: PathBuf,
        draining: watch::Sender<bool>,
        stop: oneshot::Sender<()>,
        node: JoinHandle<()>,
        server: JoinHandle<Result<(), AdminError>>,
    }

    fn start() -> Served {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let socket = bind_unix(&path, 0o600).unwrap();
        let (draining, is_draining) = watch::channel(false);
        let (stop, stopped) = oneshot::channel::<()>();
        let (questions, mut asked) = mpsc::channel(1);
        let node = tokio::spawn(async move {
            while let Some(question) = asked.recv().await {
                let Question::Status(_, asker) = question else { continue };
                let _ = asker.send(StatusResponse { node: "node-a".into(), ..StatusResponse::default() });
            }
        });
        let server =
            tokio::spawn(serve(socket, questions, |_, _| {}, is_draining, async { stopped.await.unwrap_or(()) }));
        Served { _folder: folder, path, draining, stop, node, server }
    }

    async fn connect(path: &std::path::Path) -> Channel {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        Endpoint::from_static("http://node").connect_with_connector(connector).await.unwrap()
    }

    async fn health(client: &mut HealthClient<Channel>, service: &str) -> Health {
        client.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner().status()
    }

    #[tokio::test]
    async fn status_is_what_the_node_answers() {
        let served = start();
        let mut client = AdminClient::new(connect(&served.path).await);
        let response = client.status(StatusRequest::default()).await.unwrap().into_inner();
        assert_eq!(response.node, "node-a");
        served.node.abort();
        assert!(served.node.await.unwrap_err().is_cancelled());
        let refused = client.status(StatusRequest::default()).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (tonic::Code::Unavailable, "the node has stopped"));
    }

    #[tokio::test]
    async fn health_is_serving_until_the_node_drains() {
        let served = start();
        let mut client = HealthClient::new(connect(&served.path).await);
        for service in ["", SERVICE_NAME] {
            assert_eq!(health(&mut client, service).await, Health::Serving);
        }
        let watched = HealthCheckRequest { service: SERVICE_NAME.into() };
        let mut changes = client.watch(watched).await.unwrap().into_inner();
        assert_eq!(changes.message().await.unwrap().unwrap().status(), Health::Serving);
        served.draining.send(true).unwrap();
        assert_eq!(changes.message().await.unwrap().unwrap().status(), Health::NotServing);
        for service in ["", SERVICE_NAME] {
            assert_eq!(health(&mut client, service).await, Health::NotServing);
        }
    }

    #[tokio::test]
    async fn reflection_lists_all_three_services() {
        let served = start();
        let mut client = ServerReflectionClient::new(connect(&served.path).await);
        let list = MessageRequest::ListServices(String::new());
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
        let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
        let mut names: Vec<_> = services.service.into_iter().map(|service| service.name).collect();
        names.sort();
        assert_eq!(names, ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", SERVICE_NAME]);
    }

    #[tokio::test]
    async fn a_stop_ends_it_though_somebody_watches_and_frees_the_path() {
        let served = start();
        let mut client = HealthClient::new(connect(&served.path).await);
        let mut changes = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        changes.message().await.unwrap().unwrap();
        served.stop.send(()).unwrap();
        timeout(STOP_GRACE * 20, served.server).await.unwrap().unwrap().unwrap();
        assert!(!served.path.exists());
    }
}
