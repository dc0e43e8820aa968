//! The configuration of a node that is embedded with [`Attachment::embedded`](crate::Attachment::embedded).
//!
//! It is the daemon's own, made in code or read from the daemon's file with [`NodeConfig::load`].

pub use trunkline_node::config::{
    Account, AdminConfig, ConfigError, Congestion, IdentityConfig, LimitsConfig, LocalConfig, NodeConfig, PeerConfig,
    Profile, TrunkConfig,
};
