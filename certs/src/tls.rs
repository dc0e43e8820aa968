//! The TLS of a trunk: TLS 1.3, both ends authenticated, no early data, nothing resumed. What [`crate::Identity`]
//! hands out is made here.
//!
//! The crypto provider is passed explicitly and never taken from the process: an application that embeds a node, or
//! a dependency of it, may have installed another.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use trunkline_proto::id::{ClusterName, NodeId};

use crate::{
    certificate::PeerIdentity,
    refusal::PeerRefusal,
    trust::{Trust, Usage},
};

/// The application protocol of a trunk (RFC 7301), with the version of its wire.
pub const ALPN: &[u8] = b"trunkline/1";

/// What to give where a TLS library asks for the server's name. It is neither sent nor checked: a node is named by
/// its certificate, and the one that is meant was given to [`crate::Identity::client_config`].
pub const SERVER_NAME: &str = "trunkline";

/// What both ends compute with.
///
/// Key exchange is elliptic-curve only: the post-quantum shares are over a kilobyte long, and the first flight of a
/// handshake would no longer fit into one datagram. AES-128 comes first because it is the cheapest by the byte.
pub(crate) fn provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite, kx_group};
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    }
}

const TLS13_IS_THERE: &str = "the provider has cipher suites and groups for TLS 1.3";

pub(crate) fn server(own: &Arc<CertifiedKey>, trust: &Arc<Trust>, cluster: &ClusterName) -> ServerConfig {
    let verifier = PeerVerifier { trust: Arc::clone(trust), cluster: cluster.clone(), dialled: None };
    let mut config = ServerConfig::builder_with_provider(Arc::new(trust.provider().clone()))
        .with_protocol_versions(&[&TLS13])
        .expect(TLS13_IS_THERE)
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would outlive the certificates and the trust that it was checked against.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config
}

pub(crate) fn client(
    own: &Arc<CertifiedKey>,
    trust: &Arc<Trust>,
    cluster: &ClusterName,
    dialled: &NodeId,
) -> ClientConfig {
    let verifier = PeerVerifier { trust: Arc::clone(trust), cluster: cluster.clone(), dialled: Some(dialled.clone()) };
    let mut config = ClientConfig::builder_with_provider(Arc::new(trust.provider().clone()))
        .with_protocol_versions(&[&TLS13])
        .expect(TLS13_IS_THERE)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}

/// Checks the certificate of the other end, whichever end this is.
#[derive(Debug)]
struct PeerVerifier {
    trust: Arc<Trust>,
    cluster: ClusterName,
    /// The node that was meant; nobody in particular at the end that was dialled.
    dialled: Option<NodeId>,
}

impl PeerVerifier {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        usage: Usage,
        now: UnixTime,
    ) -> Result<PeerIdentity, PeerRefusal> {
        let peer = self.trust.check(certificate, usage, now)?;
        if peer.cluster != self.cluster {
            return Err(PeerRefusal::OtherCluster { theirs: peer.cluster, ours: self.cluster.clone() });
        }
        match &self.dialled {
            Some(dialled) if *dialled != peer.node => {
                Err(PeerRefusal::OtherNode { found: peer.node, dialled: dialled.clone() })
            }
            _ => Ok(peer),
        }
    }

    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Unreachable, since no version but 1.3 is offered; a refusal of its own would be one more thing to get wrong.
        let algorithms = &self.trust.provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.trust.provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, Usage::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A node has one certificate; hints would only lengthen the handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, Usage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
