//! Why a peer was refused, in words for an operator: one sentence per reason, about the peer ("its certificate ...").
//!
//! The sentence has to travel. A verifier hands it to rustls inside an error, QUIC keeps only an alert number and the
//! error's text, and the other end receives both. [`explain`] and [`explain_alert`] recover the sentence from each.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{AlertDescription, CertificateError, OtherError};
use trunkline_proto::id::{ClusterName, NodeId};

use crate::{certificate::date, tls::ALPN, uri::UriError};

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// The peer presented nothing.
    #[error("it presented no certificate")]
    NoCertificate,
    /// The certificate is not one.
    #[error("its certificate cannot be read: {0}")]
    Malformed(String),
    /// No CA that this node trusts signed it.
    #[error("its certificate was signed by another CA")]
    OtherAuthority,
    /// Its last moment is past.
    #[error("its certificate expired on {}", date(*.not_after))]
    Expired {
        /// The last moment at which it was valid.
        not_after: SystemTime,
    },
    /// Its first moment is yet to come.
    #[error("its certificate is not yet valid: it begins on {}; check the clocks of both machines", date(*.not_before))]
    NotYetValid {
        /// The first moment at which it will be valid.
        not_before: SystemTime,
    },
    /// It does not allow the use that this connection makes of it.
    #[error("its certificate is not usable for {wanted} authentication")]
    Usage {
        /// `client` or `server`.
        wanted: &'static str,
    },
    /// It has no URI of ours.
    #[error("its certificate carries no trunkline://CLUSTER/node/ID name")]
    NoName,
    /// It has more than one URI of ours, so it names nobody.
    #[error("its certificate carries more than one name: {0} and {1}")]
    SeveralNames(String, String),
    /// It has a URI of ours that cannot be read.
    #[error("its certificate carries a name that cannot be read: {0}")]
    BadName(UriError),
    /// It was issued to something that is not a node.
    #[error("its certificate was issued for the role {role:?}, not for a node")]
    Role {
        /// The role that it names.
        role: String,
    },
    /// It belongs to another cluster under the same CA.
    #[error("it belongs to cluster {theirs}, this one is {ours}")]
    OtherCluster {
        /// The peer's cluster.
        theirs: ClusterName,
        /// This node's cluster.
        ours: ClusterName,
    },
    /// Another node answered than the one that was dialled.
    #[error("it is {found}, but {dialled} was dialled")]
    OtherNode {
        /// The node that answered.
        found: NodeId,
        /// The node that was meant.
        dialled: NodeId,
    },
    /// The certificate fails a rule that no certificate of [`crate::Authority`] ever fails.
    #[error("its certificate was refused: {0}")]
    Invalid(String),
}

impl From<PeerRefusal> for rustls::Error {
    fn from(refusal: PeerRefusal) -> Self {
        CertificateError::Other(OtherError(Arc::new(Carried(refusal)))).into()
    }
}

/// A refusal on its way through rustls, which prints what it carries with `Debug` where it prints its own with
/// `Display`. So here both are the sentence.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Carried(PeerRefusal);

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What rustls writes around a [`Carried`] sentence when it prints the error that holds it.
const WRAPPING: (&str, &str) = ("Other(OtherError(", "))");

/// What went wrong in a handshake, in words for an operator.
#[must_use]
pub fn explain(error: &rustls::Error) -> String {
    use rustls::Error;
    match error {
        Error::InvalidCertificate(CertificateError::Other(refusal)) => refusal.to_string(),
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            "it does not hold the key of the certificate that it presented".to_owned()
        }
        Error::InvalidCertificate(other) => format!("its certificate was refused: {other}"),
        Error::NoCertificatesPresented => PeerRefusal::NoCertificate.to_string(),
        Error::NoApplicationProtocol => no_protocol(),
        Error::AlertReceived(alert) => received(*alert, ""),
        other => other.to_string(),
    }
}

/// Which end of a connection raised an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaisedBy {
    /// This end refused the peer. In quinn, `ConnectionError::TransportError`.
    Us,
    /// The peer refused this end. In quinn, `ConnectionError::ConnectionClosed`.
    Peer,
}

