//! `check` of an `[[app]]`: an HTTP request and what its answer has to be, a TCP connection, or a time within which the
//! application speaks for itself. `exec_check` reads those that are a command.
//!
//! What is read here cannot make a request that is not the one written down: no header that frames the message or ends
//! it, no user information, no host with anything behind it. Called by `app`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use toml::de::DeValue;
use url::{Host, Url};

use super::super::error::{Findings, Reported, all};
use super::super::raw::{Table, Text, as_text, did_you_mean};
use super::super::{Check, CheckMethod, CheckTls, HttpCheck, TcpCheck, Trust};
use super::value::{is_resolvable, not_dialable, path, required_duration};
use super::{at_most, exec_check};
use crate::policy::{is_header_name, quoted};

pub(super) const KEYS: [&str; 12] = [
    "http",
    "tcp",
    "exec",
    "ttl",
    "method",
    "headers",
    "expect_status",
    "expect_body",
    "ca_file",
    "tls_skip_verify",
    "user",
    "env",
];
/// One of them says what kind of check it is.
const KINDS: [&str; 4] = ["http", "tcp", "exec", "ttl"];
/// The other keys, and the kind that has them.
const KEYS_OF: [(&str, &[&str]); 2] = [
    ("http", &["method", "headers", "expect_status", "expect_body", "ca_file", "tls_skip_verify"]),
    ("exec", &["user", "env"]),
];

/// Within these bounds an application has to speak for itself.
const TTL_SHORTEST: Duration = Duration::from_secs(1);
const TTL_LONGEST: Duration = Duration::from_secs(7 * 86_400);
const TTL_EXAMPLE: Duration = Duration::from_secs(30);
/// Longest text that a body is searched for, in bytes.
const MAX_EXPECT_BODY: usize = 4096;
/// So many ranges of statuses are taken.
const MAX_STATUS_RANGES: usize = 16;
/// So many headers are taken.
const MAX_HEADERS: usize = 16;
/// Longest name of a header, in bytes.
const MAX_HEADER_NAME: usize = 64;
/// Longest value of a header, in bytes.
const MAX_HEADER_VALUE: usize = 4096;
/// Headers that are the check's own: they frame the message or speak of this one connection.
const OWN_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Reads and checks the table at `check`.
pub(super) fn check(table: &Table<'_>, findings: &mut Findings) -> Result<Check, Reported> {
    let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| table.get(kind).is_some()).collect();
    let kind = match *kinds {
        [kind] => kind,
        [first, second, ..] => {
            let message = format!("`check` has both `{first}` and `{second}`");
            let help = "keep one of them; an [[app]] has one check";
            return Err(findings.report(table.place_of(second), message, help));
        }
        [] => {
            let help = "add http = \"http://127.0.0.1:8080/health\", tcp = \"127.0.0.1:5432\", exec = [\"/usr/bin/...\"] \
                        or ttl = \"30s\"";
            return Err(findings.report(table.place(), "`check` has none of `http`, `tcp`, `exec` and `ttl`", help));
        }
    };
    for (owner, keys) in KEYS_OF.into_iter().filter(|(owner, _)| *owner != kind) {
        for key in keys.iter().filter(|key| table.get(key).is_some()) {
            let message = format!("`{key}` is for {owner} checks, this one is {kind}");
            findings.report(table.place_of(key), message, "leave it out, or choose the other kind of check");
        }
    }
    match kind {
        "http" => http(table, findings).map(Check::Http),
        "tcp" => target(&table.required("tcp", "\"127.0.0.1:5432\"", findings)?, findings).map(Check::Tcp),
        "exec" => exec_check::exec(table, findings).map(Check::Exec),
        _ => required_duration(table, "ttl", TTL_EXAMPLE, TTL_SHORTEST..=TTL_LONGEST, findings).map(Check::Ttl),
    }
}

/// `host:port`, `203.0.113.5:5432`, `[2001:db8::5]:5432`.
fn target(text: &Text<'_>, findings: &mut Findings) -> Result<TcpCheck, Reported> {
    const FORMS: &str = "write \"127.0.0.1:5432\", \"[::1]:5432\" or \"localhost:5432\"";
    let written = *text.get_ref();
    let mut report = |what: &str, help: &str| {
        Err(findings.report(text.span(), format!("`tcp` {what}: \"{}\"", quoted(written)), help))
    };
    if written.contains("://") {
        return report("is a URL", "write host and port alone, or check with http = \"http://...\"");
    }
    if let Ok(address) = written.parse::<IpAddr>() {
        let help = format!("add the port: \"{}\"", SocketAddr::new(address, 5432));
        return report("has no port", &help);
    }
    let Some((host, port)) = written.rsplit_once(':') else {
        return report("has no port", FORMS);
    };
    // More digits than `u16::from_str` minds, or a sign, are a slip.
    let port = match port.parse::<u16>() {
        Ok(number) if number > 0 && number.to_string() == port => number,
        _ => return report("has no port from 1 to 65535", FORMS),
    };
    let address = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(bare) => bare.parse().ok().filter(IpAddr::is_ipv6),
        None => host.parse().ok().filter(IpAddr::is_ipv4),
    };
    match address {
        Some(address) => match not_dialable(address) {
            None => Ok(TcpCheck { host: address.to_string(), port }),
            Some((what, help)) => report(&format!("has {what}"), &help),
        },
        None if is_resolvable(host) => Ok(TcpCheck { host: host.to_ascii_lowercase(), port }),
        None => report("has no name or address", FORMS),
    }
}

