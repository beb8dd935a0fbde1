//! `[secrets]` and the `auth` of a grant: where each secret is read from, and which request it goes with.
//!
//! Values are never here: a secret is a name and a place. A reference to a secret that there is not, and a way to send
//! one that anybody on the way could read, are mistakes.

use std::collections::BTreeMap;

use super::super::error::{Findings, Reported, all};
use super::super::raw::{Table, Text, did_you_mean};
use super::super::{MAX_SECRETS, SecretSource};
use super::at_most;
use super::value::{self, parse_name};
use crate::name::SecretName;
use crate::policy::{
    Auth, AuthScheme, Host, HostPattern, Origin, PLACEHOLDER, PathPrefix, Scheme, forbidden_request_header, quoted,
};

/// The keys of one secret, of which it has one.
const SOURCE_KEYS: [&str; 3] = ["file", "env", "credential"];
const AUTH_KEYS: [&str; 5] = ["scheme", "header", "user", "secret", "allow_plaintext"];

/// Longest name of a user for `basic`, in bytes.
const MAX_USER_LEN: usize = 255;
/// Longest name of an environment variable or a credential, in bytes.
const MAX_SOURCE_LEN: usize = 255;

/// The secrets of `[secrets]`, and their names, which are known even where a place is wrong.
pub(super) struct Secrets<'t> {
    pub(super) sources: Result<BTreeMap<SecretName, SecretSource>, Reported>,
    known: Vec<&'t str>,
}

/// All secrets.
pub(super) fn secrets<'t>(root: &Table<'t>, findings: &mut Findings) -> Secrets<'t> {
    let table = match root.table("secrets", "[secrets]", None, findings) {
        Ok(Some(table)) => table,
        Ok(None) => return Secrets { sources: Ok(BTreeMap::new()), known: Vec::new() },
        Err(reported) => return Secrets { sources: Err(reported), known: Vec::new() },
    };
    let keys: Vec<Text<'t>> = table.entries().map(|(key, _)| key).collect();
    let known = keys.iter().map(|key| *key.get_ref()).collect();
    let limit = at_most(MAX_SECRETS, "secrets", keys.iter().map(Text::span), findings);
    let sources = limit.and_then(|()| all(keys.iter().map(|key| source(&table, key, findings))));
    Secrets { sources: sources.map(|sources| sources.into_iter().collect()), known }
}

fn source(
    secrets: &Table<'_>,
    key: &Text<'_>,
    findings: &mut Findings,
) -> Result<(SecretName, SecretSource), Reported> {
    const FORM: &str = "write NAME = { file = \"/etc/picored/NAME\" }, { env = \"NAME\" } or { credential = \"NAME\" }";
    let name = parse_name("secrets", key, findings);
    let name_text = *key.get_ref();
    if secrets.get(name_text).is_some_and(|value| value.get_ref().as_str().is_some()) {
        let message = format!("`{}` is text: a secret does not stand in the config", quoted(name_text));
        return Err(findings.report(secrets.place_of(name_text), message, FORM));
    }
    let table = secrets.table(name_text, "a secret", Some(&SOURCE_KEYS), findings)?.expect("its key was just read");
    let file = value::path(&table, "file", findings)?;
    let env = table.text("env", findings)?;
    let credential = table.text("credential", findings)?;
    let source = match (file, env, credential) {
        (Some(path), None, None) => SecretSource::File(path),
        (None, Some(text), None) => {
            let fits = |c: char| !c.is_control() && c != '=';
            SecretSource::Env(plain("env", &text, fits, "an environment variable has no `=` in its name", findings)?)
        }
        (None, None, Some(text)) => {
            let help = "write the name that LoadCredential= gives it in the unit, without a path";
            let fits = |c: char| !c.is_control() && c != '/';
            if matches!(*text.get_ref(), "." | "..") {
                return Err(findings.report(text.span(), "`credential` names a directory", help));
            }
            SecretSource::Credential(plain("credential", &text, fits, help, findings)?)
        }
        // An unknown key has been reported, and may be the one that was meant.
        (None, None, None) if !table.all_known() => return Err(findings.reported_before()),
        (found, ..) => {
            let many = found.is_some() || table.entries().count() > 1;
            let what = if many { "more than one place" } else { "no place" };
            let message = format!("the secret `{}` has {what} to be read from", quoted(name_text));
            return Err(findings.report(table.place(), message, FORM));
        }
    };
    Ok((name?, source))
}

/// The name of an environment variable or of a credential.
fn plain(
    key: &str,
    text: &Text<'_>,
    fits: impl Fn(char) -> bool,
    help: &str,
    findings: &mut Findings,
) -> Result<String, Reported> {
    let written = *text.get_ref();
    if written.is_empty() || written.len() > MAX_SOURCE_LEN || !written.chars().all(fits) {
        let message = format!("`{key}` is no name: \"{}\"", quoted(written));
        return Err(findings.report(text.span(), message, help));
    }
    Ok(written.to_owned())
}

