//! What flags and environment variables say in place of the configuration file.
//!
//! Their values are put into the table that the file became, before anything is read from it: so they pass through the
//! same reader, and what is wrong with them is told with everything else.

use std::{borrow::Cow, collections::HashSet, ffi::OsString, mem, ops::Range};

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    check::Finding,
    document::Document,
    error::Origin,
    keys::{KEYS, Key, Kind, PREFIX},
};

/// Variables of this family that are no keys.
const FAMILY: [&str; 3] = ["TRUNKLINE_CONFIG", "TRUNKLINE_LOG", "TRUNKLINE_SOCKET"];

/// What flags and variables say in place of the file. A flag counts more than a variable, and a variable more than the
/// file. A peer that they name takes the place of its entry, and all other entries stay.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The least important first.
    given: Vec<Given>,
    /// Variables that nobody reads, each with the one that was perhaps meant.
    misspelled: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
struct Given {
    key: &'static Key,
    origin: Origin,
    text: OsString,
}

impl Overrides {
    /// Takes what `flags` say of keys, and of all the environment's `variables` (`std::env::vars_os()`) those that
    /// belong to a key. A variable that is empty counts as unset.
    #[must_use]
    pub fn new(
        flags: impl IntoIterator<Item = (&'static Key, OsString)>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let mut overrides = Self::default();
        for (name, text) in variables {
            if let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX) && !text.is_empty()) {
                overrides.variable(name, text);
            }
        }
        // An environment has no order.
        overrides.misspelled.sort_unstable();
        let flags = flags.into_iter().map(|(key, text)| {
            let origin = Origin::Flag(format!("--{}", key.flag()));
            Given { key, origin, text }
        });
        overrides.given.extend(flags);
        overrides
    }

    fn variable(&mut self, name: &str, text: OsString) {
        if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
            self.given.push(Given { key, origin: Origin::Variable(name.to_owned()), text });
        } else if let Some(key) = misspelled(name) {
            self.misspelled.push((name.to_owned(), key.variable()));
        }
    }

    /// Warns of variables that look like the variable of a key, and are not: nobody reads them.
    #[must_use]
    pub fn check(&self) -> Vec<Finding> {
        let warning = |(name, meant): &(String, String)| {
            Finding::warning(format!("{name}: there is no such variable, it changes nothing; did you mean {meant}?"))
        };
        self.misspelled.iter().map(warning).collect()
    }

    /// Puts the values into the table that `document` became.
    pub(super) fn apply<'t>(&'t self, document: &mut Document<'t>, top: &mut DeTable<'t>) {
        for key in KEYS {
            let given: Vec<&'t Given> = self.given.iter().filter(|given| given.key == key).collect();
            if key.is_repeatable() {
                given.chunk_by(|a, b| a.origin == b.origin).for_each(|alike| put_peers(document, top, alike));
            } else if let Some(most_important) = given.last() {
                put(document, top, most_important);
            }
        }
    }
}

/// Puts one value in the place of the file's.
fn put<'t>(document: &mut Document<'t>, top: &mut DeTable<'t>, given: &'t Given) {
    let Some((text, span)) = add(document, given) else { return };
    let value = match value(&given.key.kind, text, &span) {
        Ok(value) => value,
        Err(why) => return document.report(given.key.path(), &span, why),
    };
    let (table, name) = given.key.table_and_name();
    let entries = if table.is_empty() {
        top
    } else {
        // A table that is not in the file has its place where missing ones are reported.
        let missing = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
        match top.entry(Spanned::new(0..0, Cow::Borrowed(table))).or_insert_with(missing).get_mut() {
            DeValue::Table(entries) => entries,
            // That the file has something else than a table there is reported when it is read.
            _ => return,
        }
    };
    entries.insert(Spanned::new(span.clone(), Cow::Borrowed(name)), Spanned::new(span, value));
}

/// Puts peers of one origin among those that were there before, in place of those that have the same id.
fn put_peers<'t>(document: &mut Document<'t>, top: &mut DeTable<'t>, given: &[&'t Given]) {
    let mut ids = HashSet::new();
    let mut added = Vec::new();
    for given in given {
        let Some((text, span)) = add(document, given) else { continue };
        let entries: Vec<&str> = match given.origin {
            Origin::Variable(_) => text.split_whitespace().collect(),
            _ => vec![text],
        };
        for entry in entries {
            if let Some((id, addresses)) = entry.split_once('=') {
                ids.insert(id);
                added.push(Spanned::new(span.clone(), peer(id, addresses, &span)));
            } else {
                let why = format!("{entry:?} is not an id and its addresses, such as \"node-b=10.0.0.2:7400\"");
                document.report(given.key.path(), &span, why);
            }
        }
    }
    let before = match top.get_mut("peer").map(Spanned::get_mut) {
        None => DeArray::new(),
        Some(DeValue::Array(peers)) => mem::replace(peers, DeArray::new()),
        // That the file has something else than a list there is reported when it is read.
        Some(_) => return,
    };
    let named = |peer: &Spanned<DeValue<'_>>| {
        let id = peer.as_ref().as_table().and_then(|peer| peer.get("id")?.as_ref().as_str());
        id.is_some_and(|id| ids.contains(id))
    };
    let mut peers = DeArray::new();
    before.into_iter().filter(|peer| !named(peer)).chain(added).for_each(|peer| peers.push(peer));
    top.insert(Spanned::new(0..0, Cow::Borrowed("peer")), Spanned::new(0..0, DeValue::Array(peers)));
}

