//! The texts that a configuration is read from, as one space of positions: the file, and after it each override.
//!
//! A TOML span counts from the start of the text that was parsed. Here each text has a range of positions of its own,
//! so that a span alone says which text it points into, and whatever reads values need not know that there are several.

use std::{cell::RefCell, ops::Range, path::Path};

use super::error::{Origin, Problem};

/// Some texts and what was found wrong in them so far.
pub(super) struct Document<'t> {
    /// The file.
    path: &'t Path,
    text: &'t str,
    /// By their start. The positions of the first follow those of the file.
    overrides: Vec<Override<'t>>,
    /// Each with its position.
    problems: RefCell<Vec<(usize, Problem)>>,
}

struct Override<'t> {
    start: usize,
    text: &'t str,
    origin: Origin,
}

impl<'t> Document<'t> {
    pub(super) fn new(text: &'t str, path: &'t Path) -> Self {
        Self { path, text, overrides: Vec::new(), problems: RefCell::default() }
    }

    /// Adds a text that is not the file's. The span is that of the whole text, and lies behind all earlier ones.
    pub(super) fn add(&mut self, text: &'t str, origin: Origin) -> Range<usize> {
        let end = self.overrides.last().map_or(self.text.len(), |last| last.start + last.text.len());
        // One position between two texts, so that an empty one has a position too.
        let start = end + 1;
        self.overrides.push(Override { start, text, origin });
        start..start + text.len()
    }

    /// The override that `span` points into; `None` if that is the file.
    fn source(&self, span: &Range<usize>) -> Option<&Override<'t>> {
        let after = self.overrides.partition_point(|source| source.start <= span.start);
        self.overrides[..after].last()
    }

    /// What stands at `span`.
    pub(super) fn text(&self, span: &Range<usize>) -> &'t str {
        let (start, text) = self.source(span).map_or((0, self.text), |source| (source.start, source.text));
        text.get(span.start - start..span.end - start).unwrap_or(text)
    }

    /// Where relative paths at `span` start: at the file's folder, or at the working directory for an override.
    pub(super) fn folder(&self, span: &Range<usize>) -> &'t Path {
        match self.source(span) {
            Some(_) => Path::new(""),
            None => self.path.parent().unwrap_or(Path::new("")),
        }
    }

    /// Where `span` is, as part of a sentence.
    pub(super) fn place(&self, span: &Range<usize>) -> String {
        match self.source(span) {
            Some(source) => format!("in {}", source.origin),
            None => format!("on line {}", position(self.text, span.start).0),
        }
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        match self.source(span) {
            Some(source) => source.origin.clone(),
            None => Origin::File { path: self.path.to_owned(), line: position(self.text, span.start).0 },
        }
    }

    /// Notes that the value of `key` at `span` is wrong.
    pub(super) fn report(&self, key: impl Into<String>, span: &Range<usize>, text: impl Into<String>) {
        let problem = Problem { origin: self.origin(span), key: key.into(), text: text.into() };
        self.problems.borrow_mut().push((span.start, problem));
    }

    /// What was found, by position.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|&(position, _)| position);
        problems.into_iter().map(|(_, problem)| problem).collect()
    }
}

/// The line and column, from 1, of a byte of `text`.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
