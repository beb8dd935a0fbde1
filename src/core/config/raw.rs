//! The text as TOML, each value with its place, and the reading of values by key and type.
//!
//! A table is opened with all keys that it may have, so an unknown one is found whoever reads it. Readers here know
//! types, not meanings: `check` does the rest, and is their only caller.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Findings, Reported, all};
use crate::policy::quoted;

/// A text value and its place.
pub(super) type Text<'t> = Spanned<&'t str>;

/// One table of the text.
#[derive(Debug)]
pub(super) struct Table<'t> {
    title: &'static str,
    entries: &'t DeTable<'t>,
    place: Range<usize>,
    all_known: bool,
}

/// Reads `text` as TOML.
pub(super) fn document<'t>(text: &'t str, findings: &mut Findings) -> Result<Spanned<DeTable<'t>>, Reported> {
    let (table, errors) = DeTable::parse_recoverable(text);
    // One mistake often upsets the rest of its line: the first is the one that was made.
    let mut last_line = None;
    let mut outcome = Ok(table);
    for error in errors {
        let place = error.span().unwrap_or(text.len()..text.len());
        let line = text.as_bytes()[..place.start.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
        if last_line.replace(line) == Some(line) {
            continue;
        }
        let (message, help) = syntax(error.message());
        outcome = Err(findings.report(place, message, help));
    }
    outcome
}

/// What the TOML parser found, in words for who wrote the config, and the remedy.
fn syntax(found: &str) -> (&str, &'static str) {
    let about = |words: &[&str]| words.iter().any(|word| found.contains(word));
    // The parser guesses a type from the first letters of a bare word, and complains about the rest.
    if about(&["must be quoted", "invalid boolean", "invalid float", "invalid integer", "invalid date"]) {
        (
            "a value without quotes that is no number, date, true or false",
            "text, addresses and durations stand in double quotes, such as bind = \"127.0.0.1:7946\" or interval = \"5s\"",
        )
    } else if about(&["duplicate key"]) {
        (
            found,
            "a key or section may stand only once in its place; [[app]], [[handler]] and [[handler.http]] may repeat",
        )
    } else if about(&["escape"]) {
        (found, "in double quotes a backslash begins an escape; write `\\\\` for one, or use single quotes")
    } else if about(&["unclosed", "string"]) {
        (found, "close what was opened: every quote, bracket and brace has its other one")
    } else {
        (found, "write each setting on a line of its own as key = value, and sections as [name] or [[name]]")
    }
}

impl<'t> Table<'t> {
    /// The table of the whole text.
    pub(super) fn root(document: &'t Spanned<DeTable<'t>>, keys: &[&str], findings: &mut Findings) -> Self {
        Self::open("the config", document.get_ref(), 0..0, keys, findings)
    }

    fn open(
        title: &'static str,
        entries: &'t DeTable<'t>,
        place: Range<usize>,
        keys: &[&str],
        findings: &mut Findings,
    ) -> Self {
        let mut all_known = true;
        for key in entries.keys() {
            let name = key.get_ref().as_ref();
            if !keys.contains(&name) {
                all_known = false;
                let message = format!("`{}` is not a key of {title}", quoted(name));
                findings.report(key.span(), message, did_you_mean(name, keys));
            }
        }
        Self { title, entries, place, all_known }
    }

    /// Whether it has no other keys than those it may have.
    pub(super) fn all_known(&self) -> bool {
        self.all_known
    }

