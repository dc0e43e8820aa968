//! The check: the same files counted once more in one plain loop, which shares nothing with mappers and reducers.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    corpus,
    plan::{Part, Plan},
};

/// How many times each word was seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts(HashMap<Box<[u8]>, u64>);

/// Why there is no count to compare.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CountError {
    /// A file of the corpus, or a reducer's counts.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A reducer wrote something else than counts.
    #[error("{path}, line {line}: not a word and its count", path = path.display())]
    Malformed {
        /// Where.
        path: PathBuf,
        /// The first such line, from 1.
        line: usize,
    },
    /// Two reducers counted one word, which its hash sends to one of them.
    #[error("two reducers of {job} counted {word:?}")]
    Twice {
        /// Their job.
        job: String,
        /// The word.
        word: String,
    },
    /// The launcher is told to stop.
    #[error("stopped")]
    Stopped,
}

/// A word that was counted wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Which.
    pub(crate) word: String,
    /// By mappers and reducers.
    pub(crate) counted: u64,
    /// By the plain loop.
    pub(crate) expected: u64,
}

impl Counts {
    /// Counts `word` `times` more.
    pub(crate) fn add(&mut self, word: &[u8], times: u64) {
        match self.0.get_mut(word) {
            Some(count) => *count += times,
            None => {
                self.0.insert(word.into(), times);
            }
        }
    }

    /// Different words.
    pub(crate) fn distinct(&self) -> usize {
        self.0.len()
    }

    /// Words in all.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The `length` most frequent words, the first in the alphabet first among equals.
    pub(crate) fn top(&self, length: usize) -> Vec<(String, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(word, &count)| (&**word, count)).collect();
        all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all.truncate(length);
        all.into_iter().map(|(word, count)| (text(word), count)).collect()
    }

    /// The plain loop. `read` is told how many bytes each file had; `stop` ends it before the next one.
    pub(crate) fn of_files(
        files: &[corpus::File],
        mut read: impl FnMut(u64),
        stop: &AtomicBool,
    ) -> Result<Self, CountError> {
        let mut counts = Self::default();
        for corpus::File { path, .. } in files {
            if stop.load(Ordering::Relaxed) {
                return Err(CountError::Stopped);
            }
            let bytes = fs::read(path).map_err(|source| CountError::Unreadable { path: path.clone(), source })?;
            counts.add_words_of(&bytes);
            read(bytes.len() as u64);
        }
        Ok(counts)
    }

    /// The plain loop over the first `bytes` of one file.
    pub(crate) fn of_beginning(file: &corpus::File, bytes: u64) -> Result<Self, CountError> {
        let mut counts = Self::default();
        let text = fs::read(&file.path).map_err(|source| CountError::Unreadable { path: file.path.clone(), source })?;
        let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(text.len());
        counts.add_words_of(&text[..length]);
        Ok(counts)
    }

    /// Counts every word of `text`, plainly.
    fn add_words_of(&mut self, text: &[u8]) {
        let text = text.to_ascii_lowercase();
        for word in text.split(|&byte| !byte.is_ascii_alphanumeric() && byte != b'_') {
            if !word.is_empty() {
                self.add(word, 1);
            }
        }
    }

    /// Every count, `times` over.
    pub(crate) fn times(&self, times: u64) -> Self {
        let mut counts = Self::default();
        counts.add_all(self, times);
        counts
    }

    /// Adds every count of `other`, `times` over.
    pub(crate) fn add_all(&mut self, other: &Self, times: u64) {
        if times > 0 {
            other.0.iter().for_each(|(word, count)| self.add(word, count * times));
        }
    }

    /// What the reducers of counted job number `job` wrote.
    pub(crate) fn of_job(plan: &Plan, folder: &Path, job: usize) -> Result<Self, CountError> {
        let mut counts = Self::default();
        for reducer in 0..plan.workers_of(job, Part::Reduce) {
            for (word, count) in Self::of_reducer(plan, folder, job, reducer)?.0 {
                if counts.0.contains_key(&word) {
                    return Err(CountError::Twice { job: plan.job(job), word: text(&word) });
                }
                counts.0.insert(word, count);
            }
        }
        Ok(counts)
    }

    /// What one reducer wrote.
    pub(crate) fn of_reducer(plan: &Plan, folder: &Path, job: usize, reducer: usize) -> Result<Self, CountError> {
        let mut counts = Self::default();
        let path = plan.counts_path(folder, job, reducer);
        let lines = fs::read(&path).map_err(|source| CountError::Unreadable { path: path.clone(), source })?;
        for (at, line) in lines.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let (word, count) =
                parse(line).ok_or_else(|| CountError::Malformed { path: path.clone(), line: at + 1 })?;
            counts.add(word, count);
        }
        Ok(counts)
    }

    /// Writes them as [`Counts::of_job`] reads them.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(File::create_new(path)?);
        for (word, count) in &self.0 {
            out.write_all(word)?;
            writeln!(out, " {count}")?;
        }
        out.flush()
    }

    /// Every word whose count is not the `expected` one, in the alphabet's order.
    pub(crate) fn differences(&self, expected: &Self) -> Vec<Difference> {
        let difference = |word: &[u8], counted, expected| Difference { word: text(word), counted, expected };
        let mut differences: Vec<_> = expected
            .0
            .iter()
            .map(|(word, &expected)| (word, self.0.get(word).copied().unwrap_or(0), expected))
            .filter(|(_, counted, expected)| counted != expected)
            .chain(self.0.iter().filter(|(word, _)| !expected.0.contains_key(*word)).map(|(word, &n)| (word, n, 0)))
            .map(|(word, counted, expected)| difference(word, counted, expected))
            .collect();
        differences.sort_unstable_by(|a, b| a.word.cmp(&b.word));
        differences
    }
}