/// What went wrong in a QUIC handshake that ended in a TLS alert, in words for an operator.
///
/// `alert` is the low byte of the QUIC error code (RFC 9001 §4.8: CRYPTO_ERROR, 0x0100 to 0x01ff); `reason` is the
/// text that came with it, empty when there was none. A peer's words are quoted, without line breaks, and cut short.
#[must_use]
pub fn explain_alert(raised_by: RaisedBy, alert: u8, reason: &str) -> String {
    // The text is how rustls prints the error that `explain` would have been given.
    let (of_certificate, text) = match reason.strip_prefix("invalid peer certificate: ") {
        Some(text) => (true, text),
        None => (false, reason),
    };
    let carried = text.strip_prefix(WRAPPING.0).and_then(|text| text.strip_suffix(WRAPPING.1));
    let plain = carried.unwrap_or(text);
    let alert = AlertDescription::from(alert);
    match raised_by {
        RaisedBy::Peer => received(alert, plain),
        RaisedBy::Us => match alert {
            AlertDescription::CertificateRequired => PeerRefusal::NoCertificate.to_string(),
            AlertDescription::NoApplicationProtocol => no_protocol(),
            AlertDescription::DecryptError if plain == "BadSignature" => {
                explain(&CertificateError::BadSignature.into())
            }
            _ if plain.is_empty() => format!("the handshake with it failed: {alert:?}"),
            _ if of_certificate && carried.is_none() => format!("its certificate was refused: {plain}"),
            _ => plain.to_owned(),
        },
    }
}

/// A peer's text is quoted in logs; this much of it tells the reason.
const QUOTED_CHARS_MAX: usize = 300;

fn received(alert: AlertDescription, reason: &str) -> String {
    let verdict = match alert {
        AlertDescription::NoApplicationProtocol => return no_protocol(),
        AlertDescription::CertificateRequired => "it got no certificate from this node",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => "it refused our certificate",
        _ => "it ended the handshake",
    };
    let said: String = reason.chars().filter(|said| !said.is_control()).take(QUOTED_CHARS_MAX).collect();
    match alert {
        _ if !said.is_empty() => format!("{verdict}; it said \"{said}\""),
        // Nothing more is in these two.
        AlertDescription::CertificateRequired | AlertDescription::CertificateUnknown => verdict.to_owned(),
        other => format!("{verdict}: {other:?}"),
    }
}

fn no_protocol() -> String {
    format!("it does not speak {}", String::from_utf8_lossy(ALPN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_words_are_quoted_on_one_line_and_cut_short() {
        let said = explain_alert(RaisedBy::Peer, 46, "invalid peer certificate: its certificate expired on\n2026");
        assert_eq!(said, "it refused our certificate; it said \"its certificate expired on2026\"");
        let long = explain_alert(RaisedBy::Peer, 46, &"x".repeat(100_000));
        assert!(long.len() < 400, "{}", long.len());
    }

    #[test]
    fn an_alert_without_a_text_still_says_something() {
        assert_eq!(explain_alert(RaisedBy::Peer, 46, ""), "it refused our certificate");
        assert_eq!(explain_alert(RaisedBy::Peer, 48, ""), "it refused our certificate: UnknownCA");
        assert_eq!(explain_alert(RaisedBy::Peer, 116, ""), "it got no certificate from this node");
        assert_eq!(explain_alert(RaisedBy::Peer, 120, ""), "it does not speak trunkline/1");
        assert_eq!(explain_alert(RaisedBy::Peer, 40, ""), "it ended the handshake: HandshakeFailure");
        assert_eq!(explain_alert(RaisedBy::Us, 40, ""), "the handshake with it failed: HandshakeFailure");
        assert_eq!(explain_alert(RaisedBy::Us, 120, ""), "it does not speak trunkline/1");
    }

    #[test]
    fn an_error_and_the_alert_that_it_became_are_explained_alike() {
        let signature: rustls::Error = CertificateError::BadSignature.into();
        let required: rustls::Error = rustls::Error::NoCertificatesPresented;
        let refused: rustls::Error = PeerRefusal::OtherAuthority.into();
        let encoding: rustls::Error = CertificateError::BadEncoding.into();
        for (alert, error) in [(51, signature), (116, required), (46, refused), (42, encoding)] {
            assert_eq!(explain_alert(RaisedBy::Us, alert, &error.to_string()), explain(&error));
        }
    }
}
