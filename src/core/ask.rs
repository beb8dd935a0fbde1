//! What a handler asks for, held against what its section of the config grants.
//!
//! A handler's `describe` is its own word: it grants nothing, and what it leaves out is refused all the same. This only
//! tells an operator in advance what will be refused, and the lines that would change it. `handler inspect` shows all
//! asks, the daemon those that are missing.

use crate::config::Handler;
use crate::event::EventKind;
use crate::policy::{Grant, HostPattern, Method, Origin, PathPrefix, Target, quoted};

/// How an ask stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The handler has it.
    Granted,
    /// It does not, and a call that needs it is refused. The lines of the handler's section that would grant it.
    Missing(String),
    /// A value of `[handler.config]`, or a secret of a grant, that is not there. Whether the handler can do without is for its reason to say.
    Unset(String),
    /// Nothing that can be granted: not known to this version, or not in the notation of its kind. Why.
    Unknown(String),
}

impl Standing {
    /// The standing in a word: `granted`, `missing`, `unset` or `unknown`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Missing(_) => "missing",
            Self::Unset(_) => "unset",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What to add to the config, or why that does not help; empty for what is granted.
    pub fn remedy(&self) -> &str {
        match self {
            Self::Granted => "",
            Self::Missing(lines) | Self::Unset(lines) | Self::Unknown(lines) => lines,
        }
    }
}

/// The functions of the contract's `cluster`, all of which every handler may call.
const CLUSTER: [&str; 5] = ["node", "members", "apps", "endpoints", "revision"];

/// How an ask of this kind and value stands with `handler`. Templates (`{key}`) are filled from its config.
pub fn standing(kind: &str, value: &str, handler: &Handler) -> Standing {
    match kind {
        "event" => event(value, handler),
        "http" => http(value, handler).unwrap_or_else(|standing| standing),
        "config" if handler.config.contains_key(value) => Standing::Granted,
        "config" => Standing::Unset(config_lines(value)),
        "cluster" if CLUSTER.contains(&value) => Standing::Granted,
        "cluster" => Standing::Unknown(format!("the cluster has no function {}", quoted(value))),
        "keyvalue" => Standing::Granted,
        "secret" => secret(value, handler),
        _ => Standing::Unknown("this version of picored has nothing of that kind to grant".into()),
    }
}

fn config_lines(key: &str) -> String {
    format!("[handler.config]\n{} = \"...\"", quoted(key))
}

/// The scheme by which a secret goes with the handler's requests. The handler never sees it, so it may do without.
fn secret(scheme: &str, handler: &Handler) -> Standing {
    if handler.http.iter().filter_map(|grant| grant.auth.as_ref()).any(|auth| auth.scheme.as_str() == scheme) {
        return Standing::Granted;
    }
    Standing::Unset(format!(
        "# in its [[handler.http]]\nauth = {{ scheme = \"{}\", secret = \"...\" }}",
        quoted(scheme)
    ))
}

fn event(pattern: &str, handler: &Handler) -> Standing {
    let mut wanted = EventKind::ALL.into_iter().filter(|kind| kind.fits(pattern)).peekable();
    if wanted.peek().is_none() {
        return Standing::Unknown("this version of picored has no such event".into());
    }
    if wanted.all(|kind| handler.on.contains(&kind)) {
        return Standing::Granted;
    }
    let told = handler.on.iter().filter(|kind| !kind.fits(pattern)).map(|kind| kind.as_str());
    let list: Vec<String> = told.chain([pattern]).map(|kind| format!("\"{kind}\"")).collect();
    Standing::Missing(format!("on = [{}]", list.join(", ")))
}

/// `METHOD URL`, the URL being a prefix. A segment of its path for which the config has no value stands for any one.
fn http(value: &str, handler: &Handler) -> Result<Standing, Standing> {
    let unknown = |why: String| Standing::Unknown(why);
    let form = || unknown("this is not METHOD URL".into());
    let (method, template) = value.split_once(' ').ok_or_else(form)?;
    let method: Method = method.parse().map_err(|error| unknown(format!("{error}")))?;
    let url = filled(template.trim(), handler);
    let (scheme, rest) = url.split_once("://").ok_or_else(|| match unfilled(&url) {
        Some(key) => Standing::Missing(config_lines(key)),
        None => form(),
    })?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if let Some(key) = unfilled(authority) {
        return Err(Standing::Missing(config_lines(key)));
    }
    let origin: Origin = format!("{scheme}://{authority}").parse().map_err(|error| unknown(format!("{error}")))?;
    // Of the target the path alone is looked at.
    let target = Target::canonical(&format!("http://host{path}")).map_err(|refusal| unknown(refusal.reason))?;
    let grants = handler.http.iter().filter(|grant| grant.origin.covers(&origin) && grant.methods.contains(&method));
    if grants.flat_map(|grant| &grant.paths).any(|prefix| covers(prefix, target.path())) {
        return Ok(Standing::Granted);
    }
    let allow_private = match &origin.host {
        HostPattern::Exact(host) => Grant::private_ranges(host),
        HostPattern::Below(_) => Vec::new(),
    };
    let grant =
        Grant { origin, methods: vec![method], paths: vec![PathPrefix::of(&target)], allow_private, auth: None };
    let lines = grant.to_string().replace(OPEN, "{").replace(CLOSE, "}");
    Ok(Standing::Missing(match unfilled(path) {
        Some(key) => format!("{lines}\n# with the value that is meant in place of {{{key}}}"),
        None => lines,
    }))
}

// Braces as they are in a canonical path.
const OPEN: &str = "%7B";
const CLOSE: &str = "%7D";

