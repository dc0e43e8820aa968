//! What a word is, and which reducer counts it.
//!
//! A word is a maximal run of ASCII letters, digits and `_`, lower-cased. Files are read in chunks, and a word that a
//! chunk's end cuts is carried over to the next chunk, however long it is.

/// Bytes of a file that are read and sent at a time.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// For every byte, whether it may stand in a word.
const IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_';
        byte += 1;
    }
    table
};

/// Cuts one file into words, chunk by chunk.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The word that the last chunk ended in.
    begun: Vec<u8>,
}

impl Splitter {
    /// Lower-cases the next chunk and hands out every word that ends in it.
    pub(crate) fn feed(&mut self, chunk: &mut [u8], mut word: impl FnMut(&[u8])) {
        chunk.make_ascii_lowercase();
        let mut rest = &*chunk;
        if !self.begun.is_empty() {
            let (head, tail) = rest.split_at(word_length(rest));
            self.begun.extend_from_slice(head);
            if tail.is_empty() {
                return;
            }
            word(&self.begun);
            self.begun.clear();
            rest = tail;
        }
        while let Some(start) = rest.iter().position(|&byte| IN_WORD[usize::from(byte)]) {
            let (head, tail) = rest[start..].split_at(word_length(&rest[start..]));
            if tail.is_empty() {
                self.begun.extend_from_slice(head);
                return;
            }
            word(head);
            rest = tail;
        }
    }

    /// The file has ended: hands out the word that it ended in.
    pub(crate) fn end(&mut self, mut word: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            word(&self.begun);
            self.begun.clear();
        }
    }
}

/// How many bytes at the start of `text` belong to a word.
fn word_length(text: &[u8]) -> usize {
    text.iter().position(|&byte| !IN_WORD[usize::from(byte)]).unwrap_or(text.len())
}

/// Which of `reducers` counts `word`: its FNV-1a hash of 64 bits, modulo their number. Every process must agree.
pub(crate) fn reducer_of(word: &[u8], reducers: usize) -> usize {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = word.iter().fold(OFFSET_BASIS, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    usize::try_from(hash % reducers as u64).expect("smaller than a usize")
}

/// The words of one chunk on their way: one buffer for each reducer, every word followed by a line feed.
#[derive(Debug)]
pub(crate) struct Batches {
    buffers: Vec<Vec<u8>>,
}

impl Batches {
    /// Empty buffers.
    pub(crate) fn new(reducers: usize) -> Self {
        Self { buffers: vec![Vec::new(); reducers] }
    }

    /// Puts a word where it belongs.
    pub(crate) fn push(&mut self, word: &[u8]) {
        let reducer = reducer_of(word, self.buffers.len());
        let buffer = &mut self.buffers[reducer];
        buffer.extend_from_slice(word);
        buffer.push(b'\n');
    }

    /// Takes the buffers that are not empty, each with the number of its reducer.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (usize, Vec<u8>)> + use<'_> {
        let filled = self.buffers.iter_mut().enumerate().filter(|(_, buffer)| !buffer.is_empty());
        filled.map(|(reducer, buffer)| {
            let room = buffer.len();
            (reducer, std::mem::replace(buffer, Vec::with_capacity(room)))
        })
    }
}

/// The words of a message, as [`Batches`] wrote them; nothing when its last line feed is missing.
pub(crate) fn unpack(message: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    Some(message.strip_suffix(b"\n")?.split(|&byte| byte == b'\n'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &[u8], chunk_bytes: usize) -> Vec<Vec<u8>> {
        let (mut splitter, mut words) = (Splitter::default(), Vec::new());
        for chunk in text.chunks(chunk_bytes) {
            splitter.feed(&mut chunk.to_vec(), |word| words.push(word.to_vec()));
        }
        splitter.end(|word| words.push(word.to_vec()));
        words
    }

    fn naive(text: &[u8]) -> Vec<Vec<u8>> {
        let text = text.to_ascii_lowercase();
        let words = text.split(|&byte| !(byte.is_ascii_alphanumeric() || byte == b'_'));
        words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn words_are_runs_of_letters_digits_and_underscores() {
        let words = split("Ünder_score42 x--Y\u{0}z".as_bytes(), CHUNK_BYTES);
        assert_eq!(words, [b"nder_score42".to_vec(), b"x".to_vec(), b"y".to_vec(), b"z".to_vec()]);
    }

    #[test]
    fn a_word_may_be_longer_than_many_chunks() {
        let word = vec![b'w'; 10 * CHUNK_BYTES + 1];
        assert_eq!(split(&word, CHUNK_BYTES), [word]);
    }

    #[test]
    fn a_splitter_starts_afresh_after_the_end_of_a_file() {
        let (mut splitter, mut words) = (Splitter::default(), Vec::new());
        for _ in 0..2 {
            splitter.feed(&mut b"end".to_vec(), |word| words.push(word.to_vec()));
            splitter.end(|word| words.push(word.to_vec()));
        }
        assert_eq!(words, [b"end", b"end"]);
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // FNV-1a's test vectors: 0xcbf29ce484222325 for nothing, 0x85944171f73967e8 for "foobar".
        assert_eq!(reducer_of(b"", 1 << 16), 0x2325);
        assert_eq!(reducer_of(b"foobar", 1 << 16), 0x67e8);
    }

    proptest! {
        #[test]
        fn where_chunks_end_changes_nothing(text in "[a-zA-Z0-9_ .\u{e9}\n]{0,200}", chunk_bytes in 1..20_usize) {
            prop_assert_eq!(split(text.as_bytes(), chunk_bytes), naive(text.as_bytes()));
        }

        #[test]
        fn any_bytes_split_as_the_naive_way(text: Vec<u8>, chunk_bytes in 1..40_usize) {
            prop_assert_eq!(split(&text, chunk_bytes), naive(&text));
        }

        #[test]
        fn every_word_reaches_one_reducer_once(
            words in proptest::collection::vec("[a-z0-9_]{1,8}", 0..60), reducers in 1..9_usize
        ) {
            let mut batches = Batches::new(reducers);
            for word in &words {
                batches.push(word.as_bytes());
            }
            let mut arrived = Vec::new();
            for (reducer, message) in batches.take() {
                for word in unpack(&message).unwrap() {
                    prop_assert_eq!(reducer_of(word, reducers), reducer);
                    arrived.push(String::from_utf8(word.to_vec()).unwrap());
                }
            }
            let mut words = words;
            words.sort();
            arrived.sort();
            prop_assert_eq!(arrived, words);
            prop_assert_eq!(batches.take().count(), 0);
        }
    }
}
