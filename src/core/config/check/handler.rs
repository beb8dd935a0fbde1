//! `[[handler]]`: whose code runs, on which events, with which settings, and what it may reach.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use super::super::error::{Findings, Reported, all};
use super::super::raw::{Table, Text, did_you_mean, wrong_type};
use super::super::{Handler, MAX_CONFIG_KEYS, MAX_CONFIG_VALUE_LEN, MAX_GRANTS, Pattern, RunOn, Source};
use super::at_most;
use super::secret::{Secrets, auth};
use super::value::{duration, name, parse_path};
use crate::event::EventKind;
use crate::name::AppName;
use crate::policy::{Cidr, Grant, GrantError, Host, HostPattern, Origin, closed_range, quoted};

pub(super) const KEYS: [&str; 10] =
    ["name", "source", "watch", "on", "apps", "run_on", "reconcile_every", "timeout", "config", "http"];
const GRANT_KEYS: [&str; 5] = ["allow", "methods", "paths", "allow_private", "auth"];

/// Longest key of `[handler.config]`, in bytes.
const MAX_CONFIG_KEY_LEN: usize = 128;
/// Longest path of a `file:` source, in bytes.
const MAX_SOURCE_PATH: usize = 4095;

/// One handler.
pub(super) fn handler(table: &Table<'_>, secrets: &Secrets<'_>, findings: &mut Findings) -> Result<Handler, Reported> {
    let seconds = Duration::from_secs;
    let name = name(table, "name", "\"dns\"", findings);
    let source =
        table.required("source", "\"builtin:dns-powerdns\"", findings).and_then(|text| source(&text, findings));
    let watch = watch(table, source.as_ref().ok(), findings);
    let on = on(table, findings);
    let apps = apps(table, findings);
    let run_on = run_on(table, on.as_deref().unwrap_or(&EventKind::ALL), findings);
    let reconcile_every = duration(table, "reconcile_every", seconds(300), seconds(10)..=seconds(86_400), findings);
    let limits = Duration::from_millis(100)..=seconds(600);
    let timeout = duration(table, "timeout", seconds(10), limits, findings);
    let config = config(table, findings);
    let http = table.tables("http", "[[handler.http]]", &GRANT_KEYS, findings).and_then(|tables| {
        at_most(MAX_GRANTS, "[[handler.http]] of one handler", tables.iter().map(Table::place), findings)?;
        all(tables.iter().map(|table| grant(table, secrets, findings)))
    });
    Ok(Handler {
        name: name?,
        source: source?,
        watch: watch?,
        on: on?,
        apps: apps?,
        run_on: run_on?,
        reconcile_every: reconcile_every?,
        timeout: timeout?,
        config: config?,
        http: http?,
    })
}

fn source(text: &Text<'_>, findings: &mut Findings) -> Result<Source, Reported> {
    const FORM: &str = "write \"builtin:NAME\" or \"file:/path/to/handler.wasm\"";
    let written = *text.get_ref();
    match written.split_once(':') {
        Some(("builtin", name)) if !name.is_empty() => Ok(Source::Builtin(name.to_owned())),
        Some(("builtin", _)) => Err(findings.report(text.span(), "`source` names no builtin handler", FORM)),
        Some(("file", path)) => parse_path("source", text, path, MAX_SOURCE_PATH, findings).map(Source::File),
        Some(("oci", _)) => {
            let help = "fetch the component and write \"file:/path/to/handler.wasm\"";
            Err(findings.report(text.span(), "`source` is in a registry, which is not supported yet", help))
        }
        _ => {
            let message = format!("`source` says neither builtin: nor file: in \"{}\"", quoted(written));
            Err(findings.report(text.span(), message, FORM))
        }
    }
}

