//! Takes secrets out of text: as they are, percent-encoded in whole or in part, escaped as JSON does, in hexadecimal, and
//! in base64 wherever in the encoded bytes they begin; in any case of letters.
//!
//! What encodes in another way is not found, nor is a part of a secret. Called for all that a server said before a guest
//! sees it, and for all that a guest said before anybody does.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

/// Stands where a secret was.
const MARK: &[u8] = b"[secret]";
/// A piece of a secret that is shorter than this is not looked for at a cut.
const LEAST_PIECE: usize = 4;

/// What one value looks like.
pub(super) struct Needles(Vec<Needle>);

struct Needle {
    bytes: Zeroizing<Vec<u8>>,
    /// If it is base64: whether the character before and the one after it have bits of the secret too.
    base64: Option<(bool, bool)>,
}

impl Needles {
    pub(super) fn new(secret: &[u8]) -> Self {
        let hex = secret.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let hex = hex.map(|digit| b"0123456789abcdef"[usize::from(digit)]).collect();
        let plain = |bytes: Vec<u8>| Needle { bytes: Zeroizing::new(bytes), base64: None };
        let encoded = [0, 1, 2].map(|before| in_base64(secret, before));
        Self([plain(secret.to_vec()), plain(hex)].into_iter().chain(encoded).collect())
    }
}

/// The characters of base64 that a secret alone decides when `before` bytes stand before it.
fn in_base64(secret: &[u8], before: usize) -> Needle {
    let mut whole = Zeroizing::new(vec![0; before]);
    whole.extend_from_slice(secret);
    let text = Zeroizing::new(STANDARD_NO_PAD.encode(&*whole));
    let (start, end) = (8 * before, 8 * whole.len());
    let bytes = Zeroizing::new(text.as_bytes()[start.div_ceil(6)..end / 6].to_vec());
    Needle { bytes, base64: Some((start % 6 != 0, end % 6 != 0)) }
}

/// `text` with a mark in place of each secret; `None` if it has none.
pub(super) fn without(text: &[u8], needles: &[Arc<Needles>]) -> Option<Vec<u8>> {
    let starts = Starts::new(needles);
    let mut clean: Option<Vec<u8>> = None;
    let (mut at, mut kept) = (0, 0);
    while at < text.len() {
        let Some((length, needle)) = starts.longest(&text[at..]) else {
            at += 1;
            continue;
        };
        let (before, after) = needle.base64.unwrap_or_default();
        let clean = clean.get_or_insert_default();
        let is_digit =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte));
        let widened = at > kept && before && is_digit(text.get(at - 1));
        clean.extend_from_slice(&text[kept..at - usize::from(widened)]);
        clean.extend_from_slice(MARK);
        at += length;
        at += usize::from(after && is_digit(text.get(at)));
        kept = at;
    }
    clean.map(|mut clean| {
        clean.extend_from_slice(&text[kept..]);
        clean
    })
}

/// So many bytes at the start of `text` are the end of a secret whose beginning was cut off.
pub(super) fn cut_at_start(text: &[u8], needles: &[Arc<Needles>]) -> usize {
    let needles = needles.iter().flat_map(|needles| &needles.0);
    let ends = needles.flat_map(|needle| {
        let ends = (1..needle.bytes.len().saturating_sub(LEAST_PIECE - 1)).map(|start| &needle.bytes[start..]);
        ends.filter_map(|end| match_at(text, end, needle.base64.is_some()))
    });
    ends.max().unwrap_or(0)
}

/// The needles by the byte that a text begins with where they are.
struct Starts<'n>(Vec<Vec<&'n Needle>>);

impl<'n> Starts<'n> {
    fn new(needles: &'n [Arc<Needles>]) -> Self {
        let mut starts = vec![Vec::new(); 256];
        for needle in needles.iter().flat_map(|needles| &needles.0) {
            let first = needle.bytes[0];
            let other = match first {
                b'+' => b'-',
                b'/' => b'_',
                _ => first.to_ascii_uppercase(),
            };
            let begins: BTreeSet<u8> = [first, first.to_ascii_lowercase(), other, b'%', b'\\'].into();
            for byte in begins {
                starts[usize::from(byte)].push(needle);
            }
        }
        Self(starts)
    }

    /// The longest needle that `text` begins with, and its length there.
    fn longest(&self, text: &[u8]) -> Option<(usize, &'n Needle)> {
        let found = self.0[usize::from(*text.first()?)].iter();
        let found = found.filter_map(|needle| Some((match_at(text, &needle.bytes, needle.base64.is_some())?, *needle)));
        found.max_by_key(|(length, _)| *length)
    }
}

/// Reads the next byte, in the form that may be wanted: what it is, and how much of the text it takes.
type Unit = fn(&[u8], u8) -> Option<(u8, usize)>;

