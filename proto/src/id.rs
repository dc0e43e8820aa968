//! Names and numbers that both ends of a wire must read the same way, validated when they are made.
//!
//! Every name is short ASCII, so that it can stand in an address, a certificate's URI, a log line and a file name
//! without quoting. A value of one of these types is always valid; decoding a message goes through the same checks.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest name of a node, cluster, job, run, producer or consumer, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Why a name or an address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("{what} is empty")]
    Empty {
        /// Which kind of name was being read.
        what: &'static str,
    },
    /// The text is longer than [`NAME_BYTES_MAX`].
    #[error("{what} has {length} bytes, more than {NAME_BYTES_MAX}")]
    TooLong {
        /// Which kind of name was being read.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// The text holds a character that no name may hold.
    #[error("{what} {text:?} holds {character:?}; letters, digits, '-', '_' and '.' are allowed")]
    Character {
        /// Which kind of name was being read.
        what: &'static str,
        /// The whole text.
        text: String,
        /// The first offending character.
        character: char,
    },
    /// The text begins with a character that a name may hold, but not first.
    #[error("{what} {text:?} begins with {character:?}; a letter or digit must come first")]
    FirstCharacter {
        /// Which kind of name was being read.
        what: &'static str,
        /// The whole text.
        text: String,
        /// The character that it begins with.
        character: char,
    },
    /// The text is not of the form `job/consumer@node`.
    #[error("address {0:?} is not of the form job/consumer@node")]
    Address(String),
    /// An incarnation is not 16 bytes, or not 32 hexadecimal digits.
    #[error("an incarnation is 128 bits: 16 bytes, or 32 hexadecimal digits")]
    Incarnation,
    /// A weight is out of its bounds.
    #[error("weight {0} is outside 1 to 100")]
    Weight(u32),
}

/// A job's share of a busy line beside that of other jobs: one of weight 3 gets three times the bytes of one of weight
/// 1, the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u8);

impl Weight {
    /// The least, and the default.
    pub const MIN: Self = Self(1);
    /// The most: a round of the jobs gets no longer than it would with so many jobs.
    pub const MAX: Self = Self(100);

    /// The number, 1 to 100.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::MIN
    }
}

impl TryFrom<u32> for Weight {
    type Error = IdError;

    fn try_from(weight: u32) -> Result<Self, IdError> {
        match u8::try_from(weight) {
            Ok(small @ 1..=100) => Ok(Self(small)),
            _ => Err(IdError::Weight(weight)),
        }
    }
}

fn validate(what: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(IdError::TooLong { what, length: text.len() });
    }
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    if let Some(character) = text.chars().find(|&character| !allowed(character)) {
        return Err(IdError::Character { what, text: text.to_owned(), character });
    }
    match text.chars().next() {
        Some(character) if !character.is_ascii_alphanumeric() => {
            Err(IdError::FirstCharacter { what, text: text.to_owned(), character })
        }
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// Cheap to clone. At most [`NAME_BYTES_MAX`] ASCII letters, digits, `-`, `_` and `.`, a letter or digit first.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and makes it a name.
            ///
            /// # Errors
            /// [`IdError`] when the text is empty, too long, or holds a character that is not allowed there.
            pub fn new(text: &str) -> Result<Self, IdError> {
                validate($what, text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = IdError;
            fn try_from(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl TryFrom<&String> for $name {
            type Error = IdError;
            fn try_from(text: &String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<&$name> for $name {
            type Error = IdError;
            fn try_from(name: &$name) -> Result<Self, IdError> {
                Ok(name.clone())
            }
        }
    };
}

name!(
    /// The name of a cluster: all nodes whose certificates one CA signed for it.
    ClusterName, "cluster name"
);
name!(
    /// The name of a node, the daemon of one machine. Its certificate says it.
    NodeId, "node id"
);
name!(
    /// The name of a job: a namespace for producers and consumers.
    JobName, "job name"
);
name!(
    /// One run of a job, as its launcher numbers them; the leavings of a failed run never meet the next one.
    RunId, "run id"
);
name!(
    /// The name of a producer within its job.
    ProducerName, "producer name"
);
name!(
    /// The name of a consumer within its job, on its node.
    ConsumerName, "consumer name"
);

/// A job and the run of it that is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// The job's name, which addresses carry.
    pub name: JobName,
    /// The run, which addresses do not carry: both ends must have been given the same.
    pub run: RunId,
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.name, self.run)
    }
}

/// Where a stream ends: `job/consumer@node`.
///
/// ```
/// # use trunkline_proto::id::ConsumerAddress;
/// let address: ConsumerAddress = "wordcount/reduce-3@node-b".parse()?;
/// assert_eq!(address.node.as_str(), "node-b");
/// assert_eq!(address.to_string(), "wordcount/reduce-3@node-b");
/// # Ok::<(), trunkline_proto::id::IdError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerAddress {
    /// The job that the consumer belongs to.
    pub job: JobName,
    /// The consumer's name in it.
    pub consumer: ConsumerName,
    /// The node that the consumer is attached to.
    pub node: NodeId,
}

