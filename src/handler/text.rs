//! Text from a guest, made fit for a log line, a table cell or a terminal: one line, bounded, no control characters.

/// What `picored` shows of a reason or an outcome, in bytes.
pub(crate) const SHORT: usize = 1 << 10;

/// `text` on one line, with control and direction-changing characters escaped, and cut to about `limit` bytes.
pub(crate) fn clean(text: &str, limit: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(limit));
    for character in text.trim_end().chars() {
        if clean.len() >= limit {
            clean.push('…');
            break;
        }
        match character {
            '\n' => clean.push_str("\\n"),
            '\t' => clean.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                clean.extend(character.escape_unicode());
            }
            other if other.is_control() => clean.extend(other.escape_unicode()),
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_the_line() {
        assert_eq!(clean("a\nb\tc\u{1b}[31m\r\u{202e}\n", 100), "a\\nb c\\u{1b}[31m\\u{d}\\u{202e}");
        assert_eq!(clean("naïve “text”", 100), "naïve “text”");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(clean("éééé", 3), "éé…");
        assert!(clean(&"\u{1}".repeat(10_000), 50).len() < 70);
    }
}
