//! Whether a certificate is genuine and right for a place: the one check that both ends of a trunk, and a node
//! reading its own files, go through.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, TrustAnchor, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage};

use crate::{certificate::PeerIdentity, refusal::PeerRefusal};

/// What a certificate is being used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Its holder dialled.
    Client,
    /// Its holder was dialled.
    Server,
}

impl Usage {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// RFC 5280 §4.2.1.12: id-kp-clientAuth is 1.3.6.1.5.5.7.3.2, id-kp-serverAuth ends in 1. Required, where webpki
    /// by itself would also take a certificate that names no usage at all.
    const fn required(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::required(&[0x2b, 6, 1, 5, 5, 7, 3, 2]),
            Self::Server => KeyUsage::required(&[0x2b, 6, 1, 5, 5, 7, 3, 1]),
        }
    }
}

/// The CAs whose signatures count.
#[derive(Debug)]
pub(crate) struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    provider: CryptoProvider,
}

impl Trust {
    /// Trusts the holders of `authorities`. Says which one, counted from 1, is not a certificate.
    pub(crate) fn new(authorities: &[CertificateDer<'_>], provider: CryptoProvider) -> Result<Self, usize> {
        let anchor = |(at, der)| match webpki::anchor_from_trusted_cert(der) {
            Ok(anchor) => Ok(anchor.to_owned()),
            Err(_) => Err(at + 1),
        };
        Ok(Self { anchors: authorities.iter().enumerate().map(anchor).collect::<Result<_, _>>()?, provider })
    }

    pub(crate) const fn provider(&self) -> &CryptoProvider {
        &self.provider
    }

    /// Checks chain, dates, usage and name, and says whose certificate it is.
    ///
    /// A CA signs nodes directly: certificates that a peer sends beside its own are ignored, so that nothing in
    /// between can be trusted by accident (webpki does not apply a trust anchor's path length).
    pub(crate) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        usage: Usage,
        now: UnixTime,
    ) -> Result<PeerIdentity, PeerRefusal> {
        let refuse = |error| refusal(error, usage);
        EndEntityCert::try_from(certificate)
            .map_err(refuse)?
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                &self.anchors,
                &[],
                now,
                usage.required(),
                None,
                None,
            )
            .map_err(refuse)?;
        PeerIdentity::read(certificate)
    }
}

fn refusal(error: webpki::Error, usage: Usage) -> PeerRefusal {
    use webpki::Error;
    match error {
        // Two CAs of one cluster name have one subject, so a foreign signature shows as either of these.
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => PeerRefusal::OtherAuthority,
        Error::CertExpired { not_after, .. } => PeerRefusal::Expired { not_after: moment(not_after) },
        Error::CertNotValidYet { not_before, .. } => PeerRefusal::NotYetValid { not_before: moment(not_before) },
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => PeerRefusal::Usage { wanted: usage.name() },
        Error::CaUsedAsEndEntity => PeerRefusal::Invalid("it is a CA's certificate, not a node's".to_owned()),
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => PeerRefusal::Malformed(error.to_string()),
        other => PeerRefusal::Invalid(other.to_string()),
    }
}

fn moment(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs())
}