/// Whether its file is watched.
fn watch(table: &Table<'_>, source: Option<&Source>, findings: &mut Findings) -> Result<bool, Reported> {
    match (table.truth("watch", findings)?, source) {
        (Some(true), Some(Source::Builtin(_))) => {
            let message = "`watch` is for handlers from a file: this one is inside the binary";
            Err(findings.report(table.place_of("watch"), message, "leave `watch` out, or write source = \"file:...\""))
        }
        (watch, _) => Ok(watch.unwrap_or(false)),
    }
}

/// The kinds that the patterns match, each once, in the order of [`EventKind::ALL`].
fn on(table: &Table<'_>, findings: &mut Findings) -> Result<Vec<EventKind>, Reported> {
    let Some(patterns) = table.texts("on", findings)? else { return Ok(EventKind::ALL.to_vec()) };
    if patterns.is_empty() {
        let help = "name some, or leave `on` out for all: on = [\"member-*\", \"app-*\", \"reconcile\"]";
        return Err(findings.report(table.place_of("on"), "`on` names no event, so the handler would never run", help));
    }
    let mut outcome = Ok(());
    for text in &patterns {
        if !EventKind::ALL.iter().any(|kind| kind.fits(text.get_ref())) {
            let message = format!("`on` has \"{}\", which matches no event", quoted(text.get_ref()));
            let help = match did_you_mean(text.get_ref(), &EventKind::ALL.map(EventKind::as_str)) {
                help if text.get_ref().contains('*') => format!("a `*` stands only at the end; {help}"),
                help => help,
            };
            outcome = Err(findings.report(text.span(), message, help));
        }
    }
    outcome?;
    let wanted = |kind: &EventKind| patterns.iter().any(|pattern| kind.fits(pattern.get_ref()));
    Ok(EventKind::ALL.into_iter().filter(wanted).collect())
}

/// The apps it may see, by name or by how their names begin. They need not be this node's own.
fn apps(table: &Table<'_>, findings: &mut Findings) -> Result<Vec<Pattern>, Reported> {
    let texts = table.texts("apps", findings)?.unwrap_or_default();
    let apps: Vec<Pattern> = all(texts.iter().map(|text| app_pattern(text, findings)))?;
    for (index, app) in apps.iter().enumerate() {
        if apps[..index].contains(app) {
            findings.report(texts[index].span(), format!("`apps` has `{app}` twice"), "leave one of them out");
        }
    }
    Ok(apps)
}

fn app_pattern(text: &Text<'_>, findings: &mut Findings) -> Result<Pattern, Reported> {
    let written = *text.get_ref();
    let wrong = match written.strip_suffix('*') {
        Some("") => None,
        // What stands before the `*` has to begin a name: with any letter after it, it is one.
        Some(front) => AppName::new(&format!("{front}x")).err(),
        None => AppName::new(written).err(),
    };
    match wrong {
        None => Ok(Pattern::new(written)),
        Some(error) => {
            let help =
                "write a name such as \"www\", or how names begin such as \"shop-*\"; a `*` stands only at the end";
            Err(findings.report(text.span(), format!("`apps` is no name: {error}"), help))
        }
    }
}

/// Which nodes run it.
fn run_on(table: &Table<'_>, on: &[EventKind], findings: &mut Findings) -> Result<RunOn, Reported> {
    let Some(text) = table.text("run_on", findings)? else { return Ok(RunOn::default()) };
    let Some(run_on) = RunOn::ALL.into_iter().find(|known| known.as_str() == *text.get_ref()) else {
        let message = format!("there is no `run_on` \"{}\"", quoted(text.get_ref()));
        return Err(findings.report(
            text.span(),
            message,
            did_you_mean(text.get_ref(), &RunOn::ALL.map(RunOn::as_str)),
        ));
    };
    let is_of_members = |kind| matches!(kind, EventKind::MemberUp | EventKind::MemberDown | EventKind::MemberLeft);
    if run_on == RunOn::Subject && on.iter().copied().all(is_of_members) {
        let message = "`run_on` \"subject\" with nothing but member events in `on`: no node sees its own coming or going, \
                       so the handler would never run";
        let help = "add \"app-*\" or \"reconcile\" to `on`, or write run_on = \"every\"";
        return Err(findings.report(text.span(), message, help));
    }
    Ok(run_on)
}

