//! Peers that are no daemons: they present which certificate they like, believe everybody, and say what a test tells
//! them to.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::BytesMut;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, ReadError, RecvStream, SendStream, ServerConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use trunkline_certs::{ALPN, NodeFiles, SERVER_NAME};
use trunkline_proto::{
    code::Code,
    frame::{Decoder, Frame},
    message::{Abort, TrunkHello},
    version::Offer,
};

use crate::cluster::Cluster;

/// Both usages, as a node's certificate has them.
pub const NODE_USAGES: [ExtendedKeyUsagePurpose; 2] =
    [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];

/// Files with a certificate that the cluster's CA has signed and that says whatever it is told to: what no honest CA
/// would issue.
///
/// # Panics
/// When a URI is none.
#[must_use]
pub fn crafted(cluster: &Cluster, uris: &[&str], usages: &[ExtendedKeyUsagePurpose]) -> NodeFiles {
    let read = |name| fs::read_to_string(cluster.ca_folder().join(name)).expect("the CA's files");
    let authority = KeyPair::from_pem(&read("ca.key")).expect("the CA's key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), authority).expect("the CA's certificate");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "crafted");
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("a URI"))).collect();
    params.extended_key_usages = usages.to_vec();
    NodeFiles {
        certificate_pem: params.signed_by(&key, &issuer).expect("a certificate").pem(),
        key_pem: key.serialize_pem(),
        trust_pem: cluster.authority().certificate_pem().to_owned(),
    }
}

/// A UDP port and how it does TLS.
#[derive(Debug)]
pub struct Stranger {
    endpoint: Endpoint,
}

impl Stranger {
    /// One that dials with the certificate of `files`, or with none, and speaks `alpn`.
    ///
    /// # Panics
    /// When the files hold no certificate and key.
    #[must_use]
    pub fn dialler(files: Option<&NodeFiles>, alpn: &[u8]) -> Self {
        let provider = provider();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(provider)));
        let mut tls = match files {
            Some(files) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(files)))),
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let quic = QuicClientConfig::try_from(tls).expect("TLS 1.3");
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(quic)));
        Self { endpoint }
    }

    /// One with a good certificate of the cluster, for the node `id`.
    ///
    /// # Panics
    /// When `id` is no node's id.
    #[must_use]
    pub fn member(cluster: &Cluster, id: &str) -> Self {
        Self::dialler(Some(&member_files(cluster, id)), ALPN)
    }

    /// One that is dialled, and presents the certificate of `files` to whoever comes.
    ///
    /// # Panics
    /// When the files hold no certificate and key.
    #[must_use]
    pub fn server(files: &NodeFiles) -> Self {
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(files))));
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let quic = QuicServerConfig::try_from(tls).expect("TLS 1.3");
        let config = ServerConfig::with_crypto(Arc::new(quic));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        Self { endpoint }
    }

    /// Where it is dialled.
    ///
    /// # Panics
    /// Never: its port is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("a bound socket has an address")
    }

    /// Accepts whoever comes, and says nothing. Returns how many dials failed once the first `dials` have ended.
    ///
    /// # Panics
    /// When the endpoint is closed.
    pub async fn failed_dials(&self, dials: usize) -> usize {
        let mut failed = 0;
        for _ in 0..dials {
            let incoming = self.endpoint.accept().await.expect("a dial");
            let ended = match incoming.await {
                Ok(connection) => connection.closed().await,
                Err(error) => error,
            };
            failed += usize::from(matches!(ended, ConnectionError::ConnectionClosed(_)));
        }
        failed
    }

    /// Dials.
    ///
    /// # Errors
    /// Why it is refused, as far as the handshake tells the dialler.
    ///
    /// # Panics
    /// When it cannot dial at all.
    pub async fn dial(&self, to: SocketAddr) -> Result<Connection, ConnectionError> {
        self.endpoint.connect(to, SERVER_NAME).expect("the settings are good").await
    }

    /// Dials, and waits for the end: a dialler's handshake is complete before the other side has seen its certificate.
    pub async fn dial_to_the_end(&self, to: SocketAddr) -> ConnectionError {
        match self.dial(to).await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    }

    /// Sends the first packets of a handshake, and never another. What it returns keeps the handshake half open.
    ///
    /// # Panics
    /// When it cannot dial at all.
    #[must_use]
    pub fn begin_dial(&self, to: SocketAddr) -> quinn::Connecting {
        self.endpoint.connect(to, SERVER_NAME).expect("the settings are good")
    }

    /// Dials and greets like a node.
    ///
    /// # Panics
    /// When it is not taken for the trunk.
    pub async fn attach(&self, to: SocketAddr) -> Trunk {
        let connection = self.dial(to).await.expect("connected");
        let mut trunk = Trunk::open(connection).await;
        trunk.say(&hello().into()).await;
        let Some(Frame::TrunkHello(_)) = trunk.hear().await else { panic!("no HELLO") };
        trunk
    }
}

