//! The cluster's certificate authority: a key and a self-signed certificate in a folder, and what it issues.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, DnsName};
use trunkline_proto::id::ClusterName;

use crate::{
    certificate::{Fingerprint, date, moment, our_uris, parse, timestamp},
    files::{FileError, NewFile, PUBLIC, SECRET, Source, write_all_new},
    node::{BACKDATED, DAY, NodeFiles, NodeRequest},
    uri::{ClusterUri, NodeUri},
};

const CERTIFICATE: &str = "ca.pem";
pub(crate) const KEY: &str = "ca.key";
const REMEDY: &str = "make a CA with `trunkline-certs ca init`, or name the folder of one";
const CERTIFICATE_REMEDY: &str = "restore it, for instance from the trust.pem of a node that it issued";
const KEY_REMEDY: &str = "run this where the CA's key is kept, or restore it";

/// How long a new CA is valid, in days: about ten years.
const AUTHORITY_DAYS: u32 = 3653;

/// Why an authority could not be made, read, or made to issue a certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// One of its files could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// One of its two files is missing. The other one tells that there was a CA, so a new one is not the remedy.
    #[error(
        "{missing} does not exist, though {present} does: {remedy}",
        missing = missing.display(), present = present.display()
    )]
    Incomplete {
        /// The file that is missing.
        missing: PathBuf,
        /// The file that is there.
        present: PathBuf,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The certificate is not that of a cluster's CA.
    #[error("{path} is not the certificate of a cluster's CA: {reason}", path = path.display())]
    NotAnAuthority {
        /// The certificate's file.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// The private key cannot be used, or belongs to another certificate.
    #[error("the key in {path} does not serve this CA: {reason}", path = path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A DNS name that was asked for is not one.
    #[error("{0:?} is not a DNS name")]
    DnsName(String),
    /// The dates that were asked for leave no moment at which the certificate is valid, or no calendar has them.
    #[error("a certificate cannot be valid from {} to {}", date(*.not_before), date(*.not_after))]
    Dates {
        /// The first moment asked for.
        not_before: SystemTime,
        /// The last moment asked for.
        not_after: SystemTime,
    },
    /// The certificate would outlive its CA, and be refused from then on.
    #[error("a certificate until {} would outlive its CA, which is valid until {}: ask for fewer days", date(*.asked), date(*.authority))]
    OutlivesAuthority {
        /// The last moment asked for.
        asked: SystemTime,
        /// The CA's last moment.
        authority: SystemTime,
    },
    /// The cryptography failed: no randomness, or a limit of the encoder.
    #[error("cannot make the certificate: {0}")]
    Making(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Making(error.to_string())
    }
}

/// The CA of one cluster. Prints without its key.
pub struct Authority {
    cluster: ClusterName,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("cluster", &self.cluster)
            .field("not_after", &date(self.not_after))
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a CA for `cluster`, in memory. Another one made for the same cluster differs in its key alone, and
    /// neither accepts what the other has signed.
    ///
    /// # Errors
    /// [`AuthorityError::Making`] when the system has no randomness to give.
    pub fn create(cluster: &ClusterName) -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let pem = self_signed(cluster, &key)?;
        Self::assemble(&Source::memory(CERTIFICATE, &pem), key, Path::new(KEY))
    }

    /// Makes a CA for `cluster` and writes it to `folder` as `ca.pem` and `ca.key` (mode 0600). Makes the folder
    /// (mode 0700) if need be.
    ///
    /// # Errors
    /// [`AuthorityError::File`] when either file exists or the folder cannot be written. Nothing new is left behind.
    pub fn init(folder: &Path, cluster: &ClusterName) -> Result<Self, AuthorityError> {
        let authority = Self::create(cluster)?;
        let key_pem = authority.issuer.key().serialize_pem();
        write_all_new(
            folder,
            &[
                NewFile { name: KEY, text: &key_pem, mode: SECRET },
                NewFile { name: CERTIFICATE, text: &authority.certificate_pem, mode: PUBLIC },
            ],
        )?;
        Ok(authority)
    }

    /// Reads the CA that [`Authority::init`] wrote to `folder`.
    ///
    /// # Errors
    /// [`AuthorityError`], which names the file and what is wrong with it.
    pub fn load(folder: &Path) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (folder.join(CERTIFICATE), folder.join(KEY));
        let certificate = Source::public(&certificate_path, REMEDY)
            .map_err(|error| unless_incomplete(error, &key_path, CERTIFICATE_REMEDY))?;
        let key = Source::secret(&key_path, REMEDY)
            .map_err(|error| unless_incomplete(error, &certificate_path, KEY_REMEDY))?
            .private_key()?;
        let key = KeyPair::try_from(&key)
            .map_err(|error| AuthorityError::Key { path: key_path.clone(), reason: error.to_string() })?;
        Self::assemble(&certificate, key, &key_path)
    }

    fn assemble(source: &Source, key: KeyPair, key_path: &Path) -> Result<Self, AuthorityError> {
        let not_one = |reason: String| AuthorityError::NotAnAuthority { path: source.path.clone(), reason };
        let certificate = source.certificate()?;
        if source.private_key().is_ok() {
            // Its text becomes every node's trust file.
            return Err(not_one("it also holds a private key, which belongs into ca.key alone".to_owned()));
        }
        let parsed = parse(&certificate).map_err(not_one)?;
        if !parsed.is_ca() {
            return Err(not_one("it may not sign certificates".to_owned()));
        }
        let uris = our_uris(&parsed).map_err(not_one)?;
        let [uri] = uris.as_slice() else {
            return Err(not_one("it does not carry exactly one trunkline://CLUSTER name".to_owned()));
        };
        let ClusterUri(cluster) = uri.parse().map_err(|error: crate::UriError| not_one(error.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            let reason = format!("it is not the key of the certificate in {}", source.path.display());
            return Err(AuthorityError::Key { path: key_path.to_owned(), reason });
        }
        Ok(Self {
            cluster,
            not_after: moment(parsed.validity().not_after),
            certificate_pem: source.text(),
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
        })
    }

    /// The cluster that it is the CA of.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The last moment at which it is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The fingerprint of its certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Its certificate in PEM form: what a node that trusts this CA has in its `trust.pem`.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a key for a node and a certificate that binds it to the node's name.
    ///
    /// # Errors
    /// [`AuthorityError`] when a DNS name or a date is not usable.
    pub fn issue_node(&self, request: &NodeRequest) -> Result<NodeFiles, AuthorityError> {
        let key = new_key()?;
        let certificate = self.node_params(request)?.signed_by(&key, &self.issuer)?;
        Ok(NodeFiles {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            trust_pem: self.certificate_pem.clone(),
        })
    }

    fn node_params(&self, request: &NodeRequest) -> Result<CertificateParams, AuthorityError> {
        let NodeRequest { id, dns, ip, not_before, not_after } = request;
        if *not_after > self.not_after {
            return Err(AuthorityError::OutlivesAuthority { asked: *not_after, authority: self.not_after });
        }
        let mut params = params(*not_before, *not_after)?;
        params.distinguished_name.push(DnType::OrganizationName, self.cluster.as_str());
        params.distinguished_name.push(DnType::CommonName, id.as_str());
        params.subject_alt_names.push(uri(&NodeUri { cluster: self.cluster.clone(), node: id.clone() })?);
        for name in dns {
            DnsName::try_from(name.as_str()).map_err(|_| AuthorityError::DnsName(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(ip.iter().copied().map(SanType::IpAddress));
        // Said explicitly, because that also brings the subject key identifier.
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A node dials and is dialled.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        Ok(params)
    }
}

/// The error as it is, unless it says that one file of a CA is missing and the `other` is there.
fn unless_incomplete(error: FileError, other: &Path, remedy: &'static str) -> AuthorityError {
    match error {
        FileError::Missing { path, .. } if other.exists() => {
            AuthorityError::Incomplete { missing: path, present: other.to_owned(), remedy }
        }
        error => error.into(),
    }
}

fn self_signed(cluster: &ClusterName, key: &KeyPair) -> Result<String, AuthorityError> {
    let now = SystemTime::now();
    let mut params = params(now - BACKDATED, now + DAY * AUTHORITY_DAYS)?;
    params.distinguished_name.push(DnType::OrganizationName, "Trunkline cluster CA");
    params.distinguished_name.push(DnType::CommonName, cluster.as_str());
    params.subject_alt_names.push(uri(&ClusterUri(cluster.clone()))?);
    // It signs nodes and never another CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.pem())
}

/// What all our certificates share: their dates, a random serial number, and nothing that the encoder would add.
fn params(not_before: SystemTime, not_after: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let (Some(from), Some(to), true) = (timestamp(not_before), timestamp(not_after), not_before < not_after) else {
        return Err(AuthorityError::Dates { not_before, not_after });
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = from;
    params.not_after = to;
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// RFC 5280 §4.1.2.2: positive and at most 20 bytes. 126 random bits under a fixed top byte's first two.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthorityError::Making("the system has no randomness".to_owned()))?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn new_key() -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn uri(uri: &impl ToString) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(uri.to_string().try_into()?))
}
