//! What the tests of this crate share: a CA in a scratch folder, and certificates that no honest CA would sign.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part of this")]

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use trunkline_certs::{Authority, Identity, NodeFiles, NodeRequest};
use trunkline_proto::id::NodeId;

pub const HOUR: Duration = Duration::from_secs(3600);

pub use rcgen::ExtendedKeyUsagePurpose as Eku;

/// Both usages, as a node's certificate has them.
pub const BOTH: [ExtendedKeyUsagePurpose; 2] = [Eku::ClientAuth, Eku::ServerAuth];

/// A CA of the cluster `demo`.
pub struct Cluster {
    pub folder: TempDir,
    pub authority: Authority,
}

impl Cluster {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::init(folder.path(), &"demo".parse().unwrap()).unwrap();
        Self { folder, authority }
    }

    pub fn request(id: &str) -> NodeRequest {
        NodeRequest::new(id.parse().unwrap())
    }

    pub fn files(&self, id: &str) -> NodeFiles {
        self.authority.issue_node(&Self::request(id)).unwrap()
    }

    pub fn identity(&self, id: &str) -> Identity {
        Identity::from_files(&self.files(id)).unwrap()
    }

    /// Files whose certificate was valid from `from` to `to` hours from now.
    pub fn dated(&self, id: &str, from: i32, to: i32) -> NodeFiles {
        let at = |hours: i32| match hours {
            0.. => SystemTime::now() + HOUR * hours.unsigned_abs(),
            _ => SystemTime::now() - HOUR * hours.unsigned_abs(),
        };
        let request = NodeRequest { not_before: at(from), not_after: at(to), ..Self::request(id) };
        self.authority.issue_node(&request).unwrap()
    }

    /// Files with a certificate that is signed by this CA and says whatever it is told to.
    pub fn crafted(&self, uris: &[&str], usages: &[Eku]) -> NodeFiles {
        let read = |name| std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        let authority = KeyPair::from_pem(&read("ca.key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), authority).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "crafted");
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages = usages.to_vec();
        NodeFiles {
            certificate_pem: params.signed_by(&key, &issuer).unwrap().pem(),
            key_pem: key.serialize_pem(),
            trust_pem: self.authority.certificate_pem().to_owned(),
        }
    }
}

pub fn node(id: &str) -> NodeId {
    id.parse().unwrap()
}
