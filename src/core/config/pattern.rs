//! A name, or how names begin: `www`, `shop-*`. What `on` and `apps` of a handler are lists of.
//!
//! A `*` stands at the end alone, for any rest, also for none. Whether a pattern makes sense where it stands is the
//! checks' to say; this type only matches.

use std::fmt;

/// Whether `name` is `pattern`, or begins with what stands in it before a `*`.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(front) => name.starts_with(front),
        None => name == pattern,
    }
}

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Takes `text` as it is.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether `name` is the one, or begins like this.
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_stands_for_any_rest() {
        let table: [(&str, &[&str], &[&str]); 7] = [
            ("www", &["www"], &["ww", "wwww", "WWW", "", "www-a"]),
            ("shop-*", &["shop-", "shop-a", "shop-eu-1"], &["shop", "ashop-", "Shop-a", ""]),
            ("shop*", &["shop", "shop-a", "shops"], &["sho", "a-shop"]),
            ("*", &["", "www", "shop-a"], &[]),
            // Anywhere else it is a character like any other, which no name has.
            ("*-up", &["*-up"], &["app-up"]),
            ("a*b*", &["a*b", "a*bc"], &["ab", "axb", "axbc"]),
            ("", &[""], &["a"]),
        ];
        for (pattern, matched, others) in table {
            let is_matched = |name: &&str| Pattern::new(pattern).matches(name);
            assert!(matched.iter().all(is_matched), "{pattern}");
            assert!(!others.iter().any(is_matched), "{pattern}");
        }
    }
}
