//! What a node costs: memory with five handlers that have just run, run time and memory with one in JavaScript, and
//! processor time and traffic with nothing to do.
//!
//! `cargo bench --bench footprint -- memory`, `-- javascript` and `-- idle`; without a word, all. Each prints what it found beside what
//! is wanted, and fails above it. `--picored FILE` measures another binary than the one that Cargo has just built.

#[path = "../cluster.rs"]
mod cluster;
mod idle;
mod memory;
#[path = "../network.rs"]
mod network;
mod process;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Args {
    /// What to measure; all if left out
    #[arg(value_enum)]
    what: Option<What>,
    /// After so many runs of handlers memory is looked at
    #[arg(long, default_value_t = 100)]
    deliveries: usize,
    /// What is measured
    #[arg(long, default_value = env!("CARGO_BIN_EXE_picored"))]
    picored: PathBuf,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum What {
    Memory,
    Javascript,
    Idle,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let is_wanted = |what| args.what.is_none_or(|only| only == what);
    let mut is_good = true;
    if is_wanted(What::Memory) {
        is_good &= memory::measure(&args.picored, args.deliveries)?;
    }
    if is_wanted(What::Javascript) {
        is_good &= memory::measure_javascript(&args.picored, args.deliveries)?;
    }
    if is_wanted(What::Idle) {
        is_good &= idle::measure(&args.picored)?;
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