/// The `auth` of the grant in `grant`, for requests to `origin` on `paths`.
pub(super) fn auth(
    grant: &Table<'_>,
    origin: &Origin,
    paths: &[PathPrefix],
    secrets: &Secrets<'_>,
    findings: &mut Findings,
) -> Result<Option<Auth>, Reported> {
    let Some(table) = grant.table("auth", "`auth`", Some(&AUTH_KEYS), findings)? else {
        placeholders(grant, paths, false, findings)?;
        return Ok(None);
    };
    let secret = secret(&table, secrets, findings);
    let scheme = scheme(&table, findings)?;
    placeholders(grant, paths, matches!(scheme, AuthScheme::Path), findings)?;
    let allow_plaintext = table.truth("allow_plaintext", findings)?.unwrap_or(false);
    if let HostPattern::Below(name) = &origin.host {
        let message = format!("this `auth` would give the secret to every host below {name}");
        return Err(findings.report(table.place(), message, "grant the hosts one by one, by their whole names"));
    }
    if origin.scheme == Scheme::Http && scheme.discloses() && !is_loopback(&origin.host) && !allow_plaintext {
        let message = format!("the secret would go to {origin} in the clear: who is on the way can read it");
        let help = "use https://; where the way is safe by other means, such as a VPN, add allow_plaintext = true";
        return Err(findings.report(table.place(), message, help));
    }
    Ok(Some(Auth { scheme, secret: secret? }))
}

fn secret(table: &Table<'_>, secrets: &Secrets<'_>, findings: &mut Findings) -> Result<SecretName, Reported> {
    let text = table.required("secret", "\"NAME\", a name of [secrets]", findings)?;
    let name = parse_name("secret", &text, findings)?;
    if !secrets.known.contains(text.get_ref()) {
        let help = if secrets.known.is_empty() {
            format!("say where it is read from: [secrets] {name} = {{ file = \"/etc/picored/{name}\" }}")
        } else {
            did_you_mean(text.get_ref(), &secrets.known)
        };
        return Err(findings.report(text.span(), format!("there is no secret `{name}`"), help));
    }
    Ok(name)
}

fn scheme(table: &Table<'_>, findings: &mut Findings) -> Result<AuthScheme, Reported> {
    let header = table.text("header", findings)?;
    let user = table.text("user", findings)?;
    let scheme = table.text("scheme", findings)?;
    let name = match (&scheme, &header) {
        (Some(text), _) => *text.get_ref(),
        (None, Some(_)) => "header",
        (None, None) if table.all_known() => return Err(table.missing("scheme", "\"bearer\"", findings)),
        (None, None) => return Err(findings.reported_before()),
    };
    let Some(name) = AuthScheme::NAMES.into_iter().find(|known| *known == name) else {
        let message = format!("there is no `scheme` \"{}\"", quoted(name));
        return Err(findings.report(table.place_of("scheme"), message, did_you_mean(name, &AuthScheme::NAMES)));
    };
    let mut only = |key: &str, text: &Option<Text<'_>>, fits: bool| match text {
        Some(text) if !fits => {
            Err(findings.report(text.span(), format!("`{key}` does not go with the scheme {name}"), "leave it out"))
        }
        _ => Ok(()),
    };
    let user_fits = only("user", &user, name == "basic");
    only("header", &header, matches!(name, "header" | "hmac-sha256-header"))?;
    user_fits?;
    match name {
        "bearer" => Ok(AuthScheme::Bearer),
        "path" => Ok(AuthScheme::Path),
        "basic" => {
            let text = user.ok_or_else(|| table.missing("user", "\"NAME\"", findings))?;
            let user = (*text.get_ref()).to_owned();
            if user.contains(|c: char| c == ':' || c.is_control()) || user.len() > MAX_USER_LEN {
                let message = format!("`user` is no name for {name}: \"{}\"", quoted(&user));
                let help = format!("it has at most {MAX_USER_LEN} bytes, no colon and no control character");
                return Err(findings.report(text.span(), message, help));
            }
            Ok(AuthScheme::Basic { user })
        }
        _ => {
            let signed = name == "hmac-sha256-header";
            let example = if signed { "\"X-Hub-Signature-256\"" } else { "\"X-API-Key\"" };
            let text = header.ok_or_else(|| table.missing("header", example, findings))?;
            let header = text.get_ref().to_ascii_lowercase();
            if forbidden_request_header(&header) {
                let message = format!("`header` is none that a secret could go in: \"{}\"", quoted(&header));
                let help = format!("write the name of a header of its own, such as {example}");
                return Err(findings.report(text.span(), message, help));
            }
            Ok(if signed { AuthScheme::HmacSha256Header { header } } else { AuthScheme::Header { header } })
        }
    }
}

/// The paths of a grant have the placeholder once if a secret goes there, else not at all.
fn placeholders(
    grant: &Table<'_>,
    paths: &[PathPrefix],
    wanted: bool,
    findings: &mut Findings,
) -> Result<(), Reported> {
    let Some(wrong) = paths.iter().find(|path| path.placeholders() != usize::from(wanted)) else { return Ok(()) };
    let place = grant.place_of(if grant.get("paths").is_some() { "paths" } else { "auth" });
    if wanted {
        let message = format!("the path `{wrong}` does not have {PLACEHOLDER} once, where the secret of `auth` goes");
        let help = format!("write it where the guest does: paths = [\"/bot{PLACEHOLDER}/sendMessage\"]");
        Err(findings.report(place, message, help))
    } else {
        let message = format!("the path `{wrong}` has {PLACEHOLDER}, but no secret goes there");
        let help = "add auth = { scheme = \"path\", secret = \"NAME\" }";
        Err(findings.report(place, message, help))
    }
}

/// Whether requests to it stay on this machine.
fn is_loopback(host: &HostPattern) -> bool {
    match host {
        HostPattern::Exact(Host::Address(address)) => address.is_loopback(),
        HostPattern::Exact(Host::Name(name)) => name == "localhost" || name.ends_with(".localhost"),
        HostPattern::Below(_) => false,
    }
}
