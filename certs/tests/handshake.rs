//! Who gets in, in either role, and what the operator reads about those who do not. The handshakes are rustls's own
//! for QUIC, over buffers; errors are handed on as quinn does, as an alert number and a text.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{BOTH, Cluster, Eku, node};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    quic::{ClientConnection, Connection, ServerConnection, Version},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use trunkline_certs::{ALPN, Identity, NodeFiles, RaisedBy, SERVER_NAME, explain, explain_alert, peer_identity};

/// A peer that plays by no rules: it believes everybody and presents what it likes.
struct Rogue {
    presents: Option<Arc<CertifiedKey>>,
    speaks: Vec<Vec<u8>>,
}

impl Rogue {
    fn new(files: &NodeFiles) -> Self {
        Self::with_key(files, files)
    }

    fn with_key(certificate: &NodeFiles, key: &NodeFiles) -> Self {
        let certificate = CertificateDer::from_pem_slice(certificate.certificate_pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.key_pem.as_bytes()).unwrap();
        let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).unwrap();
        let presents = Some(Arc::new(CertifiedKey::new(vec![certificate], key)));
        Self { presents, speaks: vec![ALPN.to_vec()] }
    }

    fn anonymous() -> Self {
        Self { presents: None, speaks: vec![ALPN.to_vec()] }
    }

    fn client(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(provider)));
        let mut config = match &self.presents {
            Some(presents) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(presents)))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.speaks.clone();
        Arc::new(config)
    }

    fn server(&self) -> Arc<ServerConfig> {
        let presents = Arc::clone(self.presents.as_ref().unwrap());
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(presents)));
        config.alpn_protocols = self.speaks.clone();
        Arc::new(config)
    }
}

#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How a handshake ended.
enum Ended {
    Complete { client: Box<Connection>, server: Box<Connection> },
    Refused { by_server: bool, alert: u8, error: Error },
}

fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Ended {
    let name = SERVER_NAME.try_into().unwrap();
    let mut client = Connection::Client(ClientConnection::new(client, Version::V1, name, b"params".to_vec()).unwrap());
    let mut server = Connection::Server(ServerConnection::new(server, Version::V1, b"params".to_vec()).unwrap());
    loop {
        let mut moved = false;
        for by_server in [true, false] {
            let (from, to) = if by_server { (&mut client, &mut server) } else { (&mut server, &mut client) };
            loop {
                let mut flight = Vec::new();
                let keys = from.write_hs(&mut flight);
                if flight.is_empty() && keys.is_none() {
                    break;
                }
                moved = true;
                if let Err(error) = to.read_hs(&flight) {
                    let alert = to.alert().expect("a refusal has an alert").into();
                    return Ended::Refused { by_server, alert, error };
                }
            }
        }
        if !moved {
            assert!(!client.is_handshaking() && !server.is_handshaking(), "the handshake is stuck");
            return Ended::Complete { client: client.into(), server: server.into() };
        }
    }
}

/// Checks that the honest end refuses and says `sentence`, from the error as from the alert that it becomes.
#[track_caller]
fn assert_refused(ended: Ended, refused_by_server: bool, sentence: &str) {
    let Ended::Refused { by_server, alert, error } = ended else { panic!("let in, instead of: {sentence}") };
    assert_eq!(by_server, refused_by_server, "the wrong end refused: {error}");
    assert_eq!(explain(&error), sentence);
    // quinn: TransportError { code: 0x100 | alert, reason: error.to_string() }.
    assert_eq!(explain_alert(RaisedBy::Us, alert, &error.to_string()), sentence);
    let told = explain_alert(RaisedBy::Peer, alert, &error.to_string());
    if sentence.starts_with("its certificate") {
        assert_eq!(told, format!("it refused our certificate; it said \"{sentence}\""));
    }
}

/// Lets `rogue` dial an honest node, and be dialled by one as `node-b`; both must refuse it with the same sentence.
#[track_caller]
fn assert_refused_in_both_roles(cluster: &Cluster, rogue: &Rogue, sentence: &str) {
    let honest = cluster.identity("node-a");
    assert_refused(handshake(rogue.client(), honest.server_config()), true, sentence);
    assert_refused(handshake(honest.client_config(&node("node-b")), rogue.server()), false, sentence);
}