fn http(table: &Table<'_>, findings: &mut Findings) -> Result<HttpCheck, Reported> {
    let url = table.required("http", "\"http://127.0.0.1:8080/health\"", findings);
    let url = url.and_then(|text| url_of(&text, findings));
    let method = match table.text("method", findings) {
        Ok(Some(text)) => method(&text, findings),
        Ok(None) => Ok(CheckMethod::default()),
        Err(reported) => Err(reported),
    };
    let headers = headers(table, findings);
    let expect_status = match table.text("expect_status", findings) {
        Ok(Some(text)) => statuses(&text, findings),
        Ok(None) => Ok(vec![(200, 399)]),
        Err(reported) => Err(reported),
    };
    let expect_body = match table.text("expect_body", findings) {
        Ok(Some(text)) => body(&text, findings).map(Some),
        Ok(None) => Ok(None),
        Err(reported) => Err(reported),
    };
    if let (Ok(CheckMethod::Head), Ok(Some(_))) = (&method, &expect_body) {
        let message = "`expect_body` waits for a body, which no answer to HEAD has";
        findings.report(table.place_of("expect_body"), message, "use method = \"GET\", or leave expect_body out");
    }
    let trust = trust(table, url.as_ref().ok(), findings);
    let (url, headers, trust) = (url?, headers?, trust?);
    let tls = trust.map(|trust| CheckTls { server_name: server_name(&url, &headers), trust });
    Ok(HttpCheck { url, method: method?, headers, expect_status: expect_status?, expect_body: expect_body?, tls })
}

fn url_of(text: &Text<'_>, findings: &mut Findings) -> Result<Url, Reported> {
    const FORM: &str = "write a URL such as \"http://127.0.0.1:8080/health\"";
    let written = *text.get_ref();
    let mut report =
        |what: &str, help: &str| Err(findings.report(text.span(), format!("`http` {what}: {}", quoted(written)), help));
    let Some((scheme, rest)) = written.split_once("://") else {
        return report("does not begin with http:// or https://", &format!("write \"http://{}\"", quoted(written)));
    };
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return report("does not begin with http:// or https://", FORM);
    }
    // The parser would skip over these, and take what follows for the host.
    if rest.is_empty() || rest.starts_with(['/', '\\', '?', '#']) {
        return report("has no host", FORM);
    }
    let url = match Url::parse(written) {
        Ok(url) => url,
        Err(error) => return report(&format!("is no URL ({error})"), FORM),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return report("has user information, which is not sent", "leave out what stands before `@`");
    }
    if url.port() == Some(0) {
        return report("has port 0", "write the port that the application listens on");
    }
    if url.fragment().is_some() {
        return report("has a fragment, which is never sent", "leave out `#` and what follows");
    }
    Ok(url)
}

fn method(text: &Text<'_>, findings: &mut Findings) -> Result<CheckMethod, Reported> {
    let written = *text.get_ref();
    CheckMethod::ALL.into_iter().find(|method| method.as_str() == written).ok_or_else(|| {
        let upper = written.to_ascii_uppercase();
        let known = CheckMethod::ALL.map(CheckMethod::as_str);
        let help = match known.iter().find(|known| **known == upper) {
            Some(known) => format!("methods are upper case: \"{known}\""),
            None => did_you_mean(written, &known),
        };
        findings.report(text.span(), format!("no check has the `method` \"{}\"", quoted(written)), help)
    })
}

fn headers(table: &Table<'_>, findings: &mut Findings) -> Result<Vec<(String, String)>, Reported> {
    let Some(table) = table.table("headers", "`headers`", None, findings)? else { return Ok(Vec::new()) };
    let entries: Vec<_> = table.entries().collect();
    at_most(MAX_HEADERS, "`headers`", entries.iter().map(|(name, _)| name.span()), findings)?;
    let headers = all(entries.iter().map(|(name, value)| header(name, value, findings)))?;
    for (index, (name, _)) in headers.iter().enumerate() {
        if headers[..index].iter().any(|(other, _)| other == name) {
            let message = format!("`headers` has `{name}` twice, which differ in case alone");
            findings.report(entries[index].0.span(), message, "leave one of them out");
        }
    }
    Ok(headers)
}

