//! Reads a TOML document key by key and remembers everything that is wrong with it, with its line.
//!
//! A key is named once, where it is read, together with its default and its bounds; what nobody asked for is unknown.
//! Derived deserializers would stop at the first error, and could name neither the key of a value nor its bounds.

use std::{
    cell::RefCell,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::Problem;

/// A value and where it stands.
type Value<'t> = Spanned<DeValue<'t>>;

/// One text and what was found wrong in it so far.
pub(super) struct Document<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Document<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, problems: RefCell::default() }
    }

    /// Notes that the value of `key` at `span` is wrong.
    fn report(&self, key: impl Into<String>, span: Range<usize>, text: impl Into<String>) {
        let (line, _) = position(self.text, span.start);
        self.problems.borrow_mut().push(Problem { line, key: key.into(), text: text.into() });
    }

    /// What was found, by line.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}

/// The line and column, from 1, of a byte of `text`.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// One table of the document: what is left in it to be asked for.
pub(super) struct Section<'d, 't> {
    document: &'d Document<'t>,
    /// Empty for the top of the file.
    name: &'static str,
    /// Where its header stands.
    span: Range<usize>,
    entries: DeTable<'t>,
    asked_for: Vec<&'static str>,
}

impl<'d, 't> Section<'d, 't> {
    pub(super) fn top(document: &'d Document<'t>, table: Spanned<DeTable<'t>>) -> Self {
        Self::new(document, "", table.span(), table.into_inner())
    }

    fn new(document: &'d Document<'t>, name: &'static str, span: Range<usize>, entries: DeTable<'t>) -> Self {
        Self { document, name, span, entries, asked_for: Vec::new() }
    }

    /// Where the section's header stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where the value of `key` stands, or else the section's header.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.entries.get(key).map_or(self.span(), Spanned::span)
    }

    /// The line, from 1, that `span` starts on.
    pub(super) fn line(&self, span: Range<usize>) -> usize {
        position(self.document.text, span.start).0
    }

    /// A key of this section as errors name it.
    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Notes that the value of one of this section's keys is wrong.
    pub(super) fn report(&self, key: &str, span: Range<usize>, text: impl Into<String>) {
        self.document.report(self.full(key), span, text);
    }

    /// Takes a key out of the section.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'t>> {
        self.asked_for.push(key);
        self.entries.remove(key)
    }

    /// Takes a key that has no default; `remedy` says what to write.
    pub(super) fn require(&mut self, key: &'static str, remedy: &str) -> Option<Value<'t>> {
        let value = self.take(key);
        if value.is_none() {
            self.report(key, self.span.clone(), format!("this key is required; {remedy}"));
        }
        value
    }

    /// Reads `value` as text.
    pub(super) fn text(&self, key: &str, value: Option<Value<'t>>) -> Option<Spanned<String>> {
        let value = value?;
        let span = value.span();
        match value.into_inner() {
            DeValue::String(text) => Some(Spanned::new(span, text.into_owned())),
            other => self.mistyped(key, span, "text in quotes", &other),
        }
    }

    /// Reads `value` as a list.
    pub(super) fn list(&self, key: &str, value: Option<Value<'t>>) -> Option<Vec<Value<'t>>> {
        let value = value?;
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(list) => Some(list.into_iter().collect()),
            other => self.mistyped(key, span, "a list in brackets", &other),
        }
    }

    /// Notes that `value` is of the wrong type.
    pub(super) fn mistyped<T>(&self, key: &str, span: Range<usize>, expected: &str, value: &DeValue<'_>) -> Option<T> {
        self.report(key, span, format!("{expected} is expected here, not {}", type_of(value)));
        None
    }

    /// A path; a relative one starts at `folder`.
    pub(super) fn path(&mut self, key: &'static str, folder: &Path) -> Option<PathBuf> {
        let value = self.require(key, "give a path");
        let path = self.text(key, value)?;
        if path.get_ref().is_empty() || path.get_ref().contains('\0') {
            self.report(key, path.span(), "this is no path: it is empty or holds a NUL");
            return None;
        }
        Some(folder.join(path.into_inner()))
    }

    /// A whole number within `allowed`, or `default` when the key is absent.
    pub(super) fn number(&mut self, key: &'static str, default: u64, allowed: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.take(key) else { return default };
        let span = value.span();
        let DeValue::Integer(integer) = value.into_inner() else {
            let text = &self.document.text[span.clone()];
            self.report(key, span, format!("a whole number is expected here, not {text}"));
            return default;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if allowed.contains(&number) => number,
            _ => {
                let text = format!("{integer} is outside {} to {}", allowed.start(), allowed.end());
                self.report(key, span, text);
                default
            }
        }
    }

    /// A whole number within `allowed`, all of which `T` must hold.
    pub(super) fn count<T>(&mut self, key: &'static str, default: T, allowed: RangeInclusive<u64>) -> T
    where
        T: Copy + TryFrom<u64>,
        u64: TryFrom<T>,
    {
        let default_wide = u64::try_from(default).unwrap_or(*allowed.end());
        T::try_from(self.number(key, default_wide, allowed)).unwrap_or(default)
    }

    /// Milliseconds within `allowed`, or `default` when the key is absent.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        allowed_ms: RangeInclusive<u64>,
    ) -> Duration {
        let default_ms = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.number(key, default_ms, allowed_ms))
    }

    /// One of the words in `choices`, or `default` when the key is absent.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        let value = self.take(key);
        let Some(word) = self.text(key, value) else { return default };
        if let Some(&(_, choice)) = choices.iter().find(|(name, _)| name == word.get_ref()) {
            return choice;
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        self.report(key, word.span(), format!("{:?} is not one of {}", word.get_ref(), names.join(", ")));
        default
    }

    /// The table `[name]`, if it is there.
    pub(super) fn section(&mut self, name: &'static str) -> Option<Section<'d, 't>> {
        let value = self.take(name)?;
        self.table(name, value)
    }

    /// The tables `[[name]]`, in the order of the file.
    pub(super) fn sections(&mut self, name: &'static str) -> Vec<Section<'d, 't>> {
        let value = self.take(name);
        let tables = self.list(name, value).unwrap_or_default();
        tables.into_iter().filter_map(|value| self.table(name, value)).collect()
    }

    /// Reads `value` as the table `[name]`.
    pub(super) fn table(&self, name: &'static str, value: Value<'t>) -> Option<Section<'d, 't>> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(entries) => Some(Section::new(self.document, name, span, entries)),
            other => self.mistyped(name, span, &format!("a table [{name}]"), &other),
        }
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self) {
        let allowed = self.asked_for.join(", ");
        for key in self.entries.keys() {
            self.report(key.get_ref(), key.span(), format!("unknown key; allowed here: {allowed}"));
        }
    }
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
