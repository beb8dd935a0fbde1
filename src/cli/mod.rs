//! The command line: one file a verb.

use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "compile-component") {
        return crate::handler::compile::child_main();
    }
    ExitCode::SUCCESS
}
