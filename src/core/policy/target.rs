//! A request's URL in the one form that is matched and sent.
//!
//! A check on one reading of a URL is worth nothing if the far end reads it another way. So whatever has more than one
//! reading is refused (encoded slashes, odd IPv4 notations, user information), the rest is rewritten to one form, and
//! the guest's own text goes no further than this file.

use std::fmt;
use std::net::IpAddr;

use url::Url;

use super::{Refusal, quoted};

/// Longest URL that is looked at, in bytes.
pub const MAX_URL_LEN: usize = 8192;

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `http`, port 80 unless said.
    Http,
    /// `https`, port 443 unless said.
    Https,
}

impl Scheme {
    /// The scheme's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that is meant where none is written.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name: lower case, punycode where it was not ASCII, no dot at the end.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A URL in canonical form. Two are equal exactly if the same would be sent to the same place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    scheme: Scheme,
    host: Host,
    port: u16,
    /// Path, and the query if there is one.
    path_and_query: String,
    path_len: usize,
}

impl Target {
    /// Reads an absolute `http` or `https` URL and brings it into canonical form: host in lower case and punycode, port
    /// explicit, dot segments resolved, needless percent-encoding undone, no fragment.
    ///
    /// # Errors
    /// `Invalid` for what is no such URL, is longer than [`MAX_URL_LEN`], or could be read in more than one way.
    pub fn canonical(url: &str) -> Result<Self, Refusal> {
        let refuse = |why: &str| Err(Refusal::invalid(format!("the URL `{}` is refused: {why}", quoted(url))));
        if url.len() > MAX_URL_LEN {
            return refuse(&format!("it has {} bytes, the limit is {MAX_URL_LEN}", url.len()));
        }
        if url.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
            return refuse("it has white space, a control character or a backslash in it");
        }
        let Some((scheme, rest)) = split_scheme(url) else {
            return refuse("it does not begin with http:// or https://");
        };
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (authority, path_and_query) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() {
            return refuse("it has no host");
        }
        if authority.contains('@') {
            return refuse("it has user information (`@`) before its host");
        }
        if authority.contains('%') {
            return refuse("its host is percent-encoded or has a zone id");
        }
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let mut whole = format!("{scheme}://{authority}");
        if let Err(why) = push_path(&mut whole, path) {
            return refuse(why);
        }
        if let Some(query) = query {
            whole.push('?');
            whole.push_str(query);
        }
        let parsed = match Url::parse(&whole) {
            Ok(parsed) => parsed,
            Err(error) => return refuse(&error.to_string()),
        };
        let host = match host(&parsed, authority) {
            Ok(host) => host,
            Err(why) => return refuse(&why),
        };
        let port = parsed.port_or_known_default().unwrap_or_else(|| scheme.default_port());
        if port == 0 {
            return refuse("its port is 0");
        }
        let mut path_and_query = parsed.path().to_owned();
        let path_len = path_and_query.len();
        if let Some(query) = parsed.query() {
            path_and_query.push('?');
            path_and_query.push_str(query);
        }
        Ok(Self { scheme, host, port, path_and_query, path_len })
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host: what is resolved, and the name for SNI.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port to dial, 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path: what grants match. Begins with `/`.
    pub fn path(&self) -> &str {
        &self.path_and_query[..self.path_len]
    }

    /// The path, and `?` and the query if there is one: the request line's target.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The value of the `Host` header: the host, and the port where it is not the scheme's default.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The whole URL, with its port.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}{}", self.scheme, self.host, self.port, self.path_and_query)
    }
}

/// The scheme, and what stands after `://`.
pub(super) fn split_scheme(url: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    [Scheme::Http, Scheme::Https]
        .into_iter()
        .find(|known| known.as_str().eq_ignore_ascii_case(scheme))
        .map(|s| (s, rest))
}

/// Appends `path` to `url`: needless percent-encoding undone, what remains in upper case. Dot segments are left to the
/// URL parser, which sees them all as plain dots.
fn push_path(url: &mut String, path: &str) -> Result<(), &'static str> {
    const BROKEN: &str = "its path has a `%` without two hexadecimal digits";
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        url.push_str(&rest[..at]);
        decoded.extend_from_slice(&rest.as_bytes()[..at]);
        let digits = rest.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(BROKEN)?;
        match byte {
            b'/' | b'\\' => return Err("its path has an encoded slash or backslash"),
            b'%' => return Err("its path has an encoded `%`, as in a double encoding"),
            b'-' | b'.' | b'_' | b'~' => url.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
        decoded.push(byte);
        rest = &rest[at + 3..];
    }
    url.push_str(rest);
    decoded.extend_from_slice(rest.as_bytes());

    let Ok(decoded) = std::str::from_utf8(&decoded) else { return Err("its path is not UTF-8 once decoded") };
    if decoded.contains(char::is_control) {
        return Err("its path has an encoded control character");
    }
    // `//` is one slash to some servers and two to others, and `..;` is `..` to those that cut parameters off.
    if path.contains("//") {
        return Err("its path has an empty segment (`//`)");
    }
    if decoded.split('/').filter_map(|segment| segment.split_once(';')).any(|(name, _)| matches!(name, "." | "..")) {
        return Err("its path has a dot segment with a parameter (`..;`)");
    }
    Ok(())
}

/// The host that the URL parser found, if it is what `authority` plainly says.
fn host(parsed: &Url, authority: &str) -> Result<Host, String> {
    match parsed.host() {
        Some(url::Host::Ipv4(address)) => {
            let written = authority.rsplit_once(':').map_or(authority, |(host, _port)| host);
            if written == address.to_string() {
                Ok(Host::Address(address.into()))
            } else {
                Err(format!("its host is an unusual form of an IPv4 address; write {address}"))
            }
        }
        Some(url::Host::Ipv6(address)) => Ok(Host::Address(address.into())),
        Some(url::Host::Domain(name)) => match host_name_problem(name) {
            None => Ok(Host::Name(name.to_owned())),
            Some(problem) => Err(problem.into()),
        },
        None => Err("it has no host".into()),
    }
}

/// Why `name` is no host's name, if it is none. Letters, digits, `-` and `_` in labels of up to 63, 253 in all.
pub(crate) fn host_name_problem(name: &str) -> Option<&'static str> {
    if name.ends_with('.') {
        return Some("its host ends in a dot; leave that out");
    }
    if name.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Some("its host has a label that is empty or longer than 63 characters, or more than 253 in all");
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !name.bytes().all(fits) {
        return Some("its host has a character that no host's name has");
    }
    None
}