/// `[handler.config]`: single values, as text.
fn config(handler: &Table<'_>, findings: &mut Findings) -> Result<BTreeMap<String, String>, Reported> {
    let Some(table) = handler.table("config", "[handler.config]", None, findings)? else {
        return Ok(BTreeMap::new());
    };
    let count = table.entries().count();
    if count > MAX_CONFIG_KEYS {
        let message = format!("{} has {count} keys, the limit is {MAX_CONFIG_KEYS}", table.title());
        return Err(findings.report(table.place(), message, "leave some out"));
    }
    all(table.entries().map(|(key, value)| {
        let name = *key.get_ref();
        if name.is_empty() || name.len() > MAX_CONFIG_KEY_LEN {
            let message = format!("a key of {} has {} bytes", table.title(), name.len());
            return Err(findings.report(key.span(), message, format!("keys have 1 to {MAX_CONFIG_KEY_LEN} bytes")));
        }
        let text = match value.get_ref() {
            DeValue::String(text) => text.as_ref().to_owned(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(truth) => truth.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            DeValue::Array(_) | DeValue::Table(_) => {
                let help = "handlers read text: put several values into one, such as \"a,b,c\"";
                return Err(wrong_type(&quoted(name), value, "a single value", help, findings));
            }
        };
        if text.len() > MAX_CONFIG_VALUE_LEN {
            let message = format!("`{}` has {} bytes, the limit is {MAX_CONFIG_VALUE_LEN}", quoted(name), text.len());
            return Err(findings.report(value.span(), message, "shorten it"));
        }
        Ok((name.to_owned(), text))
    }))
    .map(|pairs| pairs.into_iter().collect())
}

fn grant(table: &Table<'_>, secrets: &Secrets<'_>, findings: &mut Findings) -> Result<Grant, Reported> {
    let origin: Result<Origin, Reported> =
        table.required("allow", "\"https://api.example.org\"", findings).and_then(|text| part(&text, findings));
    let methods = parts(table, "methods", &["GET"], findings);
    let paths = parts(table, "paths", &["/"], findings);
    let allow_private = parts(table, "allow_private", &[], findings);
    let (origin, paths) = (origin?, paths?);
    let auth = auth(table, &origin, &paths, secrets, findings);
    let grant = Grant { origin, methods: methods?, paths, allow_private: allow_private?, auth: auth? };
    if let HostPattern::Exact(Host::Address(address)) = grant.origin.host
        && let Some(range) = closed_range(address)
        && !grant.opens(address)
    {
        let message = format!("this grant can never match: {address} ({range}) is closed to handlers");
        let help = format!("open it for this grant: allow_private = [\"{}\"]", Cidr::single(address));
        return Err(findings.report(table.place_of("allow"), message, help));
    }
    Ok(grant)
}

/// A part of a grant.
fn part<T: FromStr<Err = GrantError>>(text: &Text<'_>, findings: &mut Findings) -> Result<T, Reported> {
    text.get_ref().parse().map_err(|error: GrantError| findings.report(text.span(), error.message, error.help))
}

/// The parts of a grant in the list at `key`, or those of `default`, which may be left out but not emptied.
fn parts<T: FromStr<Err = GrantError>>(
    table: &Table<'_>,
    key: &str,
    default: &[&str],
    findings: &mut Findings,
) -> Result<Vec<T>, Reported> {
    match table.texts(key, findings)? {
        Some(texts) if texts.is_empty() && !default.is_empty() => {
            let message = format!("this grant can never match: `{key}` is empty");
            let help = format!("name some, or leave `{key}` out for {default:?}");
            Err(findings.report(table.place_of(key), message, help))
        }
        Some(texts) => all(texts.iter().map(|text| part(text, findings))),
        None => Ok(default.iter().map(|text| text.parse().expect("a default is sound")).collect()),
    }
}
