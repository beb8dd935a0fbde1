//! Grants: what the operator opens to one handler, and how a request is held against them.
//!
//! Each part of a grant has its own type, which can only hold what can match: a part that never could is an error when
//! it is read, with a remedy. The config reads grants; [`check`](super::check) matches them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::target::split_scheme;
use super::{Auth, CANONICAL_PLACEHOLDER, Cidr, Host, MAX_QUOTED, PLACEHOLDER, Scheme, Target, closed_range, quoted};

/// What is wrong with a part of a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {help}")]
pub struct GrantError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl GrantError {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// `[[handler.http]]`: requests that a handler may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub origin: Origin,
    /// With which methods; none: no request at all.
    pub methods: Vec<Method>,
    /// To which paths; none: no request at all.
    pub paths: Vec<PathPrefix>,
    /// Ranges of addresses that are open to this grant although they are [closed](closed_range) in general.
    pub allow_private: Vec<Cidr>,
    /// The secret that goes with these requests.
    pub auth: Option<Auth>,
}

impl Grant {
    /// The narrowest grant that allows `method` on `target`.
    pub fn for_request(method: Method, target: &Target) -> Self {
        Self {
            origin: Origin::of(target),
            methods: vec![method],
            paths: vec![PathPrefix::of(target)],
            allow_private: Self::private_ranges(target.host()),
            auth: None,
        }
    }

    /// What a grant for `host` needs in `allow_private`, as far as can be told before its name is resolved.
    pub fn private_ranges(host: &Host) -> Vec<Cidr> {
        match host {
            Host::Address(address) if closed_range(*address).is_some() => vec![Cidr::single(*address)],
            _ => Vec::new(),
        }
    }

    /// Its keys and values as the config has them, in order.
    fn entries(&self) -> Vec<String> {
        fn list(items: &[impl fmt::Display]) -> String {
            items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ")
        }
        let mut entries = vec![
            format!("allow = \"{}\"", self.origin),
            format!("methods = [{}]", list(&self.methods)),
            format!("paths = [{}]", list(&self.paths)),
        ];
        if !self.allow_private.is_empty() {
            entries.push(format!("allow_private = [{}]", list(&self.allow_private)));
        }
        entries
    }

    /// All of it in one line, for a reason: `[[handler.http]] allow = ..., methods = ...`.
    pub(super) fn in_one_line(&self) -> String {
        format!("[[handler.http]] {}", self.entries().join(", "))
    }

    /// Whether it allows `method` on `target`, the addresses aside.
    pub fn allows(&self, method: &Method, target: &Target) -> bool {
        self.origin.matches(target)
            && self.methods.contains(method)
            && self.paths.iter().any(|prefix| prefix.matches(target.path()))
    }

    /// Whether `address` may be dialled under it: it is in no [closed range](closed_range), or in one opened here.
    pub fn opens(&self, address: IpAddr) -> bool {
        closed_range(address).is_none() || self.allow_private.iter().any(|range| range.contains(address))
    }
}

/// As the config has it: `[[handler.http]]`, and a line for each key.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[[handler.http]]\n{}", self.entries().join("\n"))
    }
}

/// Scheme, host and port: `http://host[:port]`, where the host is exact or `*.suffix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The scheme.
    pub scheme: Scheme,
    /// The hosts.
    pub host: HostPattern,
    /// The port, 1 to 65535.
    pub port: u16,
}

/// The hosts that an origin stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This very host. An address stands for its literal only, never for a name that resolves to it.
    Exact(Host),
    /// `*.example.org`: every name below `example.org`, at any depth, but not that name itself.
    Below(String),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => write!(f, "{host}"),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

impl Origin {
    /// The origin of `target`, for that host alone.
    pub fn of(target: &Target) -> Self {
        Self { scheme: target.scheme(), host: HostPattern::Exact(target.host().clone()), port: target.port() }
    }

    /// Whether every target of `other` is of this origin.
    pub fn covers(&self, other: &Self) -> bool {
        let host = match (&self.host, &other.host) {
            (HostPattern::Below(own), HostPattern::Exact(Host::Name(name)) | HostPattern::Below(name)) => {
                let below = name.strip_suffix(own.as_str()).is_some_and(|front| front.ends_with('.'));
                below || other.host == self.host
            }
            (own, other) => own == other,
        };
        host && self.scheme == other.scheme && self.port == other.port
    }

