//! Which versions and features the two sides of a connection share.

use crate::code::Code;

/// The oldest version of the protocol that this crate speaks.
pub const VERSION_MIN: u32 = 1;
/// The newest version of the protocol that this crate speaks.
pub const VERSION_MAX: u32 = 1;
/// Optional features of this crate, announced in every HELLO. None exists yet.
pub const FEATURES: &[&str] = &[];
/// What HELLO says of the software.
pub const SOFTWARE: &str = concat!("trunkline/", env!("CARGO_PKG_VERSION"));

/// The versions and features that one side announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The oldest version it speaks.
    pub version_min: u32,
    /// The newest version it speaks.
    pub version_max: u32,
    /// Optional features it understands, unknown ones included.
    pub features: Vec<String>,
}

impl Offer {
    /// What this crate speaks.
    #[must_use]
    pub fn ours() -> Self {
        Self {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            features: FEATURES.iter().map(|&feature| feature.to_owned()).collect(),
        }
    }

    /// The newest version that both speak.
    ///
    /// # Errors
    /// [`NoCommonVersion`] when the ranges do not meet.
    pub fn agree(&self, other: &Self) -> Result<u32, NoCommonVersion> {
        let newest = self.version_max.min(other.version_max);
        let oldest = self.version_min.max(other.version_min);
        if newest < oldest {
            return Err(NoCommonVersion {
                ours: (self.version_min, self.version_max),
                theirs: (other.version_min, other.version_max),
            });
        }
        Ok(newest)
    }
}

/// The two sides' ranges do not meet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no common version: this side speaks {} to {}, the other {} to {}", ours.0, ours.1, theirs.0, theirs.1)]
pub struct NoCommonVersion {
    ours: (u32, u32),
    theirs: (u32, u32),
}

impl NoCommonVersion {
    /// The code that the connection is closed with.
    pub const CODE: Code = Code::Version;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(version_min: u32, version_max: u32) -> Offer {
        Offer { version_min, version_max, features: vec!["from_the_future".into()] }
    }

    #[test]
    fn neighbours_meet_at_the_newest_common_version() {
        assert_eq!(offer(1, 2).agree(&offer(2, 3)), Ok(2));
        assert_eq!(offer(2, 3).agree(&offer(1, 2)), Ok(2));
        assert_eq!(offer(1, 3).agree(&offer(2, 2)), Ok(2));
        assert_eq!(Offer::ours().agree(&offer(1, 9)), Ok(VERSION_MAX));
    }

    #[test]
    fn strangers_are_told_both_ranges() {
        let error = offer(1, 2).agree(&offer(3, 4)).unwrap_err();
        assert_eq!(error.to_string(), "no common version: this side speaks 1 to 2, the other 3 to 4");
    }
}