#[test]
fn two_nodes_of_a_cluster_meet_and_each_knows_who_the_other_is() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.identity("node-a"), cluster.identity("node-b"));
    let Ended::Complete { client, server } = handshake(a.client_config(b.node_id()), b.server_config()) else {
        panic!("refused")
    };
    let seen = peer_identity(client.peer_certificates().unwrap()).unwrap();
    assert_eq!((&seen.cluster, &seen.node, seen.fingerprint), (b.cluster(), b.node_id(), b.fingerprint()));
    assert_eq!(seen.not_after, b.not_after());
    assert_eq!(peer_identity(server.peer_certificates().unwrap()).unwrap().node, *a.node_id());
    for end in [&client, &server] {
        assert_eq!(end.alpn_protocol(), Some(ALPN));
        assert_eq!(end.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}

#[test]
fn a_rogue_with_a_good_certificate_gets_in_so_that_the_refusals_below_mean_something() {
    let cluster = Cluster::new();
    let honest = cluster.identity("node-a");
    let rogue = Rogue::new(&cluster.files("node-b"));
    assert!(matches!(handshake(rogue.client(), honest.server_config()), Ended::Complete { .. }));
    let ended = handshake(honest.client_config(&node("node-b")), rogue.server());
    assert!(matches!(ended, Ended::Complete { .. }));
}

#[test]
fn a_crafted_certificate_gets_in_when_all_of_it_is_right() {
    let cluster = Cluster::new();
    let honest = cluster.identity("node-a");
    let uris = ["https://elsewhere.example/node-b", "trunkline://demo/node/node-b"];
    let rogue = Rogue::new(&cluster.crafted(&uris, &BOTH));
    assert!(matches!(handshake(rogue.client(), honest.server_config()), Ended::Complete { .. }));
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let (cluster, foreign) = (Cluster::new(), Cluster::new());
    let rogue = Rogue::new(&foreign.files("node-b"));
    assert_refused_in_both_roles(&cluster, &rogue, "its certificate was signed by another CA");
}

#[test]
fn a_certificate_of_a_ca_with_another_name_is_refused() {
    let cluster = Cluster::new();
    let foreign = trunkline_certs::Authority::create(&"other".parse().unwrap()).unwrap();
    let rogue = Rogue::new(&foreign.issue_node(&Cluster::request("node-b")).unwrap());
    assert_refused_in_both_roles(&cluster, &rogue, "its certificate was signed by another CA");
}

#[test]
fn a_node_of_another_cluster_under_the_same_ca_is_refused() {
    let cluster = Cluster::new();
    let rogue = Rogue::new(&cluster.crafted(&["trunkline://other/node/node-b"], &BOTH));
    assert_refused_in_both_roles(&cluster, &rogue, "it belongs to cluster other, this one is demo");
}

#[test]
fn another_node_than_the_one_that_was_dialled_is_refused() {
    let cluster = Cluster::new();
    let (a, c) = (cluster.identity("node-a"), cluster.identity("node-c"));
    let ended = handshake(a.client_config(&node("node-b")), c.server_config());
    assert_refused(ended, false, "it is node-c, but node-b was dialled");
}

#[test]
fn an_expired_certificate_is_refused_with_its_date() {
    let cluster = Cluster::new();
    let files = cluster.dated("node-b", -3, -1);
    let earlier = std::time::SystemTime::now() - 2 * common::HOUR;
    let not_after = Identity::from_files_at(&files, earlier).unwrap().not_after();
    let sentence = format!("its certificate expired on {}", trunkline_certs::date(not_after));
    assert_refused_in_both_roles(&cluster, &Rogue::new(&files), &sentence);
}

#[test]
fn a_certificate_that_begins_later_is_refused() {
    let cluster = Cluster::new();
    let files = cluster.dated("node-b", 1, 3);
    let honest = cluster.identity("node-a");
    let Ended::Refused { error, .. } = handshake(Rogue::new(&files).client(), honest.server_config()) else {
        panic!("let in")
    };
    let sentence = explain(&error);
    assert!(sentence.starts_with("its certificate is not yet valid: it begins on 20"), "{sentence}");
    assert_refused_in_both_roles(&cluster, &Rogue::new(&files), &sentence);
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    let honest = Cluster::new().identity("node-a");
    let ended = handshake(Rogue::anonymous().client(), honest.server_config());
    assert_refused(ended, true, "it presented no certificate");
}

#[test]
fn a_certificate_without_a_name_of_ours_is_refused() {
    let cluster = Cluster::new();
    for uris in [&[][..], &["https://demo/node/node-b"]] {
        let rogue = Rogue::new(&cluster.crafted(uris, &BOTH));
        let sentence = "its certificate carries no trunkline://CLUSTER/node/ID name";
        assert_refused_in_both_roles(&cluster, &rogue, sentence);
    }
}

#[test]
fn a_certificate_with_two_names_is_refused() {
    let cluster = Cluster::new();
    let uris = ["trunkline://demo/node/node-b", "trunkline://demo/node/node-c"];
    let sentence = format!("its certificate carries more than one name: {} and {}", uris[0], uris[1]);
    assert_refused_in_both_roles(&cluster, &Rogue::new(&cluster.crafted(&uris, &BOTH)), &sentence);
}

#[test]
fn a_certificate_for_another_role_is_refused() {
    let cluster = Cluster::new();
    let rogue = Rogue::new(&cluster.crafted(&["trunkline://demo/admin/node-b"], &BOTH));
    let sentence = "its certificate was issued for the role \"admin\", not for a node";
    assert_refused_in_both_roles(&cluster, &rogue, sentence);
}

#[test]
fn a_certificate_that_is_not_for_this_use_is_refused() {
    let cluster = Cluster::new();
    let honest = cluster.identity("node-a");
    let uri = ["trunkline://demo/node/node-b"];
    for usages in [&[][..], &[Eku::ServerAuth], &[Eku::CodeSigning]] {
        let rogue = Rogue::new(&cluster.crafted(&uri, usages));
        let ended = handshake(rogue.client(), honest.server_config());
        assert_refused(ended, true, "its certificate is not usable for client authentication");
    }
    for usages in [&[][..], &[Eku::ClientAuth], &[Eku::CodeSigning]] {
        let rogue = Rogue::new(&cluster.crafted(&uri, usages));
        let ended = handshake(honest.client_config(&node("node-b")), rogue.server());
        assert_refused(ended, false, "its certificate is not usable for server authentication");
    }
}

#[test]
fn the_ca_itself_is_no_node() {
    let cluster = Cluster::new();
    let read = |name| std::fs::read_to_string(cluster.folder.path().join(name)).unwrap();
    let certificate_pem = read("ca.pem");
    let files = NodeFiles { trust_pem: certificate_pem.clone(), certificate_pem, key_pem: read("ca.key") };
    let sentence = "its certificate was refused: it is a CA's certificate, not a node's";
    assert_refused_in_both_roles(&cluster, &Rogue::new(&files), sentence);
}

#[test]
fn a_copied_certificate_without_its_key_is_refused() {
    let cluster = Cluster::new();
    let rogue = Rogue::with_key(&cluster.files("node-b"), &cluster.files("node-c"));
    let sentence = "it does not hold the key of the certificate that it presented";
    assert_refused_in_both_roles(&cluster, &rogue, sentence);
}

#[test]
fn a_peer_that_speaks_another_protocol_is_refused() {
    let cluster = Cluster::new();
    let honest = cluster.identity("node-a");
    for speaks in [vec![], vec![b"trunkline/2".to_vec()], vec![b"h3".to_vec()]] {
        let rogue = Rogue { speaks, ..Rogue::new(&cluster.files("node-b")) };
        let ended = handshake(rogue.client(), honest.server_config());
        assert_refused(ended, true, "it does not speak trunkline/1");
    }
    // The other way round it is the peer that refuses, and its alert that is explained.
    let rogue = Rogue { speaks: vec![b"trunkline/2".to_vec()], ..Rogue::new(&cluster.files("node-b")) };
    let ended = handshake(honest.client_config(&node("node-b")), rogue.server());
    let Ended::Refused { by_server: true, alert, error } = ended else { panic!("let in, or refused by the client") };
    let told = explain_alert(RaisedBy::Peer, alert, &error.to_string());
    assert_eq!(told, "it does not speak trunkline/1");
}

#[test]
fn the_first_flight_of_a_dial_fits_into_one_datagram() {
    let config = Cluster::new().identity("node-a").client_config(&node("node-b"));
    // QUIC's own transport parameters are well under 200 bytes.
    let name = SERVER_NAME.try_into().unwrap();
    let mut client = ClientConnection::new(config, Version::V1, name, vec![0; 200]).unwrap();
    let mut flight = Vec::new();
    client.write_hs(&mut flight);
    assert!(flight.len() < 900, "{} bytes, of which an Initial of 1200 has room for about 1100", flight.len());
}

#[test]
fn nothing_is_resumed_and_nothing_is_sent_early() {
    let identity = Cluster::new().identity("node-a");
    let (server, client) = (identity.server_config(), identity.client_config(&node("node-b")));
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
    assert!(!server.session_storage.can_cache() && !server.ticketer.enabled());
    assert!(!client.enable_early_data);
}