    /// Whether `target` is of this origin.
    pub fn matches(&self, target: &Target) -> bool {
        let host = match (&self.host, target.host()) {
            (HostPattern::Exact(own), host) => own == host,
            (HostPattern::Below(own), Host::Name(name)) => {
                name.strip_suffix(own.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
            (HostPattern::Below(_), Host::Address(_)) => false,
        };
        host && self.scheme == target.scheme() && self.port == target.port()
    }
}

/// As the config has it: without the port where it is the scheme's default.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl FromStr for Origin {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        const FORM: &str = "write \"http://host\", \"https://host:port\" or \"https://*.example.org\"";
        let wrong = |message: String, help: &str| Err(GrantError::new(message, help));
        let Some((scheme, rest)) = split_scheme(text) else {
            return wrong(format!("`{}` does not begin with http:// or https://", quoted(text)), FORM);
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            let message = format!("`{}` has more than a scheme, a host and a port", quoted(text));
            return wrong(message, "paths go into paths = [\"/...\"]; queries are not matched");
        }
        let below = authority.strip_prefix("*.");
        let host = below.unwrap_or(authority);
        if host.contains('*') {
            let message = format!("`{}` has a `*` that is not the whole first label", quoted(text));
            return wrong(message, "a `*` stands only at the beginning and before a dot: \"https://*.example.org\"");
        }
        let target = match Target::canonical(&format!("{scheme}://{host}")) {
            Ok(target) => target,
            Err(refusal) => return wrong(refusal.reason, FORM),
        };
        let host = match (below, target.host().clone()) {
            (None, host) => HostPattern::Exact(host),
            (Some(_), Host::Name(name)) => HostPattern::Below(name),
            (Some(_), Host::Address(_)) => {
                let message = format!("`{}` can never match: an address has no names below it", quoted(text));
                return wrong(message, "write the address without `*.`");
            }
        };
        Ok(Self { scheme, host, port: target.port() })
    }
}

/// A request method: 1 to 32 upper-case letters, digits, `-` and `_`, beginning with a letter; never `CONNECT` or
/// `TRACE`, which would reach past the grant or give headers back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(String);

impl Method {
    /// The method as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Method {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let wrong = |why: &str, help: &str| {
            Err(GrantError::new(format!("the method `{}` is refused, {why}", quoted(text)), help))
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let letter_first = text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
        if text.len() > 32 || !letter_first || !text.bytes().all(fits) {
            return wrong("it is none", "list methods one by one, such as [\"GET\", \"PATCH\"]");
        }
        let upper = text.to_ascii_uppercase();
        if matches!(upper.as_str(), "CONNECT" | "TRACE") {
            return wrong("it is never sent", "use another method");
        }
        if upper != text {
            return wrong("methods are case-sensitive and upper case", &format!("write \"{upper}\""));
        }
        Ok(Self(upper))
    }
}

/// A path, and every path below it: `/a/b` stands for `/a/b`, `/a/b/` and `/a/b/c`, not for `/a/bc`. `/` stands for all.
/// It begins with `/`, has none at its end (`/` itself aside), and is in canonical form, as the paths that it meets are;
/// but the [placeholder](PLACEHOLDER) of a secret may be written plainly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// The narrowest prefix of up to `MAX_QUOTED` characters that holds `target`'s path.
    pub fn of(target: &Target) -> Self {
        let path = target.path().trim_end_matches('/');
        let above = |path: &str| path.rfind('/').unwrap_or(0);
        let path = if path.len() > MAX_QUOTED { &path[..above(&path[..=MAX_QUOTED])] } else { path };
        // A `*` at the end is read as an attempt at a pattern.
        let path = if path.ends_with('*') { &path[..above(path)] } else { path };
        Self(if path.is_empty() { "/".into() } else { path.to_owned() })
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path`, in canonical form, is the prefix or below it.
    pub fn matches(&self, path: &str) -> bool {
        let prefix = if self.0 == "/" { "" } else { &self.0 };
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// How often it has the [placeholder](PLACEHOLDER) of a secret.
    pub fn placeholders(&self) -> usize {
        self.0.matches(CANONICAL_PLACEHOLDER).count()
    }
}

/// As the config has it: with the placeholder written plainly.
impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.replace(CANONICAL_PLACEHOLDER, PLACEHOLDER))
    }
}

impl FromStr for PathPrefix {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let wrong = |why: &str, help: String| Err(GrantError::new(format!("the path `{}` {why}", quoted(text)), help));
        if !text.starts_with('/') {
            return wrong("does not begin with `/`", format!("write \"/{}\"", quoted(text)));
        }
        if text.contains(['?', '#']) {
            return wrong("has a query or fragment, which are not matched", "write the path alone".into());
        }
        let stem = text.trim_end_matches(['/', '*']);
        if text != "/" && stem != text {
            let stem = if stem.is_empty() { "/" } else { stem };
            let help = format!("write \"{}\": it covers that path and all below it", quoted(stem));
            return wrong("ends in `/` or `*`", help);
        }
        let canonical = text.replace(PLACEHOLDER, CANONICAL_PLACEHOLDER);
        match Target::canonical(&format!("http://host{text}")) {
            Ok(target) if target.path() == canonical => Ok(Self(canonical)),
            Ok(target) => wrong(
                "can never match, since it is not in canonical form",
                format!("write \"{}\"", quoted(target.path())),
            ),
            Err(_) => wrong(
                "can never match: requests with such a path are refused",
                "leave out `//`, backslashes, white space and encoded slashes, dots or control characters".into(),
            ),
        }
    }
}
