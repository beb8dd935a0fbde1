//! `picored completions`: what a shell needs to complete picored's command line, made from the command line itself.

use std::process::ExitCode;

use clap::ValueEnum;
use clap_complete::{generate, shells};

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored completions bash > /etc/bash_completion.d/picored\n  picored completions \
                        zsh > /usr/share/zsh/vendor-completions/_picored\n  picored completions fish > \
                        /etc/fish/completions/picored.fish"
)]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &Args, command: &mut clap::Command) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    match args.shell {
        Shell::Bash => generate(shells::Bash, command, "picored", &mut text),
        Shell::Zsh => generate(shells::Zsh, command, "picored", &mut text),
        Shell::Fish => generate(shells::Fish, command, "picored", &mut text),
    }
    super::print(&String::from_utf8(text)?)?;
    Ok(ExitCode::SUCCESS)
}
