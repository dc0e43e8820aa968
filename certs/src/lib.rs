//! The cluster's private CA and the identities that it gives to nodes: made here, checked here, nowhere else.
//!
//! ```text
//!  Authority ──issue_node──► NodeFiles ──write_to──► node.pem  node.key  trust.pem
//!   ca.pem                                                  │
//!   ca.key                                               Identity ──► rustls server and client configurations
//! ```
//!
//! A node is who its certificate says: the URI `trunkline://CLUSTER/node/ID` in it. Both ends of a trunk check the
//! chain, the dates, the usage, the cluster and the role; the end that dials also checks that it reached the node it
//! meant. Whatever they refuse ends in a sentence that an operator can act on ([`PeerRefusal`], [`explain`]).
//!
//! Every error's `Display` is the whole sentence, cause included, and names the file and the remedy.

mod ca;
mod certificate;
mod files;
mod identity;
mod node;
mod refusal;
mod tls;
mod trust;
mod uri;

pub use ca::{Authority, AuthorityError};
pub use certificate::{Fingerprint, PeerIdentity, date, peer_identity};
pub use files::FileError;
pub use identity::{Identity, IdentityError};
pub use node::{NodeFiles, NodePaths, NodeRequest, VALIDITY_DAYS_DEFAULT};
pub use refusal::{PeerRefusal, RaisedBy, explain, explain_alert};
pub use tls::{ALPN, SERVER_NAME};
pub use uri::{ClusterUri, NodeUri, UriError};
