//! `[[app]]`: what runs here, what is published of it, and how often it is checked. `app_check` reads the check itself.

use std::net::IpAddr;
use std::time::Duration;

use super::super::error::{Findings, Reported, all};
use super::super::raw::{Table, Text};
use super::super::{App, Check, MAX_HANDLERS, MAX_PUBLISH_PER_APP};
use super::value::{count, duration, name, not_dialable};
use super::{app_check, at_most};
use crate::policy::quoted;
use crate::record::{AppRecord, room_for_apps};

pub(super) const KEYS: [&str; 7] = ["name", "publish", "check", "interval", "timeout", "rise", "fall"];

/// All apps, and what holds for them together on a node with so many handlers.
pub(super) fn apps(tables: &[Table<'_>], handlers: usize, findings: &mut Findings) -> Result<Vec<App>, Reported> {
    let apps = all(tables.iter().map(|table| app(table, findings)))?;
    let room = room_for_apps(handlers.min(MAX_HANDLERS));
    let mut total = 0;
    for (app, table) in apps.iter().zip(tables) {
        total += AppRecord::largest(app).encoded_len();
        if total > room {
            let message = format!(
                "the apps up to this one take {total} bytes of a datagram, {room} are possible; a name takes \
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
    let check = table.table("check", "`check`", Some(&app_check::KEYS), findings).and_then(|found| match found {
        Some(table) => app_check::check(&table, findings),
        None => Err(table.missing("check", "{ http = \"http://127.0.0.1:8080/health\" }", findings)),
    });
    let interval = duration(table, "interval", seconds(5), millis(100)..=seconds(3600), findings);
    // It may be longer than the interval: checks of one app never overlap, so the next one is then late.
    let timeout = duration(table, "timeout", seconds(2), millis(50)..=seconds(60), findings);
    let speaks_itself = matches!(check, Ok(Check::Ttl(_)));
    // Where the application speaks for itself its word counts, and the next one may be far off.
    let rise = count(table, "rise", if speaks_itself { 1 } else { 2 }, 1..=100, findings);
    let fall = count(table, "fall", 3, 1..=100, findings);
    for key in ["interval", "timeout", "fall"].into_iter().filter(|key| speaks_itself && table.get(key).is_some()) {
        let help = "leave it out: an application that is late, or says that it fails, is down at once";
        findings.report(table.place_of(key), format!("`{key}` is for checks that are made, not for ttl"), help);
    }
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
