//! The command line: one file a verb, and here what they share: the way in, the exit code, the output.
//!
//! Standard output is for what was asked (or, with `run`, for the log), standard error for what went wrong. Nothing is
//! decided here: verbs read a config or ask a daemon, and call the part of the program that does the work.

mod ask;
mod beat;
mod check;
mod completions;
mod deliveries;
mod events;
mod forget;
mod handler;
mod hold;
mod init;
mod keygen;
mod leave;
mod maintenance;
mod man;
mod members;
mod redeliver;
mod reload;
mod run;
mod sim;
mod status;
mod why;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Name lookups may wait for a slow resolver on threads of their own, and starts of commands for a slow disk; so many at a
/// time. A handler takes two of them at most and a check one, so the daemon's own always find one. A thread that is not
/// needed is not there.
const BLOCKING_THREADS: usize = 16 + 2 * picored_core::config::MAX_HANDLERS + picored_core::config::MAX_APPS;

/// Keeps a site's DNS in line with the servers that are up.
#[derive(Parser)]
#[command(name = "picored", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Examples:
  picored demo                               watch it work, on this machine alone
  picored init                               write a config, asking four questions
  picored check --config picored.toml        see whether a config is good
  picored run --config picored.toml          run a node
  picored members                            ask the node on this machine who is there

Exit codes: 0 all is well, 1 it failed (standard error says why), 2 the command line is wrong.";

#[derive(Subcommand)]
enum Verb {
    Run(run::Args),
    #[command(about = "Show a cluster of three nodes lose and regain servers, on this machine alone")]
    Demo(crate::demo::DemoArgs),
    Init(init::Args),
    Check(check::Args),
    Keygen(keygen::Args),
    Members(members::Args),
    Reload(reload::Args),
    Status(status::Args),
    Events(events::Args),
    Why(why::Args),
    Deliveries(deliveries::Args),
    Redeliver(redeliver::Args),
    Forget(forget::Args),
    Leave(leave::Args),
    Maintenance(maintenance::Args),
    Hold(hold::HoldArgs),
    Release(hold::ReleaseArgs),
    Beat(beat::Args),
    Handler(handler::Args),
    Sim(sim::Args),
    Completions(completions::Args),
    Man(man::Args),
    /// Compile a component from standard input to standard output: the daemon's own child process
    #[command(hide = true)]
    CompileComponent,
}

/// Runs the program: reads the command line, does what it says, and tells the exit code.
pub fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Run(args) => run::run(args),
        verb => run_for_a_moment(verb),
    };
    done.unwrap_or_else(|error| {
        // If standard error is closed too, the exit code has to do.
        let _ = writeln!(io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// All but the daemon, which would have what they need on its stack for life if the compiler made one function of both.
#[inline(never)]
fn run_for_a_moment(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run(args) => run::run(args),
        Verb::Demo(args) => runtime().and_then(|runtime| runtime.block_on(crate::demo::run(args))),
        Verb::Check(args) => check::run(&args),
        Verb::Keygen(args) => keygen::run(&args),
        Verb::Members(args) => members::run(&args),
        Verb::Reload(args) => reload::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Events(args) => events::run(&args),
        Verb::Why(args) => why::run(&args),
        Verb::Deliveries(args) => deliveries::run(&args),
        Verb::Redeliver(args) => redeliver::run(&args),
        Verb::Leave(args) => leave::run(&args),
        Verb::Maintenance(args) => maintenance::run(&args),
        Verb::Hold(args) => hold::hold(&args),
        Verb::Release(args) => hold::release(&args),
        Verb::Beat(args) => beat::run(&args),
        Verb::Forget(args) => forget::run(&args),
        Verb::Handler(args) => handler::run(&args),
        Verb::Sim(args) => sim::run(&args),
        Verb::Init(args) => init::run(args),
        Verb::Completions(args) => completions::run(&args, &mut Cli::command()),
        Verb::Man(man::Args {}) => man::run(Cli::command()),
        Verb::CompileComponent => Ok(crate::handler::compile::child_main()),
    }
}

/// One thread: whatever runs here waits nearly all the time, and every thread more costs memory all the time.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build()?)
}

/// Writes to standard output. A reader that has gone, as `head` does, has had enough: no failure.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes the value as JSON, for programs and for people who look on.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// A table without lines, its columns two spaces apart. Cells hold foreign text, so none may break out of its own.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| crate::log::printable(&cell).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn table_is_aligned_and_keeps_foreign_text_in_its_cell() {
        let text = table(["NAME", "STATE"], [["web1".into(), "alive".into()], ["w\n2\x1b[2J".into(), "".into()]]);
        assert_eq!(text, "NAME           STATE\nweb1           alive\nw\\n2\\u{1b}[2J\n");
    }
}