impl fmt::Display for ConsumerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.job, self.consumer, self.node)
    }
}

impl FromStr for ConsumerAddress {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let malformed = || IdError::Address(text.to_owned());
        let (job, rest) = text.split_once('/').ok_or_else(malformed)?;
        let (consumer, node) = rest.split_once('@').ok_or_else(malformed)?;
        Ok(Self { job: job.try_into()?, consumer: consumer.try_into()?, node: node.try_into()? })
    }
}

impl TryFrom<&str> for ConsumerAddress {
    type Error = IdError;
    fn try_from(text: &str) -> Result<Self, IdError> {
        text.parse()
    }
}

impl TryFrom<String> for ConsumerAddress {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl TryFrom<&String> for ConsumerAddress {
    type Error = IdError;
    fn try_from(text: &String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl TryFrom<&ConsumerAddress> for ConsumerAddress {
    type Error = IdError;
    fn try_from(address: &ConsumerAddress) -> Result<Self, IdError> {
        Ok(address.clone())
    }
}

/// 128 random bits that tell one life of a producer or consumer from the next of the same name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation([u8; 16]);

impl Incarnation {
    /// Wraps 128 bits; the caller draws them at random, once per life.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }

    /// The bits as they travel: 16 bytes, big-endian.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Reads 16 bytes, big-endian.
    ///
    /// # Errors
    /// [`IdError::Incarnation`] when there are not exactly 16.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::Incarnation)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Incarnation {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits {
            return Err(IdError::Incarnation);
        }
        u128::from_str_radix(text, 16).map(Self::from_bits).map_err(|_| IdError::Incarnation)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_says_what_is_wrong_with_it() {
        assert_eq!(NodeId::new(""), Err(IdError::Empty { what: "node id" }));
        assert_eq!(JobName::new(&"x".repeat(65)), Err(IdError::TooLong { what: "job name", length: 65 }));
        let error = ConsumerName::new("reduce 3").unwrap_err().to_string();
        let allowed = "letters, digits, '-', '_' and '.' are allowed";
        assert_eq!(error, format!("consumer name \"reduce 3\" holds ' '; {allowed}"));
        assert!(RunId::new("-1").is_err(), "a leading dash would read as an option on a command line");
        assert!(RunId::new("..").is_err(), "a run id may become a folder name");
    }

    #[test]
    fn a_wrong_first_character_is_told_from_one_that_no_name_may_hold() {
        let error = NodeId::new(".hidden").unwrap_err().to_string();
        assert_eq!(error, "node id \".hidden\" begins with '.'; a letter or digit must come first");
        for text in ["-a", "_a", ".", ".."] {
            assert!(matches!(NodeId::new(text), Err(IdError::FirstCharacter { .. })), "{text:?}");
        }
        for text in [" a", ".a b", "a/b", "\u{e9}"] {
            assert!(matches!(NodeId::new(text), Err(IdError::Character { .. })), "{text:?}");
        }
    }

    #[test]
    fn an_address_needs_all_three_parts() {
        for text in ["", "job", "job/consumer", "job@node", "/c@n", "j/@n", "j/c@", "j/c@n@m", "j/c/d@n"] {
            assert!(text.parse::<ConsumerAddress>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn addresses_print_as_they_parse(
            job in "[a-z0-9][a-z0-9_.-]{0,63}", consumer in "[A-Z][a-z0-9_.-]{0,63}", node in "[0-9][a-z_.-]{0,63}"
        ) {
            let text = format!("{job}/{consumer}@{node}");
            prop_assert_eq!(text.parse::<ConsumerAddress>().unwrap().to_string(), text);
        }

        #[test]
        fn any_text_is_refused_or_kept_as_it_is(text in ".{0,80}") {
            if let Ok(name) = ProducerName::new(&text) {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!(text.len() <= NAME_BYTES_MAX && text.is_ascii());
            }
        }

        #[test]
        fn incarnations_survive_bytes_and_text(bits: u128) {
            let incarnation = Incarnation::from_bits(bits);
            prop_assert_eq!(Incarnation::from_bytes(&incarnation.to_bytes()), Ok(incarnation));
            prop_assert_eq!(incarnation.to_string().parse(), Ok(incarnation));
        }
    }
}