/// How much of the beginning of `text` is `needle`.
fn match_at(text: &[u8], needle: &[u8], base64: bool) -> Option<usize> {
    // A `%` or `\` of the secret itself may stand as it is or encoded: each reading is tried for the whole.
    [decoded, |text: &[u8], _| plain(text)].into_iter().find_map(|unit: Unit| {
        let mut at = 0;
        for wanted in needle {
            // Base64 may be broken into lines.
            while base64 && at > 0 && matches!(text.get(at), Some(b'\r' | b'\n')) {
                at += 1;
            }
            let (byte, length) = unit(&text[at..], *wanted)?;
            if !same(byte, *wanted, base64) {
                return None;
            }
            at += length;
        }
        Some(at)
    })
}

fn plain(text: &[u8]) -> Option<(u8, usize)> {
    text.first().map(|byte| (*byte, 1))
}

/// The byte that `text` begins with, decoded, and how long it is in the text. `wanted` is what it is compared with.
fn decoded(text: &[u8], wanted: u8) -> Option<(u8, usize)> {
    let hex = |digits: Option<&[u8]>| u8::from_str_radix(std::str::from_utf8(digits?).ok()?, 16).ok();
    let found = match text {
        [b'%', ..] => hex(text.get(1..3)).map(|byte| (byte, 3)),
        [b'\\', b'u', b'0', b'0', ..] => hex(text.get(4..6)).map(|byte| (byte, 6)),
        [b'\\', escaped @ (b'"' | b'\\' | b'/' | b'\''), ..] => Some((*escaped, 2)),
        [b'+', ..] if wanted == b' ' => Some((b' ', 1)),
        _ => None,
    };
    found.or_else(|| plain(text))
}

/// Whether the bytes are the same letter, in any case; in base64, in either alphabet.
fn same(a: u8, b: u8, base64: bool) -> bool {
    let standard = |byte| match byte {
        b'-' if base64 => b'+',
        b'_' if base64 => b'/',
        byte => byte,
    };
    standard(a).eq_ignore_ascii_case(&standard(b))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    const SECRET: &str = "s3cr3t/K+y~ 100%\\\"";

    fn scrubbed(text: &str) -> String {
        let needles = [Arc::new(Needles::new(SECRET.as_bytes()))];
        without(text.as_bytes(), &needles)
            .map_or_else(|| text.to_owned(), |clean| String::from_utf8_lossy(&clean).into_owned())
    }

    #[test]
    fn every_form_is_found() {
        let all_percent: String = SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let json = serde_json::to_string(SECRET).unwrap();
        let forms = [
            SECRET.to_owned(),
            SECRET.to_ascii_uppercase(),
            all_percent.clone(),
            all_percent.to_ascii_lowercase(),
            "s3cr3t%2FK%2By~%20100%25%5C%22".into(),
            "s3cr3t/K%2by~+100%25%5c%22".into(),
            json[1..json.len() - 1].to_owned(),
            "s3cr3t\\/K\\u002by~ 100%\\\\\\\"".into(),
            SECRET.bytes().map(|byte| format!("{byte:02x}")).collect(),
            SECRET.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ];
        for form in forms {
            assert_eq!(scrubbed(&format!("a {form} b {form}")), "a [secret] b [secret]", "{form}");
            assert_eq!(scrubbed(&form), "[secret]");
        }
    }

    #[test]
    fn base64_is_found_wherever_it_begins() {
        for before in ["", "a", "ab", "user:", "abcd"] {
            for after in ["", "z", "zy", "zyx"] {
                let text = format!("{before}{SECRET}{after}");
                let standard = STANDARD.encode(&text);
                let wrapped: Vec<_> =
                    standard.as_bytes().chunks(7).map(|line| std::str::from_utf8(line).unwrap()).collect();
                for form in [
                    standard.clone(),
                    URL_SAFE_NO_PAD.encode(&text),
                    standard.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D"),
                    wrapped.join("\r\n"),
                ] {
                    let shown = scrubbed(&form);
                    assert!(shown.contains("[secret]"), "{form}: {shown}");
                    let rest = shown.replace("[secret]", "").replace("%3D", "");
                    assert!(rest.len() <= 2 * (before.len() + after.len()) + 2, "{form}: {shown}");
                }
            }
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in ["", "s3cr3t", "%", "%2", "\\", "\\u00", "100%\\\"", "s3cr3t/K+y~ 100%\\", "é%zz\\x", "+++++"] {
            assert_eq!(scrubbed(text), text);
        }
        let needles = [Arc::new(Needles::new(SECRET.as_bytes()))];
        assert_eq!(without(&[0xff, 0, 0x80, b'%', b'\\'], &needles), None);
    }

    #[test]
    fn a_cut_secret_is_found_at_the_start() {
        let needles = [Arc::new(Needles::new(b"correct-horse"))];
        assert_eq!(cut_at_start(b"t-horse and more", &needles), 7);
        assert_eq!(cut_at_start(b"%2Dhorse and more", &needles), 8);
        assert_eq!(cut_at_start(b"rse and more", &needles), 0, "too little to tell");
        assert_eq!(cut_at_start(b"horses", &needles), 5);
        assert_eq!(cut_at_start(b"", &needles), 0);
    }
}
