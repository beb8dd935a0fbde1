//! The names things go by: nodes, applications, handlers, secrets, clusters. One rule for all of them.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use ring::digest;
use serde::{Deserialize, Serialize};

/// A name is 1 to 63 characters: ASCII letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit.
/// The limit is a DNS label's, so that a name can stand anywhere a host's name can.
pub const MAX_LEN: usize = 63;

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than [`MAX_LEN`].
    #[error("a name has at most {MAX_LEN} characters, this one has {0}")]
    TooLong(usize),
    /// A character outside of the allowed ones, or a mark at either end.
    #[error("a name has ASCII letters, digits, `-`, `_`, `.` only, and begins and ends with a letter or digit: {0:?}")]
    Character(char),
}

fn check(text: &str) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    let last = text.chars().next_back().ok_or(NameError::Empty)?;
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')) {
        return Err(NameError::Character(bad));
    }
    if let Some(bad) = [first, last].into_iter().find(|c| !c.is_ascii_alphanumeric()) {
        return Err(NameError::Character(bad));
    }
    if text.len() > MAX_LEN { Err(NameError::TooLong(text.len())) } else { Ok(()) }
}

/// A text with the beginning of its SHA-256: a list of a thousand is looked through for one by comparing numbers.
#[derive(Clone)]
struct Keyed {
    key: u64,
    text: Arc<str>,
}

impl From<&str> for Keyed {
    fn from(text: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let key = u64::from_be_bytes(hash.as_ref()[..8].try_into().expect("SHA-256 has more than 8 bytes"));
        Self { key, text: text.into() }
    }
}

impl Deref for Keyed {
    type Target = str;
    fn deref(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.text == other.text
    }
}
impl Eq for Keyed {}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

/// As of the text: it is borrowed as one.
impl Hash for Keyed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident($text:ty)) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type($text);

        impl $type {
            /// Checks `text` and takes it as a name.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.as_str().into()
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A node's name, unique in its cluster.
    NodeName(Keyed)
}
name! {
    /// An application's name; the same on every node that runs it.
    AppName(Arc<str>)
}
name! {
    /// What an operator holds: an application's name, or a node's.
    HoldName(Arc<str>)
}
name! {
    /// A handler's name, as the config gives it.
    HandlerName(Arc<str>)
}
name! {
    /// A secret's name, as `[secrets]` gives it. Never its value.
    SecretName(Arc<str>)
}
name! {
    /// A cluster's name. Datagrams of another cluster are refused.
    ClusterName(Arc<str>)
}

impl NodeName {
    /// Stands for the name where many are compared. Two names with the same one are to be found once in 10^19 pairs.
    pub(crate) fn key(&self) -> u64 {
        self.0.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_are_taken() {
        for text in ["a", "web1", "web-1.example_x", "7", &"x".repeat(63)] {
            assert_eq!(NodeName::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn bad_names_say_why() {
        assert_eq!(NodeName::new(""), Err(NameError::Empty));
        assert_eq!(NodeName::new(&"x".repeat(64)), Err(NameError::TooLong(64)));
        for (text, bad) in [("a b", ' '), ("-a", '-'), ("a.", '.'), ("wéb", 'é'), ("a/b", '/'), ("a\0", '\0')] {
            assert_eq!(NodeName::new(text), Err(NameError::Character(bad)), "{text:?}");
        }
    }

    #[test]
    fn a_name_from_the_wire_is_checked_too() {
        let bytes = postcard::to_stdvec("no name").unwrap();
        assert!(postcard::from_bytes::<NodeName>(&bytes).is_err());
        let bytes = postcard::to_stdvec("web1").unwrap();
        assert_eq!(postcard::from_bytes::<NodeName>(&bytes).unwrap().as_str(), "web1");
    }
}