/// Whether every request below `path` is below `prefix`. Segments of `path` that are templates stand for any one.
fn covers(prefix: &PathPrefix, path: &str) -> bool {
    let mut path = path.split('/');
    let prefix = if prefix.as_str() == "/" { "" } else { prefix.as_str() };
    prefix.split('/').all(|own| path.next().is_some_and(|segment| segment.contains(OPEN) || segment == own))
}

/// The template with the values that the config has for its keys. One that begins a URL may end in a slash.
fn filled(template: &str, handler: &Handler) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((key, before, after)) = next_key(rest) {
        text += before;
        match handler.config.get(key) {
            Some(value) if text.is_empty() => text += value.trim_end_matches('/'),
            Some(value) => text += value,
            None => text += &format!("{{{key}}}"),
        }
        rest = after;
    }
    text + rest
}

/// The first key of a template, and what stands before and after it.
fn next_key(template: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = template.split_once('{')?;
    let (key, after) = rest.split_once('}')?;
    Some((key, before, after))
}

fn unfilled(text: &str) -> Option<&str> {
    next_key(text).map(|(key, ..)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(handler: &str) -> Handler {
        let text = format!(
            "[node]\nname = \"a\"\nbind = \"127.0.0.1:7946\"\n[cluster]\nname = \"c\"\n[[handler]]\nname = \"dns\"\n\
             source = \"builtin:dns-powerdns\"\n{handler}\n[secrets]\ntoken = {{ env = \"TOKEN\" }}\n"
        );
        let config = Config::parse(&text).unwrap_or_else(|errors| panic!("{text}\n{errors}"));
        config.handlers.into_iter().next().unwrap()
    }

    const HANDLER: &str = "on = [\"app-*\", \"reconcile\"]
[handler.config]
api = \"http://127.0.0.1:8081/\"
zone = \"example.org.\"
odd = \"a//b\"
[[handler.http]]
allow = \"http://127.0.0.1:8081\"
methods = [\"GET\"]
paths = [\"/api/v1/servers/localhost/zones/example.org.\", \"/list\"]
allow_private = [\"127.0.0.1/32\"]
[[handler.http]]
allow = \"https://*.example.org\"
methods = [\"POST\"]
[[handler.http]]
allow = \"https://api.example.net\"
auth = { scheme = \"bearer\", secret = \"token\" }";

    #[test]
    fn asks_are_held_against_the_section() {
        let handler = config(HANDLER);
        for (kind, value, expected) in [
            ("event", "app-*", "granted"),
            ("event", "app-up", "granted"),
            ("event", "member-*", "missing"),
            ("event", "*", "missing"),
            ("event", "user", "unknown"),
            ("config", "zone", "granted"),
            ("config", "ttl", "unset"),
            ("cluster", "endpoints", "granted"),
            ("cluster", "shutdown", "unknown"),
            ("keyvalue", "default", "granted"),
            ("secret", "bearer", "granted"),
            ("secret", "basic", "unset"),
            ("root", "", "unknown"),
            ("http", "GET {api}/api/v1/servers/localhost/zones/{zone}", "granted"),
            ("http", "GET {api}/api/v1/servers/{server}/zones/{zone}", "granted"),
            ("http", "GET {api}/api/v1/servers/{server}/zones/{zone}/export?x=1", "granted"),
            ("http", "GET {api}/list/{unset}", "granted"),
            ("http", "GET {api}/{unset}", "granted"),
            ("http", "PATCH {api}/api/v1/servers/{server}/zones/{zone}", "missing"),
            ("http", "GET {api}/api/v1/servers/{server}/zones", "missing"),
            ("http", "GET {api}/", "missing"),
            ("http", "GET {other}/x", "missing"),
            ("http", "GET http://{host}:80/x", "missing"),
            ("http", "POST https://api.example.org/x", "granted"),
            ("http", "POST https://*.example.org/", "granted"),
            ("http", "POST https://*.api.example.org/", "granted"),
            ("http", "POST https://*.org/", "missing"),
            ("http", "POST https://example.org/", "missing"),
            ("http", "GET {api}/{odd}", "unknown"),
            ("http", "GET http://*/", "unknown"),
            ("http", "get http://a.example/", "unknown"),
            ("http", "GET", "unknown"),
            ("http", "GET a.example", "unknown"),
        ] {
            let standing = standing(kind, value, &handler);
            assert_eq!(standing.as_str(), expected, "{kind} {value}: {standing:?}");
            assert_eq!(standing.remedy().is_empty(), standing == Standing::Granted);
        }
    }

    #[test]
    fn the_lines_that_are_advised_grant_what_was_asked() {
        let handler = config(HANDLER);
        for value in
            ["PATCH {api}/api/v1/servers/a/zones/{zone}", "GET {api}/", "POST https://*.org/", "GET http://[::1]/a/"]
        {
            let Standing::Missing(lines) = standing("http", value, &handler) else { panic!("{value} is missing") };
            assert_eq!(standing("http", value, &config(&format!("{HANDLER}\n{lines}"))), Standing::Granted, "{lines}");
        }
        let Standing::Missing(line) = standing("event", "member-*", &handler) else { panic!("it is missing") };
        assert_eq!(line, "on = [\"app-up\", \"app-down\", \"reconcile\", \"member-*\"]");
        assert_eq!(standing("event", "member-*", &config(&line)), Standing::Granted);

        let template = standing("http", "PATCH {api}/zones/{server}", &handler);
        assert_eq!(
            template.remedy(),
            "[[handler.http]]\nallow = \"http://127.0.0.1:8081\"\nmethods = [\"PATCH\"]\npaths = [\"/zones/{server}\"]\n\
             allow_private = [\"127.0.0.1/32\"]\n# with the value that is meant in place of {server}"
        );
        assert_eq!(standing("http", "GET {base}/x", &handler).remedy(), "[handler.config]\nbase = \"...\"");
    }
}
