//! Messages drawn from a seed, and what both ends of a stream compare: how many, how long, in which order, which bytes.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;

/// Lengths at which an encoding or a buffer changes its ways. Every stream of [`Payload::mixed`] has each of them as
/// likely as any other length.
pub const EDGES: [usize; 9] = [0, 1, 63, 64, 16_383, 16_384, 65_535, 65_536, 1 << 20];

/// The seed of a run: the variable `SEED`, or always the same.
#[must_use]
pub fn seed() -> u64 {
    std::env::var("SEED").map_or(17, |seed| seed.parse().expect("SEED is a number"))
}

/// SplitMix64: small, and any seed is a good one.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed and the same `purpose`.
    #[must_use]
    pub const fn new(seed: u64, purpose: u64) -> Self {
        Self(seed ^ purpose.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// The next 64 bits.
    pub const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % bound as u64).expect("it is below a usize")
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.draw().to_le_bytes());
        }
        bytes.truncate(length);
        bytes.into()
    }
}

/// The messages of one stream.
#[derive(Debug)]
pub struct Payload {
    random: Random,
    lengths: std::vec::IntoIter<usize>,
    sent: Digest,
}

impl Payload {
    /// Messages of these lengths.
    #[must_use]
    pub fn new(random: Random, lengths: Vec<usize>) -> Self {
        Self { random, lengths: lengths.into_iter(), sent: Digest::default() }
    }

    /// So many messages: mostly short, up to `length_max`, the [`EDGES`] up to there among them.
    #[must_use]
    pub fn mixed(mut random: Random, messages: usize, length_max: usize) -> Self {
        let edges = EDGES.iter().take_while(|&&edge| edge <= length_max).count();
        let length = |_| match random.below(8) {
            0 => EDGES[random.below(edges)],
            1 => random.below(length_max.min(20_000) + 1),
            _ => random.below(length_max.min(300) + 1),
        };
        let lengths = (0..messages).map(length).collect();
        Self::new(random, lengths)
    }

    /// The digest of the messages so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.sent.clone()
    }
}

impl Iterator for Payload {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let message = self.random.bytes(self.lengths.next()?);
        self.sent.add(&message);
        Some(message)
    }
}

/// What a stream has carried. Two are equal when the same messages were added in the same order.
#[derive(Clone)]
pub struct Digest {
    /// How many messages.
    pub messages: u64,
    /// Their lengths' sum.
    pub bytes: u64,
    hash: Context,
}

impl Default for Digest {
    fn default() -> Self {
        Self { messages: 0, bytes: 0, hash: Context::new(&SHA256) }
    }
}

impl Digest {
    /// The next message.
    pub fn add(&mut self, message: &[u8]) {
        self.messages += 1;
        self.bytes += message.len() as u64;
        // With its length, so that the same bytes cut otherwise are not the same.
        self.hash.update(&(message.len() as u64).to_le_bytes());
        self.hash.update(message);
    }

    /// SHA-256 over the messages, each after its length.
    #[must_use]
    pub fn sha256(&self) -> String {
        self.hash.clone().finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        (self.messages, self.bytes, self.sha256()) == (other.messages, other.bytes, other.sha256())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages, {} bytes, {}", self.messages, self.bytes, self.sha256())
    }
}