    /// As messages call it.
    pub(super) fn title(&self) -> &'static str {
        self.title
    }

    /// The place of its header.
    pub(super) fn place(&self) -> Range<usize> {
        self.place.clone()
    }

    /// The place of the value at `key`, or of the header if there is none.
    pub(super) fn place_of(&self, key: &str) -> Range<usize> {
        self.get(key).map_or_else(|| self.place(), Spanned::span)
    }

    /// All its keys and values.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Text<'t>, &'t Spanned<DeValue<'t>>)> + use<'t> {
        self.entries.iter().map(|(key, value)| (Spanned::new(key.span(), key.get_ref().as_ref()), value))
    }

    /// The value at `key`, whatever its type.
    pub(super) fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.entries.get(key)
    }

    /// Writes down that `key` is missing.
    pub(super) fn missing(&self, key: &str, example: &str, findings: &mut Findings) -> Reported {
        findings.report(self.place(), format!("{} has no `{key}`", self.title), format!("add {key} = {example}"))
    }

    /// The text at `key`.
    pub(super) fn text(&self, key: &str, findings: &mut Findings) -> Result<Option<Text<'t>>, Reported> {
        self.get(key).map(|value| as_text(key, value, findings)).transpose()
    }

    /// The text at `key`, which has to be there. `example` is a value as the config would have it.
    pub(super) fn required(&self, key: &str, example: &str, findings: &mut Findings) -> Result<Text<'t>, Reported> {
        self.text(key, findings)?.ok_or_else(|| self.missing(key, example, findings))
    }

    /// The whole number at `key`.
    pub(super) fn integer(&self, key: &str, findings: &mut Findings) -> Result<Option<Spanned<i64>>, Reported> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Some(integer) = value.get_ref().as_integer() else {
            return Err(wrong_type(key, value, "a whole number", &format!("write {key} = 2"), findings));
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Ok(Some(Spanned::new(value.span(), number))),
            Err(_) => Err(findings.report(value.span(), format!("`{key}` is far out of range"), "write fewer digits")),
        }
    }

    /// The `true` or `false` at `key`.
    pub(super) fn truth(&self, key: &str, findings: &mut Findings) -> Result<Option<bool>, Reported> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.get_ref().as_bool() {
            Some(truth) => Ok(Some(truth)),
            None => Err(wrong_type(key, value, "true or false", &format!("write {key} = true"), findings)),
        }
    }

    /// The list of texts at `key`.
    pub(super) fn texts(&self, key: &str, findings: &mut Findings) -> Result<Option<Vec<Text<'t>>>, Reported> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Some(list) = value.get_ref().as_array() else {
            let help = match value.get_ref().as_str() {
                Some(text) => format!("write {key} = [\"{}\"]", quoted(text)),
                None => format!("write {key} = [\"...\", \"...\"]"),
            };
            return Err(wrong_type(key, value, "a list", &help, findings));
        };
        all(list.iter().map(|item| as_text(key, item, findings))).map(Some)
    }

    /// The table at `key`, called `title` in messages, with all keys it may have; without keys: any.
    pub(super) fn table(
        &self,
        key: &str,
        title: &'static str,
        keys: Option<&[&str]>,
        findings: &mut Findings,
    ) -> Result<Option<Self>, Reported> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Some(entries) = value.get_ref().as_table() else {
            let form = if title.starts_with('[') { title.to_owned() } else { format!("{key} = {{ ... }}") };
            let help = match value.get_ref() {
                DeValue::Array(_) => format!("there is one at most: write {form}"),
                _ => format!("write {form}"),
            };
            return Err(wrong_type(key, value, "a section", &help, findings));
        };
        Ok(Some(match keys {
            Some(keys) => Self::open(title, entries, value.span(), keys, findings),
            None => Self { title, entries, place: value.span(), all_known: true },
        }))
    }

    /// The list of tables at `key`, called `title` in messages, with all keys each may have.
    pub(super) fn tables(
        &self,
        key: &str,
        title: &'static str,
        keys: &[&str],
        findings: &mut Findings,
    ) -> Result<Vec<Self>, Reported> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let help = format!("write {title}, with two brackets on each side, before each of them");
        let Some(list) = value.get_ref().as_array() else {
            return Err(wrong_type(key, value, "a list of sections", &help, findings));
        };
        all(list.iter().map(|item| match item.get_ref().as_table() {
            Some(entries) => Ok(Self::open(title, entries, item.span(), keys, findings)),
            None => Err(wrong_type(key, item, "a section", &help, findings)),
        }))
    }
}

/// `value`, found at `key`, as text.
pub(super) fn as_text<'t>(
    key: &str,
    value: &'t Spanned<DeValue<'t>>,
    findings: &mut Findings,
) -> Result<Text<'t>, Reported> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Spanned::new(value.span(), text.as_ref())),
        DeValue::Integer(number) => {
            Err(wrong_type(key, value, "text", &format!("put it in quotes: \"{}\"", quoted(number.as_str())), findings))
        }
        _ => Err(wrong_type(key, value, "text", "write text in double quotes", findings)),
    }
}

/// Writes down that the value of `key` should be `wanted`.
pub(super) fn wrong_type(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    wanted: &str,
    help: &str,
    findings: &mut Findings,
) -> Reported {
    let found = match value.get_ref() {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    };
    findings.report(value.span(), format!("`{key}` takes {wanted}, not {found}"), help)
}

/// A remedy for `word`, which is none of `known`: the nearest one, or all of them.
pub(super) fn did_you_mean(word: &str, known: &[&str]) -> String {
    // A third of the letters may differ; longer words than any known one are not worth the time.
    let longest = known.iter().map(|known| known.len()).max().unwrap_or(0);
    let nearest = known
        .iter()
        .filter(|_| word.len() <= 2 * longest)
        .map(|known| (strsim::damerau_levenshtein(&word.to_lowercase(), known), known))
        .filter(|(distance, known)| distance * 3 <= known.chars().count().max(3))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((_, nearest)) => format!("did you mean `{nearest}`?"),
        None => {
            let known: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
            format!("here may stand: {}", known.join(", "))
        }
    }
}
