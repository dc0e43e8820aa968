//! A node's own identity: its certificate, its key and the CAs it trusts, checked together before anything is served.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use aws_lc_rs::hkdf;
use rustls::{ClientConfig, InconsistentKeys, ServerConfig, pki_types::UnixTime, sign::CertifiedKey};
use trunkline_proto::id::{ClusterName, NodeId};

use crate::{
    certificate::{Fingerprint, PeerIdentity, date},
    files::{FileError, Source},
    node::{CERTIFICATE, KEY, NodeFiles, TRUST},
    refusal::PeerRefusal,
    tls,
    trust::{Trust, Usage},
};

const REMEDY: &str = "correct its path, or make it with `trunkline-certs node issue`";

/// Why a node's files do not make an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// One of the files cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The private key is of no kind that can be used.
    #[error("cannot use the private key in {path}: {reason}", path = path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key belongs to another certificate.
    #[error(
        "the key in {key} is not the key of the certificate in {certificate}: use two files that were issued together",
        key = key.display(), certificate = certificate.display()
    )]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// A certificate to trust cannot be read.
    #[error("certificate {position} in {path} cannot be read", path = path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// Which certificate in it, counted from 1.
        position: usize,
    },
    /// The certificate was signed by none of the CAs that it should be checked against.
    #[error(
        "the certificate in {certificate} was signed by no CA in {trust}: use the trust file that was issued with it",
        certificate = certificate.display(), trust = trust.display()
    )]
    OtherAuthority {
        /// The certificate's file.
        certificate: PathBuf,
        /// The trust file.
        trust: PathBuf,
    },
    /// The certificate's last moment is past.
    #[error(
        "the certificate in {path} expired on {}: issue a new one with `trunkline-certs node issue`",
        date(*.not_after), path = path.display()
    )]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// The last moment at which it was valid.
        not_after: SystemTime,
    },
    /// The certificate's first moment is yet to come.
    #[error(
        "the certificate in {path} is valid only from {}: check the clock of this machine",
        date(*.not_before), path = path.display()
    )]
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
        /// The first moment at which it will be valid.
        not_before: SystemTime,
    },
    /// The certificate is not one of a node, or breaks another rule.
    #[error("the certificate in {path} is not a node's, peers would say of this node: {refusal}", path = path.display())]
    NotANode {
        /// The certificate's file.
        path: PathBuf,
        /// What a peer would say.
        refusal: PeerRefusal,
    },
}

/// A node's own identity. Cheap to clone; prints without its key.
#[derive(Clone)]
pub struct Identity {
    own: PeerIdentity,
    certified_key: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    /// What keys are derived from. The private key itself is kept only by the TLS library.
    derivation: hkdf::Prk,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.own).finish()
    }
}

impl Identity {
    /// Reads a node's three files and checks that they are readable by the right people, belong together, and would be
    /// accepted by a peer that trusts the same CAs, in either role, now.
    ///
    /// # Errors
    /// [`IdentityError`], which names the file and what to do about it.
    pub fn load(certificate: &Path, key: &Path, trust: &Path) -> Result<Self, IdentityError> {
        Self::load_at(certificate, key, trust, SystemTime::now())
    }

    /// As [`Identity::load`], at a moment of the caller's choice. The handshake itself goes by the clock, so this
    /// gives tests a node whose certificate has run out since it started.
    ///
    /// # Errors
    /// [`IdentityError`], which names the file and what to do about it.
    pub fn load_at(certificate: &Path, key: &Path, trust: &Path, now: SystemTime) -> Result<Self, IdentityError> {
        let certificate = Source::public(certificate, REMEDY)?;
        let key = Source::secret(key, REMEDY)?;
        let trust = Source::public(trust, REMEDY)?;
        Self::assemble(&certificate, &key, &trust, now)
    }

    /// As [`Identity::load`], of files that were never written.
    ///
    /// # Errors
    /// [`IdentityError`], for instance when they were issued with dates that exclude the present.
    pub fn from_files(files: &NodeFiles) -> Result<Self, IdentityError> {
        Self::from_files_at(files, SystemTime::now())
    }

