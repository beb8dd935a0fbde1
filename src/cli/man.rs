//! `picored man`: the manual page, made from the command line's own help.

use std::process::ExitCode;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// Print the manual page
///
/// All verbs are on one page, each with its own section.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  picored man | man -l -\n  picored man > /usr/local/share/man/man1/picored.1")]
pub(super) struct Args {}

pub(super) fn run(command: clap::Command) -> anyhow::Result<ExitCode> {
    let mut page = Vec::new();
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let mut examples = Roff::new();
    add_examples(&command, &mut examples);
    examples.to_writer(&mut page)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        section(verb, &mut page)?;
        for inner in verb.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            section(inner, &mut page)?;
        }
    }
    man.render_version_section(&mut page)?;
    super::print(&String::from_utf8(page)?)?;
    Ok(ExitCode::SUCCESS)
}

/// One verb.
fn section(verb: &clap::Command, page: &mut Vec<u8>) -> anyhow::Result<()> {
    let name = verb.get_bin_name().unwrap_or(verb.get_name()).to_uppercase();
    let usage = verb.clone().render_usage().to_string();
    let about = verb.get_long_about().or(verb.get_about()).map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    roff.control("SH", [name.as_str()]);
    roff.text([roman(usage.trim())]);
    for paragraph in about.split("\n\n") {
        roff.control("PP", []);
        roff.text([roman(paragraph)]);
    }
    for argument in verb.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help") {
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        roff.control("TP", []);
        roff.text([roman(argument.to_string())]);
        roff.text([roman(help)]);
    }
    add_examples(verb, &mut roff);
    roff.to_writer(page)?;
    Ok(())
}

/// What stands below a verb's help, line by line as it is there.
fn add_examples(verb: &clap::Command, roff: &mut Roff) {
    if let Some(examples) = verb.get_after_help() {
        roff.control("PP", []);
        roff.control("nf", []);
        roff.text([roman(examples.to_string())]);
        roff.control("fi", []);
    }
}
