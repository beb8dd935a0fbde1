//! The secret that the host adds to a granted request, and where it goes: the schemes, the placeholder for paths, and
//! the text that is put into a header.
//!
//! A grant names a secret and never holds one; values come in as arguments and go out as what is sent. The config reads
//! [`Auth`], the handler host applies it to the very request that the grant allowed.

use std::fmt;

use super::{Refusal, Target};
use crate::name::SecretName;

/// What a guest, and the `paths` of a grant, write where the secret goes.
pub const PLACEHOLDER: &str = "{secret}";
/// The placeholder as it stands in a canonical path.
pub(crate) const CANONICAL_PLACEHOLDER: &str = "%7Bsecret%7D";

/// `auth` of a grant: which secret goes with each request that the grant allows, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// How it is sent.
    pub scheme: AuthScheme,
    /// Which one, of `[secrets]`.
    pub secret: SecretName,
}

/// How a secret goes with a request. A header of that name that the guest set is never sent beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthScheme {
    /// `Authorization: Bearer SECRET`
    Bearer,
    /// `Authorization: Basic ...`, of this user, with the secret as password.
    Basic {
        /// Has no colon and no control character.
        user: String,
    },
    /// The secret is the whole value of this header.
    Header {
        /// The header, in lower case.
        header: String,
    },
    /// The secret, percent-encoded, stands in the path where the guest writes [`PLACEHOLDER`].
    Path,
    /// This header is `sha256=` and the HMAC-SHA256 of the request's body under the secret, in lower-case hexadecimal.
    HmacSha256Header {
        /// The header, in lower case.
        header: String,
    },
}

impl AuthScheme {
    /// The schemes' names, as the config has them.
    pub const NAMES: [&'static str; 5] = ["bearer", "basic", "header", "path", "hmac-sha256-header"];

    /// The scheme's one spelling.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Basic { .. } => "basic",
            Self::Header { .. } => "header",
            Self::Path => "path",
            Self::HmacSha256Header { .. } => "hmac-sha256-header",
        }
    }

    /// The header that it sets, in lower case.
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Bearer | Self::Basic { .. } => Some("authorization"),
            Self::Header { header } | Self::HmacSha256Header { header } => Some(header),
            Self::Path => None,
        }
    }

    /// Whether who reads the request has the secret, or could compute it.
    pub const fn discloses(&self) -> bool {
        !matches!(self, Self::HmacSha256Header { .. })
    }
}

impl fmt::Display for AuthScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether two header names are the same to some server: letter case counts nowhere, and what speaks CGI behind a server
/// takes `_` and `-` for the same.
pub fn same_header(a: &str, b: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    a.bytes().map(plain).eq(b.bytes().map(plain))
}

/// The path and query of `target` with `secret` in the placeholder's place: percent-encoded but for unreserved
/// characters, so that it stays inside of its segment. The query is not looked at.
///
/// # Errors
/// `Invalid` if the path does not have the placeholder exactly once.
pub fn path_with_secret(target: &Target, secret: &[u8]) -> Result<String, Refusal> {
    let count = target.path().matches(CANONICAL_PLACEHOLDER).count();
    if count != 1 {
        return Err(Refusal::invalid(format!(
            "the path has {PLACEHOLDER} {count} times, its grant puts one secret in"
        )));
    }
    let mut encoded = String::with_capacity(3 * secret.len());
    for byte in secret {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(*byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    // The first one is in the path, which the query follows.
    Ok(target.path_and_query().replacen(CANONICAL_PLACEHOLDER, &encoded, 1))
}