/// Words are ASCII.
fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

/// A line `word count`.
fn parse(line: &[u8]) -> Option<(&[u8], u64)> {
    let line = line.strip_suffix(b"\n")?;
    let space = line.iter().position(|&byte| byte == b' ')?;
    let count = str::from_utf8(&line[space + 1..]).ok()?.parse().ok()?;
    Some((&line[..space], count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(words: &[(&str, u64)]) -> Counts {
        let mut counts = Counts::default();
        words.iter().for_each(|(word, times)| counts.add(word.as_bytes(), *times));
        counts
    }

    fn plan(run: &str) -> Plan {
        let nodes = vec!["node-1".to_owned()];
        Plan { run: run.to_owned(), nodes, per_node: 2, jobs: 1, rounds: Some(1), stall: 0, embedded: false }
    }

    #[test]
    fn the_plain_loop_counts_lower_cased_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, "The the_end THE 42\u{fc}42").unwrap();
        let (mut read, file) = (0, corpus::File { path, bytes: 22 });
        let counted = Counts::of_files(std::slice::from_ref(&file), |bytes| read += bytes, &AtomicBool::new(false));
        assert_eq!(counted.unwrap(), counts(&[("the", 2), ("the_end", 1), ("42", 2)]));
        assert_eq!(read, 22);
        let stopped = Counts::of_files(&[file], |_| (), &AtomicBool::new(true));
        assert!(matches!(stopped, Err(CountError::Stopped)));
    }

    #[test]
    fn a_word_that_the_end_of_a_beginning_cuts_ends_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = corpus::File { path: folder.path().join("text"), bytes: 11 };
        fs::write(&file.path, "One one two").unwrap();
        let beginning = |bytes| Counts::of_beginning(&file, bytes).unwrap();
        assert_eq!(beginning(9), counts(&[("one", 2), ("t", 1)]));
        assert_eq!(beginning(u64::MAX), counts(&[("one", 2), ("two", 1)]));
        let mut all = beginning(3);
        all.add_all(&beginning(11), 5);
        all.add_all(&beginning(9), 0);
        assert_eq!(all, counts(&[("one", 11), ("two", 5)]));
    }

    #[test]
    fn what_reducers_write_is_read_as_one_count() {
        let (folder, plan) = (tempfile::tempdir().unwrap(), plan("r"));
        plan.write(folder.path(), &[], &[]).unwrap();
        counts(&[("a", 3), ("b", 1)]).write(&plan.counts_path(folder.path(), 0, 0)).unwrap();
        let second = plan.counts_path(folder.path(), 0, 1);
        counts(&[("c", 2)]).write(&second).unwrap();
        assert_eq!(Counts::of_job(&plan, folder.path(), 0).unwrap(), counts(&[("a", 3), ("b", 1), ("c", 2)]));
        fs::write(&second, "c 2\nb 9\n").unwrap();
        assert!(matches!(Counts::of_job(&plan, folder.path(), 0), Err(CountError::Twice { word, .. }) if word == "b"));
        fs::write(&second, "c 2\nd 4").unwrap();
        assert!(matches!(Counts::of_job(&plan, folder.path(), 0), Err(CountError::Malformed { line: 2, .. })));
    }

    #[test]
    fn every_word_that_differs_is_found() {
        let expected = counts(&[("same", 5), ("fewer", 5), ("missing", 5)]);
        let found = counts(&[("same", 5), ("fewer", 4), ("more", 1)]).differences(&expected);
        let found: Vec<_> = found.iter().map(|d| (d.word.as_str(), d.counted, d.expected)).collect();
        assert_eq!(found, [("fewer", 4, 5), ("missing", 0, 5), ("more", 1, 0)]);
        assert!(expected.differences(&expected).is_empty());
    }

    #[test]
    fn the_top_is_ordered_by_count_and_then_by_the_alphabet() {
        let top = counts(&[("b", 2), ("a", 2), ("c", 9), ("d", 1)]).top(3);
        assert_eq!(top, [("c".to_owned(), 9), ("a".to_owned(), 2), ("b".to_owned(), 2)]);
    }
}
