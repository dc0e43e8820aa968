//! The names that certificates carry: `trunkline://CLUSTER/node/ID` for a node, `trunkline://CLUSTER` for a CA.
//!
//! This is the only place that writes or reads them.

use std::{fmt, str::FromStr};

use trunkline_proto::id::{ClusterName, IdError, NodeId};

const SCHEME: &str = "trunkline://";
const NODE_ROLE: &str = "node";

/// Why a URI names neither a node nor a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// The URI has another scheme or another shape.
    #[error("{0:?} is not of the form trunkline://CLUSTER/node/ID")]
    Form(String),
    /// The URI has the right shape, but not the role `node`.
    #[error("{role:?} is not the role of a node")]
    Role {
        /// The role that it names.
        role: String,
    },
    /// The cluster or the node has a name that is not allowed.
    #[error(transparent)]
    Name(#[from] IdError),
}

/// The name of a node within its cluster, as its certificate carries it.
///
/// ```
/// # use trunkline_certs::NodeUri;
/// let uri: NodeUri = "trunkline://demo/node/node-b".parse()?;
/// assert_eq!(uri.node.as_str(), "node-b");
/// assert_eq!(uri.to_string(), "trunkline://demo/node/node-b");
/// # Ok::<(), trunkline_certs::UriError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUri {
    /// The cluster that the node belongs to.
    pub cluster: ClusterName,
    /// The node.
    pub node: NodeId,
}

impl fmt::Display for NodeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{NODE_ROLE}/{}", self.cluster, self.node)
    }
}

impl FromStr for NodeUri {
    type Err = UriError;
    fn from_str(text: &str) -> Result<Self, UriError> {
        let form = || UriError::Form(text.to_owned());
        let path = text.strip_prefix(SCHEME).ok_or_else(form)?;
        let (cluster, path) = path.split_once('/').ok_or_else(form)?;
        let (role, node) = path.split_once('/').ok_or_else(form)?;
        if role != NODE_ROLE {
            return Err(UriError::Role { role: role.to_owned() });
        }
        Ok(Self { cluster: cluster.parse()?, node: node.parse()? })
    }
}

/// The name of a cluster, as its CA's certificate carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterUri(pub ClusterName);

impl fmt::Display for ClusterUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

impl FromStr for ClusterUri {
    type Err = UriError;
    fn from_str(text: &str) -> Result<Self, UriError> {
        let cluster = text.strip_prefix(SCHEME).ok_or_else(|| UriError::Form(text.to_owned()))?;
        Ok(Self(cluster.parse()?))
    }
}

/// Whether `uri` is meant for us at all; a certificate may carry URIs of other systems beside ours.
pub(crate) fn is_ours(uri: &str) -> bool {
    uri.starts_with(SCHEME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_prints_as_it_parses() {
        for text in ["trunkline://demo/node/a", "trunkline://c.1/node/rack_7.node-3"] {
            assert_eq!(text.parse::<NodeUri>().unwrap().to_string(), text);
        }
        assert_eq!("trunkline://demo".parse::<ClusterUri>().unwrap().to_string(), "trunkline://demo");
    }

    #[test]
    fn a_uri_of_another_shape_is_refused() {
        for text in ["", "node-a", "https://demo/node/a", "trunkline://", "trunkline://demo", "trunkline://demo/node"] {
            assert_eq!(text.parse::<NodeUri>(), Err(UriError::Form(text.to_owned())), "{text:?}");
        }
        assert_eq!("trunkline://demo/admin/a".parse::<NodeUri>(), Err(UriError::Role { role: "admin".to_owned() }));
        for text in
            ["trunkline:///node/a", "trunkline://demo/node/", "trunkline://demo/node/a/b", "trunkline://d/node/a?x"]
        {
            assert!(matches!(text.parse::<NodeUri>(), Err(UriError::Name(_))), "{text:?}");
        }
        assert!("trunkline://demo/node/a".parse::<ClusterUri>().is_err());
    }
}
