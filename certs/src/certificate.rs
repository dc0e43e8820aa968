//! What one certificate says of its holder. Whether to believe it is decided in [`crate::trust`].

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use time::{OffsetDateTime, macros::format_description};
use trunkline_proto::id::{ClusterName, NodeId};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

use crate::{
    refusal::PeerRefusal,
    uri::{self, NodeUri, UriError},
};

/// The SHA-256 of a certificate's DER encoding; prints as 64 hexadecimal digits, as `openssl x509 -fingerprint` does
/// but for colons and case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who a node's certificate says its holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The cluster that it belongs to.
    pub cluster: ClusterName,
    /// The node that it is.
    pub node: NodeId,
    /// The last moment at which the certificate is valid.
    pub not_after: SystemTime,
    /// What tells this certificate from every other, those of the same node included.
    pub fingerprint: Fingerprint,
}

impl PeerIdentity {
    /// Reads a node's certificate. Says nothing about whether it is genuine.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, PeerRefusal> {
        let parsed = parse(der).map_err(PeerRefusal::Malformed)?;
        let uri = match our_uris(&parsed).map_err(PeerRefusal::Malformed)?.as_slice() {
            [] => return Err(PeerRefusal::NoName),
            [one] => one.parse::<NodeUri>().map_err(|error| match error {
                UriError::Role { role } => PeerRefusal::Role { role },
                error => PeerRefusal::BadName(error),
            })?,
            [first, second, ..] => return Err(PeerRefusal::SeveralNames(first.clone(), second.clone())),
        };
        Ok(Self {
            cluster: uri.cluster,
            node: uri.node,
            not_after: moment(parsed.validity().not_after),
            fingerprint: Fingerprint::of(der),
        })
    }
}

/// Who the peer of a finished handshake is; `certificates` is what the handshake yields, the peer's own first.
///
/// This only reads. The handshake has checked the certificate, if its configuration came from [`crate::Identity`].
///
/// # Errors
/// [`PeerRefusal`] when there is no certificate or its name is not that of a node.
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Result<PeerIdentity, PeerRefusal> {
    PeerIdentity::read(certificates.first().ok_or(PeerRefusal::NoCertificate)?)
}

/// A moment as operators read it: `2026-07-30 12:00:00 UTC`.
#[must_use]
pub fn date(moment: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    timestamp(moment).and_then(|moment| moment.format(format).ok()).unwrap_or_else(|| "a date out of range".to_owned())
}

/// The same moment in whole seconds, as certificates have them; none outside the years that they can name.
pub(crate) fn timestamp(moment: SystemTime) -> Option<OffsetDateTime> {
    let seconds = match moment.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).ok()?,
        Err(before) => -i64::try_from(before.duration().as_secs()).ok()?,
    };
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

pub(crate) fn moment(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    if time.timestamp() < 0 { UNIX_EPOCH - seconds } else { UNIX_EPOCH + seconds }
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err("bytes follow it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The URIs among a certificate's names that are ours to read.
pub(crate) fn our_uris(certificate: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    Ok(names
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri::is_ours(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_print_in_utc_and_never_panic() {
        assert_eq!(date(UNIX_EPOCH), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(UNIX_EPOCH + Duration::from_secs(1_785_412_800)), "2026-07-30 12:00:00 UTC");
        assert_eq!(date(UNIX_EPOCH - Duration::from_secs(1)), "1969-12-31 23:59:59 UTC");
        assert_eq!(date(UNIX_EPOCH + Duration::from_secs(1 << 60)), "a date out of range");
    }

    #[test]
    fn a_handshake_without_certificates_has_no_identity() {
        assert_eq!(peer_identity(&[]), Err(PeerRefusal::NoCertificate));
        assert!(matches!(peer_identity(&[vec![0x30, 0].into()]), Err(PeerRefusal::Malformed(_))));
    }
}