    /// As [`Identity::from_files`], at a moment of the caller's choice; see [`Identity::load_at`].
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_files_at(files: &NodeFiles, now: SystemTime) -> Result<Self, IdentityError> {
        let certificate = Source::memory(CERTIFICATE, &files.certificate_pem);
        let key = Source::memory(KEY, &files.key_pem);
        let trust = Source::memory(TRUST, &files.trust_pem);
        Self::assemble(&certificate, &key, &trust, now)
    }

    fn assemble(certificate: &Source, key: &Source, trust: &Source, now: SystemTime) -> Result<Self, IdentityError> {
        let der = certificate.certificate()?;
        let key_der = key.private_key()?;
        let authorities = trust.certificates()?;
        let derivation = hkdf::Salt::new(hkdf::HKDF_SHA256, b"trunkline node key").extract(key_der.secret_der());
        let provider = tls::provider();
        let certified_key =
            CertifiedKey::from_der(vec![der.clone()], key_der, &provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    IdentityError::KeyMismatch { key: key.path.clone(), certificate: certificate.path.clone() }
                }
                rustls::Error::InvalidCertificate(reason) => IdentityError::NotANode {
                    path: certificate.path.clone(),
                    refusal: PeerRefusal::Malformed(reason.to_string()),
                },
                error => IdentityError::Key { path: key.path.clone(), reason: error.to_string() },
            })?;
        let trusted = Trust::new(&authorities, provider)
            .map_err(|position| IdentityError::Trust { path: trust.path.clone(), position })?;
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let own = trusted
            .check(&der, Usage::Client, now)
            .and_then(|_| trusted.check(&der, Usage::Server, now))
            .map_err(|refusal| own_error(refusal, certificate, trust))?;
        Ok(Self { own, certified_key: Arc::new(certified_key), trust: Arc::new(trusted), derivation })
    }

    /// The node that this is.
    #[must_use]
    pub const fn node_id(&self) -> &NodeId {
        &self.own.node
    }

    /// The cluster that it belongs to.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        &self.own.cluster
    }

    /// The last moment at which its certificate is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.own.not_after
    }

    /// The fingerprint of its certificate.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.own.fingerprint
    }

    /// A key that depends on the node's private key and on `label` alone (RFC 5869, HMAC-SHA256), so that it is the
    /// same after a restart, differs from label to label, and tells nothing about the private key.
    #[must_use]
    pub fn derive_key(&self, label: &[u8]) -> [u8; 64] {
        const REASON: &str = "64 bytes are within what one extraction may yield, 255 hashes";
        let mut derived = [0; 64];
        let info = [label];
        self.derivation.expand(&info, DerivedLength).expect(REASON).fill(&mut derived).expect(REASON);
        derived
    }

    /// The TLS of the end that is dialled: any node of the cluster may come in, and it must show its certificate.
    ///
    /// Fit for QUIC. Build it once and share it.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::new(tls::server(&self.certified_key, &self.trust, &self.own.cluster))
    }

    /// The TLS of the end that dials `expected`, and no other node.
    ///
    /// Fit for QUIC. The server name that a TLS library asks for besides is ignored; [`crate::SERVER_NAME`] will do.
    #[must_use]
    pub fn client_config(&self, expected: &NodeId) -> Arc<ClientConfig> {
        Arc::new(tls::client(&self.certified_key, &self.trust, &self.own.cluster, expected))
    }
}

struct DerivedLength;

impl hkdf::KeyType for DerivedLength {
    fn len(&self) -> usize {
        64
    }
}

/// The same finding in words that suit the node's own files.
fn own_error(refusal: PeerRefusal, certificate: &Source, trust: &Source) -> IdentityError {
    let path = certificate.path.clone();
    match refusal {
        PeerRefusal::OtherAuthority => IdentityError::OtherAuthority { certificate: path, trust: trust.path.clone() },
        PeerRefusal::Expired { not_after } => IdentityError::Expired { path, not_after },
        PeerRefusal::NotYetValid { not_before } => IdentityError::NotYetValid { path, not_before },
        refusal => IdentityError::NotANode { path, refusal },
    }
}