/// A member's files.
///
/// # Panics
/// When `id` is no node's id.
#[must_use]
pub fn member_files(cluster: &Cluster, id: &str) -> NodeFiles {
    let request = trunkline_certs::NodeRequest::new(id.parse().expect("a node's id"));
    cluster.authority().issue_node(&request).expect("a certificate")
}

/// A HELLO like a node's that dials for the first time.
#[must_use]
pub fn hello() -> TrunkHello {
    TrunkHello { offer: Offer::ours(), software: "stranger".to_owned(), boot_id: 1, dial: 1, dials_begun: 1 }
}

/// A connection and its control stream, without rules.
#[derive(Debug)]
pub struct Trunk {
    /// The connection.
    pub connection: Connection,
    /// The control stream.
    pub control: Channel,
}

impl Trunk {
    /// Opens the control stream and says nothing yet.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn open(connection: Connection) -> Self {
        let control = Channel::open(&connection).await;
        Self { connection, control }
    }

    /// Writes a frame to the control stream.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn say(&mut self, frame: &Frame) {
        self.control.say(frame).await;
    }

    /// The next frame of the control stream; `None` when nothing more comes.
    pub async fn hear(&mut self) -> Option<Frame> {
        self.control.hear().await.unwrap_or_default()
    }

    /// The next ABORT on the control stream, for `stream`.
    ///
    /// # Panics
    /// When none comes.
    pub async fn hear_abort(&mut self, stream: u64) -> Abort {
        loop {
            match self.hear().await.expect("an ABORT") {
                Frame::Abort(abort) if abort.stream == stream => return abort,
                _ => {}
            }
        }
    }

    /// With which code the node closes the connection.
    ///
    /// # Panics
    /// When it ends otherwise.
    pub async fn closed(&self) -> Code {
        closed_with(&self.connection.closed().await)
    }
}

/// The code of an orderly close by a node.
///
/// # Panics
/// When the connection ended otherwise.
#[must_use]
pub fn closed_with(error: &ConnectionError) -> Code {
    match error {
        ConnectionError::ApplicationClosed(close) => Code::from_wire(close.error_code.into()),
        other => panic!("{other:?}"),
    }
}

/// One bidirectional QUIC stream.
#[derive(Debug)]
pub struct Channel {
    /// What is written.
    pub send: SendStream,
    recv: RecvStream,
    decoder: Decoder,
}

impl Channel {
    /// The next stream of the connection.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn open(connection: &Connection) -> Self {
        let (send, recv) = connection.open_bi().await.expect("a stream");
        Self { send, recv, decoder: Decoder::default() }
    }

    /// Its QUIC stream id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.recv.id().into()
    }

    /// Writes a frame.
    ///
    /// # Panics
    /// When the stream or the connection is gone.
    pub async fn say(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.write(&bytes).await;
    }

    /// Writes any bytes.
    ///
    /// # Panics
    /// When the stream or the connection is gone.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.expect("the stream takes it");
    }

    /// The next frame, or the code with which the stream was reset; `None` at its end, or the connection's.
    ///
    /// # Errors
    /// The code of a reset.
    ///
    /// # Panics
    /// When what comes is no frame.
    pub async fn hear(&mut self) -> Result<Option<Frame>, Code> {
        loop {
            if let Some(frame) = self.decoder.next().expect("a frame") {
                return Ok(Some(frame));
            }
            match self.recv.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => self.decoder.buffer().extend_from_slice(&chunk.bytes),
                Ok(None) => return Ok(None),
                Err(ReadError::Reset(code)) => return Err(Code::from_wire(code.into())),
                Err(_) => return Ok(None),
            }
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certified(files: &NodeFiles) -> Arc<CertifiedKey> {
    let certificate = CertificateDer::from_pem_slice(files.certificate_pem.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(files.key_pem.as_bytes()).expect("a key");
    let key = provider().key_provider.load_private_key(key).expect("a usable key");
    Arc::new(CertifiedKey::new(vec![certificate], key))
}

/// Believes everybody.
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
