//! The real program from outside: exit codes, output, files. Verbs that ask a daemon ask an admin socket with a status
//! made by hand, so that what is printed can be compared whole.

#![allow(clippy::unwrap_used, reason = "clippy knows tests, not the functions that they share")]

mod check;
mod handler;
mod init;
mod keygen;
mod node;
mod service;
mod sim;
mod status;
mod usage;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_picored"));
    command.args(args).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

fn picored(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// What a run that must succeed says.
pub(crate) fn said(args: &[&str]) -> String {
    let output = picored(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a run that must fail with this code complains of; it prints nothing else.
pub(crate) fn complaint(code: i32, args: &[&str]) -> String {
    let output = picored(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// What is in a directory, in order.
pub(crate) fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}
