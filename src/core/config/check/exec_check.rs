//! `check` of an `[[app]]` that is a command: `exec`, and beside it `user` and `env`.
//!
//! What is read here can be handed to the system as it is: an absolute path, no zero bytes, names that a variable of the
//! environment can have. Whether the program and the user are there is asked where the check is made. Called by
//! `app_check`.

use std::collections::BTreeMap;

use super::super::ExecCheck;
use super::super::error::{Findings, Reported, all};
use super::super::raw::{Table, Text, as_text};
use super::at_most;
use super::value::parse_path;
use crate::policy::quoted;

/// So many arguments are taken, the program among them.
const MAX_ARGUMENTS: usize = 64;
/// Longest argument, and longest value in the environment, in bytes.
const MAX_TEXT: usize = 4095;
/// So many variables of the environment are taken.
const MAX_VARIABLES: usize = 64;
/// Longest name of a variable, in bytes.
const MAX_VARIABLE_NAME: usize = 128;
/// Longest name of a user, in bytes, as Linux has it.
const MAX_USER: usize = 32;

pub(super) fn exec(table: &Table<'_>, findings: &mut Findings) -> Result<ExecCheck, Reported> {
    let command = command(table, findings);
    let user = match table.text("user", findings) {
        Ok(Some(text)) => user(&text, findings).map(Some),
        Ok(None) => Ok(None),
        Err(reported) => Err(reported),
    };
    let env = environment(table, findings);
    let (program, arguments) = command?;
    Ok(ExecCheck { program, arguments, user: user?, env: env? })
}

fn command(table: &Table<'_>, findings: &mut Findings) -> Result<(std::path::PathBuf, Vec<String>), Reported> {
    let texts = table.texts("exec", findings)?.unwrap_or_default();
    let [program, arguments @ ..] = &texts[..] else {
        let help =
            "name the program and what it is given: exec = [\"/usr/lib/nagios/plugins/check_load\", \"-c\", \"9\"]";
        return Err(findings.report(table.place_of("exec"), "`exec` has no program", help));
    };
    at_most(MAX_ARGUMENTS, "texts in `exec`", texts.iter().map(Text::span), findings)?;
    let path = parse_path("exec", program, program.get_ref(), MAX_TEXT, findings);
    let path = path.and_then(|path| match program.get_ref().starts_with('/') {
        true => Ok(path),
        false => {
            let message = format!("`exec` has a program without its whole path: \"{}\"", quoted(program.get_ref()));
            let help = "write the path from / on; there is no shell, so words are texts of their own: [\"/bin/sh\", \"-c\", ...]";
            Err(findings.report(program.span(), message, help))
        }
    });
    let arguments = all(arguments.iter().map(|text| {
        let problem = problem(text.get_ref());
        problem.map_or_else(
            || Ok((*text.get_ref()).to_owned()),
            |(what, help)| Err(findings.report(text.span(), format!("`exec` has an argument {what}"), help)),
        )
    }));
    Ok((path?, arguments?))
}

/// Why the system would not take `text`, and what to do.
fn problem(text: &str) -> Option<(String, &'static str)> {
    if text.contains('\0') {
        return Some(("with a zero byte".to_owned(), "leave it out: there it would end"));
    }
    (text.len() > MAX_TEXT).then(|| (format!("of {} bytes, the limit is {MAX_TEXT}", text.len()), "put it into a file"))
}

fn user(text: &Text<'_>, findings: &mut Findings) -> Result<String, Reported> {
    let name = *text.get_ref();
    let is_sound = |byte: u8| byte.is_ascii_graphic() && byte != b':' && byte != b'/';
    if (1..=MAX_USER).contains(&name.len()) && name.bytes().all(is_sound) {
        return Ok(name.to_owned());
    }
    let message = format!("`user` is no user's name: \"{}\"", quoted(name));
    Err(findings.report(text.span(), message, "write the name as it stands in /etc/passwd, such as \"nagios\""))
}

/// What is set. The values may be passwords: none is repeated.
fn environment(table: &Table<'_>, findings: &mut Findings) -> Result<BTreeMap<String, String>, Reported> {
    let Some(table) = table.table("env", "`env`", None, findings)? else { return Ok(BTreeMap::new()) };
    let entries: Vec<_> = table.entries().collect();
    at_most(MAX_VARIABLES, "variables in `env`", entries.iter().map(|(name, _)| name.span()), findings)?;
    let variables = all(entries.iter().map(|(name, value)| {
        let written = *name.get_ref();
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins_well = written.bytes().next().is_some_and(|first| !first.is_ascii_digit());
        if !begins_well || !written.bytes().all(is_sound) || written.len() > MAX_VARIABLE_NAME {
            let message = format!("`env` has a name that no variable has: \"{}\"", quoted(written));
            let help = format!("names are 1 to {MAX_VARIABLE_NAME} letters, digits and `_`, and begin with no digit");
            return Err(findings.report(name.span(), message, help));
        }
        let text = as_text(written, value, findings)?;
        match problem(text.get_ref()) {
            None => Ok((written.to_owned(), (*text.get_ref()).to_owned())),
            Some((what, help)) => {
                Err(findings.report(text.span(), format!("`env` has a value at `{written}` {what}"), help))
            }
        }
    }))?;
    Ok(variables.into_iter().collect())
}
