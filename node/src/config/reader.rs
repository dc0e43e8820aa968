//! Reads a TOML document key by key and reports everything that is wrong with it where it stands.
//!
//! A key is read by its name, together with its default; what nobody asked for is unknown.
//! Derived deserializers would stop at the first error, and could name neither the key of a value nor its bounds.

use std::{ffi::OsStr, ops::Range, path::PathBuf, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{document::Document, keys, rules};

/// A value and where it stands.
type Value<'t> = Spanned<DeValue<'t>>;

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

    /// Where the value of `key` stands, if it is there and was not taken yet.
    pub(super) fn span_of(&self, key: &str) -> Option<Range<usize>> {
        self.entries.get(key).map(Spanned::span)
    }

    /// Where `span` is, as part of a sentence.
    pub(super) fn place(&self, span: &Range<usize>) -> String {
        self.document.place(span)
    }

    /// A key of this section as errors name it.
    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Notes that the value of one of this section's keys is wrong.
    pub(super) fn report(&self, key: &str, span: Range<usize>, text: impl Into<String>) {
        self.document.report(self.full(key), &span, text);
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

    /// A path; a relative one starts where its text comes from.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let value = self.require(key, "give a path");
        let path = self.text(key, value)?;
        if let Err(why) = rules::check_path(OsStr::new(path.get_ref())) {
            self.report(key, path.span(), why);
            return None;
        }
        Some(self.document.folder(&path.span()).join(path.into_inner()))
    }

    /// A whole number within its bounds, if the key is there.
    fn number(&mut self, key: &'static str) -> Option<u64> {
        let value = self.take(key);
        let allowed = keys::allowed(&self.full(key));
        let value = value?;
        let span = value.span();
        let DeValue::Integer(integer) = value.into_inner() else {
            let text = self.document.text(&span);
            self.report(key, span, format!("a whole number is expected here, not {text}"));
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if allowed.contains(&number) => Some(number),
            _ => {
                self.report(key, span, rules::outside(integer, allowed));
                None
            }
        }
    }

    /// A whole number within its bounds, all of which `T` must hold, or `default` when the key is absent.
    pub(super) fn count<T: TryFrom<u64>>(&mut self, key: &'static str, default: T) -> T {
        self.number(key).and_then(|number| T::try_from(number).ok()).unwrap_or(default)
    }

    /// Milliseconds within their bounds, or `default` when the key is absent.
    pub(super) fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.number(key).map_or(default, Duration::from_millis)
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
