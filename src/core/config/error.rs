//! What is wrong with a config's text: each mistake with its place, an excerpt and a remedy.
//!
//! Made by the reading only, which goes on after a mistake so that one run shows them all. `picored check` and the
//! daemon's start print them; programs read the fields.

use std::fmt;
use std::ops::Range;

/// Longest excerpt of a line, in characters.
const MAX_EXCERPT: usize = 100;
/// So many characters stand before the caret where an excerpt begins inside of its line.
const LEAD: usize = 30;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
    excerpt: Excerpt,
}

/// A piece of a line, and which characters of it are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    before: usize,
    marked: usize,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, message, help, excerpt } = self;
        writeln!(f, "line {line}, column {column}: {message}")?;
        writeln!(f, "{line:>5} | {}", excerpt.text)?;
        writeln!(f, "      | {:before$}{:^<marked$}", "", "", before = excerpt.before, marked = excerpt.marked)?;
        write!(f, "help: {help}")
    }
}

/// All mistakes of a config, in the order of their places; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The mistakes.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'e> IntoIterator for &'e ConfigErrors {
    type Item = &'e ConfigError;
    type IntoIter = std::slice::Iter<'e, ConfigError>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.iter().enumerate() {
            if number > 0 {
                f.write_str("\n\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Stands for a value that is not there because its mistake has been written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported(());

/// All values, or that there was a mistake in one. Each is read, also after a mistake.
pub(super) fn all<T>(values: impl Iterator<Item = Result<T, Reported>>) -> Result<Vec<T>, Reported> {
    let mut all = Ok(Vec::new());
    for value in values {
        match (value, &mut all) {
            (Ok(value), Ok(all)) => all.push(value),
            (Ok(_), Err(_)) => {}
            (Err(reported), _) => all = Err(reported),
        }
    }
    all
}

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

#[derive(Debug)]
struct Finding {
    place: Range<usize>,
    message: String,
    help: String,
}

impl Findings {
    /// Writes a mistake down. `place` is in bytes of the text.
    pub(super) fn report(
        &mut self,
        place: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Reported {
        self.0.push(Finding { place, message: message.into(), help: help.into() });
        Reported(())
    }

    /// For a value that is not there because of a mistake that was written down elsewhere.
    pub(super) fn reported_before(&self) -> Reported {
        debug_assert!(!self.0.is_empty(), "there is a mistake");
        Reported(())
    }

    /// The value, or all mistakes if there is any.
    pub(super) fn finish<T>(mut self, text: &str, value: Result<T, Reported>) -> Result<T, ConfigErrors> {
        match value {
            Ok(value) if self.0.is_empty() => Ok(value),
            _ => {
                self.0.sort_by_key(|finding| finding.place.start);
                Err(ConfigErrors(self.0.into_iter().map(|finding| finding.locate(text)).collect()))
            }
        }
    }
}

impl Finding {
    fn locate(self, text: &str) -> ConfigError {
        let start = text.floor_char_boundary(self.place.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_text = text[line_start..].lines().next().unwrap_or_default();
        let line = text[..line_start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        let end = text.ceil_char_boundary(self.place.end).min(line_start + line_text.len()).max(start);
        let excerpt = Excerpt::of(line_text, column, text[start..end].chars().count());
        ConfigError { line, column, message: self.message, help: self.help, excerpt }
    }
}

impl Excerpt {
    fn of(line: &str, column: usize, marked: usize) -> Self {
        let length = line.chars().count();
        let skipped = if length <= MAX_EXCERPT { 0 } else { (column - 1).saturating_sub(LEAD) };
        // A tab or another control character would put the caret elsewhere.
        let shown = |c: char| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        let mut text: String = line.chars().skip(skipped).take(MAX_EXCERPT).map(shown).collect();
        let mut before = column - 1 - skipped;
        let marked = marked.min(MAX_EXCERPT.saturating_sub(before)).max(1);
        if length > skipped + MAX_EXCERPT {
            text.push('…');
        }
        if skipped > 0 {
            text.insert(0, '…');
            before += 1;
        }
        Self { text, before, marked }
    }
}