/// Makes a text part of the document, if it is UTF-8.
fn add<'t>(document: &mut Document<'t>, given: &'t Given) -> Option<(&'t str, Range<usize>)> {
    let text = given.text.to_str();
    let span = document.add(text.unwrap_or_default(), given.origin.clone());
    if text.is_none() {
        document.report(given.key.path(), &span, "this is not UTF-8 text");
    }
    text.map(|text| (text, span))
}

/// The table of one peer, with addresses between commas.
fn peer<'t>(id: &'t str, addresses: &'t str, span: &Range<usize>) -> DeValue<'t> {
    let value = |value| Spanned::new(span.clone(), value);
    let addresses = words(addresses).map(|address| value(DeValue::String(Cow::Borrowed(address))));
    let mut list = DeArray::new();
    addresses.for_each(|address| list.push(address));
    DeValue::Table(DeTable::from_iter([
        (Spanned::new(span.clone(), Cow::Borrowed("id")), value(DeValue::String(Cow::Borrowed(id)))),
        (Spanned::new(span.clone(), Cow::Borrowed("addresses")), value(DeValue::Array(list))),
    ]))
}

/// What `text` means for a key of this kind. All of it stands at `span`.
fn value<'t>(kind: &Kind, text: &'t str, span: &Range<usize>) -> Result<DeValue<'t>, String> {
    match kind {
        Kind::Number(_) => Ok(whole_number(text.trim()).unwrap_or(DeValue::String(Cow::Borrowed(text)))),
        Kind::List(_) => {
            let mut list = DeArray::new();
            let values: Vec<DeValue<'t>> = if text.trim_start().starts_with('[') {
                let parsed = DeValue::parse(text.trim()).map_err(|error| {
                    format!("{text:?} begins like a list in brackets, and is none: {}", error.message())
                })?;
                match parsed.into_inner() {
                    DeValue::Array(values) => values.into_iter().map(Spanned::into_inner).collect(),
                    other => vec![other],
                }
            } else {
                words(text).map(|word| whole_number(word).unwrap_or_else(|| unquoted(word))).collect()
            };
            values.into_iter().for_each(|value| list.push(Spanned::new(span.clone(), value)));
            Ok(DeValue::Array(list))
        }
        Kind::Text(_) | Kind::Peer => Ok(unquoted(text)),
    }
}

/// What stands between commas. Nothing at all is no word.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let blank = text.trim().is_empty();
    text.split(',').map(str::trim).filter(move |_| !blank)
}

fn whole_number(text: &str) -> Option<DeValue<'_>> {
    DeValue::parse(text).ok().map(Spanned::into_inner).filter(|value| matches!(value, DeValue::Integer(_)))
}

/// Text in TOML's quotes, without them; anything else as it stands: a file may be called `7`.
fn unquoted(text: &str) -> DeValue<'_> {
    let parsed = DeValue::parse(text).ok().map(Spanned::into_inner);
    parsed.filter(|value| value.is_str()).unwrap_or(DeValue::String(Cow::Borrowed(text)))
}

/// The key whose variable was perhaps meant by `name`, which is none. Others than this family's programs use the prefix
/// too, so that most names mean nothing.
fn misspelled(name: &str) -> Option<&'static Key> {
    let rest = name.strip_prefix(PREFIX)?;
    if FAMILY.contains(&name) || is_service_link(rest) {
        return None;
    }
    let own = |key: &Key| key.variable()[PREFIX.len()..].to_owned();
    let (key, distance) = KEYS
        .iter()
        .map(|key| (key, strsim::damerau_levenshtein(rest, &own(key))))
        .min_by_key(|&(_, distance)| distance)?;
    // One letter in four is wrong at most.
    if distance <= (rest.len() / 4).max(1) {
        return Some(key);
    }
    let without_table = KEYS.iter().find(|key| key.table_and_name().1.to_ascii_uppercase() == rest);
    let in_table = |key: &&Key| {
        let (table, _) = key.table_and_name();
        let table = if key.is_repeatable() { key.path() } else { table };
        !table.is_empty() && rest.strip_prefix(&table.to_ascii_uppercase()).is_some_and(|rest| rest.starts_with('_'))
    };
    without_table.or_else(|| {
        let of_table = KEYS.iter().filter(in_table);
        of_table.min_by_key(|key| strsim::damerau_levenshtein(rest, &own(key)))
    })
}

/// Whether Kubernetes, or Docker before it, gives such a variable to each container that stands beside a service whose
/// name begins with the prefix: `SERVICE_HOST`, `SERVICE_PORT_QUIC`, `PORT`, `A_PORT_7400_UDP_ADDR`.
fn is_service_link(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    words.ends_with(&["SERVICE", "HOST"])
        || words.windows(2).any(|pair| pair == ["SERVICE", "PORT"] || (pair[0] == "PORT" && is_number(pair[1])))
        || words.last() == Some(&"PORT")
}
