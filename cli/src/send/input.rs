//! Reads the input on a thread of its own, so that a slow disk or an idle pipe never keeps the program from its signals.

use std::{
    fs::File,
    io::{self, Read},
    mem,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    thread,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// The most that one read asks for, and so the longest message of [`Framing::Blocks`]: what a pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// Messages of several reads share one allocation, so that short reads do not pin much more than they hold.
const BLOCK_BYTES: usize = 4 * READ_BYTES;

/// The longest line: what the SDK takes as a message unless told otherwise.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Batches, of one read each, that wait for the stream. The reader waits when they are full.
const BATCHES_MAX: usize = 2;

/// Why the input cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// The file cannot be opened.
    #[error("cannot open {}: {source}; --file names a file to read", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read {name} after {offset} bytes: {source}")]
    Read {
        /// Which input.
        name: String,
        /// How many bytes of it had been read.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// A line does not fit into a message.
    #[error("line {line} of {name} is longer than a message may be, {max} bytes; send it without --lines")]
    Line {
        /// Which input.
        name: String,
        /// Counted from 1.
        line: u64,
        /// In bytes.
        max: usize,
    },
}

/// How the input becomes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// What one read returned is a message.
    Blocks,
    /// A line is a message, without its newline.
    Lines,
}

/// An input that is open and not read yet.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    name: String,
}

impl Source {
    /// The file, or standard input.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, InputError> {
        let Some(path) = path else {
            let name = "standard input".to_owned();
            // Not `io::Stdin`, whose buffer would be one copy more.
            let file = io::stdin().as_fd().try_clone_to_owned();
            let file = file.map_err(|source| InputError::Read { name: name.clone(), offset: 0, source })?;
            return Ok(Self { file: file.into(), name });
        };
        let failed = |source| InputError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self { file, name: path.display().to_string() })
    }

    /// In bytes, where the system knows it.
    pub(crate) fn length(&self) -> Option<u64> {
        let metadata = self.file.metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }
}

/// An input that is being read.
#[derive(Debug)]
pub(crate) struct Input {
    batches: mpsc::Receiver<Result<Vec<Bytes>, InputError>>,
}

impl Input {
    /// Starts to read. The thread ends with the input, or at its next read after this was dropped.
    pub(crate) fn start(source: Source, framing: Framing) -> Result<Self, Failure> {
        let (give, batches) = mpsc::channel(BATCHES_MAX);
        let read = move || {
            for batch in Cutter::new(source.file, source.name, framing, LINE_BYTES_MAX) {
                // Nobody takes more after an error, or once the stream has ended.
                if give.blocking_send(batch).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("trunkline-input".to_owned()).spawn(read).map_err(Failure::Start)?;
        Ok(Self { batches })
    }

    /// The messages of the next read; `None` at the end of the input.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, InputError> {
        self.batches.recv().await.transpose()
    }
}

/// Cuts what it reads into messages.
#[derive(Debug)]
struct Cutter<R> {
    reader: R,
    name: String,
    framing: Framing,
    line_bytes_max: usize,
    /// Read, and not cut yet: the beginning of a line.
    buffer: BytesMut,
    /// How much of it is known to hold no newline.
    searched: usize,
    offset: u64,
    lines: u64,
    ended: bool,
}

impl<R: Read> Cutter<R> {
    fn new(reader: R, name: String, framing: Framing, line_bytes_max: usize) -> Self {
        let buffer = BytesMut::with_capacity(BLOCK_BYTES);
        Self { reader, name, framing, line_bytes_max, buffer, searched: 0, offset: 0, lines: 0, ended: false }
    }

