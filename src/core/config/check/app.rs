//! `[[app]]`: what runs here, what is published of it, and how it is checked.

use std::net::IpAddr;
use std::time::Duration;

use url::Url;

use super::super::error::{Findings, Reported, all};
use super::super::raw::{Table, Text};
use super::super::{App, Check, MAX_PUBLISH_PER_APP};
use super::at_most;
use super::value::{count, duration, name, not_dialable};
use crate::policy::quoted;
use crate::record::{AppRecord, MAX_APPS_BYTES};

pub(super) const KEYS: [&str; 7] = ["name", "publish", "check", "interval", "timeout", "rise", "fall"];
const CHECK_KEYS: [&str; 3] = ["http", "expect_status", "expect_body"];

/// Longest text that a body is searched for, in bytes.
const MAX_EXPECT_BODY: usize = 4096;
/// So many ranges of statuses are taken.
const MAX_STATUS_RANGES: usize = 16;

/// All apps, and what holds for them together.
pub(super) fn apps(tables: &[Table<'_>], findings: &mut Findings) -> Result<Vec<App>, Reported> {
    let apps = all(tables.iter().map(|table| app(table, findings)))?;
    let mut total = 0;
    for (app, table) in apps.iter().zip(tables) {
        total += AppRecord::largest(app).encoded_len();
        if total > MAX_APPS_BYTES {
            let message = format!(
                "the apps up to this one take {total} bytes of a datagram, {MAX_APPS_BYTES} are possible; a name takes \
                 its length, an address 5 bytes (IPv4) or 17 (IPv6)"
            );
            return Err(findings.report(table.place_of("publish"), message, "leave some out, or use shorter names"));
        }
    }
    Ok(apps)
}

fn app(table: &Table<'_>, findings: &mut Findings) -> Result<App, Reported> {
    let seconds = Duration::from_secs;
    let millis = Duration::from_millis;
    let name = name(table, "name", "\"www\"", findings);
    let publish = publish(table, findings);
    let check = table.table("check", "`check`", Some(&CHECK_KEYS), findings).and_then(|found| match found {
        Some(table) => check(&table, findings),
        None => Err(table.missing("check", "{ http = \"http://127.0.0.1:8080/health\" }", findings)),
    });
    let interval = duration(table, "interval", seconds(5), millis(100)..=seconds(3600), findings);
    // It may be longer than the interval: checks of one app never overlap, so the next one is then late.
    let timeout = duration(table, "timeout", seconds(2), millis(50)..=seconds(60), findings);
    let rise = count(table, "rise", 2, 1..=100, findings);
    let fall = count(table, "fall", 3, 1..=100, findings);
    Ok(App {
        name: name?,
        publish: publish?,
        check: check?,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
    })
}

fn publish(table: &Table<'_>, findings: &mut Findings) -> Result<Vec<IpAddr>, Reported> {
    const EXAMPLE: &str = "[\"203.0.113.5\"]";
    let Some(texts) = table.texts("publish", findings)? else {
        return Err(table.missing("publish", EXAMPLE, findings));
    };
    if texts.is_empty() {
        let help = format!("name the public addresses of this machine: publish = {EXAMPLE}");
        return Err(findings.report(table.place_of("publish"), "`publish` has no address", help));
    }
    at_most(MAX_PUBLISH_PER_APP, "addresses in `publish`", texts.iter().map(Text::span), findings)?;
    let addresses = all(texts.iter().map(|text| address(text, findings)))?;
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let message = format!("`publish` has {address} twice");
            findings.report(texts[index].span(), message, "leave one of them out");
        }
    }
    Ok(addresses)
}

fn address(text: &Text<'_>, findings: &mut Findings) -> Result<IpAddr, Reported> {
    let written = *text.get_ref();
    let Ok(address) = written.parse::<IpAddr>() else {
        let help = "write one IP address for each, without port or brackets: \"203.0.113.5\", \"2001:db8::5\"";
        return Err(findings.report(text.span(), format!("`publish` has no address in \"{}\"", quoted(written)), help));
    };
    match not_dialable(address) {
        None => Ok(address),
        Some((what, help)) => Err(findings.report(text.span(), format!("`publish` has {what}: {address}"), help)),
    }
}

fn check(table: &Table<'_>, findings: &mut Findings) -> Result<Check, Reported> {
    let url =
        table.required("http", "\"http://127.0.0.1:8080/health\"", findings).and_then(|text| url(&text, findings));
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
    Ok(Check { url: url?, expect_status: expect_status?, expect_body: expect_body? })
}

fn url(text: &Text<'_>, findings: &mut Findings) -> Result<Url, Reported> {
    const FORM: &str = "write a URL such as \"http://127.0.0.1:8080/health\"";
    let written = *text.get_ref();
    let mut report =
        |what: &str, help: &str| Err(findings.report(text.span(), format!("`http` {what}: {}", quoted(written)), help));
    let Some((scheme, rest)) = written.split_once("://") else {
        return report("does not begin with http://", &format!("write \"http://{}\"", quoted(written)));
    };
    if scheme.eq_ignore_ascii_case("https") {
        return report("is https, which checks do not speak yet", "check the plain HTTP port on this machine");
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return report("does not begin with http://", FORM);
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
