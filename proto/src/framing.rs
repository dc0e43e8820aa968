//! How messages lie in the bytes of a stream: a length, then that many bytes; at the end, the end mark.
//!
//! A length is a variable-length integer of RFC 9000 §16. The end mark is the greatest such integer, which no message
//! can have, and then the final offset: how many bytes of the stream precede the mark. Whoever finds the last bytes of
//! a stream without this mark before them knows that the sender did not finish.

use bytes::{BufMut, BytesMut};

/// The longest message that any configuration may allow: 1 GiB − 1, the most that four bytes of length express.
pub const MESSAGE_BYTES_LIMIT: usize = (1 << 30) - 1;
/// The longest length that precedes a message, in bytes.
pub const LENGTH_BYTES_MAX: usize = 4;
/// The end mark's size. It needs no credit: a receiver allows this much beyond every limit.
pub const END_MARK_BYTES: usize = 16;

const END_MARK: u64 = u64::MAX;

/// What stands at the head of a stream's unread bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// More bytes are needed to tell.
    Incomplete,
    /// A message of `length` bytes begins after `header` bytes.
    Message {
        /// How many bytes its length took.
        header: usize,
        /// How many bytes it has.
        length: usize,
    },
    /// The stream ends; so many bytes preceded this mark, its sender says.
    End {
        /// The final offset.
        final_offset: u64,
    },
    /// Eight-byte lengths are reserved for the end mark.
    Invalid,
}

/// Appends the length of a message that follows.
///
/// # Panics
/// When `length` is more than [`MESSAGE_BYTES_LIMIT`]; the caller has checked it against a smaller limit.
pub fn put_length(length: usize, out: &mut BytesMut) {
    assert!(length <= MESSAGE_BYTES_LIMIT, "a message of {length} bytes");
    #[expect(clippy::cast_possible_truncation, reason = "each arm checks the range")]
    match length {
        0..0x40 => out.put_u8(length as u8),
        0x40..0x4000 => out.put_u16(length as u16 | 0x4000),
        _ => out.put_u32(length as u32 | 0x8000_0000),
    }
}

/// How many bytes [`put_length`] appends.
#[must_use]
pub const fn length_bytes(length: usize) -> usize {
    match length {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        _ => 4,
    }
}

/// Appends the end mark.
pub fn put_end_mark(final_offset: u64, out: &mut BytesMut) {
    out.put_u64(END_MARK);
    out.put_u64(final_offset);
}

/// Reads what stands at the beginning of `bytes`, of which at most [`END_MARK_BYTES`] matter.
#[must_use]
pub fn head(bytes: &[u8]) -> Head {
    let Some(&first) = bytes.first() else { return Head::Incomplete };
    let size = 1 << (first >> 6);
    if size == 8 {
        let (Some(mark), Some(offset)) = (bytes.first_chunk::<8>(), bytes.get(8..END_MARK_BYTES)) else {
            return if bytes.iter().take(8).all(|&byte| byte == 0xff) { Head::Incomplete } else { Head::Invalid };
        };
        if u64::from_be_bytes(*mark) != END_MARK {
            return Head::Invalid;
        }
        let final_offset = offset.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        return Head::End { final_offset };
    }
    let Some(rest) = bytes.get(1..size) else { return Head::Incomplete };
    let length = rest.iter().fold(usize::from(first & 0x3f), |value, &byte| value << 8 | usize::from(byte));
    Head::Message { header: size, length }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lengths_survive(length in prop_oneof![0_usize..100, 0_usize..70_000, 0..=MESSAGE_BYTES_LIMIT]) {
            let mut out = BytesMut::new();
            put_length(length, &mut out);
            prop_assert_eq!(out.len(), length_bytes(length));
            prop_assert!(out.len() <= LENGTH_BYTES_MAX);
            for cut in 0..out.len() {
                prop_assert_eq!(head(&out[..cut]), Head::Incomplete);
            }
            prop_assert_eq!(head(&out), Head::Message { header: out.len(), length });
        }

        #[test]
        fn end_marks_survive_and_are_no_message(final_offset: u64) {
            let mut out = BytesMut::new();
            put_end_mark(final_offset, &mut out);
            prop_assert_eq!(out.len(), END_MARK_BYTES);
            for cut in 0..out.len() {
                prop_assert_eq!(head(&out[..cut]), Head::Incomplete);
            }
            prop_assert_eq!(head(&out), Head::End { final_offset });
        }

        #[test]
        fn garbage_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Head::Message { header, length } = head(&bytes) {
                prop_assert!(header <= LENGTH_BYTES_MAX && length <= MESSAGE_BYTES_LIMIT);
            }
        }
    }
}
