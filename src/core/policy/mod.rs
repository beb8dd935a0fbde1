//! What a handler may reach over HTTP: the one place that decides it, for every way a guest has to ask.
//!
//! The order is fixed, and no step may be left out: [`Target::canonical`] turns what the guest wrote into the only form
//! that is matched and sent; [`check`] looks for a grant; the caller resolves the host once; [`allowed_addresses`] drops
//! what that grant does not open; the caller dials exactly what is left, adds the secret that the grant names to that
//! very request, and follows no redirect. Nothing here resolves, dials or reads; the handler host calls it for each
//! request, the config for each grant.

mod address;
mod auth;
mod grant;
mod target;

use std::fmt;
use std::net::IpAddr;

pub use address::{Cidr, closed_range};
pub(crate) use auth::CANONICAL_PLACEHOLDER;
pub use auth::{Auth, AuthScheme, PLACEHOLDER, path_with_secret, same_header};
pub use grant::{Grant, GrantError, HostPattern, Method, Origin, PathPrefix};
pub(crate) use target::host_name_problem;
pub use target::{Host, MAX_URL_LEN, Scheme, Target};

/// Longest piece of a guest's text that a reason repeats, in characters.
const MAX_QUOTED: usize = 200;
/// So many dropped addresses are named in a reason.
const MAX_NAMED: usize = 4;

/// Why a request is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What kind of refusal it is; its spelling is the `kind` of the contract's `http.error`.
    pub kind: RefusalKind,
    /// One line for the operator. Bounded, and without control characters.
    pub reason: String,
}

impl Refusal {
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Invalid, reason: reason.into() }
    }
}

/// The kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// No grant allows it.
    Denied,
    /// The request is malformed, or could be read in more than one way.
    Invalid,
    /// The host has no address that may be dialled.
    Resolve,
}

impl RefusalKind {
    /// The kind's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Resolve => "resolve",
        }
    }
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The first of `grants` that allows `method` on `target`. The query is not looked at.
///
/// # Errors
/// `Invalid` if `method` is none (see [`Method`]), else `Denied` with the lines that would allow it.
pub fn check<'g>(grants: &'g [Grant], method: &str, target: &Target) -> Result<&'g Grant, Refusal> {
    let method: Method = method.parse().map_err(|error: GrantError| Refusal::invalid(error.to_string()))?;
    grants.iter().find(|grant| grant.allows(&method, target)).ok_or_else(|| {
        let (scheme, host, port) = (target.scheme(), target.host(), target.port());
        let path = quoted(target.path());
        let grant = Grant::for_request(method.clone(), target).in_one_line();
        Refusal {
            kind: RefusalKind::Denied,
            reason: format!("no grant allows {method} {scheme}://{host}:{port}{path}; to allow it add {grant}"),
        }
    })
}

/// Those of the `resolved` addresses of a host that may be dialled under `grant`, in their order. Addresses in
/// [closed ranges](closed_range) stay only if a range in the `allow_private` of that very grant holds them.
///
/// An address that carries another one inside (v4-mapped, NAT64, 6to4 and their kin) is in a closed range itself, so it
/// needs a range in its own IPv6 form; a grant for the inner address does not open it.
///
/// # Errors
/// `Resolve`, with what was dropped and why, if none is left.
pub fn allowed_addresses(grant: &Grant, resolved: &[IpAddr]) -> Result<Vec<IpAddr>, Refusal> {
    let (allowed, dropped): (Vec<IpAddr>, Vec<IpAddr>) = resolved.iter().partition(|address| grant.opens(**address));
    if !allowed.is_empty() {
        return Ok(allowed);
    }
    let refuse = |reason| Err(Refusal { kind: RefusalKind::Resolve, reason });
    let Some(first) = dropped.first() else {
        return refuse(format!("the host of the grant for {} has no address", grant.origin));
    };
    let mut named: Vec<String> = dropped
        .iter()
        .take(MAX_NAMED)
        .map(|address| format!("{address} ({})", closed_range(*address).unwrap_or("public")))
        .collect();
    if dropped.len() > MAX_NAMED {
        named.push(format!("{} more", dropped.len() - MAX_NAMED));
    }
    refuse(format!(
        "no address that may be dialled: {}; to allow the first add allow_private = [\"{}\"] to the grant for {}",
        named.join(", "),
        Cidr::single(*first),
        grant.origin,
    ))
}

/// Whether `name` is a request header that is the host's own to set, so that a guest's is not sent. Also true for what
/// is no header name at all.
pub fn forbidden_request_header(name: &str) -> bool {
    /// The message's framing, its route and the connection: a guest that sets them speaks to someone else than was
    /// checked, or smuggles a second request. So do those by which many servers take another method, path or host than
    /// the request line's, which is what the grant was held against.
    const OWN: [&str; 19] = [
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "max-forwards",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
    ];
    // To what speaks CGI behind a server, `_` and `-` are the same.
    let plain = name.to_ascii_lowercase().replace('_', "-");
    let fronts = ["proxy-", "x-forwarded-"];
    !is_header_name(name) || OWN.contains(&plain.as_str()) || fronts.iter().any(|front| plain.starts_with(front))
}

/// Whether `name` could be the name of a header.
pub(crate) fn is_header_name(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token)
}

/// `text` with its control characters replaced, and cut where it is too long for a reason.
pub(crate) fn quoted(text: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut out: String = text.chars().take(MAX_QUOTED).map(shown).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        out.push('…');
    }
    out
}