    /// Reads once, and interrupted reads again. Returns how much.
    fn read(&mut self) -> Result<usize, InputError> {
        let held = self.buffer.len();
        if self.buffer.capacity() - held < READ_BYTES {
            // With a new block what is left moves along; a block that nobody else uses any more is taken again.
            self.buffer.reserve(BLOCK_BYTES);
        }
        self.buffer.resize(held + READ_BYTES, 0);
        let read = loop {
            match self.reader.read(&mut self.buffer[held..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(held + *read.as_ref().unwrap_or(&0));
        let name = || self.name.clone();
        let read = read.map_err(|source| InputError::Read { name: name(), offset: self.offset, source })?;
        self.offset += read as u64;
        Ok(read)
    }

    /// Cuts off the lines that are whole.
    fn cut_lines(&mut self) -> Result<Vec<Bytes>, InputError> {
        let mut lines = Vec::new();
        while let Some(found) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
            let length = mem::take(&mut self.searched) + found;
            self.lines += 1;
            self.check_line(length, self.lines)?;
            lines.push(self.buffer.split_to(length).freeze());
            self.buffer.advance(1);
        }
        self.searched = self.buffer.len();
        self.check_line(self.searched, self.lines + 1)?;
        Ok(lines)
    }

    fn check_line(&self, length: usize, line: u64) -> Result<(), InputError> {
        let max = self.line_bytes_max;
        if length > max { Err(InputError::Line { name: self.name.clone(), line, max }) } else { Ok(()) }
    }

    fn cut(&mut self) -> Result<Vec<Bytes>, InputError> {
        if self.read()? > 0 {
            return match self.framing {
                Framing::Blocks => Ok(vec![self.buffer.split().freeze()]),
                Framing::Lines => self.cut_lines(),
            };
        }
        self.ended = true;
        // A last line that has no newline.
        let rest = self.buffer.split().freeze();
        Ok(if rest.is_empty() { Vec::new() } else { vec![rest] })
    }
}

impl<R: Read> Iterator for Cutter<R> {
    type Item = Result<Vec<Bytes>, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let cut = self.cut();
        self.ended |= cut.is_err();
        Some(cut)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns what it is made of piece by piece, as a pipe does, and then an error, if it has one.
    struct Pieces(std::vec::IntoIter<Vec<u8>>, Option<io::ErrorKind>);

    impl Read for Pieces {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            match (self.0.find(|piece| !piece.is_empty()), self.1.take()) {
                (Some(piece), fails) => {
                    self.1 = fails;
                    into[..piece.len()].copy_from_slice(&piece);
                    Ok(piece.len())
                }
                (None, Some(kind)) => Err(kind.into()),
                (None, None) => Ok(0),
            }
        }
    }

    fn cutter(pieces: Vec<Vec<u8>>, framing: Framing, max: usize) -> Cutter<Pieces> {
        Cutter::new(Pieces(pieces.into_iter(), None), "the test".to_owned(), framing, max)
    }

    fn all(cutter: Cutter<Pieces>) -> Result<Vec<Vec<u8>>, InputError> {
        let batches = cutter.collect::<Result<Vec<_>, _>>()?;
        Ok(batches.into_iter().flatten().map(|message| message.to_vec()).collect())
    }

    fn lines(pieces: &[&str], max: usize) -> Result<Vec<Vec<u8>>, InputError> {
        all(cutter(pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect(), Framing::Lines, max))
    }

    #[test]
    fn a_last_line_without_a_newline_counts_and_an_empty_one_at_the_end_does_not() {
        assert_eq!(lines(&["a\n\nb"], 9).unwrap(), [&b"a"[..], b"", b"b"]);
        assert_eq!(lines(&["a\n", "b\n"], 9).unwrap(), [b"a", b"b"]);
        assert_eq!(lines(&[], 9).unwrap(), [b""; 0]);
        assert_eq!(lines(&["\n"], 9).unwrap(), [b""]);
    }

    #[test]
    fn a_line_beyond_the_limit_is_named_by_its_number() {
        assert_eq!(lines(&["12345\n1234", "5\n"], 5).unwrap(), [b"12345", b"12345"]);
        for text in [&["1\n2\n123456\n"][..], &["1\n2\n123", "456"]] {
            let error = lines(text, 5).unwrap_err();
            assert!(matches!(error, InputError::Line { line: 3, max: 5, .. }), "{error}");
            assert!(error.to_string().starts_with("line 3 of the test is longer"), "{error}");
        }
    }

    #[test]
    fn an_error_says_how_far_the_reading_came_and_ends_it() {
        let mut cutter = cutter(vec![b"abc".to_vec()], Framing::Blocks, 9);
        cutter.reader.1 = Some(io::ErrorKind::Other);
        assert_eq!(cutter.next().unwrap().unwrap(), [&b"abc"[..]]);
        assert!(matches!(cutter.next(), Some(Err(InputError::Read { offset: 3, .. }))));
        assert!(cutter.next().is_none());
    }

    #[test]
    fn an_interrupted_read_is_read_again() {
        let mut cutter = cutter(Vec::new(), Framing::Lines, 9);
        cutter.reader.1 = Some(io::ErrorKind::Interrupted);
        assert_eq!(all(cutter).unwrap(), [b""; 0]);
    }

    proptest! {
        #[test]
        fn lines_are_what_split_says_however_they_are_read(
            pieces in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40), 0..12),
        ) {
            let whole = pieces.concat();
            let mut expected: Vec<_> = whole.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            // After the last newline there is no line.
            expected.pop_if(|last| last.is_empty());
            prop_assert_eq!(all(cutter(pieces, Framing::Lines, 1 << 20)).unwrap(), expected);
        }

        #[test]
        fn blocks_are_what_was_read(lengths in prop::collection::vec(0..=READ_BYTES, 0..12)) {
            let pieces: Vec<_> = lengths.iter().zip(0..).map(|(&length, fill)| vec![fill; length]).collect();
            let expected: Vec<_> = pieces.iter().filter(|piece| !piece.is_empty()).cloned().collect();
            prop_assert_eq!(all(cutter(pieces, Framing::Blocks, 0)).unwrap(), expected);
        }
    }
}
