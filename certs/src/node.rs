//! What a node is issued: the request for its certificate, and the three files that it starts with.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use trunkline_proto::id::NodeId;

use crate::{
    ca,
    files::{FileError, NewFile, PUBLIC, SECRET, write_all_new},
};

/// How long a node's certificate is valid unless the request says otherwise, in days.
pub const VALIDITY_DAYS_DEFAULT: u32 = 365;

/// How far back certificates are dated, so that a machine whose clock is slow accepts one made this minute.
pub(crate) const BACKDATED: Duration = Duration::from_secs(5 * 60);

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) const CERTIFICATE: &str = "node.pem";
pub(crate) const KEY: &str = "node.key";
pub(crate) const TRUST: &str = "trust.pem";

/// What a node's certificate should say.
#[derive(Debug, Clone)]
pub struct NodeRequest {
    /// The node that it is for.
    pub id: NodeId,
    /// DNS names to list in it. Trunks do not look at them; tools in front of a node may.
    pub dns: Vec<String>,
    /// Addresses to list in it, of which the same is true.
    pub ip: Vec<IpAddr>,
    /// The first moment at which it is valid.
    pub not_before: SystemTime,
    /// The last moment at which it is valid. No later than the CA's.
    pub not_after: SystemTime,
}

impl NodeRequest {
    /// A certificate for `id` and [`VALIDITY_DAYS_DEFAULT`] days from now, backdated a few minutes.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        let now = SystemTime::now();
        Self { id, dns: Vec::new(), ip: Vec::new(), not_before: now - BACKDATED, not_after: now }
            .valid_for(VALIDITY_DAYS_DEFAULT)
    }

    /// The same with another number of days, from now.
    #[must_use]
    pub fn valid_for(mut self, days: u32) -> Self {
        self.not_after = SystemTime::now() + DAY * days;
        self
    }
}

/// A node's certificate, its private key, and the CA to trust, in PEM form. Prints without the key.
#[derive(Clone)]
pub struct NodeFiles {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key.
    pub key_pem: String,
    /// The certificate of the CA that issued it.
    pub trust_pem: String,
}

impl fmt::Debug for NodeFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeFiles")
            .field("certificate_pem", &self.certificate_pem)
            .field("trust_pem", &self.trust_pem)
            .finish_non_exhaustive()
    }
}

impl NodeFiles {
    /// Writes `node.pem`, `node.key` (mode 0600) and `trust.pem` into `folder`, or none of them. Makes the folder
    /// (mode 0700) if need be.
    ///
    /// The folder goes to the node's machine as a whole, so one that holds a CA's key is refused.
    ///
    /// # Errors
    /// [`FileError`], for instance when one of the files exists. Nothing new is left behind then.
    pub fn write_to(&self, folder: &Path) -> Result<NodePaths, FileError> {
        // Asked of the file system, so that no spelling of the folder gets around it; a link to the key counts too.
        if folder.join(ca::KEY).symlink_metadata().is_ok() {
            return Err(FileError::HoldsAuthority { folder: folder.to_owned() });
        }
        write_all_new(
            folder,
            &[
                NewFile { name: KEY, text: &self.key_pem, mode: SECRET },
                NewFile { name: CERTIFICATE, text: &self.certificate_pem, mode: PUBLIC },
                NewFile { name: TRUST, text: &self.trust_pem, mode: PUBLIC },
            ],
        )?;
        Ok(NodePaths::in_folder(folder))
    }
}

/// Where a node's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePaths {
    /// The certificate's.
    pub certificate: PathBuf,
    /// The private key's.
    pub key: PathBuf,
    /// The trusted CA's.
    pub trust: PathBuf,
}

impl NodePaths {
    /// The names that [`NodeFiles::write_to`] gives them.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { certificate: folder.join(CERTIFICATE), key: folder.join(KEY), trust: folder.join(TRUST) }
    }
}
