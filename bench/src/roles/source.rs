//! What streams carry, made at no cost, and what both ends compare.

use bytes::Bytes;
use crc32fast::Hasher;
use trunkline_tests::payload::{Random, seed};

/// Random bytes that all messages are cut out of. It fits into a second-level cache and leaves room there, so that what is
/// measured is not how fast memory is read.
const BLOCK_BYTES: usize = 128 << 10;

/// Messages of one length. Each one of a stream begins elsewhere in the same random bytes: swapped or lost ones show.
#[derive(Debug)]
pub(crate) struct Source {
    block: Bytes,
    message_bytes: usize,
}

impl Source {
    /// Messages of this length.
    pub(crate) fn new(message_bytes: usize) -> Self {
        let block = Random::new(seed(), 0).bytes(BLOCK_BYTES + message_bytes);
        Self { block, message_bytes }
    }

    /// The message of this number of a stream.
    pub(crate) fn message(&self, stream: usize, number: u64) -> Bytes {
        let mut random = Random::new(stream as u64, number);
        let begin = random.below(BLOCK_BYTES);
        self.block.slice(begin..begin + self.message_bytes)
    }
}

/// What one stream has carried, however it was cut up.
///
/// The check is a CRC-32 (IEEE 802.3): where the processor multiplies without carry it costs a tenth of what a byte
/// costs on its way, its state is a few bytes, and it does not depend on how the bytes are cut. All that are compared
/// compute it at both ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent {
    bytes: u64,
    hash: Hasher,
}

impl Sent {
    /// So much more. Without `hashed` only the length counts.
    pub(crate) fn add(&mut self, bytes: &[u8], hashed: bool) {
        self.bytes += bytes.len() as u64;
        if hashed {
            self.hash.update(bytes);
        }
    }

    /// Its length so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A number that tells this content of this stream from others. Those of many streams are summed up, in any order.
    pub(crate) fn fingerprint(&self, stream: usize) -> u64 {
        let content = u64::from(self.hash.clone().finalize()) << 32;
        Random::new(content ^ self.bytes, stream as u64 + 1).draw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_differ_by_stream_and_by_number() {
        let source = Source::new(64);
        assert_eq!(source.message(3, 5), Source::new(64).message(3, 5), "every process makes the same");
        assert_ne!(source.message(3, 5), source.message(3, 6));
        assert_ne!(source.message(3, 5), source.message(4, 5));
    }

    #[test]
    fn a_fingerprint_knows_content_order_and_stream_but_not_the_cuts() {
        let of = |pieces: &[&str], stream| {
            let mut sent = Sent::default();
            pieces.iter().for_each(|piece| sent.add(piece.as_bytes(), true));
            sent.fingerprint(stream)
        };
        assert_eq!(of(&["ab", "c"], 1), of(&["a", "bc"], 1));
        assert_ne!(of(&["abc"], 1), of(&["acb"], 1));
        assert_ne!(of(&["abc"], 1), of(&["abc"], 2));
        assert_ne!(of(&[], 1), of(&[""], 2));
    }
}
