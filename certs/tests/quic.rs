//! The same over real QUIC connections: quinn takes the configurations, and the sentence about a refusal reaches
//! the logs of both ends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{Cluster, node};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, ServerConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use trunkline_certs::{Identity, RaisedBy, SERVER_NAME, explain_alert, peer_identity};
use trunkline_proto::id::NodeId;

/// One node dials another on this machine. What either end has of it: a connection, or what ended it.
async fn dial(from: &Identity, meant: &NodeId, to: &Identity) -> [Result<Connection, ConnectionError>; 2] {
    let server = QuicServerConfig::try_from(to.server_config()).unwrap();
    let server = Endpoint::server(ServerConfig::with_crypto(Arc::new(server)), "127.0.0.1:0".parse().unwrap()).unwrap();
    let client = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = QuicClientConfig::try_from(from.client_config(meant)).unwrap();
    let address = server.local_addr().unwrap();
    let dialling = client.connect_with(ClientConfig::new(Arc::new(config)), address, SERVER_NAME).unwrap();
    let accepting = async { server.accept().await.unwrap().await };
    let (dialled, accepted) = tokio::join!(dialling, accepting);
    // The dialling end is done before the other one has seen its certificate, so it may learn of a refusal later.
    let dialled = match (dialled, &accepted) {
        (Ok(connection), Err(_)) => Err(connection.closed().await),
        (dialled, _) => dialled,
    };
    [dialled, accepted]
}

fn run<T>(task: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task)
}

/// As a node does it.
#[track_caller]
fn explained(ended: Result<Connection, ConnectionError>) -> String {
    let (raised_by, code, reason) = match ended.unwrap_err() {
        ConnectionError::TransportError(error) => (RaisedBy::Us, u64::from(error.code), error.reason),
        ConnectionError::ConnectionClosed(close) => {
            (RaisedBy::Peer, u64::from(close.error_code), String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("{other}"),
    };
    assert_eq!(code & !0xff, 0x100, "{code:#x} is not a CRYPTO_ERROR");
    explain_alert(raised_by, u8::try_from(code & 0xff).unwrap(), &reason)
}

#[test]
fn two_nodes_of_a_cluster_connect() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.identity("node-a"), cluster.identity("node-b"));
    let ends = run(dial(&a, b.node_id(), &b)).map(Result::unwrap);
    let seen = ends.map(|end| {
        let certificates =
            end.peer_identity().unwrap().downcast::<Vec<rustls::pki_types::CertificateDer<'_>>>().unwrap();
        peer_identity(&certificates).unwrap().node
    });
    assert_eq!(seen, [node("node-b"), node("node-a")]);
}

#[test]
fn the_node_that_dials_says_why_it_refuses_and_the_other_hears_it() {
    let cluster = Cluster::new();
    let (a, c) = (cluster.identity("node-a"), cluster.identity("node-c"));
    let [dialled, accepted] = run(dial(&a, &node("node-b"), &c)).map(explained);
    assert_eq!(dialled, "it is node-c, but node-b was dialled");
    assert_eq!(accepted, format!("it refused our certificate; it said \"{dialled}\""));
}

#[test]
fn the_node_that_is_dialled_says_why_it_refuses_and_the_other_hears_it() {
    let cluster = Cluster::new();
    let files = cluster.dated("node-a", -3, -1);
    let a = Identity::from_files_at(&files, std::time::SystemTime::now() - 2 * common::HOUR).unwrap();
    let b = cluster.identity("node-b");
    let [dialled, accepted] = run(dial(&a, b.node_id(), &b)).map(explained);
    assert_eq!(accepted, format!("its certificate expired on {}", trunkline_certs::date(a.not_after())));
    assert_eq!(dialled, format!("it refused our certificate; it said \"{accepted}\""));
}