/// One header, its name in lower case.
fn header(
    name: &Text<'_>,
    value: &toml::Spanned<DeValue<'_>>,
    findings: &mut Findings,
) -> Result<(String, String), Reported> {
    let written = *name.get_ref();
    if written.len() > MAX_HEADER_NAME || !is_header_name(written) {
        let message = format!("`headers` has a name that no header has: \"{}\"", quoted(written));
        let help = format!("names are 1 to {MAX_HEADER_NAME} letters, digits and `-`, such as \"X-Check\"");
        return Err(findings.report(name.span(), message, help));
    }
    let lower = written.to_ascii_lowercase();
    // What speaks CGI behind a server takes `_` for `-`.
    if OWN_HEADERS.contains(&lower.replace('_', "-").as_str()) {
        let message = format!("`headers` has `{lower}`, which is about the connection and is the check's own to set");
        return Err(findings.report(name.span(), message, "leave it out"));
    }
    let text = as_text(written, value, findings)?;
    let content = *text.get_ref();
    let sent = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    if content.len() > MAX_HEADER_VALUE || content.trim() != content || !content.bytes().all(sent) {
        // The value may be a password: it is not repeated.
        let message = format!("`headers` has a value at `{lower}` that cannot be sent");
        let help = format!(
            "values are up to {MAX_HEADER_VALUE} ASCII characters without line breaks, and without space around them"
        );
        return Err(findings.report(name.span(), message, help));
    }
    if lower == "host" && host_of(content).is_none() {
        let message = format!("the header `host` is no name or address: \"{}\"", quoted(content));
        let help = "write the name that visitors use, with its port if it is not the usual one: \"www.example.org\"";
        return Err(findings.report(text.span(), message, help));
    }
    Ok((lower, content.to_owned()))
}

/// The host of `host[:port]`, if that is all there is.
fn host_of(authority: &str) -> Option<Host> {
    let bare = |byte: u8| byte.is_ascii_graphic() && !b"/\\?#@%".contains(&byte);
    let url = authority.bytes().all(bare).then(|| Url::parse(&format!("http://{authority}/")).ok()).flatten()?;
    if url.port() == Some(0) || authority.ends_with(':') {
        return None;
    }
    url.host().map(|host| host.to_owned())
}

/// Whose certificate is expected of a server that is asked with these headers.
fn server_name(url: &Url, headers: &[(String, String)]) -> Host {
    let header = headers.iter().find(|(name, _)| name == "host").and_then(|(_, value)| host_of(value));
    header.unwrap_or_else(|| url.host().expect("a URL of http has a host").to_owned())
}

/// Who may vouch for the server; nobody needs to over plain HTTP. Without a sound URL only the values are read.
fn trust(table: &Table<'_>, url: Option<&Url>, findings: &mut Findings) -> Result<Option<Trust>, Reported> {
    let ca_file = path(table, "ca_file", findings);
    let skip = table.truth("tls_skip_verify", findings);
    let (ca_file, skip) = (ca_file?, skip?);
    if url.is_some_and(|url| url.scheme() == "http") {
        let mut outcome = Ok(None);
        for key in ["ca_file", "tls_skip_verify"].into_iter().filter(|key| table.get(key).is_some()) {
            let help = "leave it out, or write http = \"https://...\"";
            let message = format!("`{key}` is for https, and `http` is not");
            outcome = Err(findings.report(table.place_of(key), message, help));
        }
        return outcome;
    }
    match (ca_file, skip == Some(true)) {
        (Some(_), true) => {
            let message = "`tls_skip_verify` takes any certificate, so `ca_file` would say nothing";
            Err(findings.report(table.place_of("tls_skip_verify"), message, "keep ca_file, which is the safe one"))
        }
        (Some(path), false) => Ok(Some(Trust::CaFile(path))),
        (None, true) => Ok(Some(Trust::Anyone)),
        (None, false) => Ok(Some(Trust::Platform)),
    }
}

/// `200-399`, `204`, or several of these with commas between.
fn statuses(text: &Text<'_>, findings: &mut Findings) -> Result<Vec<(u16, u16)>, Reported> {
    let status = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| digits && (200..=599).contains(status))
    };
    let range = |text: &str| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let (from, to) = (status(from.trim())?, status(to.trim())?);
        (from <= to).then_some((from, to))
    };
    let ranges: Option<Vec<(u16, u16)>> = text.get_ref().split(',').map(range).collect();
    ranges.filter(|ranges| ranges.len() <= MAX_STATUS_RANGES).ok_or_else(|| {
        let message = format!("`expect_status` has no statuses in \"{}\"", quoted(text.get_ref()));
        let help =
            "write statuses from 200 to 599 and ranges of them, 16 at most: \"200-399\", \"204\", \"200-299,404\"";
        findings.report(text.span(), message, help)
    })
}

fn body(text: &Text<'_>, findings: &mut Findings) -> Result<String, Reported> {
    let length = text.get_ref().len();
    if length == 0 {
        let help = "leave it out if any body is good";
        return Err(findings.report(text.span(), "`expect_body` is empty, which every body contains", help));
    }
    if length > MAX_EXPECT_BODY {
        let message = format!("`expect_body` has {length} bytes, the limit is {MAX_EXPECT_BODY}");
        return Err(findings.report(text.span(), message, "choose a shorter piece of the body"));
    }
    Ok((*text.get_ref()).to_owned())
}
